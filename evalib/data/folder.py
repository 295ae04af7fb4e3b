"""A folder of images as a dataset: `train/<class>/*` and `test/<class>/*`, decoded once and kept in a checked cache."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from evalib.data.decoding import decode_image
from evalib.data.image_data import ImageData, Split
from evalib.files import replacing
from evalib.transforms import Channels, Geometry

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
CACHE_NAME = ".evalib-cache.npz"


def stack_images(files: Iterable[tuple[Path | bytes, str]], image_size: int | None) -> torch.Tensor:
    """Images decoded into one (N, 3, H, W) uint8 tensor; all must have one size unless `image_size` is given."""
    geometry = Geometry() if image_size is None else Geometry("resize", image_size)
    images: list[np.ndarray] = []
    for file, name in files:
        image = decode_image(file, name, geometry)
        if images and image.shape != images[0].shape:
            height, width = images[0].shape[:2]
            raise ValueError(
                f"All images need one size: {name} is {image.shape[1]}x{image.shape[0]} pixels, "
                f"those before it are {width}x{height}. "
                "Pass `image_size` to resize them."
            )
        images.append(image)
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def image_folder(
    root: str | Path,
    *,
    name: str | None = None,
    image_size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    cache: bool = True,
) -> ImageData:
    """A dataset from `root/train/<class>/*` and `root/test/<class>/*`.

    The images are decoded once; the next call reads one array from a cache beside them (or in the user's cache folder
    where `root` cannot be written). The cache is used only if the list of files with their sizes and times is the same
    and its checksum holds; otherwise it is written anew.

    Args:
        root: the folder.
        name: of the dataset; None takes the folder's.
        image_size: height and width in pixels to resize to; None needs images of one size.
        mean: RGB mean on the scale [0, 1]; None computes it from the training images.
        std: RGB standard deviation on the scale [0, 1]; None computes it from the training images.
        cache: whether to read and write the cache.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if there is no class, a class has no image, the splits differ in classes, or an image is damaged.
    """
    root = Path(root)
    classes = _class_names(root / "train")
    if (found := _class_names(root / "test")) != classes:
        odd = sorted(set(found) ^ set(classes))
        raise ValueError(
            f"{root}: train and test need the same classes; these are in one of them only: {', '.join(odd)}."
        )
    files = {split: _class_files(root / split, classes) for split in ("train", "test")}
    fingerprint = _fingerprint(root, files, image_size)
    stacked = _read_cache(root, fingerprint) if cache else None
    if stacked is None:
        stacked = {}
        for split, members in files.items():
            images = stack_images(((path, str(path)) for paths in members for path in paths), image_size)
            labels = [label for label, paths in enumerate(members) for _ in paths]
            stacked[split] = images, torch.tensor(labels)
        if cache:
            _write_cache(root, fingerprint, stacked)
    if mean is None or std is None:
        mean, std = channel_statistics(stacked["train"][0])
    return ImageData(
        name or root.resolve().name,
        classes,
        Split(*stacked["train"]),
        Split(*stacked["test"]),
        mean,
        std,
        source=f"image files in {root.resolve().name}/",
    )


def channel_statistics(images: torch.Tensor) -> tuple[Channels, Channels]:
    """RGB mean and standard deviation on the scale [0, 1] of (N, 3, H, W) uint8 images, from their histograms."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(3):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        mean = (counts @ levels) / counts.sum()
        means.append(mean.item())
        stds.append(
            max(((counts @ (levels - mean) ** 2) / counts.sum()).sqrt().item(), 1 / 255)
        )  # a constant set: no division by 0
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. A folder dataset needs images in train/<class>/ and test/<class>/ "
            f"of {folder.parent}."
        )
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise ValueError(f"{folder} has no class folder. It needs one folder of images per class, as {folder / 'cat'}.")
    return names


def _class_files(folder: Path, classes: tuple[str, ...]) -> list[list[Path]]:
    members = []
    for name in classes:
        paths = sorted(
            path
            for path in (folder / name).iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not paths:
            raise ValueError(
                f"The class folder {folder / name} has no image ({', '.join(SUFFIXES)}). "
                "Add some, or remove the folder from train and test."
            )
        members.append(paths)
    return members


def _fingerprint(root: Path, files: dict[str, list[list[Path]]], image_size: int | None) -> str:
    digest = hashlib.sha256(f"evalib-1 {image_size}".encode())
    for members in files.values():
        for path in (path for paths in members for path in paths):
            status = path.stat()
            digest.update(f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cache_paths(root: Path) -> list[Path]:
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return [root / CACHE_NAME, user_cache / "evalib" / f"{place}.npz"]


def _read_cache(root: Path, fingerprint: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]] | None:
    for path in _cache_paths(root):
        try:
            # a zip file: reading checks the CRC of each array
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if str(arrays["fingerprint"]) == fingerprint:
                    return {
                        name: (
                            torch.from_numpy(arrays[f"{name}_images"]),
                            torch.from_numpy(arrays[f"{name}_labels"]),
                        )
                        for name in ("train", "test")
                    }
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue  # missing, damaged or foreign: decode the images again
    return None


def _write_cache(root: Path, fingerprint: str, stacked: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    arrays: dict[str, np.ndarray] = {"fingerprint": np.array(fingerprint)}
    for name, (images, labels) in stacked.items():
        arrays |= {f"{name}_images": images.numpy(), f"{name}_labels": labels.numpy()}
    for path in _cache_paths(root):
        try:
            with replacing(path) as temporary:
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
        except OSError:
            continue  # a cache is a convenience: without a place for it the images are decoded each time
        return
