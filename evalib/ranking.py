"""Which method at which layer explains this network on these images best, measured beside maps of nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from evalib.cam_layers import cam_layers
from evalib.cam_maps import check_inputs, explaining, unwrap
from evalib.faithfulness import control_maps, deletion_insertion, road
from evalib.localization import center_gaussian, measure_localization
from evalib.map_makers import WHOLE_NETWORK, logits_in_batches, make_in_batches
from evalib.map_makers import map_maker as map_maker
from evalib.progress import progress_bar
from evalib.sanity import CONTROLS, MOST_CLASS_CORRELATION, MOST_FLAT, class_sensitivity, clearly_better
from evalib.scores import MapMaker, Scores, scores_table
from evalib.tables import Table, Tabular

METHODS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam")
REMOVAL = ("ROAD", "insertion - deletion")  # figures that count
LOCALIZATION = ("pointing", "energy")  # that count, too, where the object is known
WHOLE = "whole network"  # stands for the layer of methods that make one map for all of them
CENTER = "center"  # the control that points at the middle of every image
_CLASS = "class correlation"
_BLURRED = ", blurred"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A method at a layer, and what was measured.

    Attributes:
        method: a key of `evalib.explain.METHODS`.
        layer: its name, or "whole network".
        scores: "ROAD" and "insertion - deletion" with what they are made of, "class correlation", and with regions
            those of `evalib.localization.measure_localization`.
        seconds: per image, for its map.
        problems: why it must not be chosen; empty for one that may be.
        mean_place: of all that may be chosen, its place (1 for the best) in each figure that counts, the mean of them;
            figures that agree to three digits share a place. NaN for one that may not be chosen.
    """

    method: str
    layer: str
    scores: Scores
    seconds: float
    problems: tuple[str, ...]
    mean_place: float = math.nan

    @property
    def name(self) -> str:
        """Method and layer, or the method alone if it has one map for the whole network."""
        return self.method if self.layer == WHOLE else f"{self.method} {self.layer}"

    @property
    def make_maps(self) -> MapMaker:
        """What makes its maps, as for `evalib.sanity.check_maps`."""
        return map_maker(self.method, None if self.layer == WHOLE else self.layer)


