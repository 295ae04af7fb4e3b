"""Does the network need what a map marks? Pixels go or come in the order of the map, and it is asked again.

A figure of one kind of map says little by itself. Put those of `control_maps` beside it: smooth maps, even random ones,
do better than rough ones at all of these figures ("On Pitfalls of ROAR", 2023, arXiv:2304.13836).

Inside `torch.autocast` the network, and nothing else, computes in its precision: faster, and rounded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalib.cam_maps import finish, form
from evalib.imputation import impute
from evalib.perturbation import Part, blurred, flat_maps, probabilities
from evalib.runtime import derived_seed
from evalib.scores import Score, Scores

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
BLUR = 1 / 16  # standard deviation of a blur, as a fraction of the image's shorter side
_LOW = {"ROAD MoRF", "deletion", "average drop"}  # figures that are good when low


@dataclass(frozen=True, eq=False)
class Curves:
    """The probability of a class while pixels go or come in the order of a map, strongest first.

    Attributes:
        fractions: (S + 1,) float64, the fraction of pixels that are gone or back, from 0 to 1.
        deletion: (N, S + 1) float64 probabilities in [0, 1] while pixels go; NaN for a flat map.
        insertion: (N, S + 1) likewise, while they come back.
        seconds: what all curves took.
    """

    fractions: Tensor
    deletion: Tensor
    insertion: Tensor
    seconds: float = math.nan

    @property
    def scores(self) -> Scores:
        """Areas under the curves, by trapezoids: "deletion" (low is good), "insertion", and their difference."""
        deletion, insertion = (
            torch.trapezoid(curve, self.fractions, dim=1) for curve in (self.deletion, self.insertion)
        )
        figures = {"deletion": deletion, "insertion": insertion, "insertion - deletion": insertion - deletion}
        return _scores(figures, self.deletion.isnan().any(dim=1), self.seconds)


def measure_faithfulness(
    model: nn.Module,
    images: Tensor,
    cams: Tensor,
    classes: Tensor,
    *,
    seed: int = 1,
    steps: int = 16,
    percentiles: Sequence[int] = PERCENTILES,
    batch_size: int | None = None,
) -> Scores:
    """All figures of this module about one kind of map: those of `road`, `deletion_insertion` and `average_drop`.

    Args:
        model, images, cams, classes, seed, batch_size: as in `road`.
        steps: as in `deletion_insertion`.
        percentiles: as in `road`.

    Raises:
        TypeError, ValueError: as `road`.
    """
    about = (model, images, cams, classes)
    return (
        road(*about, percentiles=percentiles, seed=seed, batch_size=batch_size)
        | deletion_insertion(*about, steps=steps, seed=seed, batch_size=batch_size).scores
        | average_drop(*about, batch_size=batch_size)
    )


def road(
    model: nn.Module,
    images: Tensor,
    cams: Tensor,
    classes: Tensor,
    *,
    percentiles: Sequence[int] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 1,
    batch_size: int | None = None,
) -> Scores:
    """ROAD: how the probability of the class changes when pixels are removed and imputed (arXiv:2202.00449).

    Of P pixels, a percentile p removes the 1 + floor(p (P - 1) / 100) strongest ("ROAD MoRF", most relevant first) or
    weakest ones ("ROAD LeRF"). The figure is the probability after minus that before, the mean over all percentiles;
    "ROAD" is (LeRF - MoRF) / 2.

    These are the pixels that the package grad-cam removes where all values of a map differ. Where they do not, as in
    the zeros of a map after ReLU, it removes all or none of the equal ones, and may remove the whole image; here they
    go in a random order. It draws other noise for each percentile, from torch's global generator; here an image has
    the same noise throughout. It lets the user choose the figure; that of its `ClassifierOutputSoftmaxTarget` is ours.

    Args:
        model: classifier as for `evalib.explain.explain`; it is run in eval mode and left as it was.
        images: (N, 3, H, W) floating point, normalized as in training.
        cams: (N, H, W) in [0, 1], one map per image, as `explain(...)[0]`; flat ones get no figure.
        classes: (N,) integers, the classes that the maps explain.
        percentiles: integers from 1 to 99.
        noise: standard deviation of what is added to imputed pixels, in the units of `images`.
        seed: of the noise and of the order of equal values.
        batch_size: images that the network sees at once, as in `evalib.perturbation.probabilities`.

    Returns:
        "ROAD MoRF" (in [-1, 1], low is good), "ROAD LeRF" and "ROAD" (high is good), per image.

    Raises:
        TypeError: if a class is no integer.
        ValueError: if shapes, classes, values or settings do not fit.
    """
    if not percentiles or not all(0 < percentile < 100 for percentile in percentiles):
        raise ValueError(f"`percentiles` needs integers from 1 to 99, at least one: got {list(percentiles)}.")
    start = time.perf_counter()
    pixels = cams[0].numel()
    counts = torch.tensor([1 + percentile * (pixels - 1) // 100 for percentile in percentiles])[:, None, None]

    def versions(part: Part) -> Tensor:
        ranks, count = part.ranks(seed)[:, None], counts.to(part.cams.device)
        removed = torch.cat([ranks < count, ranks >= pixels - count], dim=1)
        imputed = impute(part.images, removed, noise * part.noise(seed)[:, None])
        return torch.cat([part.images[:, None], imputed], dim=1)

    found = probabilities(model, images, cams, classes, versions, 2 * len(counts) + 1, batch_size=batch_size)
    changes = found[:, 1:] - found[:, :1]
    most, least = (half.mean(dim=1) for half in changes.split(len(counts), dim=1))
    figures = {"ROAD MoRF": most, "ROAD LeRF": least, "ROAD": (least - most) / 2}
    return _scores(figures, flat_maps(cams), time.perf_counter() - start)


def deletion_insertion(
    model: nn.Module,
    images: Tensor,
    cams: Tensor,
    classes: Tensor,
    *,
    steps: int = 16,
    blur: float = BLUR,
    seed: int = 1,
    batch_size: int | None = None,
) -> Curves:
    """Deletion and insertion of RISE (Petsiuk et al. 2018, arXiv:1806.07421): pixels in the order of a map.

    Deletion sets the strongest pixels to 0, in normalized images the mean color; insertion puts them back into a
    blurred image. RISE blurs ImageNet's 224 pixels with 11 x 11 weights of standard deviation 5, which would leave
    small images as they are: here the blur grows with the image.

    Args:
        model, images, cams, classes, seed, batch_size: as in `road`.
        steps: S, the number of equal shares in which pixels go or come.
        blur: standard deviation of the blur, as a fraction of the image's shorter side.

    Raises:
        TypeError, ValueError: as `road`.
    """
    if steps < 1:
        raise ValueError(f"`steps` needs at least 1: got {steps}.")
    start = time.perf_counter()
    pixels = cams[0].numel()
    counts = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)])

    def versions(part: Part) -> Tensor:
        among = (part.ranks(seed)[:, None] < counts[:, None, None].to(part.cams.device))[:, :, None]
        deleted = part.images[:, None].masked_fill(among, 0.0)
        inserted = torch.where(among[:, :-1], part.images[:, None], blurred(part.images, blur)[:, None])
        return torch.cat([deleted, inserted], dim=1)

    found = probabilities(model, images, cams, classes, versions, 2 * steps + 1, batch_size=batch_size)
    deletion = found[:, : steps + 1]
    insertion = torch.cat([found[:, steps + 1 :], found[:, :1]], dim=1)  # all pixels back: the image itself
    return Curves(counts.double() / pixels, deletion, insertion, time.perf_counter() - start)


def average_drop(
    model: nn.Module, images: Tensor, cams: Tensor, classes: Tensor, *, batch_size: int | None = None
) -> Scores:
    """Average drop and increase (Chattopadhay et al. 2018, arXiv:1710.11063): the image times its map.

    With probability Y of the class on the image and O on the image times the map, the drop is max(0, Y - O) / Y, and
    the increase is 1 where O > Y, else 0. Normalized images are multiplied: where the map is 0 they have the mean
    color. A map of ones would have no drop: these figures speak for large maps.

    Args:
        model, images, cams, classes, batch_size: as in `road`.

    Returns:
        "average drop" (fraction in [0, 1], low is good) and "increase" (0 or 1, high is good), per image.

    Raises:
        TypeError, ValueError: as `road`.
    """
    start = time.perf_counter()

    def versions(part: Part) -> Tensor:
        return torch.stack([part.images, part.images * part.cams[:, None]], dim=1)

    found = probabilities(model, images, cams, classes, versions, 2, batch_size=batch_size)
    before, after = found.unbind(dim=1)
    drop = (before - after).clamp_min(0) / before.clamp_min(torch.finfo(torch.float32).tiny)
    increase = torch.where(after.isnan(), after, (after > before).double())
    return _scores({"average drop": drop, "increase": increase}, flat_maps(cams), time.perf_counter() - start)


def control_maps(cams: Tensor, seed: int = 1, *, blur: float = BLUR) -> dict[str, Tensor]:
    """Maps to put beside `cams` in every figure: what noise reaches, what smooth noise does, and what blurring adds.

    Args:
        cams: (N, H, W) floating point.
        seed: of the noise.
        blur: standard deviation of the blur, as a fraction of the maps' shorter side.

    Returns:
        "random": white noise; "random, blurred": the same, blurred; "blurred": `cams`, blurred. Each (N, H, W) float32
        in [0, 1], scaled as the maps of `explain` and on the device of `cams`; flat maps become 0.

    Raises:
        ValueError: if `cams` is not (N, H, W).
    """
    if cams.dim() != 3 or cams.numel() == 0:
        raise ValueError(f"`cams` needs shape (N, H, W): got {form(cams)}. Of (L, N, H, W) take a layer: `cams[-1]`.")
    generator = torch.Generator().manual_seed(derived_seed(seed, "control maps"))
    count, height, width = cams.shape
    # Noise beyond the edges, too: blurred with its border repeated, it would be strongest there.
    margin = math.ceil(3 * blur * min(height, width))
    wide = torch.rand(count, height + 2 * margin, width + 2 * margin, generator=generator).to(cams.device)
    smooth = blurred(wide, blur * min(height, width) / min(wide.shape[1:]))
    noise, smooth = (maps[:, margin : margin + height, margin : margin + width] for maps in (wide, smooth))
    maps = {"random": noise, "random, blurred": smooth, "blurred": blurred(cams.float(), blur)}
    return {name: finish(made, made[:, None], f"`cams`, {name},") for name, made in maps.items()}


def _scores(figures: dict[str, Tensor], flat: Tensor, seconds: float) -> Scores:
    """Figures that were made together, each with its share of the time."""
    return Scores(
        Score(name, values, "low" if name in _LOW else "high", int(flat.sum()), seconds / len(figures))
        for name, values in figures.items()
    )
