"""Two processes on the CPU against one: the same figures, one writer, and an end to every failure.

This file is also the program that `accelerate launch` starts: given a folder, each process does there all that the
tests look at, and at last trains by the command line until one of the two is killed.
"""

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT, check, run

from evalib import distributed
from evalib.checkpoint import load_checkpoint
from evalib.cli import main
from evalib.commands import inventory
from evalib.data.image_data import ImageData, Split
from evalib.data.loaders import eval_loader
from evalib.data.workers import available_cores, workers_here
from evalib.distributed import TIMEOUT, ManyProcesses, make_execution, speaks_first
from evalib.engine import evaluate, fit
from evalib.execution import SingleDevice
from evalib.history import History
from evalib.models import build_model
from evalib.recipes import Recipe
from evalib.rundir import RunDirectory

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
PORT = ("--main_process_port", "0")  # any free one
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *PORT)
HERE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
CPU = {"device": "cpu", "workers": 0, "progress": False}


def recipe(**changes):
    settings = {
        "name": "shared", "model": "alexnet_cam", "epochs": 3, "batch_size": 8, "lr": 0.01, "precision": "float32",
        "augmentation": "flip", "label_smoothing": 0.1, "l1": 1e-4, "l2": 0.01,
    }  # fmt: skip
    return Recipe(**(settings | changes))


def data(size=64):
    """21 training images: the last batch of 8 has 5, which two processes share as 3 and 2. 13 test images."""
    generator = torch.Generator().manual_seed(0)

    def split(count):
        images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(count) % 3)

    return ImageData("random", ("ant", "bee", "cow"), split(21), split(13), (0.5,) * 3, (0.25,) * 3)


def alexnet():
    return build_model("alexnet_cam", 3, seed=1)


def resnet():
    return build_model("resnet18", 3, width=8, seed=1)


RESNET = {"model": "resnet18", "width": 8, "lr": 0.05, "l1": 0.0, "l2": 0.0, "averaging": "lookahead"}


# --- what each process does -------------------------------------------------------------------------


def work(folder):
    """Everything that the tests look at, in one start of two processes: what this one saw goes to FOLDER/RANK.pt."""
    rank, seen = int(os.environ["RANK"]), {}
    if rank != 0:  # one writer: the others never touch a run directory
        RunDirectory.__init__ = RunDirectory.save = RunDirectory.begin = lambda *arguments: pytest.fail(
            "this process wrote"
        )
    model = build_model("alexnet_cam", 3, seed=1 + rank)  # all begin with the main one's weights
    history = fit(model, data(), recipe(), on_epoch=lambda history: seen.setdefault("calls", []).append(1), **CPU)
    seen["alexnet"] = history.to_dict(), model.state_dict()
    execution = make_execution("cpu", "float32")
    seen["kind"] = type(execution).__name__, execution.rank, execution.world, execution.is_main
    shard = eval_loader(data(), batch_size=3, shard=(execution.rank, execution.world))
    seen["evaluation"] = vars(evaluate(model, shard, execution=execution))
    model = resnet()
    seen["resnet"] = fit(model, data(32), recipe(**RESNET), **CPU).to_dict(), model.state_dict()
    with at_step(8, stop):  # Ctrl-C, which launchers pass on to all processes; weights were averaged after step 5
        history = fit(resnet(), data(32), recipe(**RESNET), run_dir=folder / "run", **CPU)
    seen["stopped"] = history.interrupted, len(history.epochs)
    model = resnet()
    again = fit(model, data(32), recipe(**RESNET), run_dir=folder / "run", **CPU)
    seen["resumed"] = again.to_dict(), model.state_dict()
    seen["errors"] = [
        refused(data(32), recipe(**RESNET), run_dir=folder / "file" / "run"),
        refused(data(32), recipe(**RESNET | {"batch_size": 9})),
        refused(data(32), recipe(**RESNET | {"batch_size": 9 + 9})),
    ]
    mine = torch.tensor([1.0 + 2 * rank])
    execution.average([mine, torch.tensor([7])])
    seen["exchanges"] = mine, execution.gather(torch.full((2 - rank, 2), rank)), execution.from_main(lambda: rank)
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"  # of an earlier end; the one below counts anew
    seen["speaks"] = speaks_first()
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "2"
    torch.save(seen, folder / f"{rank}.pt")


