"""Likeness of maps against scipy's rank correlation and the formula of SSIM written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from evalib.map_likeness import rank_correlation, ssim


def random_maps(seed: int, levels: int | None = None, shape: tuple[int, ...] = (5, 13, 17)) -> Tensor:
    """Maps in [0, 1]; with `levels`, of so many values, so that many pixels are equal."""
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return maps if levels is None else (maps * levels).floor() / levels


@pytest.mark.parametrize("levels", [None, 2, 5])
def test_rank_correlation_is_that_of_scipy(levels: int | None) -> None:
    cams = random_maps(1, levels)
    others = (0.5 * cams + 0.5 * random_maps(2)) if levels is None else random_maps(2, levels)
    expected = [spearmanr(cam.flatten(), other.flatten())[0] for cam, other in zip(cams, others, strict=True)]
    torch.testing.assert_close(rank_correlation(cams, others), torch.tensor(expected, dtype=torch.float64))


def test_rank_correlation_by_hand() -> None:
    cam = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    swapped = torch.tensor([[[1.0, 2.0], [4.0, 3.0]]])  # 1 - 6 * (1 + 1) / (4 * 15)
    assert rank_correlation(cam, swapped).item() == pytest.approx(0.8)
    assert rank_correlation(cam, cam**3).item() == pytest.approx(1)  # order is all that counts
    assert rank_correlation(cam, -cam).item() == pytest.approx(-1)


def test_flat_maps_have_no_order() -> None:
    flat, cam = torch.full((1, 3, 3), 0.5), random_maps(1, shape=(1, 3, 3))
    assert rank_correlation(torch.cat([flat, cam, flat]), torch.cat([cam, flat, flat]))[1] == 0
    assert rank_correlation(torch.cat([flat, flat]), torch.cat([cam, flat])).isnan().all()


def ssim_by_formula(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, eqs. 6, 8, 12 and 13, window by window."""
    places = np.arange(11) - 5
    weights = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (image[top : top + 11, left : left + 11] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 0.0001) / (mean_a**2 + mean_b**2 + 0.0001)
            found.append(luminance * (2 * covariance + 0.0009) / (variance_a + variance_b + 0.0009))
    return float(np.mean(found))


def test_ssim_is_the_formula() -> None:
    cams = random_maps(3)
    others = 0.7 * cams + 0.3 * random_maps(4)
    pairs = zip(cams.double().numpy(), others.double().numpy(), strict=True)
    expected = torch.tensor([ssim_by_formula(*pair) for pair in pairs], dtype=torch.float64)
    torch.testing.assert_close(ssim(cams, others), expected)


def test_ssim_of_constant_maps_is_its_first_factor() -> None:
    dark, bright = torch.full((1, 11, 11), 0.2), torch.full((1, 11, 11), 0.8)
    assert ssim(dark, bright).item() == pytest.approx((2 * 0.16 + 1e-4) / (0.04 + 0.64 + 1e-4))
    assert ssim(dark, dark).item() == pytest.approx(1)
    assert math.isclose(ssim(random_maps(5), random_maps(5)).min().item(), 1)


@pytest.mark.parametrize("likeness", [rank_correlation, ssim])
def test_shapes(likeness) -> None:
    for cams, others in (
        (torch.rand(2, 12, 12), torch.rand(1, 12, 12)),  # would broadcast
        (torch.rand(12, 12), torch.rand(12, 12)),
        (torch.rand(0, 12, 12), torch.rand(0, 12, 12)),
    ):
        with pytest.raises(ValueError, match="same shape"):
            likeness(cams, others)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(torch.rand(1, 10, 20), torch.rand(1, 10, 20))
