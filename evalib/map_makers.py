"""Ways to make maps: functions (model, images, classes) -> cams, of any method here, run batch by batch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from evalib.cam_maps import form, logits_of
from evalib.explain import METHODS, explain
from evalib.scores import MapMaker

# One map for the whole network, whatever the layers.
WHOLE_NETWORK = ("cam", "refine_cam", "full_grad")


def map_maker(method: str, layer: str | None = None) -> MapMaker:
    """A method of `explain` at one layer, as a function (model, images, classes) -> cams (N, H, W).

    Args:
        method: a key of `evalib.explain.METHODS`.
        layer: by its name, as "layer3", so that it is found in copies of a network, too; None for the methods that
            make one map for the whole network: "cam", "refine_cam" and "full_grad".

    Raises:
        ValueError: if the method is unknown, or it needs a layer and there is none.
    """
    if method not in METHODS:
        raise ValueError(f"`method` needs one of {', '.join(map(repr, METHODS))}: got {method!r}.")
    if layer is None and method not in WHOLE_NETWORK:
        raise ValueError(f"`layer` needs the name of a layer for {method!r}: got None. Pass a name, as 'layer3'.")
    return partial(_explain, method, layer)


def _explain(method: str, layer: str | None, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return explain(model, images, layer, classes, method=method)[0]


def make_in_batches(
    model: nn.Module, images: Tensor, classes: Tensor, make_maps: MapMaker, batch_size: int = 64
) -> Tensor:
    """Maps (N, H, W) of N images, `batch_size` of them at a time.

    Raises:
        ValueError: if there is not one class per image, or `make_maps` gives no finite map of the size of each image.
    """
    if classes.shape != (len(images),) or batch_size < 1:
        raise ValueError(
            f"`classes` needs one class per image, `batch_size` at least 1: got {form(classes)} for {len(images)} "
            f"images, and {batch_size}."
        )
    made = []
    for part, wanted in zip(images.split(batch_size), classes.split(batch_size), strict=True):
        cams = make_maps(model, part, wanted)
        if not isinstance(cams, Tensor) or cams.shape != (len(part), *images.shape[2:]) or not cams.isfinite().all():
            raise ValueError(
                f"`make_maps` needs to return finite maps ({len(part)}, {images.shape[2]}, {images.shape[3]}): got "
                f"{form(cams)}. Of the maps (L, N, H, W) that `explain` returns take one layer: `explain(...)[0]`."
            )
        made.append(cams.detach())
    return torch.cat(made)


def logits_in_batches(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Logits (N, num_classes) on the device of `images`, `batch_size` images at a time; the mode stays as it is.

    Raises:
        ValueError: if the network returns no logits, see `evalib.cam_maps.logits_of`.
    """
    weight = next(model.parameters())
    with torch.no_grad():
        parts = (part.to(weight.device, weight.dtype, copy=True) for part in images.split(batch_size))
        return torch.cat([logits_of(model(part), len(part)) for part in parts]).to(images.device)
