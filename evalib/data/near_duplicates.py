"""Images that look the same though their files differ: found by what is brighter than its neighbor, in a tiny copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalib.data.damage import attempts
from evalib.data.decoding import Failure
from evalib.data.image_files import ImageFiles
from evalib.transforms import Geometry

BITS = 128
# Of 128 bits. Figures for one image saved anew as JPEG of quality 50, and at half its size, within 8 bits: 99 and 99 %
# of 300 photos of Stanford Cars at 128 x 96 pixels (all of 101 at 512), 92 and 98 % of 300 images of CIFAR-10. Pairs of
# other images within 8: 2 of 10.2 million of cars, none of 5 million of CIFAR-10; within 12: 16 and none.
MOST_BITS = 8
_SIDE = 32  # pixels of the copy that is decoded


def difference_hashes(files: Sequence[Path], *, workers: int | None = None) -> tuple[Tensor, list[Failure | None]]:
    """A difference hash of each image: 64 bits of an 8 x 8 gray copy say what is brighter than its left neighbor, 64
    what is brighter than the one above.

    Args:
        files: N image files.
        workers: processes that decode, as `evalib.data.workers.workers_here` takes it.

    Returns:
        hashes: (N, 128) bool; all False for an image that cannot be decoded.
        failures: for each file None, or why it cannot be decoded.
    """
    hashes = torch.zeros((len(files), BITS), dtype=torch.bool)
    failures: list[Failure | None] = []
    for images, found in attempts(ImageFiles(files, Geometry("resize", _SIDE)), workers=workers):
        decoded = iter(images)
        for failure in found:
            if failure is None:
                hashes[len(failures)] = _hash(next(decoded))
            failures.append(failure)
    return hashes, failures


def _hash(pixels: Tensor) -> Tensor:
    """(128,) bool of one image (3, S, S) uint8."""
    gray = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())).convert("L")
    rows, columns = (
        np.asarray(gray.resize(size, Image.Resampling.BILINEAR), dtype=np.int16) for size in ((9, 8), (8, 9))
    )
    bits = (rows[:, 1:] > rows[:, :-1], columns[1:] > columns[:-1])
    return torch.from_numpy(np.concatenate([part.flatten() for part in bits]))


def near_pairs(first: Tensor, second: Tensor, most: int = MOST_BITS) -> list[tuple[int, int, int]]:
    """For each hash of `first` the nearest of `second`, if they differ in at most `most` bits.

    Args:
        first: (N, 128) bool.
        second: (M, 128) bool.
        most: bits.

    Returns:
        (index in first, index in second, bits that differ), the nearest pairs first.
    """
    found: list[tuple[int, int, int]] = []
    if not len(second):
        return found
    signs = second.float().mul(2).sub(1)  # the product of two bits as signs is 1 where they agree
    for start in range(0, len(first), 1024):
        part = first[start : start + 1024].float().mul(2).sub(1)
        nearest, indices = ((BITS - part @ signs.T) / 2).min(dim=1)
        for row in (nearest <= most).nonzero().flatten().tolist():
            found.append((start + row, int(indices[row]), int(nearest[row])))
    return sorted(found, key=lambda pair: pair[2])