@dataclass(frozen=True, eq=False, repr=False)
class Ranking(Tabular):
    """What `rank_maps` found; `print` it, or let a notebook show it.

    Attributes:
        candidates: every method at every layer, in the order that was asked for.
        controls: the same figures of maps of nothing: "random", "random, blurred", "center"; and of the best
            candidate's own maps after a blur.
        figures: names of the figures that count, each with the same weight.
    """

    candidates: tuple[Candidate, ...]
    controls: Mapping[str, Scores]
    figures: tuple[str, ...]

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """Those that may be chosen, best first, equal means of places by the first figure; then those that may not."""
        first = self.figures[0]
        good = [candidate for candidate in self.candidates if not candidate.problems]
        good.sort(key=lambda candidate: (candidate.mean_place, -_shown(candidate, first)))
        return (*good, *(candidate for candidate in self.candidates if candidate.problems))

    @property
    def best(self) -> Candidate | None:
        """What it would use; None if nothing may be chosen."""
        first = self.ranked[0]
        return None if first.problems else first

    @property
    def reason(self) -> str:
        """What it would use and why, and what it would not use, in a few sentences."""
        left_out = self._left_out()
        best = self.best
        if best is None:
            return f"None of the {len(self.candidates)} may be used.{left_out}"
        some = sum(not other.problems for other in self.candidates)
        figures = ", ".join(f"{name} {best.scores[name].mean:.3f}" for name in self.figures)
        told = f"{best.name} has the best mean place, {best.mean_place:.1f} of {some}: {figures}."
        if near := [other.name for other in self.ranked[1:some] if self._as_good(other, best)]:
            told += f" These {best.scores[self.figures[0]].n:,} images do not put it clearly before {', '.join(near)}."
        if not self._beats_center(best):
            told += " At ROAD it is not clearly better than a map of the center, the same for all images."
        for name in self.figures:
            ahead = [key for key, scores in self.controls.items() if clearly_better(scores[name], best.scores[name])]
            told += f" Clearly better at {name}, although a control: {'; '.join(ahead)}." if ahead else ""
        return told + left_out

    def table(self) -> Table:
        """A row for each candidate and control."""
        columns = (*self.figures, _CLASS)
        kinds = {candidate.name: candidate.scores for candidate in self.ranked} | dict(self.controls)
        picked = {name: Scores(scores[key] for key in columns if key in scores) for name, scores in kinds.items()}
        table = scores_table(picked)
        others = {
            candidate.name: {
                "ms/image": 1000 * candidate.seconds,
                "mean place": None if candidate.problems else candidate.mean_place,
                "verdict": self._verdict(candidate),
            }
            for candidate in self.candidates
        }
        control = {"ms/image": None, "mean place": None, "verdict": "control"}
        rows = [
            {name: value for name, value in row.items() if name != "images/s"} | others.get(row["maps"], control)
            for row in table.rows
        ]
        return Table(rows, {**table.formats, "ms/image": "{:.1f}", "mean place": "{:.1f}"}, [*table.notes, self.reason])

    def _verdict(self, candidate: Candidate) -> str:
        verdict = "best" if candidate is self.best else "ok"
        center = "" if self._beats_center(candidate) else ", not clearly better than the center"
        return ", ".join(candidate.problems) or verdict + center

    def _beats_center(self, candidate: Candidate) -> bool:
        return clearly_better(candidate.scores["ROAD"], self.controls[CENTER]["ROAD"])

    def _left_out(self) -> str:
        """Names by problem."""
        problems = dict.fromkeys(problem for other in self.candidates for problem in other.problems)
        by_problem = [
            f"{problem}: " + ", ".join(other.name for other in self.candidates if problem in other.problems)
            for problem in problems
        ]
        return f" Left out as {'; as '.join(by_problem)}." if by_problem else ""

    def _as_good(self, other: Candidate, best: Candidate) -> bool:
        """Not clearly behind in any figure."""
        return not any(clearly_better(best.scores[name], other.scores[name]) for name in self.figures)


def rank_maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    methods: Sequence[str] = METHODS,
    layers: Sequence[str] | None = None,
    regions: Tensor | None = None,
    seed: int = 1,
    batch_size: int = 64,
) -> Ranking:
    """Methods times layers, ranked by what the network needs and, where the object is known, by where it is.

    The figures that count are ROAD and the area between the curves of insertion and deletion, with regions also the
    pointing game and the energy inside. Those with too many flat maps, blind to the class, or not clearly better than
    random maps at ROAD, as `evalib.sanity.check_maps` has it, are named and not chosen. Ask `check_maps` about the
    chosen one: whether maps depend on the weights is not measured here.

    The best of many on the same images looks better than it is: measure it again on others.

    Args:
        model: classifier as for `evalib.explain.explain`; it is left as it was.
        images: (N, 3, H, W) floating point, normalized as in training; at least 2, 100 tell more.
        classes: (N,) int64, the classes to explain; None for the predicted ones.
        methods: keys of `evalib.explain.METHODS`.
        layers: names of layers; None for all of `evalib.cam.cam_layers(model, images)`.
        regions: where the object is, boxes (N, 4) or masks (N, H, W), as for
            `evalib.localization.measure_localization`; None if it is not known.
        seed: of random maps, noise and the order of equal pixels.
        batch_size: images explained at once.

    Raises:
        TypeError, ValueError: as `evalib.explain.explain`, and if there are fewer than two images or no method.
    """
    model = unwrap(model)
    check_inputs(model, images)
    pairs = _pairs(model, images, methods, layers)
    if len(images) < 2 or not pairs:
        raise ValueError(
            f"`images` needs at least two, `methods` and `layers` one: got {len(images)} and {len(pairs)} in all."
        )
    if classes is None:
        with explaining(model):
            classes = logits_in_batches(model, images, batch_size).argmax(dim=1)
    measure = partial(_measure, model, images, classes, regions, seed)
    explain = partial(_make, model, images, classes, batch_size)
    controls = {name: measure(maps) for name, maps in _controls(images, seed).items()}
    found = []
    with progress_bar(None, total=len(pairs), desc="rank maps", unit="kind") as bar:
        for method, layer in pairs:
            make_maps, start = map_maker(method, layer), time.perf_counter()
            cams = explain(make_maps)
            seconds = (time.perf_counter() - start) / len(images)
            by_class = class_sensitivity(model, images, classes, make_maps, batch_size=batch_size)
            scores = measure(cams) | Scores([by_class])
            found.append(Candidate(method, layer or WHOLE, scores, seconds, _problems(scores, controls)))
            bar.update()
    figures = REMOVAL if regions is None else REMOVAL + LOCALIZATION
    ranking = Ranking(_with_places(found, figures), controls, figures)
    if (best := ranking.best) is not None:
        own = control_maps(explain(best.make_maps), seed)
        controls[best.name + _BLURRED] = measure(own["blurred"])
    return ranking


