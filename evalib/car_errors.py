"""Mistakes about cars, sorted by how far off they are: the year, the model, the brand, or everything.

>>> errors = car_errors(evaluate(model, test_loader), data.classes)
>>> print(errors)
>>> errors.pairs("right car, wrong year")      # the pairs of classes that are confused most
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evalib.data.car_names import CarName, parse_car_name
from evalib.evaluation import Evaluation
from evalib.metrics import confusion_matrix

KINDS = (
    "right",
    "right car, wrong year",
    "right brand, other model or type",
    "other brand, right type",
    "other brand, other type",
)
ATTRIBUTES = ("brand", "type", "year")


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class CarErrors:
    """The predictions over C classes of cars, by kind: every image is of exactly one of `KINDS`.

    Attributes:
        classes: C names of classes.
        names: the same, taken apart.
        confusion: (C, C) int64, images by true (row) and predicted class (column).
    """

    classes: tuple[str, ...]
    names: tuple[CarName, ...]
    confusion: Tensor

    def __len__(self) -> int:
        return int(self.confusion.sum())

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of every kind; they add up to all images."""
        found: Counter[str] = Counter()
        for true, predicted in self.confusion.nonzero().tolist():
            found[_kind(self.names, true, predicted)] += int(self.confusion[true, predicted])
        return {kind: found[kind] for kind in KINDS}

    @property
    def shares(self) -> dict[str, float]:
        """Fraction in [0, 1] of the images of every kind."""
        return {kind: count / len(self) for kind, count in self.counts.items()}

    @property
    def accuracies(self) -> dict[str, float]:
        """Fraction in [0, 1] of the images whose predicted class has the true class's brand, type or year."""
        return {name: float(self.confusion[self._same(name)].sum()) / len(self) for name in ATTRIBUTES}

    @property
    def most_frequent(self) -> dict[str, float]:
        """Accuracies of saying the images' most frequent brand, type or year every time: what has to be surpassed."""
        images = self.confusion.sum(dim=1).double()
        return {name: float((self._same(name).double() @ images).max()) / len(self) for name in ATTRIBUTES}

    def pairs(self, kind: str, n: int = 5) -> list[tuple[str, str, int]]:
        """The n pairs (true class, predicted class, images) of a kind of mistake that occur most, in falling order.

        Pairs of equal counts stand in the order of the classes. Fewer than n if fewer occur.

        Raises:
            ValueError: if `kind` is no kind of mistake, or n < 1.
        """
        if kind not in KINDS[1:] or n < 1:
            raise ValueError(f"`kind` needs to be one of {KINDS[1:]}, `n` 1 or more: got {kind!r} and {n}.")
        cells = [(i, j) for i, j in self.confusion.nonzero().tolist() if _kind(self.names, i, j) == kind]
        found = [(self.classes[i], self.classes[j], int(self.confusion[i, j])) for i, j in cells]
        return sorted(found, key=lambda pair: -pair[2])[:n]

    def __str__(self) -> str:
        width = max(len(kind) for kind in KINDS)
        counts, most = self.counts, self.most_frequent
        lines = [f"{kind:{width}}  {counts[kind]:6,}  {share:7.2%}" for kind, share in self.shares.items()]
        lines += [f"{'all test images':{width}}  {len(self):6,}", ""]
        lines += [
            f"{name} right: {value:.2%}; always the most frequent {name}: {most[name]:.2%}"
            for name, value in self.accuracies.items()
        ]
        return "\n".join(lines)

    def _same(self, attribute: str) -> Tensor:
        """(C, C) bool: do two classes agree in it?"""
        values = [getattr(name, attribute) for name in self.names]
        return torch.tensor([[mine == other for other in values] for mine in values])


def car_errors(evaluation: Evaluation, classes: Sequence[str], names: Sequence[CarName] | None = None) -> CarErrors:
    """Sort all predictions by how far off they are.

    Args:
        evaluation: logits (N, C) and labels (N,) of a whole split.
        classes: C names of classes, as "BMW 3 Series Sedan 2012".
        names: the same, taken apart; None does so with `parse_car_name`.

    Raises:
        ValueError: if a class is no car's name, or there are more or fewer than C.
    """
    names = [parse_car_name(name) for name in classes] if names is None else names
    outputs = evaluation.logits.shape[1]
    if not len(classes) == len(names) == outputs:
        raise ValueError(
            f"`classes` and `names` need an entry for each of the network's {outputs} outputs: "
            f"got {len(classes)} and {len(names)}."
        )
    confusion = confusion_matrix(evaluation.predictions, evaluation.labels, outputs)
    return CarErrors(tuple(classes), tuple(names), confusion)


def _kind(names: Sequence[CarName], true: int, predicted: int) -> str:
    mine, other = names[true], names[predicted]
    if true == predicted:
        return "right"
    if (mine.brand, mine.model, mine.type) == (other.brand, other.model, other.type):
        return "right car, wrong year"
    if mine.brand == other.brand:
        return "right brand, other model or type"
    return "other brand, right type" if mine.type == other.type else "other brand, other type"
