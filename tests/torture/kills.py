"""Runs killed with SIGKILL, at random moments and in the middle of a write, then started again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.torture.child import RECIPES, finish, start
from tests.torture.judge import faults, state_of
from tests.torture.trials import Trials


class Undisturbed:
    """Runs that nothing happens to, one of each kind that is asked for.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, tuple[dict[str, Any], float]] = {}

    def __call__(self, kind: str) -> tuple[dict[str, Any], float]:
        """The state at its end, and its seconds."""
        if kind not in self._found:
            begun, run_dir = time.monotonic(), self.folder / f"whole-{kind}"
            ended, _, _ = finish(kind, run_dir)
            if not ended:
                raise RuntimeError(f"The undisturbed run of {kind!r} failed: {run_dir.with_suffix('.log').read_text()}")
            self._found[kind] = state_of(run_dir), time.monotonic() - begun
        return self._found[kind]


def kill_at_random(process: Any, pipe: Any, draw: random.Random, seconds: float) -> str:
    """Kill it at some moment of a run of so many seconds."""
    process.join(draw.uniform(0, 0.7 * seconds))
    return "at a random moment"


def kill_in_a_write(process: Any, pipe: Any, draw: random.Random, seconds: float) -> str:
    """Kill it at some operation of a write: it stands still there; or some milliseconds into the save."""
    number, milliseconds = draw.randrange(40), draw.choice([None, draw.uniform(0, 20)])
    for message in _messages(pipe):
        number -= 1
        if number < 0 and (milliseconds is None or message == "before save last.pt"):
            time.sleep(0.0 if milliseconds is None else milliseconds / 1000)
            return message if milliseconds is None else "some ms into a save"
    return "after its end"


def _messages(pipe: Any) -> Iterator[str]:
    try:
        while pipe.poll(60):
            message = pipe.recv()
            if isinstance(message, str):
                yield message
    except EOFError:
        pass


def kills(folder: Path, trials: int, seed: int) -> Trials:
    """Two of five trials aim at the write; some runs are killed more than once."""
    result, draw, whole = Trials("kills"), random.Random(seed), Undisturbed(folder)
    begun = time.monotonic()
    for number in range(trials):
        kind = draw.choice(list(RECIPES))
        aim: Callable[..., str] = kill_in_a_write if number % 5 < 2 else kill_at_random
        run_dir, expected = folder / f"kill{number}-{kind}", whole(kind)
        for _ in range(draw.choice([1, 1, 2, 3])):
            where = _kill(kind, run_dir, aim, draw, expected[1])
            result.count("aimed at the write" if aim is kill_in_a_write else "at random")
            result.count(f"killed {where}" if aim is kill_in_a_write else "killed at random")
        _judge(result, kind, run_dir, expected[0])
    result.seconds = time.monotonic() - begun
    return result


def _kill(kind: str, run_dir: Path, aim: Callable[..., str], draw: random.Random, seconds: float) -> str:
    process, pipe = start(kind, run_dir, pause=0.01 if aim is kill_in_a_write else 0.0)
    where = aim(process, pipe, draw, seconds)
    workers = psutil.Process(process.pid).children() if process.is_alive() else []
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    _, left = psutil.wait_procs(workers, timeout=30)  # they notice by themselves
    return where if not left else f"{where}, and {len(left)} workers live on"


def _judge(result: Trials, kind: str, run_dir: Path, expected: dict[str, Any]) -> None:
    """Start it again and compare its end."""
    ended, interrupted, notes = finish(kind, run_dir)
    result.trials += 1
    result.finished += ended and not interrupted
    found = faults(run_dir, expected) if ended and not interrupted else ["the restart did not finish"]
    result.lost += [f"{run_dir.name}: {fault}" for fault in found]
    for note in notes:
        result.count("continued within an epoch" if ", step" in note else "continued between epochs")


def interrupts(folder: Path, trials: int, seed: int) -> Trials:
    """SIGINT, as Ctrl-C sends it, at random moments, sometimes twice; then the same call again."""
    result, draw, whole = Trials("interrupts"), random.Random(seed), Undisturbed(folder)
    begun = time.monotonic()
    for number in range(trials):
        kind = draw.choice(list(RECIPES))
        run_dir, (expected, seconds) = folder / f"interrupt{number}-{kind}", whole(kind)
        process, pipe = start(kind, run_dir, pause=0.01 if number % 3 == 0 else 0.0)
        next(_messages(pipe))  # Python is up, and `fit` about to begin
        process.join(draw.uniform(0, 0.7 * seconds))
        twice = draw.random() < 0.3
        for _ in range(1 + twice):
            targets = psutil.Process(process.pid).children() if process.is_alive() else []
            for target in [process, *targets]:  # a terminal sends it to all of them
                if psutil.pid_exists(target.pid):
                    os.kill(target.pid, signal.SIGINT)
            process.join(draw.uniform(0, 0.05))
        process.join(60)
        result.count("Ctrl-C twice" if twice else "Ctrl-C once")
        if process.exitcode != 0:
            log = run_dir.with_suffix(".log").read_text()[-500:]
            result.lost.append(f"{run_dir.name}: ended with {process.exitcode} after Ctrl-C: {log}")
            process.kill()
        _judge(result, kind, run_dir, expected)
    result.seconds = time.monotonic() - begun
    return result
