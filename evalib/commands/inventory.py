"""What is here: datasets by their names on the command line, and the machine."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalib.data import ImageData


def load_data(
    dataset: str,
    data_dir: str | None,
    filters: Mapping[str, Any],
    *,
    download: bool = False,
    damaged: str | None = None,
) -> ImageData:
    """A dataset by its name on the command line; the filters, and what to do about damaged files, are for cars."""
    from evalib.data import cifar10, sample, stanford_cars

    if dataset == "cars":
        found = stanford_cars(data_dir or "data", download=download, **filters)
        return _checked(found, damaged) if damaged else found
    if any(value not in (None, "class") for value in filters.values()):
        raise ValueError(f"--car-brand, --car-type, --car-year and --target are for the dataset cars: got {dataset}.")
    return sample() if dataset == "sample" else cifar10(data_dir or "data")


def _checked(data: ImageData, damaged: str) -> ImageData:
    """The images that can be decoded; says which ones were skipped."""
    from evalib.data.damage import check_images

    data = check_images(data, damaged)
    print_skipped(data)
    return data


def print_skipped(data: ImageData) -> None:
    """Say which images were left out, and why."""
    from evalib.data.decoding import first_lines

    if data.skipped:
        total = sum(map(len, data.splits().values())) + len(data.skipped)
        print(f"skipped {len(data.skipped):,} of {total:,} images:\n{first_lines(data.skipped)}")


def data(arguments: argparse.Namespace) -> int:
    """`evalib data`."""
    from evalib.data.stanford_cars import car_inventory

    if arguments.download:
        found = load_data("cars", arguments.data_dir, {}, download=True)
        print(f"{found.name}: {len(found.train):,} training and {len(found.test):,} test images, from {found.source}")
    if arguments.list or not arguments.download:
        print(car_inventory(arguments.data_dir))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`evalib doctor`: the exit code is 1 if something will stop a run, 0 if all is well or there are warnings only."""
    from evalib.runtime import doctor

    found = doctor(arguments.device)
    print(found)
    return 1 if found.stops else 0
