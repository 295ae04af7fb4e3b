"""Augmentations of whole batches of uint8 images, on any device, normalized in the same pass.

The same distributions as the albumentations pipelines of the same names (`evalib.transforms`), in a few tensor
operations; only values that albumentations rounds to whole numbers (interpolated, gray, the color of a hole) are not
rounded here. "cars" has no such form.

All random numbers are drawn on the CPU, for a whole epoch: the same on every device and for any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.runtime import derived_seed
from evalib.transforms import Augmentation, Channels, normalize

# What is drawn for each image, uniform in [0, 1)
DRAWS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "flip": ("flip",),
    "crop": ("flip", "top", "left", "hole_top", "hole_left"),
    "eva6": ("flip", "moved", "angle", "scale", "shift_x", "shift_y", "gray", "hole_top", "hole_left"),
}
RESIDENT_AUGMENTATIONS = tuple(DRAWS)
EVA6_HOLE = 16  # pixels a side
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # of R, G and B (ITU-R BT.601), as OpenCV and so albumentations have them


class BatchAugmentation:
    """Makes normalized training batches out of stored uint8 images.

    Args:
        augmentation: one of `RESIDENT_AUGMENTATIONS`, with its settings.
        mean: RGB mean on the scale [0, 1]; also the color of holes.
        std: RGB standard deviation on the scale [0, 1].
        size: height and width of the images in pixels.

    Raises:
        ValueError: if there is no such augmentation of batches, or the images are too small for it.
    """

    def __init__(self, augmentation: Augmentation, mean: Channels, std: Channels, size: tuple[int, int]) -> None:
        self.name = augmentation.name
        if self.name not in RESIDENT_AUGMENTATIONS:
            raise ValueError(f"`augmentation` of batches must be one of {RESIDENT_AUGMENTATIONS}: got {self.name!r}.")
        self.mean, self.std, self.size = mean, std, size
        is_crop = self.name == "crop"
        self.padding = augmentation.padding if is_crop else 0
        self.hole = augmentation.cutout if is_crop else EVA6_HOLE if self.name == "eva6" else 0
        self.alternating = is_crop and augmentation.flip == "alternating"
        self.copies = 1 if self.name == "none" else 2  # with their mirror images
        if self.padding >= min(size) or self.hole > min(size):
            raise ValueError(
                f"{self.name!r} reflects {self.padding} pixels and cuts a hole of {self.hole}: it needs images larger "
                f"than the first and not smaller than the second: got {size[0]} x {size[1]} pixels."
            )

    def stored_bytes(self, count: int) -> int:
        """Bytes that `prepare` needs for `count` images."""
        height, width = self.size
        return count * self.copies * 3 * (height + 2 * self.padding) * (width + 2 * self.padding)

    def prepare(self, images: Tensor) -> Tensor:
        """Images and their mirror images with reflected borders, so that flip and crop are a matter of where to read.

        Args:
            images: (N, 3, H, W) uint8.

        Returns:
            (N, copies, 3, H + 2 padding, W + 2 padding) uint8, on their device; copies is 1 for "none", else 2.
        """
        rows, columns = (_reflected(length, self.padding, images.device) for length in self.size)
        if self.padding:
            images = images[:, :, rows[:, None], columns]
        return images[:, None] if self.copies == 1 else torch.stack([images, images.flip(3)], dim=1)

    def draw(self, order: Tensor, seed: int, epoch: int) -> Tensor:
        """Everything random of an epoch.

        Args:
            order: (N,) int64, the images in the order of the epoch.
            seed: of the run.
            epoch: from 1.

        Returns:
            (N, D) float32 in [0, 1), one row per image in that order, a column for each of `DRAWS`.
        """
        generator = torch.Generator().manual_seed(derived_seed(seed, "augment", epoch))
        draws = torch.rand(len(order), len(DRAWS[self.name]), generator=generator)
        if self.alternating:
            draws[:, 0] = torch.where(alternating_flips(len(order), seed, epoch)[order], 0.0, 0.5)
        return draws

    def __call__(self, prepared: Tensor, indices: Tensor, draws: Tensor) -> Tensor:
        """Augment and normalize.

        Args:
            prepared: (N, copies, 3, H', W') uint8, as `prepare` makes them.
            indices: (B,) int64, which of the N; on the CPU.
            draws: (B, D), the rows of `draw` for these images; on the CPU.

        Returns:
            (B, 3, H, W) float32, on the device of `prepared`.
        """
        drawn = dict(zip(DRAWS[self.name], draws.unbind(1), strict=True))
        images = normalize(self._cut(prepared, indices, drawn), self.mean, self.std)
        with_hole = torch.arange(len(indices))
        if self.name == "eva6":
            _move_half(images, drawn)
            is_gray = drawn["gray"] < 0.3
            _make_gray(images, is_gray.nonzero().flatten(), self.mean, self.std)
            with_hole = (~is_gray).nonzero().flatten()
        if self.hole:
            self._make_holes(images, with_hole, drawn)
        return images

    def _cut(self, prepared: Tensor, indices: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
        """The images of a batch, or their mirror images, or windows of them, (B, 3, H, W) uint8."""
        sides = indices if self.copies == 1 else 2 * indices + (drawn["flip"] < 0.5)
        images = _read(prepared.flatten(0, 1), sides)  # whole, since memory gives few long pieces faster
        if not self.padding:
            return images
        top, left = (_whole(drawn[edge], 2 * self.padding + 1) for edge in ("top", "left"))
        return _read(_windows(images, self.size), torch.arange(len(indices)), top, left)

    def _make_holes(self, images: Tensor, chosen: Tensor, drawn: Mapping[str, Tensor]) -> None:
        """Fill a square of the `chosen` (M,) of normalized images with the mean, in place."""
        places_y, places_x = (length - self.hole + 1 for length in self.size)
        top, left = _whole(drawn["hole_top"], places_y)[chosen], _whole(drawn["hole_left"], places_x)[chosen]
        row_of_mean = torch.zeros(self.hole, device=images.device)
        _write(_windows(images, (self.hole, self.hole)), row_of_mean, chosen, top, left)


def alternating_flips(count: int, seed: int, epoch: int) -> Tensor:
    """(count,) bool: which images are mirrored in an epoch; random in the first, then the opposite every time.

    Two epochs in a row show both sides of every image (Jordan 2024, arXiv:2404.00498, section 3.6).
    """
    first = torch.rand(count, generator=torch.Generator().manual_seed(derived_seed(seed, "flip"))) < 0.5
    return first if epoch % 2 else ~first


def move(images: Tensor, angle: Tensor, scale: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Rotate and scale images about their center, then shift them; bilinear, the border mirrored about its pixels.

    Args:
        images: (N, 3, H, W) float32.
        angle: (N,) radians, counterclockwise.
        scale: (N,), above 1 enlarges.
        shift_x: (N,) pixels to the right.
        shift_y: (N,) pixels down.

    Returns:
        (N, 3, H, W) float32, new.
    """
    height, width = images.shape[2:]
    cos, sin, shift_x, shift_y = (
        value[:, None, None].to(images.device, non_blocking=True)
        for value in (angle.cos() / scale, angle.sin() / scale, shift_x, shift_y)
    )
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, device=images.device) - middle_x - shift_x  # (N, 1, W)
    y = (torch.arange(height, device=images.device) - middle_y)[:, None] - shift_y  # (N, H, 1)
    # Where each pixel comes from, -1 and 1 being the centers of the outermost ones: a sum of what its column and its
    # row add. As complex numbers x + iy both coordinates are summed in one operation, already side by side.
    of_column = torch.complex(cos / middle_x * x, sin / middle_y * x)
    of_row = torch.complex(-sin / middle_x * y, cos / middle_y * y)
    grid = torch.view_as_real(of_column + of_row)  # (N, H, W, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def _move_half(images: Tensor, drawn: Mapping[str, Tensor]) -> None:
    """System B's shift, scale and rotate, of each image with probability 1/2, in place."""
    moved = (drawn["moved"] < 0.5).nonzero().flatten()
    angle, scale, shift_x, shift_y = (2 * drawn[name][moved] - 1 for name in ("angle", "scale", "shift_x", "shift_y"))
    height, width = images.shape[2:]
    found = move(
        _read(images, moved),
        torch.deg2rad(15 * angle),
        1 + 0.1 * scale,
        (0.1 * width * shift_x).trunc(),  # whole pixels, rounded toward 0, as albumentations has them
        (0.1 * height * shift_y).trunc(),
    )
    _write(images, found, moved)


