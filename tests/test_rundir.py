"""Run directories: begun, continued, refused to another run; nothing that goes wrong there loses one."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from evalib import rundir
from evalib.checkpoint import Checkpoint, load_checkpoint
from evalib.history import EpochRecord, History
from evalib.origin import Origin
from evalib.recipes import Recipe, recipes
from evalib.rundir import RunDirectory, latest_checkpoint

EVA6 = recipes["eva6"]


def data(**changes):
    """What a run directory asks of an ImageData."""
    values = {"origin": None, "name": "tiny", "classes": ("ant", "bee"), "filters": {}, "train": range(8), "val": None}
    return SimpleNamespace(**{**values, **changes})


def history(epochs, **changes):
    record = dict.fromkeys(EpochRecord.__dataclass_fields__, 0.5) | changes
    return History([EpochRecord(**{**record, "epoch": epoch + 1}) for epoch in range(epochs)])


def checkpoint(recipe=EVA6, epoch=3, step=0, **changes):
    return Checkpoint(
        weights={"w": torch.full((100,), float(epoch))},
        recipe=recipe,
        classes=("ant", "bee"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        image_size=32,
        dataset="tiny",
        epoch=epoch,
        step=step,
        train_images=8,
        metrics=history(epoch).to_dict(),
        training={"optimizer": {"lr": 0.1}},
        **changes,
    )


def kept(path, *epochs, recipe=EVA6, **settings):
    """A run directory after so many epochs, closed."""
    with RunDirectory(path, **settings) as run:
        run.begin(recipe, data())
        for epoch in epochs:
            run.save(checkpoint(recipe, epoch), history(epoch))
    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files(tmp_path):
    with RunDirectory(tmp_path / "run") as run:
        assert run.begin(EVA6, data()) is None
        assert names(run.path) == ["recipe.json", "run.lock"]
        run.save(checkpoint(epoch=1), history(1))
        run.save(checkpoint(epoch=2), history(2))
    assert names(run.path) == ["history.json", "last.pt", "previous.pt", "recipe.json"]
    assert Recipe.from_json((run.path / "recipe.json").read_text()) == EVA6
    assert History.load(run.path / "history.json") == history(2)
    assert load_checkpoint(run.path / "last.pt").progress == (2, 0)
    assert load_checkpoint(run.path / "previous.pt").progress == (1, 0)
    assert latest_checkpoint(run.path) == run.path / "last.pt"
    assert run.notes == []


def test_the_same_recipe_continues(tmp_path):
    run = kept(tmp_path, 2, 3)
    assert run.begin(EVA6, data()).epoch == 3
    run.close()
    assert run.notes == []
    with RunDirectory(tmp_path) as again:
        assert again.begin(EVA6, data()).epoch == 3


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (EVA6.replace(lr=0.2, seed=9), {}, r"\(lr: 0.01 there, 0.2 now; seed: 1 there, 9 now\)"),
        (EVA6, {"classes": ("cow",)}, r"\(classes: \('ant', 'bee'\) there, \('cow',\) now\)"),
        (EVA6, {"name": "other"}, r"\(dataset: 'tiny' there, 'other' now\)"),
        (EVA6, {"filters": {"year": ["2012"]}}, r"\(filters: \{\} there, \{'year': \('2012',\)\} now\)"),
        (EVA6, {"train": range(7)}, r"\(training images: 8 there, 7 now\)"),
    ],
)
def test_another_run_is_refused_and_nothing_is_lost(tmp_path, recipe, changes, message):
    run = kept(tmp_path, 3)
    with pytest.raises(ValueError, match=f"holds another run {message}. Choose another run directory"):
        run.begin(recipe, data(**changes))
    assert Recipe.from_json((tmp_path / "recipe.json").read_text()) == EVA6
    assert not (tmp_path / "run.lock").exists()
    accepting = RunDirectory(tmp_path, accept_changes=True)
    if "classes" in changes:
        with pytest.raises(ValueError, match=r"holds another run .* or the same settings to continue.$"):
            accepting.begin(recipe, data(**changes))
    else:
        with accepting:
            assert accepting.begin(recipe, data(**changes)).epoch == 3
            assert len(accepting.notes) == 1
            assert f"continues after epoch 3 with changes {message[2:8]}" in accepting.notes[0].replace("(", "")


@pytest.mark.parametrize("change", [{"model": "resnet34"}, {"width": 16}])
def test_another_network_is_never_accepted(tmp_path, change):
    kept(tmp_path, 3)
    with pytest.raises(ValueError, match="holds another run"):
        RunDirectory(tmp_path, accept_changes=True).begin(EVA6.replace(**change), data())


def test_older_checkpoints_do_not_know_their_number_of_images(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data())
        run.save(replace(checkpoint(), train_images=0), history(3))
    with run:
        assert run.begin(EVA6, data(train=range(7))).epoch == 3


def test_more_epochs_continue_where_the_schedule_does_not_depend_on_them(tmp_path):
    run = kept(tmp_path, 3)
    with run:
        assert run.begin(EVA6.replace(epochs=30), data()).epoch == 3
    with pytest.raises(ValueError, match="epochs: 20 there, 2 now"):
        run.begin(EVA6.replace(epochs=2), data())


def test_more_epochs_of_a_one_cycle_run_are_refused(tmp_path):
    run = kept(tmp_path, 3, recipe=recipes["demo"])
    with pytest.raises(ValueError, match="epochs: "):
        run.begin(recipes["demo"].replace(epochs=99), data())


# --- damage -----------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return exec, ("open('boom', 'w').close()",)


def one_bit(content):
    changed = bytearray(content)
    changed[len(content) // 2] ^= 16
    return bytes(changed)


DAMAGES = {
    "empty": lambda content: b"",
    "1 %": lambda content: content[: len(content) // 100],
    "half": lambda content: content[: len(content) // 2],
    "without the last 100 bytes": lambda content: content[:-100],
    "zeros": lambda content: bytes(len(content)),
    "a page of HTML": lambda content: b"<!DOCTYPE html><html></html>",
    "one bit": one_bit,
    "hostile": lambda content: pickle.dumps(Bomb()),
}


def damage(path, kind="one bit"):
    path.write_bytes(DAMAGES[kind](path.read_bytes()))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    run = kept(tmp_path / "run", 1, 2, 3)
    damage(run.path / "last.pt", kind)
    damaged = (run.path / "last.pt").read_bytes()
    with run:
        assert run.begin(EVA6, data()).progress == (2, 0)
        assert len(run.notes) == 1
        assert run.notes[0].startswith(f"Cannot read the checkpoint {run.path / 'last.pt'}: it is ")
        assert run.notes[0].endswith("It is last.damaged.pt now; the run continues from previous.pt, after epoch 2.")
        assert latest_checkpoint(run.path) == run.path / "previous.pt"
        run.save(checkpoint(epoch=3), history(3))
    assert (run.path / "last.damaged.pt").read_bytes() == damaged
    assert load_checkpoint(run.path / "last.pt").epoch == 3
    assert load_checkpoint(run.path / "previous.pt").epoch == 2
    assert not (tmp_path / "boom").exists()


def test_where_no_checkpoint_is_whole_nothing_is_overwritten(tmp_path):
    run = kept(tmp_path, 2, 3)
    for name in ("last.pt", "previous.pt"):
        damage(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    message = r"has no checkpoint to continue from. .*last.pt: .*previous.pt: .*delete last.pt and previous.pt to begin"
    with pytest.raises(ValueError, match=message):
        run.begin(EVA6, data())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run.notes == []


def test_a_damaged_first_checkpoint_is_not_taken_for_a_new_run(tmp_path):
    run = kept(tmp_path, 1)
    damage(tmp_path / "last.pt")
    with pytest.raises(ValueError, match="has no checkpoint to continue from"):
        run.begin(EVA6, data())


def test_a_process_killed_between_the_two_renames(tmp_path):
    run = kept(tmp_path, 2)
    os.replace(tmp_path / "last.pt", tmp_path / "previous.pt")
    assert latest_checkpoint(tmp_path) == tmp_path / "previous.pt"
    with run:
        assert run.begin(EVA6, data()).epoch == 2
        run.save(checkpoint(epoch=3), history(3))
    assert run.notes == []
    assert [load_checkpoint(tmp_path / name).epoch for name in ("last.pt", "previous.pt")] == [3, 2]


def test_a_file_that_is_no_checkpoint_of_evalib_stays(tmp_path):
    run = kept(tmp_path, 1)
    torch.save({"w": torch.ones(1)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of evalib"):
        run.begin(EVA6, data())
    assert (tmp_path / "last.pt").exists()


def test_what_killed_writers_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parent, own = os.getppid(), os.getpid()
    # nobody but the owner of the lock writes last.pt, whoever has the id now
    left = (f".last.{dead.pid}.part.pt", f".last.{parent}.part.pt", f".cam.{dead.pid}.part.png", f".cam.{own}.part.png")
    for name in (*left, f".cam.{parent}.part.png"):
        (tmp_path / name).write_text("half")
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data())
        assert names(tmp_path) == [f".cam.{parent}.part.png", "recipe.json", "run.lock"]


def test_no_run_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run directory: it has no last.pt. `evalib train` makes one"):
        latest_checkpoint(tmp_path)


# --- writing ----------------------------------------------------------------------------------------


def test_a_save_returns_before_the_write_and_waits_for_the_one_before(tmp_path, monkeypatch):
    go, written = threading.Event(), []

    def slow(path, checkpoint, keep):
        go.wait(10)
        written.append(checkpoint.epoch)

    monkeypatch.setattr(rundir, "save_checkpoint", slow)
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data())
        run.save(checkpoint(epoch=1), history(1))
        assert written == []
        threading.Timer(0.1, go.set).start()
        run.save(checkpoint(epoch=2), history(2))
        assert written[0] == 1
    assert written == [1, 2]


def test_what_is_written_is_the_moment_of_the_call(tmp_path, monkeypatch):
    go, real = threading.Event(), rundir.save_checkpoint
    monkeypatch.setattr(rundir, "save_checkpoint", lambda *a, **k: (go.wait(10), real(*a, **k)))
    now, figures = checkpoint(epoch=2), history(2)
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data())
        run.save(now, figures)
        now.weights["w"] += 1
        now.training["optimizer"]["lr"] = 0.0
        now.metrics["epochs"].clear()
        figures.epochs.append(history(3).epochs[-1])
        go.set()
    found = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(found.weights["w"], torch.full((100,), 2.0))
    assert found.training == {"optimizer": {"lr": 0.1}}
    assert found.metrics == history(2).to_dict()
    assert History.load(tmp_path / "history.json") == history(2)


def test_a_lower_epoch_never_replaces_a_higher_one(tmp_path):
    run = kept(tmp_path, 3)
    with run:
        run.begin(EVA6, data())
        for epoch, step in ((2, 0), (2, 99)):
            with pytest.raises(ValueError, match=r"holds this run after epoch 3: a checkpoint after epoch 2"):
                run.save(checkpoint(epoch=epoch, step=step), history(epoch))
        run.save(checkpoint(epoch=3), history(3))
        run.save(checkpoint(epoch=3, step=5), history(3))
        with pytest.raises(
            ValueError, match=r"holds this run after epoch 3 and 5 steps: a .* after epoch 3 and 4 steps"
        ):
            run.save(checkpoint(epoch=3, step=4), history(3))
    assert load_checkpoint(tmp_path / "last.pt").progress == (3, 5)


def test_a_directory_must_be_begun(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(ValueError, match="is not in use: call `begin` first"):
        run.save(checkpoint(), history(3))
    run.close()


def test_what_could_not_be_read_back_is_told_at_once(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data())
        with pytest.raises(TypeError, match="A checkpoint holds tensors and plain values: got"):
            run.save(replace(checkpoint(), metrics={"accuracy": torch.float32}), history(3))
        run.save(checkpoint(), history(3))
    assert load_checkpoint(tmp_path / "last.pt").epoch == 3


def test_an_error_of_the_program_is_raised(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    run.begin(EVA6, data())
    monkeypatch.setattr(rundir, "save_checkpoint", lambda *a, **k: 1 / 0)
    run.save(checkpoint(), history(3))
    with pytest.raises(ZeroDivisionError):
        run.close()
    assert not (tmp_path / "run.lock").exists()


# --- disks ------------------------------------------------------------------------------------------

FULL = """
import resource, signal, sys, warnings
sys.path.insert(0, "tests")
import torch
from test_rundir import EVA6, RunDirectory, checkpoint, data, history, load_checkpoint
from dataclasses import replace
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write past the limit fails with EFBIG
warnings.simplefilter("always")
with RunDirectory(sys.argv[1]) as run:
    run.begin(EVA6, data())
    for epoch in range(1, 7):
        run._wait()
        if epoch == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        if epoch == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        large = {"w": torch.full((50_000,), float(epoch))}
        run.save(replace(checkpoint(epoch=epoch), weights=large), history(epoch))
        if epoch == 5:
            run._wait()
            print(load_checkpoint(run.path / "last.pt").epoch, [p.name for p in run.path.glob(".*")])
