"""What a network says of image files: the most probable classes of each, or in one line why there are none."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from evalib.data.damage import attempts
from evalib.data.decoding import decode_image, one_line
from evalib.data.folder import SUFFIXES
from evalib.data.image_files import ImageFiles
from evalib.runtime import eval_mode
from evalib.transforms import Channels, Geometry, normalize


class InputFormat(Protocol):
    """What is known of a network's input and output: an `ImageData` or a `Checkpoint`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def mean(self) -> Channels:
        """RGB mean on the scale [0, 1]."""

    @property
    def std(self) -> Channels:
        """RGB standard deviation on the scale [0, 1]."""

    @property
    def image_size(self) -> int:
        """Height and width of the input in pixels."""

    @property
    def geometry(self) -> Geometry:
        """How images are brought to that size."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        name: of the image: its path, printable.
        classes: names of the most probable classes, the first one is the prediction; none if it cannot be decoded.
        probabilities: of these classes, in [0, 1].
        reason: why the image was skipped, in one line; empty if it was not.
    """

    name: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name}  skipped: {self.reason}"
        shares = zip(self.classes, self.probabilities, strict=True)
        return f"{self.name}  " + ", ".join(f"{name} {probability:.1%}" for name, probability in shares)


@dataclass(frozen=True)
class Predictions:
    """What a network says of several images, in the order of their files; `str()` gives a line for each."""

    images: tuple[Prediction, ...]

    @property
    def skipped(self) -> tuple[Prediction, ...]:
        """The images that could not be decoded, with their reasons."""
        return tuple(image for image in self.images if image.reason)

    @property
    def summary(self) -> str:
        """Which images were skipped, in one line; empty if none was, or there is only one."""
        if not self.skipped or len(self.images) == 1:
            return ""
        names = ", ".join(image.name for image in self.skipped[:10])
        more = ", ..." if len(self.skipped) > 10 else ""
        return f"{len(self.skipped):,} of {len(self.images):,} skipped: {names}{more}"

    def __str__(self) -> str:
        return "\n".join([*map(str, self.images), *([self.summary] if self.summary else [])])


def predict_files(
    model: nn.Module,
    about: InputFormat,
    paths: str | Path | Iterable[str | Path],
    *,
    top: int = 3,
    batch_size: int = 64,
    workers: int | None = None,
) -> Predictions:
    """The most probable classes of image files; a file that cannot be decoded is skipped, with the reason.

    Args:
        model: logits (N, C) from images (N, 3, S, S); it is left as it was found.
        about: the network's data or checkpoint.
        paths: files, whatever their suffix, and folders, as `image_paths` takes them.
        top: how many classes of each image.
        batch_size: images at a time.
        workers: processes that decode, at most one per core; None takes at most 4. A single batch needs none.

    Raises:
        ValueError: if `top` is less than 1, or a folder has no image file.
    """
    if top < 1:
        raise ValueError(f"`top` needs at least 1 class: got {top}.")
    files = image_paths([paths] if isinstance(paths, str | Path) else paths)
    batches = attempts(ImageFiles(files, input_geometry(about)), batch_size=batch_size, workers=workers)
    found, names = [], map(one_line, map(str, files))
    for images, failures in batches:
        likely = iter(_most_likely(model, about, images, top) if len(images) else [])
        for failure in failures:
            prediction = ((), (), failure.reason) if failure else (*next(likely), "")
            found.append(Prediction(next(names), *prediction))
    return Predictions(tuple(found))


def _most_likely(
    model: nn.Module, about: InputFormat, images: Tensor, top: int
) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Names and probabilities of the most probable classes of (N, 3, S, S) uint8 images."""
    with eval_mode(model), torch.no_grad():
        logits = model(normalize(images, about.mean, about.std).to(next(model.parameters()).device))
    shares, classes = logits.float().softmax(dim=1).cpu().topk(min(top, len(about.classes)))
    rows = zip(classes.tolist(), shares.tolist(), strict=True)
    return [(tuple(about.classes[index] for index in indices), tuple(values)) for indices, values in rows]


def image_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are given; in place of a folder its image files and those of its folders, sorted.

    In a folder the suffix says what is an image file; hidden ones are left out, and links to folders not followed.

    Raises:
        ValueError: if a folder has no image file.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(_images_in(path)) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"There is no image ({', '.join(SUFFIXES)}) in the folder {path}.")
        found += inside
    return found


def _images_in(folder: Path) -> Iterator[Path]:
    unreadable: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*names, *folders]:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(place, name)
        folders[:] = [name for name in folders if Path(name).suffix.lower() not in SUFFIXES]
    for error in unreadable:
        yield Path(error.filename)  # said to be a folder in place of the images that it may hold


def class_index(name: str, classes: Sequence[str]) -> int:
    """A class by its name, whatever the case.

    Raises:
        ValueError: if there is no such class; with those of like names.
    """
    found = [index for index, known in enumerate(classes) if known.casefold() == name.casefold()]
    exact = [index for index in found if classes[index] == name]
    if not found:
        close = difflib.get_close_matches(name, classes, n=5, cutoff=0.3) or list(classes[:10])
        raise ValueError(f"There is no class {name!r}. Did you mean: {', '.join(close)}?")
    return (exact or found)[0]


def input_geometry(about: InputFormat) -> Geometry:
    """How any image becomes the network's input."""
    return about.geometry if about.geometry.kind != "as_is" else Geometry("resize", about.image_size)


def read_image(path: str | Path, about: InputFormat) -> Tensor:
    """(3, S, S) uint8: an image file as the network of `about` (its data or its checkpoint) is to see it.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it cannot be decoded.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no image file {path}.")
    return torch.from_numpy(decode_image(Path(path), str(path), input_geometry(about))).permute(2, 0, 1)
