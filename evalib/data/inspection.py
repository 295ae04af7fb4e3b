"""What is in a folder of images, before anything is trained on it: counts, sizes, and copies that spoil a test."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalib.data.decoding import ImageError, first_lines, stored_size
from evalib.data.folder_layout import FolderFiles, content_digest, folder_files
from evalib.data.near_duplicates import difference_hashes, near_pairs
from evalib.tables import Table

IMBALANCED = 3  # times as many images in the largest class as in the smallest: from here on it is said
MOST_COMPARED = 20_000  # images; more are not searched for some that look alike, which decodes them all


@dataclass(frozen=True)
class DataFacts:
    """Facts about the image files of a dataset; `str()` says what a person should know of them.

    Attributes:
        name: of the folder.
        classes: names of the classes.
        counts: images of each class, by split.
        ours: whether the test images were chosen by evalib, not given.
        median_size: width and height in pixels, as stored, the median of each; (0, 0) if no image can be read.
        smallest_size: width and height of the image with the shortest side.
        unreadable: images whose header cannot be read, each as "name: reason".
        copies: names of files that are the same byte by byte, in groups.
        copies_across: those groups of which some are to train and some to test on.
        two_classes: those groups that lie in more than one class, so that a label must be wrong.
        look_alikes: test image, the training image that looks the same, and in how many of 128 bits they differ;
            None if they were not searched for.
        left_out: files that are no image of a class, counted by their ending.
    """

    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    ours: bool
    median_size: tuple[int, int]
    smallest_size: tuple[int, int]
    unreadable: tuple[str, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    copies_across: tuple[tuple[str, ...], ...] = ()
    two_classes: tuple[tuple[str, ...], ...] = ()
    look_alikes: tuple[tuple[str, str, int], ...] | None = ()
    left_out: Mapping[str, int] | None = None

    @property
    def num_images(self) -> int:
        """Images of all splits."""
        return sum(map(sum, self.counts.values()))

    @property
    def imbalance(self) -> float:
        """How many times as many training images the largest class has as the smallest."""
        return max(self.counts["train"]) / min(self.counts["train"])

    @property
    def most_frequent(self) -> str:
        """The class with the most training images; of several the first."""
        return self.classes[self.counts["train"].index(max(self.counts["train"]))]

    @property
    def baseline(self) -> float:
        """The fraction of the test images that are right if every one is said to be of the most frequent class."""
        return self.counts["test"][self.classes.index(self.most_frequent)] / sum(self.counts["test"])

    def __str__(self) -> str:
        train, test = sum(self.counts["train"]), sum(self.counts["test"])
        chosen = "chosen at random from each class" if self.ours else "as given"
        lines = [
            f"{self.name}: {self.num_images:,} images of {len(self.classes)} classes, {train:,} to train and {test:,} "
            f"to test on, {chosen}",
            *self._class_lines(),
            "sizes: median {} x {} pixels, smallest {} x {}".format(*self.median_size, *self.smallest_size),
            f"always naming {self.most_frequent!r}, the most frequent class, would be right for {self.baseline:.1%} of "
            "the test images",
        ]
        if self.imbalance > IMBALANCED:
            lines.append(f"imbalance: the largest class has {self.imbalance:.1f} times the images of the smallest")
        return "\n".join([*lines, *self._copy_lines(), *self._other_lines()])

    def _class_lines(self) -> list[str]:
        if len(self.classes) > 25:
            smallest, largest = min(self.counts["train"]), max(self.counts["train"])
            return [f"classes: {smallest} to {largest} training images each"]
        rows = [
            {"class": name, **{split: counts[label] for split, counts in self.counts.items()}}
            for label, name in enumerate(self.classes)
        ]
        return [str(Table(rows, dict.fromkeys(self.counts, "{:,}")))]

    def _copy_lines(self) -> list[str]:
        lines = []
        if self.two_classes:
            lines.append(f"the same image in two classes, so one label is wrong: {_listed(self.two_classes)}")
        if self.copies_across:
            lines.append(f"the same image to train and to test on: {_listed(self.copies_across)}")
        told = {*self.two_classes, *self.copies_across}
        if rest := tuple(group for group in self.copies if group not in told):
            lines.append(f"the same image more than once, on one side: {_listed(rest)}")
        if self.look_alikes:
            pairs = [(test, train) for test, train, _ in self.look_alikes]
            lines.append(f"test images that look like a training image: {_listed(pairs, ' like ')}")
        searched = (
            "" if self.look_alikes is not None else ", byte by byte; images that look alike were not searched for"
        )
        return lines or [f"duplicates: none found{searched}"]

    def _other_lines(self) -> list[str]:
        lines = []
        if self.unreadable:
            lines.append(f"cannot be read, {len(self.unreadable):,}:\n{first_lines(self.unreadable)}")
        if self.left_out:
            kinds = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            lines.append("left out: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds[:5]))
        return lines


def _listed(groups: Sequence[Sequence[str]], between: str = " = ") -> str:
    return f"{len(groups):,}\n{first_lines([between.join(group) for group in groups], 5)}"


def inspect_folder(
    root: str | Path, *, test_fraction: float = 0.2, seed: int = 1, near: bool = True, workers: int | None = None
) -> DataFacts:
    """Facts about a folder that `evalib.data.image_folder` takes; nothing is kept in memory.

    Copies are found by the SHA-256 of the files, images that look the same by `difference_hashes`, between test and
    training images only. Mirrored or strongly cropped copies are not found.

    Args:
        root: the folder.
        test_fraction: as `image_folder` takes it.
        seed: likewise.
        near: whether to search for images that look the same, which decodes them all; of more than `MOST_COMPARED` it
            is left out.
        workers: processes that decode.

    Raises:
        FileNotFoundError, ValueError: as `evalib.data.folder_layout.folder_files`.
    """
    files = folder_files(root, test_fraction=test_fraction, seed=seed)
    paths = [path for split in files.splits for path in files.files(split)]
    sizes, unreadable = _sizes(files, paths)
    widths, heights = zip(*sizes, strict=True) if sizes else ((0,), (0,))
    copies, across, two_classes = _copies(files)
    return DataFacts(
        name=files.root.resolve().name,
        classes=files.classes,
        counts={split: tuple(map(len, members)) for split, members in files.splits.items()},
        ours=files.ours,
        median_size=(int(statistics.median(widths)), int(statistics.median(heights))),
        smallest_size=min(sizes, key=min, default=(0, 0)),
        unreadable=unreadable,
        copies=copies,
        copies_across=across,
        two_classes=two_classes,
        look_alikes=_look_alikes(files, workers) if near and len(paths) <= MOST_COMPARED else None,
        left_out=dict(files.left_out),
    )


def _sizes(files: FolderFiles, paths: Sequence[Path]) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
    sizes, unreadable = [], []
    for path in paths:
        try:
            sizes.append(stored_size(path, files.name(path)))
        except ImageError as error:
            unreadable.append(str(error.failure))
    return sizes, tuple(unreadable)


Groups = tuple[tuple[str, ...], ...]


def _copies(files: FolderFiles) -> tuple[Groups, Groups, Groups]:
    """Groups of files with the same bytes: all, those on both sides, and those in several classes."""
    members: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for split in files.splits:
        for path, label in zip(files.files(split), files.labels(split), strict=True):
            members[content_digest(path)].append((files.name(path), split, label))
    groups = [sorted(group) for group in members.values() if len(group) > 1]
    named = sorted(groups)

    def names(chosen: list[list[tuple[str, str, int]]]) -> Groups:
        return tuple(tuple(name for name, _, _ in group) for group in chosen)

    across = [group for group in named if len({split for _, split, _ in group}) > 1]
    return names(named), names(across), names([group for group in named if len({label for *_, label in group}) > 1])


def _look_alikes(files: FolderFiles, workers: int | None) -> tuple[tuple[str, str, int], ...]:
    """Test images that look like a training image, without those that are byte by byte the same."""
    sides = {}
    for split in ("test", "train"):
        paths = files.files(split)
        hashes, failures = difference_hashes(paths, workers=workers)
        kept = [index for index, failure in enumerate(failures) if failure is None]
        sides[split] = [paths[index] for index in kept], hashes[kept]
    (tested, test_hashes), (trained, train_hashes) = sides["test"], sides["train"]
    pairs = ((tested[i], trained[j], bits) for i, j, bits in near_pairs(test_hashes, train_hashes))
    return tuple(
        (files.name(test), files.name(train), bits)
        for test, train, bits in pairs
        if content_digest(test) != content_digest(train)
    )