print(*run.notes, sep="\\n")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_does_not_end_the_run(tmp_path):
    """A real limit, in a process of its own: epochs 3 to 5 do not fit, 6 does again."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd=rundir_root()
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2 []"  # the last good one is whole, no half of another lies beside it
    assert lines[1:] == [
        f"There is not enough space at {tmp_path} ([Errno 27] File too large). The run goes on; last good checkpoint: "
        "epoch 2.",
        f"{tmp_path} is written again, after epoch 6.",
    ]
    assert done.stderr.count("RuntimeWarning: There is not enough space") == 1
    assert [load_checkpoint(tmp_path / name).epoch for name in ("last.pt", "previous.pt")] == [6, 2]


def rundir_root():
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def failing(monkeypatch, *errors):
    """Writes that fail with these errors, one after the other; None for one that does not."""
    real, coming = rundir.save_checkpoint, list(errors)

    def save(*arguments, **named):
        error = coming.pop(0) if coming else None
        if error is not None:
            raise error
        real(*arguments, **named)

    monkeypatch.setattr(rundir, "save_checkpoint", save)


def saved_epochs(path, count):
    """The warnings and the notes of a run of so many epochs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunDirectory(path) as run:
            run.begin(EVA6, data())
            for epoch in range(1, count + 1):
                run.save(checkpoint(epoch=epoch), history(epoch))
    return [str(warning.message) for warning in caught], run.notes


