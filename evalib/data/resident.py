"""Training images that stay on the device, and the choice between that and worker processes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evalib.batch_augment import RESIDENT_AUGMENTATIONS, BatchAugmentation
from evalib.data.image_data import ImageData, Images, Split
from evalib.data.image_files import ImageFiles, ResizedImages
from evalib.data.order import Shard, batches_of, check_batches, epoch_order, part_of
from evalib.recipes import PATHS, Recipe, check_name
from evalib.runtime import pick_device
from evalib.transforms import Augmentation, Channels, normalize

Batch = tuple[Tensor, Tensor]
SHARE = 0.25  # of the device's free memory, for the training images


@dataclass(frozen=True)
class InputPath:
    """How training images come to the device: `kind`, "resident" or "workers", and the `reason` in one line."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return self.reason


def choose_path(data: ImageData, recipe: Recipe, device: torch.device, path: str | None = None) -> InputPath:
    """The resident path where the augmentation has a form for batches and the images fit, else workers.

    They fit if, with the mirror images and borders that the augmentation keeps, they take at most `SHARE` of the
    device's free memory. Image files are then decoded once, at the start.

    Args:
        data: whose training images.
        recipe: whose augmentation.
        device: where the batches will be.
        path: "resident" or "workers" decides; "auto" chooses; None takes the recipe's.

    Raises:
        ValueError: for "resident" with an augmentation that has no form for batches.
    """
    path = path or recipe.path
    check_name("path", path, PATHS)
    if recipe.augmentation not in RESIDENT_AUGMENTATIONS:
        if path == "resident":
            raise ValueError(
                f"Path 'resident' needs an augmentation of {RESIDENT_AUGMENTATIONS}: got {recipe.augmentation!r}. "
                "Use 'workers' or 'auto'."
            )
        return InputPath("workers", f"workers: {recipe.augmentation!r} augments image by image")
    if path == "workers":
        return InputPath("workers", "workers: as asked for")
    needed, free = _stored_bytes(data.train.images, recipe), free_memory(device)
    size, share = f"{needed / 1e6:,.1f} MB of uint8 images", f"{needed / free:.1%} of its free memory"
    if path == "resident" or needed <= SHARE * free:
        return InputPath("resident", f"resident: {size} on the device, {share}")
    if isinstance(data.train.images, ResizedImages) and _stored_bytes(data.train.images.images, recipe) <= SHARE * free:
        return InputPath("resident", f"resident: small images on the device, resized batch by batch ({size} else)")
    return InputPath("workers", f"workers: {size} are {share}, more than {SHARE:.0%}")


def fits(images: Images, recipe: Recipe, device: torch.device) -> bool:
    """Whether the images, as the network sees them and the recipe's augmentation keeps them, fit on the device."""
    return _stored_bytes(images, recipe) <= SHARE * free_memory(device)


def _stored_bytes(images: Images, recipe: Recipe) -> int:
    size = (images.shape[2], images.shape[3])
    return BatchAugmentation(Augmentation.of(recipe), (0.0,) * 3, (1.0,) * 3, size).stored_bytes(len(images))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device.

    On a CPU what Linux counts as available, in a container at most what its limit leaves; on other systems half of all
    memory.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        has_sysconf = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if has_sysconf else 4 << 30
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return free if limit == "max" else max(0, min(free, int(limit) - int(used) + int(kept["inactive_file"])))
    except (OSError, ValueError, KeyError):  # no limit is known
        return free


class ResidentLoader:
    """Whole batches from uint8 images that live on the device.

    Args:
        split: images in memory, and labels; `ResizedImages` are resized batch by batch on the device.
        mean: RGB mean on the scale [0, 1].
        std: RGB standard deviation on the scale [0, 1].
        batch_size: images per batch, of all processes together in training; the last one may be smaller.
        augmentation: one of `evalib.batch_augment.RESIDENT_AUGMENTATIONS`, with its settings.
        seed: shuffles and augments by (seed, epoch); None keeps the order, for evaluation.
        device: where images and labels are, and the batches will be.
        shard: (rank, world): this process's part of every batch, or without a seed of all images.

    Raises:
        ValueError: if the images are not in memory, the augmentation does not fit them or has no seed, or some process
            would get no image.
    """

    def __init__(
        self, split: Split, mean: Channels, std: Channels, *, batch_size: int,
        augmentation: Augmentation | str = "none", seed: int | None = None, device: torch.device | None = None,
        shard: Shard = (0, 1),
    ) -> None:  # fmt: skip
        self.device = device or pick_device("cpu")
        self.mean, self.std, self.batch_size = mean, std, batch_size
        self.seed, self.epoch, self.start, self.shard = seed, 1, 0, shard
        height, width = split.images.shape[2:]
        self.augment = BatchAugmentation(Augmentation.of(augmentation), mean, std, (height, width))
        if isinstance(split.images, ImageFiles):
            raise ValueError("A resident loader needs images in memory: got image files. Use `train_loader`.")
        if seed is None:
            if self.augment.name != "none":
                raise ValueError(f"`augmentation` {self.augment.name!r} needs a `seed`: got None.")
            part = part_of(len(split), shard)
        else:
            check_batches(len(split), batch_size, shard)
            part = slice(None)
        self.labels = split.labels[part].to(self.device)
        self.num_images = len(self.labels)
        images = split.images.select(part) if isinstance(split.images, ResizedImages) else split.images[part]
        images = images.to(self.device)
        self.images = self.augment.prepare(images) if isinstance(images, Tensor) else images

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch (from 1) that the next iterations draw, and how many of its batches they leave out."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[Batch]:
        return self._in_order() if self.seed is None else self._augmented(self.seed)

    def _in_order(self) -> Iterator[Batch]:
        for start in range(0, self.num_images, self.batch_size):
            part = slice(start, start + self.batch_size)  # a view, where indices would copy
            images = self.images[part, 0] if isinstance(self.images, Tensor) else self.images[part]
            yield normalize(images, self.mean, self.std), self.labels[part]

    def _augmented(self, seed: int) -> Iterator[Batch]:
        order = epoch_order(self.num_images, seed, self.epoch)
        draws = self.augment.draw(order, seed, self.epoch)
        parts = (batches_of(rows, self.batch_size, self.shard)[self.start :] for rows in (order, draws))
        for indices, drawn in zip(*parts, strict=True):
            there = indices.to(self.device, non_blocking=True)
            if isinstance(self.images, Tensor):
                images = self.augment(self.images, indices, drawn)
            else:
                prepared = self.augment.prepare(self.images[there])
                images = self.augment(prepared, torch.arange(len(indices)), drawn)
            yield images, self.labels[there]
