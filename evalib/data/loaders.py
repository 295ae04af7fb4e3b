"""Loaders: iterate over `(images, labels)` on the device, images (B, 3, H, W) float32 normalized, labels (B,) int64.

Three with one interface. `WorkerLoader` augments image by image with albumentations in worker processes;
`ResidentLoader` keeps the uint8 images on the device and handles a whole batch with a few tensor operations;
`FileLoader` decodes files in worker processes, for evaluation. What they draw depends only on (seed, epoch, step).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles
from evalib.recipes import Recipe
from evalib.runtime import derived_seed, pick_device
from evalib.transforms import Channels, albumentations_pipeline, normalize, seed_pipeline

Batch = tuple[Tensor, Tensor]
RESIDENT_AUGMENTATIONS = ("none", "flip")


class Loader(Protocol):
    """What `fit` asks of a loader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 1) whose order and augmentation the next iteration draws."""


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """(count,) int64: the order of the training images in an epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "order", epoch)))


class ResidentLoader:
    """Whole batches from uint8 images that live on the device.

    Args:
        split: images in memory (resized on the device if need be), and labels.
        mean: RGB mean on the scale [0, 1].
        std: RGB standard deviation on the scale [0, 1].
        batch_size: images per batch; the last one may be smaller.
        augmentation: "none" or "flip" (left-right, half of the images).
        seed: shuffles and augments by (seed, epoch); None keeps the order, for evaluation.
        device: where images and labels are, and the batches will be.
    """

    def __init__(
        self, split: Split, mean: Channels, std: Channels, *, batch_size: int, augmentation: str = "none",
        seed: int | None = None, device: torch.device | None = None,
    ) -> None:  # fmt: skip
        if augmentation not in RESIDENT_AUGMENTATIONS:
            raise ValueError(
                f"`augmentation` of a resident loader must be one of {RESIDENT_AUGMENTATIONS}: got {augmentation!r}."
            )
        if isinstance(split.images, ImageFiles):
            raise ValueError("A resident loader needs images in memory: got image files. Use `WorkerLoader`.")
        self.device = device or pick_device("cpu")
        self.images, self.labels = split.images.to(self.device), split.labels.to(self.device)
        self.mean, self.std, self.batch_size = mean, std, batch_size
        self.augmentation, self.seed, self.epoch = augmentation, seed, 1
        self.num_images = len(split)

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 1) that the next iteration draws."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            for start in range(0, self.num_images, self.batch_size):
                part = slice(start, start + self.batch_size)  # a view, where indices would copy
                yield normalize(self.images[part], self.mean, self.std), self.labels[part]
            return
        order = epoch_order(self.num_images, self.seed, self.epoch).to(self.device)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "augment", self.epoch))
        flips = (torch.rand(self.num_images, generator=generator) < 0.5).to(self.device)
        for indices, flip in zip(order.split(self.batch_size), flips.split(self.batch_size), strict=True):
            images = self.images[indices]
            if self.augmentation == "flip":
                images = torch.where(flip[:, None, None, None], images.flip(3), images)
            yield normalize(images, self.mean, self.std), self.labels[indices]


class _AugmentedBatches(Dataset[Batch]):
    """Batches by (epoch, step, indices): seeded by epoch and step, so that any worker draws the same for them."""

    def __init__(self, data: ImageData, augmentation: str, seed: int) -> None:
        self.images = _PixelsInMemory(data.train.images) if isinstance(data.train.images, Tensor) else data.train.images
        self.labels = data.train.labels
        self.pipeline = albumentations_pipeline(augmentation, data.mean, data.std, data.image_size)
        self.seed = seed

    def __getitem__(self, batch: Any) -> Batch:
        epoch, step, indices = batch
        seed_pipeline(self.pipeline, derived_seed(self.seed, "augment", epoch, step))
        images = [self.pipeline(image=self.images.pixels(index))["image"] for index in indices.tolist()]
        return torch.stack(images), self.labels[indices]


class _PixelsInMemory:
    """(N, H, W, 3), as albumentations takes images; shared with the workers, not copied, where processes fork."""

    def __init__(self, images: Tensor) -> None:
        self.images = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())

    def pixels(self, index: int) -> np.ndarray:
        return self.images[index]


class _EpochSampler(Sampler[tuple[int, int, Tensor]]):
    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 1

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        for step, indices in enumerate(epoch_order(self.count, self.seed, self.epoch).split(self.batch_size)):
            yield self.epoch, step, indices


