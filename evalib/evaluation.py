"""Evaluation: what a network says of a set of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.execution import SingleDevice
from evalib.metrics import accuracy
from evalib.recipes import TEST_VIEWS
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


def evaluate(model: nn.Module, loader: Batches, *, execution: SingleDevice | None = None, views: int = 1) -> Evaluation:
    """Loss, accuracy and logits over every image of a loader; the model is left as it was found.

    Args:
        model: logits (N, C) from images (N, 3, H, W).
        loader: batches (images, labels).
        execution: device and precision; None takes the model's device and float32. With several processes each brings
            its shard of the images, in the order of their ranks, and gets the figures of all.
        views: of each image, whose logits are averaged (test-time augmentation): 1, 2 or 6 as `seen_from` makes them.

    Raises:
        ValueError: if there is no batch, or `views` is another number.
    """
    execution = execution or SingleDevice(next(model.parameters()).device, "float32")
    all_logits, all_labels = [], []
    with eval_mode(model), torch.inference_mode():
        for images, batch_labels in loader:
            weighted = [weight * execution.logits(model, view) for weight, view in seen_from(images, views)]
            all_logits.append(torch.stack(weighted).sum(dim=0))
            all_labels.append(batch_labels)
    if not all_logits:
        raise ValueError("`loader` gave no batch; evaluation needs at least one.")
    with torch.no_grad():  # outside of inference mode: its tensors could not be used with gradients later
        logits, labels = (execution.gather(torch.cat(parts)).cpu().clone() for parts in (all_logits, all_labels))
    loss = F.cross_entropy(logits.double(), labels).item()
    return Evaluation(loss, accuracy(logits, labels), logits, labels)


def seen_from(images: Tensor, views: int) -> Iterator[tuple[float, Tensor]]:
    """Views of images with their weights, which sum to 1 (Jordan 2024, arXiv:2404.00498, section 3).

    Args:
        images: (N, 3, H, W) float32.
        views: 1, the images; 2, also mirrored; 6, also both of them shifted by one pixel up and left, and down and
            right, with reflected borders, at half the weight of the two that are not shifted.

    Raises:
        ValueError: for another number of views.
    """
    if views not in TEST_VIEWS:
        raise ValueError(f"`views` must be one of {TEST_VIEWS}: got {views}.")
    shifted = [images]
    if views == 6:
        height, width = images.shape[2:]
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        shifted += [padded[:, :, start : start + height, start : start + width] for start in (0, 2)]
    weights = [1.0] if views < 6 else [0.5, 0.25, 0.25]
    for weight, view in zip(weights, shifted, strict=True):
        if views == 1:
            yield weight, view
        else:
            yield weight / 2, view
            yield weight / 2, view.flip(3)
