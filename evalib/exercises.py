"""Exercises with checks: a student answers, a check says whether the answer holds, and if not what is wrong with it.

>>> check_confused_pair(("cat", "dog"), evaluation, data.classes)

`docs/teachers.md` has the tasks; those about maps are in `evalib.map_exercises`. A check that fails says what was
found, not what would have been right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from evalib.calibration import calibration
from evalib.comparison import compare_runs
from evalib.data.image_data import ImageData
from evalib.data.loaders import eval_loader
from evalib.engine import Evaluation, evaluate
from evalib.metrics import confusion_matrix
from evalib.recipes import Recipe
from evalib.rundir import RECIPE_NAME
from evalib.runtime import derived_seed
from evalib.sanity import Check, Verdict
from evalib.tables import Table, Tabular

LEARNED_BY_HEART = 0.99  # accuracy on the images that were trained on
FEWEST_IMAGES = 16  # that are worth the name of a set
STANDARD_ERRORS = 2.0  # of the difference of two accuracies, below which the test images cannot tell
CALIBRATION_TOLERANCE = 0.005  # of the expected calibration error, a fraction
SUSPECTS_TIMES_CHANCE = 3.0  # how much more often suspects have to be wrong than images drawn by chance
SUSPECTS_RECALL = 0.25  # share of the wrong labels that the suspects have to hold
CLAIMS = ("first", "second", "cannot tell")
SIDES = ("overconfident", "underconfident")


@dataclass(frozen=True, repr=False)
class Answer(Tabular):
    """What a check says of an answer; `print` it, or let a notebook show it.

    Attributes:
        exercise: what was asked.
        checks: what the answer needs, each with what was found.
    """

    exercise: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the answer holds in every respect."""
        return all(check.passed for check in self.checks)

    def table(self) -> Table:
        """A row per check, "ok" or "FAIL", and the verdict below."""
        rows = Verdict(self.checks).table().rows
        return Table(rows, notes=[f"{self.exercise}: {'passed' if self.passed else 'not yet'}."])


def check_overfit(model: nn.Module, data: ImageData) -> Answer:
    """Does a network know its few training images by heart? One that cannot has a fault in its training.

    Args:
        model: classifier for the classes of `data`; it is left as it was.
        data: with at least 16 training images of two or more classes, the ones that the network was trained on.
    """
    labels = data.train.labels
    kinds = len(labels.unique())
    share = evaluate(model, eval_loader(data, "train")).accuracy
    enough = len(labels) >= FEWEST_IMAGES and kinds > 1
    return Answer(
        "Learn a few images by heart",
        (
            Check(
                "enough images",
                enough,
                f"{len(labels):,} images of {kinds} classes",
                f"{FEWEST_IMAGES} or more, 2 classes or more",
                "a smaller set shows nothing",
            ),
            Check(
                "known by heart",
                share >= LEARNED_BY_HEART,
                f"{share:.1%} of the training images are right",
                f"{LEARNED_BY_HEART:.0%}",
                "train longer, without augmentation and regularization; else look for a fault",
            ),
        ),
    )


def check_confused_pair(pair: Sequence[str], evaluation: Evaluation, classes: Sequence[str], *, top: int = 3) -> Answer:
    """Is a pair of classes, named before looking, among those that the network confuses most?

    Args:
        pair: two names of classes, in any order.
        evaluation: of the images.
        classes: all names, in the order of the labels.
        top: how many of the most confused pairs count; pairs as often confused as the last of them count, too.

    Raises:
        ValueError: if `pair` is not two of the classes, or there are not more than `top` pairs.
    """
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(classes):
        raise ValueError(f"`pair` needs two of the classes {', '.join(classes)}: got {', '.join(map(str, pair))}.")
    total = math.comb(len(classes), 2)
    if not 1 <= top < total:
        raise ValueError(f"`top` needs 1 to {total - 1} of the {total} pairs of {len(classes)} classes: got {top}.")
    confusion = confusion_matrix(evaluation.predictions, evaluation.labels, len(classes))
    both = (confusion + confusion.T).triu(diagonal=1)
    low, high = sorted(list(classes).index(name) for name in pair)
    count = int(both[low, high])
    place = 1 + int((both > count).sum())
    return Answer(
        "Name the pair that is confused most before looking",
        (
            Check(
                "confused most",
                place <= top and count > 0,
                f"{count:,} confusions of these two, place {place} of {total} pairs",
                f"place {top} or better, {top / total:.0%} by chance",
                "others are confused more often: which look alike, or share a background?",
            ),
        ),
    )


