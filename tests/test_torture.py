"""The trials of `make torture`, a few of each kind; and their judge, which must see a loss where there is one."""

import json
import shutil

import pytest
import torch

from tests.torture.__main__ import main
from tests.torture.child import train
from tests.torture.damage import damage, hostile, images
from tests.torture.judge import difference, faults, state_of
from tests.torture.kills import interrupts, kills


@pytest.mark.parametrize(
    ("part", "trials", "finished"),
    [(kills, 2, 2), (interrupts, 1, 1), (damage, 3, 9), (hostile, 0, 30), (images, 40, 40)],
)
def test_nothing_is_lost(part, trials, finished, tmp_path):
    result = part(tmp_path, trials, 3)
    assert result.lost == []
    assert result.trials == result.finished == finished


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train("drawing", folder)
    return folder


def test_the_judge_accepts_the_same_run_and_no_other(whole, tmp_path):
    expected = state_of(whole)
    assert faults(whole, expected) == []
    for number, spoil in enumerate([one_bit, one_figure, one_moment, no_bytes, a_part_left, no_checkpoint]):
        run_dir = tmp_path / str(number)
        shutil.copytree(whole, run_dir)
        spoil(run_dir)
        assert faults(run_dir, expected) != [], spoil.__name__


def changed(run_dir, change):
    values = torch.load(run_dir / "last.pt", weights_only=True)
    change(values)
    torch.save(values, run_dir / "last.pt")


def one_bit(run_dir):
    changed(run_dir, lambda values: values["weights"]["head.1.bias"].view(torch.int32)[3:4].bitwise_xor_(1))


def one_moment(run_dir):
    changed(
        run_dir, lambda values: values["training"]["optimizer"]["state"][0]["momentum_buffer"][0, 0, 0, 0].add_(1e-6)
    )


def one_figure(run_dir):
    history = json.loads((run_dir / "history.json").read_text())
    history["epochs"][1]["test_loss"] *= 1 + 1e-12
    (run_dir / "history.json").write_text(json.dumps(history))


def no_bytes(run_dir):
    (run_dir / "previous.pt").write_bytes(b"")


def a_part_left(run_dir):
    (run_dir / ".last.77.part.pt").write_bytes(b"half")


def no_checkpoint(run_dir):
    (run_dir / "last.pt").unlink()


def test_differences_are_found_where_they_are():
    one = {"a": [1, {"b": torch.ones(2)}], "c": 0.0}
    assert difference(one, {"a": [1, {"b": torch.ones(2)}], "c": 0.0}) == ""
    assert difference(one, {"a": [1, {"b": torch.ones(2).double()}], "c": 0.0}) == "/a/1/b: tensors differ"
    assert difference(one, {"a": [1, {"b": torch.ones(2)}], "c": 0}) == "/c: 0.0 and 0"
    assert difference(one, {"a": [1, {"b": torch.ones(2)}]}) == ": ['c'] in one of them only"


def test_the_table_and_the_exit_code(tmp_path, capsys, monkeypatch):
    assert main(["hostile", "--output", str(tmp_path / "table.json")]) == 0
    assert [row["trials"] for row in json.loads((tmp_path / "table.json").read_text())] == [30]
    monkeypatch.setattr("tests.torture.damage.load_checkpoint", lambda path: None)
    assert main(["hostile"]) == 1
    assert "LOST" in capsys.readouterr().out
