"""Loaders: iterate over `(images, labels)` on the device, images (B, 3, H, W) float32 normalized, labels (B,) int64.

Three with one interface. `ResidentLoader` (evalib.data.resident) keeps the uint8 images on the device and augments a
whole batch with a few tensor operations; `WorkerLoader` augments image by image with albumentations in worker
processes; `FileLoader` decodes files in worker processes, for evaluation. What they draw depends only on
(seed, epoch). With `shard` = (rank, world) each of several processes gets its part of every batch.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from evalib.batch_augment import alternating_flips
from evalib.data.image_data import ImageData, Images, Split
from evalib.data.image_files import DecodedFiles, ImageFiles
from evalib.data.order import Shard, batches_of, check_batches, epoch_order, part_of
from evalib.data.resident import Batch, ResidentLoader, choose_path, fits
from evalib.data.resident import InputPath as InputPath
from evalib.data.workers import in_workers, stand_back, workers_here
from evalib.recipes import Recipe
from evalib.runtime import derived_seed, pick_device
from evalib.transforms import Augmentation, Channels, albumentations_pipeline, normalize, seed_pipeline


class Loader(Protocol):
    """What `fit` asks of a loader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch (from 1) whose order and augmentation the next iterations draw, and the batch that they
        begin with, counted from 0: so a run that was stopped within an epoch goes on."""


class _AugmentedBatches(Dataset[Batch]):
    """Batches by (epoch, indices): every image seeded by epoch and index, so that any worker draws the same for it."""

    def __init__(self, data: ImageData, augmentation: Augmentation, seed: int) -> None:
        self.images = _PixelsInMemory(data.train.images) if isinstance(data.train.images, Tensor) else data.train.images
        self.labels = data.train.labels
        self.pipeline = albumentations_pipeline(augmentation, data.mean, data.std, data.image_size)
        self.alternating = (augmentation.name, augmentation.flip) == ("crop", "alternating")
        self.seed = seed

    def __getitem__(self, batch: Any) -> Batch:
        epoch, indices = batch
        flips = alternating_flips(len(self.labels), self.seed, epoch) if self.alternating else None
        augmented = []
        for index in indices.tolist():
            pixels = self.images.pixels(index)
            if flips is not None and flips[index]:
                pixels = np.ascontiguousarray(pixels[:, ::-1])
            seed_pipeline(self.pipeline, derived_seed(self.seed, "augment", epoch, index))
            augmented.append(self.pipeline(image=pixels)["image"])
        return torch.stack(augmented), self.labels[indices]


class _PixelsInMemory:
    """(N, H, W, 3), as albumentations takes images; shared with the workers, not copied, where processes fork."""

    def __init__(self, images: Tensor) -> None:
        self.images = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())

    def pixels(self, index: int) -> np.ndarray:
        return self.images[index]


class _EpochSampler(Sampler[tuple[int, Tensor]]):
    def __init__(self, count: int, batch_size: int, seed: int, shard: Shard) -> None:
        check_batches(count, batch_size, shard)
        self.count, self.batch_size, self.seed, self.shard = count, batch_size, seed, shard
        self.epoch, self.start = 1, 0

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        order = epoch_order(self.count, self.seed, self.epoch)
        batches = batches_of(order, self.batch_size, self.shard)[self.start :]
        return ((self.epoch, indices) for indices in batches)


class WorkerLoader:
    """Training batches augmented by an albumentations pipeline, in worker processes.

    Args:
        data: whose training images to load.
        augmentation: one of `evalib.recipes.AUGMENTATIONS`, with its settings.
        batch_size: images per batch, of all processes together; the last one may be smaller.
        seed: order and augmentation derive from (seed, epoch, image): the same with any number of workers.
        workers: processes, at most one per core; 0 augments in this one. None takes the number of cores, at most 4.
        device: where the batches will be.
        shard: (rank, world): this process's part of every batch.

    Raises:
        ValueError: if some process would get no image of a batch.
    """

    def __init__(
        self, data: ImageData, augmentation: Augmentation | str, *, batch_size: int, seed: int,
        workers: int | None = None, device: torch.device | None = None, shard: Shard = (0, 1),
    ) -> None:  # fmt: skip
        self.device = device or pick_device("cpu")
        self.sampler = _EpochSampler(len(data.train), batch_size, seed, shard)
        batches = _AugmentedBatches(data, Augmentation.of(augmentation), seed)
        self.batches = in_workers(batches, self.sampler, workers, self.device, stand_back)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch (from 1) that the next iterations draw, and how many of its batches they leave out."""
        self.sampler.epoch, self.sampler.start = epoch, start

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.batches:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


