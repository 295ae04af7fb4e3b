"""One image file to pixels: upright, RGB, whole or an error that names it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from evalib.transforms import Geometry

AS_IS = Geometry()


def decode_image(file: Path | bytes, name: str, geometry: Geometry = AS_IS) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB, upright as its EXIF orientation says, transparency on white.

    Args:
        file: a path, or the bytes of an image file.
        name: what an error calls the image.
        geometry: to the size of the network's input.

    Raises:
        ValueError: naming the image, if it is not there or cannot be decoded whole.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            if geometry.kind != "as_is":  # a JPEG of 8 S or more is decoded at a half, quarter or eighth, 4 S or more
                opened.draft(None, (4 * geometry.image_size, 4 * geometry.image_size))
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:  # else the hidden colors of transparent pixels would show
                layer = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            return np.array(geometry.image(image.convert("RGB")))  # a copy: torch warns of arrays that are read-only
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"Cannot decode the image {name} ({error}). Replace the file or remove it.") from error
