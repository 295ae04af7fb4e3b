"""Copies of one version each, and calls that do not come back."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from evalib.copying import copy_verified, same_content, within

BLOCK = 1 << 20
CONTENT = os.urandom(2 * BLOCK + 17)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "here" / "last.pt"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "there" / "last.pt"
    path.parent.mkdir()
    path.write_bytes(b"older")
    return path


@pytest.mark.parametrize("content", [b"", b"x", CONTENT, CONTENT[:BLOCK]])
def test_a_copy_has_the_same_bytes(content: bytes, source: Path, target: Path) -> None:
    source.write_bytes(content)
    copy_verified(source, target, threading.Event())
    assert target.read_bytes() == content
    assert os.listdir(target.parent) == ["last.pt"]


def test_what_is_renamed_over_the_file_meanwhile_is_not_mixed_in(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second version comes after the first block was read."""
    newer = source.with_name("newer")
    newer.write_bytes(b"n" * len(CONTENT))
    real = Path.open

    class Reader:
        def __init__(self, file: object) -> None:
            self.file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def __enter__(self) -> Reader:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def read(self, size: int) -> bytes:
            block = self.file.read(size)  # type: ignore[attr-defined]
            if newer.exists():
                os.replace(newer, source)
            return block

    def opened(self: Path, mode: str = "r") -> object:
        file = real(self, mode)
        return Reader(file) if self == source else file

    monkeypatch.setattr(Path, "open", opened)
    copy_verified(source, target, threading.Event())
    monkeypatch.undo()
    assert source.read_bytes() == b"n" * len(CONTENT)
    assert target.read_bytes() == CONTENT


def test_a_copy_that_was_changed_on_its_way_is_refused(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def flip(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(CONTENT):
            os.pwrite(descriptor, bytes([CONTENT[BLOCK + 5] ^ 1]), BLOCK + 5)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(OSError, match=r"last\.pt came out different from what was written"):
        copy_verified(source, target, threading.Event())
    assert target.read_bytes() == b"older"
    assert os.listdir(target.parent) == ["last.pt"]


def test_a_copy_that_came_out_short_is_refused(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def cut(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(CONTENT):
            os.ftruncate(descriptor, 2 * BLOCK)  # to the end of a block
        real(descriptor)

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(OSError, match="came out different"):
        copy_verified(source, target, threading.Event())
    assert target.read_bytes() == b"older"


def test_a_cancelled_copy_changes_nothing(source: Path, target: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(TimeoutError, match="in time"):
        copy_verified(source, target, cancelled)
    assert target.read_bytes() == b"older"
    assert os.listdir(target.parent) == ["last.pt"]


def test_a_copy_cancelled_at_its_end_is_not_renamed(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled, real = threading.Event(), os.fsync

    def late(descriptor: int) -> None:
        cancelled.set()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(TimeoutError, match=r"last\.pt was not copied in time"):
        copy_verified(source, target, cancelled)
    assert target.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (CONTENT, CONTENT, True),
        (b"", b"", True),
        (CONTENT, CONTENT[:-1], False),
        (CONTENT[: 2 * BLOCK], CONTENT[:BLOCK], False),
        (CONTENT, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), False),
        (b"", b"x", False),
    ],
)
def test_same_content(one: bytes, other: bytes, same: bool, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(one)
    (tmp_path / "other").write_bytes(other)
    assert same_content(tmp_path / "one", tmp_path / "other") is same
    assert same_content(tmp_path / "other", tmp_path / "one") is same


def test_within_gives_back_what_the_work_gives_or_raises() -> None:
    assert within(10, lambda: 7) == 7
    assert within(10, lambda: None) is None

    def fail() -> None:
        raise OSError(errno.ENOTCONN, "gone")

    with pytest.raises(OSError, match="gone"):
        within(10, fail)


def test_within_does_not_wait_for_ever() -> None:
    released, began = threading.Event(), time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        within(0.1, released.wait)
    assert time.monotonic() - began < 5
    released.set()
