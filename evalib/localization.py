"""Do maps find the object? Measured against boxes or masks, beside a prior that knows nothing of the image."""

from __future__ import annotations

import time
from itertools import starmap

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.cam_maps import form
from evalib.data.image_data import masks_to_boxes
from evalib.perturbation import flat_maps
from evalib.scores import Score, Scores

THRESHOLDS = 100  # at which a map is cut, evenly spaced in [0, 1)
IOU = (0.3, 0.5, 0.7)
ZHOU_SHARE = 0.2
_AT_ONCE = 100  # maps, which bounds the memory


def pointing_game(cams: Tensor, regions: Tensor) -> Tensor:
    """Is the strongest pixel of each map on the object (Zhang et al. 2016, arXiv:1608.00507)?

    Without that paper's tolerance of 15 pixels. Of several pixels that are equally strong, as at the edge of an
    enlarged map, at least half must be inside. A flat map points nowhere, a miss.

    Args:
        cams: (N, H, W) floating point, of any range.
        regions: where the object is: boxes (N, 4) left, top, right, bottom in pixels of the maps, as from
            `split.input_boxes()`, or masks (N, H, W) bool. A pixel is inside a box if its center is:
            `left <= x + 0.5 < right`, and so for y.

    Returns:
        (N,) bool on the device of `cams`; `.float().mean()` is the share of hits.

    Raises:
        ValueError: if the shapes do not fit, a map is not finite, an image has no region (all 0), or a box is no box
            within the maps.
    """
    inside = _inside(cams, regions)
    low, high = cams.amin(dim=(1, 2), keepdim=True), cams.amax(dim=(1, 2), keepdim=True)
    strongest = (cams >= high - 1e-5 * (high - low)) & (high > low)  # equally strong but for rounding
    hits = (strongest & inside).sum(dim=(1, 2))
    return (hits > 0) & (2 * hits >= strongest.sum(dim=(1, 2)))


def energy_inside(cams: Tensor, regions: Tensor) -> Tensor:
    """The share of each map that lies on the object (Wang et al. 2020, arXiv:1910.01279, energy-based pointing game).

    Args:
        cams, regions: as in `pointing_game`, the maps at least 0.

    Returns:
        (N,) floating point in [0, 1]; 0 for an empty map.

    Raises:
        ValueError: as `pointing_game`, and if a map has negative values.
    """
    inside = _inside(cams, regions)
    if (cams < 0).any():
        raise ValueError(f"`cams` needs values of at least 0: got {float(cams.min()):.3g}.")
    total = cams.sum(dim=(1, 2))
    return (cams * inside).sum(dim=(1, 2)) / total.masked_fill(total == 0, 1.0)


def best_iou(cams: Tensor, regions: Tensor) -> Tensor:
    """The best intersection over union with the object of what a map marks, at the threshold that is best for it.

    Args:
        cams, regions: as in `pointing_game`. A map marks the pixels that reach the threshold; `THRESHOLDS` of them are
            tried between its lowest and its highest value.

    Returns:
        (N,) float64 in [0, 1]; 0 for a flat map.
    """
    inside = _inside(cams, regions)
    scaled = _scaled(cams)
    best = torch.zeros(len(cams), dtype=torch.float64, device=cams.device)
    for threshold in _thresholds()[1:]:  # the first marks everything
        marked = scaled >= threshold
        union = (marked | inside).sum(dim=(1, 2)).clamp_min(1)
        best = best.maximum((marked & inside).sum(dim=(1, 2)).double() / union)
    return torch.where(flat_maps(cams), 0.0, best)


def threshold_boxes(cams: Tensor, threshold: float) -> Tensor:
    """The box around the largest connected part of what each map marks (Choe et al. 2020, arXiv:2001.07437).

    Args:
        cams: (N, H, W) floating point; each is scaled so that its lowest value is 0 and its highest 1.
        threshold: in [0, 1]; a map marks the pixels that reach it. Pixels that touch at a corner are connected.

    Returns:
        (N, 4) float32 left, top, right, bottom in pixels, on the device of `cams`; all 0 for a flat map.
    """
    _check_maps(cams)
    boxes = np.zeros((len(cams), 4))
    for box, scaled, flat in zip(boxes, _scaled(cams).cpu().numpy(), flat_maps(cams).tolist(), strict=True):
        parts, areas = _parts(scaled >= threshold)
        if len(parts) and not flat:
            box[:] = parts[areas.argmax()]
    return torch.from_numpy(boxes).float().to(cams.device)


