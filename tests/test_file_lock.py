"""One at a time at a file: threads here; processes that download, and are killed, in test_download."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from evalib import file_lock as module
from evalib.file_lock import only_one


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
@pytest.mark.parametrize("end", ["stay", "rename", "remove", "raise"])
def test_one_at_a_time(end: str, tmp_path: Path) -> None:
    """Whatever the holder does with the file, the next one gets in when it is out, and only one of them."""
    path, inside, most, entered = tmp_path / "file.part", [], [], []

    def work() -> None:
        try:
            with only_one(path, progress=False):
                inside.append(1)
                most.append(len(inside))
                entered.append(path.exists())
                time.sleep(0.01)
                inside.pop()
                if end == "rename":
                    os.replace(path, tmp_path / "file")
                elif end == "remove":
                    path.unlink()
                elif end == "raise":
                    raise KeyError
        except KeyError:
            pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 8
    assert entered == [True] * 8


def test_who_waits_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, thread_inside = tmp_path / "file.part", threading.Event()

    def hold() -> None:
        with only_one(path):
            thread_inside.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    thread_inside.wait(10)
    with only_one(path, progress=True):
        pass
    thread.join()
    told = capsys.readouterr().err
    assert ("waiting for another process: file.part" in told) is (sys.platform != "win32")


def test_a_disk_without_locks_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if module.fcntl is not None:
        monkeypatch.setattr(module.fcntl, "flock", refuse)
    with only_one(tmp_path / "file.part"), only_one(tmp_path / "file.part"):
        pass


def test_without_locks_the_file_is_not_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    with only_one(tmp_path / "file.part"):
        assert os.listdir(tmp_path) == ["file.part"]
        assert not Path("/proc/self/fd").exists() or str(tmp_path / "file.part") not in open_files()


def open_files() -> set[str]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
    return found
