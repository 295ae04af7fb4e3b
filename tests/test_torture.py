"""The trials of `make torture`, a few of each kind; and what judges them, which must see a loss where there is one."""

import json
import os
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from tests.torture.__main__ import main
from tests.torture.child import Watched, train
from tests.torture.damage import damage
from tests.torture.hostile import hostile, hostile_files
from tests.torture.images import images
from tests.torture.interrupts import interrupts
from tests.torture.judge import difference, faults, state_of
from tests.torture.kills import kills


@pytest.mark.parametrize(
    ("part", "trials", "how", "finished"),
    [
        (kills, 3, {"kinds": ["short"]}, 3),
        (interrupts, 2, {"kinds": ["short"]}, 2),
        (damage, 5, {"kind": "short"}, 11),
        (hostile, 0, {}, 150),
        (images, 40, {}, 40),
    ],
)
def test_nothing_is_lost(part, trials, how, finished, tmp_path):
    result = part(tmp_path, trials, 3, **how)
    assert result.lost == []
    assert result.trials == result.finished == finished
    if part is kills:
        assert result.seen["SIGKILLs in a write"] == 2
        assert result.seen["SIGKILLs at random"] >= 1
        assert result.identical == 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train("short", folder)
    return folder


def test_the_judge_accepts_the_same_run_and_no_other(whole, tmp_path):
    expected = state_of(whole)
    assert faults(whole, expected) == []
    spoilers = [one_bit, one_moment, one_figure, no_bytes, a_part_left, a_lock_left, no_checkpoint, too_new, a_best_too]
    for spoil in spoilers:
        run_dir = tmp_path / spoil.__name__
        shutil.copytree(whole, run_dir)
        spoil(run_dir)
        assert faults(run_dir, expected) != [], spoil.__name__


def changed(run_dir, change):
    values = torch.load(run_dir / "last.pt", weights_only=True)
    change(values)
    torch.save({**values, "format": "evalib-checkpoint-1"}, run_dir / "last.pt")  # the format without a SHA-256


def test_the_judge_sees_nothing_in_another_container(whole, tmp_path):
    """So that what it sees in `changed` is the change."""
    run_dir = shutil.copytree(whole, tmp_path / "run")
    changed(run_dir, lambda values: None)
    assert faults(run_dir, state_of(whole)) == []


def one_bit(run_dir):
    changed(run_dir, lambda values: values["weights"]["linear.bias"].view(torch.int32)[3:4].bitwise_xor_(1))


def one_moment(run_dir):
    changed(run_dir, lambda values: values["training"]["optimizer"]["state"][0]["momentum_buffer"][-1].mul_(1.01))


def one_figure(run_dir):
    history = json.loads((run_dir / "history.json").read_text())
    history["epochs"][1]["test_loss"] *= 1 + 1e-12
    (run_dir / "history.json").write_text(json.dumps(history))


def no_bytes(run_dir):
    (run_dir / "previous.pt").write_bytes(b"")


def a_part_left(run_dir):
    (run_dir / ".last.77.part.pt").write_bytes(b"half")


def a_lock_left(run_dir):
    (run_dir / "run.lock").write_text("{}")


def no_checkpoint(run_dir):
    (run_dir / "last.pt").unlink()


def too_new(run_dir):
    shutil.copy(run_dir / "last.pt", run_dir / "previous.pt")


def a_best_too(run_dir):
    shutil.copy(run_dir / "last.pt", run_dir / "best.pt")


def test_the_judge_compares_the_copy(whole, tmp_path):
    mirror = shutil.copytree(whole, tmp_path / "mirror")
    assert faults(whole, state_of(whole), mirror) == []
    shutil.copy(mirror / "previous.pt", mirror / "last.pt")
    assert faults(whole, state_of(whole), mirror) == ["the copy of last.pt is another file"]


def test_differences_are_found_where_they_are():
    one = {"a": [1, {"b": torch.ones(2)}], "c": 0.0}
    assert difference(one, {"a": [1, {"b": torch.ones(2)}], "c": 0.0}) == ""
    assert difference(one, {"a": [1, {"b": torch.ones(2).double()}], "c": 0.0}) == "/a/1/b: tensors differ"
    assert difference(one, {"a": [1, {"b": torch.ones(2)}], "c": 0}) == "/c: 0.0 and 0"
    assert difference(one, {"a": [1], "c": 0.0}) == "/a: 2 items and 1"
    assert difference(one, {"a": [1, {"b": torch.ones(2)}]}) == ": ['c'] in one of them only"


def test_a_run_that_draws_other_numbers_counts_as_lost(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("evalib.data.order.derived_seed", lambda *place: 1)
    train("short", tmp_path / "run")
    assert any("train_loss" in fault or "differ" in fault for fault in faults(tmp_path / "run", state_of(whole)))


def test_a_process_stands_still_at_each_moment_until_it_may_go_on(tmp_path):
    watched = Watched("short", tmp_path / "run", told=True)
    for moment in watched.moments():
        if moment == "before renaming to last.pt":
            break
    time.sleep(0.2)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "last.pt" not in names
    assert f".last.{watched.process.pid}.part.pt" in names
    os.kill(watched.process.pid, signal.SIGKILL)
    watched.process.join()
    assert watched.process.exitcode == -signal.SIGKILL


def test_the_hostile_files_would_run_in_a_careless_reader(tmp_path):
    sentinel, ran = tmp_path / "it-ran", 0
    for name, write in hostile_files(sentinel):
        if name.startswith("pickle of"):
            write(tmp_path / "file")
            pickle.loads((tmp_path / "file").read_bytes())
            assert sentinel.exists(), name
            sentinel.unlink()
            ran += 1
    assert ran == 5


def crashes(content, name):
    if name.startswith("bomb long.png"):
        os.abort()
    if name.startswith("bomb text.png"):
        raise RecursionError
    return np.zeros((2, 2, 3), np.uint8)


def test_a_loader_that_crashes_is_lost_for_that_image_alone(tmp_path):
    result = images(tmp_path, 8, 1, crashes)
    assert result.trials == 8
    assert result.finished == 7
    assert len(result.lost) == 2
    assert "a crash or a hang; the process ended with -6" in result.lost[0]
    assert "RecursionError" in result.lost[1]


def test_the_table_and_the_exit_code(tmp_path, capsys, monkeypatch):
    assert main(["hostile", "--output", str(tmp_path / "table.json")]) == 0
    assert [row["trials"] for row in json.loads((tmp_path / "table.json").read_text())] == [150]
    monkeypatch.setattr("tests.torture.hostile.WAYS", (lambda path: None,))
    assert main(["hostile"]) == 1
    assert "LOST" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["nothing"])