def zhou_box(cams: Tensor) -> Tensor:
    """The box of Zhou et al. (2016, arXiv:1512.04150): around the largest part above 20 % of the maximum.

    Args:
        cams: (N, H, W) in [0, 1], as `explain(...)[0]`.

    Returns:
        As `threshold_boxes`.
    """
    return threshold_boxes(cams, ZHOU_SHARE)


def max_box_accuracy(cams: Tensor, regions: Tensor) -> Scores:
    """MaxBoxAcc and MaxBoxAccV2 (Choe et al. 2020, arXiv:2001.07437): share of images whose box is found.

    Every map is cut at `THRESHOLDS` values, the same for all images, and the best of them counts. "MaxBoxAcc": the box
    around the largest connected part has an IoU of at least 0.5 with the object's. "MaxBoxAccV2": the box around any
    part has one of at least 0.3, 0.5 and 0.7, each at its own best threshold, the mean of the three.

    The threshold is chosen on the images that are measured, as in the paper's own definition.

    Args:
        cams, regions: as in `pointing_game`; of masks, the boxes around them count.

    Returns:
        "MaxBoxAcc" and "MaxBoxAccV2": per image 1 for a hit at the best threshold, 0 for a miss and for a flat map.
    """
    start = time.perf_counter()
    some = zip(cams.split(_AT_ONCE), regions.split(_AT_ONCE), strict=True)
    largest, any_part = map(torch.cat, zip(*starmap(_ious, some), strict=True))
    hits, chosen = [], []
    for ious, delta in [(largest, 0.5), *((any_part, delta) for delta in IOU)]:
        found = (ious >= delta).double()
        best = int(found.mean(dim=0).argmax())
        hits.append(found[:, best])
        chosen.append(f"{_thresholds()[best]:.2f}")
    flat, seconds = int(flat_maps(cams).sum()), time.perf_counter() - start
    return Scores(
        [
            Score("MaxBoxAcc", hits[0], flat=flat, seconds=seconds, note=f"threshold {chosen[0]}"),
            Score(
                "MaxBoxAccV2", torch.stack(hits[1:]).mean(dim=0), flat=flat, note=f"thresholds {', '.join(chosen[1:])}"
            ),
        ]
    )


def measure_localization(cams: Tensor, regions: Tensor) -> Scores:
    """All figures of this module about one kind of map; a flat map is a miss in each of them.

    Args:
        cams, regions: as in `energy_inside`.

    Returns:
        "pointing", "energy", "best IoU", "MaxBoxAcc", "MaxBoxAccV2", all in [0, 1], high is good.
    """
    figures = {"pointing": pointing_game, "energy": energy_inside, "best IoU": best_iou}
    flat = int(flat_maps(cams).sum())
    scores = []
    for name, figure in figures.items():
        start = time.perf_counter()
        values = figure(cams, regions)
        scores.append(Score(name, values, flat=flat, seconds=time.perf_counter() - start))
    return Scores(scores) | max_box_accuracy(cams, regions)


def center_gaussian(height: int, width: int, sigma: float = 0.25) -> Tensor:
    """A map that points at the middle of any image: the prior that a method has to beat, since objects are there.

    Args:
        height: of the map in pixels, at least 1.
        width: likewise.
        sigma: standard deviation, as a fraction of height and width.

    Returns:
        (height, width) float32 in [0, 1]. `.expand(N, -1, -1)` makes it a map for each of N images.

    Raises:
        ValueError: if a size or `sigma` is not positive.
    """
    if height < 1 or width < 1 or not sigma > 0:
        raise ValueError(f"`height`, `width`, `sigma` need to be positive: got {height}, {width}, {sigma}.")
    y, x = ((torch.arange(size) + 0.5) / size - 0.5 for size in (height, width))
    return torch.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2))