def check_one_change(first: str | Path, second: str | Path, claim: str) -> Answer:
    """Do two runs differ in a single setting, and does what is claimed of them follow from their test images?

    A difference has to exceed twice its standard error, each accuracy taken as that of independent images. Two runs
    of the same seed say nothing about other seeds.

    Args:
        first, second: folders of runs, the second with one setting changed.
        claim: which is the better one: "first", "second" or "cannot tell".

    Raises:
        FileNotFoundError, ValueError: as `evalib.comparison.compare_runs`, or if `claim` is none of the three.
    """
    if claim not in CLAIMS:
        raise ValueError(f"`claim` needs one of {', '.join(map(repr, CLAIMS))}: got {claim!r}.")
    rows = compare_runs({"first": first, "second": second}).rows
    mine, other = (Recipe.from_json((Path(run) / RECIPE_NAME).read_text()) for run in (first, second))
    changes = mine.replace(name=other.name).difference(other)
    told = ", ".join(f"{name} {old} to {new}" for name, (old, new) in changes.items()) or "no setting"
    states = [str(row["state"]) for row in rows]
    images = [row["test images"] for row in rows]
    a, b = (row["test accuracy"] for row in rows)
    error = math.sqrt(sum(share * (1 - share) / count for share, count in zip((a, b), images, strict=True)))
    better = "cannot tell" if abs(a - b) <= STANDARD_ERRORS * error else "first" if a > b else "second"
    return Answer(
        "Change one ingredient and compare",
        (
            Check(
                "one change",
                len(changes) == 1 and "seed" not in changes,
                f"changed: {told}",
                "one setting, not the seed",
                "what made the difference cannot be known",
            ),
            Check(
                "both finished",
                states == ["finished", "finished"],
                ", ".join(states),
                "finished, both",
                "a run that was stopped is no measurement",
            ),
            Check(
                "the claim follows",
                claim == better and images[0] == images[1],
                f"{a:.1%} and {b:.1%} of {images[0]:,} and {images[1]:,} images; claimed: {claim}",
                f"a difference above {STANDARD_ERRORS * error:.1%} to prefer one, else 'cannot tell'",
                "the figures say otherwise, or come from other images",
            ),
        ),
    )


def check_calibration(error: float, side: str, evaluation: Evaluation) -> Answer:
    """Is a calibration read right: how far confidence and accuracy are apart, and in which direction?

    Args:
        error: expected calibration error in [0, 1], in 15 bins of equal width.
        side: "overconfident" if the network is surer than it is right, else "underconfident".
        evaluation: what was read.

    Raises:
        ValueError: if `side` is neither of the two.
    """
    if side not in SIDES:
        raise ValueError(f"`side` needs one of {', '.join(map(repr, SIDES))}: got {side!r}.")
    truth = calibration(evaluation)
    right = side == SIDES[truth.overconfidence <= 0]
    return Answer(
        "Read a calibration",
        (
            Check(
                "error",
                abs(error - truth.error) <= CALIBRATION_TOLERANCE,
                f"{error:.3f}",
                f"within {CALIBRATION_TOLERANCE}",
                "weigh each bin by its images, take distances without their sign, give a fraction",
            ),
            Check("direction", right, side, "that of mean confidence less accuracy", "it is the other way round"),
        ),
    )


def plant_wrong_labels(data: ImageData, *, fraction: float = 0.05, seed: int = 1) -> ImageData:
    """The same data, some of its test images labeled as another class, drawn by chance.

    Test images, since a network that has learned wrong labels by heart gives them away no longer.

    Args:
        data: left as it is.
        fraction: share of the test images in (0, 0.5].
        seed: the same seed plants the same labels.

    Raises:
        ValueError: if `fraction` lies outside, gives no image, or there is a single class.
    """
    chosen, labels = _planted(data, fraction, seed)
    changed = data.test.labels.clone()
    changed[chosen] = labels
    return dataclasses.replace(data, test=dataclasses.replace(data.test, labels=changed), origin=None)


def check_suspects(
    suspects: Sequence[int] | Tensor, data: ImageData, *, fraction: float = 0.05, seed: int = 1
) -> Answer:
    """How many of the suspects have a wrong label that `plant_wrong_labels` planted, beside chance?

    Args:
        suspects: positions in the test split, each once.
        data: as it was before planting.
        fraction, seed: as they were given to `plant_wrong_labels`.

    Raises:
        ValueError: if a suspect is no test image or named twice, or as `plant_wrong_labels`.
    """
    chosen, _ = _planted(data, fraction, seed)
    named = [int(index) for index in suspects]
    if len(set(named)) < len(named) or not all(0 <= index < len(data.test) for index in named):
        raise ValueError(
            f"`suspects` needs positions in the test split, 0 to {len(data.test) - 1}, each once: got {named[:10]}."
        )
    hits = len(set(named) & set(chosen.tolist()))
    precision, recall = hits / max(1, len(named)), hits / len(chosen)
    chance, drawn = len(chosen) / len(data.test), len(named) / len(data.test)
    return Answer(
        "Find the wrong labels",
        (
            Check(
                "precision",
                precision >= SUSPECTS_TIMES_CHANCE * chance,
                f"{hits} of {len(named)} suspects have a wrong label, {precision:.0%}; by chance {chance:.0%}",
                f"{SUSPECTS_TIMES_CHANCE * chance:.0%}",
                "too many of the suspects are only hard images",
            ),
            Check(
                "recall",
                recall >= SUSPECTS_RECALL,
                f"{hits} of {len(chosen)} wrong labels found, {recall:.0%}; by chance {drawn:.0%}",
                f"{SUSPECTS_RECALL:.0%}",
                "too few of the wrong labels are among the suspects",
            ),
        ),
    )


def _planted(data: ImageData, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """(K,) int64 positions in the test split, sorted, and (K,) int64 wrong labels for them."""
    count = round(fraction * len(data.test)) if 0 < fraction <= 0.5 else 0
    if count < 1 or data.num_classes < 2:
        raise ValueError(
            f"`fraction` needs to lie in (0, 0.5] and to give at least one image, of two or more classes: got "
            f"{fraction} of {len(data.test)} images, {data.num_classes} classes."
        )
    generator = torch.Generator().manual_seed(derived_seed(seed, "wrong labels"))
    chosen = torch.randperm(len(data.test), generator=generator)[:count].sort().values
    moved = torch.randint(1, data.num_classes, (count,), generator=generator)
    return chosen, (data.test.labels[chosen] + moved) % data.num_classes
