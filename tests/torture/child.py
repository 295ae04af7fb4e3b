"""The training that the trials disturb: small runs of several kinds, in processes forked from one that is ready."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
import torch._dynamo  # optimizers import it when they are made: 900 modules, better once than in every process
from torch import nn

from evalib.data import sample
from evalib.engine import fit
from evalib.history import History
from evalib.models import build_model
from evalib.recipes import recipes
from evalib.rundir import RunDirectory
from tests.torture.moments import Tell, announced

DATA = sample().take(train=160, test=40)  # loaded once, before the fork
SIZES: dict[str, Any] = {"width": 8, "epochs": 4, "batch_size": 16, "precision": "float32"}
SAVE_STEPS = 3
RECIPES = {
    "fast": recipes["fast"].replace(**SIZES, test_views=2),
    "eva6": recipes["eva6"].replace(**SIZES, averaging="lookahead", l1=1e-5, val_fraction=0.25, lr=0.01, seed=0),
    "workers": recipes["fast"].replace(**SIZES, path="workers", test_views=1, optimizer="adam", lr=1e-3),
    "drawing": recipes["fast"].replace(**SIZES, test_views=1, optimizer="sgd", schedule="one_cycle", whitening=False),
}
KINDS = tuple(RECIPES)
RECIPES["short"] = RECIPES["fast"].replace(epochs=2, batch_size=32)  # for tests of the trials themselves
_MIRRORED = "drawing"  # the runs that are also copied to a second place


class Drawing(nn.Module):
    """A network that draws random numbers when it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body = build_model("resnet18", 32, width=8, seed=1)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(32, 10))
        with torch.no_grad():
            self.head[1].weight.copy_(torch.linspace(-0.1, 0.1, 320).reshape(10, 32))
            self.head[1].bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def network(kind: str) -> nn.Module:
    """The network of a kind of run, as it is before any training."""
    recipe = RECIPES[kind]
    return Drawing() if kind == "drawing" else build_model(recipe.model, 10, width=recipe.width, seed=1)


def mirror_of(kind: str, run_dir: Path) -> Path | None:
    """The second place of a run, if its kind has one."""
    return run_dir.with_name(f"{run_dir.name}-mirror") if kind == _MIRRORED else None


def train(
    kind: str, run_dir: Path, on_epoch: Callable[[History], Any] | None = None, model: nn.Module | None = None
) -> History:
    """Train one of `RECIPES` in a run directory, or go on with it, as a cell of a notebook would."""
    torch.set_num_threads(1)
    recipe, model = RECIPES[kind], network(kind) if model is None else model
    mirror = mirror_of(kind, run_dir)
    kept = RunDirectory(run_dir, save_steps=SAVE_STEPS, keep_best=bool(recipe.val_fraction), mirror_dir=mirror)
    settings: dict[str, Any] = {"device": "cpu", "workers": 2 if kind == "workers" else 0, "progress": False}
    return fit(model, DATA, recipe, run_dir=kept, on_epoch=on_epoch, **settings)


def child(kind: str, run_dir: Path, pipe: Connection, told: bool, again: bool) -> None:
    """What a process does: trains, and sends `("begin",)`, `("moment", name)` and at last `("end", outcome)`.

    Args:
        kind: one of `RECIPES`.
        run_dir: where the run is kept.
        pipe: to the process that watches.
        told: stand still at each moment of `evalib`'s work until the answer comes.
        again: after a Ctrl-C run the cell again in this process.
    """
    multiprocessing.set_start_method("fork", force=True)  # as it is for the workers of a process that nobody forked
    threads = psutil.Process().num_threads()
    log = os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stderr.fileno())
    if threads > 1:
        raise RuntimeError(f"Forked from a process of {threads} threads: a lock that one of them held stays locked.")

    one_at_a_time = threading.RLock()  # the saver's thread tells too

    def tell(moment: str) -> None:
        with one_at_a_time:
            pipe.send(("moment", moment))
            pipe.recv()

    pipe.send(("begin",))
    outcome: dict[str, Any] = {"stops": 0, "faults": []}
    try:
        if told:
            announced(tell)
        _cells(kind, run_dir, tell if told else None, again, outcome)
    except KeyboardInterrupt:  # before `fit` or after it
        outcome["stops"] += 1
    pipe.send(("end", outcome))


