"""One step of training: a batch forward and backward, the optimizer, and what can go wrong in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from evalib.averaging import Lookahead
from evalib.execution import SingleDevice
from evalib.optim import penalty


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite.

    Attributes:
        loss: its value.
        lr: the learning rate of its step.
        late: whether it is that of a step that was done already.
    """

    def __init__(self, loss: float, lr: float, late: bool) -> None:
        super().__init__(f"The training loss became {loss} (learning rate {lr:g}). Lower the learning rate.")
        self.loss, self.lr, self.late = loss, lr, late


class LossWatch:
    """Raises at the first loss that is not finite, without making a GPU wait: there a loss is read one step later."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, Any, float] | None = None

    def see(self, loss: Tensor, lr: float) -> None:
        """Look at the loss of this step, on a GPU at that of the step before."""
        if not loss.is_cuda:
            self._judge(loss.item(), lr)
            return
        self.flush()
        copy, copied = torch.empty((), pin_memory=True), torch.cuda.Event()
        copy.copy_(loss.detach(), non_blocking=True)
        copied.record()
        self._pending = copy, copied, lr

    def flush(self) -> None:
        """Look at the loss that was left for later, if there is one: before anything is saved."""
        if self._pending is not None:
            (copy, copied, lr), self._pending = self._pending, None
            copied.synchronize()
            self._judge(copy.item(), lr, late=True)

    @staticmethod
    def _judge(loss: float, lr: float, late: bool = False) -> None:
        if not math.isfinite(loss):
            raise NonFiniteLossError(loss, lr, late)


class TrainingStep:
    """A step of training on one batch.

    If memory runs out, the batch is computed in two halves, one after the other, whose gradients are added, and so is
    every later one: the same step, but for batch normalization, which then sees halves. The running statistics have
    seen the batch that failed, too.

    Args:
        model: logits (N, C) from images (N, 3, H, W); with several processes what `execution.replicated` made of it.
        optimizer: over the model's parameters.
        scheduler: stepped after every optimizer step.
        execution: device and precision; None takes the model's device and float32.
        loss_fn: from logits and labels to the mean loss to minimize.
        penalties: (l1, l2) as `evalib.optim.penalty` takes them.
        averaging: of the weights, stepped after every optimizer step.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, *, scheduler: LRScheduler | None = None,
        execution: SingleDevice | None = None, loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        penalties: tuple[float, float] = (0.0, 0.0), averaging: Lookahead | None = None,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.loss_fn, self.penalties = model, optimizer, loss_fn, penalties
        self.execution = execution or SingleDevice(next(model.parameters()).device, "float32")
        self.scheduler, self.averaging = scheduler, averaging
        self.watch = LossWatch()
        self.part_size: int | None = None  # at most so many images at once; None: the whole batch

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Train on a batch.

        Returns:
            (3,) on the device: the sum of the plain cross-entropies, right predictions, images.

        Raises:
            NonFiniteLossError: before the weights are changed; on a GPU one step later.
            MemoryError: if a half of the batch is too much as well.
        """
        totals = self._gradients(images, labels)
        if totals is None:
            self._halve(len(images))
            totals = self._gradients(images, labels)
        if totals is None:
            raise self._too_large(len(images))
        if self.execution.update(self.optimizer):
            for follower in (self.scheduler, self.averaging):
                if follower is not None:
                    follower.step()
        return totals

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Put the gradients of a batch where the optimizer takes them; None if memory ran out."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = math.ceil(len(images) / (self.part_size or len(images)))
        try:
            halves = zip(images.chunk(parts), labels.chunk(parts), strict=True)
            return torch.stack([self._part(*half, len(images)) for half in halves]).sum(dim=0)
        except (RuntimeError, MemoryError) as error:
            if not _memory_ran_out(error):
                raise
        return None  # not in the `except`: the error's traceback holds on to the tensors

    def _part(self, images: Tensor, labels: Tensor, batch: int) -> Tensor:
        """Forward and backward of a part of a batch of so many images; its totals as `__call__` gives them."""
        execution, share = self.execution, len(images) / batch
        logits = execution.logits(self.model, images)
        labels = labels.to(logits.device, non_blocking=True)
        loss = execution.weighted(self.loss_fn(logits, labels), len(images)) + penalty(self.model, *self.penalties)
        self.watch.see(loss, self.optimizer.param_groups[0]["lr"])
        execution.backward(loss if share == 1 else share * loss)
        with torch.no_grad():
            plain_loss, correct = F.cross_entropy(logits, labels, reduction="sum"), logits.argmax(dim=1) == labels
            count = torch.full_like(plain_loss, len(images))
            # MPS has no float64
            return torch.stack([plain_loss, correct.sum(), count]).to(torch.float32 if loss.is_mps else torch.float64)

    def _halve(self, batch: int) -> None:
        """From now on compute batches in two halves; MemoryError where that cannot help."""
        if self.part_size is not None or batch < 4 or self.execution.world > 1:  # others wait for as many parts
            raise self._too_large(batch)
        self.optimizer.zero_grad(set_to_none=True)
        if self.execution.device.type == "cuda":
            torch.cuda.empty_cache()
        self.part_size = math.ceil(batch / 2)

    def _too_large(self, batch: int) -> MemoryError:
        halves = f", also in halves of {self.part_size}" if self.part_size else ""
        return MemoryError(
            f"Not enough memory for a batch of {batch} images{halves}. Choose a smaller `batch_size`, such as "
            f"{max(2, batch // 4)}, a smaller `image_size` or a smaller network."
        )


def _memory_ran_out(error: BaseException) -> bool:
    """Whether an error says so: torch has a type for it on GPUs only."""
    names = ("out of memory", "DefaultCPUAllocator")
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(name in str(error) for name in names)
