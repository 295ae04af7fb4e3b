"""How a layer's output holds a map: channels first, channels last, or one token for each place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

# Class, distillation and register tokens that may stand before those of the places: DINOv2 has five, SO150M nine.
MOST_PREFIX_TOKENS = 9


@dataclass(frozen=True)
class Layout:
    """Where channels and places of a layer's output are.

    Attributes:
        kind: "channels first", (N, C, h, w), as of convolutions; "channels last", (N, h, w, C), as of Swin; "tokens",
            (N, prefix + h w, C), row by row, as of ViT.
        height, width: h and w.
        prefix: tokens before those of the places, such as the class token.
    """

    kind: Literal["channels first", "channels last", "tokens"]
    height: int
    width: int
    prefix: int = 0

    def channels_first(self, output: Tensor) -> Tensor:
        """The map (N, C, h, w) as a view of the output; prefix tokens are no places and left out."""
        if self.kind == "tokens":
            places = output[:, self.prefix :].unflatten(1, (self.height, self.width))
            return places.movedim(-1, 1)
        return output.movedim(-1, 1) if self.kind == "channels last" else output

    def with_map(self, output: Tensor, cams: Tensor) -> Tensor:
        """An output with another map (N, C, h, w) in place of its own; prefix tokens stay."""
        if self.kind == "tokens":
            return torch.cat([output[:, : self.prefix], cams.movedim(1, -1).flatten(1, 2)], dim=1)
        return cams.movedim(1, -1) if self.kind == "channels last" else cams

    @property
    def channel_dim(self) -> int:
        """The dimension of an output that counts channels."""
        return 1 if self.kind == "channels first" else -1


def layout_of(output: object, image_size: Sequence[int], layer: nn.Module) -> Layout | None:
    """The layout of a layer's output, or None unless exactly one reading makes sense.

    A map has the image's aspect, to one place. Four dimensions are read as (N, C, h, w), and as (N, h, w, C) only where
    that has the image's aspect and (N, C, h, w) has not. Three are read as tokens if their number, less up to
    nine of a prefix, is that of the patches of one size that tile the image; a prefix of at most one token goes first.

    Args:
        output: what the layer returned.
        image_size: (H, W) of the images.
        layer: the layer; it is asked only where both readings of four dimensions have the image's aspect.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.dim() == 3:
        return _tokens(output.shape[1], *image_size)
    if output.dim() != 4:
        return None
    _, first, second, third = output.shape
    last = min(first, second) > 1 and fits((first, second), image_size)
    if not last:
        return Layout("channels first", second, third)
    if not fits((second, third), image_size):
        return Layout("channels last", first, second)
    # as many channels as places a side: convolutions count channels first, unless the layer works on the last dimension
    return None if _works_on_last(layer, third) else Layout("channels first", second, third)


def fits(size: Sequence[int], image_size: Sequence[int]) -> bool:
    """Whether (h, w) has the aspect of (H, W), to one place, and is not larger."""
    (h, w), (height, width) = size, image_size
    return h <= height and w <= width and abs(h * width - w * height) <= max(height, width)


def _works_on_last(layer: nn.Module, channels: int) -> bool:
    return any(
        (isinstance(part, nn.LayerNorm) and tuple(part.normalized_shape) == (channels,))
        or (isinstance(part, nn.Linear) and channels in (part.in_features, part.out_features))
        for part in layer.modules()
    )


def _tokens(number: int, height: int, width: int) -> Layout | None:
    found = []
    for patch in range(1, min(height, width) // 2 + 1):
        if height % patch == 0 and width % patch == 0:
            h, w = height // patch, width // patch
            if 0 <= number - h * w <= MOST_PREFIX_TOKENS:
                found.append(Layout("tokens", h, w, number - h * w))
    usual = [layout for layout in found if layout.prefix <= 1]
    for readings in (usual, found):
        if len(readings) == 1:
            return readings[0]
    return None


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether one tensor is the other or a view of all of it."""
    return one.numel() == other.numel() and one.data_ptr() == other.data_ptr() and one.device == other.device


def gradient_reaches_places(gradient: Tensor, layout: Layout) -> bool:
    """Whether a gradient is not confined to prefix tokens.

    The output of a ViT's last block counts through its class token only: no place of it has a gradient.
    """
    return bool(layout.channels_first(gradient).any()) or not bool(torch.any(gradient))
