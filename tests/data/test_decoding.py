"""Decoding against Pillow's own values and the exact resize; folders and modes are in test_folder."""

import io

import numpy as np
import pytest
from PIL import Image

from evalib.data.decoding import decode_image
from evalib.transforms import Geometry

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
