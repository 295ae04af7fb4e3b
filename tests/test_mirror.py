"""A second place that fails in every way that a mounted drive can, and what is then in it."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalib import mirror as module
from evalib.mirror import Mirror, restore

if TYPE_CHECKING:
    from evalib.data.image_data import ImageData

ROOT = Path(__file__).resolve().parent.parent
CONTENT = {"last.pt": os.urandom(1_500_000), "history.json": b'{"epochs": [1, 2, 3]}', "recipe.json": b"{}"}
NAMES = tuple(CONTENT)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    write(folder)
    return folder


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    folder = tmp_path / "drive"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evalib")]


def write(folder: Path, epochs: int = 3, last: bytes = CONTENT["last.pt"]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**CONTENT, "last.pt": last, "history.json": history(epochs)}.items():
        part = folder / f"{name}.new"
        part.write_bytes(content)
        os.replace(part, folder / name)


def history(epochs: int) -> bytes:
    return json.dumps({"epochs": list(range(epochs))}).encode()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones and left parts too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_mirrored(source: Path, mirror: Path) -> None:
    assert contents(mirror) == contents(source)
    assert {*CONTENT, "run.id"} <= set(contents(mirror))


def quick(source: Path, mirror: Path, attempts: int = 5) -> Mirror:
    return Mirror(source, mirror, attempts=attempts, first_wait=0.001)


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


# --- all is well ----------------------------------------------------------------------------------


def test_the_files_are_copied_and_nothing_is_to_be_told(source: Path, drive: Path) -> None:
    mirror = Mirror(source, drive / "one")
    mirror.copy(*NAMES)
    assert mirror.close() == []
    assert_mirrored(source, drive / "one")
    assert mirror.problem == ""


def test_newer_files_replace_older_ones(source: Path, drive: Path) -> None:
    mirror = Mirror(source, drive)
    mirror.copy(*NAMES)
    wait_until((drive / "recipe.json").exists)
    write(source, epochs=4, last=b"newer")
    mirror.copy("last.pt", "history.json")
    assert mirror.close() == []
    assert_mirrored(source, drive)


def test_a_slow_mirror_takes_the_newest_state_only(source: Path, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, gate, copied = module.copy_verified, threading.Event(), []

    def slow(path: Path, target: Path, cancelled: threading.Event) -> None:
        gate.wait(10)
        copied.append(path.name)
        real(path, target, cancelled)

    monkeypatch.setattr(module, "copy_verified", slow)
    mirror, began = Mirror(source, drive), time.monotonic()
    for number in range(50):
        write(source, last=b"%d" % number)
        mirror.copy("last.pt")
    assert time.monotonic() - began < 5  # nobody waited for the gate
    gate.set()
    assert mirror.close() == []
    assert (drive / "last.pt").read_bytes() == b"49"
    assert copied.count("last.pt") <= 2


def test_equal_files_are_not_written_again(source: Path, drive: Path) -> None:
    stamps = []
    for _ in range(2):
        mirror = Mirror(source, drive)
        mirror.copy(*NAMES)
        assert mirror.close() == []
        stamps.append({path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in drive.iterdir()})
    assert stamps[0] == stamps[1]


def test_nothing_to_copy_needs_no_mirror(source: Path, tmp_path: Path) -> None:
    mirror = Mirror(source, tmp_path / "none" / "none")
    assert mirror.close() == []
    mirror.copy("last.pt")  # after the end: nothing happens
    assert mirror.close() == []
    assert not (tmp_path / "none").exists()


def test_one_folder_is_no_second_place(source: Path) -> None:
    with pytest.raises(ValueError, match="`mirror_dir` must be another folder"):
        Mirror(source, f"{source}/../{source.name}")


# --- the drive fails ------------------------------------------------------------------------------

OPERATIONS = ["open", "read", "write", "fsync", "replace", "scandir", "mkdir", "stat", "unlink"]


def break_drive(patch: pytest.MonkeyPatch, drive: Path, operation: str, fails: Callable[[], OSError | None]) -> None:
    """Let an operation on files below `drive` raise what `fails` gives, if it gives something."""

    def concerns(what: object) -> bool:
        with contextlib.suppress(OSError):
            what = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else what
        return str(what).startswith(str(drive))

    def guard(real: Callable[..., object]) -> Callable[..., object]:
        def guarded(what: object, *args: object, **options: object) -> object:
            if (concerns(what) or any(map(concerns, args))) and (error := fails()):
                raise error
            return real(what, *args, **options)

        return guarded

    if operation in ("open", "read", "write"):
        real_open = Path.open

        def opened(self: Path, mode: str = "r", *args: object, **options: object) -> object:
            if operation == "open" and concerns(self) and (error := fails()):
                raise error
            file = real_open(self, mode, *args, **options)  # type: ignore[call-overload]
            return Flawed(file, operation, fails) if concerns(self) and "b" in mode else file

        patch.setattr(Path, "open", opened)
    else:
        patch.setattr(os, operation, guard(getattr(os, operation)))


class Flawed:
    """A file one of whose methods fails."""

    def __init__(self, file: object, operation: str, fails: Callable[[], OSError | None]) -> None:
        self.file, self.operation, self.fails = file, operation, fails

    def __getattr__(self, name: str) -> object:
        if name == self.operation and (error := self.fails()):
            raise error
        return getattr(self.file, name)

    def __enter__(self) -> Flawed:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", [errno.ENOTCONN, errno.ENOSPC, errno.ETIMEDOUT, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_drive_that_recovers_gets_everything(
    operation: str, code: int, source: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [OSError(code, os.strerror(code)) for _ in range(3)]
    break_drive(monkeypatch, drive, operation, lambda: left.pop() if left else None)
    mirror = quick(source, drive / "one")
    mirror.copy(*NAMES)
    assert mirror.close() == []
    monkeypatch.undo()
    assert left == [] or operation in ("unlink", "stat")  # not asked for that often
    assert_mirrored(source, drive / "one")


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name not in ("unlink", "stat")])
def test_a_drive_that_is_gone_is_told_and_harms_nothing(
    operation: str, source: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    break_drive(monkeypatch, drive, operation, lambda: gone)
    mirror, began, before = quick(source, drive / "one"), time.monotonic(), contents(source)
    for _ in range(3):
        mirror.copy(*NAMES)
        wait_until(lambda: "[Errno 107]" in mirror.problem)
    (note,) = mirror.close()
    assert time.monotonic() - began < 10
    monkeypatch.undo()
    assert f"copies to {drive / 'one'} failed: [Errno 107]" in note
    assert f"the newest last.pt, history.json, recipe.json; the run is whole in {source}." in note
    assert {name: content for name, content in contents(source).items() if name != "run.id"} == before
    assert not (drive / "one" / "last.pt").exists()


def test_waits_grow_and_a_gone_drive_costs_one_try_per_copy(
    source: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []

    def gone(*args: object) -> None:
        times.append(time.monotonic())
        raise OSError(errno.ENOTCONN, "gone")

    monkeypatch.setattr(module, "_claim", gone)
    mirror = Mirror(source, drive, attempts=4, first_wait=0.05)
    mirror.copy("last.pt")
    wait_until(lambda: len(times) == 4)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(wait >= 0.05 * 2**number for number, wait in enumerate(waits))
    time.sleep(0.1)
    assert len(times) == 4
    mirror.copy("history.json")
    wait_until(lambda: len(times) == 5)
    (note,) = mirror.close()
    assert "2 of 2 copies" in note
    assert len(times) == 7  # a last try for each of the two


def test_what_was_missed_follows_when_the_drive_is_back(source: Path, drive: Path) -> None:
    """The rest of the path is not made, so that a drive can be mounted there later."""
    mirror = quick(source, drive / "mounted" / "one", attempts=2)
    mirror.copy(*NAMES)
    wait_until(lambda: "mounted is not there: mount the drive" in mirror.problem)
    assert not (drive / "mounted").exists()
    wait_until(lambda: not mirror._waiting and mirror._under_way is None)
    (drive / "mounted").mkdir()
    mirror.copy("last.pt")
    wait_until((drive / "mounted" / "one" / "recipe.json").exists)
    assert mirror.problem == ""
    (note,) = mirror.close()
    assert "3 of 6 copies" in note
    assert "is not there: mount the drive" in note
    assert "it has all files now" in note
    assert_mirrored(source, drive / "mounted" / "one")


def test_the_end_does_not_wait_for_the_next_try(source: Path, drive: Path) -> None:
    mirror, began = Mirror(source, drive / "mounted" / "one", first_wait=30), time.monotonic()
    mirror.copy(*NAMES)
    wait_until(lambda: mirror.problem)
    (drive / "mounted").mkdir()
    assert mirror.close() == []
    assert time.monotonic() - began < 10
    assert_mirrored(source, drive / "mounted" / "one")


def test_a_folder_that_vanished_and_came_back_empty_is_filled_again(source: Path, drive: Path) -> None:
    mirror = quick(source, drive / "one")
    mirror.copy(*NAMES)
    wait_until((drive / "one" / "recipe.json").exists)
    wait_until(lambda: mirror._under_way is None)
    (drive / "one").rename(drive / "elsewhere")
    assert mirror.close() == []
    assert_mirrored(source, drive / "one")


def test_a_copy_that_changed_later_is_repaired_at_the_end(source: Path, drive: Path) -> None:
    mirror = quick(source, drive)
    mirror.copy(*NAMES)
    wait_until((drive / "recipe.json").exists)
    wait_until(lambda: mirror._under_way is None)
    damaged = bytearray(CONTENT["last.pt"])
    damaged[1_234_567] ^= 1
    (drive / "last.pt").write_bytes(damaged)
    (drive / "history.json").write_bytes(b"")
    assert mirror.close() == []
    assert_mirrored(source, drive)


def test_a_copy_changed_while_it_is_written_is_repaired(
    source: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, flips = os.fsync, [1, 1]

    def flip(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(CONTENT["last.pt"]) and flips:
            os.pwrite(descriptor, bytes([CONTENT["last.pt"][99] ^ flips.pop()]), 99)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", flip)
    mirror = quick(source, drive)
    mirror.copy(*NAMES)
    assert mirror.close() == []
    assert flips == []
    assert_mirrored(source, drive)


def test_a_run_that_goes_on_writing_is_never_mixed(source: Path, drive: Path) -> None:
    """Versions are renamed over the file as fast as it goes; whoever looks into the mirror sees one version."""
    mirror, size = quick(source, drive, attempts=20), 3_000_000
    seen: set[int] = set()

    def look() -> None:
        with contextlib.suppress(FileNotFoundError):
            content = (drive / "last.pt").read_bytes()
            assert len(content) == size
            assert content == content[:1] * size
            seen.add(content[0])

    for version in range(1, 120):
        (source / "new").write_bytes(bytes([version]) * size)
        if version > 1:
            os.replace(source / "last.pt", source / "previous.pt")
        os.replace(source / "new", source / "last.pt")
        mirror.copy("last.pt")
        look()
    assert mirror.close() == []
    look()
    assert max(seen) == 119
    assert len(seen) > 2


def test_any_failure_at_all_is_kept_in_the_thread(source: Path, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RecursionError

    monkeypatch.setattr(module, "copy_verified", broken)
    mirror = quick(source, drive)
    mirror.copy("last.pt")
    (note,) = mirror.close()
    assert "1 of 1 copies" in note
    assert "failed: RecursionError" in note


# --- two runs -------------------------------------------------------------------------------------


def test_two_runs_are_never_mirrored_into_one_place(source: Path, drive: Path, tmp_path: Path) -> None:
    first = quick(source, drive)
    first.copy(*NAMES)
    assert first.close() == []
    other = tmp_path / "runs" / "two"
    write(other, epochs=9, last=b"of another run")
    with pytest.raises(ValueError, match=r"drive holds another run than .*two\. Choose another `mirror_dir`"):
        restore(drive, other)
    second = quick(other, drive)
    second.copy(*NAMES)
    (note,) = second.close()
    assert "holds another run" in note
    assert_mirrored(source, drive)


def test_files_of_unknown_origin_are_not_overwritten(source: Path, drive: Path) -> None:
    (drive / "previous.pt").write_bytes(b"precious")
    mirror = quick(source, drive)
    mirror.copy(*NAMES)
    (note,) = mirror.close()
    assert "holds another run" in note
    assert contents(drive) == {"previous.pt": b"precious"}


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_directory_of_another_run_is_told_before_training(begun: bool, mirrored: Path, tmp_path: Path) -> None:
    """It has an id of its own but no checkpoint, or a checkpoint from times without a mirror."""
    other = tmp_path / "runs" / "two"
    other.mkdir()
    (other / ("run.id" if begun else "last.pt")).write_text("other")
    with pytest.raises(ValueError, match="holds another run"):
        restore(mirrored, other)
    (mirrored / "run.id").unlink()
    if not begun:
        with pytest.raises(ValueError, match="holds another run"):
            restore(mirrored, other)


def test_the_same_run_further_on_is_not_overwritten(source: Path, drive: Path) -> None:
    mirror = quick(source, drive)
    mirror.copy(*NAMES)
    assert mirror.close() == []
    (drive / "history.json").write_bytes(history(7))
    (drive / "last.pt").write_bytes(b"of epoch 7")
    with pytest.raises(ValueError, match="holds this run after epoch 7, .* after epoch 3"):
        restore(drive, source)
    late = quick(source, drive)
    late.copy(*NAMES)
    (note,) = late.close()
    assert "after epoch 7" in note
    assert (drive / "last.pt").read_bytes() == b"of epoch 7"


# --- a new session --------------------------------------------------------------------------------


@pytest.fixture
def mirrored(source: Path, drive: Path) -> Path:
    (source / "previous.pt").write_bytes(b"the one before")
    mirror = quick(source, drive)
    mirror.copy(*NAMES, "previous.pt")
    assert mirror.close() == []
    return drive


def test_a_new_session_gets_all_files_back_and_goes_on_with_the_mirror(mirrored: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "run.lock").write_text("mine")
    (mirrored / ".hidden").write_text("of the drive")
    names = restore(mirrored, new)
    assert names == ["history.json", "recipe.json", "run.id", "last.pt", "previous.pt"]
    (mirrored / ".hidden").unlink()
    assert contents(new) == {**contents(mirrored), "run.lock": b"mine"}
    assert restore(mirrored, new) == []
    write(new, epochs=4, last=b"of epoch 4")
    mirror = quick(new, mirrored)
    mirror.copy(*NAMES)
    assert mirror.close() == []
    assert (mirrored / "last.pt").read_bytes() == b"of epoch 4"


def test_a_run_directory_with_a_checkpoint_is_left_alone(mirrored: Path, source: Path) -> None:
    (source / "last.pt").unlink()
    (source / "history.json").unlink()
    (mirrored / "history.json").unlink()
    before = contents(source)
    assert restore(mirrored, source) == []
    assert contents(source) == before


@pytest.mark.parametrize("there", ["nothing", "no checkpoint", "a file"])
def test_a_mirror_without_a_run_gives_nothing(there: str, tmp_path: Path) -> None:
    mirror, new = tmp_path / "drive", tmp_path / "new"
    new.mkdir()
    if there == "no checkpoint":
        write(mirror)
        (mirror / "last.pt").unlink()
    elif there == "a file":
        mirror.write_text("no folder")
    assert restore(mirror, new) == []
    assert contents(new) == {}


@pytest.mark.parametrize("begun", [False, True])
def test_a_copy_made_by_hand_is_taken_over(begun: bool, drive: Path, tmp_path: Path) -> None:
    write(drive)
    new = tmp_path / "new"
    new.mkdir()
    if begun:
        (new / "run.id").write_text("begun\n")
    assert restore(drive, new)[-1] == "last.pt"
    write(new, epochs=4, last=b"newer")
    mirror = quick(new, drive)
    mirror.copy(*NAMES)
    assert mirror.close() == []
    assert_mirrored(new, drive)


def test_a_restore_that_was_broken_off_is_begun_again(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, real = tmp_path / "new", module.copy_verified
    new.mkdir()
    for copied in ("history.json", "recipe.json", "run.id"):
        left = iter([1])

        def gone(path: Path, target: Path, cancelled: threading.Event, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOTCONN, "gone")
            real(path, target, cancelled)

        monkeypatch.setattr(module, "copy_verified", gone)
        with pytest.raises(OSError, match=r"holds a copy of this run cannot be seen \(.*gone\)\. Mount or repair"):
            restore(mirrored, new)
        assert copied in contents(new)
    monkeypatch.setattr(module, "copy_verified", real)
    restore(mirrored, new)
    assert contents(new) == contents(mirrored)


def test_a_run_is_not_begun_anew_because_its_mirror_does_not_answer(
    source: Path, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, released, new = os.scandir, threading.Event(), tmp_path / "new"
    new.mkdir()

    def hang(path: Path) -> Iterator[os.DirEntry[str]]:
        if path == drive:
            released.wait(20)
        return real(path)

    monkeypatch.setattr(os, "scandir", hang)
    began = time.monotonic()
    with pytest.raises(OSError, match="cannot be seen.*no answer within 0 s.*to begin anew"):
        restore(drive, new, seconds=0.1)
    assert restore(drive, source, seconds=0.1) == []  # it has a checkpoint: training goes on without the mirror
    assert time.monotonic() - began < 5
    released.set()
    wait_until(lambda: not any(thread.name.startswith("evalib-") for thread in threading.enumerate()))


def test_a_late_restore_writes_nothing(mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, released, new = os.fsync, threading.Event(), tmp_path / "new"
    new.mkdir()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (released.wait(20), real(descriptor)))
    with pytest.raises(OSError, match="no answer"):
        restore(mirrored, new, seconds=0.1)
    released.set()
    wait_until(lambda: not any(thread.name.startswith("evalib-") for thread in threading.enumerate()))
    assert contents(new) == {}


# --- hangs, kills and full disks, for real --------------------------------------------------------

PREAMBLE = """
import ctypes, errno, os, resource, signal, sys, threading, time
from pathlib import Path
from evalib.mirror import Mirror, restore

