"""What all figures of removal share: the order of a map's pixels, blurred images, and the network's answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam_maps import check_inputs, explaining, form, logits_and_classes, unwrap
from evalib.runtime import derived_seed, keep_freed_memory

# Pixel values that the network sees in one batch, unless told otherwise: on a CPU more are not faster.
_VALUES_AT_ONCE = {"cpu": 2**19}
_OTHERWISE = 2**22


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the images, with their maps.

    Attributes:
        images: (m, 3, H, W) on the model's device.
        cams: (m, H, W) likewise, none of them flat.
        rows: m places in the set of images, which random numbers derive from: they do not depend on the batches.
    """

    images: Tensor
    cams: Tensor
    rows: Sequence[int]

    def ranks(self, seed: int) -> Tensor:
        """The place of each pixel in its map's order, 0 for the strongest; equal ones are in a random order.

        Returns:
            (m, H, W) int64 on the device of `cams`, each map a permutation of 0 to H W - 1.
        """
        flat = self.cams.flatten(1)
        shuffled = torch.empty(flat.shape, dtype=torch.int64)
        for row, order in zip(self.rows, shuffled, strict=True):
            torch.randperm(len(order), generator=_generator(seed, "order of equal pixels", row), out=order)
        shuffled = shuffled.to(flat.device)
        order = shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
        places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, places).view(self.cams.shape)

    def noise(self, seed: int) -> Tensor:
        """Standard normal noise in the shape of `images`."""
        drawn = [torch.randn(self.images.shape[1:], generator=_generator(seed, "noise", row)) for row in self.rows]
        return torch.stack(drawn).to(self.images)


def _generator(seed: int, purpose: str, row: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, purpose, row))


def flat_maps(cams: Tensor) -> Tensor:
    """Which maps (N, H, W) have the same value everywhere, and so no order: (N,) bool."""
    return cams.amax(dim=(1, 2)) == cams.amin(dim=(1, 2))


def probabilities(
    model: nn.Module,
    images: Tensor,
    cams: Tensor,
    classes: Tensor,
    versions: Callable[[Part], Tensor],
    number: int,
    *,
    batch_size: int | None = None,
) -> Tensor:
    """The probability of each image's class on changed versions of it, with memory that does not grow with the images.

    As in training, glibc is told to keep freed memory (`evalib.runtime.keep_freed_memory`).

    Inside `torch.autocast` the network computes in its precision, and nothing else does: with bfloat16 about twice as
    fast on a CPU that has it, with probabilities that differ in the third digit after the point, seldom in the second.

    Args:
        model: classifier as for `evalib.explain.explain`; it is run in eval mode and left as it was.
        images: (N, 3, H, W) floating point, normalized as in training.
        cams: (N, H, W) floating point, one map per image.
        classes: (N,) integers, the classes whose probability is asked for.
        versions: gives the versions (m, number, 3, H, W) of some of the images.
        number: versions of each image.
        batch_size: images that the network sees at once; None for as many as have 2**19 pixel values on a CPU, 2**22
            elsewhere.

    Returns:
        (N, number) float64 on the CPU, NaN for images with a flat map, which the network is not asked about.

    Raises:
        TypeError: if a class is no integer.
        ValueError: if shapes, dtypes or values allow no answer.
    """
    model = unwrap(model)
    check_inputs(model, images)
    _check(images, cams, classes, batch_size)
    weight = next(model.parameters())
    batch_size = batch_size or max(1, _VALUES_AT_ONCE.get(weight.device.type, _OTHERWISE) // images[0].numel())
    found = torch.full((len(images), number), math.nan, dtype=torch.float64)
    keep_freed_memory()
    precision = _precision_outside(weight.device.type)
    with explaining(model), torch.inference_mode():
        for rows in (~flat_maps(cams)).nonzero()[:, 0].cpu().split(max(1, batch_size // number)):
            if len(rows) == 0:  # all maps are flat
                break
            some, maps = (values[rows.to(values.device)].to(weight.device, weight.dtype) for values in (images, cams))
            changed = versions(Part(some, maps, rows.tolist())).flatten(0, 1)
            repeated = classes[rows.to(classes.device)].repeat_interleave(number)
            answers = []
            for batch, chosen in zip(changed.split(batch_size), repeated.split(batch_size), strict=True):
                batch = batch.contiguous(memory_format=torch.channels_last)  # convolutions are faster so
                with precision:
                    logits, chosen = logits_and_classes(model, batch, chosen)
                answers.append(logits.to(weight.dtype).softmax(dim=1).gather(1, chosen[:, None])[:, 0])
            found[rows] = torch.cat(answers).double().cpu().view(-1, number)
    return found


def _precision_outside(device_type: str) -> torch.autocast:
    """The autocast that the caller has set, for where it was switched off in between.

    It keeps no cast weights: releases before 2.10 would use them, made without gradients, for training later in the
    caller's block (github.com/pytorch/pytorch/issues/112583).
    """
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )


def _check(images: Tensor, cams: Tensor, classes: Tensor, batch_size: int | None) -> None:
    if cams.shape != (len(images), *images.shape[2:]) or classes.shape != (len(images),):
        raise ValueError(
            f"`cams` and `classes` need a map of the image's size and a class for each image, "
            f"({len(images)}, {images.shape[2]}, {images.shape[3]}) and ({len(images)},): got {form(cams)} and "
            f"{form(classes)}. Of maps (L, N, H, W) take one layer: `cams[-1]`."
        )
    if not cams.isfinite().all() or not images.isfinite().all():
        raise ValueError("`images` and `cams` need finite values: got NaN or infinity.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` needs at least 1, or None: got {batch_size}.")


def blurred(values: Tensor, blur: float) -> Tensor:
    """Images or maps (..., H, W) after a Gaussian blur; beyond the edge, its pixels are repeated.

    Args:
        values: floating point.
        blur: standard deviation as a fraction of the shorter side, above 0.
    """
    sigma = blur * min(values.shape[-2:])
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    weights = (-(places**2) / (2 * sigma**2)).exp()
    weights = weights / weights.sum()
    flat = values.reshape(-1, 1, *values.shape[-2:])
    padded = F.pad(flat, [radius] * 4, mode="replicate")
    rows = F.conv2d(padded, weights[None, None, :, None])
    return F.conv2d(rows, weights[None, None, None]).reshape(values.shape)
