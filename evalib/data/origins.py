"""The data of a run, loaded again by what its checkpoint says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalib.checkpoint import Checkpoint
from evalib.data.cifar10 import cifar10
from evalib.data.damage import check_images
from evalib.data.folder import image_folder
from evalib.data.image_data import ImageData
from evalib.data.sample import sample
from evalib.data.stanford_cars import stanford_cars
from evalib.origin import Origin

# Checkpoints before 0.2 have no origin: the name of their data says it, where the data are of those that we know.
_KINDS = {"cifar10-sample": "sample", "cifar10": "cifar10", "stanford-cars": "cars"}


def load_origin(
    origin: Origin, root: str | Path | None = None, *, download: bool = False, damaged: str | None = None
) -> ImageData:
    """A dataset by its origin.

    Args:
        origin: as `ImageData.origin` has it.
        root: where the data are now; None for where they were.
        download: get the data if they are not there, where there is something to get.
        damaged: what to do about images that cannot be decoded: "stop" or "skip" them; None as when they were loaded.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError, DownloadError: as the functions that load the data.
    """
    folder, options = str(root or origin.root or "data"), dict(origin.options)
    if origin.kind == "sample":
        data = sample()
    elif origin.kind == "cifar10":
        data = cifar10(folder)
    elif origin.kind == "cars":
        data = stanford_cars(folder, download=download, **options)
        data = check_images(data, damaged) if damaged else data
    else:
        options.pop("files", None)  # what they were then: `data_of` compares
        data = image_folder(folder, **(options | ({"damaged": damaged} if damaged else {})))
    train, test = origin.take
    return data.take(train=train, test=test)


def origin_of(checkpoint: Checkpoint, kind: str | None = None) -> Origin:
    """Where the data of a checkpoint came from.

    Args:
        checkpoint: of a run, or made of foreign weights.
        kind: other data instead, one of `evalib.origin.KINDS`; cars are chosen as the checkpoint says.

    Raises:
        ValueError: if it does not say.
    """
    if checkpoint.origin is not None and kind in (None, checkpoint.origin.kind):
        return checkpoint.origin
    kind = kind or _KINDS.get(checkpoint.dataset)
    if kind is None:
        raise ValueError(
            f"The checkpoint does not say where its data {checkpoint.dataset!r} came from: they were made in Python, "
            "or it is of an older evalib. Pass the data themselves, or name them with --dataset and --data-dir."
        )
    options: dict[str, Any] = dict(checkpoint.filters) if kind == "cars" else {}
    if "target" in options:
        options["target"] = options["target"][0]
    return Origin(kind, options=options)


def data_of(
    checkpoint: Checkpoint,
    root: str | Path | None = None,
    *,
    kind: str | None = None,
    download: bool = False,
    damaged: str | None = None,
) -> ImageData:
    """The data that a network was trained and tested on, as its recipe wants to see them.

    Args:
        checkpoint: of the network.
        root: where the data are now; None for where they were.
        kind: as in `origin_of`.
        download, damaged: as in `load_origin`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not said where the data came from, or they have other classes than the network, in number
            or, for a folder, in name.
    """
    known = origin_of(checkpoint, kind)
    data = load_origin(known, root, download=download, damaged=damaged)
    if data.num_classes != len(checkpoint.classes):
        raise ValueError(
            f"The network tells {len(checkpoint.classes)} classes apart, {data.name} has {data.num_classes}. "
            "Name the data that it was trained on with --dataset and --data-dir."
        )
    if known.kind == "folder" and data.classes != checkpoint.classes:
        odd = sorted(set(data.classes) ^ set(checkpoint.classes))
        raise ValueError(
            f"The folder {root or known.root} has other classes than the network was trained on: {', '.join(odd)}. "
            "Give the folder as it was, or train anew."
        )
    if kind is None and known.kind == "folder":
        _check_files(checkpoint, known, data)
    return data.prepared_for(checkpoint.recipe)


def _check_files(checkpoint: Checkpoint, known: Origin, data: ImageData) -> None:
    """ValueError if a folder has other files than it had in training: some may have changed sides."""
    now = data.origin.options["files"] if data.origin else None
    if known.options.get("files") in (None, now):
        return
    raise ValueError(
        f"The folder {data.name} has changed since the network was trained on {checkpoint.train_images:,} images of "
        f"it: now {len(data.train):,} would be trained on and {len(data.test):,} tested on, some of which it may have "
        "learned. Give the folder as it was, train anew, or take it as it is with --dataset folder "
        '(`kind="folder"`).'
    )