@contextmanager
def at_step(number, action):
    """Before a step of a process, counted from 1, it does something else; an epoch has 3."""
    real_update, steps = ManyProcesses.update, []

    def update(self, optimizer):
        steps.append(1)
        if len(steps) == number:
            action()
        return real_update(self, optimizer)

    ManyProcesses.update = update
    yield
    ManyProcesses.update = real_update


def stop():
    raise KeyboardInterrupt


def refused(images, settings, **where):
    try:
        fit(resnet(), images, settings, **where, **CPU)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def train_until_the_second_dies(folder):
    """`evalib train`, whose second process is killed."""
    inventory.load_data = lambda *arguments, **settings: data(32)
    words = "train sample --recipe demo --width 8 --batch-size 8 --device cpu --workers 0 --run-dir"
    with at_step(5, lambda: os.environ["RANK"] == "1" and os.kill(os.getpid(), signal.SIGKILL)):
        return main([*words.split(), str(folder / "dies")])


# --- two processes that work ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """The folder in which two processes, started by `accelerate launch`, did their work; how they ended, and when."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "file").write_text("")
    done = run(*ACCELERATE, __file__, folder, cwd=folder, **HERE)
    assert {"0.pt", "1.pt"} <= {path.name for path in folder.iterdir()}, done.stdout
    return folder, done, time.time()


@pytest.fixture(scope="module")
def folder(launch):
    return launch[0]


@pytest.fixture(scope="module")
def two(folder):
    """What each of the two processes saw."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one():
    """The history and the weights of one process."""
    model = alexnet()
    history = fit(model, data(), recipe(), **CPU)
    return history, model


def losses(history):
    return torch.tensor([[record["train_loss"], record["test_loss"]] for record in history["epochs"]])


def test_two_processes_give_the_history_of_one(one, two):
    """Without batch statistics: label smoothing, penalties and a batch that the two share unevenly included."""
    history, model = one
    for seen in two:
        found, weights = seen["alexnet"]
        torch.testing.assert_close(losses(found), losses(history.to_dict()), atol=1e-4, rtol=0)
        for mine, theirs in zip(found["epochs"], history.to_dict()["epochs"], strict=True):
            for name in ("train_accuracy", "test_accuracy", "lr", "epoch"):
                assert mine[name] == theirs[name]
        assert (found["train_images"], found["test_images"]) == (21, 13)
        for name, value in model.state_dict().items():  # also the names: no prefix
            torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-4)
    assert len(losses(history.to_dict()).unique()) == 6  # it trained


def test_both_processes_end_with_the_same_weights(two):
    for kind in ("alexnet", "resnet", "resumed"):
        first, second = (seen[kind][1] for seen in two)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_batch_statistics_are_those_of_each_share(two):
    """ResNet18 normalizes 4 images where one process takes 8: another estimate of mean and variance, so that losses
    differ a little, from the first step on; that is data parallelism as everybody has it, not an error in gradients."""
    settings = recipe(**RESNET)
    expected = losses(fit(resnet(), data(32), settings, **CPU).to_dict())
    found = losses(two[0]["resnet"][0])
    difference = (found - expected).abs().max().item()
    assert 1e-4 < difference < 0.2, difference


def test_evaluation_gives_every_process_all_images_in_order(one, two):
    """Each with the weights of the two; labels cycle, so that a wrong order shows."""
    _, model = one
    expected = evaluate(model, eval_loader(data()))
    for seen in two:
        found = seen["evaluation"]
        torch.testing.assert_close(found["logits"], expected.logits, atol=1e-4, rtol=1e-3)
        assert torch.equal(found["labels"], expected.labels)
        assert found["loss"] == pytest.approx(expected.loss, abs=1e-5)
        assert found["accuracy"] == expected.accuracy


def test_a_run_continues_where_it_stopped(two, folder):
    """To the end of an uninterrupted one, running statistics and slow weights included."""
    assert [seen["stopped"] for seen in two] == [(True, 2), (True, 2)]
    interrupted, weights = two[0]["resumed"]
    uninterrupted, expected = two[0]["resnet"]
    assert torch.equal(losses(interrupted), losses(uninterrupted))
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    kept = load_checkpoint(folder / "run" / "last.pt")
    assert kept.epoch == 3
    assert all(torch.equal(value, expected[name]) for name, value in kept.weights.items())
    assert len(History.load(folder / "run" / "history.json").epochs) == 3


def test_one_process_reports(two):
    assert [len(seen.get("calls", [])) for seen in two] == [3, 0]
    assert [seen["kind"] for seen in two] == [("ManyProcesses", 0, 2, True), ("ManyProcesses", 1, 2, False)]
    assert sorted(seen["speaks"] for seen in two) == [False, True]
    assert two[0]["alexnet"][0]["device"].startswith("2 processes, each: CPU, ")


def test_both_processes_hear_of_every_refusal(two):
    folder, uneven, single = two[0]["errors"]
    assert two[1]["errors"] == two[0]["errors"]
    assert folder.startswith("OSError: Cannot write to ")
    assert "`batch_size` must be a multiple of the number of processes" in uneven
    assert "got 9 for 2 processes" in uneven
    assert "`batch_size` 18 makes a batch of a single image out of 21 training images for 2 processes" in single


def test_exchanges(two):
    for seen in two:
        mean, rows, rank = seen["exchanges"]
        assert mean.tolist() == [2.0]
        assert rows.tolist() == [[0, 0], [0, 0], [1, 1]]
        assert rank == 0


# --- the command line -------------------------------------------------------------------------------


def test_torchrun_starts_the_command_line(small_cars, tmp_path):
    """`torchrun -m evalib train`: everything is said and written once."""
    words = "train cars --recipe demo --car-brand BMW --width 8 --geometry resize --image-size 32 --batch-size 6"
    command = ("-m", "evalib", *words.split(), "--epochs", "2", "--data-dir", small_cars, "--run-dir", tmp_path / "run")
    said = check(*TORCHRUN, *command, "--device", "cpu", "--workers", "0", "--bare-step", cwd=tmp_path, **HERE)
    for line in ("run directory", "epoch  1/2", "epoch  2/2", "test accuracy", "figures, "):
        assert said.count(line) == 1, said
    assert "2 processes" in said
    assert len(History.load(tmp_path / "run" / "history.json").epochs) == 2


def test_a_process_that_dies_ends_the_run(launch):
    """The other says so at most once (the launcher may stop it before) and ends long before `TIMEOUT`; what was
    finished can be continued."""
    folder, done, end = launch
    assert done.returncode != 0
    assert end - (folder / "1.pt").stat().st_mtime < 60 < TIMEOUT.total_seconds()
    assert done.stdout.count("epoch  1/10") == 1
    assert done.stdout.count("evalib: Process 0 of 2 lost another one") <= 1
    assert "RuntimeError" not in done.stdout  # the words of the library that exchanges gradients
    assert "SIGKILL" in done.stdout
    assert load_checkpoint(folder / "dies" / "last.pt").epoch == 1


# --- bad launches -----------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch):
    """As if torchrun had started this process beside another one."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_without_a_launcher_there_is_one_process(monkeypatch):
    execution = make_execution("cpu", "float32")
    assert type(execution) is SingleDevice
    assert speaks_first()
    monkeypatch.setenv("WORLD_SIZE", "8")  # some clusters set it everywhere
    assert type(make_execution("cpu", "float32")) is SingleDevice


