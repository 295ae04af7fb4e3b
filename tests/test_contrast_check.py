"""Removal of what spoke for the wrong class, on a network whose reasons are known, and what it reports."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evalib.contrast import Contrast
from evalib.contrast_check import check_contrast
from evalib.data.image_data import ImageData, Split
from evalib.mistakes import Mistakes


class BrightColors(nn.Module):
    """Class by the channel that has more bright pixels: bright ones alone count, so that it is known what decides."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = nn.Conv2d(3, 3, 1), nn.Linear(3, 3)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[:, :, None, None])
            self.features.bias.fill_(-0.5)
            self.classifier.weight.copy_(40 * torch.eye(3))
            self.classifier.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).relu().mean(dim=(2, 3)))


@pytest.fixture
def squares() -> tuple[ImageData, Mistakes]:
    """70 images with a red square of 3 x 3 and a green one of 4 x 4, labeled red and taken for green."""
    images = torch.zeros(70, 3, 16, 16, dtype=torch.uint8)
    for n, image in enumerate(images):
        red, green = n % 5, 8 + n % 4
        image[0, red : red + 3, 1:4] = 255
        image[1, green : green + 4, 9:13] = 255
    split = Split(images, torch.zeros(70, dtype=torch.int64))
    data = ImageData("squares", ("red", "green", "blue"), split, split, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    every = torch.arange(70)
    return data, Mistakes(every, split.labels, torch.ones_like(every), torch.full((70,), 0.6))


@pytest.fixture
def net() -> BrightColors:
    return BrightColors()


def test_without_what_spoke_for_the_wrong_class_the_right_one_wins(net, squares):
    data, mistakes = squares
    rows = {row["removed"]: row for row in check_contrast(net, data, mistakes, "features", fraction=16 / 256).rows}
    assert list(rows) == [
        "nothing", "random pixels", "random patches",
        "features, predicted class", "features, difference", "features, difference, lowest",
    ]  # fmt: skip
    assert all(row["n"] == 70 for row in rows.values())
    # 16 green pixels against 9 red ones, each of them 40 * 0.5 / 256 of a logit
    assert rows["nothing"]["margin"] == pytest.approx(7 * 20 / 256)
    assert (rows["nothing"]["right"], rows["nothing"]["wrong otherwise"]) == (0, 0)
    assert rows["features, difference"]["right"] == 1
    assert rows["features, difference"]["margin"] < -0.6, "the green square is gone, the red one is left: -9 * 20 / 256"
    assert rows["features, predicted class"]["right"] == 1
    assert rows["features, difference, lowest"]["right"] == 0
    assert rows["features, difference, lowest"]["margin"] > rows["nothing"]["margin"] + 0.5
    assert rows["random pixels"]["right"] < 0.2
    assert rows["random patches"]["right"] < 0.7


def test_the_same_seed_gives_the_same_table(net, squares):
    first, again, other = (str(check_contrast(net, *squares, "features", seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert "10% of the pixels removed" in first


def test_flat_contrasts_are_left_out_and_counted(net, squares):
    data, mistakes = squares
    data.test.images[3:6] = 60  # nothing is bright
    rows = check_contrast(net, data, mistakes, "features").rows
    assert [row["n"] for row in rows] == [70, 70, 70, 67, 67, 67]
    data.test.images[:] = 60
    rows = check_contrast(net, data, mistakes, "features").rows
    assert [row["right"] for row in rows[3:]] == [None] * 3


def test_a_contrast_that_rounding_alone_makes_uneven_is_flat(net, squares, monkeypatch):
    def uneven(_model, images, classes, other_classes, _layers, *, method):
        cams = 0.5 + 1e-6 * torch.rand(1, len(images), 16, 16, generator=torch.Generator().manual_seed(1))
        return Contrast(cams, torch.zeros_like(cams), torch.ones(1, len(images)), classes, other_classes, (method,))

    monkeypatch.setattr("evalib.contrast_check.contrast", uneven)
    assert [row["n"] for row in check_contrast(net, *squares).rows[4:]] == [0, 0]


def test_third_classes_are_told_from_the_right_one(net, squares):
    data, mistakes = squares
    data.test.images[:, 2, 10:13, 2:5] = 255  # a blue square beside the red one, larger by a pixel
    data.test.images[:, 2, 15, 15] = 255
    row = check_contrast(net, data, mistakes, "features", fraction=16 / 256).rows[4]
    assert (row["right"], row["wrong otherwise"]) == (0, 1)


@pytest.mark.parametrize("fraction", [0, 1.0])
def test_the_fraction_is_checked(net, squares, fraction):
    with pytest.raises(ValueError, match=r"`fraction` needs to lie in \(0, 1\)"):
        check_contrast(net, *squares, "features", fraction=fraction)
