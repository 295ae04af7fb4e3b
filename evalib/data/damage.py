"""Images that cannot be decoded: found before training, in worker processes, and named all at once or left out."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from evalib.data.decoding import Failure, ImageError, first_lines
from evalib.data.image_data import ImageData
from evalib.data.image_files import ImageFiles
from evalib.data.workers import in_workers, workers_here
from evalib.files import replacing
from evalib.recipes import check_name

DAMAGED = ("stop", "skip")


class _Attempts(Dataset[Any]):
    """Batches by their indices: the images that can be decoded, and for every image None or why it cannot."""

    def __init__(self, images: ImageFiles) -> None:
        self.images = images

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, list[Failure | None]]:
        found: list[Tensor] = []
        failures: list[Failure | None] = []
        for index in indices.tolist():
            try:
                found.append(torch.from_numpy(self.images.pixels(index)).permute(2, 0, 1))
                failures.append(None)
            except ImageError as error:
                failures.append(error.failure)
        return torch.stack(found) if found else self.images[indices[:0]], failures


def attempts(
    images: ImageFiles, *, batch_size: int = 64, workers: int | None = None
) -> Iterator[tuple[Tensor, list[Failure | None]]]:
    """All images in batches, as far as they can be decoded.

    Args:
        images: M of them.
        batch_size: of a batch that has no damaged image.
        workers: processes that decode, as `workers_here` takes it; a single batch needs none.

    Yields:
        The images that can be decoded, (up to batch_size, 3, S, S) uint8, and for every image of the batch, in order,
        None or why it cannot.
    """
    parts = torch.arange(len(images)).split(batch_size)
    batches: Any = in_workers(_Attempts(images), parts, min(len(parts) - 1, workers_here(workers)), torch.device("cpu"))
    yield from batches


def check_images(
    data: ImageData, damaged: str = "stop", *, workers: int | None = None, cache: bool = True
) -> ImageData:
    """Decode every image file of a dataset once, before a training would meet a damaged one after hours.

    What was found of image files by their paths is remembered in the user's cache folder, for as long as no file
    changes. Images in memory are decoded already: there is nothing to check.

    Args:
        data: the dataset.
        damaged: what to do about images that cannot be decoded: "stop" with an error that names them all, or "skip"
            them; `ImageData.skipped` of the result then says which, and why.
        workers: processes that decode, at most one per core; None takes at most 4.
        cache: whether to read and write what is remembered.

    Raises:
        ValueError: if images are damaged and `damaged` is "stop", or if no image of a split is left.
    """
    check_name("damaged", damaged, DAMAGED)
    splits: dict[str, Any] = {}
    skipped: list[str] = []
    total = 0
    for name, split in data.splits().items():
        if isinstance(split.images, ImageFiles):
            found = _damaged_files(split.images, workers, cache)
            kept = [index for index in range(len(split)) if index not in found]
            splits[name] = split.select(torch.tensor(kept, dtype=torch.int64)) if found else split
            skipped += found.values()
            total += len(split)
    if skipped and damaged == "stop":
        raise damage_error(skipped, total, data.name)
    return dataclasses.replace(data, **splits, skipped=(*data.skipped, *skipped))


def damage_error(skipped: Sequence[str], total: int, where: str | Path) -> ValueError:
    """What to raise for damaged images, given as 'name: reason', that are not to be skipped."""
    return ValueError(
        f"{len(skipped):,} of {total:,} images of {where} cannot be decoded:\n{first_lines(skipped)}\n"
        "Replace or remove these files, or leave them out with `damaged='skip'`."
    )


def user_cache() -> Path:
    """The folder for what may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalib"


def _damaged_files(images: ImageFiles, workers: int | None, cache: bool) -> dict[int, str]:
    """The images that cannot be decoded, as 'name: reason' by their index."""
    fingerprint = images.fingerprint() if cache else None
    path = user_cache() / f"checked-{fingerprint}.json"
    if fingerprint is not None:
        try:
            return {int(index): str(line) for index, line in json.loads(path.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            pass  # not there, or damaged itself: look at the images again
    failures = [failure for _, batch in attempts(images, workers=workers) for failure in batch]
    found = {index: str(failure) for index, failure in enumerate(failures) if failure is not None}
    if fingerprint is not None and all(failure is None or failure.damaged for failure in failures):
        try:  # a file that could not be read may be readable the next time, a damaged one stays so
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(found), "utf-8")
        except OSError:
            pass  # without a place for it the images are looked at each time
    return found
