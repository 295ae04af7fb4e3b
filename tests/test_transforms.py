"""Preprocessing against arithmetic; augmentation against counts over many draws."""

import numpy as np
import pytest
import torch

from evalib.data.image_data import CIFAR10_MEAN, CIFAR10_STD
from evalib.transforms import albumentations_pipeline, denormalize, normalize, strict


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalize_by_arithmetic(images):
    found = normalize(images, CIFAR10_MEAN, CIFAR10_STD)
    pixel = images[2, 1, 7, 9].item()
    assert found[2, 1, 7, 9].item() == pytest.approx((pixel / 255 - 0.4827) / 0.2434, abs=1e-5)
    assert found.dtype == torch.float32


def test_normalize_equals_torchvisions(images):
    from torchvision.transforms.v2.functional import normalize as torchvision_normalize

    expected = torchvision_normalize(images.float() / 255, list(CIFAR10_MEAN), list(CIFAR10_STD))
    torch.testing.assert_close(normalize(images, CIFAR10_MEAN, CIFAR10_STD), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("single", [True, False])
def test_denormalize_is_the_inverse(images, single):
    images = images[0] if single else images
    normalized = normalize(images, CIFAR10_MEAN, CIFAR10_STD)
    kept = normalized.clone()
    found = denormalize(normalized, CIFAR10_MEAN, CIFAR10_STD)
    torch.testing.assert_close(found, images.float() / 255, atol=1e-6, rtol=0)
    assert torch.equal(normalized, kept)


def test_normalize_refuses_floats(images):
    with pytest.raises(TypeError, match="must be uint8"):
        normalize(images.float() / 255, CIFAR10_MEAN, CIFAR10_STD)
    with pytest.raises(ValueError, match=r"\(3, H, W\) or \(N, 3, H, W\)"):
        denormalize(torch.zeros(4, 4), CIFAR10_MEAN, CIFAR10_STD)


def test_the_test_pipeline_only_normalizes(images):
    pipeline = albumentations_pipeline("none", CIFAR10_MEAN, CIFAR10_STD)
    found = pipeline(image=images[0].permute(1, 2, 0).numpy())["image"]
    torch.testing.assert_close(found, normalize(images[0], CIFAR10_MEAN, CIFAR10_STD), atol=1e-5, rtol=0)


def test_unknown_pipeline_lists_the_known_ones():
    with pytest.raises(ValueError, match="Unknown augmentation 'mixup'. Known: none, flip, eva6"):
        albumentations_pipeline("mixup", CIFAR10_MEAN, CIFAR10_STD)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CoarseDropout", {"max_holes": 1, "max_height": 16, "max_width": 16}),
        ("PadIfNeeded", {"min_height": 32, "min_width": 32, "value": 0}),
        ("HorizontalFlip", {"prob": 1}),
    ],
)
def test_an_argument_that_albumentations_ignores_is_an_error(name, arguments):
    import albumentations

    with pytest.raises(ValueError, match=f"would ignore an argument of {name}"):
        strict(getattr(albumentations, name), **arguments)


def test_eva6_draws_a_hole_or_gray_and_flips_half():
    """1,000 draws on an image of two flat colors, whose every pixel tells what was done to it."""
    left, right = (200, 40, 90), (20, 160, 230)
    image = np.empty((32, 32, 3), np.uint8)
    image[:, :16], image[:, 16:] = left, right
    pipeline = albumentations_pipeline("eva6", CIFAR10_MEAN, CIFAR10_STD)
    pipeline.set_random_seed(0)
    holes, grays, flips, hole_sizes, moved = 0, 0, 0, set(), 0
    for _ in range(1000):
        found = pipeline(image=image)["image"]
        assert found.shape == (3, 32, 32)
        shown = denormalize(found, CIFAR10_MEAN, CIFAR10_STD) * 255
        if (shown.amax(0) - shown.amin(0)).max() < 1.5:
            grays += 1
            continue
        hole = found.abs().amax(0) < 0.02  # filled with the mean: zero after Normalize
        if hole.any():
            holes += 1
            hole_sizes.add(int(hole.sum()))
        corner_is_right = [(shown[:, row, 1] - torch.tensor(right)).abs().max() < 3 for row in (1, 30)]
        corner_is_left = [(shown[:, row, 1] - torch.tensor(left)).abs().max() < 3 for row in (1, 30)]
        flips += any(corner_is_right)
        assert any(corner_is_right) or any(corner_is_left), "the border must be reflected, not black"
        moved += bool(((shown - torch.tensor(left)[:, None, None]).abs().amax(0) < 3).sum() not in (256, 512))
    assert holes + grays == 1000, "each image has exactly one of a hole and gray"
    assert 640 < holes < 760  # 700 expected, sd 14
    assert hole_sizes == {256}, "one hole of 16 x 16 pixels"
    assert 0.43 < flips / holes < 0.57


def test_eva6_scales_both_axes_alike():
    import albumentations

    pipeline = albumentations_pipeline("eva6", CIFAR10_MEAN, CIFAR10_STD)
    affine = next(step for step in pipeline.transforms if isinstance(step, albumentations.Affine))
    affine.set_random_seed(0)
    scales = [affine.get_params_dependent_on_data({"shape": (32, 32, 3)}, {})["scale"] for _ in range(50)]
    assert all(scale["x"] == scale["y"] for scale in scales)
    assert all(0.9 <= scale["x"] <= 1.1 for scale in scales)