def _check_maps(cams: Tensor) -> None:
    if cams.dim() != 3 or cams.numel() == 0:
        raise ValueError(
            f"`cams` needs shape (N, H, W), none of them 0: got {form(cams)}. Of maps (L, N, H, W) take one layer: "
            "`cams[-1]`."
        )
    if not cams.isfinite().all():
        raise ValueError("`cams` needs finite values: got NaN or infinity.")


def _inside(cams: Tensor, regions: Tensor) -> Tensor:
    """(N, H, W) bool on the device of `cams`: the pixels of the object."""
    _check_maps(cams)
    if regions.shape == cams.shape and regions.dtype == torch.bool:
        inside = regions.to(cams.device)
        missing = ~inside.any(dim=(1, 2))
    elif regions.shape == (len(cams), 4):
        inside, missing = _inside_boxes(cams, regions), (regions == 0).all(dim=1)
    else:
        raise ValueError(
            f"`regions` needs boxes ({len(cams)}, 4) or masks {tuple(cams.shape)} bool: got {tuple(regions.shape)} "
            f"{regions.dtype}."
        )
    if without := int(missing.sum()):
        raise ValueError(f"`regions` needs an object in every image: {without} of {len(cams)} have none. Drop them.")
    return inside


def _inside_boxes(cams: Tensor, boxes: Tensor) -> Tensor:
    height, width = cams.shape[1:]
    left, top, right, bottom = boxes.to(cams.device)[:, :, None].unbind(dim=1)
    fits = (left >= 0) & (left <= right) & (right <= width) & (top >= 0) & (top <= bottom) & (bottom <= height)
    if not fits.all():
        raise ValueError(
            f"`regions` needs left, top, right, bottom within the maps, {width} pixels wide and {height} high: got "
            f"{boxes[int((~fits).nonzero()[0, 0])].tolist()}. `split.input_boxes()` gives them so."
        )
    x, y = (torch.arange(size, device=cams.device) + 0.5 for size in (width, height))
    return ((left <= x) & (x < right))[:, None, :] & ((top <= y) & (y < bottom))[:, :, None]


def _scaled(cams: Tensor) -> Tensor:
    """Each map with its lowest value at 0 and its highest at 1; a flat one is 0."""
    low, high = cams.amin(dim=(1, 2), keepdim=True), cams.amax(dim=(1, 2), keepdim=True)
    return (cams - low) / (high - low).masked_fill(high == low, 1.0)


def _thresholds() -> list[float]:
    return [number / THRESHOLDS for number in range(THRESHOLDS)]


def _parts(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K, 4) and areas (K,) of the connected parts of (H, W) bool."""
    import cv2

    found = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)[2][1:]  # the first is the rest
    left, top, width, height, area = found.T
    return np.stack([left, top, left + width, top + height], axis=1), area


def _ious(cams: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """(N, THRESHOLDS) float64 each: IoU with the object's box of the largest part's box, and the best of all parts.

    The maps stand below one another in one image, a row that is never marked between them: its parts are found at once.
    """
    inside = _inside(cams, regions)
    boxes = (masks_to_boxes(inside) if regions.dtype == torch.bool else regions).double().cpu().numpy()
    step = cams.shape[1] + 1
    column = F.pad(_scaled(cams), (0, 0, 0, 1), value=-1.0).flatten(0, 1).cpu().numpy()
    largest, best = np.zeros((2, len(cams), THRESHOLDS))
    for number, threshold in enumerate(_thresholds()):
        parts, areas = _parts(column >= threshold)
        of = parts[:, 1] // step  # the map of each part
        parts[:, 1::2] -= step * of[:, None]
        box = boxes[of]
        low, high = np.maximum(parts[:, :2], box[:, :2]), np.minimum(parts[:, 2:], box[:, 2:])
        common = (high - low).clip(min=0).prod(axis=1)
        areas_of_boxes = [(some[:, 2:] - some[:, :2]).prod(axis=1) for some in (parts, box)]
        ious = common / (sum(areas_of_boxes) - common)
        np.maximum.at(best[:, number], of, ious)
        ascending = (-areas).argsort(kind="stable")[::-1]  # the last one written stays; of equal parts the first
        largest[of[ascending], number] = ious[ascending]
    flat = flat_maps(cams).cpu().numpy()
    largest[flat] = best[flat] = 0
    return torch.from_numpy(largest), torch.from_numpy(best)