source, drive = Path(sys.argv[1]), Path(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)

def mounted(kind, data):  # in a name space of its own: gone with this process
    if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
        sys.exit(77)
    if libc.mount(b"evalib", str(drive).encode(), kind.encode(), 0, data.encode()):
        sys.exit(77)
"""


def child(code: str, source: Path, drive: Path, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    """Run a script after the preamble; one that cannot mount skips the test, one that hangs fails it."""
    command = [sys.executable, "-c", PREAMBLE + code, str(source), str(drive)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    if done.returncode == 77:
        pytest.skip("this machine does not let us mount")
    return done


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a FUSE file system")
def test_a_fuse_drive_that_does_not_answer_and_then_is_gone(source: Path, drive: Path) -> None:
    """What Google Drive is: nobody answers for it, then errno 107, from the kernel itself; no one waits for it."""
    done = child(
        """
if not os.path.exists("/dev/fuse"):
    sys.exit(77)
server = os.open("/dev/fuse", os.O_RDWR)
mounted("fuse", f"fd={server},rootmode=40000,user_id=0,group_id=0")
mirror, began = Mirror(source, drive / "one", first_wait=0.001), time.monotonic()
mirror.copy("last.pt")
print(mirror.close(0.3))
try:
    restore(drive, source / "new", seconds=0.3)
