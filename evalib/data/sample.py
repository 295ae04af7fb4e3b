"""The sample shipped in the package: 5,000 training and 1,000 test images of CIFAR-10, balanced, as JPEG files.

The first 500 and 100 images of each class of CIFAR-10's own splits, compressed as JPEG of quality 75, so figures on the
sample cannot be compared with published ones.
"""

from __future__ import annotations

import tarfile
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch

from evalib.data.folder import SUFFIXES, stack_images
from evalib.data.image_data import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, ImageData, Split
from evalib.origin import Origin

ARCHIVE = "sample.tar.xz"


@lru_cache(maxsize=1)
def sample() -> ImageData:
    """The shipped sample as an `ImageData`; needs no network and about a second, once."""
    files: dict[str, list[tuple[bytes, str, int]]] = {"train": [], "test": []}
    with (
        resources.files("evalib.data").joinpath(ARCHIVE).open("rb") as raw,
        tarfile.open(fileobj=raw, mode="r:xz") as archive,
    ):
        for member in archive:
            split, class_name, _ = member.name.split("/")
            content = archive.extractfile(member)
            if content is not None:
                files[split].append((content.read(), member.name, CIFAR10_CLASSES.index(class_name)))
    splits = {
        split: Split(
            stack_images(((content, name) for content, name, _ in members), None),
            torch.tensor([label for _, _, label in members]),
        )
        for split, members in files.items()
    }
    return ImageData(
        "cifar10-sample", CIFAR10_CLASSES, splits["train"], splits["test"], CIFAR10_MEAN, CIFAR10_STD,
        source="the sample shipped with evalib (CIFAR-10 as JPEG)", origin=Origin("sample"),
    )  # fmt: skip


def write_sample(folder: Path, archive: Path, *, train: int = 500, test: int = 100) -> None:
    """Make the sample from a folder of images `train/<class>/*`, `test/<class>/*`: the first files of each class.

    Times, owners and order are fixed, so the same images give the same archive.
    """
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for split, count in (("train", train), ("test", test)):
            for class_name in CIFAR10_CLASSES:
                members = sorted(
                    path for path in (folder / split / class_name).iterdir() if path.suffix.lower() in SUFFIXES
                )
                for path in members[:count]:
                    info = tarfile.TarInfo(f"{split}/{class_name}/{path.name}")
                    info.size = path.stat().st_size
                    with path.open("rb") as file:
                        tar.addfile(info, file)
