"""Evaluation: what a network says of a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.execution import SingleDevice
from evalib.metrics import accuracy
from evalib.runtime import eval_mode

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """What a network says of a set of images.

    Attributes:
        loss: mean cross-entropy over all images.
        accuracy: fraction in [0, 1] of them predicted right.
        logits: (N, C) float32 on the CPU, in the loader's order.
        labels: (N,) int64 on the CPU.
    """

    loss: float
    accuracy: float
    logits: Tensor
    labels: Tensor

    @property
    def predictions(self) -> Tensor:
        """(N,) int64 predicted classes."""
        return self.logits.argmax(dim=1)

    @property
    def probabilities(self) -> Tensor:
        """(N, C) float32, softmax of the logits."""
        return self.logits.softmax(dim=1)


def evaluate(model: nn.Module, loader: Batches, *, execution: SingleDevice | None = None) -> Evaluation:
    """Loss, accuracy and logits over every image of a loader; the model is left as it was found.

    Args:
        model: logits (N, C) from images (N, 3, H, W).
        loader: batches (images, labels).
        execution: device and precision; None takes the model's device and float32.

    Raises:
        ValueError: if there is no batch.
    """
    execution = execution or SingleDevice(next(model.parameters()).device, "float32")
    all_logits, all_labels = [], []
    with eval_mode(model), torch.inference_mode():
        for images, batch_labels in loader:
            all_logits.append(execution.logits(model, images))
            all_labels.append(batch_labels)
    if not all_logits:
        raise ValueError("`loader` gave no batch; evaluation needs at least one.")
    with torch.no_grad():  # outside of inference mode: its tensors could not be used with gradients later
        logits, labels = torch.cat(all_logits).cpu().clone(), torch.cat(all_labels).cpu().clone()
    loss = F.cross_entropy(logits.double(), labels).item()
    return Evaluation(loss, accuracy(logits, labels), logits, labels)
