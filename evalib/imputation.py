"""Removed pixels filled in from those around them, so that a network cannot tell from their shape what was removed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_STEPS = 10_000


def impute(images: Tensor, removed: Tensor, noise: Tensor | float = 0.0, *, tolerance: float = 1e-6) -> Tensor:
    """Images with removed pixels filled in: the noisy linear imputation of ROAD (Rong et al. 2022, arXiv:2202.00449).

    Every removed pixel is the weighted mean of its up to eight neighbors within the image, weight 1/6 for those beside,
    above and below it and 1/12 for the diagonal ones, removed or not: a linear system for each image and each set of
    removed pixels, the same for all channels. It is symmetric and positive definite, and solved by conjugate gradients
    for all images and sets at once.

    Args:
        images: (N, C, H, W) float32 or float64.
        removed: (N, K, H, W) bool, K sets of removed pixels for each image; each leaves at least one pixel.
        noise: added to the removed pixels, in the units of `images`: a number or a tensor that broadcasts to
            (N, K, C, H, W). ROAD takes normal noise of standard deviation 0.01.
        tolerance: the residual that is left, as a fraction of the largest pixel value.

    Returns:
        (N, K, C, H, W) of the dtype and on the device of `images`.

    Raises:
        ValueError: if the shapes do not fit, or a set leaves no pixel.
    """
    if images.dim() != 4 or removed.dim() != 4 or len(images) != len(removed) or images.shape[2:] != removed.shape[2:]:
        raise ValueError(
            f"`images` and `removed` need shapes (N, C, H, W) and (N, K, H, W): got {tuple(images.shape)} and "
            f"{tuple(removed.shape)}."
        )
    if removed.flatten(2).all(dim=2).any():
        raise ValueError("`removed` needs to leave at least one pixel of every image: a set leaves none.")
    unknown = removed.flatten(0, 1)[:, None].to(images.dtype)
    given = images[:, None].expand(-1, removed.shape[1], -1, -1, -1).flatten(0, 1)
    filled = _solve(given, unknown, tolerance * float(images.abs().max()))
    filled = filled.unflatten(0, removed.shape[:2])
    return torch.where(removed[:, :, None], filled + noise, images[:, None])


def _neighbors(values: Tensor) -> Tensor:
    """Weighted sums (..., H, W) of neighbors within the image: [1 2 1] along both axes, without the pixel itself."""
    padded = F.pad(values, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + padded[..., 2:, :] + 2 * padded[..., 1:-1, :]
    return (rows[..., :-2] + rows[..., 2:] + 2 * rows[..., 1:-1] - 4 * values) / 12


def _solve(given: Tensor, unknown: Tensor, tolerance: float) -> Tensor:
    """Conjugate gradients, preconditioned by the diagonal: `given` (M, C, H, W) with its unknown pixels solved for.

    Vectors are images that are 0 outside the unknown pixels.
    """
    weights = _neighbors(torch.ones_like(unknown[:1]))
    known = given * (1 - unknown)
    mean = known.sum(dim=(2, 3), keepdim=True) / (1 - unknown).sum(dim=(2, 3), keepdim=True)
    found = mean * unknown
    residual = unknown * (_neighbors(known + found) - weights * found)
    direction, old = torch.zeros_like(found), torch.ones_like(mean)
    for _ in range(_MOST_STEPS):
        if residual.abs().max() <= tolerance:
            break
        scaled = residual / weights
        new = (residual * scaled).sum(dim=(2, 3), keepdim=True)
        direction = scaled + direction * (new / old)
        applied = unknown * (weights * direction - _neighbors(direction))
        curvature = (direction * applied).sum(dim=(2, 3), keepdim=True)
        step = torch.where(curvature > 0, new / curvature, 0.0)  # nothing is left to do where it is 0
        found = found + step * direction
        residual = residual - step * applied
        old = new.clamp_min(torch.finfo(new.dtype).tiny)
    return found
