"""Worker processes that make batches: how many, and how they behave beside the training step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, Tensor]
KILLED = (
    "A worker process that makes batches was ended from outside; most often memory ran out. Use fewer workers, or "
    "none: `workers=0`, --workers 0."
)


def in_workers(
    batches: Dataset[Batch],
    sampler: Any,
    workers: int | None,
    device: torch.device,
    begin: Callable[[int], None] | None = None,
) -> FromWorkers:
    """Batches that worker processes make out of the sampler's items.

    Args:
        batches: a batch for each item.
        sampler: gives the items.
        workers: as `workers_here` takes it; 0 makes them in this process.
        device: where the batches will be.
        begin: called in each worker with its number, before anything else.
    """
    workers = workers_here(workers)
    loader = DataLoader(
        _ErrorsAsItems(batches),
        sampler=sampler,
        batch_size=None,  # the sampler's items are whole batches
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=begin or _leave_interrupts,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),  # else it draws from the global random numbers
    )
    return FromWorkers(loader)


class _ErrorsAsItems(Dataset[Any]):
    """An error in place of a batch: raised in a worker, torch would hand it on as a traceback in one long text."""

    def __init__(self, batches: Dataset[Batch]) -> None:
        self.batches = batches

    def __getitem__(self, item: Any) -> Batch | Exception:
        try:
            return self.batches[item]
        except Exception as error:
            return error


class FromWorkers:
    """Batches from worker processes; an error in one of them is raised here as it was there.

    Raises:
        ChildProcessError: an OSError, when iterated, if a worker was killed.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        with naming_killed_workers():
            batches = iter(self.loader)
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (ConnectionError, EOFError) as error:  # in the middle of a batch that a worker hands over
                    time.sleep(1)  # torch's own word about it comes with a signal, which ends this
                    raise ChildProcessError(KILLED) from error
                if isinstance(batch, Exception):
                    raise batch
                yield batch


@contextmanager
def naming_killed_workers() -> Iterator[None]:
    """Inside the block, torch's error about a worker that was killed says what that means, and what to do.

    torch raises it in whatever the main process is doing, mostly a training step.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(KILLED) from error


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; it is for the main one, which ends its workers in its own time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stand_back(worker: int) -> None:
    """Leave the cores to the training step: it waits for its slowest thread, a worker has batches to spare."""
    import cv2

    _leave_interrupts(worker)
    cv2.setNumThreads(0)  # else a thread per core in every worker
    if hasattr(os, "nice"):
        os.nice(10)


def available_cores() -> int:
    """Cores that this process may use; several that a launcher started on this host share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def workers_here(workers: int | None) -> int:
    """The number of worker processes that was asked for, at most one per core; None takes at most 4."""
    return min(available_cores(), 4 if workers is None else workers)
