"""Preprocessing: albumentations pipelines by name, normalization of whole batches, and its inverse."""

from __future__ import annotations

import os
import random
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from evalib.recipes import AUGMENTATIONS, FLIPS, GEOMETRIES, Recipe, check_name

if TYPE_CHECKING:
    import albumentations

Channels = tuple[float, float, float]
# What torchvision's pretrained networks were trained with
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Geometry:
    """From an image as it is stored to the pixels of the network's input; the same for training, test and display.

    "resize" squeezes the image to a square. "center_crop" keeps its proportions: the shorter side becomes 256/224 of
    the input's, the middle is cut out (resize 256 and crop 224, for any size). Both average over pixels when they
    shrink (bilinear with antialiasing).

    Attributes:
        kind: one of `evalib.recipes.GEOMETRIES`; "as_is" changes nothing.
        image_size: S, height and width of the input in pixels; 0 with "as_is".
    """

    kind: str = "as_is"
    image_size: int = 0

    def __post_init__(self) -> None:
        check_name("geometry", self.kind, GEOMETRIES)
        if (self.kind == "as_is") != (self.image_size == 0) or self.image_size < 0:
            raise ValueError(
                f"`image_size` needs to be 0 with 'as_is' and positive otherwise: got {self.image_size}, {self.kind!r}."
            )

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, before cropping."""
        if self.kind == "as_is":
            return width, height
        if self.kind == "resize":
            return self.image_size, self.image_size
        shorter = round(self.image_size * 256 / 224)
        return shorter * width // min(width, height), shorter * height // min(width, height)

    def _corner(self, width: int, height: int) -> tuple[int, int]:
        """Left and top of the part that is kept of a resized image."""
        if self.kind != "center_crop":
            return 0, 0
        return round((width - self.image_size) / 2), round((height - self.image_size) / 2)

    def image(self, image: Image.Image) -> Image.Image:
        """One RGB image, S x S pixels with every kind but "as_is"."""
        if self.kind == "center_crop":
            image = _middle(image)
        size = self._resized(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        if self.kind == "center_crop":
            left, top = self._corner(*size)
            image = image.crop((left, top, left + self.image_size, top + self.image_size))
        return image

    def batch(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 to (N, 3, S, S) uint8, on their device; equal to `image` but for rounding."""
        height, width = images.shape[2:]
        new_width, new_height = self._resized(width, height)
        if (new_width, new_height) != (width, height):
            size = (new_height, new_width)
            if images.device.type == "cpu":  # has a kernel for integers
                images = F.interpolate(images, size, mode="bilinear", antialias=True)
            else:
                images = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
                images = images.round().clamp(0, 255).to(torch.uint8)
        if self.kind == "center_crop":
            left, top = self._corner(new_width, new_height)
            images = images[:, :, top : top + self.image_size, left : left + self.image_size]
        return images

    def boxes(self, boxes: Tensor, sizes: Tensor) -> Tensor:
        """Boxes in the input that belong to boxes in the stored images.

        Args:
            boxes: (N, 4) float32, left, top, right, bottom in pixels of the stored image; all 0: no box.
            sizes: (N, 2) int64, width and height of the stored images.

        Returns:
            (N, 4) float32 in pixels of the input, cut off at its edges; all 0 where there is no box.
        """
        found = []
        for box, (width, height) in zip(boxes.tolist(), sizes.tolist(), strict=True):
            new_width, new_height = self._resized(width, height)
            left, top = self._corner(new_width, new_height)
            limit = (self.image_size or width, self.image_size or height)
            corners = [
                (box[0] * new_width / width - left, box[1] * new_height / height - top),
                (box[2] * new_width / width - left, box[3] * new_height / height - top),
            ]
            clipped = [min(max(value, 0.0), limit[axis]) for corner in corners for axis, value in enumerate(corner)]
            found.append(clipped if any(box) else [0.0] * 4)
        return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)


