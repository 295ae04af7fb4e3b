"""Runs killed with SIGKILL, at random moments and at every operation of a write, then started again."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from tests.torture.child import KINDS, Watched, mirror_of
from tests.torture.judge import faults, state_of
from tests.torture.trials import Trials

IN_THE_MIDDLE = "some ms into writing last.pt"


class Undisturbed:
    """Runs that nothing happens to, one of each kind that is asked for.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, tuple[dict[str, Any], float]] = {}
        self._moments: dict[str, Counter[str]] = {}

    def __call__(self, kind: str) -> tuple[dict[str, Any], float]:
        """The state at its end, and its seconds."""
        if kind not in self._found:
            watched = Watched(kind, self.folder / f"whole-{kind}")
            if not watched.finish():
                raise RuntimeError(f"The undisturbed run of {kind!r} failed: {watched.log()}")
            seconds, state = time.monotonic() - watched.begun, state_of(watched.run_dir)
            if left := [name for name in state["files"] if "lock" in name or "part" in name]:
                raise RuntimeError(f"The undisturbed run of {kind!r} leaves {left}.")
            self._found[kind] = state, seconds
        return self._found[kind]

    def moments(self, kind: str) -> Counter[str]:
        """How often each moment comes in it."""
        if kind not in self._moments:
            watched = Watched(kind, self.folder / f"told-{kind}", told=True)
            self._moments[kind] = Counter(watched.moments())
            ended, mirror = watched.finish(), mirror_of(kind, watched.run_dir)
            if wrong := faults(watched.run_dir, self(kind)[0], mirror) if ended else [watched.log()]:
                raise RuntimeError(f"The run of {kind!r} that tells its moments ends otherwise: {wrong}")
        return self._moments[kind]


def kills(folder: Path, trials: int, seed: int, kinds: Sequence[str] = KINDS) -> Trials:
    """Two of five trials aim at the write, each at another operation; some runs are killed more than once."""
    result, draw, whole = Trials("kills"), random.Random(seed), Undisturbed(folder)
    begun, operations = time.monotonic(), _operations(whole, draw, kinds)
    for number in range(trials):
        kind, moment = next(operations) if number % 5 < 2 else (draw.choice(kinds), "")
        run_dir, expected = folder / f"kill{number}-{kind}", whole(kind)[0]
        for _ in range(10):
            if killed := _kill(result, kind, run_dir, moment, draw, whole):
                break
            for place in filter(None, (run_dir, mirror_of(kind, run_dir))):  # it had come to its end before
                shutil.rmtree(place, ignore_errors=True)  # what is not there was never written
        if not killed:
            result.lost.append(f"{run_dir.name}: was never killed {moment}")
        for _ in range(draw.choice([0, 0, 1, 2])):
            _kill(result, kind, run_dir, "", draw, whole)
        judge(result, kind, run_dir, expected)
    result.seconds = time.monotonic() - begun
    return result


def _operations(whole: Undisturbed, draw: random.Random, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Kinds of runs and moments to kill them at, for ever: first those that write checkpoints, then the others."""
    told = {kind: {moment for moment in whole.moments(kind) if _writes(moment)} for kind in kinds}
    moments = sorted(set().union(*told.values()))
    draw.shuffle(moments)
    moments.sort(key=lambda moment: not any(name in moment for name in ("last.pt", "previous.pt", "the folder")))
    for number, moment in enumerate(cycle([IN_THE_MIDDLE, *moments])):
        places = [kind for kind in kinds if moment in told[kind] or moment == IN_THE_MIDDLE]
        yield places[number % len(places)], moment


def _writes(moment: str) -> bool:
    return any(f" {what} " in f" {moment}" for what in ("fsync", "renaming to", "removing", "writing"))


def _kill(result: Trials, kind: str, run_dir: Path, moment: str, draw: random.Random, whole: Undisturbed) -> bool:
    """Kill a run at a moment, or at random; whether it was still alive."""
    watched = Watched(kind, run_dir, told=bool(moment))
    if moment:
        within = moment == IN_THE_MIDDLE
        stop = "before writing last.pt (part)" if within else moment
        left = draw.randrange(whole.moments(kind)[stop])
        for told in watched.moments():
            left -= told == stop
            if left < 0:
                break
        if within and left < 0:
            watched.pipe.send("go on")
            time.sleep(draw.uniform(0, 0.01))
    else:
        watched.process.join(draw.uniform(0, whole(kind)[1]))
    workers = psutil.Process(watched.process.pid).children() if watched.process.is_alive() else []
    watched.process.kill()
    watched.process.join()
    _, alive = psutil.wait_procs(workers, timeout=30)  # they notice by themselves
    if alive:
        result.lost.append(f"{run_dir.name}: {len(alive)} workers live on")
    killed = bool(watched.process.exitcode == -signal.SIGKILL)
    if killed:
        result.count("SIGKILLs in a write" if moment else "SIGKILLs at random")
        result.count("SIGKILLs with live workers", len(workers) > 0)
    return killed


def judge(result: Trials, kind: str, run_dir: Path, expected: dict[str, Any]) -> None:
    """Start it again and compare its end."""
    watched = Watched(kind, run_dir)
    result.trials += 1
    if not watched.finish() or watched.outcome["interrupted"]:
        result.lost.append(f"{run_dir.name}: the restart did not finish: {watched.log()[-1000:]}")
        return
    result.finished += 1
    found = faults(run_dir, expected, mirror_of(kind, run_dir)) + watched.outcome["faults"]
    result.lost += [f"{run_dir.name}: {fault}" for fault in found]
    result.identical += not found
    for note in watched.outcome["notes"]:
        if note.startswith("Continued"):
            result.count("continued within an epoch" if ", step" in note else "continued between epochs")
