"""Do maps point at the object? Measured against boxes, beside a prior that knows nothing of the image."""

from __future__ import annotations

import torch
from torch import Tensor


def pointing_game(cams: Tensor, boxes: Tensor) -> Tensor:
    """Is the strongest pixel of each map inside the object's box (Zhang et al. 2016, arXiv:1608.00507)?

    Without that paper's tolerance of 15 pixels. Of several pixels that are equally strong, as at the edge of an
    enlarged map, at least half must be inside. A flat map points nowhere, a miss.

    Args:
        cams: (N, H, W) floating point, of any range.
        boxes: (N, 4) left, top, right, bottom in pixels of the maps, as from `split.input_boxes()`. A pixel is inside
            if its center is: `left <= x + 0.5 < right`, and so for y.

    Returns:
        (N,) bool on the device of `cams`; `.float().mean()` is the share of hits.

    Raises:
        ValueError: if the shapes do not fit, a map is not finite, an image has no box (all 0), or a box is no box
            within the maps.
    """
    if cams.dim() != 3 or cams.numel() == 0 or boxes.shape != (len(cams), 4):
        raise ValueError(
            f"`cams` and `boxes` need shapes (N, H, W) and (N, 4), none of them 0: got {tuple(cams.shape)} and "
            f"{tuple(boxes.shape)}. Of maps (L, N, H, W) take one layer: `cams[-1]`."
        )
    if not cams.isfinite().all():
        raise ValueError("`cams` needs finite values: got NaN or infinity.")
    if without := int((boxes == 0).all(dim=1).sum()):
        raise ValueError(f"`boxes` needs a box for every image: {without} of {len(boxes)} have none. Drop them first.")
    height, width = cams.shape[1:]
    left, top, right, bottom = boxes.to(cams.device)[:, :, None].unbind(dim=1)
    fits = (left >= 0) & (left <= right) & (right <= width) & (top >= 0) & (top <= bottom) & (bottom <= height)
    if not fits.all():
        raise ValueError(
            f"`boxes` needs left, top, right, bottom within the maps, {width} pixels wide and {height} high: got "
            f"{boxes[int((~fits).nonzero()[0, 0])].tolist()}. `split.input_boxes()` gives them so."
        )
    x, y = (torch.arange(size, device=cams.device) + 0.5 for size in (width, height))
    inside = ((left <= x) & (x < right))[:, None, :] & ((top <= y) & (y < bottom))[:, :, None]
    low, high = cams.amin(dim=(1, 2), keepdim=True), cams.amax(dim=(1, 2), keepdim=True)
    strongest = (cams >= high - 1e-5 * (high - low)) & (high > low)  # equally strong but for rounding
    hits = (strongest & inside).sum(dim=(1, 2))
    return (hits > 0) & (2 * hits >= strongest.sum(dim=(1, 2)))


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
