"""Decoding against arithmetic, Pillow's own values and the exact resize; and what is no image, or a hostile one."""

import errno
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from evalib.data import decoding as decoding_module
from evalib.data.decoding import MAX_BYTES, MAX_PIXELS, ImageError, decode_image, stored_size
from evalib.transforms import Geometry
from tests.data.bad_images import MAGIC, bombs, generate, png_chunk, png_header, valid_files

ROOT = Path(__file__).resolve().parents[2]

RED = (200, 50, 10)


def photo(width, height):
    """An image with the spectrum of a photo (amplitudes fall with frequency) and sharp edges."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height))
    phases = generator.uniform(0, 2 * np.pi, (3, *amplitude.shape))
    pixels = np.fft.irfft2(amplitude * np.exp(1j * phases), s=(height, width)).transpose(1, 2, 0)
    pixels = pixels / pixels.std() * 50 + 128
    pixels[height // 4 : height // 2, width // 4 : width // 2] += 80
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("geometry", [Geometry(), Geometry("resize", 6), Geometry("center_crop", 6)])
@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("L", "JPEG", (90, 90, 90)),  # 0.299 R + 0.587 G + 0.114 B
        ("L", "PNG", (90, 90, 90)),
        ("LA", "PNG", (90, 90, 90)),
        ("P", "PNG", RED),
        ("P", "GIF", RED),
        ("RGBA", "PNG", RED),
        ("RGB", "JPEG", RED),
        ("CMYK", "JPEG", RED),
        ("CMYK", "TIFF", RED),
    ],
)
def test_every_mode_becomes_rgb(mode, kind, expected, geometry):
    image = Image.new("RGB", (12, 8), RED)
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)
    found = decode_image(encoded(image, kind), "image", geometry)
    size = geometry.image_size
    assert found.shape == ((size, size, 3) if size else (8, 12, 3))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_the_array_can_be_written():
    found = decode_image(encoded(Image.new("RGB", (4, 4))), "image")
    assert found.flags.writeable, "else torch.from_numpy warns"


@pytest.mark.parametrize("geometry", [Geometry(), Geometry("resize", 8)])
def test_a_missing_file_and_a_damaged_one_are_named(tmp_path, geometry):
    with pytest.raises(ValueError, match=r"Cannot decode the image BMW/1.jpg \(.*No such file.*Replace the file"):
        decode_image(tmp_path / "1.jpg", "BMW/1.jpg", geometry)
    whole = encoded(photo(64, 48))
    for content in (whole[: len(whole) // 2], b"<html></html>", b""):
        with pytest.raises(ValueError, match="Cannot decode the image BMW/1.jpg"):
            decode_image(content, "BMW/1.jpg", geometry)


@pytest.mark.parametrize("kind", ["resize", "center_crop"])
@pytest.mark.parametrize(("width", "height", "limit"), [(1024, 768, 0.5), (601, 1303, 2.5)])
def test_a_large_jpeg_decoded_small_stays_close_to_the_exact_resize(kind, width, height, limit, monkeypatch):
    """On average by gray levels, where the JPEG itself (quality 90) lost 0.2 to 0.4.

    Odd sizes are rounded up when they are halved: 601 becomes 301, all moves by up to a tenth of a pixel of the input.
    """
    sizes, real = [], Geometry.image
    monkeypatch.setattr(Geometry, "image", lambda self, image: (sizes.append(image.size), real(self, image))[1])
    content, geometry = encoded(photo(width, height), quality=90), Geometry(kind, 64)
    found = decode_image(content, "photo", geometry)
    assert 4 * 64 <= min(sizes[0]) < min(width, height), "it was not decoded at full size, nor too small"
    exact = np.asarray(real(geometry, Image.open(io.BytesIO(content)).convert("RGB")))
    difference = np.abs(found.astype(int) - exact)
    assert difference.mean() < limit


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_smaller_images_are_resized_exactly(kind):
    content, geometry = encoded(photo(500, 375), kind), Geometry("resize", 64)
    exact = np.asarray(geometry.image(Image.open(io.BytesIO(content)).convert("RGB")))
    assert np.array_equal(decode_image(content, "photo", geometry), exact)


# --- every kind of image, against arithmetic ---------------------------------------------------------


def decoded(content, geometry=None):
    """(H, W, 3) as int, so that differences have a sign."""
    return decode_image(content, "image", geometry or Geometry()).astype(int)


def levels(*shape, top=256, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape)


def as_image(values, mode):
    kind = {"I;16": "<u2", "I": "<i4", "F": "<f4"}.get(mode, np.uint8)
    return Image.frombytes(mode, values.shape[1::-1], np.ascontiguousarray(values.astype(kind)).tobytes())


def png(values, depth, color, chunks=b""):
    """A PNG by hand: big-endian samples, every row with filter 0."""
    rows = values.astype(">u2" if depth == 16 else np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = png_header(values.shape[1], values.shape[0], depth, color)
    return head + chunks + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparent_pixels_lie_on_white(kind, options):
    values = levels(9, 7, 4)
    values[0, :3, 3], values[1, :3, 3] = 0, 255
    found = decoded(encoded(as_image(values, "RGBA"), kind, **options))
    alpha = values[..., 3:] / 255
    assert np.abs(found - (values[..., :3] * alpha + 255 * (1 - alpha))).max() <= 0.51
    assert (found[0, :3] == 255).all(), "not their hidden colors"
    assert (found[1, :3] == values[1, :3, :3]).all()


def test_transparency_of_gray_images_and_palettes():
    values = levels(6, 5, 2)
    alpha = values[..., 1] / 255
    expected = values[..., 0] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(encoded(as_image(values, "LA"), "PNG")) - expected[..., None]).max() <= 0.51

    palette = bytes([200, 0, 0, 0, 200, 0, 0, 0, 200])
    pixels, shares = np.array([[0, 1, 2]]), (0, 51, 255)
    chunks = png_chunk(b"PLTE", palette) + png_chunk(b"tRNS", bytes(shares))
    assert decoded(png(pixels, 8, 3, chunks)).tolist() == [[[255] * 3, [204, 244, 204], [0, 0, 200]]]  # 51 = 255 / 5

    clear = png_chunk(b"tRNS", struct.pack(">H", 7))  # one level of gray, one color
    assert decoded(png(np.array([[6, 7, 8]]), 8, 0, clear))[0, :, 0].tolist() == [6, 255, 8]
    clear = png_chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    assert decoded(png(np.array([[[1, 2, 3], [1, 2, 4]]]), 8, 2, clear)).tolist() == [[[255] * 3, [1, 2, 4]]]
    clear = png_chunk(b"tRNS", struct.pack(">H", 5140))
    assert decoded(png(np.array([[5140, 5141]]), 16, 0, clear))[0, :, 0].tolist() == [255, 20]  # 5140 = 20 * 257


def test_16_bits_are_scaled_and_not_cut_off():
    values = np.concatenate([levels(4, 64, top=65536), np.arange(256).reshape(4, 64) * 257])
    expected = values / 257
    for content in (
        encoded(as_image(values, "I;16"), "PNG"),
        encoded(as_image(values, "I;16"), "TIFF"),
        encoded(as_image(values, "I;16"), "TIFF", compression="tiff_lzw"),
        png(values, 16, 0),
    ):
        assert np.abs(decoded(content) - expected[..., None]).max() <= 0.5
    dark = encoded(as_image(values // 1024, "I;16"), "PNG")
    assert decoded(dark).max() == 0, "16 bits are scaled by what the file says, not by the brightest pixel"
    colors = levels(5, 6, 3, top=65536)
    assert np.abs(decoded(png(colors, 16, 2)) - colors / 257).max() <= 1  # Pillow drops the lower 8 bits
    both = levels(5, 6, 2, top=65536)
    alpha = both[..., 1:] / 65535
    assert np.abs(decoded(png(both, 16, 4)) - (both[..., :1] / 257 * alpha + 255 * (1 - alpha))).max() <= 2


@pytest.mark.parametrize(
    ("mode", "highest", "top"),
    [
        ("I", 255, 255), ("I", 256, 65535), ("I", 65535, 65535), ("I", 2**30, 2**30),
        ("F", 1, 1), ("F", 1.5, 255), ("F", 255, 255), ("F", 300, 65535), ("F", 1e9, 1e9), ("F", 0, 1),
    ],
)  # fmt: skip
def test_integers_and_floats_are_scaled_by_the_first_range_that_holds_them(mode, highest, top):
    values = np.random.default_rng(1).uniform(0, 1, (6, 8)) * highest
    values[0, 0], values[0, 1] = highest, -5
    values = values.astype(np.int32 if mode == "I" else np.float32)
    found = decoded(encoded(as_image(values, mode), "TIFF"))
    assert np.abs(found - np.maximum(values, 0)[..., None] * 255.0 / top).max() <= 0.51
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 0] == found[..., 2]).all()


def test_floats_that_are_no_numbers():
    values = np.array([[np.nan, np.inf, -np.inf, 0.5, 1.0]])
    assert decoded(encoded(as_image(values, "F"), "TIFF"))[0, :, 0].tolist() == [0, 255, 0, 128, 255]
    assert decoded(encoded(as_image(values[:, :3], "F"), "TIFF"))[0, :, 0].tolist() == [0, 255, 0]


def test_inks_bits_and_other_colors():
    inks = levels(8, 8, 4)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert np.abs(decoded(encoded(as_image(inks, "CMYK"), "TIFF")) - expected).max() <= 1

    flat = np.full((16, 16, 4), (30, 90, 200, 40))  # a JPEG of Adobe holds 255 - ink; Pillow writes it so
    content = encoded(as_image(flat, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in content[:100]
    expected = (255 - flat[..., :3]) * (255 - flat[..., 3:]) / 255
    assert np.abs(decoded(content) - expected).max() <= 3

    bits = levels(5, 11, top=2)
    one_bit = Image.fromarray((bits * 255).astype(np.uint8)).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(decoded(encoded(one_bit, kind)), np.repeat(bits[..., None] * 255, 3, axis=2))

    luma = np.dstack([levels(4, 4), np.full((4, 4, 2), 128)])  # no color in it: R = G = B = Y
    packed = encoded(as_image(luma, "YCbCr"), "TIFF", compression="tiff_lzw")  # Pillow 12 cannot read its plain ones
    assert np.abs(decoded(packed) - luma[..., :1]).max() <= 1

    lab = np.dstack([np.array([[0, 60, 120, 180, 255]]), np.zeros((1, 5, 2))])  # no color in it: from black to white
    try:
        found = decoded(encoded(as_image(lab, "LAB"), "TIFF"))
    except ImageError as error:
        assert "LAB" in error.failure.reason, "older versions of Pillow say that they cannot"  # noqa: PT017
    else:
        assert (np.ptp(found, axis=2) <= 3).all()
        assert (np.diff(found[0, :, 0]) > 20).all()
        assert found[0, 0].max() <= 3
        assert found[0, -1].min() >= 252


def test_of_several_frames_or_pages_the_first():
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), "blue")
    for kind in ("GIF", "TIFF", "WEBP", "PNG", "MPO"):
        content = encoded(first, kind, save_all=True, append_images=[second.copy()])
        assert Image.open(io.BytesIO(content)).n_frames == 2
        assert np.abs(decoded(content) - RED).max() <= 8, kind


def test_a_progressive_jpeg_is_the_plain_one():
    image = photo(60, 44)
    progressive, plain = encoded(image, progressive=True), encoded(image, progressive=False)
    assert Image.open(io.BytesIO(progressive)).info["progressive"]
    assert np.array_equal(decoded(progressive), decoded(plain))


def shown(stored, orientation):
    """By the words of EXIF: on which side one sees the first row, and on which the first column."""
    first_row, first_column = (
        ("top", "left"), ("top", "right"), ("bottom", "right"), ("bottom", "left"),
        ("left", "top"), ("right", "top"), ("right", "bottom"), ("left", "bottom"),
    )[orientation - 1]  # fmt: skip
    if first_row in ("left", "right"):
        stored = stored.transpose(1, 0, 2)
    if "right" in (first_row, first_column):
        stored = stored[:, ::-1]
    return stored[::-1] if "bottom" in (first_row, first_column) else stored


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation):
    stored, exif = levels(3, 5, 3), Image.Exif()
    exif[274] = orientation
    image = as_image(stored, "RGB")
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        content = encoded(image, kind, exif=exif, **options)
        assert np.array_equal(decoded(content), shown(stored, orientation)), kind
        if kind != "TIFF":  # which newer versions of Pillow turn by themselves
            assert stored_size(content, "image") == (5, 3)
    large = photo(160, 96)
    turned, upright = encoded(large, exif=exif), encoded(large)
    assert np.array_equal(decoded(turned), shown(decoded(upright), orientation))
    eighth = Geometry("resize", 8)  # decoded at a half
    assert np.abs(decoded(turned, eighth) - shown(decoded(upright, eighth), orientation)).max() <= 2


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*garbage" * 9])
def test_an_image_with_damaged_exif_is_shown_as_stored(exif):
    stored = levels(3, 5, 3)
    assert np.array_equal(decoded(encoded(as_image(stored, "RGB"), "PNG", exif=exif)), stored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, for JPEG files
        assert decoded(encoded(as_image(stored, "RGB"), "JPEG", exif=exif)).shape == (3, 5, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 65000), (17, 16)])
def test_odd_shapes(size):
    for kind in ("PNG", "JPEG", "TIFF"):
        content = encoded(Image.new("RGB", size, RED), kind)
        assert decoded(content).shape == (size[1], size[0], 3)
        for geometry in (Geometry("resize", 24), Geometry("center_crop", 24)):
            found = decoded(content, geometry)
            assert found.shape == (24, 24, 3)
            assert np.abs(found - RED).max() <= 3


# --- files that are no images -------------------------------------------------------------------------


def reason(file, name="a.jpg"):
    """Why a file is refused; the error names the image in one line."""
    with pytest.raises(ImageError) as caught:
        decode_image(file, name)
    message = str(caught.value)
    assert message.startswith(f"Cannot decode the image {name} (")
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    assert str(pickle.loads(pickle.dumps(caught.value))) == message, "it comes out of a worker process as it was"
    return caught.value.failure.reason


def test_what_is_no_image_says_what_it_is():
    assert reason(b"") == "an empty file"
    page = reason(b"<!DOCTYPE html><html><body>404 Not found</body></html>")
    assert page == "no JPEG, PNG, GIF, BMP, WEBP, TIFF file that can be identified; it begins with b'<!DOCTYPE html><'"
    assert "begins with b'%!PS-Adobe-3.0 E'" in reason(MAGIC["eps"] + b"(x) run"), "no other program is started for it"
    assert "begins with b'P6 9 9 255\\n" in reason(MAGIC["ppm"] + bytes(243))


def test_names_and_suffixes(tmp_path):
    content = encoded(Image.new("RGB", (4, 4), RED), "PNG")
    for name in (
        "photo.jpg",
        "notes.txt",
        "no suffix",
        "Grüße aus 東京 \N{CAT}.png",
        " spaced  .PNG",
        "line\nbreak.png",
    ):
        (tmp_path / name).write_bytes(content)
        assert (decode_image(tmp_path / name, name) == RED).all()
    with pytest.raises(ImageError, match=r"the image line\\nbreak\\x1b\[31m\.png \(No such file"):
        decode_image(tmp_path / "none", "line\nbreak\x1b[31m.png")
    with pytest.raises(ImageError, match="the image Grüße 東京.png"):
        decode_image(tmp_path / "none", "Grüße 東京.png")


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.png")
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("this file system has text as names only")
    with pytest.raises(ImageError, match=r"udcff\\udcfe\.png \(an empty file\)") as caught:
        decode_image(path, str(path))
    str(caught.value).encode()  # it can be printed
    assert "embedded null" in reason(Path("a\0b.jpg"))


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    assert reason(tmp_path / "x.jpg") == "a folder"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a regular file", "nobody writes into it: opening it would wait"
    assert reason(Path(os.devnull)) == "not a regular file"
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    assert reason(tmp_path / "dangling.jpg") == "No such file or directory"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason(tmp_path / "loop.jpg") == "Too many levels of symbolic links"


def test_files_that_cannot_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(Image.new("RGB", (4, 4))))
    real = open

    def denied(file, *arguments, **more):
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(file, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", denied)
        assert reason(path) == "Permission denied"
        with pytest.raises(ImageError) as caught:
            decode_image(path, "secret.jpg")
    assert not caught.value.failure.damaged
    with pytest.raises(ImageError) as caught:
        decode_image(b"", "empty.jpg")
    assert caught.value.failure.damaged
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert reason(path) == "Permission denied"


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "huge.webp", "wb") as file:
        file.write(MAGIC["webp"])
        file.truncate(MAX_BYTES + 1)  # it has holes, and takes no space
    assert reason(tmp_path / "huge.webp") == "536,870,911 bytes, more than 536,870,910"


def pixels_or_one_line(content):
    try:
        found = decode_image(content, "some.file")
    except ImageError as error:
        found, message = None, str(error)
        assert message.startswith("Cannot decode the image some.file (")
        assert len(message.splitlines()) == 1
    else:
        assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)
    return found


@pytest.mark.parametrize("name", valid_files())
def test_truncated_anywhere(name):
    """Pixels or an error; of a file with one image and half of its bytes an error."""
    content = valid_files()[name]
    assert name == "lab.tif" or decoded(content).ndim == 3
    for length in sorted({*range(0, 40), *range(40, len(content), max(1, len(content) // 40)), len(content) - 1}):
        pixels_or_one_line(content[:length])
    if not name.startswith(("animated", "pages", "two")):
        reason(content[: len(content) // 2])


# --- files that ask for too much ----------------------------------------------------------------------


def test_bombs_are_told_by_their_headers():
    bomb = bombs()
    for name in ("size.png", "largest.png", "size.gif", "size.bmp", "size.jpg", "progressive.jpg", "size.tif"):
        assert "pixels" in reason(bomb[name]), name
    assert "65,520 x 65,520 pixels, more than 89,478,485" in reason(bomb["tile.tif"]), "of an image of 16 x 16"
    assert reason(bomb["run_length.bmp"]) == "9,000 x 9,000 pixels, more than 4,000,000"
    assert "too large" in reason(bomb["text.png"])
    assert "too large" in reason(bomb["profile.png"])
    assert decoded(bomb["pixels.png"]).shape == (1, 1, 3), "what follows the last pixel is not decompressed"
    just_above = png_header(MAX_PIXELS // 5 + 1, 5) + png_chunk(b"IDAT", b"")
    with pytest.raises(ImageError, match=r"17,895,698 x 5 pixels|89478490 pixels"):  # with warnings as errors Pillow's
        decode_image(just_above, "a.png")


def test_a_jpeg_of_many_scans_is_refused_and_one_of_some_is_not():
    image = photo(64, 48)
    progressive = encoded(image, progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    expected = decoded(progressive)
    assert decoded(progressive[:-2] + 20 * last + b"\xff\xd9").shape == expected.shape
    assert reason(progressive[:-2] + 200 * last + b"\xff\xd9") == "a JPEG of 210 scans, more than 100"

    plain = encoded(image)
    start = plain.index(b"\xff\xda")
    one_channel = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + plain[start + 14 : -2]  # each scan for one channel
    assert "scans, more than 100" in reason(plain[:start] + 150 * one_channel + b"\xff\xd9")


def test_ordinary_jpegs_are_read_once(monkeypatch):
    """Counting the scans would take the time of reading the file once more."""
    counted, real = [], decoding_module._scans

    def spied(image, stream):
        found = real(image, stream)
        counted.append((found, stream.tell()))
        return found

    monkeypatch.setattr(decoding_module, "_scans", spied)
    for image in (photo(64, 48), photo(64, 48).convert("L"), photo(64, 48).convert("CMYK")):
        content = encoded(image)
        decoded(content)
        assert counted[-1][0] == 1
        assert counted[-1][1] < len(content), "the stream was not read to its end"
    decoded(encoded(photo(64, 48), progressive=True))
    assert counted[-1][0] == 10


SURVIVES = """
import json, resource, sys, time
from evalib.data.decoding import ImageError, decode_image
from evalib.transforms import Geometry
from tests.data.bad_images import bombs, generate, valid_files
valid_files()
bombs()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before, slowest, decoded, refused = peak(), 0.0, 0, 0
for number, (name, content) in enumerate(generate(1, 300)):
    start = time.perf_counter()
    try:
        pixels = decode_image(content, name, (Geometry(), Geometry("center_crop", 96))[number % 2])
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype.name == "uint8", name
        decoded += 1
    except ImageError as error:
        assert name in str(error) and len(str(error).splitlines()) == 1, error
        refused += 1
    slowest = max(slowest, time.perf_counter() - start)
