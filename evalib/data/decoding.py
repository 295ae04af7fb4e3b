"""One image file to pixels: upright, RGB, whole; or an error of one line that names it. All of evalib decodes here."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from evalib.transforms import Geometry

AS_IS = Geometry()

# What a file may be, whatever its name says. Pillow reads more: EPS by starting another program, others by slow loops.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# Where Pillow begins to warn of decompression bombs. Decoding takes up to 20 bytes of memory for each pixel.
MAX_PIXELS = 89_478_485
MAX_SLOW_PIXELS = 4_000_000  # of a BMP compressed by runs: Pillow's decoder is a Python loop, a second for so many
MAX_SCANS = 100  # of a JPEG, which has 1 to 10: each is a pass over all pixels for a few bytes of the file
MAX_BYTES = 6 * MAX_PIXELS  # a TIFF of so many pixels, not compressed, with 16 bits a channel

_ORIENTATION = 274  # the tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Failure(NamedTuple):
    """Why an image cannot be decoded.

    Attributes:
        name: of the image, printable.
        reason: in one line.
        damaged: whether the file itself is to blame, so that reading it once more would not help.
    """

    name: str
    reason: str
    damaged: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ImageError(ValueError):
    """An image that cannot be decoded; `failure` is why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        name, reason, _ = self.failure
        return f"Cannot decode the image {name} ({reason}). Replace the file or remove it."


def decode_image(file: Path | bytes, name: str, geometry: Geometry = AS_IS) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB, upright as its EXIF orientation says, transparency on white.

    16 bits a channel become 8 by scaling. Gray images of 32-bit integers or floats do not say what is white: it is
    the first of 1 (floats only), 255, 65535 and their own maximum that no pixel exceeds. Of several frames or pages
    the first is taken. Pillow's settings, as its list of allowed sizes, are neither changed nor needed.

    Args:
        file: a path, or the bytes of an image file.
        name: what an error calls the image.
        geometry: to the size of the network's input.

    Raises:
        ImageError: naming the image, if it cannot be read, is no whole image of `FORMATS`, or asks for too much.
    """
    with _opened(file, name) as opened:
        if geometry.kind != "as_is":  # a JPEG of 8 S or more is decoded at a half, quarter or eighth, 4 S or more
            opened.draft(None, (4 * geometry.image_size, 4 * geometry.image_size))
        return np.array(geometry.image(_rgb(_upright(opened))))  # a copy: torch warns of arrays that are read-only


def image_pixels(image: Image.Image, name: str, geometry: Geometry = AS_IS) -> np.ndarray:
    """An image of Pillow, of any mode, as `decode_image` gives that of a file; the image itself stays as it is.

    Raises:
        ImageError: naming the image, if it cannot be read, has no pixel or more than `MAX_PIXELS`.
    """
    with _naming(name):
        width, height = image.size
        if not 0 < width * height <= MAX_PIXELS:
            raise ValueError(f"{width:,} x {height:,} pixels, not 1 to {MAX_PIXELS:,}")
        return np.array(geometry.image(_rgb(_upright(image))))


def stored_size(file: Path | bytes, name: str) -> tuple[int, int]:
    """Width and height of an image as stored, before EXIF turns it, from its header. Raises as `decode_image` does."""
    with _opened(file, name) as opened:
        return opened.size


def one_line(text: str) -> str:
    """A text, as a file's name, without what would break a line or cannot be printed."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def first_lines(lines: Sequence[str], most: int = 10) -> str:
    """So many of the lines, each in a row of its own, and how many more there are."""
    rows = [*lines[:most], *([f"and {len(lines) - most:,} more"] if len(lines) > most else [])]
    return "\n".join(f"  {row}" for row in rows)


@contextmanager
def _opened(file: Path | bytes, name: str) -> Iterator[Image.Image]:
    """The image behind its header; whatever goes wrong, here or in the block, is an error that names it."""
    with _naming(name), _byte_stream(file) as stream, _identified(stream) as image:
        yield image


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Whatever goes wrong in the block is an `ImageError` that names the image."""
    try:
        yield
    except Exception as error:  # Pillow raises nearly every kind, by format, damage and version
        system = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        raise ImageError(Failure(one_line(name), _reason(error), damaged=not system)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory"
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)[:300]


def _byte_stream(file: Path | bytes) -> IO[bytes]:
    if isinstance(file, bytes):
        size = len(file)
    else:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise ValueError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        size = status.st_size
    if not 0 < size <= MAX_BYTES:
        raise ValueError(f"{size:,} bytes, more than {MAX_BYTES:,}" if size else "an empty file")
    return io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb")


def _identified(stream: IO[bytes]) -> Image.Image:
    """The image whose header a stream begins with, if it does not ask for too much memory or time."""
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        stream.seek(0)
        begins = f"it begins with {stream.read(16)!r}"
        raise ValueError(f"no {', '.join(FORMATS)} file that can be identified; {begins}") from None
    run_length = image.format == "BMP" and image.info.get("compression") in (1, 2)
    limit = MAX_SLOW_PIXELS if run_length else MAX_PIXELS
    tags = getattr(image, "tag_v2", {})  # a TIFF's tile is decoded whole, however small the image
    for width, height in (image.size, (tags.get(322, 1), tags.get(323, 1))):
        if width * height > limit:
            raise ValueError(f"{width:,} x {height:,} pixels, more than {limit:,}")
    if image.format in ("JPEG", "MPO") and (scans := _scans(image, stream)) > MAX_SCANS:
        raise ValueError(f"a JPEG of {scans:,} scans, more than {MAX_SCANS}")
    return image


def _scans(image: Image.Image, stream: IO[bytes]) -> int:
    """How often a JPEG makes its decoder pass over all pixels, at most; its stream stands behind the first scan's head.

    Counting takes the time of reading the file once more, so the usual ones are told by their head alone.
    """
    channels: int = getattr(image, "layers", 0)
    length = 6 + 2 * channels
    if image.format == "JPEG" and "progressive" not in image.info and stream.tell() > length:
        stream.seek(-2 - length, os.SEEK_CUR)
        if stream.read(5) == bytes([0xFF, 0xDA, 0, length, channels]):  # a scan of all channels is the only one
            return 1
    stream.seek(0)
    return stream.read().count(b"\xff\xda")


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # some formats have their EXIF behind the pixels
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an image whose EXIF is damaged is shown as it is stored, as viewers do
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _to_8_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")  # else the hidden colors of transparent pixels would show
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A gray image of larger numbers, scaled: converted by Pillow, all above 255 would be white."""
    values = np.array(image, dtype=np.float32)
    clear = values == image.info["transparency"] if isinstance(image.info.get("transparency"), int) else None
    tops = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    highest = float(np.max(values, where=np.isfinite(values), initial=0))
    top = next((top for top in tops if highest <= top), highest)
    values[np.isnan(values)] = 0
    np.clip(values, 0, top, out=values)
    values *= 255 / top
    levels = values.round(out=values).astype(np.uint8)
    if clear is not None:
        levels[clear] = 255
    return Image.fromarray(levels)