def test_each_kind_of_failure_is_told_once(tmp_path, monkeypatch):
    full, gone = OSError(errno.ENOSPC, "No space left"), OSError(errno.ENOTCONN, "Endpoint is not connected")
    failing(monkeypatch, full, full, gone, full, None, gone)
    warned, notes = saved_epochs(tmp_path, 6)
    assert warned == [notes[0], notes[1], notes[3]]
    assert notes == [
        f"There is not enough space at {tmp_path} ({full}). The run goes on; last good checkpoint: none.",
        f"Cannot write to {tmp_path} ({gone}). The run goes on; last good checkpoint: none.",
        f"{tmp_path} is written again, after epoch 5.",
        f"Cannot write to {tmp_path} ({gone}). The run goes on; last good checkpoint: epoch 5.",
    ]


def test_memory_may_be_full_too(tmp_path, monkeypatch):
    failing(monkeypatch, MemoryError())
    warned, notes = saved_epochs(tmp_path, 2)
    line = f"Cannot write to {tmp_path} (MemoryError). The run goes on; last good checkpoint: none."
    assert warned == notes[:1] == [line]
    assert load_checkpoint(tmp_path / "last.pt").epoch == 2


def test_a_directory_that_vanishes_comes_back_with_the_next_checkpoint(tmp_path, monkeypatch):
    """It is replaced by a file, which fails for root as well as for others, until it can be made again."""
    path = tmp_path / "run"
    run = RunDirectory(path)
    run.begin(EVA6, data())
    run.save(checkpoint(epoch=1), history(1))
    run._wait()
    os.replace(path, tmp_path / "elsewhere")
    path.write_text("")
    run.save(checkpoint(epoch=2), history(2))
    with pytest.warns(RuntimeWarning, match=r"Cannot write to .*run .*last good checkpoint: epoch 1"):
        run._wait()
    path.unlink()
    os.replace(tmp_path / "elsewhere", path)
    run.save(checkpoint(epoch=3), history(3))
    run.close()
    assert [load_checkpoint(path / name).epoch for name in ("last.pt", "previous.pt")] == [3, 1]


