"""How a step is computed: device, precision, memory format, gradient scaling.

`SingleDevice` is the one seam of `fit` towards the hardware; `evalib.distributed.ManyProcesses` has the same members
and carries the same loop over several devices.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from evalib.runtime import describe_device, pick_device, pick_precision

T = TypeVar("T")


class SingleDevice:
    """One process on one device.

    Args:
        device: as `evalib.runtime.pick_device` takes it.
        precision: as `evalib.runtime.pick_precision` takes it.
    """

    rank, world = 0, 1  # which of how many processes this is
    is_main = True  # this process writes files and reports

    def __init__(self, device: str | torch.device | None = None, precision: str = "auto") -> None:
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def describe(self) -> str:
        """The device in words."""
        return describe_device(self.device)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the network to the device, in place, in its `memory_format`."""
        layout = memory_format(model, self.device)
        return model.to(self.device, memory_format=layout)  # type: ignore[call-overload,no-any-return]

    def replicated(self, model: nn.Module) -> nn.Module:
        """The network for training: its backward pass exchanges gradients with other processes; here there are none."""
        return model

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for the forward pass; parameters and loss stay float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """(N, C) float32 logits of (N, 3, H, W) float32 images."""
        images = images.to(self.device, memory_format=memory_format(model, self.device), non_blocking=True)
        with self.autocast():
            return model(images).float()

    def weighted(self, loss: Tensor, count: int) -> Tensor:
        """The mean loss over `count` images of this process, weighted by its share of all processes' images."""
        return loss

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the parameters."""
        self.scaler.scale(loss).backward()

    def update(self, optimizer: Optimizer) -> bool:
        """The optimizer's step with the gradients so far; False where float16 overflowed and the step was skipped."""
        scale = self.scaler.get_scale()  # 1.0 without a copy to the host unless float16 scales
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale

    def step(self, loss: Tensor, optimizer: Optimizer) -> bool:
        """Backward pass and optimizer step; False as `update`."""
        optimizer.zero_grad(set_to_none=True)
        self.backward(loss)
        return self.update(optimizer)

    def reduce(self, total: Tensor) -> Tensor:
        """Sum over all processes; here there is one."""
        return total

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Set each floating-point tensor to its mean over all processes."""

    def gather(self, part: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks."""
        return part

    def from_main(self, action: Callable[[], T]) -> T:
        """Let the main process do something; every process gets its result, or raises its exception."""
        return action()

    def first_on_host(self) -> AbstractContextManager[None]:
        """A block that one process of each host runs before its others."""
        return nullcontext()

    def close(self) -> None:
        """Leave the other processes, at the very end."""


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """The layout of weights and images for training: channels last, which convolutions are fastest in, if safe.

    On a CPU, oneDNN computes the gradients of the weights of a strided 1 x 1 convolution of channels-last images with
    fewer input channels than its vectors have lanes (16 with AVX-512) wrongly, or ends the process
    (github.com/uxlfoundation/oneDNN/issues/6035). A ResNet of width 8 has one. Such networks stay channels first.
    """
    unsafe = device.type == "cpu" and any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < 16
        for module in model.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last


def bare_step_speed(
    model: nn.Module, images: Tensor, labels: Tensor, *, execution: SingleDevice, steps: int = 5
) -> float:
    """Training images per second of the model step alone: the bound of any loop with this network and batch.

    Forward, backward and SGD step on one batch that lies on the device already, with the settings of `execution`, on a
    copy of the network.

    Args:
        model: logits from images.
        images: (B, 3, H, W) float32; random ones will do.
        labels: (B,) int64.
        execution: device and precision.
        steps: timed steps, after two that are not; their median counts.
    """
    private = execution.prepare(copy.deepcopy(model)).train()
    optimizer = torch.optim.SGD(private.parameters(), lr=1e-4, momentum=0.9)
    images, labels = (
        images.to(execution.device, memory_format=memory_format(private, execution.device)),
        labels.to(execution.device),
    )
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        execution.step(F.cross_entropy(execution.logits(private, images), labels), optimizer)
        if execution.device.type == "cuda":
            torch.cuda.synchronize(execution.device)
        seconds.append(time.perf_counter() - start)
    return len(images) / statistics.median(seconds[2:])
