"""Which files of a folder are images of which class, and which of them to test on: given by folders, or chosen here."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from evalib.data.decoding import one_line
from evalib.data.image_files import file_state
from evalib.runtime import derived_seed

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Names that folders of splits have, in any case. Images to validate on are tested on if there are no others.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
_STRANGERS = ("__MACOSX",)  # what a Mac puts into zip files, beside hidden files

Members = tuple[tuple[Path, ...], ...]  # the files of each class, sorted


@dataclass(frozen=True)
class FolderFiles:
    """The image files of a folder by split and class; none has been opened as an image yet.

    Attributes:
        root: the folder.
        classes: names of the classes, sorted; of their folders.
        splits: for "train", "test" and, if a folder has them beside the others, "val": the files of each class.
        ours: whether the test images were chosen here, not given as a folder.
        left_out: what is no image of a class, counted by what it is, as {".heic": 3}.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Members]
    ours: bool
    left_out: Mapping[str, int] = field(default_factory=dict)

    def files(self, split: str) -> list[Path]:
        """The files of a split, class by class."""
        return [path for paths in self.splits[split] for path in paths]

    def count(self) -> int:
        """The number of files of all splits."""
        return sum(len(paths) for members in self.splits.values() for paths in members)

    def labels(self, split: str) -> list[int]:
        """The classes of `files`, as numbers."""
        return [label for label, paths in enumerate(self.splits[split]) for _ in paths]

    def fingerprint(self) -> str:
        """A name for the files: another one if some are added, removed, renamed or of another size."""
        digest = hashlib.sha256()
        for split in self.splits:
            for path in self.files(split):
                name, size = os.fsencode(path.relative_to(self.root)), file_state(path).split("\0")[1]
                digest.update(f"{split}\0{size}\0".encode() + name + b"\n")
        return digest.hexdigest()

    def name(self, path: Path) -> str:
        """A file's path inside the folder, printable."""
        return one_line(str(path.relative_to(self.root)))


def folder_files(root: str | Path, *, test_fraction: float = 0.2, seed: int = 1) -> FolderFiles:
    """The image files of `root/train|test/<class>/` or, without such a pair, of `root/<class>/`, at any depth.

    In place of "test" a folder may be called "testing", or "val", "valid" or "validation" if there is no test folder
    beside it; "training" stands for "train". Where nothing is given to test on, about `test_fraction` of each class
    are chosen by `choose_test`.

    Args:
        root: the folder.
        test_fraction: in (0, 1); of no use where the test images are given.
        seed: likewise; another one chooses others.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no two classes, a class has too few images, or the splits differ in classes.
    """
    root = Path(root)
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must lie in (0, 1): got {test_fraction}.")
    if not root.is_dir():
        what = f"{root} is a file" if root.exists() else f"There is no folder {root}"
        raise FileNotFoundError(f"{what}. A dataset needs a folder with one folder of images per class.")
    given = _split_folders(root)
    left_out: Counter[str] = Counter()
    if "test" in given:
        classes = _same_classes(given)
        splits = {name: _members(folder, classes, left_out) for name, folder in given.items()}
        return FolderFiles(root, classes, splits, False, left_out)
    base = given.get("train", root)
    classes = _class_names(base)
    if len(classes) < 2:
        raise ValueError(_one_class(base, classes[0]))
    members = _members(base, classes, left_out)
    loose = sum(_is_image(path.name) for path in base.iterdir())
    if loose:
        left_out["images in no class folder"] = loose
    return FolderFiles(root, classes, _our_splits(base, classes, members, test_fraction, seed), True, left_out)


def choose_test(digests: Sequence[Sequence[str]], test_fraction: float, seed: int) -> list[list[bool]]:
    """Which files to test on: of each class the first `round(test_fraction * n)`, in an order of hashes.

    The order depends on the seed and on what is in the files, not on their names: files with the same bytes stay
    together, and a file more or less moves at most one other distinct image to the other side. What lies in two
    classes is trained on, since its label is wrong at least once.

    Args:
        digests: for each class those of its files, any text that tells contents apart.
        test_fraction: in (0, 1); of every class at least one image is tested on, and one trained on.
        seed: of the order.

    Returns:
        For each class and file whether it is tested on; all False, or all True, where a class has no two distinct
        images of its own.
    """
    classes_of = Counter(digest for members in digests for digest in set(members))
    salt = derived_seed(seed, "test split")
    chosen = []
    for members in digests:
        quota = min(max(1, round(test_fraction * len(members))), len(members) - 1)
        counts = Counter(digest for digest in members if classes_of[digest] == 1)
        order = sorted(counts, key=lambda digest: hashlib.sha256(f"{salt}:{digest}".encode()).digest())
        if len(counts) == len(set(members)):
            order = order[:-1]  # one of them is left to train on
        test: set[str] = set()
        taken = 0
        for digest in order:
            if taken >= quota:
                break
            test.add(digest)
            taken += counts[digest]
        chosen.append([digest in test for digest in members])
    return chosen