def test_a_directory_that_cannot_be_written_shows_before_any_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write to .*file.run .*Choose another folder"):
        RunDirectory(tmp_path / "file" / "run")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that root cannot write either")
def test_a_directory_that_nobody_can_write_shows_before_any_training():
    with pytest.raises(OSError, match=r"Cannot write to /proc/self/fdinfo"):
        RunDirectory("/proc/self/fdinfo")


# --- two at once ------------------------------------------------------------------------------------

HOLD = """
import sys, time
sys.path.insert(0, "tests")
from test_rundir import EVA6, RunDirectory, checkpoint, data, history
run = RunDirectory(sys.argv[1])
run.begin(EVA6, data())
run.save(checkpoint(epoch=1), history(1))
run._wait()
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_with_one_directory(tmp_path):
    """The second is refused and changes nothing; after a SIGKILL of the first it continues."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=rundir_root()) as first:
        assert first.stdout.readline() == "held\n"
        run = RunDirectory(tmp_path)
        with pytest.raises(OSError, match=rf"{tmp_path} is in use by process {first.pid} since .* choose another run"):
            run.begin(EVA6, data())
        run.close()
        assert (tmp_path / "run.lock").exists()
        first.kill()
    with run:
        assert run.begin(EVA6, data()).epoch == 1
        assert run.notes == []


