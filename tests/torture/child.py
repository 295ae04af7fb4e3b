"""The training that the trials kill: small runs of several kinds, in processes forked from one that has all loaded."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

import evalib.files
import evalib.run_lock
import evalib.rundir
from evalib.data import sample
from evalib.engine import fit
from evalib.models import build_model
from evalib.recipes import recipes
from evalib.rundir import RunDirectory

DATA = sample().take(train=160, test=40)  # loaded once, before the fork
SIZES: dict[str, Any] = {"width": 8, "epochs": 4, "batch_size": 16, "precision": "float32"}
SAVE_STEPS = 3
RECIPES = {
    "fast": recipes["fast"].replace(**SIZES, test_views=2),
    "eva6": recipes["eva6"].replace(**SIZES, averaging="lookahead", l1=1e-5, l2=1e-4, val_fraction=0.25),
    "workers": recipes["fast"].replace(**SIZES, path="workers", test_views=1, optimizer="adam", lr=1e-3),
    "drawing": recipes["fast"].replace(**SIZES, test_views=1, optimizer="sgd", schedule="one_cycle", whitening=False),
}


class Drawing(nn.Module):
    """A network that draws random numbers when it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body = build_model("resnet18", 32, width=8, seed=1)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(32, 10))
        with torch.no_grad():
            self.head[1].weight.copy_(torch.linspace(-0.1, 0.1, 320).reshape(10, 32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def train(kind: str, run_dir: Path, on_epoch: Callable[..., Any] | None = None) -> Any:
    """Train one of `RECIPES` in a run directory, or go on with it; its history."""
    torch.set_num_threads(1)
    recipe = RECIPES[kind]
    model = Drawing() if kind == "drawing" else build_model(recipe.model, 10, width=recipe.width, seed=1)
    kept = RunDirectory(run_dir, save_steps=SAVE_STEPS, keep_best=bool(recipe.val_fraction))
    settings: dict[str, Any] = {"device": "cpu", "workers": 2 if kind == "workers" else 0, "progress": False}
    return fit(model, DATA, recipe, run_dir=kept, on_epoch=on_epoch, **settings)


def child(kind: str, run_dir: Path, pipe: Connection, pause: float) -> None:
    """What a process does: trains, tells each operation of a write before and after it, and how all ended.

    Args:
        kind: one of `RECIPES`.
        run_dir: where the run is kept.
        pipe: takes the names of operations, at last `("end", interrupted, notes)`.
        pause: seconds to stand still at each operation, for a kill to come.
    """
    log = os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stderr.fileno())

    def told(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            target = next((str(a) for a in reversed(arguments) if isinstance(a, str | Path)), "")
            for when in ("before", "after"):
                pipe.send(f"{when} {name} {Path(target).name}".strip())
                time.sleep(pause)
                if when == "before":
                    result = real(*arguments, **settings)
            return result

        return call

    patched = evalib.rundir.save_checkpoint
    evalib.rundir.save_checkpoint = told("save", patched)
    stands_in: Any = type("os", (), {"__getattr__": lambda self, name: getattr(os, name)})()
    stands_in.fsync, stands_in.replace = told("fsync", os.fsync), told("replace", os.replace)
    evalib.files.os = stands_in
    pipe.send("begin")
    history = train(kind, run_dir)
    pipe.send(("end", history.interrupted, history.notes))


CONTEXT = multiprocessing.get_context("forkserver")


def start(kind: str, run_dir: Path, pause: float = 0.0) -> tuple[Any, Connection]:
    """A process that trains, and what it tells."""
    CONTEXT.set_forkserver_preload(["tests.torture.child"])
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=child, args=(kind, run_dir, there, pause))
    process.start()
    there.close()
    return process, here


def finish(kind: str, run_dir: Path, seconds: float = 120.0) -> tuple[bool, bool, list[str]]:
    """Let a process train to its end: whether it ended well, was interrupted, and its notes."""
    process, pipe = start(kind, run_dir)
    ended: Any = ("end", False, [])
    deadline = time.monotonic() + seconds
    try:
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            message = pipe.recv()
            ended = message if isinstance(message, tuple) else ended
    except EOFError:
        pass
    process.join(max(0.1, deadline - time.monotonic()))
    if process.exitcode is None:
        process.kill()
    return process.exitcode == 0, ended[1], ended[2]
