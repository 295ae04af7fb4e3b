"""Deletion, insertion and average drop by hand; ROAD by hand and beside grad-cam's."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalib.explain import explain
from evalib.faithfulness import (
    PERCENTILES,
    Curves,
    average_drop,
    control_maps,
    deletion_insertion,
    measure_faithfulness,
    road,
)
from evalib.models import resnet18
from evalib.perturbation import blurred


class Weighted(nn.Module):
    """Two logits: the sum of the pixels of the first channel, each with its weight, and 0."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        total = (images[:, 0] * self.weights).sum(dim=(1, 2))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def sigmoid(*logits: float) -> list[float]:
    return [1 / (1 + math.exp(-logit)) for logit in logits]


@pytest.fixture
def by_hand() -> tuple[nn.Module, Tensor, Tensor]:
    """One image whose map has the order upper right, lower left, upper left, lower right."""
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0] = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    return Weighted(torch.tensor([[1.0, 0.5], [1.0, 0.25]])), images, torch.tensor([[[0.3, 1.0], [0.6, 0.0]]])


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network whose last layer tells its images apart, and maps whose values all differ."""
    torch.manual_seed(0)
    model = resnet18(width=4).eval()
    with torch.no_grad():
        images = nn.functional.avg_pool2d(torch.randn(4, 3, 40, 40), 9, stride=1) * 9
        logits = model(images)
        scale = 2 / logits.std(dim=0)
        model.linear.weight.mul_(scale[:, None])
        model.linear.bias.sub_(logits.mean(dim=0)).mul_(scale)
        classes = model(images).argmax(dim=1)
    rough = torch.rand(4, 1, 5, 5)
    cams = nn.functional.interpolate(rough, size=(32, 32), mode="bilinear")[:, 0] + 1e-4 * torch.rand(4, 32, 32)
    return model, images, cams / cams.amax(dim=(1, 2), keepdim=True), classes


# --- deletion and insertion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [0, 1])
def test_deletion_and_insertion_by_hand(by_hand, label):
    """Logits of class 0: the image has 1 * 1 + 2 * .5 + 3 * 1 - 4 * .25 = 4. Pixels go in the order 2, 3, 1, -4."""
    model, images, cams = by_hand
    curves = deletion_insertion(model, images, cams, torch.tensor([label]), steps=4, blur=0.5)
    smooth = blurred(images, 0.5)[0, 0]
    start = [*(model.weights * smooth).flatten().tolist()]  # what each pixel adds once the image is blurred
    insertion = [sum(start)]
    for place, added in ((1, 1.0), (2, 3.0), (0, 1.0), (3, -1.0)):
        insertion.append(insertion[-1] - start[place] + added)
    deletion = [4.0, 3.0, 0.0, -1.0, 0.0]
    sign = 1 - 2 * label
    assert curves.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.deletion[0].tolist() == pytest.approx(sigmoid(*(sign * d for d in deletion)), abs=1e-6)
    assert curves.insertion[0].tolist() == pytest.approx(sigmoid(*(sign * i for i in insertion)), abs=1e-6)
    assert curves.seconds > 0


def test_areas_by_hand():
    """Trapezoids: of widths .25 and .75."""
    deletion, insertion = (
        torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]),
        torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]),
    )
    curves = Curves(torch.tensor([0.0, 0.25, 1.0]).double(), deletion.double(), insertion.double(), seconds=6.0)
    scores = curves.scores
    assert scores["deletion"].values.tolist() == pytest.approx([0.25 * 0.75 + 0.75 * 0.25, 1])
    assert scores["insertion"].values.tolist() == pytest.approx([0.25 * 0.5 + 0.75, 0.5])
    assert scores["insertion - deletion"].values.tolist() == pytest.approx([0.875 - 0.375, -0.5])
    assert [score.better for score in scores.values()] == ["low", "high", "high"]
    assert sum(score.seconds for score in scores.values()) == pytest.approx(6.0)


def test_pixels_that_no_number_of_steps_divides():
    model = Weighted(torch.ones(3, 3))
    cams = torch.arange(9.0).view(1, 3, 3)
    curves = deletion_insertion(model, torch.ones(1, 3, 3, 3), cams, torch.tensor([0]), steps=5)
    assert curves.fractions.tolist() == [0, 2 / 9, 4 / 9, 5 / 9, 7 / 9, 1]
    assert curves.deletion[0].tolist() == pytest.approx(sigmoid(9, 7, 5, 4, 2, 0))
    assert curves.insertion[0].tolist() == pytest.approx(sigmoid(*[9] * 6))  # a constant image is its own blur


# --- average drop --------------------------------------------------------------------------------------------


def test_average_drop_by_hand(by_hand):
    """The image times its map: .3 * 1 + 1 * 2 * .5 + .6 * 3 + 0 = 3.1; logits 4 and 3.1."""
    model, images, cams = by_hand
    before, after = sigmoid(4, 3.1)
    scores = average_drop(model, images, cams, torch.tensor([0]))
    assert scores["average drop"].values.tolist() == pytest.approx([(before - after) / before], abs=1e-6)
    assert scores["increase"].values.tolist() == [0.0]
    scores = average_drop(model, images, cams, torch.tensor([1]))  # of the other class, it rises
    assert [score.values.tolist() for score in scores.values()] == [[0.0], [1.0]]
    assert [score.better for score in scores.values()] == ["low", "high"]


def test_average_drop_as_grad_cam_defines_it(network):
    """Which does not divide by the probability before."""
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model, images, cams, classes = network
    targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes]
    drop, increase = (
        metric()(images, cams.numpy()[:, None], targets, model) for metric in (DropInConfidence, IncreaseInConfidence)
    )
    before = model(images).softmax(dim=1).gather(1, classes[:, None])[:, 0].detach().numpy()
    scores = average_drop(model, images, cams, classes)
    np.testing.assert_allclose(scores["average drop"].values, drop / before, atol=1e-5)
    np.testing.assert_array_equal(scores["increase"].values, increase)


# --- ROAD ----------------------------------------------------------------------------------------------------


def test_road_by_hand():
    """An image of two pixels of 1 and two of 0; what is removed takes the values of the neighbors that are left.

    50 % of 4 pixels are 1 + floor(1.5) = 2: the two of 1 become 0, or the two of 0 become 1.
    """
    images = torch.zeros(1, 3, 2, 2)
    images[:, :, 0] = 1.0
    cams = torch.tensor([[[1.0, 0.9], [0.2, 0.0]]])
    scores = road(Weighted(torch.ones(2, 2)), images, cams, torch.tensor([0]), percentiles=[50], noise=0.0)
    before, without, full = sigmoid(2, 0, 4)
    figures = [without - before, full - before, (full - without) / 2]
    assert [score.values.item() for score in scores.values()] == pytest.approx(figures, abs=1e-4)
    assert list(scores) == ["ROAD MoRF", "ROAD LeRF", "ROAD"]
    assert [score.better for score in scores.values()] == ["low", "high", "high"]


@pytest.fixture
def without_noise(monkeypatch) -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights

    monkeypatch.setattr(NoisyLinearImputer.__init__, "__defaults__", (0.0, neighbors_weights))


@pytest.mark.usefixtures("without_noise")
def test_road_as_grad_cam_scores(network):
    """Both remove the same pixels where all values of a map differ, and fill them in alike."""
    from pytorch_grad_cam.metrics import road as theirs
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model, images, cams, classes = network
    targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes]
    percentiles = [10, 40, 60, 90]
    kinds = (theirs.ROADMostRelevantFirstAverage, theirs.ROADLeastRelevantFirstAverage, theirs.ROADCombined)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [kind(percentiles)(images, cams.numpy(), targets, model) for kind in kinds]
    scores = road(model, images, cams, classes, percentiles=percentiles, noise=0.0)
    for score, figures in zip(scores.values(), expected, strict=True):
        np.testing.assert_allclose(score.values, figures, atol=1e-4)
    assert scores["ROAD MoRF"].values.abs().min() > 0.01  # the figures say something


@pytest.mark.usefixtures("without_noise")
@pytest.mark.parametrize("percentile", [10, 80])
@pytest.mark.parametrize("size", [32, 21])  # 21 * 21 - 1 pixels: every percentile falls on a pixel
def test_the_same_pixels_as_grad_cam_removes(size, percentile):
    """A percentile of grad-cam's is what stays, not what goes: 100 minus ours."""
    from pytorch_grad_cam.metrics.perturbation_confidence import RemoveLeastRelevantFirst, RemoveMostRelevantFirst
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    generator = torch.Generator().manual_seed(1)
    image, cam = torch.rand(3, size, size, generator=generator), torch.rand(size, size, generator=generator).double()
    seen: list[Tensor] = []

    class Seeing(Weighted):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    road(Seeing(torch.ones(size, size)), image[None], cam[None], torch.tensor([0]), percentiles=[percentile], noise=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for remove, ours in ((RemoveMostRelevantFirst, seen[0][1]), (RemoveLeastRelevantFirst, seen[0][2])):
            theirs = remove(100 - percentile, NoisyLinearImputer(0.0))(image, cam)
            assert torch.equal(ours == image, theirs == image)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_percentiles_are_averaged(network):
    model, images, cams, classes = network
    together = road(model, images, cams, classes, percentiles=[20, 70])
    apart = [road(model, images, cams, classes, percentiles=[percentile]) for percentile in (20, 70)]
    for name, score in together.items():
        mean = (apart[0][name].values + apart[1][name].values) / 2
        torch.testing.assert_close(score.values, mean, atol=1e-4, rtol=0)


def test_noise_and_seed(network):
    model, images, cams, classes = network
    runs = [road(model, images, cams, classes, seed=seed, percentiles=[50])["ROAD MoRF"].values for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert 0 < (runs[0] - runs[2]).abs().max() < 0.1


# --- all of them ---------------------------------------------------------------------------------------------


def test_a_map_of_what_counts_beats_its_controls():
    """A network that reads a disk, and a map of the disk: every figure of removal prefers it to noise."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    disk = (-((y - 5) ** 2 + (x - 9) ** 2) / 18).exp()
    model, images = (
        Weighted(disk / disk.sum() * 4),
        1 + 0.1 * torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    )
    images[:, :, disk < 0.2] -= 2
    cams, classes = disk.expand(6, -1, -1), torch.zeros(6, dtype=torch.int64)
    own = measure_faithfulness(model, images, cams, classes, percentiles=[30, 60], steps=4)
    for name in ("random", "random, blurred"):
        other = measure_faithfulness(model, images, control_maps(cams)[name], classes, percentiles=[30, 60], steps=4)
        for figure in ("ROAD MoRF", "ROAD LeRF", "ROAD", "deletion", "insertion", "insertion - deletion"):
            ahead = own[figure].mean - other[figure].mean
            assert (ahead if own[figure].better == "high" else -ahead) > 0.002, (name, figure)


def test_flat_maps_have_no_figure(network):
    model, images, cams, classes = network
    cams = cams.clone()
    cams[1], cams[3] = 0.0, 1.0
    scores = measure_faithfulness(model, images, cams, classes, percentiles=[50], steps=2)
    assert len(scores) == 8
    for score in scores.values():
        assert score.values.isnan().tolist() == [False, True, False, True]
        assert (score.n, score.flat) == (2, 2)
    none = measure_faithfulness(model, images, 0 * cams, classes, percentiles=[50], steps=2)
    assert all((score.n, score.flat) == (0, 4) for score in none.values())
    assert "n/a" in str(none)


def test_control_maps():
    cams = torch.zeros(50, 16, 24)
    cams[:, 4, 6] = 1.0
    cams[7] = 0.0
    controls = control_maps(cams, seed=3)
    assert list(controls) == ["random", "random, blurred", "blurred"]
    for maps in controls.values():
        assert maps.shape == cams.shape
        assert maps.dtype == torch.float32
        assert maps[:7].amin(dim=(1, 2)).abs().max() == 0
        assert maps[:7].amax(dim=(1, 2)).min() == 1
    smooth, noise = controls["blurred"], controls["random"]
    assert (smooth[0] == 1).nonzero().tolist() == [[4, 6]]
    assert smooth[0, 4, 7] == pytest.approx(math.exp(-1 / 2), abs=1e-3)  # the standard deviation is 16 / 16 pixels
    assert (smooth[7] == 0).all()
    neighbors = np.corrcoef(noise[:, :, 1:].flatten(), noise[:, :, :-1].flatten())[0, 1]
    assert abs(neighbors) < 0.03
    blurry = controls["random, blurred"]
    assert np.corrcoef(blurry[:, :, 1:].flatten(), blurry[:, :, :-1].flatten())[0, 1] > 0.7
    torch.testing.assert_close(control_maps(cams, seed=3)["random"], noise, atol=0, rtol=0)
    assert not torch.equal(control_maps(cams, seed=4)["random"], noise)


def test_blurred_noise_is_as_strong_at_the_edge_as_anywhere():
    """Else it would be a weak control for objects in the middle."""
    blurry = control_maps(torch.rand(400, 16, 16))["random, blurred"]
    strongest = blurry.flatten(1).argmax(dim=1)
    rows, columns = strongest // 16, strongest % 16
    at_the_edge = (rows < 2) | (rows > 13) | (columns < 2) | (columns > 13)
    chance = 1 - (12 / 16) ** 2
    assert abs(at_the_edge.double().mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / 400)


def test_224_pixels():
    model, images = Weighted(torch.rand(224, 224)), torch.randn(1, 3, 224, 224)
    cams = explain(resnet18(width=2), images, ["layer4"], class_idx=0)[0] + torch.rand(1, 224, 224)
    assert road(model, images, cams, torch.tensor([0]), percentiles=[50])["ROAD"].n == 1


def test_messages(network):
    model, images, cams, classes = network
    for percentiles in ([], [0], [50, 100]):
        with pytest.raises(ValueError, match="`percentiles` needs integers from 1 to 99"):
            road(model, images, cams, classes, percentiles=percentiles)
    with pytest.raises(ValueError, match="`steps` needs at least 1: got 0"):
        deletion_insertion(model, images, cams, classes, steps=0)
    with pytest.raises(ValueError, match="`cams` needs shape"):
        control_maps(cams[None])
    with pytest.raises(ValueError, match="take one layer"):
        average_drop(model, images, cams[None], classes)


def test_defaults():
    assert PERCENTILES == (10, 20, 30, 40, 50, 60, 70, 80, 90)
