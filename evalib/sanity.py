"""Do maps depend on the network and on the class at all? A map can follow the edges of an image and please the eye,
and be the same for any weights and any class.

Each question is asked of a way to make maps, a function (model, images, classes) -> cams as
`evalib.map_makers.map_maker("grad_cam", "layer4")` gives it, since maps alone cannot answer it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalib.cam_maps import check_inputs, explaining, unwrap
from evalib.faithfulness import control_maps, road
from evalib.map_likeness import rank_correlation
from evalib.map_makers import logits_in_batches, make_in_batches
from evalib.perturbation import flat_maps
from evalib.randomization import randomize_layers as randomize_layers
from evalib.runtime import derived_seed
from evalib.scores import MapMaker, Score
from evalib.tables import Table, Tabular

# What maps need to pass; those of a trained network by a method that works stay far from the last three.
MOST_FLAT = 0.05  # the share of flat maps
MOST_CLASS_CORRELATION = 0.9  # mean rank correlation with maps of the least likely class
MOST_WEIGHT_CORRELATION = 0.5  # mean rank correlation with maps of random weights, of either sign
STANDARD_ERRORS = 2.0  # that the mean difference of ROAD to a control's has to be above 0
CONTROLS = ("random", "random, blurred")  # of `evalib.faithfulness.control_maps`


@dataclass(frozen=True)
class Check:
    """One question about maps, and the answer.

    Attributes:
        question: "not flat", "class matters", "weights matter" or "better than noise".
        passed: whether the maps pass.
        found: the figures.
        needed: what they have to be.
        reason: what a failure means.
    """

    question: str
    passed: bool
    found: str
    needed: str
    reason: str


@dataclass(frozen=True, repr=False)
class Verdict(Tabular):
    """What `check_maps` found; `print` it, or let a notebook show it.

    Attributes:
        checks: all four of them.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks are passed."""
        return all(check.passed for check in self.checks)

    def table(self) -> Table:
        """A row per check, "ok" or "FAIL"."""
        rows = [
            {
                "": "ok" if check.passed else "FAIL",
                "check": check.question,
                "found": check.found,
                "needed": check.needed,
                "reason": "" if check.passed else check.reason,
            }
            for check in self.checks
        ]
        return Table(rows)


def check_maps(
    model: nn.Module, images: Tensor, classes: Tensor, make_maps: MapMaker, *, seed: int = 1, batch_size: int = 64
) -> Verdict:
    """Four checks that maps of something else fail: of other weights, of any class, of nothing.

    "not flat": hardly any map is flat. "class matters": `class_sensitivity`. "weights matter": `randomize_layers` of
    the whole network. "better than noise": `evalib.faithfulness.road` beside that of random maps, rough and blurred.
    Passing them does not make maps right, failing one makes them wrong or the images too few.

    Args:
        model, images, make_maps, batch_size: as in `evalib.randomization.randomize_layers`; 50 images tell more than
            their number of classes, two are the fewest.
        classes: (N,) int64, the classes that the maps explain, as the predicted ones.
        seed: of random weights, random maps and ROAD's noise.

    Raises:
        ValueError: if there is a single image or class, or images, classes or maps do not fit.

    Example:
        >>> verdict = check_maps(model, images, classes, map_maker("grad_cam", "layer4"))  # doctest: +SKIP
        >>> verdict.passed  # doctest: +SKIP
        True
    """
    if len(images) < 2:
        raise ValueError(f"`images` needs at least two, better 50: got {len(images)}. A mean needs its error.")
    about = (model, images, classes)
    with explaining(unwrap(model)):
        cams = make_in_batches(*about, make_maps, batch_size)
    whole = randomize_layers(*about, make_maps, seed=seed, stages=[""], batch_size=batch_size)
    noise = control_maps(cams, seed)
    own, *controls = (
        road(model, images, maps, classes, seed=seed)["ROAD"] for maps in (cams, *(noise[name] for name in CONTROLS))
    )
    return Verdict(
        (
            _not_flat(cams),
            _class_matters(class_sensitivity(*about, make_maps, batch_size=batch_size)),
            _weights_matter(whole.final["rank correlation"]),
            _better_than_noise(own, dict(zip(CONTROLS, controls, strict=True))),
        )
    )


def clearly_better(own: Score, other: Score) -> bool:
    """Whether figures of the same images, high being good, differ by more than twice the standard error of the mean."""
    difference = Score("difference", own.values - other.values)
    return difference.mean > STANDARD_ERRORS * difference.standard_error  # False for NaN


def _not_flat(cams: Tensor) -> Check:
    flat = int(flat_maps(cams).sum())
    found, needed = f"{flat:,} of {len(cams):,} maps are flat", f"at most {MOST_FLAT:.0%}"
    return Check("not flat", flat <= MOST_FLAT * len(cams), found, needed, "flat maps say nothing")


def _class_matters(score: Score) -> Check:
    found = f"rank correlation {score.mean:.2f} with maps of the least likely class"
    passed, needed = score.mean < MOST_CLASS_CORRELATION, f"below {MOST_CLASS_CORRELATION}"
    return _judged(score, Check("class matters", passed, found, needed, "the maps are blind to the class"))


def _weights_matter(score: Score) -> Check:
    found = f"rank correlation {score.mean:.2f} with maps of random weights"
    passed, needed = abs(score.mean) < MOST_WEIGHT_CORRELATION, f"within ±{MOST_WEIGHT_CORRELATION}"
    reason = "the maps do not explain this network: other weights give the same"
    return _judged(score, Check("weights matter", passed, found, needed, reason))


def _better_than_noise(own: Score, controls: Mapping[str, Score]) -> Check:
    found = "; ".join([f"ROAD {own.mean:.3f}", *(f"{name} {score.mean:.3f}" for name, score in controls.items())])
    passed = all(clearly_better(own, score) for score in controls.values())
    needed = f"{STANDARD_ERRORS:g} standard errors above both"
    reason = "what the maps mark matters no more than pixels by chance"
    return _judged(own, Check("better than noise", passed, found, needed, reason))


def _judged(score: Score, check: Check) -> Check:
    """The check, or its failure if no map has a figure."""
    if score.n:
        return check
    return Check(check.question, False, "no figure: all maps are flat", check.needed, "there is nothing to judge")


def class_sensitivity(
    model: nn.Module, images: Tensor, classes: Tensor, make_maps: MapMaker, *, batch_size: int = 64
) -> Score:
    """Rank correlation of each map with that of the least likely other class: about 1 for maps blind to the class.

    Args:
        model, images, make_maps, batch_size: as in `randomize_layers`.
        classes: (N,) int64, the classes that the maps explain, as the predicted ones.

    Returns:
        "class correlation" in [-1, 1], low is good. NaN where the map is flat, which `flat` counts; 0 where only
        that of the least likely class is, since there is then no evidence for it: `note` counts these.

    Raises:
        ValueError: if images, classes or maps do not fit, or the network has a single class.
    """
    start = time.perf_counter()
    model = unwrap(model)
    check_inputs(model, images)
    with explaining(model):
        least = _least_likely(model, images, classes, batch_size)
        cams, others = (make_in_batches(model, images, wanted, make_maps, batch_size) for wanted in (classes, least))
    flat = flat_maps(cams)
    note = f"flat maps of the least likely class: {int((flat_maps(others) & ~flat).sum())}"
    values, seconds = rank_correlation(cams, others), time.perf_counter() - start
    return Score("class correlation", values, "low", int(flat.sum()), seconds, note)


def max_sensitivity(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    make_maps: MapMaker,
    *,
    radius: float = 0.02,
    draws: int = 10,
    seed: int = 1,
    batch_size: int = 64,
) -> Score:
    """Max-sensitivity (Yeh et al. 2019, arXiv:1901.09392), relative: how far small noise moves a map.

    The largest norm of the difference between the map of the noisy image and that of the image, as a fraction of the
    norm of the latter.

    Args:
        model, images, classes, make_maps, batch_size: as in `randomize_layers`. The classes stay as they are, whatever
            the network says of noisy images.
        radius: noise is uniform in [-radius, radius], in the units of `images`.
        draws: noisy versions of each image; more of them find a larger maximum.
        seed: of the noise.

    Returns:
        "max-sensitivity", at least 0, low is good; NaN where the map is flat, which `flat` counts.

    Raises:
        ValueError: if `radius` or `draws` is not positive, or images, classes or maps do not fit.
    """
    if not radius > 0 or draws < 1:
        raise ValueError(f"`radius` and `draws` need to be positive: got {radius} and {draws}.")
    start = time.perf_counter()
    model = unwrap(model)
    check_inputs(model, images)
    generator = torch.Generator().manual_seed(derived_seed(seed, "noise for max-sensitivity"))
    with explaining(model):
        cams = make_in_batches(model, images, classes, make_maps, batch_size).flatten(1).double()
        largest = torch.zeros(len(images), dtype=torch.float64, device=cams.device)
        for _ in range(draws):
            noise = radius * (2 * torch.rand(images.shape, generator=generator) - 1)
            noisy = make_in_batches(model, images + noise.to(images), classes, make_maps, batch_size)
            largest = largest.maximum((noisy.flatten(1) - cams).norm(dim=1))
    flat = cams.amax(dim=1) == cams.amin(dim=1)
    values = torch.where(flat, torch.nan, largest / cams.norm(dim=1))
    note = f"noise of ± {radius:g}, {draws} draws"
    return Score("max-sensitivity", values, "low", int(flat.sum()), time.perf_counter() - start, note)


def _least_likely(model: nn.Module, images: Tensor, classes: Tensor, batch_size: int) -> Tensor:
    """(N,) int64: the class of the lowest logit that is not the class itself."""
    logits = logits_in_batches(model, images, batch_size)
    if logits.shape[1] < 2:
        raise ValueError("`model` needs at least two classes to compare their maps: this one has one.")
    logits.scatter_(1, classes[:, None].to(logits.device), torch.inf)
    return logits.argmin(dim=1).to(classes.device)
