"""Datasets of Hugging Face: image files in Arrow tables on disk, mapped into memory, decoded when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evalib.data.decoding import Failure, ImageError
from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Channels, Geometry

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


class TableImages(ImageFiles):
    """The image files in a column of a dataset: memory does not grow with their number.

    Args:
        table: the dataset, its column not decoded: rows {column: {"bytes": ..., "path": ...}}.
        column: the name of that column.
        geometry: to one size; "as_is" is not allowed, since nothing is opened here.
        indices: (N,) which rows, in which order; None takes all.

    Raises:
        ValueError: for the geometry "as_is".
    """

    def __init__(self, table: Dataset, column: str, geometry: Geometry, indices: Tensor | None = None) -> None:
        super().__init__((), geometry)
        self.table, self.column = table, column
        self.indices = torch.arange(len(table)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def file(self, index: int) -> tuple[Path | bytes, str]:
        """What is decoded for one image, and what an error calls it."""
        row = int(self.indices[index])
        stored = self.table[row][self.column]
        name = f"in row {row} of the dataset"
        if stored is None:
            raise ImageError(Failure(name, f"there is none in {self.column!r}"))
        name += f" ({stored['path']})" if stored["path"] else ""
        return stored["bytes"] or Path(stored["path"]), name

    def fingerprint(self) -> None:
        """Not known: a table may point to files elsewhere."""

    def select(self, indices: Tensor) -> TableImages:
        """The images at `indices` (M,), in that order; nothing is decoded."""
        return TableImages(self.table, self.column, self.geometry, self.indices[indices])

    def with_geometry(self, geometry: Geometry) -> TableImages:
        """The same images, seen through another geometry."""
        return TableImages(self.table, self.column, geometry, self.indices)


def hugging_face(
    dataset: str | Path | DatasetDict,
    *,
    splits: tuple[str, str] = ("train", "test"),
    image_column: str | None = None,
    label_column: str | None = None,
    geometry: Geometry = Geometry("resize", 224),  # noqa: B008, frozen
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
    name: str | None = None,
) -> ImageData:
    """A dataset of Hugging Face, of any size: its image files stay on disk, in Arrow tables, until a batch needs them.

    A batch takes rows in a random order, from anywhere in the tables: they must lie on a disk of this host. (A dataset
    that is only streamed from elsewhere, `streaming=True`, has no rows by number and cannot be shuffled as a whole.)

    Args:
        dataset: a folder that `DatasetDict.save_to_disk` wrote; or the dataset itself; or, if there is no such folder,
            its name on huggingface.co, as "uoft-cs/cifar10", which is downloaded into the cache of `datasets`.
        splits: the splits to train on and to test on; many sets have ("train", "validation"), with labels.
        image_column: None takes the only column of images.
        label_column: None takes the only column of classes, or the one named "label".
        geometry: to the size of the network's input; `ImageData.prepared_for` chooses another.
        mean: RGB mean to normalize by, on the scale [0, 1].
        std: RGB standard deviation to normalize by, on the scale [0, 1].
        name: of the dataset; None takes the folder's or the one on huggingface.co.

    Raises:
        ImportError: without the package `datasets`.
        OSError: if it is neither a folder nor to be had from huggingface.co.
        ValueError: if a split or a column is missing, the splits differ in classes, an image has no class, or the files
            are damaged.
    """
    tables, found_name = _tables(dataset)
    if missing := [split for split in splits if split not in tables]:
        raise ValueError(f"The dataset has no split {missing[0]!r}; it has {', '.join(tables)}. Name two in `splits`.")
    chosen = [tables[split] for split in splits]
    image_column = image_column or _only_column(chosen[0], "Image", "image_column")
    label_column = label_column or _only_column(chosen[0], "ClassLabel", "label_column")
    for column in (image_column, label_column):
        if missing := [split for split, table in zip(splits, chosen, strict=True) if column not in table.column_names]:
            there = ", ".join(tables[missing[0]].column_names)
            raise ValueError(f"The split {missing[0]!r} has no column {column!r}: it has {there}.")
    for table in chosen:
        _check_whole(table.select_columns([image_column, label_column]))
    classes, labels = _classes_and_labels(chosen, label_column)
    train, test = (
        Split(TableImages(_undecoded(table, image_column), image_column, geometry), found)
        for table, found in zip(chosen, labels, strict=True)
    )
    source = f"{found_name} of Hugging Face, splits {splits[0]} and {splits[1]}"
    return ImageData(name or found_name, classes, train, test, mean, std, source=source)


def _tables(dataset: str | Path | DatasetDict) -> tuple[DatasetDict, str]:
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError as error:
        raise ImportError(
            "A dataset of Hugging Face needs the package `datasets`: pip install datasets (or evalib[hf])."
        ) from error

    if isinstance(dataset, DatasetDict):
        return dataset, "dataset"
    path = Path(dataset)
    try:
        if path.is_dir():
            tables, name = load_from_disk(str(path)), path.resolve().name
        else:
            tables, name = load_dataset(str(dataset)), str(dataset)
    except Exception as error:  # of many kinds, by the version of `datasets`: no network, no space, another layout
        raise OSError(
            f"Cannot load {str(dataset)!r} ({error}). It must be a folder that `DatasetDict.save_to_disk` wrote, or, "
            "where huggingface.co can be reached, a dataset's name there."
        ) from error
    if not isinstance(tables, DatasetDict):
        raise ValueError(f"{str(dataset)!r} has no splits: save a `DatasetDict` with one to train and one to test on.")
    return tables, name


def _check_whole(table: Dataset) -> None:
    """Return if the tables on disk point into themselves only; else a look at one row could end the process."""
    try:
        table.data.validate(full=True)
    except Exception as error:  # of many kinds, by what is damaged
        reason = str(error).splitlines()[0]
        raise ValueError(f"The dataset's files are damaged ({reason}). Save or download it anew.") from error


def _only_column(table: Dataset, kind: str, argument: str) -> str:
    """The one column whose feature is of that kind; of several columns of classes the one named "label"."""
    found = [name for name, feature in table.features.items() if type(feature).__name__ == kind]
    if kind == "ClassLabel" and len(found) != 1 and "label" in table.column_names:
        return "label"
    if len(found) != 1:
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in table.features.items())
        raise ValueError(f"`{argument}` must name one of the columns: {columns}.")
    return found[0]


def _classes_and_labels(tables: Sequence[Dataset], column: str) -> tuple[tuple[str, ...], list[Tensor]]:
    """Names of the classes, and (N,) int64 labels for each table; named by their values where they have no names."""
    values = [np.asarray(table.select_columns([column]).with_format("numpy")[:][column]) for table in tables]
    names = [getattr(table.features[column], "names", None) for table in tables]
    if names[0] != names[1]:
        raise ValueError(f"The splits differ in the classes of {column!r}: {names[0]} and {names[1]}.")
    if names[0] is None:
        there = np.unique(np.concatenate(values))
        return tuple(map(str, there)), [torch.from_numpy(np.searchsorted(there, part)) for part in values]
    if any((part < 0).any() for part in values):
        raise ValueError(f"A split has images without a class (-1 in {column!r}). Name another one in `splits`.")
    return tuple(names[0]), [torch.from_numpy(part.astype(np.int64)) for part in values]


def _undecoded(table: Dataset, column: str) -> Dataset:
    from datasets import Image as ImageFeature

    return table.select_columns([column]).cast_column(column, ImageFeature(decode=False)).with_format(None)
