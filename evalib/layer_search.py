"""Layers worth a map in a network that is not known: found by one forward pass and one gradient."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from evalib.cam_maps import form
from evalib.layer_trace import Call, traced
from evalib.layouts import Layout, layout_of

MOST_LAYERS = 5


def search_layers(model: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Up to five layers that are worth a map, by their module paths, from early to late: of a CNN from fine to coarse.

    The last layer of each size is taken among those that may be explained (see `evalib.layer_trace.traced`),
    sizes of one power of two counting as the same: the whole stage or block rather than the convolution in it, but no
    container that holds other layers of the result.

    Networks of one size throughout, as ViT, give the same layer of up to five blocks. Of a ViT that reads its class
    token this is the first normalization of a block: after the last block's attention only the class
    token counts, so that no place of its output has a gradient.

    Args:
        model: the network itself, see `evalib.cam_maps.unwrap`.
        images: (N, 3, H, W) floating point, normalized as in training.

    Raises:
        ValueError: if images or network allow no map, or there is no such layer.
    """
    root = traced(model, images)
    size = tuple(images.shape[2:])
    ends: dict[int, Call] = {}
    stages = list(_outermost(root, size))
    for call in stages:
        octave = _octave(call.layout, size)
        ends.pop(octave, None)  # the order is that of the last layers
        ends[octave] = call
    chosen = list(ends.values())[-MOST_LAYERS:]
    if not chosen:
        raise ValueError(_nothing_found(model, root))
    if len(chosen) == 1:
        chosen = _spread(root, chosen[0], stages)
    else:
        chosen = [_promoted(root, call, chosen) for call in chosen]
    return {call.name: call.module for call in chosen}


def search_end(model: nn.Module, images: Tensor) -> tuple[str, nn.Module, nn.Linear] | None:
    """A layer whose mean over all places is what the last linear layer reads: what classic CAM needs.

    Args:
        model, images: as in `search_layers`.

    Returns:
        path: of the layer.
        layer, linear: the two modules; or None, if the network does not end so.
    """
    root = traced(model, images)
    calls = list(root.within())
    for last in reversed(calls):
        if not isinstance(last.module, nn.Linear) or last.inputs is None or not last.gives_what(root):
            continue
        for call in reversed(calls):
            if call.layout is not None and isinstance(call.output, Tensor):
                mean = call.layout.channels_first(call.output).mean(dim=(2, 3))
                if mean.shape == last.inputs.shape and torch.allclose(mean, last.inputs, rtol=1e-4, atol=1e-6):
                    return call.name, call.module, last.module
    return None


# --- the choice ----------------------------------------------------------------------------------------------


def _octave(layout: Layout | None, image_size: Sequence[int]) -> int:
    """How often the image was halved: 32 x 32 and 30 x 30 of 32 x 32 are 0, 8 x 8 is 2."""
    if layout is None or min(layout.height, layout.width) < 2:
        return -1
    return round(math.log2(math.prod(image_size) / (layout.height * layout.width)) / 2)


def _outermost(call: Call, size: Sequence[int]) -> Iterator[Call]:
    """Calls that may be explained, in the order of their ends; those inside one of them only if it holds stages."""
    for inner in call.calls:
        if inner.layout is not None and not _holds_stages(inner, size):
            yield inner
        else:
            yield from _outermost(inner, size)
            # after a function call at its end, such as a ReLU, what it returns is no inner module's output
            if inner.layout is not None and not any(map(inner.gives_what, inner.within())):
                yield inner


def _holds_stages(call: Call, size: Sequence[int]) -> bool:
    """Whether a call is more than one stage.

    A stage goes from one size to the next. What begins with the image itself, or has sizes between, is more. A size
    beyond both is none of a stage, but of a matrix of attention, or of the few places that channels are weighted by.
    """
    if call.inputs is None or not call.calls:
        return False
    if call.inputs.dim() == 4 and call.inputs.shape[1] <= 4 and tuple(call.inputs.shape[2:]) == tuple(size):
        return True
    low, high = sorted((_octave(layout_of(call.inputs, size, call.module), size), _octave(call.layout, size)))
    return any(low < _octave(inner.layout, size) < high for inner in call.within() if inner.layout is not None)


def _promoted(root: Call, call: Call, chosen: Sequence[Call]) -> Call:
    """The outermost call with the same output that holds no other one of `chosen`."""
    for outer in _around(root, call):  # from the inside out
        others = [other for other in chosen if other is not call and other in outer.within()]
        if others or outer.layout is None or not outer.gives_what(call):
            break
        call = outer
    return call


def _around(root: Call, call: Call) -> list[Call]:
    """The calls that hold a call, from the inside out, without the root."""
    return [outer for outer in root.within() if call in outer.within()]


def _innermost(call: Call) -> Call:
    """The last block of a call that is a row of blocks."""
    while isinstance(call.module, nn.Sequential) and call.calls:
        last = [inner for inner in call.calls if inner.layout is not None][-1:]
        if not last or not call.gives_what(last[0]):
            break
        call = last[0]
    return call


def _spread(root: Call, last: Call, stages: Sequence[Call]) -> list[Call]:
    """The last layer and, evenly over the depth, those of other blocks whose path differs from its own in one number.

    Where the last layer is in no block, as a normalization after all of them, those of the longest row of blocks.
    """
    last = _innermost(last)
    row = _row(root, last)
    if len(row) == 1:
        row = max((_row(root, _innermost(call)) for call in stages), key=len)
        row = [call for call in row if not call.gives_what(last)]
        return [*_evenly(row, MOST_LAYERS - 1), last] if len(row) > 1 else [last]
    return _evenly(row, MOST_LAYERS)


def _row(root: Call, call: Call) -> list[Call]:
    """A layer and those before it whose path differs in one number."""
    before = [other for other in root.within() if other.layout is not None]
    before = before[: before.index(call) + 1]
    rows = [[call]]
    for number in re.finditer(r"\d+", call.name):
        pattern = re.escape(call.name[: number.start()]) + r"\d+" + re.escape(call.name[number.end() :])
        rows.append([other for other in before if re.fullmatch(pattern, other.name)])
    return max(rows, key=len)


def _evenly(row: Sequence[Call], number: int) -> list[Call]:
    """So many of a row, the last one among them."""
    count = min(number, len(row))
    return [row[(i + 1) * len(row) // count - 1] for i in range(count)]


def _nothing_found(model: nn.Module, root: Call) -> str:
    outputs = [f"{call.name} {form(call.output)}" for call in root.within()]
    shown = ", ".join(outputs[-4:]) or "no module ran"
    return (
        f"`model` needs a layer whose output is a map of at least 2 x 2 places that acts on the logits: none of the "
        f"{len(outputs)} calls in this {type(model).__name__} gives one (the last: {shown}). "
        "Pass larger images, or a layer of your choice."
    )