def test_two_calls_in_one_process(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data())
        for again in (run, RunDirectory(tmp_path)):
            with pytest.raises(OSError, match="in use by this process"):
                again.begin(EVA6, data())
        run.save(checkpoint(), history(3))  # the first goes on


# --- the best, and a second place -------------------------------------------------------------------


def validated(path, *accuracies, epoch=0, **settings):
    """A run that keeps its best, continued by epochs of these validation accuracies."""
    with RunDirectory(path, keep_best=True, **settings) as run:
        found = run.begin(EVA6, data(val=range(3)))
        past = [] if found is None else History.from_dict(found.metrics).epochs
        for accuracy in accuracies:
            past = [*past, replace(history(1).epochs[0], epoch=len(past) + 1, val_accuracy=accuracy)]
            so_far = History(list(past))
            run.save(replace(checkpoint(epoch=len(past)), metrics=so_far.to_dict()), so_far)
    return run


def test_the_best_on_validation_is_kept(tmp_path):
    validated(tmp_path, 0.5, 0.7, 0.6)
    assert load_checkpoint(tmp_path / "best.pt").epoch == 2
    validated(tmp_path, 0.65, 0.7)  # continued, and no better
    assert load_checkpoint(tmp_path / "best.pt").epoch == 2
    validated(tmp_path, 0.8)
    assert load_checkpoint(tmp_path / "best.pt").epoch == 6
    assert load_checkpoint(tmp_path / "last.pt").epoch == 6
    (tmp_path / "best.pt").write_bytes(b"")
    validated(tmp_path, 0.1)
    assert load_checkpoint(tmp_path / "best.pt").epoch == 6  # from last.pt, before it was overwritten


def test_what_a_kill_left_behind_the_checkpoint_is_made_up(tmp_path):
    """Killed after last.pt was renamed: the best checkpoint and the history of that epoch are still to come."""
    validated(tmp_path, 0.5)
    before = {name: (tmp_path / name).read_bytes() for name in ("best.pt", "history.json")}
    validated(tmp_path, 0.9)
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    validated(tmp_path)
    assert load_checkpoint(tmp_path / "best.pt").epoch == 2
    assert len(History.load(tmp_path / "history.json").epochs) == 2