def _middle(image: Image.Image) -> Image.Image:
    """A strip that is more than 16 times as long as wide without its ends: resized whole it could fill the memory."""
    width, height = image.size
    beyond = max(width, height) - 16 * min(width, height)
    if beyond <= 0:
        return image
    cut = beyond // 2
    return image.crop((cut, 0, width - cut, height) if width > height else (0, cut, width, height - cut))


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images at random.

    Attributes:
        name: one of `evalib.recipes.AUGMENTATIONS`; the rest is for "crop" only.
        padding: reflected pixels around an image, out of which a window of its size is cut.
        flip: "random", or "alternating" (`evalib.batch_augment.alternating_flips`).
        cutout: pixels a side of a hole filled with the mean; 0 for none.
    """

    name: str = "none"
    padding: int = 4
    flip: str = "random"
    cutout: int = 0

    def __post_init__(self) -> None:
        check_name("augmentation", self.name, AUGMENTATIONS)
        check_name("flip", self.flip, FLIPS)

    @classmethod
    def of(cls, given: Recipe | Augmentation | str) -> Augmentation:
        """The augmentation of a recipe, or of a name with the settings above."""
        if isinstance(given, Recipe):
            return cls(given.augmentation, given.crop_padding, given.flip, given.cutout)
        return given if isinstance(given, Augmentation) else cls(given)


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
    return images.float().sub_(mean_255).div_(std_255)  # in place: new memory costs more than the arithmetic


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


def albumentations_pipeline(
    augmentation: Augmentation | str, mean: Channels, std: Channels, image_size: int = 32
) -> albumentations.Compose:
    """The pipeline for one image, (H, W, 3) uint8 in, (3, H, W) float32 tensor out.

    "eva6" is system B's: flip, shift, scale and rotate, pad, then a 16x16 hole filled with the mean (70 %) or gray
    (30 %), normalize. Its ShiftScaleRotate is `Affine` in albumentations 2, with the border of the 2021 release
    (reflected; 2.0's own default is black) and one scale for both axes. "cars" is system C's: gray (30 %), flip,
    perspective always, shift by a tenth; torchvision's perspective moves the corners inward by up to 30 % of a side.
    albumentations' is another and here milder, its distances normal with a standard deviation of 8 % of a side: at 15 %
    it leaves 3 images of 1,000 all but empty. "none" only normalizes, "flip" flips first, "crop" cuts a window out of
    the image with reflected borders, flips, and fills a hole with the mean; an "alternating" flip is up to the caller,
    before the pipeline, since it depends on image and epoch. Seed it by `seed_pipeline`.

    Args:
        augmentation: one of `evalib.recipes.AUGMENTATIONS`, with its settings.
        mean: per channel on the scale [0, 1]; also the color of the hole and of the padding.
        std: per channel on the scale [0, 1].
        image_size: height and width that "crop" cuts, and that "eva6" pads smaller images to.
    """
    augmentation = Augmentation.of(augmentation)
    name = augmentation.name
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    steps: list[Any] = []
    if name == "cars":
        steps.append(strict(A.ToGray, p=0.3))
    if name == "crop" and augmentation.padding:
        steps += _crop_steps(augmentation.padding, image_size)
    if name != "none" and (name, augmentation.flip) != ("crop", "alternating"):
        steps.append(strict(A.HorizontalFlip, p=0.5))
    if name == "crop" and augmentation.cutout:
        steps.append(strict(A.CoarseDropout, **_hole(augmentation.cutout, mean), p=1.0))
    if name == "cars":
        steps += [
            strict(A.Perspective, scale=(0.08, 0.08), keep_size=True, fit_output=True, p=1.0),
            strict(A.Affine, translate_percent=(-0.1, 0.1), p=1.0),
        ]
    if name == "eva6":
        steps += _eva6_steps(mean, image_size)
    steps += [strict(A.Normalize, mean=mean, std=std, max_pixel_value=255.0), ToTensorV2()]
    return A.Compose(steps)


def _hole(size: int, mean: Channels) -> dict[str, Any]:
    """Arguments of a hole of size x size pixels; before Normalize a color is on the scale 0..255."""
    sides = {"hole_height_range": (size, size), "hole_width_range": (size, size)}
    return {"num_holes_range": (1, 1), **sides, "fill": tuple(255 * value for value in mean)}


def _crop_steps(padding: int, image_size: int) -> list[Any]:
    import albumentations as A
    import cv2

    return [
        strict(A.Pad, padding=padding, border_mode=cv2.BORDER_REFLECT_101, p=1.0),
        strict(A.RandomCrop, height=image_size, width=image_size, p=1.0),
    ]


def _eva6_steps(mean: Channels, image_size: int) -> list[Any]:
    """What system B does between flip and normalization."""
    import albumentations as A
    import cv2

    hole = _hole(16, mean)
    pad = {"min_height": image_size, "min_width": image_size, "fill": hole["fill"]}
    return [
        strict(
            A.Affine,
            translate_percent=(-0.1, 0.1),
            scale=(0.9, 1.1),
            keep_ratio=True,
            rotate=(-15, 15),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.5,
        ),
        strict(A.PadIfNeeded, border_mode=cv2.BORDER_CONSTANT, **pad, p=1.0),
        A.OneOf([strict(A.CoarseDropout, **hole, p=0.7), strict(A.ToGray, p=0.3)], p=1.0),
    ]


def seed_pipeline(pipeline: albumentations.Compose, seed: int) -> None:
    """Make what the pipeline draws next depend on `seed` alone.

    albumentations' own `set_random_seed` gives every step a generator of the same seed: their draws are then the same
    too, so that in "cars" every gray image was also flipped. Here all steps draw from one generator in turn.
    """
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
