"""Sensitivity to class and noise of maps whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from evalib.sanity import check_maps, class_sensitivity, clearly_better, max_sensitivity
from evalib.scores import Score
from tests.blobs import Blobs, blob_images


class Brightness(nn.Module):
    """Logits are the means of the three channels: the brightest channel is predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean(dim=(2, 3))


def channel_of_class(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return images[torch.arange(len(images)), classes]


def all_channels(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return images.sum(dim=1).relu()


@pytest.fixture
def images() -> Tensor:
    """Four images whose channels grow in brightness, the last one's fall."""
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    images += torch.tensor([0.0, 1.0, 2.0])[:, None, None]
    images[3] = images[3].flip(0)
    return images


def test_the_least_likely_other_class_is_compared(images) -> None:
    seen: list[list[int]] = []

    def spy(model: nn.Module, part: Tensor, classes: Tensor) -> Tensor:
        seen.append(classes.tolist())
        return channel_of_class(model, part, classes)

    class_sensitivity(Brightness(), images, torch.tensor([2, 1, 0, 0]), spy)
    assert seen == [[2, 1, 0, 0], [0, 0, 1, 2]]  # the third: channel 0 is the least likely, but the class itself


def test_maps_of_the_class_and_maps_blind_to_it(images) -> None:
    classes = torch.tensor([2, 2, 2, 0])
    blind = class_sensitivity(Brightness(), images, classes, all_channels)
    assert blind.values.tolist() == pytest.approx([1] * 4)
    assert blind.better == "low"
    images[0, 0] = -images[0, 2]
    seeing = class_sensitivity(Brightness(), images, classes, channel_of_class, batch_size=3)
    assert seeing.values[0] == pytest.approx(-1)
    assert seeing.values[1:].abs().max() < 0.5


def test_flat_maps_of_either_class(images) -> None:
    images[0, 2] = 5.0  # flat map of the class
    images[:2, 0] = 0.0  # flat maps of the least likely one, of which the first tells nothing
    score = class_sensitivity(Brightness(), images, torch.tensor([2, 2, 2, 0]), channel_of_class)
    assert score.values.isnan().tolist() == [True, False, False, False]
    assert score.values[1] == 0
    assert score.flat == 1
    assert score.note == "flat maps of the least likely class: 1"


def test_max_sensitivity_of_a_linear_map(images) -> None:
    """The map is the image: its change is the noise, whose norm is known but for chance."""
    classes = torch.tensor([2, 2, 2, 0])
    norms = channel_of_class(nn.Identity(), images, classes).flatten(1).norm(dim=1).double()
    scores = [
        max_sensitivity(Brightness(), images, classes, channel_of_class, radius=0.1, draws=draws) for draws in (1, 30)
    ]
    once, often = (score.values * norms / (0.1 * math.sqrt(64)) for score in scores)
    assert (often < 1).all()
    assert (often >= once).all()
    assert (often > once).any()
    assert ((once - math.sqrt(1 / 3)).abs() < 0.15).all()  # root mean square of uniform noise
    assert scores[0].better == "low"


def test_max_sensitivity_is_relative_and_seeded(images) -> None:
    classes = torch.tensor([2, 2, 2, 0])

    def sensitivity(factor: float, seed: int) -> list[float]:
        def make_maps(model: nn.Module, part: Tensor, classes: Tensor) -> Tensor:
            return factor * channel_of_class(model, part, classes)

        return max_sensitivity(Brightness(), images, classes, make_maps, seed=seed, draws=2).values.tolist()

    first = sensitivity(1, 1)
    torch.rand(5)
    assert first == sensitivity(1, 1) != sensitivity(1, 2)
    assert first == pytest.approx(sensitivity(10, 1))


def test_max_sensitivity_of_maps_that_stay_or_are_flat(images) -> None:
    def make_maps(model: nn.Module, part: Tensor, classes: Tensor) -> Tensor:
        cams = torch.arange(64.0).view(1, 8, 8).repeat(len(part), 1, 1)
        cams[0] = 0.7
        return cams

    score = max_sensitivity(Brightness(), images, torch.tensor([2, 2, 2, 0]), make_maps)
    assert score.values.isnan().tolist() == [True, False, False, False]
    assert score.flat == 1
    assert score.values[1:].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="`radius` and `draws`"):
        max_sensitivity(Brightness(), images, torch.tensor([2, 2, 2, 0]), make_maps, radius=0)


def test_one_class_has_no_other(images) -> None:
    model = nn.Sequential(Brightness(), nn.Linear(3, 1))
    with pytest.raises(ValueError, match="at least two classes"):
        class_sensitivity(model, images, torch.zeros(4, dtype=torch.int64), all_channels)


# --- four checks ----------------------------------------------------------------------------------------------


IMAGES = blob_images()[:2]


def unit(cams: Tensor) -> Tensor:
    low, high = cams.amin(dim=(1, 2), keepdim=True), cams.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (cams - low) / (high - low), 0.0)