def _cells(kind: str, run_dir: Path, tell: Tell | None, again: bool, outcome: dict[str, Any]) -> None:
    """The cell of a notebook, once, or until it comes to its end."""
    while True:
        model = network(kind)
        modes = [module.training for module in model.modules()]
        try:
            history = train(kind, run_dir, None if tell is None else lambda history: tell("in on_epoch"), model)
            epochs, interrupted = len(history.epochs), history.interrupted
            outcome |= {"epochs": epochs, "interrupted": interrupted, "notes": list(history.notes)}
            if interrupted is (epochs == RECIPES[kind].epochs):
                outcome["faults"].append(f"interrupted is {interrupted} after {epochs} epochs")
        except KeyboardInterrupt:  # a second one, while `fit` cleans up
            interrupted = True
            outcome["interrupted"] = True
        outcome["stops"] += interrupted
        if modes != [module.training for module in model.modules()]:
            outcome["faults"].append("the network's modes are not what they were")
        if not model.eval()(torch.zeros(2, 3, 32, 32)).isfinite().all():
            outcome["faults"].append("the network cannot be used")
        if not (again and interrupted):
            return


CONTEXT = multiprocessing.get_context("forkserver")


class Watched:
    """A process that trains, seen from the one that disturbs it.

    Args:
        kind: one of `RECIPES`.
        run_dir: where the run is kept.
        told: stop at each moment; `moments` then goes on.
        again: after a Ctrl-C run the cell again in that process.
    """

    def __init__(self, kind: str, run_dir: Path, told: bool = False, again: bool = False) -> None:
        self.kind, self.run_dir, self.outcome = kind, run_dir, dict[str, Any]()
        self.pipe, there = CONTEXT.Pipe()
        self.process: Any = CONTEXT.Process(target=child, args=(kind, run_dir, there, told, again))
        with one_thread():
            self.process.start()
        there.close()
        self._expect("begin")
        self.begun = time.monotonic()

    def _expect(self, name: str, seconds: float = 120.0) -> Any:
        """The next message if it has that name, else nothing."""
        try:
            message = self.pipe.recv() if self.pipe.poll(seconds) else ("late",)
        except (EOFError, ConnectionResetError):
            message = ("dead",)
        if message[0] == "end":
            self.outcome = message[1]
        return message[1:] if message[0] == name else None

    def moments(self) -> Iterator[str]:
        """What it is about to do, or has done: it waits until the next one is asked for."""
        while found := self._expect("moment"):
            yield found[0]
            try:
                self.pipe.send("go on")
            except (BrokenPipeError, ConnectionResetError):
                return

    def finish(self, seconds: float = 120.0) -> bool:
        """Let it train to its end: whether it ended by itself, and well. It is told nothing, so it must not ask."""
        if not self.outcome:
            self._expect("end", seconds)
        self.process.join(20)
        if ended := self.process.exitcode is not None:
            return bool(self.process.exitcode == 0 and self.outcome)
        self.process.kill()
        self.process.join()
        return ended

    def log(self) -> str:
        """What it and the processes before it wrote to the standard error."""
        return self.run_dir.with_suffix(".log").read_text(errors="replace")


class one_thread:
    """The process that all are forked from is started in this block: its libraries make no threads."""

    def __enter__(self) -> None:
        CONTEXT.set_forkserver_preload(["tests.torture.child"])
        self.before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"

    def __exit__(self, *exception: object) -> None:
        if self.before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = self.before
