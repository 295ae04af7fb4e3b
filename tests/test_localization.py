"""Where maps point: by hand, by symmetry, by chance, and beside an implementation of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from evalib.data.image_data import masks_to_boxes
from evalib.localization import (
    best_iou,
    center_gaussian,
    energy_inside,
    max_box_accuracy,
    measure_localization,
    pointing_game,
    threshold_boxes,
    zhou_box,
)


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
    with pytest.raises(ValueError, match="2 of 3 have none. Drop them"):
        pointing_game(cams, boxes)


@pytest.mark.parametrize("box", [[0, 0, 9, 6], [0, 0, 8, 7], [-1, 0, 8, 6], [0, -1, 8, 6], [5, 0, 4, 6], [0, 5, 8, 4]])
def test_boxes_in_other_units_are_refused(box: list[int]) -> None:
    boxes = torch.tensor([[0, 0, 8, 6], box])
    with pytest.raises(ValueError, match=rf"8 pixels wide and 6 high: got \[{box[0]}, {box[1]}.*input_boxes"):
        pointing_game(torch.rand(2, 6, 8), boxes)


def test_shapes_and_values_are_checked() -> None:
    box = torch.tensor([[0, 0, 1, 1]])
    for cams, boxes in ((torch.rand(1, 1, 6, 8), box), (torch.rand(0, 6, 8), box[:0])):
        with pytest.raises(ValueError, match=r"needs shape \(N, H, W\).*take one layer"):
            pointing_game(cams, boxes)
    masks = torch.ones(1, 6, 8)  # not bool
    for cams, regions in ((torch.rand(2, 6, 8), box), (torch.rand(1, 6, 8), box[0]), (torch.rand(1, 6, 8), masks)):
        with pytest.raises(ValueError, match=r"needs boxes \(\d, 4\) or masks \(\d, 6, 8\) bool"):
            pointing_game(cams, regions)
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


# --- masks, energy, IoU, boxes --------------------------------------------------------------------------------


def blobs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth random maps (count, 12, 14), and masks of one rectangle each."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 1, 4, 4, generator=generator)
    cams = torch.nn.functional.interpolate(small, size=(12, 14), mode="bilinear")[:, 0]
    masks = torch.zeros(count, 12, 14, dtype=torch.bool)
    for mask in masks:
        top, left = (int(torch.randint(0, 6, (), generator=generator)) for _ in range(2))
        mask[top : top + 5, left : left + 6] = True
    return cams, masks


def test_a_mask_that_is_a_box_is_the_box() -> None:
    cams, masks = blobs(50)
    boxes = masks_to_boxes(masks)
    assert torch.equal(pointing_game(cams, masks), pointing_game(cams, boxes))
    for figure in (energy_inside, best_iou):
        torch.testing.assert_close(figure(cams, masks), figure(cams, boxes))
    for name, score in max_box_accuracy(cams, masks).items():
        assert torch.equal(score.values, max_box_accuracy(cams, boxes)[name].values)


def test_boxes_around_masks_by_hand() -> None:
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = True
    masks[1, 0, 6] = masks[1, 4, 3] = True
    assert masks_to_boxes(masks).tolist() == [[2, 1, 3, 2], [3, 0, 7, 5]]
    with pytest.raises(ValueError, match="one is empty"):
        masks_to_boxes(masks & False)


def test_energy_by_hand() -> None:
    cams = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    boxes = torch.tensor([[1.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    assert energy_inside(cams, boxes).tolist() == pytest.approx([0.6, 0.0])
    with pytest.raises(ValueError, match="at least 0: got -4"):
        energy_inside(-cams, boxes)


def test_best_iou_by_hand() -> None:
    cams = torch.zeros(2, 4, 4)
    cams[0, :2, :2] = torch.tensor([[1.0, 0.5], [0.5, 0.5]])  # marks 1 pixel, or 4
    boxes = torch.tensor([[0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 4.0, 4.0]])
    assert best_iou(cams, boxes).tolist() == pytest.approx([4 / 6, 0.0])  # a flat map marks nothing


def test_best_iou_beside_every_threshold_there_is() -> None:
    """Another implementation: each value of the map is a threshold. 100 of them come close."""
    cams, masks = blobs(30)
    for cam, mask, found in zip(cams.numpy(), masks.numpy(), best_iou(cams, masks).tolist(), strict=True):
        marked = [cam >= value for value in cam.ravel()]
        best = max((part & mask).sum() / (part | mask).sum() for part in marked)
        assert best - 0.05 <= found <= best + 1e-9


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def parts_of(marked: np.ndarray) -> list[tuple[int, tuple[float, ...]]]:
    """Area and box of each connected part, by scipy."""
    labels, _ = ndimage.label(marked, structure=np.ones((3, 3)))
    slices = ndimage.find_objects(labels)
    return [
        (int((labels == number).sum()), (columns.start, rows.start, columns.stop, rows.stop))
        for number, (rows, columns) in enumerate(slices, 1)
    ]


def test_max_box_accuracy_beside_an_implementation_of_its_own() -> None:
    cams, masks = blobs(40, seed=3)
    cams += 0.5 * masks
    boxes = [tuple(box) for box in masks_to_boxes(masks).tolist()]
    low, high = (getattr(cams, name)(dim=(1, 2), keepdim=True) for name in ("amin", "amax"))
    scaled = ((cams - low) / (high - low)).numpy()
    largest, best = np.zeros((2, 40, 100))
    for n, t in np.ndindex(40, 100):
        parts = parts_of(scaled[n] >= t / 100)
        largest[n, t] = iou(max(parts, key=lambda part: part[0])[1], boxes[n])
        best[n, t] = max(iou(box, boxes[n]) for _, box in parts)
    found = max_box_accuracy(cams, masks)
    assert found["MaxBoxAcc"].mean == pytest.approx((largest >= 0.5).mean(axis=0).max())
    expected = np.mean([(best >= delta).mean(axis=0).max() for delta in (0.3, 0.5, 0.7)])
    assert found["MaxBoxAccV2"].mean == pytest.approx(expected)
    assert 0.2 < found["MaxBoxAcc"].mean < 1.0  # neither trivial


def test_the_largest_part_counts() -> None:
    cams = torch.zeros(1, 6, 8)
    cams[0, 0, 0] = 1.0  # the strongest pixel stands alone
    cams[0, 2:5, 3:6] = 0.5
    cams[0, 5, 6] = 0.3  # touches at a corner
    cams[0, 0, 7] = 0.19
    assert threshold_boxes(cams, 0.4).tolist() == [[3, 2, 6, 5]]
    assert threshold_boxes(cams, 0.6).tolist() == [[0, 0, 1, 1]]
    assert zhou_box(cams).tolist() == [[3, 2, 7, 6]]
    assert zhou_box(torch.zeros(1, 6, 8)).tolist() == [[0, 0, 0, 0]]


def test_flat_maps_are_counted_and_missed_in_every_figure() -> None:
    cams, masks = blobs(6)
    cams[2] = 0.0
    for score in measure_localization(cams, masks).values():
        assert score.flat == 1
        assert score.n == 6
        assert score.values[2] == 0


def test_a_flat_map_marks_nothing_even_where_the_object_is_everywhere() -> None:
    cams, boxes = torch.full((2, 4, 4), 0.5), torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(2, 4)
    for score in max_box_accuracy(cams, boxes).values():
        assert score.values.tolist() == [0, 0]


def test_the_threshold_that_was_chosen_is_told() -> None:
    cams = torch.zeros(1, 6, 8)
    cams[0, 1:5, 1:7] = 0.2  # up to here, 24 pixels
    cams[0, 2:4, 2:5] = 0.5  # up to here, the object's 6
    cams[0, 2, 2] = 1.0
    found = max_box_accuracy(cams, torch.tensor([[2.0, 2.0, 5.0, 4.0]]))
    assert found["MaxBoxAcc"].note == "threshold 0.21"
    assert found["MaxBoxAccV2"].note == "thresholds 0.21, 0.21, 0.21"


def test_a_perfect_map_and_an_empty_place() -> None:
    _, masks = blobs(5)
    perfect, wrong = measure_localization(masks.float(), masks), measure_localization((~masks).float(), masks)
    assert [score.mean for score in perfect.values()] == [1.0] * 5
    assert wrong["pointing"].mean == wrong["energy"].mean == 0.0
