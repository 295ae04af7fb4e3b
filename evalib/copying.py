"""Copies that are compared with what they were made from, and calls that may never return."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from evalib.files import replacing

T = TypeVar("T")


def copy_verified(source: Path, target: Path, cancelled: threading.Event) -> None:
    """Copy one version of a file, whole or not at all; a file that is renamed over `source` meanwhile is the next one.

    Raises:
        OSError: if it cannot be read or written, the copy differs, or `cancelled` was set.
    """
    with replacing(target) as temporary, source.open("rb") as file, temporary.open("wb+") as copy:
        while block := file.read(1 << 20):
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
        file.seek(0)
        copy.seek(0)
        same = _equal(file, copy)
        if cancelled.is_set():
            raise TimeoutError(f"{source} was not copied in time")
        if not same:
            raise OSError(f"{target} came out different from what was written")


def same_content(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes; read only as far as they are equal."""
    with one.open("rb") as first, other.open("rb") as second:
        return _equal(first, second)


def _equal(first: BinaryIO, second: BinaryIO) -> bool:
    """Whether the same bytes follow in both files."""
    if hasattr(os, "posix_fadvise"):  # read from the medium where the system can: what is in memory proves little
        os.posix_fadvise(second.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    while True:
        block, other = first.read(1 << 20), second.read(1 << 20)
        if block != other or not block:
            return block == other


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises, waited for at most so many seconds.

    A call into a drive that is gone may never return, and no thread can be ended from outside: its own is left behind,
    and does not keep the interpreter from its end.

    Raises:
        TimeoutError: if it takes longer.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="evalib-within", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]
