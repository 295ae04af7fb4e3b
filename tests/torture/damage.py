"""Checkpoints, strangers' files and images that are damaged or hostile, by the hundred."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from evalib.checkpoint import load_checkpoint
from evalib.data.decoding import decode_image
from evalib.rundir import RunDirectory
from evalib.weights import read_weights_file, write_weights_file
from tests.torture.child import DATA, RECIPES, finish, train
from tests.torture.judge import faults, state_of
from tests.torture.trials import Trials

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>\n"


class Stop(Exception):
    """Ends a run in its third epoch."""


def _stopped(folder: Path) -> Path:
    """A run with two good checkpoints, that has some way to go."""

    def stop(history: Any) -> None:
        if len(history.epochs) == 2:
            raise Stop

    with contextlib.suppress(Stop):
        train("fast", folder / "stopped", on_epoch=stop)
    return folder / "stopped"


def _damages(content: bytes, draw: random.Random, flips: int) -> Iterator[tuple[str, bytes]]:
    """Each way in which a file may be damaged, by name."""
    size = len(content)
    for name, length in {"0 bytes": 0, "1 %": size // 100, "50 %": size // 2, "all but 100 bytes": size - 100}.items():
        yield f"cut to {name}", content[:length]
    yield "zeros", bytes(size)
    yield "HTML page", HTML
    places = [draw.randrange(8 * size) for _ in range(flips - 80)]
    places += [draw.randrange(8 * 512) for _ in range(40)]  # the zip's head, and its end with the digest
    places += [8 * size - 1 - draw.randrange(8 * 200) for _ in range(40)]
    for place in places[:flips]:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        yield "a flipped bit", bytes(flipped)


def damage(folder: Path, trials: int, seed: int) -> Trials:
    """last.pt damaged in every way: told, previous.pt used; every tenth run goes on to the same end."""
    result, draw, begun = Trials("damage"), random.Random(seed), time.monotonic()
    ended, _, _ = finish("fast", folder / "whole")
    expected, stopped = state_of(folder / "whole"), _stopped(folder)
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
                found, notes = kept.begin(RECIPES["fast"], DATA), list(kept.notes)
        except Exception as error:
            result.lost.append(f"{name}: {error!r}")
            continue
        if found is None or found.progress != before or not any("damaged" in note for note in notes):
            result.lost.append(f"{name}: not detected, or not told: {notes}")
        if number % 10 == 0:
            shutil.copytree(stopped, run_dir, dirs_exist_ok=True)
            (run_dir / "last.pt").write_bytes(damaged)
            ended, _, _ = finish("fast", run_dir)
            result.count("continued to the end")
            result.lost += [f"{name}: {fault}" for fault in (faults(run_dir, expected) if ended else ["no end"])]
        result.finished += 1
        shutil.rmtree(run_dir)
    result.seconds = time.monotonic() - begun
    return result


class Malicious:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _hostile(sentinel: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Writers of hostile files: each, if anything of it runs, makes the file `sentinel`."""
    code = f"open({str(sentinel)!r}, 'w').close()"
    calls = {
        "os.system": Malicious(os.system, f"touch {sentinel}"),
        "exec": Malicious(exec, code),
        "eval": Malicious(eval, code),
        "open": Malicious(open, str(sentinel), "w"),
        "torch.load": Malicious(torch.save, {}, str(sentinel)),
    }
    for name, call in calls.items():
        yield f"pickle of {name}", lambda path, call=call: path.write_bytes(pickle.dumps(call))
        yield f"weights of {name}", lambda path, call=call: torch.save({"weights": call}, path)
        old: dict[str, Any] = {"_use_new_zipfile_serialization": False}
        yield f"old format of {name}", lambda path, call=call, old=old: torch.save({"net": call}, path, **old)
        sealed = {"format": "evalib-checkpoint-2", "weights": {"a": call}}
        yield f"right digest, {name}", lambda path, sealed=sealed: write_weights_file(path, sealed)
        yield f"tar of {name}", lambda path, call=call: _tar(path, pickle.dumps(call))
        yield f"zip of {name}", lambda path, call=call: _zip(path, pickle.dumps(call))


def _tar(path: Path, content: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("archive/data.pkl", "archive/version", "archive/constants.pkl", "archive/code/evil.py"):
            archive.writestr(name, content)


def hostile(folder: Path, trials: int, seed: int) -> Trials:
    """Files made to run code when they are read: none does, and each gives one error."""
    result, begun, sentinel = Trials("hostile"), time.monotonic(), folder / "it-ran"
    for number, (name, write) in enumerate(_hostile(sentinel)):
        path = folder / f"{number}.pt"
        write(path)
        result.trials += 1
        for read in (load_checkpoint, read_weights_file):
            try:
                read(path)
                result.lost.append(f"{name}: {read.__name__} took it")
            except ValueError:
                pass
            except Exception as error:
                result.lost.append(f"{name}: {read.__name__} raised {error!r}")
        if sentinel.exists():
            result.lost.append(f"{name}: its code ran")
            sentinel.unlink()
        result.finished += 1
    result.seconds = time.monotonic() - begun
    return result


def images(folder: Path, trials: int, seed: int) -> Trials:
    """Bad images and byte strings through the one loader: pixels or one line, soon, in bounded memory."""
    from tests.data.bad_images import generate

    def late(*arguments: Any) -> None:
        raise TimeoutError("no end after 10 s")

    result, begun, slowest = Trials("images"), time.monotonic(), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, late)
    try:
        for name, content in generate(seed, trials):
            result.trials += 1
            signal.alarm(10)
            start = time.monotonic()
            try:
                pixels = decode_image(content, name)
                right = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype.name == "uint8"
                result.count("decoded" if right else "wrong")
                result.lost += [] if right else [f"{name}: {pixels.shape} {pixels.dtype}"]
            except ValueError as error:
                result.count("refused")
                if name not in str(error) or "\n" in str(error):
                    result.lost.append(f"{name}: {error}")
            except BaseException as error:
                result.lost.append(f"{name}: {error!r}")
            slowest = max(slowest, time.monotonic() - start)
            signal.alarm(0)
            result.finished += 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1 if sys.platform == "darwin" else 1024)
    result.seen["MB of memory more at most"] = round(grown)
    result.seen["ms for the slowest"] = round(1000 * slowest)
    result.seconds = time.monotonic() - begun
    return result
