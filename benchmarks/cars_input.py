"""Decoding speed: evalib's file loader beside torchvision's StanfordCars in a DataLoader, in one run.

Both decode the same images in the same number of workers, resize them to the same square, and give normalized float32
batches. The two take turns; what counts is the median of the ratios. Beside it: the resident memory of this process and
its workers after a quarter and at the end of a pass, which must not grow with the images seen.

    python benchmarks/cars_input.py --data-dir DIR     DIR holds stanford_cars/
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from torchvision import datasets, transforms

from evalib.data import stanford_cars
from evalib.data.loaders import FileLoader
from evalib.runtime import keep_freed_memory
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry

Batch = tuple[Tensor, Tensor]


def chained(loaders: Iterable[Iterable[Batch]]) -> Iterator[Batch]:
    """The batches of several loaders, one after the other."""
    for loader in loaders:
        yield from loader


def memory_mb() -> float:
    """Memory of this process and its children that they share with nobody else, in MB (Linux)."""
    import os

    me, total = os.getpid(), 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if int(status.parent.name) == me or int(fields["PPid"]) == me:
                rollup = (status.parent / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
        except (OSError, ValueError):
            continue  # the process ended meanwhile
    return total / 1024


def one_pass(batches: Iterable[Batch], total: int) -> tuple[float, float, float]:
    """Images per second of a pass, and the memory after a quarter of it and at its end."""
    seen, quarter, start = 0, 0.0, time.perf_counter()
    for images, _ in batches:
        assert images.dtype == torch.float32
        seen += len(images)
        if not quarter and seen >= total / 4:
            quarter = memory_mb()
        end = memory_mb() if seen == total else 0.0
    assert seen == total, f"{seen} of {total} images"
    return seen / (time.perf_counter() - start), quarter, end


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()  # as `fit` and the commands do; it holds for the whole process, and so for both
    torch.set_num_threads(1)  # of this process: the cores are for the workers of either
    size, batch, workers = options.image_size, options.batch_size, options.workers

    root = Path(options.data_dir)
    data = stanford_cars(root, image_size=size)
    plain = transforms.Compose(
        [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    theirs_set: ConcatDataset[object] = ConcatDataset(
        [datasets.StanfordCars(str(root), split, transform=plain) for split in ("train", "test")]
    )
    total = len(theirs_set)
    assert total == len(data.train) + len(data.test)
    print(f"{total:,} images, {size} pixels, batch {batch}, {workers} workers, torch {torch.__version__}")
    ratios = []
    for _ in range(options.rounds):
        theirs, *_ = one_pass(DataLoader(theirs_set, batch, num_workers=workers), total)
        splits = [split.with_geometry(Geometry("resize", size)) for split in (data.train, data.test)]
        loaders = [FileLoader(s, IMAGENET_MEAN, IMAGENET_STD, batch_size=batch, workers=workers) for s in splits]
        ours, quarter, end = one_pass(chained(loaders), total)
        ratios.append(ours / theirs)
        print(
            f"torchvision {theirs:7.0f}  evalib {ours:7.0f} images/s  ratio {ratios[-1]:.2f}   "
            f"memory {quarter:.0f} MB after a quarter, {end:.0f} MB at the end",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