def content_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes; of one that cannot be read a text that no other file has."""
    return _digest(str(path), file_state(path))


@lru_cache(maxsize=1 << 17)
def _digest(path: str, state: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            return f"not a file: {path!r}"
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unreadable: {path!r}"


def _our_splits(
    base: Path, classes: Sequence[str], members: Members, test_fraction: float, seed: int
) -> dict[str, Members]:
    digests = [[content_digest(path) for path in paths] for paths in members]
    chosen = choose_test(digests, test_fraction, seed)
    for name, paths, found, tested in zip(classes, members, digests, chosen, strict=True):
        if all(tested) or not any(tested):
            distinct = len(set(found))
            why = "" if distinct < 2 else ", and of the others all but one lie in other classes too"
            raise ValueError(
                f"The class folder {base / name} needs at least 2 different images, to train and to test on: it has "
                f"{distinct}{f' (in {len(paths)} files)' if len(paths) > distinct else ''}{why}. Add some, or remove "
                "the folder."
            )
    sides = {"train": False, "test": True}
    return {
        split: tuple(
            tuple(path for path, tested in zip(paths, flags, strict=True) if tested == side)
            for paths, flags in zip(members, chosen, strict=True)
        )
        for split, side in sides.items()
    }


def _folders(place: Path) -> list[Path]:
    hidden = (path for path in place.iterdir() if path.is_dir())
    return sorted(path for path in hidden if not path.name.startswith(".") and path.name not in _STRANGERS)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits: "train" and "test" and maybe "val"; "train" alone, to be split; or none."""
    found: dict[str, Path] = {}
    for folder in _folders(root):
        kind = next((kind for kind, names in SPLIT_NAMES.items() if folder.name.lower() in names), None)
        if kind in found:
            raise ValueError(f"{found[kind]} and {folder} may both be the {kind} images. Rename or remove one of them.")
        if kind is not None:
            found[kind] = folder
    if "train" not in found:
        return {}
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    if "test" not in found and any(_is_image(path.name) for path in found["train"].iterdir()):
        return {}  # a class of this name, such as "train" beside "bus"
    return {name: found[name] for name in ("train", "test", "val") if name in found}


def _same_classes(folders: Mapping[str, Path]) -> tuple[str, ...]:
    """Names of the classes, if all splits have the same."""
    classes = _class_names(folders["train"])
    for folder in folders.values():
        if odd := sorted(set(_class_names(folder)) ^ set(classes)):
            raise ValueError(
                f"{folder.parent}: {folders['train'].name} and {folder.name} need the same classes; these are in one "
                f"of them only: {', '.join(map(one_line, odd))}."
            )
    return classes


def _class_names(place: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _folders(place))
    if not names:
        loose = sum(_is_image(path.name) for path in place.iterdir())
        has = f"but {loose:,} images, whose classes nothing tells" if loose else "and no image"
        raise ValueError(
            f"{place} has no class folder, {has}. It needs one folder of images per class, as {place / 'cat'} and "
            f"{place / 'dog'}."
        )
    for name in names:
        if not name.isprintable() or name != name.strip():
            raise ValueError(
                f"The class folder {one_line(str(place / name))!r} has a name with characters that cannot be printed, "
                "or spaces around it. Rename it: it is the name of the class."
            )
    return names


def _one_class(place: Path, name: str) -> str:
    inner = [path.name for path in _folders(place / name)]
    deeper = f" If {', '.join(map(one_line, inner[:5]))} are the classes, pass {place / name}." if inner else ""
    return f"{place} has one class folder, {name!r}: a classifier needs at least two.{deeper}"


def _members(folder: Path, classes: Sequence[str], left_out: Counter[str]) -> Members:
    """The image files of each class; what else lies there is counted by its ending."""
    members = []
    for name in classes:
        paths, others = [], Counter[str]()
        for path in _inside(folder / name):
            if _is_image(path.name):
                paths.append(path)
            elif not path.name.startswith("."):
                others[path.suffix.lower() or "no ending"] += 1
        if not paths:
            found = ", ".join(f"{count} {ending}" for ending, count in others.most_common(3))
            raise ValueError(
                f"The class folder {folder / name} has no image ({', '.join(SUFFIXES)}){f', but {found}' * bool(found)}"
                ". Add some, or remove the folder."
            )
        members.append(tuple(sorted(paths)))
        left_out += others
    return tuple(members)


def _inside(folder: Path) -> Iterator[Path]:
    """All files below a folder; a folder that is named like an image counts as one, which cannot be decoded."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _STRANGERS]
        yield from (Path(place, name) for name in [*names, *filter(_is_image, folders)])
        folders[:] = [name for name in folders if not _is_image(name)]
