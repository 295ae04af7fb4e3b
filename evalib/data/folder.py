"""A folder of images as a dataset: `train/<class>/*` and `test/<class>/*`, or `<class>/*`, decoded once and cached."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalib.data.damage import DAMAGED, attempts, check_images, damage_error, user_cache
from evalib.data.decoding import Failure, ImageError, decode_image
from evalib.data.folder_layout import SUFFIXES as SUFFIXES
from evalib.data.folder_layout import FolderFiles, folder_files
from evalib.data.image_data import ImageData, Images, Split
from evalib.data.image_files import DecodedFiles, ImageFiles, file_state
from evalib.files import replacing
from evalib.origin import Origin
from evalib.recipes import check_name
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Channels, Geometry

CACHE_NAME = ".evalib-cache.npz"
MOST_IN_MEMORY = 2_000_000_000  # bytes of uint8 pixels; of more the files are decoded as needed


@dataclass(frozen=True)
class _Decoded:
    """A folder in memory: by split (N, 3, H, W) uint8 images and (N,) int64 which files they are; who is left out."""

    splits: dict[str, tuple[Tensor, Tensor]]
    skipped: tuple[str, ...]


def stack_images(files: Iterable[tuple[Path | bytes, str]], image_size: int | None) -> Tensor:
    """Images decoded into one (N, 3, H, W) uint8 tensor; all must have one size unless `image_size` is given."""
    images, failures = _stack_whole(files, image_size)
    for failure in failures.values():
        raise ImageError(failure)
    return images


def _stack_whole(
    files: Iterable[tuple[Path | bytes, str]], image_size: int | None
) -> tuple[Tensor, dict[int, Failure]]:
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
    geometry: str = "resize",
    cache: bool = True,
    damaged: str = "stop",
    test_fraction: float = 0.2,
    seed: int = 1,
) -> ImageData:
    """A dataset from `root/train/<class>/*` and `root/test/<class>/*`, or from `root/<class>/*`, then split here.

    `evalib.data.folder_layout.folder_files` tells what counts as a split, and how one is made. The images are decoded
    once; the next call reads one array from a cache beside them (or in the user's cache folder where `root` cannot be
    written). The cache is used only if the list of files with their sizes and times is the same and its checksum holds;
    otherwise it is written anew. A set of more than `MOST_IN_MEMORY` bytes stays files, decoded as needed.

    Args:
        root: the folder.
        name: of the dataset; None takes the folder's.
        image_size: height and width in pixels to bring the images to; None needs images of one size.
        geometry: how, as `evalib.transforms.Geometry` takes it; of no use without `image_size`.
        cache: whether to read and write the cache.
        damaged: what to do about images that cannot be decoded: "stop" with an error that names them all, or "skip"
            them; `ImageData.skipped` then says which, and why.
        test_fraction: of the images of each class, in (0, 1), where no test images are given.
        seed: of the choice of these.

    Returns:
        The dataset, with its own statistics to normalize by, or ImageNet's where it stays files.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: as `folder_files`, or if an image is damaged or of another size.
    """
    check_name("damaged", damaged, DAMAGED)
    files = folder_files(root, test_fraction=test_fraction, seed=seed)
    target = Geometry() if image_size is None else Geometry(geometry, image_size)
    asked: dict[str, Any] = {"name": name, "image_size": image_size, "geometry": geometry, "damaged": damaged}
    asked |= {"test_fraction": test_fraction, "seed": seed, "files": files.fingerprint()}
    place = files.root.resolve().name
    known: dict[str, Any] = {"source": f"image files in {place}/{f', split by seed {seed}' if files.ours else ''}"}
    known["origin"] = Origin("folder", str(root), asked)
    if 3 * target.image_size**2 * files.count() > MOST_IN_MEMORY:
        large: dict[str, Any] = _undecoded_splits(files, target)
        data = ImageData(name or place, files.classes, mean=IMAGENET_MEAN, std=IMAGENET_STD, **large, **known)
        data = check_images(data, damaged, cache=cache)
        for split, found in data.splits().items():
            _check_classes(files, split, found.labels)
        return data
    decoded = _decoded_once(files, target, cache)
    if decoded.skipped and damaged == "stop":
        raise damage_error(decoded.skipped, files.count(), files.root)
    splits: dict[str, Any] = {split: _split_of(files, split, target, *found) for split, found in decoded.splits.items()}
    mean, std = channel_statistics(decoded.splits["train"][0])
    return ImageData(name or place, files.classes, mean=mean, std=std, skipped=decoded.skipped, **splits, **known)


def _undecoded_splits(files: FolderFiles, geometry: Geometry) -> dict[str, Split]:
    return {
        split: Split(ImageFiles(files.files(split), geometry), torch.tensor(files.labels(split)))
        for split in files.splits
    }


def _split_of(files: FolderFiles, split: str, geometry: Geometry, pixels: Tensor, kept: Tensor) -> Split:
    labels = torch.tensor(files.labels(split))[kept]
    _check_classes(files, split, labels)
    images: Images = pixels
    if geometry.kind != "as_is":
        paths = files.files(split)
        images = DecodedFiles([paths[index] for index in kept.tolist()], geometry, pixels)
    return Split(images, labels)


def _check_classes(files: FolderFiles, split: str, labels: Tensor) -> None:
    if empty := set(range(len(files.classes))) - set(labels.tolist()):
        place = f"{files.splits[split][min(empty)][0].parent}"
        if files.ours:
            place += f" that was chosen to {'test' if split == 'test' else 'train'} on"
        raise ValueError(f"No image in {place} can be decoded. Add some that can.")


def _decoded_once(files: FolderFiles, geometry: Geometry, cache: bool) -> _Decoded:
    """The images of a folder, from the cache if that is still true; else decoded, and cached."""
    fingerprint = _fingerprint(files, geometry)
    decoded = _read_cache(files.root, fingerprint) if cache else None
    if decoded is None:
        decoded, lasting = _decode(files, geometry)
        if cache and lasting:
            _write_cache(files.root, fingerprint, decoded)
    return decoded


def _decode(files: FolderFiles, geometry: Geometry) -> tuple[_Decoded, bool]:
    """The images of a folder, and whether that lasts: a file that could not be read now may be readable later."""
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    skipped: list[str] = []
    lasting = True
    for split in files.splits:
        paths = files.files(split)
        if geometry.kind == "as_is":
            images, failures = _stack_whole(((path, files.name(path)) for path in paths), None)
        else:
            batches, found = zip(*attempts(ImageFiles(paths, geometry)), strict=True)
            images = torch.cat(batches)
            reasons = enumerate(failure for batch in found for failure in batch)
            failures = {
                position: failure._replace(name=files.name(paths[position]))
                for position, failure in reasons
                if failure is not None
            }
        splits[split] = images, torch.tensor([i for i in range(len(paths)) if i not in failures], dtype=torch.int64)
        skipped += map(str, failures.values())
        lasting = lasting and all(failure.damaged for failure in failures.values())
    return _Decoded(splits, tuple(skipped)), lasting


def channel_statistics(images: Tensor) -> tuple[Channels, Channels]:
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


def _fingerprint(files: FolderFiles, geometry: Geometry) -> str:
    digest = hashlib.sha256(f"evalib-3 {geometry}".encode())
    for split in files.splits:
        digest.update(f"\0{split}\n".encode())
        for path in files.files(split):
            digest.update(os.fsencode(path.relative_to(files.root)) + file_state(path).encode())
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
                            torch.from_numpy(arrays[f"{name}_kept"]),
                        )
                        for name in arrays["splits"].tolist()
                    }
                    return _Decoded(splits, tuple(arrays["skipped"].tolist()))
        except Exception:  # missing, damaged (in ways of NumPy, zipfile and zlib) or foreign: decode the images again
            continue
    return None


def _write_cache(root: Path, fingerprint: str, decoded: _Decoded) -> None:
    arrays = {"fingerprint": np.array(fingerprint), "skipped": np.array(decoded.skipped, dtype=str)}
    arrays["splits"] = np.array(list(decoded.splits))
    for name, (images, kept) in decoded.splits.items():
        arrays |= {f"{name}_images": images.numpy(), f"{name}_kept": kept.numpy()}
    for path in _cache_paths(root):
        try:
            with replacing(path) as temporary:
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
        except OSError:
            continue  # a cache is a convenience: without a place for it the images are decoded each time
        return
