"""Imputation: by hand, by a dense solve in plain numpy, by its own definition, and beside grad-cam's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from evalib import imputation
from evalib.imputation import impute


def images_and_sets(number: int, height: int, width: int, shares: list[float]) -> tuple[Tensor, Tensor]:
    """Random images, and for each the strongest and weakest pixels of a smooth random map, by share."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, 3, height, width, generator=generator)
    rough = torch.rand(number, 1, 4, 4, generator=generator)
    cams = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")[:, 0]
    ranks = cams.flatten(1).argsort(dim=1).argsort(dim=1).view(cams.shape)
    few = [round(share * height * width) for share in shares]
    return images, torch.stack([side for k in few for side in (ranks < k, ranks >= height * width - k)], dim=1)


def dense_solution(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """One (H, W) image, one equation per pixel."""
    height, width = image.shape
    matrix, right = np.zeros((height * width, height * width)), np.zeros(height * width)
    for y in range(height):
        for x in range(width):
            row = y * width + x
            matrix[row, row] = 1
            if not removed[y, x]:
                right[row] = image[y, x]
                continue
            near = {
                (y + dy, x + dx): 1 / 12 if dy and dx else 1 / 6
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width
            }
            for (other_y, other_x), weight in near.items():
                matrix[row, other_y * width + other_x] = -weight / sum(near.values())
    return np.linalg.solve(matrix, right).reshape(height, width)


def test_one_pixel_by_hand():
    image = torch.tensor([[1.0, 2.0, 3.0], [4.0, 100.0, 6.0], [7.0, 8.0, 12.0]])[None, None]
    center, corner = torch.zeros(2, 3, 3, dtype=torch.bool)
    center[1, 1], corner[0, 0] = True, True
    filled = impute(image, torch.stack([center, corner])[None])
    assert filled[0, 0, 0, 1, 1] == pytest.approx((2 + 4 + 6 + 8) / 6 + (1 + 3 + 7 + 12) / 12, abs=1e-3)
    assert filled[0, 1, 0, 0, 0] == pytest.approx((2 * 2 + 2 * 4 + 100) / 5, abs=5e-3)
    assert torch.equal(filled[0, 0, 0][~center], image[0, 0][~center])


@pytest.mark.parametrize(("height", "width"), [(7, 9), (12, 8), (1, 6), (18, 5)])
def test_as_a_dense_solve(height, width):
    images, sets = images_and_sets(2, height, width, [0.2, 0.5, 0.9])
    filled = impute(images, sets)
    expected = [
        [[dense_solution(c, s) for c in i] for s in r] for i, r in zip(images.numpy(), sets.numpy(), strict=True)
    ]
    np.testing.assert_allclose(filled, np.array(expected), atol=1e-4)


@pytest.mark.parametrize("size", [32, 96])
def test_every_removed_pixel_is_the_mean_of_its_neighbors(size):
    """Also where holes are large: the share of 0.97 leaves one corner."""
    images, sets = images_and_sets(1, size, size, [0.3, 0.97])
    filled = impute(images.double(), sets, tolerance=1e-9)
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]]).double()[None, None]
    around = torch.nn.functional.conv2d(filled.flatten(0, 2)[:, None], weights, padding=1)[:, 0]
    total = torch.nn.functional.conv2d(torch.ones(1, 1, size, size).double(), weights, padding=1)[0, 0]
    off = (filled - (around / total).view(filled.shape)).masked_select(sets[:, :, None])
    assert off.abs().max() < 1e-7
    assert torch.equal(filled[:, 0].float()[:, :, ~sets[0, 0]], images[:, :, ~sets[0, 0]])


def test_scattered_pixels_as_a_dense_solve():
    images = torch.randn(1, 1, 10, 11, generator=torch.Generator().manual_seed(1))
    sets = torch.rand(1, 4, 10, 11, generator=torch.Generator().manual_seed(2)) < 0.6
    expected = [dense_solution(images[0, 0].numpy(), removed) for removed in sets[0].numpy()]
    np.testing.assert_allclose(impute(images, sets)[0, :, 0], np.array(expected), atol=1e-4)


def test_as_grad_cam_fills_in():
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    images, sets = images_and_sets(1, 32, 32, [0.1, 0.3, 0.5, 0.7, 0.9])
    filled = impute(images, sets)
    theirs = NoisyLinearImputer(noise=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [theirs(images[0], (~removed).float()) for removed in sets[0]]
    torch.testing.assert_close(filled[0], torch.stack(expected), atol=1e-4, rtol=0)


def test_images_do_not_depend_on_each_other(monkeypatch):
    images, sets = images_and_sets(3, 16, 16, [0.4, 0.8])
    together = impute(images, sets)
    monkeypatch.setitem(imputation._VALUES_AT_ONCE, "cpu", 1)
    torch.testing.assert_close(impute(images, sets), together, atol=2e-4, rtol=0)


def test_the_error_follows_the_tolerance():
    images, sets = images_and_sets(1, 32, 32, [0.9])
    exact = impute(images.double(), sets, tolerance=1e-10)
    for tolerance in (1e-2, 1e-3, 1e-4):
        error = (impute(images.double(), sets, tolerance=tolerance) - exact).abs().max()
        assert tolerance / 1000 < error <= tolerance * images.abs().max()


def test_the_tolerance_goes_with_the_values():
    images, sets = images_and_sets(1, 16, 16, [0.5, 0.9])
    filled = impute(images, sets)
    for scale in (1e-4, 1e4):
        torch.testing.assert_close(impute(scale * images, sets) / scale, filled, atol=2e-4, rtol=0)


def test_noise_is_added_to_removed_pixels_only():
    images, sets = images_and_sets(2, 8, 8, [0.5])
    noise = torch.randn(2, 1, 3, 8, 8)
    difference = impute(images, sets, noise) - impute(images, sets)
    torch.testing.assert_close(difference, torch.where(sets[:, :, None], noise, 0.0), atol=1e-6, rtol=0)


def test_simple_cases():
    images = torch.full((1, 3, 8, 8), 1234.5)
    sets = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    sets[0, 1, :, 1:] = True
    torch.testing.assert_close(impute(images, sets), images[:, None].expand(-1, 2, -1, -1, -1))
    assert torch.equal(impute(0 * images, sets), torch.zeros(1, 2, 3, 8, 8))


def test_messages():
    images, sets = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"shapes \(N, C, H, W\) and \(N, K, H, W\)"):
        impute(images, sets[:, 0])
    with pytest.raises(ValueError, match="a set leaves none"):
        impute(images, ~sets)
