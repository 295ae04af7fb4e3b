"""Preprocessing: albumentations pipelines by name, normalization of whole batches, and its inverse."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evalib.recipes import AUGMENTATIONS, check_name

if TYPE_CHECKING:
    import albumentations

Channels = tuple[float, float, float]


def _per_channel(values: Channels, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).reshape(3, 1, 1)


def normalize(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """(images / 255 - mean) / std.

    Args:
        images: (..., 3, H, W) uint8 in 0..255.
        mean: per channel, on the scale [0, 1].
        std: per channel, on the scale [0, 1].

    Returns:
        (..., 3, H, W) float32, a new tensor.

    Raises:
        TypeError: if the images are not uint8: a float image on [0, 1] would be divided by 255 once more.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"`images` must be uint8 in 0..255: got {images.dtype}.")
    mean_255, std_255 = _per_channel(mean, images) * 255, _per_channel(std, images) * 255
    return (images.float() - mean_255) / std_255


def denormalize(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """The inverse of `normalize`, for display: (..., 3, H, W) float32 in [0, 1], a new tensor."""
    if images.dim() < 3 or images.shape[-3] != 3:
        raise ValueError(f"`images` must be (3, H, W) or (N, 3, H, W): got {tuple(images.shape)}.")
    return (images.float() * _per_channel(std, images) + _per_channel(mean, images)).clamp(0, 1)


def strict(transform: type[Any], **arguments: Any) -> Any:
    """Build an albumentations transform; an argument that albumentations would ignore is an error.

    albumentations 2 only warns of an unknown argument and goes on with its default: a recipe changes without a word.

    Raises:
        ValueError: naming the transform and the argument.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return transform(**arguments)
        except UserWarning as warning:
            raise ValueError(f"albumentations would ignore an argument of {transform.__name__}: {warning}") from warning


def albumentations_pipeline(name: str, mean: Channels, std: Channels, image_size: int = 32) -> albumentations.Compose:
    """The pipeline for one image, (H, W, 3) uint8 in, (3, H, W) float32 tensor out.

    "eva6" is system B's: flip, shift, scale and rotate, pad, then a 16x16 hole filled with the mean (70 %) or gray
    (30 %), normalize. Its ShiftScaleRotate is `Affine` in albumentations 2, with the border of the 2021 release
    (reflected; 2.0's own default is black) and one scale for both axes. "none" only normalizes, "flip" flips first.

    Args:
        name: one of `evalib.recipes.AUGMENTATIONS`.
        mean: per channel on the scale [0, 1]; also the color of the hole and of the padding.
        std: per channel on the scale [0, 1].
        image_size: height and width that smaller images are padded to.
    """
    check_name("augmentation", name, AUGMENTATIONS)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    steps: list[Any] = []
    if name in ("flip", "eva6"):
        steps.append(strict(A.HorizontalFlip, p=0.5))
    if name == "eva6":
        fill = tuple(255 * value for value in mean)  # before Normalize a color is on the scale 0..255
        hole = {"num_holes_range": (1, 1), "hole_height_range": (16, 16), "hole_width_range": (16, 16)}
        steps += [
            strict(
                A.Affine,
                translate_percent=(-0.1, 0.1),
                scale=(0.9, 1.1),
                keep_ratio=True,
                rotate=(-15, 15),
                border_mode=cv2.BORDER_REFLECT_101,
                p=0.5,
            ),
            strict(
                A.PadIfNeeded,
                min_height=image_size,
                min_width=image_size,
                border_mode=cv2.BORDER_CONSTANT,
                fill=fill,
                p=1.0,
            ),
            A.OneOf([strict(A.CoarseDropout, **hole, fill=fill, p=0.7), strict(A.ToGray, p=0.3)], p=1.0),
        ]
    steps += [strict(A.Normalize, mean=mean, std=std, max_pixel_value=255.0), ToTensorV2()]
    return A.Compose(steps)
