"""Pictures as text: photographs and maps of a report as data URIs, small and sharp."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

PHOTO, MAP = 160, 48  # pixels a side at most
_LEVELS = 31  # of each sign: a map's file holds whole numbers from -31 to 31
# what `evalib.mistake_plots` paints with: for the predicted class, and for the true one
_PREDICTED, _TRUE = (214, 82, 14), (24, 100, 190)


def photo_uri(pixels: Tensor, largest: int = PHOTO) -> str:
    """A photograph as it is if it is small, else reduced and as JPEG.

    Args:
        pixels: (3, H, W) uint8.
        largest: pixels a side, at most, of one that is not small.
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if max(image.size) <= 64:
        return _uri(image, "png", optimize=True)
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return _uri(image, "jpeg", quality=80, optimize=True)


@dataclass(frozen=True)
class Sprite:
    """Many maps in one picture, and how a page shows one of them: as a background of that size and at that position.

    Attributes:
        uri: the picture.
        size: of the background, as CSS writes it.
        positions: for each row and column of the picture, across and down, as CSS writes it.
    """

    uri: str
    size: str
    positions: list[list[tuple[str, str]]]


def maps_sprite(maps: Tensor) -> Sprite:
    """Maps side by side in one picture: the color says for which class a place speaks, the opacity how strongly.

    Args:
        maps: (L, K, H, W) float in [-1, 1]; a row of the picture for each of L, a column for each of K.
    """
    size = min(maps.shape[2], MAP), min(maps.shape[3], MAP)
    small = F.interpolate(maps.float(), size=size, mode="area")
    # one more pixel around each: a browser that enlarges the picture mixes neighbors
    small = F.pad(small, (1, 1, 1, 1), mode="replicate")
    rows, columns, height, width = small.shape
    tiled = small.permute(0, 2, 1, 3).reshape(rows * height, columns * width)
    levels = (tiled.clamp(-1, 1) * _LEVELS).round().to(torch.int64) + _LEVELS
    image = Image.fromarray(levels.to(torch.uint8).numpy(), "P")
    image.putpalette([value for level in range(2 * _LEVELS + 1) for value in _color(level)])
    # the exponent keeps weak evidence in sight
    opacity = bytes(round(235 * (abs(level - _LEVELS) / _LEVELS) ** 0.6) for level in range(2 * _LEVELS + 1))
    positions = [[(_position(k, columns, width), _position(n, rows, height)) for k in range(columns)]
                 for n in range(rows)]  # fmt: skip
    background = f"{100 * columns * width / (width - 2):.4g}% {100 * rows * height / (height - 2):.4g}%"
    return Sprite(_uri(image, "png", optimize=True, transparency=opacity), background, positions)


def _position(place: int, count: int, length: int) -> str:
    """Of a background that begins with the inner part of the tile at `place`; tiles are `length` long with borders."""
    return f"{100 * (place * length + 1) / (count * length - (length - 2)):.4f}%"


def _color(level: int) -> Sequence[int]:
    return _PREDICTED if level >= _LEVELS else _TRUE


def legend_colors() -> tuple[str, str]:
    """The colors for the predicted and for the true class, as CSS writes them."""
    return tuple(f"rgb({red},{green},{blue})" for red, green, blue in (_PREDICTED, _TRUE))  # type: ignore[return-value]


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
