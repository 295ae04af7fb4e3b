"""One run directory, one writer: a lock that a dead process cannot hold."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock.

    Attributes:
        pid: its id, which the system gives to another process some time after its end.
        start: when it started, in the system's own words; tells it from such another process.
        host: the machine's name.
        since: when it took the lock, for people.
    """

    pid: int
    start: str
    host: str
    since: str

    @classmethod
    def this_process(cls) -> Owner:
        """This process, as an owner from now on."""
        return cls(os.getpid(), start_of(os.getpid()) or "", platform.node(), time.strftime("%Y-%m-%d %H:%M:%S"))

    def is_alive(self) -> bool:
        """Whether that process still runs; only for owners of this machine."""
        return start_of(self.pid) == self.start


class RunLock:
    """A file that names the process which uses a folder.

    A lock of the operating system would be inherited by the workers that the process forks, and held by them. So the
    file itself is the lock, and the system's is held only while the file is read and written.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mine: Owner | None = None

    @property
    def held(self) -> bool:
        """Whether this process has taken the lock and not given it back."""
        return self._mine is not None and self._mine.pid == os.getpid()

    def acquire(self) -> None:
        """Take the lock, also from an owner that is dead.

        Raises:
            OSError: if a process that runs holds it, or one on another machine, of which that cannot be seen.
        """
        with self._opened() as file:
            owner, me = _read(file), Owner.this_process()
            if owner is not None and owner.host != me.host:
                raise OSError(
                    f"{self.path.parent} is in use by process {owner.pid} on {owner.host} since {owner.since}, which "
                    f"cannot be seen from here. If it has ended delete {self.path}, else choose another run directory."
                )
            if owner is not None and owner.is_alive():
                who = "this process (another call of `fit`)" if owner.pid == me.pid else f"process {owner.pid}"
                raise OSError(
                    f"{self.path.parent} is in use by {who} since {owner.since}. Wait for it, or choose another run "
                    f"directory. (If that is wrong delete {self.path}.)"
                )
            file.seek(0)
            file.truncate()
            file.write(json.dumps(asdict(me)))
            self._mine = me

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held, or was taken away by hand."""
        held, mine, self._mine = self.held, self._mine, None
        if not held or not self.path.exists():
            return
        with contextlib.suppress(OSError), self._opened() as file:
            if _read(file) == mine:
                self.path.unlink()

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        """The file, while no other process has it open here."""
        while True:
            with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
                _lock(file)
                if _is_at(file, self.path):
                    yield file
                    return


def _lock(file: IO[str]) -> None:
    """Hold the file until it is closed; where the system or the drive has no such locks the PID has to do alone."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)  # unlike flock's, not inherited by a fork


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the file still has that path: its owner may have removed it while this process waited."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _read(file: IO[str]) -> Owner | None:
    """Who stands in the file; None for a new one, or one that a crash left without sense."""
    try:
        return Owner(**json.load(file))
    except (ValueError, TypeError):
        return None


def start_of(pid: int) -> str | None:
    """When a process of this machine started, in the system's own words; None if there is none of that id."""
    try:
        # its name, in brackets, may hold anything; field 3 is the state, field 22 the start in ticks
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if os.path.exists("/proc/self/stat"):
            return None
    if os.name == "nt":
        return ""  # cannot tell, so every process counts as the same
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip() or None
