"""Stanford Cars (Krause et al. 2013, "3D object representations for fine-grained categorization"), all or filtered."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evalib.data.car_names import (
    CAR_CLASSES,
    Values,
    car_filters,
    car_values,
    describe_filters,
    filtered_classes,
    parse_car_name,
)
from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles
from evalib.data.mat_files import read_mat
from evalib.data.stanford_cars_download import (
    ANNOTATIONS,
    BOX_FIELDS,
    FOLDER,
    META,
    check_class_names,
    download_stanford_cars,
)
from evalib.origin import Origin
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry

TARGETS = ("class", "brand", "type")
_PARTS = (META, *(part for parts in ANNOTATIONS.values() for part in parts))


def stanford_cars(
    root: str | Path = "data",
    *,
    brand: Values | None = None,
    type: Values | None = None,
    year: Values | None = None,
    target: str = "class",
    download: bool = False,
    image_size: int = 256,
) -> ImageData:
    """Stanford Cars: 8,144 training and 8,041 test images of 196 classes, or those that the filters leave.

    The files lie as torchvision's `StanfordCars` wants them, in `root/stanford_cars` or in `root` itself:

        cars_train/*.jpg  cars_test/*.jpg  cars_test_annos_withlabels.mat
        devkit/cars_meta.mat  devkit/cars_train_annos.mat

    Images are decoded when they are asked for. Boxes come from the annotations, as they stand there.

    Args:
        root: the folder of the data.
        brand: keep the classes of this brand, or of any of these; None keeps all. Small or capital letters.
        type: the same of body types, see `evalib.data.car_names.BODY_TYPES`.
        year: the same of years. Filters are combined: a class must pass each.
        target: what is to be told apart: "class", "brand" or "type".
        download: get a copy (2 GB) if there is no folder of the data; needs the package `datasets`.
        image_size: height and width in pixels that the images are squeezed to.

    Returns:
        Labels are 0..n-1: classes in the devkit's order, brands or types by the alphabet. A class that the filters keep
        is one of the classes even if the folder has no image of it.

    Raises:
        FileNotFoundError: if the folder, a part of it or an image is missing.
        ValueError: for filters that nothing passes, unknown values, and annotations that are not those of this dataset.
        DownloadError: if the copy cannot be had.
    """
    if target not in TARGETS:
        raise ValueError(f"`target` must be one of {', '.join(TARGETS)}: got {target!r}.")
    filters = car_filters(brand, type, year)
    kept = filtered_classes(filters)
    names = kept if target == "class" else tuple(getattr(parse_car_name(name), target) for name in kept)
    classes = kept if target == "class" else tuple(sorted(set(names), key=str.casefold))
    new_labels = torch.full((len(CAR_CLASSES),), -1)
    for name, group in zip(kept, names, strict=True):
        new_labels[CAR_CLASSES.index(name)] = classes.index(group)

    folder = _folder(Path(root), download)
    geometry = Geometry("resize", image_size)
    splits = {split: _filtered_split(folder, split, new_labels, filters, geometry) for split in ANNOTATIONS}
    chosen = describe_filters(filters) or "all classes"
    return ImageData(
        "stanford-cars", classes, splits["train"], splits["test"], IMAGENET_MEAN, IMAGENET_STD,
        source=f"Stanford Cars in {folder.resolve().name}/, {chosen}",
        filters=filters if target == "class" else {**filters, "target": (target,)},
        origin=Origin("cars", str(root), {**filters, "target": target, "image_size": image_size}),
    )  # fmt: skip


def class_to_idx(data: ImageData) -> dict[str, int]:
    """The label of each class name, as torchvision's datasets have it."""
    return {name: label for label, name in enumerate(data.classes)}


@dataclass(frozen=True)
class CarInventory:
    """How many classes, and images if they are there, each brand, type and year has; `str()` makes a table of it.

    Attributes:
        counts: for "brand", "type" and "year", for each value: classes, training images, test images; or classes only.
    """

    counts: dict[str, dict[str, tuple[int, ...]]]

    def __str__(self) -> str:
        lines = []
        for kind, values in self.counts.items():
            totals = tuple(sum(column) for column in zip(*values.values(), strict=True))
            head = ("classes", "train", "test")[: len(totals)]
            rows = [(kind, head), *values.items(), ("all", totals)]
            lines += ["".join([f"{name:<16}", *(f"{cell:>9}" for cell in cells)]) for name, cells in rows] + [""]
        return "\n".join(lines[:-1])


def car_inventory(root: str | Path | None = None) -> CarInventory:
    """What can be filtered for: all brands, types and years.

    Args:
        root: the folder of the data, to count its images; None counts classes only.

    Raises:
        FileNotFoundError, ValueError: as `stanford_cars`; images are counted by the annotations, not looked for.
    """
    columns = [np.ones(len(CAR_CLASSES), dtype=np.int64)]
    if root is not None:
        folder = _folder(Path(root), download=False)
        for split in ANNOTATIONS:
            columns.append(np.bincount(_read_annotations(folder, split).labels, minlength=len(CAR_CLASSES)))
    counts = {}
    for kind in ("brand", "type", "year"):
        value_of = np.array([str(getattr(parse_car_name(name), kind)) for name in CAR_CLASSES])
        counts[kind] = {
            value: tuple(int(column[value_of == value].sum()) for column in columns) for value in car_values(kind)
        }
    return CarInventory(counts)


def _folder(root: Path, download: bool) -> Path:
    """The folder that holds the data, with all parts of it there and its class names checked."""
    found = next((path for path in (root / FOLDER, root) if any((path / part).exists() for part in _PARTS)), None)
    if found is None and download:
        found = download_stanford_cars(root)
    if found is None:
        fault = f"is no Stanford Cars, it has nothing of {', '.join(_PARTS)}" if root.exists() else "does not exist"
        raise FileNotFoundError(f"`root` {fault}: {root}. {_ways(root / FOLDER, 'Pass')}")
    if missing := [part for part in _PARTS if not (found / part).exists()]:
        ways = _ways(found, "Move that folder away and pass")
        raise FileNotFoundError(f"Stanford Cars in {found} lacks {', '.join(missing)}. {ways}")
    check_class_names([str(name) for name in read_mat(found / META, "class_names")], str(found / META))
    return found


def _ways(folder: Path, start: str) -> str:
    return (
        f"{start} `download=True` (2 GB from Hugging Face; the original site is gone), or place by hand in {folder}:\n"
        "  - cars_train/00001.jpg to 08144.jpg and cars_test/00001.jpg to 08041.jpg;\n"
        "  - devkit/cars_meta.mat and devkit/cars_train_annos.mat, from car_devkit.tgz;\n"
        "  - cars_test_annos_withlabels.mat, which is not in that archive: it holds the labels of the test images.\n"
        "https://github.com/pytorch/vision/issues/7545 tells where they are kept."
    )


class _Annotations(NamedTuple):
    files: list[str]
    labels: np.ndarray  # (N,) int64, 0 to 195
    boxes: np.ndarray  # (N, 4) float32


def _filtered_split(
    folder: Path, split: str, new_labels: Tensor, filters: dict[str, tuple[str, ...]], geometry: Geometry
) -> Split:
    """The images of one split that the filters keep; `new_labels` (196,) int64 is -1 for the classes they do not."""
    found = _read_annotations(folder, split)
    labels = new_labels[torch.from_numpy(found.labels)]
    indices = (labels >= 0).nonzero().flatten()
    if len(indices) == 0:
        there = car_values("brand", [CAR_CLASSES[label] for label in set(found.labels.tolist())])
        raise ValueError(
            f"{folder} has no {split} image of {describe_filters(filters) or 'any class'}. "
            f"It has {split} images of these brands: {', '.join(there) or 'none'}."
        )
    images = folder / ANNOTATIONS[split][1]
    names = [found.files[index] for index in indices.tolist()]
    _check_images(images, names)
    files = ImageFiles([images / name for name in names], geometry)
    return Split(files, labels[indices], torch.from_numpy(found.boxes)[indices])


def _check_images(folder: Path, names: list[str]) -> None:
    there = {entry.name for entry in os.scandir(folder)}
    missing = [name for name in names if name not in there]
    if not missing:
        return
    if (folder / folder.name).is_dir():
        raise FileNotFoundError(
            f"The images lie one folder too deep, in {folder / folder.name}: move them up into {folder}."
        )
    raise FileNotFoundError(
        f"{folder} lacks {len(missing):,} of {len(names):,} images that the annotations name, first of all "
        f"{missing[0]}. Copy them there; if all are missing, the annotations may belong to other images."
    )


def _read_annotations(folder: Path, split: str) -> _Annotations:
    path = folder / ANNOTATIONS[split][0]
    rows = read_mat(path, "annotations")
    fields = rows.dtype.names or ()
    if missing := {"fname", "class"} - set(fields):
        raise ValueError(
            f"The annotations in {path} need the field {' and '.join(sorted(missing))}: they have "
            f"{', '.join(fields) or 'no fields'}. The test images need the file that comes as "
            "cars_test_annos_withlabels.mat; the devkit's cars_test_annos.mat has no classes."
        )
    labels = _numbers(rows["class"], np.int64, path)
    low, high = int(labels.min(initial=1)), int(labels.max(initial=1))
    if low < 1 or high > len(CAR_CLASSES):
        advice = "they look 0-based: add 1 to each" if low == 0 and high < len(CAR_CLASSES) else "use the devkit's file"
        raise ValueError(f"Classes in {path} must lie in 1..{len(CAR_CLASSES)}: got {low}..{high}; {advice}.")
    boxes = np.zeros((len(rows), 4), dtype=np.float32)
    if set(BOX_FIELDS) <= set(fields):
        boxes = np.stack([_numbers(rows[field], np.float32, path) for field in BOX_FIELDS], axis=1)
    return _Annotations([str(name) for name in rows["fname"]], labels - 1, boxes)


def _numbers(cells: np.ndarray, dtype: type, path: Path) -> np.ndarray:
    """One number from each cell, (N,)."""
    try:
        return np.array(cells.tolist(), dtype=dtype).reshape(len(cells))
    except (ValueError, TypeError, OverflowError) as error:  # text, lists, or nothing in a cell
        raise ValueError(f"The annotations in {path} are damaged ({error}): get the file again.") from error
