"""Worker processes of a training that fail: an image damaged under way, a worker killed, one that stands still."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles
from evalib.engine import fit
from evalib.history import History
from evalib.rundir import RunDirectory
from evalib.transforms import Geometry
from tests.torture.child import CONTEXT, DATA, RECIPES, network, one_thread
from tests.torture.judge import faults, state_of
from tests.torture.trials import Trials

MOST_SECONDS = 60.0
RECIPE = RECIPES["workers"].replace(geometry="resize", image_size=32)


def image_files(folder: Path) -> ImageData:
    """The images of `DATA`, the training images as files that workers decode."""
    folder.mkdir()
    files = [folder / f"{number}.png" for number in range(len(DATA.train))]
    for file, image in zip(files, DATA.train.images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    train = Split(ImageFiles(files, Geometry("resize", 32)), DATA.train.labels)
    test = DATA.test.with_geometry(Geometry("resize", 32))
    return ImageData("files", DATA.classes, train, test, DATA.mean, DATA.std)


def workers(folder: Path, trials: int, seed: int) -> Trials:
    """The error says what happened, the process ends within a minute, and the run goes on to the same end."""
    result, draw, begun = Trials("workers"), random.Random(seed), time.monotonic()
    data = image_files(folder / "images")
    _, pipe = _start(data, folder / "whole", "nothing", 0, 0.0)
    if pipe.recv() != "end":
        raise RuntimeError("The undisturbed run failed.")
    expected = state_of(folder / "whole")
    for number in range(trials):
        deed = list(DEEDS)[number % len(DEEDS)]
        run_dir = folder / f"workers{number}"
        wrong = _trial(data, run_dir, deed, draw)
        result.count(deed)
        result.trials += 1
        _, pipe = _start(data, run_dir, "nothing", 0, 0.0)
        if (ended := pipe.recv() if pipe.poll(120) else "no end") == "end":
            result.finished += 1
            different = faults(run_dir, expected)
            result.identical += not different
            wrong += different
        else:
            wrong.append(f"the restart: {ended}")
        result.lost += [f"{run_dir.name}, {deed}: {fault}" for fault in wrong]
    result.seconds = time.monotonic() - begun
    return result


def _start(data: ImageData, run_dir: Path, deed: str, victim: int, wait: float) -> tuple[Any, Connection]:
    here, there = CONTEXT.Pipe(duplex=False)
    process: Any = CONTEXT.Process(target=_child, args=(data, run_dir, there, deed, victim, wait))
    with one_thread():
        process.start()
    there.close()
    return process, here


def _trial(data: ImageData, run_dir: Path, deed: str, draw: random.Random) -> list[str]:
    """What is wrong with how a process ends after a deed."""
    victim = draw.randrange(len(data.train))
    assert isinstance(data.train.images, ImageFiles)
    image = data.train.images.files[victim]
    whole = image.read_bytes()
    process, pipe = _start(data, run_dir, deed, victim, draw.choice([0.0, draw.uniform(0, 0.3)]))
    pids = pipe.recv()
    begun = time.monotonic()
    if deed == "a worker stands still":  # only the reader can know that: Ctrl-C, and again
        for _ in range(2):
            process.join(1)
            os.kill(process.pid, signal.SIGINT)
    ended = str(pipe.recv() if pipe.poll(MOST_SECONDS) else "nothing").replace(str(image), "THE IMAGE")
    if deed == "a worker stands still":
        for pid in filter(psutil.pid_exists, pids):
            os.kill(pid, signal.SIGCONT)  # till then it cannot end, and Python's exit waits for it
    process.join(max(0.1, MOST_SECONDS - (time.monotonic() - begun)))
    image.write_bytes(whole)
    wrong = [] if DEEDS[deed] in ended else [f"it ended with {ended}"]
    if process.exitcode is None:
        wrong.append(f"no end after {MOST_SECONDS:.0f} s")
        process.kill()
        process.join()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
    for worker in alive:
        worker.kill()
    return wrong + ([f"{len(alive)} workers live on"] if alive else [])


# What is done to a run, and what its end must say
DEEDS = {
    "an image is damaged": "Error: Cannot decode the image THE IMAGE (",
    "a worker is killed": "ChildProcessError: A worker process",
    "a worker stands still": "KeyboardInterrupt",
}


def _child(data: ImageData, run_dir: Path, pipe: Connection, deed: str, victim: int, wait: float) -> None:
    """Train; after the first epoch do the deed and send the ids of the workers, at last how it ended."""
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)

    def do(pids: list[int]) -> None:
        assert isinstance(data.train.images, ImageFiles)
        if deed == "an image is damaged":
            data.train.images.files[victim].write_bytes(b"\x89PNG\r\n")
        else:
            number = signal.SIGKILL if deed == "a worker is killed" else signal.SIGSTOP
            os.kill(pids[victim % len(pids)], number)
        pipe.send(pids)

    def on_epoch(history: History) -> None:
        if len(history.epochs) == 1 and deed != "nothing":
            threading.Timer(wait, do, [[worker.pid for worker in psutil.Process().children()]]).start()

    try:
        kept = RunDirectory(run_dir, save_steps=4)
        settings: dict[str, Any] = {"device": "cpu", "workers": 2, "progress": False, "on_epoch": on_epoch}
        history = fit(network("workers"), data, RECIPE, run_dir=kept, **settings)
        pipe.send("KeyboardInterrupt" if history.interrupted else "end")
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")
