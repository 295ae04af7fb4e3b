"""One writer to a run directory, whatever became of the one before."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalib import run_lock
from evalib.run_lock import RunLock, start_of

# torch's own threads hold nothing that these children need
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")

HOLD = """
import sys, time
from pathlib import Path
from evalib.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.lock"


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def written(path, **changes):
    """The lock of this process, as a file with some changes."""
    lock = RunLock(path)
    lock.acquire()
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_lock_is_there_while_it_is_held(path):
    lock = RunLock(path)
    for _ in range(2):
        assert not lock.held
        lock.acquire()
        assert lock.held
        assert json.loads(path.read_text())["pid"] == os.getpid()
        lock.release()
        assert not path.exists()
    lock.release()


def test_this_process_cannot_hold_it_twice(path):
    RunLock(path).acquire()
    other = RunLock(path)
    with pytest.raises(OSError, match=r"in use by this process \(another call of `fit`\) since 20\d\d-.*Wait for it"):
        other.acquire()
    other.release()
    assert path.exists()


def test_a_live_process_keeps_it_and_a_killed_one_does_not(path, holder):
    lock = RunLock(path)
    with pytest.raises(OSError, match=rf"{path.parent} is in use by process {holder.pid} since 20.*run.lock"):
        lock.acquire()
    assert json.loads(path.read_text())["pid"] == holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    for _ in range(1000):  # until it is a zombie, which nobody has waited for
        if start_of(holder.pid) is not None:
            time.sleep(0.01)
    lock.acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_process_that_was_given_the_same_id_is_another_one(path, holder):
    path.write_text(json.dumps({**json.loads(path.read_text()), "start": "7"}))
    lock = RunLock(path)
    lock.acquire()
    assert lock.held
    assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}', "\0" * 100])
def test_a_file_without_sense_holds_nobody_off(path, content):
    path.write_text(content)
    RunLock(path).acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_another_machine_cannot_be_looked_at(path):
    written(path, host="elsewhere", pid=77)
    with pytest.raises(OSError, match=rf"by process 77 on elsewhere since .* If it has ended delete {path}"):
        RunLock(path).acquire()
    path.unlink()
    RunLock(path).acquire()


def test_a_lock_that_was_taken_away_by_hand_is_not_given_back(path):
    lock = RunLock(path)
    lock.acquire()
    written_by_another = {**json.loads(path.read_text()), "pid": 77}
    path.write_text(json.dumps(written_by_another))
    lock.release()
    assert json.loads(path.read_text()) == written_by_another
    lock.acquire()
    path.unlink()
    lock.release()


def fork(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def test_workers_neither_hold_it_nor_give_it_back(path):
    """A forked process has the lock's object, and the file descriptors of its parent."""
    lock = RunLock(path)
    lock.acquire()
    worker = fork(lambda: (lock.release(), time.sleep(60)))
    try:
        time.sleep(0.2)
        assert path.exists()
        lock.release()
        other = RunLock(path)
        other.acquire()
        other.release()
    finally:
        worker.kill()
        worker.join()


def race(path, results):
    try:
        RunLock(path).acquire()
    except OSError:
        results.put(None)
    else:
        results.put(os.getpid())
        time.sleep(1)


def test_of_many_that_take_over_one_wins(path):
    for _ in range(5):
        path.unlink(missing_ok=True)
        written(path, start="7")  # its owner is dead
        results = multiprocessing.get_context("fork").SimpleQueue()
        processes = [fork(race, path, results) for _ in range(6)]
        outcome = [results.get() for _ in processes]
        for process in processes:
            process.kill()
            process.join()
        assert len([pid for pid in outcome if pid]) == 1


def test_one_that_waited_for_a_file_which_was_removed_makes_a_new_one(path, monkeypatch):
    """The last owner gives the lock back between another's opening of the file and its turn."""
    real, removed = run_lock._lock, []

    def late(file):
        if not removed:
            removed.append(path.unlink())
        real(file)

    monkeypatch.setattr(run_lock, "_lock", late)
    RunLock(path).acquire()
    assert removed
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_drives_without_locks(path, monkeypatch):
    def refuse(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_lock.fcntl, "lockf", refuse)
    lock = RunLock(path)
    lock.acquire()
    with pytest.raises(OSError, match="in use"):
        RunLock(path).acquire()
    lock.release()
    assert not path.exists()


def test_starts_of_processes():
    assert start_of(os.getpid()) == start_of(os.getpid())
    assert start_of(os.getpid()) != start_of(os.getppid())
    assert start_of(2**22 + 1) is None  # more than Linux gives out


def test_a_system_without_proc(monkeypatch):
    monkeypatch.setattr(run_lock, "Path", lambda path: Path("/nowhere/at/all"))
    monkeypatch.setattr(run_lock.os.path, "exists", lambda path: False)
    shown = subprocess.CompletedProcess([], 0, stdout="Mon Nov 23 02:00:00 2026\n")
    monkeypatch.setattr(run_lock.subprocess, "run", lambda command, **named: shown)
    assert start_of(123) == "Mon Nov 23 02:00:00 2026"
    shown.stdout = ""
    assert start_of(123) is None
