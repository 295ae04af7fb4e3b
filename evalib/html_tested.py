"""What a network says of its test images, as a report tells it: result, classes, calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from evalib.calibration import Calibration, calibration
from evalib.engine import Evaluation
from evalib.metrics import confusion_matrix, wilson_interval
from evalib.significance import most_frequent_class


@dataclass(frozen=True, eq=False)
class ClassFacts:
    """How one class fared.

    Attributes:
        index: the class.
        name: its name.
        images: how many test images are of it.
        right: how many of them are named right.
        named: how many test images are named so, right or wrong.
        taken_for: the class that most of its mistakes are taken for, with their number; None without a mistake.
    """

    index: int
    name: str
    images: int
    right: int
    named: int
    taken_for: tuple[int, int] | None

    @property
    def recall(self) -> float:
        """Fraction of its images that are named right; NaN without an image."""
        return self.right / self.images if self.images else math.nan

    @property
    def precision(self) -> float:
        """Fraction right of the images that are named so; NaN if none is."""
        return self.right / self.named if self.named else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN for a class that neither is nor is named."""
        total = self.images + self.named
        return 2 * self.right / total if total else math.nan


@dataclass(frozen=True, eq=False)
class Tested:
    """What a network says of N test images of C classes.

    Attributes:
        evaluation: logits and labels.
        classes: names of the classes.
        images_per_second: of the evaluation.
    """

    evaluation: Evaluation
    classes: tuple[str, ...]
    images_per_second: float

    @property
    def images(self) -> int:
        """N."""
        return len(self.evaluation.labels)

    @cached_property
    def confusion(self) -> Tensor:
        """(C, C) int64, images by true (row) and predicted class (column)."""
        return confusion_matrix(self.evaluation.predictions, self.evaluation.labels, len(self.classes))

    @property
    def right(self) -> int:
        """How many images are named right."""
        return int(self.confusion.trace())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return wilson_interval(self.right, self.images)

    @property
    def most_frequent(self) -> tuple[str, float]:
        """The most frequent class, and the accuracy of always naming it."""
        index, accuracy = most_frequent_class(self.evaluation.labels, len(self.classes))
        return self.classes[index], accuracy

    @cached_property
    def calibration(self) -> Calibration:
        """Confidence beside accuracy."""
        return calibration(self.evaluation)

    @cached_property
    def by_class(self) -> list[ClassFacts]:
        """Every class, in their order."""
        images, named = self.confusion.sum(dim=1).tolist(), self.confusion.sum(dim=0).tolist()
        wrong = self.confusion - self.confusion.diagonal().diag()
        most = [(int(row.argmax()), int(row.max())) for row in wrong]
        return [
            ClassFacts(index, name, images[index], int(self.confusion[index, index]), named[index],
                       most[index] if most[index][1] else None)
            for index, name in enumerate(self.classes)
        ]  # fmt: skip