except OSError as error:
    print(error)
assert time.monotonic() - began < 5
hung = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
assert len(hung) == 2
os.close(server)
for thread in hung:
    thread.join(5)
    assert not thread.is_alive()
mirror = Mirror(source, drive / "one", first_wait=0.001)
mirror.copy("last.pt")
print(mirror.close(), mirror.problem)
try:
    restore(drive, source / "new")
except OSError as error:
    print(error)
server = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
assert libc.mount(b"evalib", str(drive).encode(), b"fuse", 0, options.encode()) == 0
Mirror(source, drive / "one").copy("last.pt")
try:
    restore(drive, source / "new", seconds=0.1)
except OSError:
    pass  # and now to the end of the interpreter, with two threads that hang
""",
        source,
        drive,
    )
    assert done.returncode == 0, done.stderr
    hung, unseen, gone, unread = done.stdout.splitlines()
    assert "one of last.pt is under way since" in hung
    assert "no answer within 0 s" in unseen
    assert "the run is whole in" in gone
    assert "[Errno 107] Transport endpoint is not connected" in unread


@pytest.mark.parametrize("operation", ["fsync", "replace", "scandir", "mkdir"])
def test_a_call_that_never_returns_keeps_nobody(operation: str, source: Path, drive: Path) -> None:
    done = child(
        f"""