class WorkerLoader:
    """Training batches augmented by an albumentations pipeline, in worker processes.

    Args:
        data: whose training images to load.
        augmentation: name of the pipeline (`evalib.recipes.AUGMENTATIONS`).
        batch_size: images per batch; the last one may be smaller.
        seed: order and augmentation derive from (seed, epoch, step): the same with any number of workers.
        workers: processes; 0 augments in this one. None takes the number of cores, at most 4.
        device: where the batches will be.
    """

    def __init__(
        self, data: ImageData, augmentation: str, *, batch_size: int, seed: int, workers: int | None = None,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.device = device or pick_device("cpu")
        self.sampler = _EpochSampler(len(data.train), batch_size, seed)
        self.batches = _in_workers(
            _AugmentedBatches(data, augmentation, seed), self.sampler, workers, self.device, _stand_back
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 1) that the next iteration draws."""
        self.sampler.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.batches:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


def _in_workers(
    batches: Dataset[Batch],
    sampler: Any,
    workers: int | None,
    device: torch.device,
    begin: Callable[[int], None] | None = None,
) -> DataLoader[Batch]:
    """A loader whose workers make whole batches out of the sampler's items."""
    workers = workers_here(workers)
    return DataLoader(
        batches,
        sampler=sampler,
        batch_size=None,  # the sampler's items are whole batches
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=begin,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),  # else it draws from the global random numbers
    )


class _StoredBatches(Dataset[Batch]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, indices: Any) -> Batch:
        return self.split.images[indices], self.split.labels[indices]


class FileLoader:
    """Image files in dataset order, for evaluation: decoded in worker processes, normalized on the device.

    Args:
        split: image files and labels.
        mean: RGB mean on the scale [0, 1].
        std: RGB standard deviation on the scale [0, 1].
        batch_size: images per batch; the last one may be smaller.
        workers: processes; 0 decodes in this one. None takes the number of cores, at most 4.
        device: where the batches will be.
    """

    def __init__(
        self, split: Split, mean: Channels, std: Channels, *, batch_size: int, workers: int | None = None,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.device, self.mean, self.std = device or pick_device("cpu"), mean, std
        order = torch.arange(len(split)).split(batch_size)
        self.batches = _in_workers(_StoredBatches(split), order, min(len(order), workers_here(workers)), self.device)

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Nothing to choose: every pass is the same."""

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.batches:
            images = images.to(self.device, non_blocking=True)
            yield normalize(images, self.mean, self.std), labels.to(self.device, non_blocking=True)


def _stand_back(worker: int) -> None:
    """Leave the cores to the training step: it waits for its slowest thread, a worker has batches to spare."""
    import cv2

    cv2.setNumThreads(0)  # else a thread per core in every worker
    if hasattr(os, "nice"):
        os.nice(10)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_here(workers: int | None) -> int:
    """The number of worker processes that was asked for; with None as many as there are cores, at most 4."""
    return min(available_cores(), 4) if workers is None else workers


def train_loader(
    data: ImageData, recipe: Recipe, *, workers: int | None = None, device: torch.device | None = None
) -> Loader:
    """The recipe's training loader: resident where images and augmentation allow it, else with workers."""
    if recipe.augmentation in RESIDENT_AUGMENTATIONS and not isinstance(data.train.images, ImageFiles):
        return ResidentLoader(
            data.train, data.mean, data.std, batch_size=recipe.batch_size, augmentation=recipe.augmentation,
            seed=recipe.seed, device=device,
        )  # fmt: skip
    return WorkerLoader(
        data,
        recipe.augmentation,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        workers=workers,
        device=device,
    )


def eval_loader(
    data: ImageData,
    split: str = "test",
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    device: torch.device | None = None,
) -> ResidentLoader | FileLoader:
    """The images of a split in dataset order, normalized, without augmentation.

    Args:
        data: the dataset.
        split: which of its splits.
        batch_size: images per batch; None takes 500, fewer of large images.
        workers: processes that decode image files; None takes the number of cores, at most 4.
        device: where the batches will be.

    Raises:
        ValueError: if the data has no such split.
    """
    if split not in data.splits():
        raise ValueError(f"{data.name!r} has no split {split!r}. It has: {', '.join(data.splits())}.")
    chosen = data.splits()[split]
    batch_size = batch_size or max(1, min(500, 4_000_000 // math.prod(chosen.images.shape[1:])))
    if isinstance(chosen.images, ImageFiles):
        return FileLoader(chosen, data.mean, data.std, batch_size=batch_size, workers=workers, device=device)
    return ResidentLoader(chosen, data.mean, data.std, batch_size=batch_size, device=device)
