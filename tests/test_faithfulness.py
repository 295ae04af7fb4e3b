"""The pointing game and its prior: by hand, by symmetry, by chance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from evalib.faithfulness import center_gaussian, pointing_game


def peak(y: int, x: int, height: int = 6, width: int = 8) -> Tensor:
    """(1, height, width): one pixel of 1."""
    cams = torch.zeros(1, height, width)
    cams[0, y, x] = 1.0
    return cams


@pytest.mark.parametrize(
    ("box", "hit"),
    [
        ([5.0, 2.0, 6.0, 3.0], True),  # the pixel itself
        ([0.0, 0.0, 8.0, 6.0], True),  # everything
        ([5.5, 2.5, 6.0, 3.0], True),  # from its very center on
        ([5.6, 2.0, 8.0, 6.0], False),  # begins right of its center
        ([0.0, 0.0, 5.5, 6.0], False),  # ends at its center
        ([0.0, 0.0, 5.6, 2.6], True),
        ([5.0, 0.0, 6.0, 2.5], False),  # ends above its center
        ([2.0, 5.0, 3.0, 6.0], False),  # x and y swapped
        ([5.5, 2.5, 5.5, 2.5], False),  # a box of no area holds no center
    ],
)
def test_pixel_centers(box: list[float], hit: bool) -> None:
    assert pointing_game(peak(2, 5), torch.tensor([box])).tolist() == [hit]


def test_each_map_meets_its_own_box() -> None:
    cams = torch.cat([peak(1, 1), peak(1, 1), peak(4, 6)])
    boxes = torch.tensor([[0.0, 0.0, 3.0, 3.0], [4.0, 3.0, 8.0, 6.0], [4.0, 3.0, 8.0, 6.0]])
    assert pointing_game(cams, boxes).tolist() == [True, False, True]


def test_any_range_and_type() -> None:
    box = torch.tensor([[5.0, 2.0, 6.0, 3.0]])
    for cams in (1e-20 * peak(2, 5), 100 * peak(2, 5) - 1000, peak(2, 5).double(), peak(2, 5).half()):
        assert pointing_game(cams, box.int()).tolist() == [True]


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0, 1e30])
def test_flat_maps_are_misses(value: float) -> None:
    assert not pointing_game(torch.full((1, 6, 8), value), torch.tensor([[0.0, 0.0, 8.0, 6.0]])).any()


def test_equally_strong_pixels() -> None:
    cams = torch.zeros(1, 4, 4)
    cams[0, 0] = torch.tensor([1 - 1e-7, 1 - 2e-7, 1 - 1e-7, 1.0])  # equal but for rounding
    for right, hit in ((1.0, False), (2.0, True), (3.0, True), (4.0, True)):
        assert pointing_game(cams, torch.tensor([[0.0, 0.0, right, 1.0]])).tolist() == [hit]


def test_a_mirror_changes_nothing() -> None:
    """Enlarged maps of 4x4 have plateaus at the edges, where the first strongest pixel depends on the direction."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(200, 1, 4, 4, generator=generator)
    cams = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")[:, 0]
    first, second = 32 * torch.rand(2, 200, 2, generator=generator)
    boxes = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)
    hits = pointing_game(cams, boxes)
    left, top, right, bottom = boxes.unbind(dim=1)
    assert 20 < hits.sum() < 180
    assert torch.equal(pointing_game(cams.flip(2), torch.stack([32 - right, top, 32 - left, bottom], dim=1)), hits)
    assert torch.equal(pointing_game(cams.flip(1), torch.stack([left, 32 - bottom, right, 32 - top], dim=1)), hits)


def test_noise_hits_as_often_as_the_box_is_large() -> None:
    cams = torch.rand(4000, 10, 10, generator=torch.Generator().manual_seed(0))
    hits = pointing_game(cams, torch.tensor([[1.0, 2.0, 7.0, 7.0]]).expand(4000, 4))
    assert abs(hits.float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)


def test_images_without_a_box_are_refused() -> None:
    cams, boxes = torch.rand(3, 6, 8), torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match="2 of 3 have none. Drop them first"):
        pointing_game(cams, boxes)


@pytest.mark.parametrize("box", [[0, 0, 9, 6], [0, 0, 8, 7], [-1, 0, 8, 6], [0, -1, 8, 6], [5, 0, 4, 6], [0, 5, 8, 4]])
def test_boxes_in_other_units_are_refused(box: list[int]) -> None:
    boxes = torch.tensor([[0, 0, 8, 6], box])
    with pytest.raises(ValueError, match=rf"8 pixels wide and 6 high: got \[{box[0]}, {box[1]}.*input_boxes"):
        pointing_game(torch.rand(2, 6, 8), boxes)


def test_shapes_and_values_are_checked() -> None:
    box = torch.tensor([[0, 0, 1, 1]])
    for cams, boxes in (
        (torch.rand(1, 1, 6, 8), box),
        (torch.rand(2, 6, 8), box),
        (torch.rand(1, 6, 8), box[0]),
        (torch.rand(0, 6, 8), box[:0]),
    ):
        with pytest.raises(ValueError, match=r"need shapes \(N, H, W\) and \(N, 4\).*take one layer"):
            pointing_game(cams, boxes)
    with pytest.raises(ValueError, match="needs finite values"):
        pointing_game(torch.full((1, 6, 8), torch.nan), box)


def test_center_gaussian_by_hand() -> None:
    prior = center_gaussian(3, 5, sigma=0.2)
    assert prior.shape == (3, 5)
    assert prior.dtype == torch.float32
    assert prior[1, 2] == 1.0
    assert prior[1, 3] == pytest.approx(math.exp(-0.5))  # 1 of 5 pixels off: one standard deviation
    assert prior[0, 2] == pytest.approx(math.exp(-0.5 * (1 / 3 / 0.2) ** 2))
    assert prior[0, 0] == pytest.approx(float(prior[0, 2] * prior[1, 0]))
    torch.testing.assert_close(prior, prior.flip(0, 1))


def test_center_gaussian_in_the_game() -> None:
    prior = center_gaussian(6, 8).expand(3, -1, -1)
    boxes = torch.tensor([[3.0, 2.0, 5.0, 4.0], [0.0, 0.0, 3.0, 3.0], [1.0, 1.0, 8.0, 6.0]])
    assert pointing_game(prior, boxes).tolist() == [True, False, True]


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1, 1, 0.0), (1, 1, math.nan)])
def test_center_gaussian_checks(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="need to be positive: got"):
        center_gaussian(*arguments)
