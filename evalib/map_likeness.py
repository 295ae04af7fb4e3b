"""How alike two maps are: Spearman's rank correlation and structural similarity, map by map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5  # pixels, as in Wang et al. (2004), section III.B
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with L = 1, the range of maps


def rank_correlation(cams: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of each map with its other one, over the pixels; equal pixels share their mean rank.

    Args:
        cams: (N, H, W) floating point.
        others: (N, H, W), one for each map.

    Returns:
        (N,) float64 in [-1, 1]. NaN where `cams` is flat and there is no order to find again; 0 where only the other
        is flat, since nothing of the order is left in it.

    Raises:
        ValueError: if the shapes differ or are not (N, H, W).
    """
    _check(cams, others)
    first, second = (_centered_ranks(maps.flatten(1)) for maps in (cams, others))
    spread, other_spread = first.norm(dim=1), second.norm(dim=1)
    correlation = ((first * second).sum(dim=1) / (spread * other_spread)).clamp(-1, 1)
    correlation = torch.where(other_spread == 0, 0.0, correlation)
    return torch.where(spread == 0, torch.nan, correlation)


def ssim(cams: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each map with its other one (Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13).

    Windows of 11 x 11 pixels with Gaussian weights of standard deviation 1.5, wholly inside the map. The mean is over
    the windows.

    Args:
        cams: (N, H, W) floating point in [0, 1], H and W at least 11.
        others: (N, H, W) in [0, 1], one for each map.

    Returns:
        (N,) float64 in [-1, 1]; 1 for equal maps.

    Raises:
        ValueError: if the shapes differ, are not (N, H, W), or H or W is below 11.
    """
    _check(cams, others)
    if min(cams.shape[1:]) < _WINDOW:
        raise ValueError(f"`cams` needs at least {_WINDOW} pixels a side for SSIM: got {tuple(cams.shape[1:])}.")
    x, y = cams.double(), others.double()
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    likeness = likeness / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))
    return likeness.mean(dim=(1, 2))


def _check(cams: Tensor, others: Tensor) -> None:
    if cams.dim() != 3 or cams.numel() == 0 or cams.shape != others.shape:
        raise ValueError(
            f"`cams` and `others` need the same shape (N, H, W): got {tuple(cams.shape)} and {tuple(others.shape)}."
        )


def _centered_ranks(values: Tensor) -> Tensor:
    """Ranks (N, P) float64 of values (N, P), minus their mean; 0 for all if the values are equal."""
    values = values.contiguous()
    ordered = values.sort(dim=1).values
    # of equal values, the first place and the one behind the last: their mean is the shared rank, but for a constant
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above - values.shape[1]).double() / 2


def _windowed(maps: Tensor) -> Tensor:
    """Weighted means (N, H - 10, W - 10) of every window of maps (N, H, W)."""
    places = torch.arange(_WINDOW, dtype=maps.dtype, device=maps.device) - _WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    rows = F.conv2d(maps[:, None], weights[None, None, :, None])
    return F.conv2d(rows, weights[None, None, None, :])[:, 0]
