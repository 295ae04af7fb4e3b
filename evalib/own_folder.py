"""A folder of images, wherever they are now: a path, a zip file, an upload in Colab, or the shipped sample."""

from __future__ import annotations

import importlib
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from evalib.archives import extract_zip
from evalib.data.folder_layout import SPLIT_NAMES
from evalib.data.sample import ARCHIVE
from evalib.files import replacing

SAMPLE_CLASSES = ("airplane", "automobile", "ship")
SAMPLE_EACH = 60


def get_folder(source: str | Path | None = None, keep: str | Path = "data") -> Path:
    """Return a folder with one folder of images per class, wherever the images are now.

    Args:
        source: a folder, as one of a mounted drive, which is returned as it is; or a zip file, which is unpacked into
            `keep`, once; "sample" writes images of the shipped sample, as `sample_folder` does; None or "" asks for
            an upload of a zip file in Colab, and elsewhere is "sample".
        keep: where files are put.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if a file is no zip file, or not safe to unpack, or nothing was uploaded.
    """
    keep = Path(keep)
    if source == "sample" or (source in (None, "") and "google.colab" not in sys.modules):
        return sample_folder(keep / "sample")
    if source in (None, ""):
        source = _uploaded(keep)
    path = Path(str(source))
    if path.is_dir():
        return path
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no folder or zip file {path}. In Colab, mount Google Drive first: "
            "`from google.colab import drive; drive.mount(...)`."
        )
    place = keep / path.stem
    if not place.exists():
        extract_zip(path, place)
    return _inner(place)


def sample_folder(folder: str | Path, classes: Sequence[str] = SAMPLE_CLASSES, each: int = SAMPLE_EACH) -> Path:
    """Write images of the shipped sample as files, `folder/<class>/NNNN.jpg`, and return the folder.

    Args:
        folder: where to; what is there already stays.
        classes: of CIFAR-10.
        each: images of each class, at most 500.

    Raises:
        ValueError: if there is no such class, or are not so many images.
    """
    folder = Path(folder)
    written: Counter[str] = Counter()
    with (
        resources.files("evalib.data").joinpath(ARCHIVE).open("rb") as raw,
        tarfile.open(fileobj=raw, mode="r:xz") as archive,
    ):
        for member in archive:
            split, name, file = member.name.split("/")
            content = archive.extractfile(member) if split == "train" and name in classes else None
            if content is None or written[name] >= each:
                continue
            written[name] += 1
            if not (folder / name / file).exists():
                with replacing(folder / name / file) as temporary:
                    temporary.write_bytes(content.read())
    if short := [name for name in classes if written[name] < each]:
        raise ValueError(f"The sample has {written[short[0]]} images of {short[0]!r}: {each} are too many.")
    return folder


def _uploaded(keep: Path) -> Path:
    """The zip file that a person uploads in Colab."""
    files: Any = importlib.import_module("google.colab.files")
    keep.mkdir(parents=True, exist_ok=True)
    given: dict[str, bytes] = files.upload()
    names = [name for name in given if name.lower().endswith(".zip")]
    if len(names) != 1:
        raise ValueError(
            f"Upload one zip file that has a folder of images per class: got {', '.join(given) or 'nothing'}."
        )
    with replacing(keep / Path(names[0]).name) as temporary:
        temporary.write_bytes(given[names[0]])
    return keep / Path(names[0]).name


def _inner(folder: Path) -> Path:
    """The folder that holds the classes: a zip file often has one folder around all."""
    split_names = {name for names in SPLIT_NAMES.values() for name in names}
    while True:
        inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.lower() in split_names:
            return folder
        if not any(path.is_dir() for path in inside[0].iterdir()):
            return folder  # the one folder there is holds images: an error will say that one class is too few
        folder = inside[0]
