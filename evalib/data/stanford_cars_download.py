"""The layout of Stanford Cars on disk, and a copy from Hugging Face brought into it: Stanford's own site is gone."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalib.data.car_names import CAR_CLASSES
from evalib.download import DownloadError
from evalib.file_lock import only_one
from evalib.progress import progress_bar

FOLDER = "stanford_cars"
META = "devkit/cars_meta.mat"
# Annotations and images of each split; the labels of the test images came out later than the devkit
ANNOTATIONS = {
    "train": ("devkit/cars_train_annos.mat", "cars_train"),
    "test": ("cars_test_annos_withlabels.mat", "cars_test"),
}
BOX_FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")

COPY = "tanganke/stanford_cars"
REVISION = "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"
COUNTS = {"train": 8144, "test": 8041}


def check_class_names(names: Sequence[str], source: str) -> None:
    """Return if these are the 196 class names in the devkit's order; punctuation and capitals do not matter.

    Raises:
        ValueError: naming the first that differs; a wrong order would give every car another name.
    """
    if len(names) != len(CAR_CLASSES):
        raise ValueError(f"{source} must name the {len(CAR_CLASSES)} classes of Stanford Cars: it names {len(names)}.")
    for number, (name, ours) in enumerate(zip(names, CAR_CLASSES, strict=True), start=1):
        if re.sub(r"\W", "", name).casefold() != re.sub(r"\W", "", ours).casefold():
            raise ValueError(
                f"{source} must name the classes of Stanford Cars in the devkit's order: class {number} is {ours!r}, "
                f"there it is {name!r}. Get the file from the devkit, else every label means another car."
            )


def download_stanford_cars(root: str | Path = "data") -> Path:
    """Write `root/stanford_cars` from the copy on Hugging Face, whole or not at all; one process at a time.

    The image files are those of the copy, byte for byte, in the layout of torchvision's `StanfordCars`; that copy has
    no boxes, so all are 0. What is downloaded stays in the cache of `datasets`: a call that was broken off goes on
    from there.

    Returns:
        The folder.

    Raises:
        ImportError: without the package `datasets`.
        FileExistsError: if there is such a folder already.
        DownloadError: if the copy cannot be had.
        ValueError: if it differs from Stanford Cars in its class names, their order, or its number of images, or a row
            of it is damaged.
    """
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise ImportError(
            "Downloading Stanford Cars needs the package `datasets`: pip install datasets (or evalib[cars])."
        ) from error

    folder = Path(root) / FOLDER
    if folder.exists():
        raise FileExistsError(f"`{folder}` is there already: move it away or delete it to download anew.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{FOLDER}.lock")
    with only_one(lock):
        try:
            if not folder.exists():  # else another process wrote it meanwhile
                _write_copy(folder, load_dataset, Image)
        finally:
            lock.unlink()
    return folder


def _write_copy(folder: Path, load_dataset: Any, image_feature: Any) -> None:
    """Write the folder; the two are what `datasets` has under those names."""
    try:
        # The copy has nine more splits, of distorted images. Files named one by one spare us their download; then
        # `datasets` must not look for those splits.
        files = {split: f"data/{split}-*.parquet" for split in COUNTS}
        copy = load_dataset(COPY, revision=REVISION, data_files=files, verification_mode="no_checks")
        for rows in copy.values():
            rows.data.validate(full=True)  # damaged tables crash who reads them
    except Exception as error:  # of many kinds, by the version of `datasets`: no network, no space, no such copy
        raise DownloadError(
            f"Stanford Cars could not be downloaded from huggingface.co/datasets/{COPY} ({error}). Try again where "
            f"that site can be reached, or copy a folder `{FOLDER}` from elsewhere to {folder.absolute()}."
        ) from error
    for split, count in COUNTS.items():
        check_class_names(getattr(copy[split].features["label"], "names", None) or (), f"{COPY} ({split})")
        if len(copy[split]) != count:
            raise ValueError(f"{COPY} must have {count:,} {split} images: it has {len(copy[split]):,}.")
    part = folder.with_name(f".{FOLDER}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a call that was killed
    try:
        for split in COUNTS:
            _write_split(part, split, copy[split].cast_column("image", image_feature(decode=False)))
        _write_mat(part / META, class_names=np.array(CAR_CLASSES, dtype=object))
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_split(folder: Path, split: str, rows: Any) -> None:
    """Image files and annotations; `rows` give {"image": {"bytes": ...}, "label": 0 to 195}."""
    annotations = np.zeros(len(rows), dtype=[(field, object) for field in (*BOX_FIELDS, "class", "fname")])
    path, images = ANNOTATIONS[split]
    (folder / images).mkdir(parents=True)
    with progress_bar(None, desc=f"writing {images}", total=len(rows)) as bar:
        for index, row in enumerate(rows):
            name, content, label = f"{index + 1:05d}.jpg", row["image"]["bytes"], row["label"]
            if not isinstance(content, bytes) or label not in range(len(CAR_CLASSES)):
                raise ValueError(f"Row {index} of {COPY} ({split}) has no image, or the label {label}: it is damaged.")
            (folder / images / name).write_bytes(content)
            annotations[index] = (0, 0, 0, 0, label + 1, name)
            bar.update()
    _write_mat(folder / path, annotations=annotations)


def _write_mat(path: Path, **variables: np.ndarray) -> None:
    import scipy.io

    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)