os.{operation} = lambda *args, **options: time.sleep(1000)
mirror, began = Mirror(source, drive / "one"), time.monotonic()
for _ in range(20):
    mirror.copy("last.pt", "history.json")
notes = mirror.close(0.3)
assert 0.2 < time.monotonic() - began < 3
print(*notes)
""",
        source,
        drive,
    )
    assert done.returncode == 0, done.stderr
    assert "one of last.pt is under way since" in done.stdout
    assert "It lacks the newest last.pt, history.json; the run is whole in" in done.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_real_read_that_never_returns_keeps_nobody(source: Path, drive: Path) -> None:
    """Nobody writes into the pipe."""
    os.mkfifo(drive / "last.pt")
    done = child(
        """
mirror, began = Mirror(source, drive), time.monotonic()
mirror.copy("last.pt")
print(*mirror.close(0.3))
assert time.monotonic() - began < 3
""",
        source,
        drive,
    )
    assert done.returncode == 0, done.stderr
    assert "is under way since" in done.stdout


def test_what_hung_does_not_overwrite_what_came_later(
    source: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, released, late = os.fsync, threading.Event(), []

    def hang(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(CONTENT["last.pt"]) and not late:
            late.append(threading.current_thread())
            released.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", hang)
    first = quick(source, drive)
    first.copy("last.pt")
    wait_until(lambda: late)
    (note,) = first.close(0.1)
    assert "is under way since" in note
    (drive / "last.pt").write_bytes(b"newer")
    released.set()
    late[0].join(10)
    assert (drive / "last.pt").read_bytes() == b"newer"


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_a_process_killed_in_the_middle_of_a_copy(source: Path, drive: Path) -> None:
    """The older copy stays whole; the part that is left goes with the next copy."""
    mirror = quick(source, drive)
    mirror.copy(*NAMES)
    assert mirror.close() == []
    write(source, epochs=4, last=os.urandom(2_000_000))
    done = child(
        """
