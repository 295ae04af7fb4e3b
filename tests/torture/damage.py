"""Checkpoints that are damaged in every way, by the hundred."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalib.checkpoint import load_checkpoint
from evalib.rundir import RunDirectory
from tests.torture.child import DATA, RECIPES, Watched, train
from tests.torture.judge import faults
from tests.torture.kills import Undisturbed
from tests.torture.trials import Trials

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>\n"


class Stop(Exception):
    """Ends a run in its middle."""


def _stopped(folder: Path, kind: str) -> Path:
    """A run with two good checkpoints, that has half of its way to go."""

    def stop(history: Any) -> None:
        if 2 * len(history.epochs) == RECIPES[kind].epochs:
            raise Stop

    with contextlib.suppress(Stop):
        train(kind, folder / "stopped", on_epoch=stop)
    return folder / "stopped"


def _damages(content: bytes, draw: random.Random, flips: int) -> Iterator[tuple[str, bytes]]:
    """Each way in which a file may be damaged, by name."""
    size = len(content)
    for name, length in {"0 bytes": 0, "1 %": size // 100, "50 %": size // 2, "all but 100 bytes": size - 100}.items():
        yield f"cut to {name}", content[:length]
    yield "zeros", bytes(size)
    yield "HTML page", HTML
    for number in range(flips):
        # anywhere, in the head of the zip file, in its end with the digest
        start, end = [(0, size), (0, size), (0, size), (0, 512), (size - 200, size)][number % 5]
        place = draw.randrange(8 * start, 8 * end)
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        yield "a flipped bit", bytes(flipped)


def damage(folder: Path, trials: int, seed: int, kind: str = "fast") -> Trials:
    """last.pt damaged in every way: told, previous.pt used; every tenth run goes on to the same end.

    Args:
        folder: for the runs.
        trials: flipped bits; each of the other ways comes once.
        seed: of what is drawn.
        kind: of the runs.
    """
    result, draw, begun = Trials("damage"), random.Random(seed), time.monotonic()
    expected, stopped = Undisturbed(folder)(kind)[0], _stopped(folder, kind)
    content = (stopped / "last.pt").read_bytes()
    before = load_checkpoint(stopped / "previous.pt").progress
    for number, (name, damaged) in enumerate(_damages(content, draw, trials)):
        run_dir = folder / f"damage{number}"
        shutil.copytree(stopped, run_dir)
        (run_dir / "last.pt").write_bytes(damaged)
        result.trials += 1
        result.count(name)
        try:
            with RunDirectory(run_dir) as kept:
                found, notes = kept.begin(RECIPES[kind], DATA), list(kept.notes)
        except Exception as error:
            result.lost.append(f"{name}: {error!r}")
            continue
        told = any("the run continues from previous.pt" in note for note in notes)
        if found is None or found.progress != before or not told:
            result.lost.append(f"{name}: not detected, or not told: {notes}")
        if (run_dir / "last.damaged.pt").read_bytes() != damaged:
            result.lost.append(f"{name}: the damaged file is gone")
        if number % 10 == 0:
            _continue(result, kind, run_dir, name, expected)
        result.finished += 1
        shutil.rmtree(run_dir)
    result.seconds = time.monotonic() - begun
    return result


def _continue(result: Trials, kind: str, run_dir: Path, name: str, expected: dict[str, Any]) -> None:
    """Let the run, whose damaged file is set aside, go on to its end."""
    watched = Watched(kind, run_dir)
    wrong = faults(run_dir, expected) if watched.finish() else [f"no end: {watched.log()[-1000:]}"]
    result.identical += not wrong
    result.lost += [f"{name}: {fault}" for fault in wrong]