print(json.dumps([decoded, refused, slowest, peak() - before]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of a process as Linux shows it")
def test_300_bad_images_cost_little_memory_and_time():
    done = subprocess.run([sys.executable, "-c", SURVIVES], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    decoded_count, refused, slowest, megabytes = json.loads(done.stdout)
    assert decoded_count + refused == 300
    assert 20 < decoded_count < 150
    assert slowest < 5
    assert megabytes < 300


def test_the_same_seed_makes_the_same_bad_images():
    assert list(generate(3, 60)) == list(generate(3, 60))
    assert list(generate(3, 60))[30:] != list(generate(4, 60))[30:]
    assert list(generate(3, 3)) == list(generate(3, 60))[:3]


def test_an_image_that_does_not_fit_into_memory_is_an_error_of_its_own(monkeypatch):
    def full(self):
        raise MemoryError

    content = encoded(Image.new("RGB", (4, 4)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(ImageError, match="not enough memory") as caught:
        decode_image(content, "a.jpg")
    assert not caught.value.failure.damaged


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError(), "KeyError"),
        (RuntimeError("two\nlines\0"), "two\\nlines\\x00"),
        (struct.error("x" * 10_000), "x" * 300),
        (RecursionError("too deep"), "too deep"),
    ],
)
def test_any_exception_of_pillow_is_one_line(monkeypatch, error, expected):
    def fail(self):
        raise error

    content = encoded(Image.new("RGB", (4, 4)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert reason(content) == expected


def test_settings_of_others_stay_as_they_are():
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pixels_or_one_line, [content for _, content in generate(2, 80)]))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def test_the_users_own_limits_are_kept(monkeypatch):
    content = encoded(Image.new("RGB", (40, 40)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "pixels" in reason(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decoded(content).shape == (40, 40, 3)
    assert "30,000 x 30,000 pixels, more than 89,478,485" in reason(bombs()["size.png"])
    just_above = png_header(MAX_PIXELS // 5 + 1, 5) + png_chunk(b"IDAT", b"")
    assert reason(just_above) == "17,895,698 x 5 pixels, more than 89,478,485"


# --- any bytes, any pixels ----------------------------------------------------------------------------

QUICK = settings(derandomize=True, deadline=None, max_examples=120, database=None)


@QUICK
@given(st.sampled_from([b"", *MAGIC.values()]), st.binary(max_size=300))
def test_any_bytes_are_pixels_or_one_line(magic, content):
    pixels_or_one_line(magic + content)


@QUICK
@given(st.data())
def test_any_change_of_a_valid_file_is_pixels_or_one_line(data):
    content = bytearray(valid_files()[data.draw(st.sampled_from(sorted(valid_files())))])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    pixels_or_one_line(bytes(content))


@QUICK
@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1), st.sampled_from(["PNG", "BMP", "TIFF", "WEBP"])
)
def test_any_pixels_come_back_from_a_lossless_file(width, height, seed, kind):
    pixels = levels(height, width, 3, seed=seed)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decoded(encoded(as_image(pixels, "RGB"), kind, **options)), pixels)
