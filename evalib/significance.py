"""Whether two networks differ, by the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class Disagreement:
    """Two networks, A and B, on the same N images.

    Attributes:
        only_a: (N,) bool, A is right and B is wrong.
        only_b: (N,) bool, the other way round.
        both: how many images both name right.
        neither: how many neither does.
        agreement: fraction in [0, 1] of the images that both name alike, right or wrong.
    """

    only_a: Tensor
    only_b: Tensor
    both: int
    neither: int
    agreement: float

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided (McNemar 1947): how often a fair coin would split the images on which only
        one of the two is right at least so unevenly; 1 if there is no such image."""
        a, b = int(self.only_a.sum()), int(self.only_b.sum())
        n, fewer = a + b, min(a, b)
        # logarithms of the binomial terms: 2 ** -n underflows from n = 1,075 on
        terms = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1))
        return min(1.0, 2 * sum(math.exp(term - n * math.log(2)) for term in terms))


def compare_predictions(predictions_a: Tensor, predictions_b: Tensor, labels: Tensor) -> Disagreement:
    """Where two networks differ on the same images.

    Args:
        predictions_a: (N,) int64, the classes that A predicts.
        predictions_b: (N,) int64, those that B does.
        labels: (N,) int64, the true ones.

    Raises:
        ValueError: if the three are not of one length of at least 1.
    """
    if not predictions_a.shape == predictions_b.shape == labels.shape or labels.dim() != 1 or len(labels) == 0:
        shapes = [tuple(values.shape) for values in (predictions_a, predictions_b, labels)]
        raise ValueError(f"The predictions and `labels` need one entry per image, all (N,): got {shapes}.")
    right_a, right_b = predictions_a == labels, predictions_b == labels
    both, neither = int((right_a & right_b).sum()), int((~right_a & ~right_b).sum())
    agreement = (predictions_a == predictions_b).double().mean().item()
    return Disagreement(right_a & ~right_b, right_b & ~right_a, both, neither, agreement)


def most_frequent_class(labels: Tensor, num_classes: int) -> tuple[int, float]:
    """The most frequent class, the first of equal ones, and the accuracy of always naming it."""
    counts = torch.bincount(labels, minlength=num_classes)
    return int(counts.argmax()), float(counts.max()) / len(labels)