def exact_maps(model: Blobs, images: Tensor, classes: Tensor) -> Tensor:
    return unit(torch.einsum("nchw,nc->nhw", model.features(images), model.linear.weight[classes]).relu())


def failed(make_maps, model: nn.Module | None = None) -> set[str]:
    verdict = check_maps(model or Blobs.trained(), *IMAGES, make_maps)
    lines = str(verdict).splitlines()[2:]
    assert [line.startswith("ok") for line in lines] == [check.passed for check in verdict.checks]
    assert [line.startswith("FAIL") for line in lines] == [not check.passed for check in verdict.checks]
    assert verdict.passed == all(check.passed for check in verdict.checks)
    assert all((check.reason in str(verdict)) != check.passed for check in verdict.checks)
    return {check.question for check in verdict.checks if not check.passed}


def test_exact_maps_pass() -> None:
    assert failed(exact_maps) == set()


def test_maps_of_other_weights_fail() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        other = Blobs()
    # any filter finds a blob on noise, so that they may well be better than noise
    assert "weights matter" in failed(lambda model, images, classes: exact_maps(other, images, classes))


def test_constant_maps_fail_everything() -> None:
    found = failed(lambda model, images, classes: torch.full((len(images), 16, 16), 0.5))
    assert found == {"not flat", "class matters", "weights matter", "better than noise"}
    verdict = check_maps(Blobs.trained(), *IMAGES, lambda model, images, classes: torch.zeros(len(images), 16, 16))
    assert [check.found for check in verdict.checks][1:] == ["no figure: all maps are flat"] * 3


def test_maps_blind_to_the_class_fail() -> None:
    assert "class matters" in failed(lambda model, images, classes: unit(model.features(images).sum(dim=1).relu()))


def test_noise_and_inverted_maps_do_not_beat_noise() -> None:
    def noise(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        return torch.rand(len(images), 16, 16)

    assert failed(noise) == {"better than noise"}
    assert "better than noise" in failed(lambda *given: 1 - exact_maps(*given))


def test_both_kinds_of_noise_are_to_be_beaten(monkeypatch) -> None:
    for answers, passed in (([True, True], True), ([True, False], False), ([False, True], False)):
        left = list(answers)
        monkeypatch.setattr("evalib.sanity.clearly_better", lambda own, other, left=left: left.pop(0))
        assert check_maps(Blobs.trained(), *IMAGES, exact_maps).checks[3].passed is passed


def test_a_few_flat_maps_are_borne() -> None:
    def make_maps(flat: int):
        def made(model: Blobs, images: Tensor, classes: Tensor) -> Tensor:
            cams = exact_maps(model, images, classes)
            cams[:flat] = 0
            return cams

        return made

    images, classes = (torch.cat([part, part]) for part in IMAGES)
    found = [check_maps(Blobs.trained(), images, classes, make_maps(flat)).checks[0] for flat in (1, 2)]
    assert [check.passed for check in found] == [True, False]
    assert found[1].found == "2 of 24 maps are flat"


def test_checks_leave_everything_as_it_was() -> None:
    model = Blobs.trained().train()
    before, state = model.state_dict()["conv.weight"].clone(), torch.random.get_rng_state()
    first = check_maps(model, *IMAGES, exact_maps, seed=3)
    assert model.training
    assert model.conv.weight.equal(before)
    assert state.equal(torch.random.get_rng_state())
    assert str(first) == str(check_maps(model, *IMAGES, exact_maps, seed=3))
    with pytest.raises(ValueError, match="at least two"):
        check_maps(model, *(part[:1] for part in IMAGES), exact_maps)


def test_clearly_better() -> None:
    other = Score("a", torch.tensor([0.1, 0.5, 0.3, math.nan]))
    for shifts, better in (
        ([0.1, 0.11, 0.09, 5.0], True),  # images of both alone count
        ([0.3, -0.2, 0.3, 0.0], False),
        ([-0.1, -0.11, -0.09, 0.0], False),
        ([0.0, 0.0, 0.0, 0.0], False),
    ):
        assert clearly_better(Score("b", other.values + torch.tensor(shifts)), other) is better
    assert not clearly_better(Score("b", torch.tensor([1.0, math.nan])), Score("a", torch.tensor([0.0, 0.0])))