def _make_gray(images: Tensor, chosen: Tensor, mean: Channels, std: Channels) -> None:
    """Make the `chosen` (M,) of normalized images gray, in place."""
    # in one step what denormalizing, weighting and normalizing would do in three
    weights, means, stds = torch.tensor(GRAY_WEIGHTS), torch.tensor(mean), torch.tensor(std)
    mix = (weights * stds / stds[:, None]).to(images.device, non_blocking=True)  # (to, from)
    rest = ((weights @ means - means) / stds)[:, None].to(images.device, non_blocking=True)
    gray = (mix @ _read(images, chosen).flatten(2)).add_(rest)
    _write(images, gray.unflatten(2, images.shape[2:]), chosen)


def _whole(draws: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) to whole ones in 0 .. count - 1, int64."""
    return (draws * count).long()


def _reflected(length: int, padding: int, device: torch.device) -> Tensor:
    """(length + 2 padding,) indices that repeat a border as in a mirror, its outermost pixel once."""
    distance = torch.arange(-padding, length + padding, device=device).abs()
    return torch.where(distance < length, distance, 2 * (length - 1) - distance)


def _windows(images: Tensor, size: tuple[int, int]) -> Tensor:
    """All windows of `size` in images (..., 3, H, W), as a view (..., H - h + 1, W - w + 1, 3, h, w)."""
    *outer, channels, height, width = images.shape
    *steps, channel_step, row_step, column_step = images.stride()
    places = (height - size[0] + 1, width - size[1] + 1)
    return images.as_strided(
        (*outer, *places, channels, *size), (*steps, row_step, column_step, channel_step, row_step, column_step)
    )


def _read(images: Tensor, *indices: Tensor) -> Tensor:
    """A copy of images, or windows of them, at (B,) indices made on the CPU."""
    if len(indices) == 1:
        return images.index_select(0, indices[0].to(images.device, non_blocking=True))
    if images.device.type == "cpu":
        rows = _rows(images)[tuple(index.numpy() for index in indices)]
        return torch.from_numpy(rows.view(images.numpy().dtype))
    return images[tuple(index.to(images.device, non_blocking=True) for index in indices)]


def _write(images: Tensor, values: Tensor, *indices: Tensor) -> None:
    """Set images, or windows of them, at (B,) indices made on the CPU; `values` are theirs, or one row for all."""
    if images.device.type == "cpu":
        _rows(images)[tuple(index.numpy() for index in indices)] = _rows(values)
    else:
        images[tuple(index.to(images.device, non_blocking=True) for index in indices)] = values


def _rows(images: Tensor) -> np.ndarray:
    """A view (..., H, 1) of whose elements each is a row: NumPy copies it in one go, torch number by number."""
    array = images.numpy()
    return array.view(f"V{array.shape[-1] * array.itemsize}")
