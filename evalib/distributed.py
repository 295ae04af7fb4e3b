"""Several processes that train one network together, each on its own device, as torchrun and `accelerate launch` start.

The same recipe gives the same history as one process, to rounding: `batch_size` is that of all processes together,
each takes its share of every batch, gradients are those of the whole batch, and figures are taken over all images.
Only batch normalization differs: each process normalizes by its own share, as is usual (a ResNet18 of width 8 after an
epoch on the sample: training loss 1.936 by shares of 50 images, 1.943 by shares of 25); keep shares at 32 or more. Its
running statistics are averaged after every epoch.

Needs `accelerate`: pip install evalib[dist]. One host with 8 GPUs:

    torchrun --nproc_per_node 8 -m evalib train cifar10 --recipe fast --batch-size 2048
    accelerate launch --multi_gpu --num_processes 8 -m evalib train cifar10 --recipe fast --batch-size 2048

Two hosts with 8 GPUs each, with `--node_rank 0` on the one named HOST and `--node_rank 1` on the other:

    torchrun --nnodes 2 --node_rank 0 --master_addr HOST --nproc_per_node 8 -m evalib train cifar10 --batch-size 4096

Each host needs the dataset; the run directory is read and written by the main process (rank 0, on HOST) alone, so that
it need not be shared. A larger batch needs another learning rate: `--lr`. Without GPUs the processes compute on the CPU
(`accelerate launch --multi_gpu` too, whose `--cpu` starts only one). A script that calls `fit` is started in the same
way.

A process that fails ends the run: the launcher stops the others, which otherwise notice at their next exchange, or
after `TIMEOUT`. The same command continues after the last finished epoch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evalib.execution import SingleDevice
from evalib.runtime import pick_device

T = TypeVar("T")
# How long a process waits for the others: longer than rank 0 needs for a checkpoint, shorter than a person's patience.
TIMEOUT = timedelta(minutes=10)


def make_execution(device: str | torch.device | None = None, precision: str = "auto") -> SingleDevice:
    """How to compute in this process: `ManyProcesses` if a launcher started several, else `SingleDevice`.

    Args:
        device: as `evalib.runtime.pick_device` takes it; with several processes "cuda" or "cpu".
        precision: as `evalib.runtime.pick_precision` takes it.

    Raises:
        ImportError: if there are several processes, but no `accelerate`.
        ValueError: if there is no such device, or none for each process.
    """
    return ManyProcesses(device, precision) if launched_processes() > 1 else SingleDevice(device, precision)


def launched_processes() -> int:
    """How many processes a launcher started with this one, by the variables that torchrun sets; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def speaks_first() -> bool:
    """Whether this process is the first of all to report the end of the run; of one failure all processes hear."""
    if launched_processes() == 1:
        return True
    try:  # the launcher keeps this store, whatever became of the processes
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))  # type: ignore[attr-defined]
        return store.add(f"evalib/ended/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True


class ManyProcesses(SingleDevice):
    """One of several processes, each on its own device, with the members of `SingleDevice`.

    All processes must call the members that exchange something, in the same order: `replicated`, `backward` of a loss
    that came from a replicated network, `weighted`, `reduce`, `average`, `gather` and `from_main`.

    Args:
        device: "cuda", one GPU for each process of a host; "cpu"; None takes GPUs where there are any.
        precision: as `evalib.runtime.pick_precision` takes it.

    Raises:
        ImportError: without `accelerate`.
        ValueError: for another device, or fewer GPUs than processes on this host.
    """

    def __init__(self, device: str | torch.device | None = None, precision: str = "auto") -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ImportError as error:
            raise ImportError(
                "Training in several processes needs the package `accelerate`: pip install accelerate (or "
                "evalib[dist]). Without it, start one process, with neither torchrun nor `accelerate launch`."
            ) from error
        kind = _kind_for_all(device)
        settings = [DistributedDataParallelKwargs(broadcast_buffers=False), InitProcessGroupKwargs(timeout=TIMEOUT)]
        with _together():
            # float16's scaler and mixed precision are SingleDevice's: here as there
            self._accelerator: Any = Accelerator(cpu=kind == "cpu", mixed_precision="no", kwargs_handlers=settings)
        super().__init__(self._accelerator.device, precision)
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self.is_main = self.rank == 0

    def describe(self) -> str:
        """The devices in words."""
        return f"{self.world} processes, each: {super().describe()}"

    def replicated(self, model: nn.Module) -> nn.Module:
        """The network for training: its backward pass averages gradients over all processes.

        It holds `model` itself, whose parameters become those of the main process.
        """
        with _together(), warnings.catch_warnings():
            # torch has another name for `broadcast_buffers`, which accelerate passes on
            warnings.simplefilter("ignore", FutureWarning)
            return self._accelerator.prepare_model(model)  # type: ignore[no-any-return]

    def weighted(self, loss: Tensor, count: int) -> Tensor:
        """The mean loss over this process's `count` images, times its share: the mean over processes is then the mean
        over all images, also where the processes have different numbers of them."""
        everywhere = self.reduce(torch.full((), float(count), device=self.device))
        return loss * (count * self.world / everywhere)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, averaged over all processes, to those of the parameters."""
        with _together(), warnings.catch_warnings():
            # two ways to write the strides of a 1 x 1 convolution's filters, channels last: the same memory
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            super().backward(loss)

    def reduce(self, total: Tensor) -> Tensor:
        """Sum over all processes."""
        with _together():
            return self._accelerator.reduce(total, "sum")  # type: ignore[no-any-return]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Set each floating-point tensor to its mean over all processes."""
        with _together(), torch.no_grad():
            for tensor in tensors:
                if tensor.is_floating_point():
                    tensor.copy_(self._accelerator.reduce(tensor, "mean"))

    def gather(self, part: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks; (N, ...) from (n, ...), n may differ."""
        with _together():
            counts = self._accelerator.gather(torch.tensor([len(part)], device=self.device)).tolist()
            padded = torch.cat([part, part.new_zeros(max(counts) - len(part), *part.shape[1:])])
            parts = self._accelerator.gather(padded).split(max(counts))
        return torch.cat([rows[:count] for rows, count in zip(parts, counts, strict=True)])

    def from_main(self, action: Callable[[], T]) -> T:
        """Let the main process do something; every process gets its result, or raises its exception."""
        from accelerate.utils import broadcast_object_list

        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = action()
            except Exception as error:
                outcome[1] = error
        with _together():
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]  # type: ignore[no-any-return]

    def first_on_host(self) -> AbstractContextManager[None]:
        """A block that one process of each host runs before its others: a download into a folder that they share."""
        return self._accelerator.local_main_process_first()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Leave the other processes, at the very end."""
        self._accelerator.end_training()


def _kind_for_all(device: str | torch.device | None) -> str:
    """ "cuda" or "cpu"; with "cuda" the GPU of this process is the current one."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device in (None, "auto") else str(device)
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"With several processes `device` must be 'cuda' (one GPU for each) or 'cpu': got {kind!r}.")
    if kind == "cuda":
        here, local_rank = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available() and torch.cuda.device_count() < here:
            raise ValueError(
                f"{here} processes on this host need as many GPUs: it has {torch.cuda.device_count()}. "
                "Start one process for each GPU, or pass the device 'cpu'."
            )
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        pick_device(kind)
    return kind


@contextmanager
def _together() -> Iterator[None]:
    """Say what it means if an exchange between processes breaks off."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        raise ConnectionError(
            f"Process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} lost another one, which ended or did "
            f"not answer for {TIMEOUT.total_seconds():.0f} seconds. Look for that one's message; the same command "
            "continues after the last finished epoch."
        ) from error
