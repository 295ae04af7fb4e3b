"""Bad images for the tests of the loader: every kind of damage to valid files of every format, and hostile files.

Plain bytes, made from a seed alone; the tests of this folder take a few hundred, `python -m tests.torture` thousands.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from PIL import Image

MAGIC = {
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "bmp": b"BM",
    "webp": b"RIFF\x00\x10\x00\x00WEBPVP8 ",
    "webp_lossless": b"RIFF\x00\x10\x00\x00WEBPVP8L",
    "tiff_little": b"II*\x00\x08\x00\x00\x00",
    "tiff_big": b"MM\x00*\x00\x00\x00\x08",
    "bigtiff": b"II+\x00\x08\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "jpeg2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "ppm": b"P6 9 9 255\n",
    "ico": b"\x00\x00\x01\x00\x01\x00",
    "psd": b"8BPS\x00\x01",
    "avif": b"\x00\x00\x00\x1cftypavif",
    "zip": b"PK\x03\x04",
    "gzip": b"\x1f\x8b\x08\x00",
}


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file, with its length and its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """The first bytes of a PNG file that says to be of that size; color 0 gray, 2 RGB, 3 palette, 4 LA, 6 RGBA."""
    return MAGIC["png"] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))


@lru_cache(maxsize=1)
def valid_files() -> dict[str, bytes]:
    """A small valid file of each kind, by name."""
    generator = random.Random(0)
    width, height = 23, 17
    noise = Image.frombytes("RGB", (width, height), generator.randbytes(3 * width * height)).resize((46, 34))
    clear = noise.copy()
    clear.putalpha(noise.convert("L"))
    deep = Image.frombytes("I;16", (width, height), generator.randbytes(2 * width * height))
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a description " * 4
    turned = {"exif": exif.tobytes()}

    def frames() -> dict[str, object]:  # new ones each time: saving leaves settings in an image
        return {"save_all": True, "append_images": [noise.rotate(90 * turn) for turn in (1, 2, 3)]}

    made: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "baseline.jpg": (noise, "JPEG", {"quality": 80, **turned}),
        "progressive.jpg": (noise, "JPEG", {"progressive": True, "optimize": True}),
        "restarts.jpg": (noise, "JPEG", {"restart_marker_blocks": 2}),
        "gray.jpg": (noise.convert("L"), "JPEG", {}),
        "cmyk.jpg": (noise.convert("CMYK"), "JPEG", {}),
        "two.mpo": (noise, "MPO", frames()),
        "rgb.png": (noise, "PNG", turned),
        "rgba.png": (clear, "PNG", {}),
        "gray_alpha.png": (clear.convert("LA"), "PNG", {}),
        "palette.png": (noise.quantize(16), "PNG", {"transparency": b"\x00\x80\xff"}),
        "one_bit.png": (noise.convert("1"), "PNG", {}),
        "deep.png": (deep, "PNG", {}),
        "animated.png": (noise, "PNG", frames()),
        "animated.gif": (noise.quantize(16), "GIF", {**frames(), "transparency": 3}),
        "rgb.bmp": (noise, "BMP", {}),
        "palette.bmp": (noise.quantize(16), "BMP", {}),
        "lossy.webp": (noise, "WEBP", {"quality": 70, **turned}),
        "lossless.webp": (clear, "WEBP", {"lossless": True}),
        "animated.webp": (clear, "WEBP", frames()),
        "raw.tif": (noise, "TIFF", {}),
        "lzw.tif": (noise, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (clear, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (noise, "TIFF", {"compression": "jpeg"}),
        "packbits.tif": (noise.convert("CMYK"), "TIFF", {"compression": "packbits"}),
        "group4.tif": (noise.convert("1"), "TIFF", {"compression": "group4"}),
        "deep.tif": (deep, "TIFF", {}),
        "float.tif": (noise.convert("F"), "TIFF", {}),
        "lab.tif": (Image.frombytes("LAB", (width, height), generator.randbytes(3 * width * height)), "TIFF", {}),
        "pages.tif": (noise, "TIFF", frames()),
    }
    files = {}
    for name, (image, kind, options) in made.items():
        file = io.BytesIO()
        image.copy().save(file, kind, **options)
        files[name] = file.getvalue()
    files["run_length.bmp"] = _run_length_bmp(16, 8, b"\x10\x07\x00\x00" * 8 + b"\x00\x01")
    return files


@lru_cache(maxsize=1)
def bombs() -> dict[str, bytes]:
    """Files of a few bytes, or a few thousand, that ask for much memory or time."""
    zeros = zlib.compress(bytes(40_000_000), 9)
    text, profile = b"Comment\x00\x00" + zeros, b"profile\x00\x00" + zeros
    pixel = png_chunk(b"IDAT", zlib.compress(bytes(4))) + png_chunk(b"IEND", b"")
    strip = zlib.compress(bytes(4_000_000), 9)
    return {
        "size.png": png_header(30_000, 30_000) + png_chunk(b"IDAT", strip) + png_chunk(b"IEND", b""),
        "largest.png": png_header(2**31 - 1, 2**31 - 1) + pixel,
        "long.png": png_header(80_000_000, 1, color=6) + png_chunk(b"IDAT", strip) + png_chunk(b"IEND", b""),
        "no_size.png": png_header(0, 0) + pixel,
        "text.png": png_header(1, 1) + png_chunk(b"zTXt", text) + pixel,
        "texts.png": png_header(1, 1) + 50 * png_chunk(b"zTXt", b"C\x00\x00" + zlib.compress(bytes(900_000))) + pixel,
        "profile.png": png_header(1, 1) + png_chunk(b"iCCP", profile) + pixel,
        "pixels.png": png_header(1, 1) + png_chunk(b"IDAT", zeros) + png_chunk(b"IEND", b""),
        "chunk.png": MAGIC["png"] + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(40),
        "size.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x00;",
        "size.bmp": _bmp(30_000, 30_000, 24, 0, b""),
        "negative.bmp": _bmp(-5, -(2**31), 24, 0, b""),
        "run_length.bmp": _run_length_bmp(9000, 9000, b"\x01\x00\x00\x00" * 9000),
        "size.jpg": _jpeg(65500, 65500, progressive=False),
        "progressive.jpg": _jpeg(65500, 65500, progressive=True),
        "scans.jpg": _many_scans(3000),
        "size.webp": b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(5),
        "size.tif": _tiff({256: 100_000, 257: 100_000, 258: 8, 259: 1, 262: 1, 273: 8, 278: 100_000, 279: 10**9}),
        "tile.tif": _tiff({256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 322: 65520, 323: 65520, 324: 8, 325: 99}),
        "tile_of_2_gb.tif": _tiff(
            {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 322: 46336, 323: 46336, 324: 300, 325: 99}
        ),
        "counts.tif": _tiff({256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 273: 8, 278: 16, 279: 2**32 - 1}),
        "samples.tif": _tiff({256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 65535, 278: 16, 279: 256}),
        "directory.tif": b"II*\x00\x08\x00\x00\x00" + b"\xff\xff" + struct.pack("<HHII", 270, 2, 2**32 - 1, 8) * 5000,
    }


def _bmp(width: int, height: int, bits: int, compression: int, pixels: bytes) -> bytes:
    palette = bytes(1024) if bits == 8 else b""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + palette + pixels


def _run_length_bmp(width: int, height: int, commands: bytes) -> bytes:
    return _bmp(width, height, 8, 1, commands)


def _jpeg(width: int, height: int, *, progressive: bool) -> bytes:
    """A valid small JPEG whose header says another size."""
    content = bytearray(valid_files()["progressive.jpg" if progressive else "gray.jpg"])
    frame = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def _many_scans(count: int) -> bytes:
    """A progressive JPEG of 89 million pixels whose last scan comes again and again."""
    content = _jpeg(9000, 9900, progressive=True)
    return content[:-2] + count * content[content.rindex(b"\xff\xda") : -2] + b"\xff\xd9"


def _tiff(tags: dict[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(tags)) + entries + bytes(4) + bytes(300)


# --- damage: each takes a valid file and its source of random numbers ------------------------------


def _truncated(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def _bits_flipped(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8, 64))):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _head_damaged(content: bytes, generator: random.Random) -> bytes:
    """Most of what a parser believes stands in the first bytes; in a TIFF in the last."""
    changed, near = bytearray(content), min(120, len(content))
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(near)
        place = len(changed) - 1 - place if generator.random() < 0.3 else place
        changed[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
    return bytes(changed)


def _part_replaced(content: bytes, generator: random.Random) -> bytes:
    first, last = sorted(generator.randrange(len(content) + 1) for _ in range(2))
    kind = generator.choice(("zeros", "ones", "noise", "twice", "removed"))
    length = last - first
    middle = {
        "zeros": bytes(length),
        "ones": b"\xff" * length,
        "noise": generator.randbytes(length),
        "twice": content[first:last] * 2,
        "removed": b"",
    }[kind]
    return content[:first] + middle + content[last:]


def _parts_swapped(content: bytes, generator: random.Random) -> bytes:
    cuts = sorted(generator.randrange(len(content) + 1) for _ in range(3))
    return content[: cuts[0]] + content[cuts[1] : cuts[2]] + content[cuts[0] : cuts[1]] + content[cuts[2] :]


def _spliced(content: bytes, generator: random.Random) -> bytes:
    other = generator.choice(list(valid_files().values()))
    return content[: generator.randrange(len(content))] + other[generator.randrange(len(other)) :]


def _chunks_changed(content: bytes, generator: random.Random) -> bytes:
    """The chunks of a PNG in another order, or with other content and the checksum made right again."""
    if not content.startswith(MAGIC["png"]):
        return _parts_swapped(content, generator)
    chunks, place = [], 8
    while place + 12 <= len(content):
        length = struct.unpack(">I", content[place : place + 4])[0]
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if generator.random() < 0.3:
        generator.shuffle(chunks)
    else:
        index = generator.randrange(len(chunks))
        kind, inside = chunks[index]
        chunks[index] = kind, (_bits_flipped(inside, generator) if inside else generator.randbytes(9))
    return MAGIC["png"] + b"".join(png_chunk(kind, inside) for kind, inside in chunks)


def _magic_and_noise(content: bytes, generator: random.Random) -> bytes:
    return generator.choice(list(MAGIC.values())) + generator.randbytes(generator.choice((0, 3, 30, 300, 3000)))


def _noise(content: bytes, generator: random.Random) -> bytes:
    return generator.randbytes(generator.choice((0, 1, 2, 16, 100, 5000)))


def _text(content: bytes, generator: random.Random) -> bytes:
    pages = (b"<!DOCTYPE html><html><body>404</body></html>", b'{"error": "quota"}', b"\xef\xbb\xbfGIF", b"\n" * 999)
    return generator.choice(pages)


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _truncated, _bits_flipped, _head_damaged, _part_replaced, _parts_swapped, _spliced, _chunks_changed,
    _magic_and_noise, _noise, _text,
)  # fmt: skip


def generate(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Bad images, as (what was done to what, the bytes): the bombs first, then damage of every kind in turn.

    Some of the damaged ones are still images (one bit of a pixel, say): a loader may return their pixels.

    Args:
        seed: the same seed gives the same files.
        count: how many.
    """
    generator, made = random.Random(seed), 0
    for name, content in bombs().items():
        if made < count:
            yield f"bomb {name}", content
            made += 1
    names = list(valid_files())
    while made < count:
        damage = _DAMAGES[made % len(_DAMAGES)]
        name = generator.choice(names)
        label = f"{made}: {damage.__name__.strip('_').replace('_', ' ')}, {name}"
        yield label, damage(valid_files()[name], generator)
        made += 1
