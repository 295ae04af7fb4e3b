"""Bad images and byte strings through the one loader, in a process that may crash or hang."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from evalib.data.decoding import decode_image
from tests.data.bad_images import generate
from tests.torture.child import CONTEXT, one_thread
from tests.torture.trials import Trials

MOST_SECONDS = 10.0
MOST_MEGABYTES = 1500.0  # the largest image that is allowed, three times over, and its file
Decode = Callable[[bytes, str], np.ndarray]


def images(folder: Path, trials: int, seed: int, decode: Decode = decode_image) -> Trials:
    """Pixels or one line for each, within ten seconds, in bounded memory."""
    result, begun, memory = Trials("images"), time.monotonic(), 0.0
    while result.trials < trials:
        here, there = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_child, args=(there, seed, result.trials, trials, decode))
        with one_thread():
            process.start()
        there.close()
        name = "the first image"
        try:
            while result.trials < trials:
                if not here.poll(60 if name == "the first image" else MOST_SECONDS):
                    process.kill()
                    raise EOFError
                name, outcome, fault, megabytes = here.recv()
                if outcome:  # else it is about to begin
                    result.trials += 1
                    result.finished += 1
                    result.count(outcome)
                    result.lost += [f"{name}: {fault}"] if fault else []
                    memory = max(memory, megabytes)
        except EOFError:
            process.join()
            result.trials += 1
            result.lost.append(f"{name}: a crash or a hang; the process ended with {process.exitcode}")
        process.join()
    result.seen["MB of memory more at most"] = round(memory)
    if memory > MOST_MEGABYTES:
        result.lost.append(f"{memory:.0f} MB of memory, more than {MOST_MEGABYTES:.0f}")
    result.seconds = time.monotonic() - begun
    return result


def _child(pipe: Connection, seed: int, first: int, count: int, decode: Decode) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # where libtiff and libjpeg complain
    before = _peak()
    for name, content in islice(generate(seed, count), first, None):
        pipe.send((name, "", "", 0.0))
        outcome, fault = _attempt(decode, content, name)
        pipe.send((name, outcome, fault, _peak() - before))


def _attempt(decode: Decode, content: bytes, name: str) -> tuple[str, str]:
    """What became of an image, and what is wrong with that, if anything is."""
    try:
        pixels = decode(content, name)
    except ValueError as error:
        one_line = name in str(error) and "\n" not in str(error)
        return "refused", "" if one_line else f"told as {str(error)!r}"
    except BaseException as error:
        return "failed", repr(error)
    right = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    return "decoded", "" if right else f"{pixels.shape} {pixels.dtype}"


def _peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