def test_processes_of_a_host_share_its_cores(launched, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert [available_cores(), workers_here(None), workers_here(1)] == [3, 3, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert available_cores() == 1


def test_a_failure_is_reported_by_the_first_that_sees_it(monkeypatch, capsys, tmp_path):
    for first, said in ((True, 1), (False, 0)):
        monkeypatch.setattr(distributed, "speaks_first", lambda first=first: first)
        assert main(["eval", str(tmp_path)]) == 1
        assert capsys.readouterr().err.count("is no run directory") == said


def test_evaluation_is_for_one_process(launched, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "speaks_first", lambda: True)
    assert main(["eval", "somewhere"]) == 1
    assert "is for one process: start it without a launcher" in capsys.readouterr().err


def test_a_missing_accelerate_is_named(launched, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        ImportError, match=r"needs the package `accelerate`: pip install accelerate \(or evalib\[dist\]\)"
    ):
        make_execution("cpu")


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_device_that_cannot_be_shared_is_refused(launched, device):
    with pytest.raises(ValueError, match="With several processes `device` must be 'cuda'.* or 'cpu': got '"):
        make_execution(device)


def test_fewer_gpus_than_processes_are_refused(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes on this host need as many GPUs: it has 1"):
        make_execution()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
    sys.exit(train_until_the_second_dies(Path(sys.argv[1])))
