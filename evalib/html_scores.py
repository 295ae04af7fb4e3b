"""Are the maps of a report worth a look? Every layer measured on a few images, beside maps of nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from evalib.cam_maps import explaining
from evalib.faithfulness import control_maps, road
from evalib.localization import center_gaussian
from evalib.map_makers import make_in_batches, map_maker
from evalib.sanity import (
    CONTROLS,
    MOST_CLASS_CORRELATION,
    MOST_FLAT,
    Verdict,
    check_maps,
    class_sensitivity,
    clearly_better,
)
from evalib.scores import Scores

PATIENCE = 15.0  # seconds that all scores may take, unless a number of images is asked for
SMALL, USUAL = 64, 16  # images of so many pixels a side: so many of them, whatever the device, without a trial
MOST, FEWEST = 32, 6  # larger ones, by what a trial says
PERCENTILES = (20, 50, 80)  # a third of what `road` takes by itself
CENTER = "center"
_CLASS = "class correlation"


@dataclass(frozen=True, eq=False)
class LayerScores:
    """What was measured of the maps of one layer.

    Attributes:
        layer: its name.
        scores: "ROAD" with what it is made of, and "class correlation".
        problems: why its maps must not be believed; empty if nothing speaks against them.
    """

    layer: str
    scores: Scores
    problems: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class MapScores:
    """Layers beside controls.

    Attributes:
        method: what made the maps.
        images: how many images were used.
        layers: in the order of the network.
        controls: figures of "random", "random, blurred" and "center".
        verdict: all four checks about the maps of the chosen layer; None where they would take too long.
    """

    method: str
    images: int
    layers: tuple[LayerScores, ...]
    controls: Mapping[str, Scores]
    verdict: Verdict | None

    @property
    def best(self) -> LayerScores | None:
        """The layer of the highest ROAD of those without a problem."""
        return _best(self.layers)

    @property
    def chosen(self) -> LayerScores | None:
        """Of the layers that are not clearly behind the best one the last: its maps are the calmest to read."""
        best = self.best
        if best is None:
            return None
        return [layer for layer in self.layers if not layer.problems and not _behind(layer, best)][-1]


def score_maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    layers: Sequence[str],
    *,
    method: str = "hires_cam",
    count: int | None = None,
    seed: int = 1,
) -> MapScores | str:
    """ROAD and dependence on the class for every layer, the four checks for the chosen one.

    Args:
        model: the network; it is left as it was.
        images: (N, 3, H, W) normalized.
        classes: (N,) int64, the predicted ones.
        layers: names of layers.
        method: a key of `evalib.explain.METHODS` that has a map per layer.
        count: how many of the images to use, from the first on; None takes 16 of small images, of larger ones as many
            as take `PATIENCE`.
        seed: of noise and controls.

    Returns:
        The scores; or in words why there are none.
    """
    if len(images) < 2 or len(layers) == 0:
        return "A score needs two images at least, to tell its error."
    checks = count is not None
    if count is None and max(images.shape[2:]) <= SMALL:
        count, checks = USUAL, True
    elif count is None:
        pilot = _seconds_for_one(model, images, classes, seed)
        whole = pilot * (2 * len(layers) + 3 + 8)  # the checks cost about as much as eight layers
        checks = PATIENCE / whole >= 2 * FEWEST
        each = whole if checks else pilot * (2 * len(layers) + 3)
        count = int(min(MOST, PATIENCE / each))
        if count < min(FEWEST, len(images)):
            return (
                f"Not measured: {FEWEST} images, the fewest that tell anything, would take about "
                f"{FEWEST * each:.0f} s on this device. `--scores {MOST}` asks for it all the same."
            )
    images, classes = images[:count], classes[:count]
    controls = {name: _road(model, images, maps, classes, seed) for name, maps in _controls(images, seed).items()}
    found = tuple(_score_layer(model, images, classes, method, layer, controls, seed) for layer in layers)
    scores = MapScores(method, len(images), found, controls, None)
    if not checks or scores.chosen is None:
        return scores
    verdict = check_maps(model, images, classes, map_maker(method, scores.chosen.layer), seed=seed)
    return replace(scores, verdict=verdict)


def _best(layers: Sequence[LayerScores]) -> LayerScores | None:
    good = [layer for layer in layers if not layer.problems]
    return max(good, key=lambda layer: layer.scores["ROAD"].mean, default=None)


def _behind(layer: LayerScores, best: LayerScores) -> bool:
    return clearly_better(best.scores["ROAD"], layer.scores["ROAD"])


def _seconds_for_one(model: nn.Module, images: Tensor, classes: Tensor, seed: int) -> float:
    """What one image at one layer takes, tried on a few: the network's work and that of filling in."""
    few = images[: max(1, min(8, 2**15 // images[0, 0].numel()))]  # small ones cost less together
    maps = control_maps(few.new_zeros(len(few), *few.shape[2:]), seed)["random"]
    percentiles = PERCENTILES[1:2]
    seconds = math.inf
    for _ in range(2):  # the first call pays for what is made once; of large images one is enough
        start = time.perf_counter()
        road(model, few, maps, classes[: len(few)], percentiles=percentiles, seed=seed)
        seconds = min(seconds, time.perf_counter() - start)
        if seconds > 1:
            break
    return seconds / len(few) * (2 * len(PERCENTILES) + 1) / (2 * len(percentiles) + 1)


def _controls(images: Tensor, seed: int) -> dict[str, Tensor]:
    nothing = images.new_zeros(len(images), *images.shape[2:])
    noise = control_maps(nothing, seed)
    return {**{name: noise[name] for name in CONTROLS}, CENTER: center_gaussian(*images.shape[2:]).to(nothing)
            .expand_as(nothing)}  # fmt: skip


def _road(model: nn.Module, images: Tensor, cams: Tensor, classes: Tensor, seed: int) -> Scores:
    return road(model, images, cams, classes, percentiles=PERCENTILES, seed=seed)


def _score_layer(
    model: nn.Module, images: Tensor, classes: Tensor, method: str, layer: str, controls: Mapping[str, Scores],
    seed: int,
) -> LayerScores:  # fmt: skip
    make_maps = map_maker(method, layer)
    with explaining(model):
        cams = make_in_batches(model, images, classes, make_maps)
    by_class = class_sensitivity(model, images, classes, make_maps)
    scores = _road(model, images, cams, classes, seed) | Scores([by_class])
    return LayerScores(layer, scores, _problems(scores, controls))


def _problems(scores: Scores, controls: Mapping[str, Scores]) -> tuple[str, ...]:
    """Why maps must not be believed, by the rules of `evalib.ranking`."""
    by_class = scores[_CLASS]
    beaten = all(clearly_better(scores["ROAD"], controls[name]["ROAD"]) for name in CONTROLS)
    found = {
        "too many flat maps": by_class.flat > MOST_FLAT * len(by_class.values),
        "blind to the class": by_class.mean >= MOST_CLASS_CORRELATION,
        "not clearly better than noise": not beaten,
    }
    return tuple(problem for problem, there in found.items() if there)
