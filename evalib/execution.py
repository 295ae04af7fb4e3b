"""How a step is computed: device, precision, memory format, gradient scaling.

`SingleDevice` is the one seam of `fit` towards the hardware: another class with the same members can carry the same
loop over several devices.
"""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from evalib.runtime import pick_device, pick_precision


class SingleDevice:
    """One process on one device.

    Args:
        device: as `evalib.runtime.pick_device` takes it.
        precision: as `evalib.runtime.pick_precision` takes it.
    """

    is_main = True  # this process writes files and reports

    def __init__(self, device: str | torch.device | None = None, precision: str = "auto") -> None:
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the network to the device, in place, channels last: the layout that convolutions are fastest in."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for the forward pass; parameters and loss stay float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """(N, C) float32 logits of (N, 3, H, W) float32 images."""
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with self.autocast():
            return model(images).float()

    def step(self, loss: Tensor, optimizer: Optimizer) -> bool:
        """Backward pass and optimizer step; False where float16 overflowed and the step was skipped."""
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        scale = self.scaler.get_scale()  # 1.0 without a copy to the host unless float16 scales
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale

    def reduce(self, total: Tensor) -> Tensor:
        """Sum over all processes; here there is one."""
        return total


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
        images.to(execution.device, memory_format=torch.channels_last),
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