real = os.fsync
def die(descriptor):
    real(descriptor)
    if os.fstat(descriptor).st_size == 2_000_000:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
mirror = Mirror(source, drive)
mirror.copy("last.pt")
mirror.close()
""",
        source,
        drive,
    )
    assert done.returncode == -9
    assert len([name for name in contents(drive) if ".part" in name]) == 1
    assert (drive / "last.pt").read_bytes() == CONTENT["last.pt"]
    again = quick(source, drive)
    again.copy(*NAMES)
    assert again.close() == []
    assert_mirrored(source, drive)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_drive_keeps_the_older_copy_until_there_is_space(source: Path, drive: Path) -> None:
    """A real tmpfs of 4 MiB. Two copies of 1.5 MB fit, those of 3 MB do not."""
    done = child(
        """
mounted("tmpfs", "size=4m")
place, older = drive / "one", (source / "last.pt").read_bytes()
mirror = Mirror(source, place, first_wait=0.001)
mirror.copy("last.pt")
assert mirror.close() == []
newer = os.urandom(3_000_000)
(source / "last.pt").write_bytes(newer)
mirror = Mirror(source, place, first_wait=0.001)
mirror.copy("last.pt", "recipe.json")
print(*mirror.close())
assert (place / "last.pt").read_bytes() == older
assert sorted(os.listdir(place)) == ["last.pt", "recipe.json", "run.id"], os.listdir(place)
assert libc.mount(b"none", str(drive).encode(), b"tmpfs", 32, b"size=9m") == 0
mirror = Mirror(source, place)
mirror.copy("last.pt")
assert mirror.close() == []
assert (place / "last.pt").read_bytes() == newer
""",
        source,
        drive,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 3 copies" in done.stdout
    assert "[Errno 28] No space left on device" in done.stdout
    assert "It lacks the newest last.pt;" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="needs limits of a process")
def test_a_limit_on_file_sizes_is_like_a_full_drive(source: Path, drive: Path) -> None:
    done = child(
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
mirror = Mirror(source, drive, first_wait=0.001)
mirror.copy("last.pt", "recipe.json")
print(*mirror.close())
print(sorted(os.listdir(drive)))
""",
        source,
        drive,
    )
    assert done.returncode == 0, done.stderr
    assert "[Errno 27] File too large" in done.stdout
    assert "['recipe.json', 'run.id']" in done.stdout


