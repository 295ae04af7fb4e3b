"""A second place for a run, as a mounted drive: its files copied there in the background, and brought back from it."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from pathlib import Path

from evalib.copying import copy_verified, same_content, within
from evalib.files import replacing

CHECKPOINTS = ("last.pt", "previous.pt")
RUN_ID = "run.id"  # names one run, in its directory and in its mirror: two runs never share a mirror


class Mirror:
    """Copies files of a run directory to another folder, in one background thread; for one run of training.

    Nothing that happens there reaches the training: failures are tried again and told by `close`. A file in the mirror
    is always a whole one: it is written under a temporary name, flushed, read back, compared, and renamed. Of the
    folder of the mirror only the last part is made, the rest may be a drive that is not mounted yet.

    Args:
        source_dir: the run directory.
        mirror_dir: where the copies go.
        attempts: how often a copy is tried before the mirror counts as gone; then every later copy is tried once, and
            after the first that goes well all that were missed follow.
        first_wait: seconds before the second try; each later wait is twice as long.

    Raises:
        ValueError: if both are the same folder.
    """

    def __init__(
        self, source_dir: str | Path, mirror_dir: str | Path, *, attempts: int = 5, first_wait: float = 1.0
    ) -> None:
        self.source_dir, self.mirror_dir = Path(source_dir), Path(mirror_dir)
        if os.path.abspath(source_dir) == os.path.abspath(mirror_dir):
            raise ValueError(f"`mirror_dir` must be another folder than the run directory: both are {mirror_dir}.")
        self._attempts, self._first_wait = attempts, first_wait
        self._change = threading.Condition()  # guards all below
        self._thread: threading.Thread | None = None
        self._closing, self._cancelled = False, threading.Event()
        self._waiting: dict[str, None] = {}  # names to copy, in their order
        self._missed: dict[str, None] = {}  # names whose tries ran out
        self._done: dict[str, str] = {}  # names that were copied and when, the newest last
        self._under_way: tuple[str, str] | None = None  # a name and since when
        self._copied, self._failed, self._failed_in_a_row, self._not_before = 0, 0, 0, 0.0
        self._error = ""

    def copy(self, *names: str) -> None:
        """Have files of the run directory copied in their newest state, soon; returns at once."""
        with self._change:
            if self._closing:
                return
            self._waiting.update(dict.fromkeys(names))
            if self._thread is None:
                # A daemon: a write that never returns must not keep the interpreter from its end.
                self._thread = threading.Thread(target=self._work, name="evalib-mirror", daemon=True)
                self._thread.start()
            self._change.notify_all()

    @property
    def problem(self) -> str:
        """Why the last try failed; empty if it did not."""
        with self._change:
            return self._error if self._failed_in_a_row else ""

    def close(self, seconds: float = 60.0) -> list[str]:
        """End it after a last look at all files, waiting for at most `seconds`; the lines that a person should read.

        None if every file is there in its newest state and no copy failed.
        """
        with self._change:
            if not self._closing:
                self._closing, self._not_before = True, 0.0
                # Those that were copied are compared once more: a drive may have lost or changed them since.
                self._waiting = dict.fromkeys([*self._done, *self._missed, *self._waiting])
                self._failed -= len(self._missed)  # they have another try
                self._missed.clear()
                self._change.notify_all()
            self._change.wait_for(lambda: self._thread is None, seconds)
            self._cancelled.set()  # what is late must not overwrite what another Mirror copies afterwards
            return self._notes()

    def _notes(self) -> list[str]:
        under_way = [self._under_way[0]] if self._under_way else []
        lacking = ", ".join(dict.fromkeys([*under_way, *self._waiting, *self._missed]))
        failed = f"{self._failed} of {self._copied + self._failed} copies to {self.mirror_dir} failed"
        if not lacking:
            return [f"{failed} for a while ({self._error}); it has all files now."] if self._failed else []
        reason = self._error
        if self._under_way:
            reason = f"one of {self._under_way[0]} is under way since {self._under_way[1]} and does not end"
        last = [f"; last copied: {name} at {when}" for name, when in self._done.items()][-1:]
        return [
            f"{failed}: {reason}. It lacks the newest {lacking}; the run is whole in {self.source_dir}{''.join(last)}."
        ]

    def _work(self) -> None:
        while (name := self._next()) is not None:
            try:
                copied = self._bring(name)
            except Exception as error:  # whatever it is, it must end neither this thread nor the training
                self._note_failure(name, error)
            else:
                self._note_success(name, copied)

    def _next(self) -> str | None:
        """The next file to look at, waited for; None at the end."""
        with self._change:
            self._under_way = None
            while not self._cancelled.is_set():
                wait = self._not_before - time.monotonic()
                if self._waiting and wait <= 0:
                    name = next(iter(self._waiting))
                    del self._waiting[name]
                    self._under_way = name, time.strftime("%H:%M")
                    return name
                if self._closing and not self._waiting:
                    break
                self._change.wait(wait if self._waiting else None)
            self._thread = None
            self._change.notify_all()
            return None

    def _bring(self, name: str) -> bool:
        """Make the copy of one file the same as the file; False if it was already."""
        _claim(self.source_dir, self.mirror_dir, self._cancelled)
        source, copy = self.source_dir / name, self.mirror_dir / name
        # A file that is missing is being renamed: the run asks again as soon as the next one is there.
        if not source.exists() or (copy.exists() and same_content(source, copy)):
            return False
        copy_verified(source, copy, self._cancelled)
        return True

    def _note_failure(self, name: str, error: Exception) -> None:
        with self._change:
            self._error = str(error) or type(error).__name__
            self._failed_in_a_row += 1
            if self._failed_in_a_row < self._attempts:
                self._waiting = {name: None, **self._waiting}
                self._not_before = time.monotonic() + self._first_wait * 2 ** (self._failed_in_a_row - 1)
            else:
                self._failed += 1
                self._missed[name] = None

    def _note_success(self, name: str, copied: bool) -> None:
        with self._change:
            self._failed_in_a_row, self._not_before = 0, 0.0
            self._copied += copied
            self._done.pop(name, None)
            self._done[name] = time.strftime("%H:%M")
            self._missed.pop(name, None)
            self._waiting.update(self._missed)
            self._missed.clear()


def restore(mirror_dir: str | Path, source_dir: str | Path, *, seconds: float = 300.0) -> list[str]:
    """Bring the files of a run back from its mirror if the run directory has no checkpoint; files there stay.

    Args:
        mirror_dir: where a `Mirror` copied to, or a copy of a run directory made by hand.
        source_dir: the run directory.
        seconds: how long the mirror may take.

    Returns:
        The names of the files that were copied; none if the run directory has a checkpoint, or the mirror has none.

    Raises:
        ValueError: if the mirror holds another run, or the same one further on.
        OSError: if the run directory has no checkpoint and the mirror cannot be read, so that a run that may be there
            is not begun anew.
    """
    mirror, source, cancelled = Path(mirror_dir), Path(source_dir), threading.Event()
    needed = not _files(source).intersection(CHECKPOINTS)
    try:
        return within(seconds, lambda: _restore(mirror, source, cancelled))
    except OSError as error:
        if not needed:
            return []
        raise OSError(
            f"Whether {mirror} holds a copy of this run cannot be seen ({error}). Mount or repair it, then repeat the "
            "call; or choose another `mirror_dir`, or none, to begin anew."
        ) from error
    finally:
        cancelled.set()


def _restore(mirror: Path, source: Path, cancelled: threading.Event) -> list[str]:
    there, here = _files(mirror), _files(source)
    if not there.intersection(CHECKPOINTS):
        return []
    if here.intersection(CHECKPOINTS) or RUN_ID in there & here:
        _check_same_run(source, mirror)
    if here.intersection(CHECKPOINTS):
        return []
    if RUN_ID not in there:  # copied by hand: from now on it is this run's mirror
        _make_run_id(source)
        copy_verified(source / RUN_ID, mirror / RUN_ID, cancelled)
    # Checkpoints come last: after a call that was broken off there is none, and the next one brings all.
    checkpoints = [name for name in CHECKPOINTS if name in there]
    names = sorted(name for name in there - here - set(CHECKPOINTS) if not name.startswith("."))
    for name in [*names, *checkpoints]:
        copy_verified(mirror / name, source / name, cancelled)
    return [*names, *checkpoints]


def _claim(source: Path, mirror: Path, cancelled: threading.Event) -> None:
    """Make the mirror this run's if it is nobody's, and remove what a killed copy left; ValueError if another's."""
    if not mirror.parent.is_dir():
        raise FileNotFoundError(f"its folder {mirror.parent} is not there: mount the drive, or make that folder")
    mirror.mkdir(exist_ok=True)
    for left in mirror.glob(".*.part*"):
        left.unlink()
    if not (source / RUN_ID).exists():
        _make_run_id(source)
    if not _files(mirror).intersection((*CHECKPOINTS, RUN_ID)):
        copy_verified(source / RUN_ID, mirror / RUN_ID, cancelled)
    _check_same_run(source, mirror)


def _check_same_run(source: Path, mirror: Path) -> None:
    if _run_id(source) != _run_id(mirror) or not _run_id(mirror):
        raise ValueError(
            f"{mirror} holds another run than {source}. Choose another `mirror_dir`; or an empty run directory, to "
            "continue the run that is there."
        )
    if (there := _epochs(mirror)) > (here := _epochs(source)):
        raise ValueError(
            f"{mirror} holds this run after epoch {there}, {source} after epoch {here}. Choose an empty run directory, "
            "to continue from there, or another `mirror_dir`."
        )


def _run_id(folder: Path) -> bytes:
    return (folder / RUN_ID).read_bytes() if (folder / RUN_ID).exists() else b""


def _make_run_id(folder: Path) -> None:
    with replacing(folder / RUN_ID) as temporary:
        temporary.write_text(secrets.token_hex(16) + "\n")


def _epochs(folder: Path) -> int:
    """The number of epochs in the history there; 0 if there is none that can be read."""
    try:
        return len(json.loads((folder / "history.json").read_bytes())["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _files(folder: Path) -> set[str]:
    """The names of the files in a folder; none if it is not there."""
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