def _controls(images: Tensor, seed: int) -> dict[str, Tensor]:
    """Maps (N, H, W) that know nothing of the images."""
    nothing = images.new_zeros(len(images), *images.shape[2:])
    noise = control_maps(nothing, seed)
    center = center_gaussian(*images.shape[2:]).to(nothing).expand_as(nothing)
    return {**{name: noise[name] for name in CONTROLS}, CENTER: center}


def _pairs(
    model: nn.Module, images: Tensor, methods: Sequence[str], layers: Sequence[str] | None
) -> list[tuple[str, str | None]]:
    """Each method with each layer, or with None if it has one map for the whole network."""
    by_layer = set(methods) - set(WHOLE_NETWORK)
    names = (list(cam_layers(model, images)) if layers is None else list(layers)) if by_layer else []
    pairs = [(method, layer) for method in methods for layer in ([None] if method in WHOLE_NETWORK else names)]
    return list(dict.fromkeys(pairs))


def _make(model: nn.Module, images: Tensor, classes: Tensor, batch_size: int, make_maps: MapMaker) -> Tensor:
    with explaining(model):
        return make_in_batches(model, images, classes, make_maps, batch_size)


def _measure(
    model: nn.Module, images: Tensor, classes: Tensor, regions: Tensor | None, seed: int, cams: Tensor
) -> Scores:
    scores = road(model, images, cams, classes, seed=seed)
    scores = scores | deletion_insertion(model, images, cams, classes, seed=seed).scores
    return scores if regions is None else scores | measure_localization(cams, regions)


def _problems(scores: Scores, controls: Mapping[str, Scores]) -> tuple[str, ...]:
    """Why a kind of map must not be chosen."""
    by_class = scores[_CLASS]
    flat, total = by_class.flat, len(by_class.values)
    found = {
        "too many flat maps": flat > MOST_FLAT * total,
        "blind to the class": by_class.mean >= MOST_CLASS_CORRELATION,
        "not clearly better than noise": not all(
            clearly_better(scores["ROAD"], controls[name]["ROAD"]) for name in CONTROLS
        ),
    }
    return tuple(problem for problem, there in found.items() if there)


def _with_places(found: Sequence[Candidate], figures: Sequence[str]) -> tuple[Candidate, ...]:
    """The candidates with the means of their places among those that may be chosen."""
    good = [candidate for candidate in found if not candidate.problems]

    def place(candidate: Candidate, name: str) -> int:
        return 1 + sum(_shown(other, name) > _shown(candidate, name) for other in good)

    return tuple(
        candidate
        if candidate.problems
        else replace(candidate, mean_place=sum(place(candidate, name) for name in figures) / len(figures))
        for candidate in found
    )


def _shown(candidate: Candidate, name: str) -> float:
    """A figure to the digits that the table shows: methods that are equal but for rounding stay equal."""
    return round(candidate.scores[name].mean, 3)
