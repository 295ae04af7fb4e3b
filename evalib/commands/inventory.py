"""What is here: datasets by their names on the command line, and the machine."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalib.data import ImageData


def load_data(dataset: str, data_dir: str | None, filters: Mapping[str, Any], *, download: bool = False) -> ImageData:
    """A dataset by its name on the command line; the filters are those of Stanford Cars."""
    from evalib.data import cifar10, sample, stanford_cars

    if dataset == "cars":
        return stanford_cars(data_dir or "data", download=download, **filters)
    if any(value not in (None, "class") for value in filters.values()):
        raise ValueError(f"--car-brand, --car-type, --car-year and --target are for the dataset cars: got {dataset}.")
    return sample() if dataset == "sample" else cifar10(data_dir or "data")


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
    """`evalib doctor`."""
    from evalib.runtime import doctor

    for name, value in doctor(arguments.device).items():
        print(f"{name:14s} {value}")
    return 0
