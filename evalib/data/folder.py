"""A folder of images as a dataset: `train/<class>/*` and `test/<class>/*`, decoded once and kept in a checked cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evalib.data.damage import DAMAGED, damage_error, user_cache
from evalib.data.decoding import Failure, ImageError, decode_image
from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import file_state
from evalib.files import replacing
from evalib.origin import Origin
from evalib.recipes import check_name
from evalib.transforms import Channels, Geometry

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
CACHE_NAME = ".evalib-cache.npz"


@dataclass(frozen=True)
class _Decoded:
    """A folder in memory: (N, 3, H, W) uint8 images and (N,) int64 labels by split, and which files are left out."""

    splits: dict[str, tuple[torch.Tensor, torch.Tensor]]
    skipped: tuple[str, ...]


def stack_images(files: Iterable[tuple[Path | bytes, str]], image_size: int | None) -> torch.Tensor:
    """Images decoded into one (N, 3, H, W) uint8 tensor; all must have one size unless `image_size` is given."""
    images, failures = _stack_whole(files, image_size)
    for failure in failures.values():
        raise ImageError(failure)
    return images


def _stack_whole(
    files: Iterable[tuple[Path | bytes, str]], image_size: int | None
) -> tuple[torch.Tensor, dict[int, Failure]]:
    """The images that can be decoded, as `stack_images` has them, and by their position why the others cannot."""
    geometry = Geometry() if image_size is None else Geometry("resize", image_size)
    images: list[np.ndarray] = []
    failures = {}
    for position, (file, name) in enumerate(files):
        try:
            image = decode_image(file, name, geometry)
        except ImageError as error:
            failures[position] = error.failure
            continue
        if images and image.shape != images[0].shape:
            height, width = images[0].shape[:2]
            raise ValueError(
                f"All images need one size: {name} is {image.shape[1]}x{image.shape[0]} pixels, "
                f"those before it are {width}x{height}. "
                "Pass `image_size` to resize them."
            )
        images.append(image)
    if not images:
        return torch.empty((0, 3, 0, 0), dtype=torch.uint8), failures
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))), failures


def image_folder(
    root: str | Path,
    *,
    name: str | None = None,
    image_size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    cache: bool = True,
    damaged: str = "stop",
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
        damaged: what to do about images that cannot be decoded: "stop" with an error that names them all, or "skip"
            them; `ImageData.skipped` then says which, and why.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if there is no class, a class has no image, the splits differ in classes, or an image is damaged.
    """
    check_name("damaged", damaged, DAMAGED)
    root = Path(root)
    classes = _same_classes(root)
    files = {split: _class_files(root / split, classes) for split in ("train", "test")}
    fingerprint = _fingerprint(root, files, image_size)
    decoded = _read_cache(root, fingerprint) if cache else None
    if decoded is None:
        decoded, lasting = _decoded(root, files, image_size)
        if cache and lasting:
            _write_cache(root, fingerprint, decoded)
    if decoded.skipped and damaged == "stop":
        raise damage_error(decoded.skipped, sum(len(paths) for members in files.values() for paths in members), root)
    for split, (_, labels) in decoded.splits.items():
        if empty := set(range(len(classes))) - set(labels.tolist()):
            raise ValueError(f"No image in {root / split / classes[min(empty)]} can be decoded. Add some that can.")
    if mean is None or std is None:
        mean, std = channel_statistics(decoded.splits["train"][0])
    return ImageData(
        name or root.resolve().name,
        classes,
        Split(*decoded.splits["train"]),
        Split(*decoded.splits["test"]),
        mean,
        std,
        source=f"image files in {root.resolve().name}/",
        skipped=decoded.skipped,
        origin=Origin("folder", str(root), {"name": name, "image_size": image_size, "damaged": damaged}),
    )


def _decoded(root: Path, files: dict[str, list[list[Path]]], image_size: int | None) -> tuple[_Decoded, bool]:
    """The images of a folder, and whether that lasts: a file that could not be read now may be readable later."""
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    skipped: list[str] = []
    lasting = True
    for split, members in files.items():
        named = ((path, str(path.relative_to(root))) for paths in members for path in paths)
        images, failures = _stack_whole(named, image_size)
        labels = [label for label, paths in enumerate(members) for _ in paths]
        kept = [label for position, label in enumerate(labels) if position not in failures]
        splits[split] = images, torch.tensor(kept, dtype=torch.int64)
        skipped += map(str, failures.values())
        lasting = lasting and all(failure.damaged for failure in failures.values())
    return _Decoded(splits, tuple(skipped)), lasting


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


def _same_classes(root: Path) -> tuple[str, ...]:
    """Names of the classes, if train and test have the same."""
    classes, found = _class_names(root / "train"), _class_names(root / "test")
    if found != classes:
        odd = sorted(set(found) ^ set(classes))
        raise ValueError(
            f"{root}: train and test need the same classes; these are in one of them only: {', '.join(odd)}."
        )
    return classes


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
    digest = hashlib.sha256(f"evalib-2 {image_size}".encode())
    for members in files.values():
        for path in (path for paths in members for path in paths):
            digest.update(os.fsencode(path.relative_to(root)) + file_state(path).encode())
    return digest.hexdigest()


def _cache_paths(root: Path) -> list[Path]:
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return [root / CACHE_NAME, user_cache() / f"{place}.npz"]


def _read_cache(root: Path, fingerprint: str) -> _Decoded | None:
    for path in _cache_paths(root):
        try:
            # a zip file: reading checks the CRC of each array
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if str(arrays["fingerprint"]) == fingerprint:
                    splits = {
                        name: (
                            torch.from_numpy(arrays[f"{name}_images"]),
                            torch.from_numpy(arrays[f"{name}_labels"]),
                        )
                        for name in ("train", "test")
                    }
                    return _Decoded(splits, tuple(arrays["skipped"].tolist()))
        except Exception:  # missing, damaged (in ways of NumPy, zipfile and zlib) or foreign: decode the images again
            continue
    return None


def _write_cache(root: Path, fingerprint: str, decoded: _Decoded) -> None:
    arrays = {"fingerprint": np.array(fingerprint), "skipped": np.array(decoded.skipped, dtype=str)}
    for name, (images, labels) in decoded.splits.items():
        arrays |= {f"{name}_images": images.numpy(), f"{name}_labels": labels.numpy()}
    for path in _cache_paths(root):
        try:
            with replacing(path) as temporary:
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
        except OSError:
            continue  # a cache is a convenience: without a place for it the images are decoded each time
        return
