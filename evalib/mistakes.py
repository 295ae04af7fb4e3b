"""The test images that a model gets wrong: which they are, what it took them for, and how sure it was.

>>> mistakes = find_mistakes(evaluate(model, test_loader))      # every one, in dataset order
>>> plot_mistakes(data, mistakes.by_confidence().head(20))      # the 20 most confident ones
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from evalib.data.image_data import ImageData, Split
from evalib.engine import Evaluation
from evalib.transforms import normalize


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class Mistakes:
    """M misclassified images of one evaluated split; row m of every tensor is the same image.

    Attributes:
        indices: (M,) int64, position in the split: `split.images[indices]` are the images.
        true: (M,) int64, its label.
        predicted: (M,) int64, the class that the model chose instead.
        probability: (M,) float32 in [0, 1], softmax probability of the predicted (wrong) class.

    Raises:
        ValueError: if the four tensors are not one-dimensional and of one length.
    """

    indices: Tensor
    true: Tensor
    predicted: Tensor
    probability: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(column.shape) for column in self._columns()]
        if any(len(shape) != 1 or shape != shapes[0] for shape in shapes):
            raise ValueError(
                "`indices`, `true`, `predicted`, `probability` need one entry per mistake, all (M,): "
                f"got {', '.join(map(str, shapes))}. `find_mistakes` builds them from an evaluation."
            )

    def __len__(self) -> int:
        return len(self.indices)

    def head(self, n: int) -> Mistakes:
        """The first n mistakes in their present order; all of them if there are fewer.

        Raises:
            ValueError: if n < 1.
        """
        if n < 1:
            raise ValueError(f"`n` needs to be 1 or more: got {n}. `len(mistakes)` tells how many there are.")
        return self.select(slice(n))

    def select(self, rows: Tensor | slice | list[int]) -> Mistakes:
        """Some of the mistakes: those at `rows`, positions in the present order or a mask (M,) bool."""
        return Mistakes(*(column[rows] for column in self._columns()))

    def by_confidence(self) -> Mistakes:
        """The same mistakes, highest probability first; equally sure ones stay in dataset order."""
        return self.select(torch.argsort(self.probability, descending=True, stable=True))

    def images(self, split: Split) -> Tensor:
        """(M, 3, H, W) uint8, the misclassified images themselves.

        Args:
            split: the images that were evaluated.

        Raises:
            ValueError: if they are others: their labels are not those of the mistakes.
        """
        self._check(split)
        return split.images[self.indices]

    def batches(
        self, data: ImageData, split: str = "test", batch_size: int | None = None
    ) -> Iterator[tuple[Mistakes, Tensor]]:
        """The mistakes part by part, each with its images (B, 3, H, W) float32, normalized by the data's statistics.

        Args:
            data: whose images were evaluated.
            split: which of its splits.
            batch_size: images of a part; None takes 64, fewer of large images.

        Raises:
            ValueError: if there is no mistake or no such split, or they are mistakes of other images.
        """
        if len(self) == 0:
            raise ValueError("No misclassified image: `mistakes` is empty. Check `len(mistakes)` first.")
        if split not in data.splits():
            raise ValueError(f"{data.name!r} has no split {split!r}. It has: {', '.join(data.splits())}.")
        chosen = data.splits()[split]
        self._check(chosen)
        batch_size = batch_size or max(1, min(64, 2**20 // math.prod(chosen.images.shape[1:])))
        for rows in torch.arange(len(self)).split(batch_size):
            part = self.select(rows)
            yield part, normalize(chosen.images[part.indices], data.mean, data.std)

    def _check(self, split: Split) -> None:
        """Refuse a split that has other labels at the indices."""
        inside = len(self) == 0 or int(self.indices.max()) < len(split)
        if not inside or not torch.equal(split.labels[self.indices], self.true):
            raise ValueError(
                "`split` needs to be the images that were evaluated, in order: its labels at the indices of the "
                "mistakes are other ones. Was the loader shuffled, or is it another split or dataset?"
            )

    def _columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.indices, self.true, self.predicted, self.probability


def find_mistakes(evaluation: Evaluation) -> Mistakes:
    """Every image whose predicted class is not its label, in dataset order.

    Calling it again gives the same mistakes. `indices` are positions in the split only if the loader kept its
    order, as every test loader of evalib does.

    Args:
        evaluation: logits (N, C) and labels (N,) of a whole split.

    Returns:
        M = N * (1 - accuracy) mistakes; none is a valid answer, `len(mistakes) == 0`.
    """
    predictions = evaluation.predictions
    indices = torch.nonzero(predictions != evaluation.labels).flatten()
    predicted = predictions[indices]
    probability = evaluation.probabilities[indices, predicted]
    return Mistakes(indices, evaluation.labels[indices], predicted, probability)
