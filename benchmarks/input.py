"""Training images per second: albumentations and torchvision in a DataLoader beside evalib's resident path, in turn.

    python -m benchmarks.input [--images 50000] [--batch-size 512] [--device cuda]

Two pipelines: "crop" (reflected border of 4 pixels, random crop, flip, a hole of 8 x 8 pixels) and "eva6" (system B's:
flip, shift, scale and rotate, then a hole of 16 x 16 pixels or gray). Every candidate gives normalized float32 batches
on the device, the same from epoch to epoch in distribution. The images are the shipped sample, repeated. A round of a
slow candidate is a part of an epoch; starting worker processes does not count, nor do the batches they have ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Report, machine, parser, publish, take_turns_in_processes
from evalib.data import sample
from evalib.data.image_data import ImageData, Split
from evalib.data.resident import ResidentLoader
from evalib.runtime import keep_freed_memory, pick_device
from evalib.transforms import Augmentation, albumentations_pipeline

Round = Callable[[], float]
PIPELINES = {"crop": Augmentation("crop", padding=4, cutout=8), "eva6": Augmentation("eva6")}
SECONDS = 2.0  # of a round, about
READY = 4  # batches that two workers have ready before they wait


def repeated_sample(count: int) -> ImageData:
    """The shipped sample with `count` training images, repeated as often as it takes."""
    data = sample()
    rows = torch.arange(count) % len(data.train)
    train = Split(data.train.images[rows], data.train.labels[rows])
    return ImageData(data.name, data.classes, train, data.test, data.mean, data.std)


class ImageByImage(Dataset[tuple[Tensor, Tensor]]):
    """What scripts have: one image, augmented, and its label."""

    def __init__(self, split: Split, augment: Callable[..., Any]) -> None:
        self.images, self.labels, self.augment = split.images, split.labels, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.augment(self.images[index]), self.labels[index]


class WithAlbumentations:
    """The pipeline of this library, for one image; worker processes can be sent it, as no lambda."""

    def __init__(self, augmentation: Augmentation, data: ImageData) -> None:
        self.pipeline = albumentations_pipeline(augmentation, data.mean, data.std)

    def __call__(self, image: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        return self.pipeline(image=pixels)["image"]  # type: ignore[no-any-return]


def with_torchvision(augmentation: Augmentation, data: ImageData) -> Callable[..., Any]:
    """The nearest that torchvision's transforms have: its border of an affine is not reflected but black."""
    from torchvision.transforms import v2

    def hole(side: int) -> v2.Transform:
        share = (side / 32) ** 2  # of the image's area, of a square
        return v2.RandomErasing(p=1.0, scale=(share, share), ratio=(1.0, 1.0), value=0.0)

    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
    if augmentation.name == "crop":
        crop = v2.RandomCrop(32, padding=augmentation.padding, padding_mode="reflect")
        return v2.Compose([crop, v2.RandomHorizontalFlip(), *finish, hole(augmentation.cutout)])
    affine = v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)
    or_gray = v2.Compose([v2.RandomGrayscale(p=1.0), *finish])
    with_hole = v2.Compose([*finish, hole(16)])
    return v2.Compose([
        v2.RandomHorizontalFlip(), v2.RandomApply([affine], p=0.5), v2.RandomChoice([with_hole, or_gray], p=[0.7, 0.3]),
    ])  # fmt: skip


def dataloader(
    transform: Callable[..., Any], workers: int, pipeline: str, count: int, batch_size: int, device: torch.device
) -> Round:
    """A function that returns images per second of a DataLoader."""
    data = repeated_sample(count)
    dataset = ImageByImage(data.train, transform(PIPELINES[pipeline], data))
    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )  # fmt: skip

    def epochs() -> Iterator[Tensor]:
        while True:
            for images, labels in loader:
                labels.to(device, non_blocking=True)
                yield images.to(device, non_blocking=True)

    return partial(speed, epochs(), device, READY if workers else 0)


def resident(pipeline: str, count: int, batch_size: int, device: torch.device) -> Round:
    """Likewise, of evalib's loader; what an epoch begins with, its order and random numbers, counts."""
    keep_freed_memory()
    data = repeated_sample(count)
    loader = ResidentLoader(
        data.train, data.mean, data.std, batch_size=batch_size, augmentation=PIPELINES[pipeline], seed=1, device=device
    )

    def epochs() -> Iterator[Tensor]:
        epoch = 0
        while True:
            loader.set_epoch(epoch := epoch + 1)
            for images, _ in loader:
                yield images

    return partial(speed, epochs(), device, 0)


def speed(source: Iterator[Tensor], device: torch.device, ready: int) -> float:
    """Images per second over about `SECONDS`; the first `ready` batches do not count: workers made them before."""
    for _ in range(ready):
        next(source)
    start, batches = synchronized(device), []
    while time.perf_counter() - start < SECONDS:
        batches.append(len(next(source)))
    found = sum(batches) / (synchronized(device) - start)
    time.sleep(1.5 * ready * batches[0] / found)  # until the workers wait, and leave the cores to the next candidate
    return found


def synchronized(device: torch.device) -> float:
    """The time when the device has done what it was given, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=50_000, help="in the set (default: 50000)")
    options.add_argument("--batch-size", type=int, default=512)
    arguments = options.parse_args()
    device = pick_device(arguments.device)
    candidates: dict[str, Callable[..., Round]] = {
        "albumentations, 2 workers": partial(dataloader, WithAlbumentations, 2),
        "albumentations, 0 workers": partial(dataloader, WithAlbumentations, 0),
        "torchvision v2, 2 workers": partial(dataloader, with_torchvision, 2),
        "evalib": resident,
    }
    reports = []
    for pipeline in PIPELINES:
        settings = (pipeline, arguments.images, arguments.batch_size, device)
        figures = take_turns_in_processes(
            {name: partial(make, *settings) for name, make in candidates.items()}, arguments.rounds
        )
        described = {"batch": arguments.batch_size, "images": arguments.images}
        name = f"input, {pipeline}"
        reports.append(Report(name, "images/s", figures, next(iter(candidates)), machine(device), described))
    publish(reports, arguments.output)


if __name__ == "__main__":
    main()
