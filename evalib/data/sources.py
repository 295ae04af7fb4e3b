"""One image from wherever it is, as pixels of a network's input: a file, an address, bytes, an array, a tensor."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalib.data.decoding import decode_image, image_pixels, one_line
from evalib.remote_images import fetch_image, is_address, shown_address
from evalib.transforms import Geometry

Source: TypeAlias = str | Path | bytes | Image.Image | np.ndarray | Tensor


def is_path(source: Source) -> bool:
    """Whether a source is a path of this machine's."""
    return isinstance(source, Path) or (isinstance(source, str) and not is_address(source))


def name_of(source: Source) -> str:
    """What messages call an image: its path or address, printable; else what it is."""
    if isinstance(source, str | Path):
        return one_line(str(source) if is_path(source) else shown_address(str(source)))
    if isinstance(source, Image.Image):
        file = getattr(source, "filename", "")
        return one_line(str(file)) if isinstance(file, str | Path) and str(file) else "the PIL image"
    if isinstance(source, bytes):
        return f"the {len(source):,} bytes"
    return f"the {'tensor' if isinstance(source, Tensor) else 'array'} {tuple(source.shape)}"


def stem_of(source: Source) -> str:
    """A name for files about an image: letters, digits, `-`, `_` and `.`, at most 80 of them."""
    name = name_of(source).partition("?")[0]
    if isinstance(source, str) and is_address(source):
        name = unquote(urlsplit(name).path)
    kept = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in Path(name).stem).strip("._")
    return kept[:80] or "image"


def read_source(source: Source, geometry: Geometry) -> Tensor:
    """(3, S, S) uint8: an image as a network is to see it; upright, RGB, transparency on white.

    Args:
        source: a path; an http(s) address; the bytes of an image file; an image of Pillow, of any mode; an array
            (H, W, 3), (H, W, 4) or (H, W), uint8; a tensor (3, H, W), uint8. None of them is changed.
        geometry: to the size of the network's input.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if an address gives nothing.
        TypeError: if the source is something else.
        ValueError: if it is no whole image, or pixels of another shape or type.
    """
    if not isinstance(source, str | Path | bytes | Image.Image | np.ndarray | Tensor):
        raise TypeError(
            "An image needs to be a path, an http(s) address, bytes, an image of Pillow, an array (H, W, 3) or a "
            f"tensor (3, H, W), both uint8: got {type(source).__name__}."
        )
    name = name_of(source)
    if isinstance(source, str) and is_address(source):
        pixels = decode_image(fetch_image(source), name, geometry)
    elif isinstance(source, str | Path):
        if not Path(source).exists():
            raise FileNotFoundError(f"There is no image file {name}.")
        pixels = decode_image(Path(source), name, geometry)
    elif isinstance(source, bytes):
        pixels = decode_image(source, name, geometry)
    elif isinstance(source, Image.Image):
        pixels = image_pixels(source, name, geometry)
    else:
        pixels = image_pixels(Image.fromarray(_channels_last(source, name)), name, geometry)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _channels_last(pixels: np.ndarray | Tensor, name: str) -> np.ndarray:
    """(H, W, 3), (H, W, 4) or (H, W) uint8, of an array of that kind or a tensor (3, H, W)."""
    kind = str(pixels.dtype).removeprefix("torch.")
    if kind != "uint8":
        end = "to(torch.uint8)" if isinstance(pixels, Tensor) else "astype('uint8')"
        raise ValueError(
            f"Pixels need to be uint8, 0 to 255: got {kind} of {name}. Values in [0, 1] become pixels by "
            f"`(255 * x).round().{end}`; undo a normalization first (`evalib.transforms.denormalize`)."
        )
    if isinstance(pixels, Tensor):
        wanted, fits = "(3, H, W)", pixels.ndim == 3 and pixels.shape[0] == 3
        pixels = pixels.detach().cpu().movedim(0, -1).numpy() if fits else pixels.detach().cpu().numpy()
    else:
        wanted = "(H, W, 3), (H, W, 4) or (H, W)"
        fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not fits or 0 in pixels.shape:
        raise ValueError(
            f"One image needs to be {wanted}: got {name}. Of several pass a list, of a batch `list(images)`; "
            "channels go last in an array (`x.transpose(1, 2, 0)`) and first in a tensor (`x.permute(2, 0, 1)`)."
        )
    return np.ascontiguousarray(pixels)
