"""What all figures of removal share: the order of a map's pixels, blurred images, and the network's answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam_maps import check_inputs, explaining, form, logits_and_classes, unwrap
from evalib.runtime import derived_seed

_VALUES_AT_ONCE = 2**20


class Perturbed:
    """Images to be changed in the order of their maps, and what the network says of the changed ones.

    Images with a flat map are left out of everything: it has no order.

    Args:
        model: classifier as for `evalib.explain.explain`.
        images: (N, 3, H, W) floating point, normalized as in training.
        cams: (N, H, W) floating point, one map per image.
        classes: (N,) integers, the classes whose probability is asked for.
        seed: of the order of pixels that are equal in a map.
        batch_size: images that the network sees at once; None for as many as have 2**20 pixel values.

    Attributes:
        images, cams: those whose map is not flat, on the model's device.
        ranks: (M, H, W) int64, their pixels' place in the map's order, 0 for the strongest.
        rows: (M,) int64, which of the N they are.

    Raises:
        ValueError: if a shape, a dtype or a value allows no answer.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        cams: Tensor,
        classes: Tensor,
        *,
        seed: int = 1,
        batch_size: int | None = None,
    ) -> None:
        self._model = unwrap(model)
        check_inputs(self._model, images)
        if cams.shape != (len(images), *images.shape[2:]) or classes.shape != (len(images),):
            raise ValueError(
                f"`cams` and `classes` need one map of the image's size and one class per image, "
                f"({len(images)}, {images.shape[2]}, {images.shape[3]}) and ({len(images)},): got {form(cams)} and "
                f"{form(classes)}. Of maps (L, N, H, W) take one layer: `cams[-1]`."
            )
        if not cams.isfinite().all() or not images.isfinite().all():
            raise ValueError("`images` and `cams` need finite values: got NaN or infinity.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"`batch_size` needs at least 1, or None: got {batch_size}.")
        weight = next(self._model.parameters())
        self.rows = (cams.amax(dim=(1, 2)) > cams.amin(dim=(1, 2))).nonzero()[:, 0].cpu()
        rows = self.rows.to(images.device)
        self.images = images.detach()[rows].to(weight.device, weight.dtype)
        self.cams = cams.detach()[rows.to(cams.device)].to(weight.device, weight.dtype)
        self.ranks = ranks(self.cams, seed)
        self._classes = classes[rows.to(classes.device)]
        self._total = len(images)
        self._batch_size = batch_size or max(1, _VALUES_AT_ONCE // images[0].numel())

    @property
    def flat(self) -> int:
        """How many maps are flat."""
        return self._total - len(self.rows)

    def probabilities(self, versions: Callable[[slice], Tensor], number: int) -> Tensor:
        """The probability of each image's class on changed versions of it.

        Args:
            versions: gives for a slice of `images` their versions (m, number, 3, H, W).
            number: versions of each image.

        Returns:
            (N, number) float64 on the CPU, NaN for images with a flat map.
        """
        found = torch.full((self._total, number), math.nan, dtype=torch.float64)
        images_at_once = max(1, self._batch_size // number)
        with explaining(self._model), torch.inference_mode():
            for first in range(0, len(self.rows), images_at_once):
                part = slice(first, first + images_at_once)
                changed = versions(part).flatten(0, 1)
                classes = self._classes[part].repeat_interleave(number)
                answers = [
                    self._ask(*batch)
                    for batch in zip(changed.split(self._batch_size), classes.split(self._batch_size), strict=True)
                ]
                found[self.rows[part]] = torch.cat(answers).double().cpu().view(-1, number)
        return found

    def _ask(self, images: Tensor, classes: Tensor) -> Tensor:
        logits, classes = logits_and_classes(self._model, images.contiguous(memory_format=torch.channels_last), classes)
        return logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]


def ranks(cams: Tensor, seed: int = 1) -> Tensor:
    """The place of each pixel in its map's order, 0 for the strongest; equal ones are in a random order.

    Args:
        cams: (N, H, W) floating point.
        seed: of the random order, which is another one for each map.

    Returns:
        (N, H, W) int64 on the device of `cams`, each map a permutation of 0 to H W - 1.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "order of equal pixels"))
    flat = cams.flatten(1)
    shuffled = torch.zeros(flat.shape, dtype=torch.int64)
    for row in shuffled:
        torch.randperm(len(row), generator=generator, out=row)
    shuffled = shuffled.to(cams.device)
    order = shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(flat.shape[1], device=cams.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(cams.shape)


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
