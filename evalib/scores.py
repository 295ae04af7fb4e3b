"""Figures about maps, one per image, with what a mean would hide: their spread, their number, and the flat maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from evalib.tables import Table, Tabular

# (model, images (N, 3, H, W), classes (N,)) -> cams (N, H, W) float32 in [0, 1]
MapMaker: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Score:
    """One figure for each of N images.

    Attributes:
        name: of the figure, as "pointing".
        values: (N,) float64 on the CPU; NaN where the figure is not defined, as that of a flat map that has no order.
        better: whether "high" or "low" figures speak for the maps.
        flat: how many of the maps were flat, whatever their figures.
        seconds: what all figures took; NaN if not measured.
        note: what else is to be known, as "threshold 0.35".

    Raises:
        ValueError: if `values` is not (N,) with at least one image, or a figure is infinite.
    """

    name: str
    values: Tensor
    better: Literal["high", "low"] = "high"
    flat: int = 0
    seconds: float = math.nan
    note: str = ""

    def __post_init__(self) -> None:
        if self.values.dim() != 1 or len(self.values) == 0 or self.values.isinf().any():
            raise ValueError(
                f"`values` of {self.name!r} needs one finite figure or NaN per image, (N,): got "
                f"{tuple(self.values.shape)}, {int(self.values.isinf().sum())} of them infinite."
            )
        object.__setattr__(self, "values", self.values.detach().cpu().double())

    @property
    def n(self) -> int:
        """How many images have a figure."""
        return int(self.values.isfinite().sum())

    @property
    def mean(self) -> float:
        """Mean over the images that have a figure; NaN if none has."""
        return self.values.nanmean().item()

    @property
    def sd(self) -> float:
        """Sample standard deviation over the images that have a figure; NaN for fewer than two."""
        found = self.values[self.values.isfinite()]
        return found.std().item() if len(found) > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return self.sd / math.sqrt(self.n) if self.n else math.nan

    @property
    def images_per_second(self) -> float:
        """How many images got their figure in a second; NaN if not measured."""
        return len(self.values) / self.seconds


class Scores(Tabular, Mapping[str, Score]):
    """Several figures about the same maps, by name and in order; `a | b` joins them."""

    def __init__(self, scores: Iterable[Score]) -> None:
        self._scores = {score.name: score for score in scores}

    def __getitem__(self, name: str) -> Score:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __or__(self, other: Scores) -> Scores:
        return Scores([*self.values(), *other.values()])

    def table(self) -> Table:
        """A row per figure: mean, standard deviation, number of images and of flat maps, images per second."""
        rows = [
            {
                "figure": score.name,
                "mean": _number(score.mean),
                "sd": _number(score.sd),
                "better": score.better,
                "n": score.n,
                "flat maps": score.flat,
                "images/s": _number(score.images_per_second),
                "note": score.note,
            }
            for score in self.values()
        ]
        return Table(rows, {"mean": "{:.3f}", "sd": "{:.3f}", "n": "{:,}", "flat maps": "{:,}", "images/s": "{:,.1f}"})


def scores_table(kinds: Mapping[str, Scores]) -> Table:
    """Kinds of maps side by side, a row each: the means of the same figures with their standard errors.

    Args:
        kinds: figures by what the maps are, as {"layer_cam layer3": scores, "random": others}. A figure that only
            some of them have is "n/a" for the others.

    Raises:
        ValueError: if there is no kind.
    """
    if not kinds:
        raise ValueError("`kinds` needs the scores of at least one kind of map: got none.")
    names = list(dict.fromkeys(name for scores in kinds.values() for name in scores))
    rows = []
    for kind, scores in kinds.items():
        some = list(scores.values())
        n, seconds = max(len(score.values) for score in some), sum(score.seconds for score in some)
        row = {
            "maps": kind,
            "n": n,
            "flat": max(score.flat for score in some),
            **{name: _with_error(scores[name]) if name in scores else None for name in names},
            "images/s": _number(n / seconds) if seconds else None,
        }
        rows.append(row)
    if all(row["images/s"] is None for row in rows):
        rows = [{name: value for name, value in row.items() if name != "images/s"} for row in rows]
    arrows = {"high": "higher is better", "low": "lower is better"}
    better = {score.name: arrows[score.better] for scores in kinds.values() for score in scores.values()}
    told = "; ".join(f"{name}: {word}" for name, word in better.items())
    formats = {"n": "{:,}", "flat": "{:,}", "images/s": "{:,.1f}"} | dict.fromkeys(names, "{}")
    return Table(rows, formats, [f"Mean ± standard error. {told}."])


def _with_error(score: Score) -> str | None:
    if math.isnan(score.mean):
        return None
    return f"{score.mean:.3f}" + ("" if math.isnan(score.sd) else f" ± {score.standard_error:.3f}")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
