"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class DamagedFileError(ValueError):
    """A file that is not what its writer wrote, or not what its name promises."""


def check_writable(folder: Path) -> Path:
    """Make `folder` and prove that it can be written, before any work is put into it.

    Raises:
        OSError: naming the folder and what to do.
    """
    probe = folder / f".write-test.{os.getpid()}.part"  # a killed process may leave it, as any part
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("evalib")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"Cannot write to {folder} ({error.strerror}). Choose another folder, or free space and rights there."
        ) from error
    return folder


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path, renamed to `path` when the block ends well.

    The temporary file lies in the same folder, has the same suffix, and is flushed to disk before the rename, the
    folder after it. After an exception it is removed and `path` is what it was.

    Args:
        path: the file.
        keep: a name for the file that was there, in the same folder. A process killed between the two renames leaves
            the older file under this name and none under `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make renames in `folder` outlast a power cut, where the system can: some (Windows, FUSE) cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_parts(folder: Path, in_use: Callable[[str, int], bool]) -> None:
    """Remove what killed writers left of `replacing`.

    Args:
        folder: where they wrote.
        in_use: whether a process, given by its id, may still be writing a file, given by its final name.
    """
    for part in folder.glob(".*.part*"):
        found = re.fullmatch(r"\.(.+)\.(\d+)\.part(\.[^.]*)?", part.name)
        if found and not in_use(found[1] + (found[3] or ""), int(found[2])):
            part.unlink(missing_ok=True)
