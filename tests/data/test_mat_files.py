"""MATLAB files: scipy and MATLAB as the truth; what makes scipy crash, or fills the memory, is one clear error."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from evalib.data.mat_files import read_mat

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(dimensions: tuple[int, ...], *parts: bytes, kind: int = 1, name: bytes = b"") -> bytes:
    """A matrix by the description of the format; kind 1 holds matrices, 2 named ones, 6 numbers."""
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dimensions)}i", *dimensions))
    return element(14, head + element(1, name) + b"".join(parts))


ONE = matrix((1, 1), element(9, struct.pack("<d", 1.0)), kind=6)


def nested(depth: int, short: bool = False) -> bytes:
    """Cells in cells; `short` ones say that they end before what they hold."""
    inside = matrix((1, 1))[8:]
    heads, size = [], len(ONE)
    for _ in range(depth):
        size += len(inside)
        heads.append(struct.pack("<II", 14, len(inside) if short else size) + inside)
        size += 8
    return b"".join(reversed(heads)) + ONE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.mat"


@pytest.mark.parametrize("packed", [True, False])
def test_what_scipy_writes_is_read(packed: bool, path: Path) -> None:
    rows = np.zeros(3, dtype=[("fname", object), ("class", object)])
    for index in range(3):
        rows[index] = (f"{index}.jpg", index + 1)
    names = np.array(["Audi TT", "BMW Z4 \u00e9", ""], dtype=object)
    values: dict[str, Any] = {"rows": rows, "names": names, "number": 7, "text": "abc", "none": np.zeros((0, 3))}
    values["table"] = np.array([["a", "b", "c"], ["d", "e", "f"]], dtype=object)
    values["cube"] = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    scipy.io.savemat(path, values, do_compression=packed)
    theirs = scipy.io.loadmat(path, squeeze_me=True)
    for name in values:
        assert equal(read_mat(path, name), theirs[name]), name
    assert [str(name) for name in read_mat(path, "rows")["fname"]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert read_mat(path, "number").tolist() == [7]
    assert [type(value) for value in read_mat(path, "rows")[0]] == [str, int]


def test_an_empty_matrix_may_have_no_description(path: Path) -> None:
    """So MATLAB writes cells that nothing was put into."""
    path.write_bytes(HEADER + matrix((2, 1), element(14, b""), ONE, name=b"v"))
    empty, one = read_mat(path, "v")
    assert (empty.size, one) == (0, 1.0)


def equal(ours: Any, theirs: Any) -> bool:
    """Whether two nested values are the same; an empty text of ours is an empty array of theirs."""
    ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
    if theirs.size == 0:
        return ours.size == 0 or ours.tolist() == [""]
    if theirs.dtype.names:
        return theirs.dtype.names == ours.dtype.names and all(
            equal(ours[name], theirs[name]) for name in ours.dtype.names
        )
    if theirs.dtype != object:
        return bool(np.array_equal(ours, theirs))
    return ours.shape == theirs.shape and all(map(equal, ours.ravel(), theirs.ravel()))


def test_what_matlab_itself_wrote_is_read(path: Path) -> None:
    """Files of MATLAB 5.3 to 7.4, of small and of big endian machines, that come with scipy's own tests."""
    folder = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"
    kinds = ("double", "string", "onechar", "matrix", "minus", "cell", "cellnest", "emptycell", "unicode", "structarr")
    files = [file for kind in kinds for file in folder.glob(f"test{kind}_[567].*.mat")]
    if not files:
        pytest.skip("this scipy came without its tests")
    for file in files:
        theirs = scipy.io.loadmat(file, squeeze_me=True)
        (name,) = (name for name in theirs if not name.startswith("__"))
        assert equal(read_mat(file, name), theirs[name]), file.name
    assert len(files) > 30


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no MATLAB 5 file"),
        (b"<html>404</html>" * 20, "no MATLAB 5 file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "no MATLAB 5 file"),
        (HEADER, "KeyError"),
        (HEADER + nested(3)[:-20], "cut short"),
        (HEADER + nested(17), "too deep"),
        (HEADER + nested(30_000), "too deep"),
        (HEADER + nested(30_000, short=True), "cells with 0 values"),
        (HEADER + matrix((1 << 30, 1 << 30), element(9, bytes(8)), kind=6), "cannot reshape"),
        (HEADER + matrix((1 << 20, 1 << 8)), "a matrix of 268435456 cells with 0 values"),
        (HEADER + matrix((-1, -5)), r"a matrix of \(-1, -5\)"),
        (HEADER + matrix((-1, 1), element(9, bytes(8)), kind=6), r"a matrix of \(-1, 1\)"),
        (HEADER + matrix((2, 1), ONE), "2 cells with 1 values"),
        (HEADER + matrix((1, 1), ONE, ONE), "1 cells with 2 values"),
        (HEADER + matrix((1, 1), element(9, bytes(8))), "a matrix is missing"),
        (HEADER + matrix((1, 1), ONE, kind=3), "class 3"),
        (HEADER + matrix((2, 1), element(4, b"a\0b\0"), kind=4), "several rows"),
        (HEADER + matrix((1, 1), element(16, b"\xff"), kind=4), "utf-8"),
        (HEADER + matrix((1 << 30, 1 << 30), element(5, struct.pack("<i", 9)), element(1, b""), kind=2), "no fields"),
        (HEADER + matrix((1, 1), element(5, struct.pack("<i", 1)), element(1, b"a" * 101), kind=2), "more than 100"),
        (HEADER + matrix((1, 1), element(5, struct.pack("<i", 0)), element(1, b"a"), kind=2), "no fields"),
        (HEADER + matrix((1, 1), element(99, bytes(8)), kind=6), "KeyError"),
        (HEADER + element(9, bytes(8)), "a matrix is missing"),
        (HEADER + struct.pack("<II", 14, 0xFFFFFFFF) + b"x" * 99, "cut short"),
        (HEADER + struct.pack("<II", 15, 9) + zlib.compress(nested(2))[:9], "cut short, or too large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_and_hostile_files_are_one_clear_error(content: bytes, reason: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read `v` in .*file\.mat \(.*\): the file is damaged") as caught:
        read_mat(path, "v")
    assert re.search(reason, str(caught.value))


@pytest.mark.skipif(sys.platform == "win32", reason="ends by a signal")
def test_the_attack_is_a_real_one(path: Path) -> None:
    """scipy alone ends the process."""
    path.write_bytes(HEADER + nested(60_000))
    code = "import sys, scipy.io; scipy.io.loadmat(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    if done.returncode >= 0:
        pytest.skip("this scipy survives it")
    with pytest.raises(ValueError, match="too deep"):
        read_mat(path, "v")


def test_a_bomb_is_not_unpacked(path: Path) -> None:
    """20 MB of zeros in 20 kB; in one piece, in two, and in eight, of which one alone would do."""
    for count in (1, 2, 8):
        numbers = matrix((1, 2_500_000 // count), element(9, bytes(20_000_000 // count)), kind=6, name=b"v")
        packed = zlib.compress(numbers)
        path.write_bytes(HEADER + (struct.pack("<II", 15, len(packed)) + packed) * count)
        with pytest.raises(ValueError, match="too large"):
            read_mat(path, "v")


def test_damage_at_random_is_a_value_or_a_value_error(path: Path) -> None:
    """300 files with one to six bytes changed; a crash would end this process."""
    rows = np.zeros(4, dtype=[("fname", object), ("class", object)])
    for index in range(4):
        rows[index] = (f"{index}.jpg", index + 1)
    scipy.io.savemat(path, {"v": rows})
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(116, len(content))] = rng.choice([0, 1, 14, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(content)
        try:
            assert read_mat(path, "v").ndim >= 1
        except ValueError:
            refused += 1
    assert 50 < refused < 300
