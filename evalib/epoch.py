"""An epoch of training: every batch once, with a state that it can be taken up from in the middle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from evalib.evaluation import Batches
from evalib.runtime import train_mode
from evalib.training_step import TrainingStep

SINGLE_IMAGE = "BatchNorm has no statistics of one image. Choose another `batch_size`, of at least 2."


@dataclass(frozen=True)
class EpochResult:
    """Training figures of one epoch: cross-entropy and accuracy over `images` images, and its `seconds`."""

    loss: float
    accuracy: float
    images: int
    seconds: float


@dataclass
class EpochState:
    """How far an epoch is.

    Attributes:
        step: batches done.
        totals: (3,) on the device: sum of the losses, right predictions, images; None before the first batch.
        seconds: of training so far.
    """

    step: int = 0
    totals: Tensor | None = None
    seconds: float = 0.0


def run_epoch(
    step: TrainingStep, batches: Batches, state: EpochState, after_step: Callable[[], None] | None = None
) -> EpochResult:
    """Train over batches, on from `state`, which moves along. Nothing in a step waits for a GPU.

    Args:
        step: trains on a batch.
        batches: those that the state has not seen, as (images, labels); images normalized float32, labels int64.
        state: how far the epoch is.
        after_step: called after every step; an exception from it leaves a state to continue from.

    Returns:
        The plain cross-entropy and accuracy per image, seen while training, over the images of all processes.

    Raises:
        ValueError: if there is no batch, or one has a single image and the network normalizes by batch.
        FloatingPointError: if a loss is not finite.
        MemoryError: if a half of a batch is too much.
    """
    needs_two_images, execution = has_batch_norm(step.model), step.execution
    before, start = state.seconds, time.perf_counter()
    with train_mode(step.model):
        for images, labels in batches:
            if needs_two_images and len(images) == 1:
                raise ValueError(f"A training batch has a single image: {SINGLE_IMAGE}")
            totals = step(images, labels)
            state.totals = totals if state.totals is None else state.totals + totals
            state.step, state.seconds = state.step + 1, before + time.perf_counter() - start
            if after_step is not None:
                after_step()
    step.watch.flush()
    if state.totals is None:
        raise ValueError("`loader` gave no batch; training needs at least one.")
    # running statistics, which each process took of its own images, and the averages of them
    execution.average([*step.model.buffers(), *(step.averaging.slow if step.averaging else ())])
    loss, right, images_total = execution.reduce(state.totals).tolist()  # waits for the device
    state.seconds = before + time.perf_counter() - start
    return EpochResult(loss / images_total, right / images_total, int(images_total), state.seconds)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the network normalizes by batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
