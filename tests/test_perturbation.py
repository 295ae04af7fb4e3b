"""The order of pixels, blurred images, and the answers of a network whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evalib.perturbation import Part, blurred, flat_maps, probabilities


class Sum(nn.Module):
    """Two logits: the weighted sum of all pixel values, and 0. It notes the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.9)
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        total = self.weight * self.dropout(images).sum(dim=(1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def part(cams: Tensor) -> Part:
    return Part(torch.zeros(len(cams), 3, *cams.shape[1:]), cams, range(len(cams)))


def three_versions(part: Part) -> Tensor:
    return torch.stack([part.images, 2 * part.images, part.images + part.cams[:, None]], dim=1)


@pytest.fixture
def about() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, cams = torch.randn(7, 3, 4, 5, generator=generator), torch.rand(7, 4, 5, generator=generator)
    cams[2], cams[5] = 0.0, 0.7
    return Sum(), images, cams, torch.tensor([0, 1, 0, 1, 0, 0, 0])


def test_ranks_by_hand():
    cams = torch.tensor([[[0.1, 0.9], [0.4, 0.3]], [[4.0, 3.0], [2.0, 1.0]]])
    assert part(cams).ranks(1).tolist() == [[[3, 0], [1, 2]], [[0, 1], [2, 3]]]


def test_equal_pixels_stand_in_a_random_order_of_their_image_and_seed():
    cams = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 1.0]]).expand(4000, -1, -1)
    ranks = part(cams).ranks(1)
    assert torch.equal(ranks.flatten(1).sort(dim=1).values, torch.arange(6).expand(4000, -1))
    assert (ranks[:, 1, 2] == 0).all()
    assert (ranks[:, 0, 0] == 1).all()
    equal = ranks.flatten(1)[:, 1:5]  # ranks 2 to 5, each as often everywhere: 1000 +- 27
    assert all(abs(int((equal[:, place] == rank).sum()) - 1000) < 120 for place in range(4) for rank in range(2, 6))
    assert not torch.equal(ranks, part(cams).ranks(2))
    some = Part(torch.zeros(2, 3, 2, 3), cams[:2], [30, 7])
    assert torch.equal(some.ranks(1), ranks[[30, 7]])


def test_noise_is_standard_normal_and_the_image_s_own():
    noise = part(torch.rand(40, 16, 16)).noise(3)
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02
    some = Part(torch.zeros(2, 3, 16, 16), torch.rand(2, 16, 16), [30, 7])
    assert torch.equal(some.noise(3), noise[[30, 7]])


def test_probabilities_by_hand(about):
    _model, images, cams, classes = about
    found = probabilities(*about, three_versions, 3)
    total, cam_total = images.double().sum(dim=(1, 2, 3)) / 2, 3 * cams.double().sum(dim=(1, 2)) / 2
    sign = 1 - 2 * classes
    expected = torch.sigmoid(sign[:, None] * torch.stack([total, 2 * total, total + cam_total], dim=1))
    expected[[2, 5]] = torch.nan
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("batch_size", [1, 2, 6, 100])
def test_no_batch_is_larger_and_nothing_depends_on_it(about, batch_size):
    model = about[0]
    found = probabilities(*about, three_versions, 3, batch_size=batch_size)
    assert max(model.batches) <= batch_size
    assert sum(model.batches) == 15  # flat maps are left out
    torch.testing.assert_close(found, probabilities(*about, three_versions, 3), atol=1e-7, rtol=0, equal_nan=True)


def test_the_model_and_the_random_state_are_left_as_they_were(about):
    model, images, _, _ = about
    before, state = images.clone(), torch.get_rng_state()

    def fails(part: Part) -> Tensor:
        raise RuntimeError("on purpose")

    probabilities(*about, three_versions, 3)
    with pytest.raises(RuntimeError, match="on purpose"):
        probabilities(*about, fails, 3)
    assert model.training
    assert model.dropout.training
    assert model.weight.grad is None
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_the_network_computes_in_the_precision_of_the_caller():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    images, cams, classes = torch.randn(6, 3, 8, 8), torch.rand(6, 8, 8), torch.arange(6) % 4
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))

    def products(part: Part) -> Tensor:
        """Two versions, one of them by a product of matrices, which autocast would round."""
        assert not torch.is_autocast_enabled("cpu")
        return torch.stack([part.images, part.images @ part.cams[:, None]], dim=1)

    full = probabilities(model, images, cams, classes, products, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = probabilities(model, images, cams, classes, products, 2)
        assert torch.is_autocast_enabled("cpu")
        model(images).float().square().sum().backward()
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert model[0].weight.grad.abs().sum() > 0  # weights that were cast without gradients are not used again
    assert not torch.equal(full, rounded)
    # bfloat16 has 8 bits: relative rounding of 2**-9, some of them, on logits below 2
    torch.testing.assert_close(rounded, full, atol=0.01, rtol=0)


def test_flat_maps():
    assert flat_maps(torch.tensor([[[0.0, 0.0]], [[0.3, 0.3]], [[0.3, 0.4]]])).tolist() == [True, True, False]


def test_blurred_as_scipy_does():
    from scipy.ndimage import gaussian_filter

    values = torch.rand(2, 3, 17, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for blur, sigma in ((1 / 17, 1.0), (2 / 17, 2.0)):
        expected = gaussian_filter(values.numpy(), sigma, mode="nearest", truncate=3, axes=(2, 3))
        torch.testing.assert_close(blurred(values, blur), torch.from_numpy(expected), atol=1e-9, rtol=0)


def test_messages(about):
    model, images, cams, classes = about
    with pytest.raises(ValueError, match=r"\(7, 4, 5\) and \(7,\): got \(1, 7, 4, 5\)"):
        probabilities(model, images, cams[None], classes, three_versions, 3)
    with pytest.raises(ValueError, match="a class for each image"):
        probabilities(model, images, cams, classes[:6], three_versions, 3)
    with pytest.raises(ValueError, match="got NaN or infinity"):
        probabilities(model, images, cams / 0, classes, three_versions, 3)
    with pytest.raises(ValueError, match="`batch_size` needs at least 1"):
        probabilities(*about, three_versions, 3, batch_size=0)
    with pytest.raises(ValueError, match="classes from 0 to 1: got 2"):
        probabilities(model, images, cams, classes + 1, three_versions, 3)
    with pytest.raises(TypeError, match="needs integers"):
        probabilities(model, images, cams, classes.float(), three_versions, 3)
