"""What every class activation map method here shares: how the network is run, which classes count, how a map ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.runtime import eval_mode

ClassIdx: TypeAlias = Sequence[int] | Tensor | int | None


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile` and data-parallel wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):  # set by torch.compile
            model = original
        else:
            return model


def check_inputs(model: nn.Module, images: Tensor) -> None:
    """Refuse a network or images that no map can be made from.

    Raises:
        ValueError: unless `images` is a floating point tensor with four dimensions, none of them 0, and `model` has
            parameters, all of them float32 or float64.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or images.numel() == 0:
        raise ValueError(
            f"`images` needs a tensor (N, 3, H, W) with at least one image: got {form(images)}. "
            "Make a single image a batch with `image[None]`."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"`images` needs floating point: got {images.dtype}. "
            "Normalize them as in training (`evalib.transforms.normalize`)."
        )
    if next(model.parameters(), None) is None:
        raise ValueError("`model` needs parameters: got none. Pass a trained classifier.")
    for name, weight in chain(model.named_parameters(), model.named_buffers()):
        if weight.is_floating_point() and weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`model` needs float32 weights: got {weight.dtype} in `{name}`. "
                "Pass a copy, and layers of that copy: `copy.deepcopy(model).float()`."
            )


@contextmanager
def explaining(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients, full precision, nothing compiled, whatever is set outside; random state kept."""
    device = next(model.parameters()).device
    # A part compiled earlier would leave our hooks out, one compiled now would keep them. (From torch 2.6 on.)
    eager = torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()
    with (
        eager,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        eval_mode(model),
    ):
        yield


def logits_and_classes(model: nn.Module, images: Tensor, class_idx: ClassIdx) -> tuple[Tensor, Tensor]:
    """One forward pass: logits (N, num_classes), and the classes to explain, (N,) int64, both on the model's device.

    Raises:
        TypeError: if a class is no integer.
        ValueError: if the model returns no finite logits, or `class_idx` is not one existing class per image.
    """
    weight = next(model.parameters())
    # a copy, since a network may begin with an in-place operation
    output = model(images.detach().to(weight.device, weight.dtype, copy=True))
    logits = logits_of(output, len(images))
    return logits, _one_class_per_image(class_idx, logits, len(images))


def logits_of(output: object, num_images: int) -> Tensor:
    """The logits (N, num_classes) in what a network returned.

    Args:
        output: the logits themselves; something with `logits`, as Hugging Face's models return, or a mapping that has
            them; or a tuple or list whose first tensor they are, as of Inception in training mode.
        num_images: N.

    Raises:
        ValueError: if there are none.
    """
    found = output
    if isinstance(output, Mapping) and "logits" in output:
        found = output["logits"]
    elif isinstance(output, tuple | list):  # a named tuple may have `logits`, too
        found = getattr(output, "logits", output[0] if output else output)
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", output)
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != num_images:
        got = form(found) if found is output else f"{form(found)} in a {type(output).__name__}"
        raise ValueError(
            f"`model` needs to return logits ({num_images}, num_classes): got {got}. Wrap another "
            "network in a module whose `forward` returns them."
        )
    return found


def form(value: object) -> str:
    """The shape of a tensor or the type of anything else, for messages."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _one_class_per_image(class_idx: ClassIdx, logits: Tensor, num_images: int) -> Tensor:
    if not logits.isfinite().all():
        raise ValueError("`model` returned logits that are not finite. Check weights and `images` for NaN.")
    if class_idx is None:
        return logits.argmax(dim=1)
    classes = torch.as_tensor(class_idx)
    if classes.dim() == 0:
        classes = classes.expand(num_images)
    if classes.shape != (num_images,):
        raise ValueError(
            f"`class_idx` needs one class per image: got {form(classes)} for {num_images} images. "
            "Pass an int for the same class throughout, None for the predicted classes."
        )
    if classes.dtype == torch.bool or classes.is_floating_point() or classes.is_complex():
        raise TypeError(f"`class_idx` needs integers: got {classes.dtype}.")
    # a copy, since a tensor made under `inference_mode` cannot be part of a graph
    classes = classes.to(logits.device, torch.int64, copy=True)
    outside = classes[(classes < 0) | (classes >= logits.shape[1])]
    if len(outside):
        raise ValueError(f"`class_idx` needs classes from 0 to {logits.shape[1] - 1}: got {int(outside[0])}.")
    return classes


def finish(maps: Tensor, images: Tensor, label: str) -> Tensor:
    """ReLU, enlargement to the images (bilinear) and scaling: the weakest pixel of a map is 0, its strongest 1.

    A map that is flat but for rounding, such as one of 1 x 1 place, becomes zero.

    Args:
        maps: (N, h, w) floating point.
        images: (N, 3, H, W), of which only H and W are read.
        label: where the maps come from, for the message.

    Returns:
        (N, H, W) in [0, 1].

    Raises:
        ValueError: if `maps` is not finite.
    """
    if not maps.isfinite().all():
        raise ValueError(f"{label} gives a map that is not finite. Check the weights for huge values.")
    maps = F.interpolate(maps.relu()[:, None], size=images.shape[2:], mode="bilinear")[:, 0]
    # min-max of each map, on its own scale since gradients can be tiny
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high - low <= 1e-5 * high, 0.0, (maps - low) / (high - low))


def empty_maps(cams: Tensor) -> Tensor:
    """Which maps are zero everywhere: no place spoke for the class, or all did equally. Figures label these.

    Args:
        cams: (L, N, H, W) as `grad_cam` and `classic_cam` return them.

    Returns:
        (L, N) bool, True for an empty map.

    Raises:
        ValueError: if `cams` has not four dimensions.
    """
    if cams.dim() != 4:
        raise ValueError(f"`cams` needs shape (L, N, H, W) as from `grad_cam`: got {tuple(cams.shape)}.")
    return (cams == 0).flatten(2).all(dim=2)
