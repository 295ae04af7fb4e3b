"""How sure a network is, and how often it is right then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evalib.evaluation import Evaluation

BINS = 15


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class Calibration:
    """Confidence, the probability of the predicted class, beside accuracy, in B bins of equal width.

    Attributes:
        edges: (B + 1,) float64 from 0 to 1; bin b holds the images with a confidence in (edges[b], edges[b + 1]].
        counts: (B,) int64, images in it.
        confidence: (B,) float64, their mean confidence; NaN where there is none.
        accuracy: (B,) float64, the fraction of them that is right; NaN where there is none.
    """

    edges: Tensor
    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of accuracy and confidence, bins weighted by their images."""
        weights = self.counts.double() / self.counts.sum()
        return float(((self.accuracy - self.confidence).abs().nan_to_num(0.0) * weights).sum())

    @property
    def overconfidence(self) -> float:
        """Mean confidence less accuracy: above 0 where the network is surer than it is right."""
        weights = self.counts.double() / self.counts.sum()
        return float(((self.confidence - self.accuracy).nan_to_num(0.0) * weights).sum())


def calibration(evaluation: Evaluation, bins: int = BINS) -> Calibration:
    """Reliability of an evaluation (Guo et al. 2017, arXiv:1706.04599, section 2: 15 bins of equal width).

    The expected calibration error depends on the number of bins, and of few images it is large by chance alone.

    Args:
        evaluation: logits (N, C) and labels of N images.
        bins: B.

    Raises:
        ValueError: if `bins` is less than 1.
    """
    if bins < 1:
        raise ValueError(f"`bins` needs at least 1: got {bins}.")
    confidence, predictions = evaluation.logits.double().softmax(dim=1).max(dim=1)
    right = (predictions == evaluation.labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1])  # the right end belongs to a bin
    counts = torch.bincount(place, minlength=bins)
    sums = [torch.bincount(place, weights=values, minlength=bins) for values in (confidence, right)]
    return Calibration(edges, counts, *(values / counts for values in sums))
