"""Image files, decoded once or whenever they are asked for, and images in memory that are resized then.

All are read like a uint8 tensor (N, 3, S, S): `images[indices]` gives the pixels of the network's input.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalib.data.decoding import decode_image, stored_size
from evalib.transforms import Geometry


class ImageFiles:
    """Image files, decoded as needed: memory does not grow with their number.

    Args:
        files: their paths.
        geometry: to one size; "as_is" is not allowed, since nothing is opened here.

    Raises:
        ValueError: for the geometry "as_is".
    """

    dtype = torch.uint8

    def __init__(self, files: Sequence[Path], geometry: Geometry) -> None:
        if geometry.kind == "as_is":
            raise ValueError("`geometry` of image files needs a size, such as Geometry('resize', 224): got 'as_is'.")
        self.files, self.geometry = tuple(files), geometry

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> torch.Size:
        """(N, 3, S, S)."""
        return torch.Size((len(self), 3, self.geometry.image_size, self.geometry.image_size))

    def file(self, index: int) -> tuple[Path | bytes, str]:
        """What is decoded for one image, and what an error calls it."""
        return self.files[index], str(self.files[index])

    def pixels(self, index: int) -> np.ndarray:
        """One image, (S, S, 3) uint8."""
        return decode_image(*self.file(index), self.geometry)

    def __getitem__(self, indices: int | slice | Tensor) -> Tensor:
        """(3, S, S) uint8 for a number, (M, 3, S, S) for a slice or M; ValueError naming an image that is damaged."""
        chosen = torch.arange(len(self))[indices] if isinstance(indices, slice) else torch.as_tensor(indices)
        if chosen.dim() == 0:
            return torch.from_numpy(self.pixels(int(chosen))).permute(2, 0, 1)
        if len(chosen) == 0:
            return torch.empty((0, *self.shape[1:]), dtype=torch.uint8)
        return torch.from_numpy(np.stack([self.pixels(index) for index in chosen.tolist()])).permute(0, 3, 1, 2)

    def select(self, indices: Tensor) -> ImageFiles:
        """The images at `indices` (M,), in that order; nothing is decoded."""
        return ImageFiles([self.files[index] for index in indices.tolist()], self.geometry)

    def with_geometry(self, geometry: Geometry) -> ImageFiles:
        """The same files, seen through another geometry."""
        return ImageFiles(self.files, geometry)

    def fingerprint(self) -> str | None:
        """A name for the files as they are now, without reading them: another one after a change. None: not known."""
        digest = hashlib.sha256(f"{self.geometry}".encode())
        for path in self.files:
            digest.update(os.fsencode(path.absolute()) + file_state(path).encode())
        return digest.hexdigest()

    def sizes(self, indices: Tensor) -> Tensor:
        """(M, 2) int64 width and height of the files at `indices`, as stored; only their headers are read."""
        found = [stored_size(*self.file(index)) for index in indices.tolist()]
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


class DecodedFiles:
    """Image files that were decoded once, and are kept as the network sees them.

    Args:
        files: their paths.
        geometry: how they were brought to one size.
        images: (N, 3, S, S) uint8, decoded so.

    Raises:
        ValueError: if there is not an image for every file.
    """

    dtype = torch.uint8

    def __init__(self, files: Sequence[Path], geometry: Geometry, images: Tensor) -> None:
        if len(files) != len(images):
            raise ValueError(f"`images` needs one for each of {len(files)} files: got {len(images)}.")
        self.files, self.geometry, self.images = tuple(files), geometry, images

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> torch.Size:
        """(N, 3, S, S)."""
        return self.images.shape

    def pixels(self, index: int) -> np.ndarray:
        """One image, (S, S, 3) uint8."""
        return np.ascontiguousarray(self.images[index].permute(1, 2, 0).numpy())

    def __getitem__(self, indices: int | slice | Tensor) -> Tensor:
        """(3, S, S) uint8 for a number, (M, 3, S, S) for a slice or M indices."""
        return self.images[indices]

    def select(self, indices: Tensor) -> DecodedFiles:
        """The images at `indices` (M,), in that order."""
        return DecodedFiles([self.files[index] for index in indices.tolist()], self.geometry, self.images[indices])

    def with_geometry(self, geometry: Geometry) -> DecodedFiles | ImageFiles:
        """The same files, seen through another geometry: then decoded as needed."""
        return self if geometry == self.geometry else ImageFiles(self.files, geometry)

    def sizes(self, indices: Tensor) -> Tensor:
        """(M, 2) int64 width and height of the files at `indices`, as stored; only their headers are read."""
        return ImageFiles(self.files, self.geometry).sizes(indices)


def file_state(path: Path) -> str:
    """Size and time of a file, or why they cannot be had: what changes with its content."""
    try:
        status = path.stat()
    except OSError as error:
        return f"\0error {error.errno}\n"
    return f"\0{status.st_size}\0{status.st_mtime_ns}\n"


class ResizedImages:
    """Images in memory, resized when they are asked for: CIFAR-10 at 224 pixels would fill 7.5 GB.

    Args:
        images: (N, 3, H, W) uint8, as stored.
        geometry: to the network's input.
    """

    dtype = torch.uint8

    def __init__(self, images: Tensor, geometry: Geometry) -> None:
        self.images, self.geometry = images, geometry

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> torch.Size:
        """(N, 3, S, S)."""
        size = self.geometry.image_size
        return torch.Size((len(self), 3, size, size)) if size else self.images.shape

    def pixels(self, index: int) -> np.ndarray:
        """One image, (S, S, 3) uint8."""
        return np.ascontiguousarray(self[index].permute(1, 2, 0).numpy())

    def __getitem__(self, indices: int | slice | Tensor) -> Tensor:
        """(3, S, S) uint8 for a number, (M, 3, S, S) for a slice or M indices."""
        chosen = self.images[indices]
        return self.geometry.batch(chosen[None])[0] if chosen.dim() == 3 else self.geometry.batch(chosen)

    def select(self, indices: Tensor | slice) -> ResizedImages:
        """The images at `indices` (M,), in that order, or those of a slice, not copied."""
        return ResizedImages(self.images[indices], self.geometry)

    def with_geometry(self, geometry: Geometry) -> ResizedImages:
        """The same images, seen through another geometry."""
        return ResizedImages(self.images, geometry)

    def to(self, device: torch.device) -> ResizedImages:
        """The same on a device; they are then resized there."""
        return ResizedImages(self.images.to(device), self.geometry)

    def sizes(self, indices: Tensor) -> Tensor:
        """(M, 2) int64 width and height of the images as stored."""
        height, width = self.images.shape[2:]
        return torch.tensor([(width, height)] * len(indices), dtype=torch.int64).reshape(-1, 2)
