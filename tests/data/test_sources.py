"""One picture, handed over in every way: the same pixels, or one line that says what is needed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from evalib.data import sources
from evalib.data.decoding import ImageError
from evalib.data.sources import is_path, name_of, read_source, stem_of
from evalib.transforms import Geometry

SIZE = Geometry("resize", 8)
# 16 x 12 (width x height) pixels: a smooth picture, whose corners tell every turn
RAMP = np.stack(np.broadcast_arrays(np.arange(16) * 16, np.arange(12)[:, None] * 20, 128), axis=2).astype(np.uint8)


def pil(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RAMP).convert(mode)


def png(image: Image.Image | None = None, **settings: object) -> bytes:
    stream = io.BytesIO()
    (image or pil()).save(stream, "PNG", **settings)
    return stream.getvalue()


EXPECTED = np.asarray(pil().resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my photo.png"
    path.write_bytes(png())
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda file: file,
        str,
        lambda file: file.read_bytes(),
        lambda file: pil(),
        lambda file: Image.open(io.BytesIO(file.read_bytes())),
        lambda file: RAMP,
        lambda file: RAMP[::-1][::-1],
        lambda file: np.asfortranarray(RAMP),
        lambda file: torch.from_numpy(RAMP).permute(2, 0, 1),
        lambda file: np.dstack([RAMP, np.full(RAMP.shape[:2], 255, np.uint8)]),
        lambda file: pil("RGBA"),
    ],
)
def test_the_same_picture_in_every_form(make, file):
    pixels = read_source(make(file), SIZE)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels.numpy(), EXPECTED)


def test_an_address(monkeypatch):
    monkeypatch.setattr(sources, "fetch_image", lambda url: png())
    np.testing.assert_array_equal(read_source("https://host/a.png", SIZE).numpy(), EXPECTED)
    monkeypatch.setattr(sources, "fetch_image", lambda url: b"{}")
    with pytest.raises(ImageError, match=r"the image https://host/a\.png\?\.\.\. \(no JPEG, PNG"):
        read_source("https://host/a.png?secret", SIZE)


def test_gray_transparent_and_black_and_white_pictures():
    gray = read_source(RAMP[..., 0], SIZE)
    np.testing.assert_array_equal(gray.numpy(), np.stack([EXPECTED[0]] * 3))
    clear = np.dstack([RAMP, np.zeros(RAMP.shape[:2], np.uint8)])
    assert read_source(clear, SIZE).unique().tolist() == [255], "transparency lies on white"
    for mode in ("1", "L", "LA", "P", "PA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"):
        image = pil("L").convert(mode) if mode in ("I", "F", "I;16", "LA", "PA") else pil(mode)
        assert read_source(image, SIZE).shape == (3, 8, 8), mode
        assert image.mode == mode, "the image is left as it was"


def test_a_picture_taken_with_the_camera_turned(tmp_path):
    """Orientation 6: the stored picture is to be turned by a quarter clockwise."""
    exif = Image.Exif()
    exif[274] = 6
    turned = png(exif=exif)
    (tmp_path / "a.png").write_bytes(turned)
    expected = np.asarray(Image.fromarray(np.rot90(RAMP, -1).copy()).resize((8, 8), Image.Resampling.BILINEAR))
    for source in (turned, tmp_path / "a.png", Image.open(io.BytesIO(turned))):
        np.testing.assert_array_equal(read_source(source, SIZE).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (RAMP / 255, ValueError, r"uint8, 0 to 255: got float64.*\(255 \* x\)\.round\(\)\.astype\('uint8'\)"),
        (torch.zeros(3, 4, 4), ValueError, r"got float32 of the tensor \(3, 4, 4\).*to\(torch\.uint8\)"),
        (RAMP.astype(np.int64), ValueError, "got int64"),
        (RAMP > 3, ValueError, "got bool"),
        (RAMP.transpose(2, 0, 1), ValueError, r"needs to be \(H, W, 3\).*array \(3, 12, 16\).*transpose\(1, 2, 0\)"),
        (torch.from_numpy(RAMP), ValueError, r"needs to be \(3, H, W\).*tensor \(12, 16, 3\).*permute\(2, 0, 1\)"),
        (RAMP[None], ValueError, r"of a batch `list\(images\)`"),
        (RAMP[:0], ValueError, "One image needs to be"),
        (np.zeros((), np.uint8), ValueError, "One image needs to be"),
        (b"", ImageError, "an empty file"),
        (b"<html>", ImageError, "the image the 6 bytes"),
        ("no.png", FileNotFoundError, "There is no image file no.png"),
        ("file:///etc/hostname", ValueError, "only http:// and https://"),
        (3, TypeError, "needs to be a path, an http.* address.*: got int"),
        (None, TypeError, "got NoneType"),
        (Image.new("RGB", (0, 5)), ImageError, "0 x 5 pixels"),
    ],
)  # fmt: skip
def test_what_is_no_picture(source, kind, message):
    with pytest.raises(kind, match=message):
        read_source(source, SIZE)


def test_a_picture_too_large_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("evalib.data.decoding.MAX_PIXELS", 191)
    for source in (pil(), RAMP, png()):
        with pytest.raises(ImageError, match="16 x 12 pixels"):
            read_source(source, SIZE)


def test_sources_stay_as_they_are():
    array, tensor, image = RAMP.copy(), torch.from_numpy(RAMP.copy()).permute(2, 0, 1), pil()
    for source in (array, tensor, image):
        read_source(source, SIZE).zero_()
        read_source(source, Geometry()).zero_()
    assert (array == RAMP).all()
    assert (tensor.permute(1, 2, 0).numpy() == RAMP).all()
    assert (np.asarray(image) == RAMP).all()


def test_names(file):
    assert is_path("a.png")
    assert is_path(file)
    assert not any(map(is_path, ["http://a/b", RAMP, pil(), b""]))
    assert name_of("a\nb.png") == r"a\nb.png"
    assert name_of("https://host/a.png?secret") == "https://host/a.png?..."
    with Image.open(file) as opened:
        assert name_of(opened) == str(file)
    assert name_of(pil()) == "the PIL image"
    assert name_of(RAMP) == "the array (12, 16, 3)"
    stems = {
        "photos/my cat.jpg": "my_cat", "https://host/a%20b.png?x=/y.png": "a_b", "..": "image", "https://host": "image",
        "a/<img src=x>.png": "img_src_x", "x" * 200 + ".jpg": "x" * 80, "../../etc/passwd": "passwd",
        "https://host/..%2f..%2fetc/x.png": "x",
    }  # fmt: skip
    assert {source: stem_of(source) for source in stems} == stems
    assert stem_of(RAMP) == "the_array__12__16__3"
