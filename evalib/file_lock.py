"""One process at a time at a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from evalib.progress import progress_bar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_one(path: Path, progress: bool | None = None) -> Iterator[None]:
    """Inside the block no other process, and no other thread, is in such a block of the same file.

    The file is made if it is not there; inside, it may be renamed or removed. A process that ends, however it does,
    leaves the block. Where files cannot be locked (Windows, some network drives) nobody waits.
    """
    while True:
        with path.open("ab") as file:
            if fcntl is not None:
                _wait_for_lock(file, f"waiting for another process: {path.name}", progress)
                if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    continue  # renamed or removed by the one that was waited for
                yield
                return
        yield  # Windows renames no file that is open
        return


def _wait_for_lock(file: BinaryIO, title: str, progress: bool | None) -> None:
    with suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress_bar(progress, desc=title, bar_format="{desc} {elapsed}"):
                fcntl.flock(file, fcntl.LOCK_EX)
