"""Numbers about predictions: means weighted by samples, accuracy and its range, confusion matrix, per class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Z95 = 1.959963984540054  # the normal distribution holds 95 % within so many standard deviations


class Mean:
    """Mean over samples, fed with the means of batches of any size.

    The mean of batch means weighs a short last batch too much; this one weighs every sample alike.
    """

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, batch_mean: float, n: int) -> None:
        """Add the mean `batch_mean` of `n` samples."""
        self.total += batch_mean * n
        self.count += n

    @property
    def value(self) -> float:
        """The mean so far; NaN, not 0, before the first sample."""
        return self.total / self.count if self.count else math.nan


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction in [0, 1] of the images whose largest logit is at their label.

    Args:
        logits: (N, C) scores, any float dtype.
        labels: (N,) int64.

    Raises:
        ValueError: if there is no image, or the lengths differ.
    """
    if len(logits) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"`logits` and `labels` need the same length of at least 1: got {len(logits)} and {len(labels)}."
        )
    return (logits.argmax(dim=1) == labels).double().mean().item()


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts of images by true class (rows) and predicted class (columns).

    Args:
        predictions: (N,) int64 predicted classes.
        labels: (N,) int64 true classes.
        num_classes: C; every value must lie in 0..C-1.

    Returns:
        (C, C) int64; its sum is N.

    Raises:
        ValueError: if the lengths differ or a class lies outside 0..C-1.
    """
    if predictions.shape != labels.shape:
        raise ValueError(
            f"`predictions` and `labels` need one shape: got {tuple(predictions.shape)} and {tuple(labels.shape)}."
        )
    for name, values in (("predictions", predictions), ("labels", labels)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"`{name}` must lie in 0..{num_classes - 1}: got {int(values.min())}..{int(values.max())}. "
                "Is `num_classes` the number of classes of the data?"
            )
    cells = labels.long() * num_classes + predictions.long()
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """(C,) float64: fraction of each true class that was predicted right; NaN for a class without images."""
    return confusion.diagonal().double() / confusion.sum(dim=1).double()


def wilson_interval(correct: int, count: int, z: float = Z95) -> tuple[float, float]:
    """The interval of a fraction (Wilson 1927, doi:10.1080/01621459.1927.10502953): 95 % by default.

    It stays inside [0, 1] and holds for few trials, where the usual plus or minus does not. Of an accuracy it speaks of
    other test images of the same kind, and says nothing of another seed, whose network is another one.

    Args:
        correct: successes, 0 to `count`.
        count: trials, at least 1.
        z: half its width in standard deviations of a normal distribution.

    Raises:
        ValueError: if `count` is less than 1, or `correct` lies outside 0 to `count`.
    """
    if count < 1 or not 0 <= correct <= count:
        raise ValueError(f"`correct` of `count` needs 0 <= correct <= count and count >= 1: got {correct} of {count}.")
    share, spread = correct / count, z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    # at the ends the exact values are 0 and 1
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == count else middle + half)