def test_the_best_of_an_earlier_run_does_not_count(tmp_path):
    validated(tmp_path, 0.9)
    for name in ("last.pt",):
        (tmp_path / name).unlink()
    validated(tmp_path, 0.2)
    assert History.from_dict(load_checkpoint(tmp_path / "best.pt").metrics).epochs[-1].val_accuracy == 0.2


def test_the_middle_of_an_epoch_is_never_the_best(tmp_path):
    validated(tmp_path, 0.5)
    with RunDirectory(tmp_path, keep_best=True) as run:
        found = run.begin(EVA6, data(val=range(3)))
        better = History([replace(history(1).epochs[0], val_accuracy=0.9)])
        run.save(replace(found, step=3), better)
    assert load_checkpoint(tmp_path / "best.pt").progress == (1, 0)


def test_the_best_needs_validation_images(tmp_path):
    with pytest.raises(ValueError, match="`keep_best` needs validation images"):
        RunDirectory(tmp_path, keep_best=True).begin(EVA6, data())
    assert not (tmp_path / "run.lock").exists()


def test_an_interval_of_no_steps(tmp_path):
    with pytest.raises(ValueError, match="`save_steps` must be at least 1"):
        RunDirectory(tmp_path, save_steps=0)


def test_a_new_session_continues_from_the_copy(tmp_path):
    mirror = tmp_path / "drive" / "run"
    mirror.parent.mkdir()
    run = kept(tmp_path / "run", 1, 2, mirror_dir=mirror)
    assert run.notes == []
    assert (mirror / "last.pt").read_bytes() == (run.path / "last.pt").read_bytes()
    assert (mirror / "history.json").exists()
    with RunDirectory(tmp_path / "new", mirror_dir=mirror) as new:
        assert new.begin(EVA6, data()).epoch == 2
        assert new.notes == [f"{tmp_path / 'new'} continues from the copy in {mirror}, after epoch 2."]
        new.save(checkpoint(epoch=3), history(3))
    assert load_checkpoint(mirror / "last.pt").epoch == 3


def test_the_copy_takes_the_place_of_what_is_damaged(tmp_path):
    (tmp_path / "drive").mkdir()
    run = kept(tmp_path / "run", 1, mirror_dir=tmp_path / "drive" / "run")
    damage(run.path / "last.pt")
    message = rf"or delete last.pt to continue from what {tmp_path}/drive/run has"
    with pytest.raises(ValueError, match=message):
        run.begin(EVA6, data())
    (run.path / "last.pt").unlink()
    with run:
        assert run.begin(EVA6, data()).epoch == 1


def test_the_best_is_copied_too(tmp_path):
    (tmp_path / "drive").mkdir()
    run = validated(tmp_path / "run", 0.5, mirror_dir=tmp_path / "drive" / "run")
    assert run.notes == []
    assert load_checkpoint(tmp_path / "drive" / "run" / "best.pt").epoch == 1


def test_a_mirror_that_is_not_there_is_told_at_the_end(tmp_path, monkeypatch):
    real = rundir.Mirror
    monkeypatch.setattr(rundir, "Mirror", lambda *a: real(*a, attempts=1, first_wait=0.01))
    run = kept(tmp_path / "run", 1, mirror_dir=tmp_path / "gone" / "deep" / "run")
    assert len(run.notes) == 1
    assert "the run is whole in" in run.notes[0]
    assert load_checkpoint(run.path / "last.pt").epoch == 1
    assert not (run.path / "run.lock").exists()


def test_other_files_of_a_folder_are_other_data(tmp_path):
    """A folder with one image exchanged has the same number: what was trained on might be tested on now."""
    known = Origin("folder", "pets", {"files": "abc"})
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data(origin=known))
        run.save(replace(checkpoint(), origin=known), history(3))
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data(origin=known))
    moved = Origin("folder", "elsewhere", {"files": "abc"})
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data(origin=moved))
    with pytest.raises(
        ValueError, match="holds another run .*files of the folder: 'those trained on' there, 'others' now"
    ):
        RunDirectory(tmp_path).begin(EVA6, data(origin=Origin("folder", "pets", {"files": "abd"})))