# --- a whole run ----------------------------------------------------------------------------------


@pytest.fixture
def train(tiny_data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Any]]:
    """Trains a tiny network for some epochs in `runs/<name>`; gives its weights and history."""
    from evalib import rundir
    from evalib.engine import fit
    from evalib.models import build_model
    from evalib.recipes import Recipe

    recipe = Recipe(
        name="tiny", model="resnet18", width=8, batch_size=8, lr=0.05, schedule="constant", precision="float32"
    )
    monkeypatch.setattr(rundir, "Mirror", functools.partial(Mirror, first_wait=0.001))

    def run(name: str, epochs: int, mirror: Path | None = None, **changes: Any) -> tuple[Any, Any]:
        chosen = recipe.replace(epochs=epochs, **changes)
        model = build_model("resnet18", 3, width=8, seed=1)
        folder = rundir.RunDirectory(tmp_path / "runs" / name, mirror_dir=mirror)
        history = fit(model, tiny_data, chosen, run_dir=folder, device="cpu", workers=0, progress=False)
        return model.state_dict(), history

    return run


def assert_same_run(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    import torch

    assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert one[1].column(name) == other[1].column(name)


@pytest.mark.parametrize("fault", ["missing", "full", "gone"])
def test_a_run_whose_mirror_always_fails_is_the_same_run(
    fault: str, train: Callable[..., tuple[Any, Any]], drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train("plain", 2)
    code = {"full": errno.ENOSPC, "gone": errno.ENOTCONN, "missing": 0}[fault]
    if fault != "missing":
        break_drive(monkeypatch, drive, "replace", lambda: OSError(code, os.strerror(code)))
    mirrored = train("mirrored", 2, drive / "none" / "run" if fault == "missing" else drive / "run")
    assert_same_run(plain, mirrored)
    (note,) = mirrored[1].notes
    assert ("is not there: mount the drive" if fault == "missing" else f"[Errno {code}]") in note
    assert f"the run is whole in {tmp_path / 'runs' / 'mirrored'}" in note
    assert not (drive / "none").exists()
    names = {path.name for path in (tmp_path / "runs" / "mirrored").iterdir()}
    assert names - {"run.id"} == {path.name for path in (tmp_path / "runs" / "plain").iterdir()}


def test_a_new_session_continues_from_the_mirror(
    train: Callable[..., tuple[Any, Any]], drive: Path, tmp_path: Path
) -> None:
    """The local disk is lost after the first epoch; what goes on from the drive ends like a run that was never cut."""
    plain = train("plain", 3)
    first = train("run", 1, drive / "run")
    assert first[1].notes == []
    shutil.rmtree(tmp_path / "runs" / "run")
    second = train("run", 3, drive / "run")
    note, _ = second[1].notes
    assert f"continues from the copy in {drive / 'run'}, after epoch 1" in note
    assert_same_run(plain, second)
    for name in ("last.pt", "history.json", "recipe.json", "run.id"):
        assert (drive / "run" / name).read_bytes() == (tmp_path / "runs" / "run" / name).read_bytes()


def test_a_run_that_is_finished_gets_a_mirror(
    train: Callable[..., tuple[Any, Any]], drive: Path, tmp_path: Path
) -> None:
    train("run", 2)
    train("run", 2, drive / "run")
    assert contents(drive / "run") == contents(tmp_path / "runs" / "run")
    assert {"last.pt", "previous.pt", "history.json"} <= set(contents(drive / "run"))


def test_the_mirror_of_another_run_is_refused_before_training(
    train: Callable[..., tuple[Any, Any]], drive: Path
) -> None:
    train("one", 1, drive / "run")
    before = contents(drive / "run")
    train("two", 1)
    with pytest.raises(ValueError, match="holds another run"):
        train("two", 2, drive / "run")
    with pytest.raises(ValueError, match=r"holds another run \(lr: 0\.05 there, 0\.1 now"):
        train("three", 1, drive / "run", lr=0.1)
    assert contents(drive / "run") == before
