"""The test images that a model gets wrong: which they are, what it took them for, and how sure it was.

>>> mistakes = find_mistakes(evaluate(model, test_loader))      # every one, in dataset order
>>> plot_mistakes(data, mistakes.by_confidence().head(20))      # the 20 most confident ones
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evalib.data.image_data import Split
from evalib.engine import Evaluation


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
        return Mistakes(*(column[:n] for column in self._columns()))

    def by_confidence(self) -> Mistakes:
        """The same mistakes, highest probability first; equally sure ones stay in dataset order."""
        order = torch.argsort(self.probability, descending=True, stable=True)
        return Mistakes(*(column[order] for column in self._columns()))

    def images(self, split: Split) -> Tensor:
        """(M, 3, H, W) uint8, the misclassified images themselves.

        Args:
            split: the images that were evaluated.

        Raises:
            ValueError: if they are others: their labels are not those of the mistakes.
        """
        inside = len(self) == 0 or int(self.indices.max()) < len(split)
        if not inside or not torch.equal(split.labels[self.indices], self.true):
            raise ValueError(
                "`split` needs to be the images that were evaluated, in order: its labels at the indices of the "
                "mistakes are other ones. Was the loader shuffled, or is it another split or dataset?"
            )
        return split.images[self.indices]

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
