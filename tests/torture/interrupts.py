"""Runs stopped with SIGINT, as Ctrl-C sends it, at any moment, once or twice; then the same again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from evalib.checkpoint import load_checkpoint
from tests.torture.child import KINDS, Watched
from tests.torture.judge import faults, state_of
from tests.torture.kills import Undisturbed, judge
from tests.torture.trials import Trials


def interrupts(folder: Path, trials: int, seed: int, kinds: Sequence[str] = KINDS) -> Trials:
    """Every second one aimed at a moment, as evaluating or renaming; some run the cell again, some in a new process.

    One of ten is `evalib train`, in a group of processes as a terminal makes it.
    """
    result, draw, whole = Trials("interrupts"), random.Random(seed), Undisturbed(folder)
    begun, moments = time.monotonic(), _moments(whole, draw, kinds)
    command = _Command(folder)
    for number in range(trials):
        twice = draw.random() < 0.4
        if number % 10 == 9:
            command.trial(result, number, draw, twice)
            continue
        kind, moment = next(moments) if number % 2 == 0 else (draw.choice(kinds), "")
        run_dir, (expected, seconds) = folder / f"interrupt{number}-{kind}", whole(kind)
        watched = Watched(kind, run_dir, told=bool(moment), again=draw.random() < 0.5)
        if moment:
            left = draw.randrange(whole.moments(kind)[moment])
            for told in watched.moments():
                left -= told == moment
                if left == -1:
                    left -= 1
                    _interrupt(watched.process.pid, twice, draw)
        else:
            watched.process.join(draw.uniform(0, 0.9 * seconds))
            _interrupt(watched.process.pid, twice, draw)
        result.count("Ctrl-C twice" if twice else "Ctrl-C once")
        _look(result, watched, twice)
        judge(result, kind, run_dir, expected)
    result.seconds = time.monotonic() - begun
    return result


def _moments(whole: Undisturbed, draw: random.Random, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Kinds of runs and moments to stop them at, for ever: each moment once before any of them again."""
    told = {kind: whole.moments(kind) for kind in kinds}
    moments = sorted(set().union(*told.values()))
    draw.shuffle(moments)
    moments.sort(key=lambda moment: "evaluating" not in moment and "step" not in moment and "on_epoch" not in moment)
    for number, moment in enumerate(cycle(moments)):
        places = [kind for kind in told if moment in told[kind]]
        yield places[number % len(places)], moment


def _interrupt(pid: int, twice: bool, draw: random.Random) -> None:
    """As a terminal does it: to the process and its workers; twice, if so, within half a second."""
    for _ in range(1 + twice):
        try:
            targets = [pid, *(worker.pid for worker in psutil.Process(pid).children())]
        except psutil.NoSuchProcess:
            return
        for target in targets:
            try:
                os.kill(target, signal.SIGINT)
            except ProcessLookupError:
                continue
        time.sleep(draw.choice([0.0, 0.01, draw.uniform(0, 0.5)]) if twice else 0.0)


def _look(result: Trials, watched: Watched, twice: bool) -> None:
    """What a process that was stopped must have left: an end without noise, its history, a checkpoint."""
    name = watched.run_dir.name
    if not watched.finish():
        result.lost.append(f"{name}: ended with {watched.process.exitcode} after Ctrl-C: {watched.log()[-1000:]}")
        return
    outcome = watched.outcome
    result.lost += [f"{name}: {fault}" for fault in outcome["faults"]]
    result.count("stopped within fit", bool(outcome["stops"]))
    if "Traceback" in watched.log() and not twice:
        result.lost.append(f"{name}: a traceback: {watched.log()[-1000:]}")
    if outcome.get("interrupted") and "epochs" in outcome and not twice:
        saved = load_checkpoint(watched.run_dir / "last.pt").epoch
        if saved != outcome["epochs"]:
            result.lost.append(f"{name}: the history has {outcome['epochs']} epochs, the checkpoint {saved}")


class _Command:
    """`evalib train` on the sample in a group of processes of its own, stopped as a terminal stops it."""

    words = ("train", "sample", "--width", "8", "--epochs", "2", "--batch-size", "512", "--test-views", "1",
             "--device", "cpu", "--save-steps", "3", "--run-dir")  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected: dict[str, Any] = {}
        self.seconds = 0.0

    def start(self, run_dir: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "evalib", *self.words, str(run_dir)]
        one = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=one, start_new_session=True, **pipes)

    def trial(self, result: Trials, number: int, draw: random.Random, twice: bool) -> None:
        """One Ctrl-C, or two, then the same command again."""
        if not self.expected:
            begun = time.monotonic()
            shown, _ = self.start(self.folder / "whole-command").communicate()
            self.seconds, self.expected = time.monotonic() - begun, state_of(self.folder / "whole-command")
        run_dir = self.folder / f"interrupt{number}-command"
        process = self.start(run_dir)
        time.sleep(draw.uniform(1.0, self.seconds))
        for _ in range(1 + twice):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(draw.choice([0.0, draw.uniform(0, 0.5)]))
        shown, _ = process.communicate(timeout=120)
        result.count(f"evalib train ended with {process.returncode}")
        if process.returncode not in (0, 130) or "Traceback" in shown:
            result.lost.append(f"{run_dir.name}: ended with {process.returncode}: {shown[-1000:]}")
        again = self.start(run_dir)
        shown, _ = again.communicate(timeout=300)
        result.trials += 1
        result.finished += again.returncode == 0
        found = faults(run_dir, self.expected) if again.returncode == 0 else [f"no end: {shown[-1000:]}"]
        result.identical += not found
        result.lost += [f"{run_dir.name}: {fault}" for fault in found]
