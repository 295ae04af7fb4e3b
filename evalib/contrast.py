"""Why one class and not another: maps of both on one scale, and their difference.

Maps of `explain` cannot be subtracted: each is cut at 0 and stretched to [0, 1] on its own, so that weak evidence looks
as strong as any. Here the evidence itself is compared, signed and in one unit.

>>> found = contrast_mistakes(model, data, mistakes.head(5), ["layer3", "layer4"])
>>> found.difference  # (L, M, H, W): above 0 where it spoke for the predicted class, below for the true
>>> plot_contrasts(data, mistakes.head(5), found)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam import evidence, pooled_end
from evalib.cam_layers import Layers, cam_layers, find_layers
from evalib.cam_maps import ClassIdx, check_inputs, explaining, unwrap
from evalib.cam_pass import FORMULAS, one_pass
from evalib.data.image_data import ImageData
from evalib.mistake_groups import Pair, confused_pairs
from evalib.mistakes import Mistakes
from evalib.progress import progress_bar

METHODS = ("cam", *FORMULAS)


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class Contrast:
    """Evidence for two classes of M images at L layers, both in the same unit.

    The unit is another one for every layer and image: of both maps and their difference, the largest absolute value is
    1. `scale` tells what it is; `scale[..., None, None] * difference` is the evidence itself.

    Attributes:
        cams: (L, M, H, W) float32 in [-1, 1], evidence for the first class, as the predicted; negative where the image
            speaks against it.
        other_cams: (L, M, H, W) float32 in [-1, 1], evidence for the second class, as the true one.
        scale: (L, M) float32, the largest absolute value before; 0 where there is no evidence at all.
        classes: (M,) int64, the first classes.
        other_classes: (M,) int64, the second ones.
        layers: L names.
    """

    cams: Tensor
    other_cams: Tensor
    scale: Tensor
    classes: Tensor
    other_classes: Tensor
    layers: tuple[str, ...]

    @property
    def difference(self) -> Tensor:
        """(L, M, H, W) float32 in [-1, 1]: above 0 where the image speaks more for the first class than the second."""
        return self.cams - self.other_cams

    @property
    def flat(self) -> Tensor:
        """(L, M) bool, where the difference is the same at all places but for rounding: it says nothing of where."""
        difference = self.difference.flatten(2)
        return difference.amax(dim=2) - difference.amin(dim=2) <= 1e-5


def contrast(
    model: nn.Module,
    images: Tensor,
    classes: ClassIdx,
    other_classes: ClassIdx,
    layers: Layers = None,
    *,
    method: str = "hires_cam",
) -> Contrast:
    """Evidence for two classes of each image, and their difference, on one scale.

    The maps are those of `explain` before they are cut at 0 and scaled, enlarged to the image (bilinear). Softmax sees
    differences of logits only: what is added to all logits alike changes both maps, yet decides nothing. So it is
    their difference that tells why the first class won. For "cam", "grad_cam", "xgrad_cam" and "hires_cam", which are
    linear in the logits, it is exactly the map of the difference of the two logits. For "cam" the means of the
    evidence over the places are the two logits, less their biases. The other methods cut negative parts off each
    class by itself; their difference compares what was left.

    The model (run in eval mode), `images` and random states are left as they were, also on an exception.

    Args:
        model: as for `evalib.explain.explain`; for "cam" as for `evalib.cam.raw_cam`.
        images: (M, 3, H, W) floating point, normalized as in training.
        classes: the first class of each image, as the predicted one; an int for all, None for the predicted ones.
        other_classes: the second class of each image, as the true one.
        layers: as for `explain`; "cam" has its own, the last.
        method: one of `METHODS`.

    Returns:
        All tensors on the device of `images`.

    Raises:
        TypeError, ValueError: as `explain`, and if the method gives no signed evidence.
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` needs evidence that can be compared between classes, one of {', '.join(map(repr, METHODS))}: "
            f"got {method!r}."
        )
    model = unwrap(model)
    check_inputs(model, images)
    with explaining(model):
        cams, first = _evidence(model, images, classes, layers, method)
        other_cams, second = _evidence(model, images, other_classes, layers, method)
    largest = torch.stack([cams, other_cams, cams - other_cams]).abs().amax(dim=(0, 3, 4))
    unit = torch.where(largest > 0, largest, 1.0)[..., None, None]
    cams, other_cams, scale, first, second = (
        part.to(images.device) for part in (cams / unit, other_cams / unit, largest, first, second)
    )
    return Contrast(cams, other_cams, scale, first, second, _names(model, images, layers, method))


def _evidence(
    model: nn.Module, images: Tensor, class_idx: ClassIdx, layers: Layers, method: str
) -> tuple[Tensor, Tensor]:
    """Signed maps (L, M, H, W) float32 of one class per image, not scaled, and the classes (M,)."""
    if method == "cam":
        end = pooled_end(model, images)
        found = one_pass(model, images, end.labels, class_idx, gradients=False)
        raw = [evidence(end, found)]
    else:
        chosen, labels = find_layers(model, layers, images=images)
        found = one_pass(model, images, labels, class_idx)
        found.require(labels)
        raw = [found.raw_maps(FORMULAS[method], layer) for layer in chosen]
    size = images.shape[2:]
    return torch.cat([F.interpolate(maps.float()[None], size=size, mode="bilinear") for maps in raw]), found.classes


def _names(model: nn.Module, images: Tensor, layers: Layers, method: str) -> tuple[str, ...]:
    """What figures call the layers: as they were given, or else by the names that `cam_layers` or the model has."""
    known = {module: name for name, module in model.named_modules()}
    with suppress(ValueError):  # another network has no such five
        known |= {module: name for name, module in cam_layers(model).items()}
    if method == "cam":
        return (known[pooled_end(model, images).features],)
    if layers is None:
        return tuple(cam_layers(model, images))
    listed = [layers] if isinstance(layers, nn.Module | str) else layers
    return tuple(layer if isinstance(layer, str) else known[layer] for layer in listed)


# --- mistakes ------------------------------------------------------------------------------------------------


def contrast_batches(
    model: nn.Module,
    data: ImageData,
    mistakes: Mistakes,
    layers: Layers = None,
    *,
    method: str = "hires_cam",
    split: str = "test",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Iterator[Contrast]:
    """Predicted against true class, batch by batch, so that memory does not grow with the number of mistakes.

    Args:
        model, layers, method: as for `contrast`.
        data: whose images the mistakes are.
        mistakes: M of them, in the order wanted.
        split: the split that the mistakes are from.
        batch_size: images at once; None takes 64, fewer of large images.
        progress: whether to show a bar; None shows it in notebooks and terminals.

    Yields:
        Contrasts of the predicted (first) and the true (second) classes, on the CPU.

    Raises:
        TypeError, ValueError: as `contrast`, and if there is no mistake or they are not of that split.
    """
    with progress_bar(progress, total=len(mistakes), desc=method, unit="image") as bar:
        for part, images in mistakes.batches(data, split, batch_size):
            yield contrast(model, images, part.predicted, part.true, layers, method=method)
            bar.update(len(part))


def contrast_mistakes(
    model: nn.Module,
    data: ImageData,
    mistakes: Mistakes,
    layers: Layers = None,
    *,
    method: str = "hires_cam",
    split: str = "test",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Contrast:
    """Predicted against true class of all mistakes: 8 kB for each layer and image of 32 x 32, 400 kB of 224 x 224.

    Args:
        model, data, mistakes, layers, method, split, batch_size, progress: as for `contrast_batches`, which keeps none.

    Raises:
        TypeError, ValueError: as `contrast_batches`.
    """
    parts = contrast_batches(
        model, data, mistakes, layers, method=method, split=split, batch_size=batch_size, progress=progress
    )
    return _joined(list(parts))


@dataclass(frozen=True, eq=False)
class PairContrasts:
    """Mean contrasts of P confused pairs.

    Attributes:
        pairs: P of them, with their numbers of mistakes.
        means: the contrasts, an image for each pair; its `scale` is the mean scale.
        used: (L, P) int64, how many images the means are of: all of the pair but those whose difference is flat.
    """

    pairs: list[Pair]
    means: Contrast
    used: Tensor


def mean_contrasts(
    model: nn.Module,
    data: ImageData,
    mistakes: Mistakes,
    layers: Layers = None,
    *,
    n: int = 4,
    method: str = "hires_cam",
    split: str = "test",
    batch_size: int | None = None,
) -> PairContrasts:
    """The mean contrast of each of the n pairs of classes that were confused most.

    Every image weighs alike, each on its own scale. Objects are not brought to the same place: a mean shows where in
    the picture the network looks, of a few images hardly more than one of them. Flat ones are left out, and counted.
    Memory does not grow with the number of mistakes.

    Args:
        model, data, layers, method, split, batch_size: as for `contrast_batches`.
        mistakes: all of them; only those of the n pairs are looked at.
        n: how many pairs.

    Raises:
        TypeError, ValueError: as `contrast_batches`, and if n < 1 or there is no mistake.
    """
    if n < 1 or len(mistakes) == 0:
        raise ValueError(f"`n` and the number of `mistakes` need to be 1 or more: got {n} and {len(mistakes)}.")
    pairs = confused_pairs(mistakes, n)
    found = []
    for pair in pairs:
        chosen = mistakes.select((mistakes.true == pair.true) & (mistakes.predicted == pair.predicted))
        parts = contrast_batches(
            model, data, chosen, layers, method=method, split=split, batch_size=batch_size, progress=False
        )
        found.append(_mean(parts))
    return PairContrasts(pairs, _joined([mean for mean, _ in found]), torch.stack([used for _, used in found], dim=1))


def _mean(parts: Iterator[Contrast]) -> tuple[Contrast, Tensor]:
    """The mean of contrasts of one pair, as the contrast of one image, and how many it is of at each layer, (L,)."""
    totals: list[Tensor] = []
    for part in parts:
        counted = (~part.flat).float()
        sums = [(values * counted[..., None, None]).sum(dim=1) for values in (part.cams, part.other_cams)]
        sums += [(part.scale * counted).sum(dim=1), counted.sum(dim=1)]
        totals = [total + more for total, more in zip(totals, sums, strict=True)] if totals else sums
    used = totals[3]
    each = used.clamp(min=1)
    cams, other_cams, scale = totals[0] / each[:, None, None], totals[1] / each[:, None, None], totals[2] / each
    pair = part.classes[:1], part.other_classes[:1]
    return Contrast(cams[:, None], other_cams[:, None], scale[:, None], *pair, part.layers), used.long()


def _joined(parts: list[Contrast]) -> Contrast:
    """Contrasts of several batches as one."""
    return Contrast(
        torch.cat([part.cams for part in parts], dim=1),
        torch.cat([part.other_cams for part in parts], dim=1),
        torch.cat([part.scale for part in parts], dim=1),
        torch.cat([part.classes for part in parts]),
        torch.cat([part.other_classes for part in parts]),
        parts[0].layers,
    )
