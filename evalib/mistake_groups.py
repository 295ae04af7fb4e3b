"""Mistakes sorted by what they look like: a wrong label, a confident error, a near tie; and the pairs confused most.

>>> evaluation = evaluate(model, eval_loader(data))
>>> neighbors = nearest_images(model, data, find_mistakes(evaluation))
>>> groups = group_mistakes(evaluation, neighbors)
>>> groups.table()
>>> plot_groups(data, groups)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.engine import Evaluation
from evalib.mistakes import Mistakes, find_mistakes
from evalib.neighbors import Neighbors
from evalib.tables import Table

GROUPS = ("label suspect", "confident", "near tie", "unsure")
# Mean of ten test sets: Northcutt, Athalye and Mueller, "Pervasive Label Errors in Test Sets", NeurIPS 2021.
WRONG_LABELS = 0.033


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class MistakeGroups:
    """M mistakes, each in exactly one of `GROUPS`; row m of every tensor is the same image.

    Attributes:
        mistakes: all of them.
        group: (M,) int64, the place in `GROUPS`.
        loss: (M,) float32, cross-entropy against the label: minus the logarithm of the label's probability.
        margin: (M,) float32 in [0, 1], probability of the predicted class less that of the second one.
        second: (M,) int64, the class of the second highest probability.
        agreement: (M,) float32 in [0, 1], share of the nearest training images that are labeled as predicted; None if
            they were not asked for: then nothing is a label suspect.
        rules: what the groups mean, in words, by name.
        images: how many were judged, right ones too.
    """

    mistakes: Mistakes
    group: Tensor
    loss: Tensor
    margin: Tensor
    second: Tensor
    agreement: Tensor | None
    rules: dict[str, str]
    images: int

    def rows(self, name: str) -> Tensor:
        """(K,) int64, rows of a group's mistakes: near ties by margin, smallest first; others by loss, highest first.

        Raises:
            ValueError: if there is no such group.
        """
        if name not in GROUPS:
            raise ValueError(f"`name` needs one of {', '.join(map(repr, GROUPS))}: got {name!r}.")
        rows = (self.group == GROUPS.index(name)).nonzero().flatten()
        key = self.margin if name == "near tie" else -self.loss
        return rows[key[rows].argsort(stable=True)]

    def __getitem__(self, name: str) -> Mistakes:
        return self.mistakes.select(self.rows(name))

    def table(self) -> Table:
        """A row per group: number and share of mistakes, mean probability and loss, how often the label came second."""
        rows = []
        for name in self.rules:
            chosen = self.rows(name)
            some = len(chosen) > 0
            second = (self.second == self.mistakes.true)[chosen].float()
            rows.append(
                {
                    "group": name,
                    "mistakes": len(chosen),
                    "share": len(chosen) / len(self.mistakes),
                    "probability": self.mistakes.probability[chosen].mean().item() if some else None,
                    "loss": self.loss[chosen].mean().item() if some else None,
                    "label second": second.mean().item() if some else None,
                    "rule": self.rules[name],
                }
            )
        formats = {"mistakes": "{:,}", "share": "{:.1%}", "probability": "{:.1%}", "loss": "{:.2f}"}
        notes = ["A mistake is in the first group whose rule it meets."]
        suspects = len(self.rows("label suspect")) / self.images
        if suspects > 2 * WRONG_LABELS:
            notes.append(
                f"Suspects are {suspects:.1%} of the images. Test sets of research have {WRONG_LABELS:.1%} wrong "
                "labels on average (Northcutt et al. 2021): most of these suspects will be the network's own mistakes."
            )
        return Table(rows, formats | {"label second": "{:.1%}"}, notes)


def group_mistakes(
    evaluation: Evaluation,
    neighbors: Neighbors | None = None,
    *,
    confident: float | None = None,
    tie: float = 0.1,
    suspect_agreement: float = 0.7,
) -> MistakeGroups:
    """All mistakes of an evaluation, each in the first of four groups whose rule it meets.

    1. "label suspect": the label itself may be wrong. The model is confident of another class, gives the label a
       probability below chance (a loss above log C), and the nearest training images are labeled with that class, too.
       A suspicion, not a proof: look at the images. Neighbors by the network's own features are hardly an independent
       witness, and a network that has learned wrong labels by heart has no loss on them: judge images that it was not
       trained on.
    2. "confident": surer than of the least sure quarter of the images that it gets right.
    3. "near tie": the two highest probabilities are nearly equal.
    4. "unsure": everything between.

    Args:
        evaluation: logits (N, C) and labels of a whole split.
        neighbors: of `find_mistakes(evaluation)`, in that order, as `nearest_images` gives them; without them there is
            no group of label suspects.
        confident: least probability of a confident mistake; None takes the lower quartile of the images predicted
            right, since how sure a network can be depends on how it was trained, as with smoothed labels.
        tie: largest margin between the two highest probabilities of a near tie.
        suspect_agreement: least share of the neighbors of a label suspect that are labeled as predicted.

    Raises:
        ValueError: if there is no mistake, there are neighbors of other images, or no image is right and `confident`
            is None.
    """
    mistakes, logits = find_mistakes(evaluation), evaluation.logits
    _check(evaluation, mistakes, neighbors, confident)
    if confident is None:
        right = evaluation.predictions == evaluation.labels
        confident = evaluation.probabilities[right].amax(dim=1).double().quantile(0.25).item()
    top = evaluation.probabilities[mistakes.indices].topk(2)
    margin = top.values[:, 0] - top.values[:, 1]
    loss = F.cross_entropy(logits[mistakes.indices], mistakes.true, reduction="none")
    sure = mistakes.probability >= confident
    group = torch.full_like(mistakes.true, GROUPS.index("unsure"))
    group[margin <= tie] = GROUPS.index("near tie")
    group[sure] = GROUPS.index("confident")
    rules = {
        "confident": f"probability ≥ {confident:.1%}",
        "near tie": f"two highest probabilities within {tie:.0%}",
        "unsure": "everything between",
    }
    agreement = None
    if neighbors is not None:
        agreement, chance = neighbors.agreement(mistakes.predicted), math.log(logits.shape[1])
        group[sure & (loss > chance) & (agreement >= suspect_agreement)] = GROUPS.index("label suspect")
        rule = f"confident, loss > {chance:.2f}, ≥ {suspect_agreement:.0%} of neighbors labeled as predicted"
        rules = {"label suspect": rule, **rules}
    return MistakeGroups(mistakes, group, loss, margin, top.indices[:, 1], agreement, rules, len(logits))


def _check(evaluation: Evaluation, mistakes: Mistakes, neighbors: Neighbors | None, confident: float | None) -> None:
    if len(mistakes) == 0:
        raise ValueError("`evaluation` needs at least one mistake: got none.")
    if neighbors is not None and len(neighbors) != len(mistakes):
        raise ValueError(
            f"`neighbors` needs an entry for each of the {len(mistakes)} mistakes: got {len(neighbors)}. "
            "Pass `nearest_images(model, data, find_mistakes(evaluation))`."
        )
    if confident is None and len(mistakes) == len(evaluation.labels):
        raise ValueError("`confident` needs a number: no image is predicted right that could tell what is usual.")


class Pair(NamedTuple):
    """Two classes that were confused: so many images of class `true` were taken for class `predicted`."""

    true: int
    predicted: int
    images: int


def confused_pairs(mistakes: Mistakes, n: int | None = None) -> list[Pair]:
    """The pairs of classes by the number of mistakes, most first; equal ones in the order of the classes.

    Args:
        mistakes: all or some.
        n: how many pairs; None for all.
    """
    both = torch.stack([mistakes.true, mistakes.predicted], dim=1)
    found, counts = both.unique(dim=0, return_counts=True)  # sorted by the classes
    pairs = [
        Pair(true, predicted, images) for (true, predicted), images in zip(found.tolist(), counts.tolist(), strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair.images)[:n]


def pairs_table(mistakes: Mistakes, classes: Sequence[str], n: int | None = 10) -> Table:
    """The pairs confused most, with the mistakes the other way round.

    Args:
        mistakes: all of them.
        classes: names of the classes.
        n: how many pairs; None for all.

    Raises:
        ValueError: if there is no mistake.
    """
    if len(mistakes) == 0:
        raise ValueError("No misclassified image: `mistakes` is empty. Check `len(mistakes)` first.")
    counts = {(pair.true, pair.predicted): pair.images for pair in confused_pairs(mistakes)}
    rows = [
        {
            "true": classes[true],
            "predicted": classes[predicted],
            "mistakes": count,
            "share": count / len(mistakes),
            "the other way round": counts.get((predicted, true), 0),
        }
        for (true, predicted), count in list(counts.items())[:n]
    ]
    return Table(rows, {"mistakes": "{:,}", "share": "{:.1%}", "the other way round": "{:,}"})
