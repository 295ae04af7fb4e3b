"""MATLAB 5 files (MathWorks, "MAT-File Format", 2006, chapter 1): numbers, text, cells and structs.

scipy's reader ends the process on files that are damaged in certain ways; this one raises an error.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MOST_BYTES = 1 << 24  # unpacked; the largest file of Stanford Cars has some 3 million
MOST_DEPTH = 16  # of matrices in matrices; those of Stanford Cars have 2
_HEADER = 128
_CELL, _STRUCT, _TEXT = 1, 2, 4  # classes of matrices
_NUMBERS = range(6, 16)
# Kinds of elements
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}


def read_mat(path: Path, variable: str) -> np.ndarray:
    """One variable of a MATLAB 5 file, squeezed, of at least one dimension.

    A struct becomes an array with the fields' names, a cell array one of objects; in them text is a `str` and a single
    number an `int` or a `float`.

    Raises:
        ValueError: if there is none, or the file is damaged, another one, or far larger than annotations are.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES)
        order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(content[124:_HEADER])
        if order is None:
            raise ValueError("it is no MATLAB 5 file")
        return np.atleast_1d(dict(_variables(content[_HEADER:], order))[variable])
    except (ValueError, LookupError, struct.error, zlib.error) as error:
        raise ValueError(
            f"Cannot read `{variable}` in {path} ({error!r}): the file is damaged or another one. Get it again."
        ) from error


def _variables(content: bytes, order: str) -> Iterator[tuple[str, Any]]:
    left = MOST_BYTES
    for kind, element in _elements(content, order, padded=False):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            element = unpacker.decompress(element, left)
            if not unpacker.eof:
                raise ValueError("it is cut short, or too large")
            ((kind, element),) = _elements(element, order)
        left -= len(element)
        yield _matrix(kind, element, order, depth=1)


def _elements(content: bytes, order: str, padded: bool = True) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each element; within a matrix they are padded to 8 bytes."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start, length = at + 8, 8 + size + (-size % 8 if padded else 0)
        if kind >> 16:  # a small element: its size in the upper two bytes, its content in the next four
            kind, size, start, length = kind & 0xFFFF, kind >> 16, at + 4, 8
        if start + size > min(at + length, len(content)):
            raise ValueError("an element is cut short")
        yield kind, content[start : start + size]
        at += length


def _matrix(kind: int, content: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of a matrix: its elements are flags, dimensions, name, and what its class wants."""
    if kind != _MATRIX or depth > MOST_DEPTH:
        raise ValueError("its matrices lie too deep" if kind == _MATRIX else "a matrix is missing")
    if not content:
        return "", np.zeros((0, 0))
    (_, flags), (_, dimensions), (_, name), *parts = _elements(content, order)
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    if min(shape, default=-1) < 0:
        raise ValueError(f"it has a matrix of {shape}")
    matrix_class = flags[0 if order == "<" else 3]
    value: Any
    if matrix_class == _TEXT or matrix_class in _NUMBERS:
        ((kind, data),) = parts
        value = _text(kind, data, order, shape) if matrix_class == _TEXT else _numbers(kind, data, order, shape)
    elif matrix_class in (_CELL, _STRUCT):
        fields = _fields(parts.pop(0)[1], parts.pop(0)[1], order) if matrix_class == _STRUCT else []
        values = [_matrix(*part, order, depth + 1)[1] for part in parts]
        value = _table(values, math.prod(shape), fields).reshape(shape, order="F").squeeze()
    else:
        raise ValueError(f"it has a matrix of class {matrix_class}, which annotations do not need")
    return name.decode("latin-1"), value


def _text(kind: int, data: bytes, order: str, shape: tuple[int, ...]) -> str:
    if shape[0] > 1:
        raise ValueError("it has a text of several rows")
    encoding = _ENCODINGS[kind]
    return data.decode(encoding + {"<": "-le", ">": "-be"}[order] if encoding == "utf-16" else encoding)


def _numbers(kind: int, data: bytes, order: str, shape: tuple[int, ...]) -> Any:
    numbers = np.frombuffer(data, order + _TYPES[kind]).reshape(shape, order="F").squeeze()
    return numbers if numbers.ndim else numbers.item()


def _fields(length: bytes, names: bytes, order: str) -> list[str]:
    (width,) = struct.unpack(f"{order}i", length)
    if not 0 < len(names) <= 100 * width:
        raise ValueError("it has a struct of no fields, or of more than 100")
    return [names[at : at + width].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), width)]


def _table(values: list[Any], cells: int, fields: list[str]) -> np.ndarray:
    """The values as an array of objects, or with those fields, which they give cell by cell."""
    columns = len(fields) or 1
    if len(values) != cells * columns:
        raise ValueError(f"it has a matrix of {cells} cells with {len(values)} values")
    table = np.empty(cells, dtype=[(field, object) for field in fields] if fields else object)
    for index in range(cells):
        table[index] = tuple(values[index * columns :][:columns]) if fields else values[index]
    return table