class _StoredBatches(Dataset[Batch]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, indices: Any) -> Batch:
        return self.split.images[indices], self.split.labels[indices]


def in_memory(images: Images, workers: int | None = None) -> Tensor:
    """All images as the network sees them, (N, 3, S, S) uint8, decoded or resized in worker processes."""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, DecodedFiles):
        return images.images
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    parts = torch.arange(len(images)).split(64)
    found = torch.empty(images.shape, dtype=torch.uint8)
    batches = in_workers(_StoredBatches(split), parts, min(len(parts), workers_here(workers)), torch.device("cpu"))
    for part, (decoded, _) in zip(parts, batches, strict=True):
        found[part] = decoded
    return found


class FileLoader:
    """Image files in dataset order, for evaluation: decoded in worker processes, normalized on the device.

    Args:
        split: image files and labels.
        mean: RGB mean on the scale [0, 1].
        std: RGB standard deviation on the scale [0, 1].
        batch_size: images per batch; the last one may be smaller.
        workers: processes, at most one per core; 0 decodes in this one. None takes the number of cores, at most 4.
        device: where the batches will be.
        shard: (rank, world): this process's part of the images.

    Raises:
        ValueError: if there are fewer images than processes.
    """

    def __init__(
        self, split: Split, mean: Channels, std: Channels, *, batch_size: int, workers: int | None = None,
        device: torch.device | None = None, shard: Shard = (0, 1),
    ) -> None:  # fmt: skip
        self.device, self.mean, self.std = device or pick_device("cpu"), mean, std
        order = torch.arange(len(split))[part_of(len(split), shard)].split(batch_size)
        self.batches = in_workers(_StoredBatches(split), order, min(len(order), workers_here(workers)), self.device)

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Nothing to choose: every pass is the same."""

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.batches:
            images = images.to(self.device, non_blocking=True)
            yield normalize(images, self.mean, self.std), labels.to(self.device, non_blocking=True)


def train_loader(
    data: ImageData,
    recipe: Recipe,
    *,
    workers: int | None = None,
    device: torch.device | None = None,
    path: str | None = None,
    shard: Shard = (0, 1),
) -> ResidentLoader | WorkerLoader:
    """The recipe's training loader.

    Args:
        data: whose training images to load.
        recipe: its batch size, augmentation and seed.
        workers: processes that augment, or decode at the start, at most one per core; None takes at most 4.
        device: where the batches will be.
        path: as `choose_path` takes it.
        shard: (rank, world): this process's part of every batch.

    Raises:
        ValueError: as `choose_path`; or if some process would get no image of a batch.
    """
    device = device or pick_device("cpu")
    augmentation = Augmentation.of(recipe)
    settings: dict[str, Any] = {"batch_size": recipe.batch_size, "seed": recipe.seed, "device": device, "shard": shard}
    if choose_path(data, recipe, device, path).kind == "workers":
        return WorkerLoader(data, augmentation, workers=workers, **settings)
    split = data.train
    if isinstance(split.images, ImageFiles) or fits(split.images, recipe, device):
        split = dataclasses.replace(split, images=in_memory(split.images, workers))
    return ResidentLoader(split, data.mean, data.std, augmentation=augmentation, **settings)


def eval_loader(
    data: ImageData,
    split: str = "test",
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    device: torch.device | None = None,
    shard: Shard = (0, 1),
) -> ResidentLoader | FileLoader:
    """The images of a split in dataset order, normalized, without augmentation.

    Args:
        data: the dataset.
        split: which of its splits.
        batch_size: images per batch; None takes 500, fewer of large images.
        workers: processes that decode image files, at most one per core; None takes at most 4.
        device: where the batches will be.
        shard: (rank, world): this process's part of the images; together, by rank, they are all in order.

    Raises:
        ValueError: if the data has no such split, or it has fewer images than there are processes.
    """
    if split not in data.splits():
        raise ValueError(f"{data.name!r} has no split {split!r}. It has: {', '.join(data.splits())}.")
    chosen = data.splits()[split]
    batch_size = batch_size or max(1, min(500, 4_000_000 // math.prod(chosen.images.shape[1:])))
    settings: dict[str, Any] = {"batch_size": batch_size, "device": device, "shard": shard}
    if isinstance(chosen.images, ImageFiles):
        return FileLoader(chosen, data.mean, data.std, workers=workers, **settings)
    return ResidentLoader(chosen, data.mean, data.std, **settings)


def loading_speed(loader: Loader) -> float:
    """Images per second of a pass over a loader, after one that is not timed and starts its workers."""
    for _ in range(2):
        start, count = time.perf_counter(), 0
        for images, _labels in loader:
            count += len(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
    return count / (time.perf_counter() - start)
