"""What `train` and `eval` both do with a trained network: test it, say how well it did, draw the figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from evalib.data import ImageData
    from evalib.engine import Evaluation
    from evalib.execution import SingleDevice
    from evalib.history import History


def execution_on(device: str | None, precision: str = "auto") -> SingleDevice:
    """Device and precision; before the first large tensor, the memory allocator of a CPU."""
    from evalib.distributed import make_execution
    from evalib.runtime import keep_freed_memory

    keep_freed_memory()
    return make_execution(device, precision)


def evaluated(model: nn.Module, data: ImageData, execution: SingleDevice, views: int = 1) -> Evaluation:
    """What the network says of the test images, by that many views of each."""
    from evalib.data.loaders import eval_loader
    from evalib.engine import evaluate

    loader = eval_loader(data, device=execution.device, shard=(execution.rank, execution.world))
    return evaluate(model, loader, execution=execution, views=views)


def print_evaluation(evaluation: Evaluation, classes: Sequence[str], dataset: str, note: str) -> None:
    """Accuracy per class, of cars also by their attributes, and at last the figure that counts."""
    from evalib.metrics import confusion_matrix, per_class_accuracy

    confusion = confusion_matrix(evaluation.predictions, evaluation.labels, len(classes))
    if len(classes) <= 25:
        for name, accuracy in zip(classes, per_class_accuracy(confusion).tolist(), strict=True):
            print(f"  {name:12s} {accuracy:6.1%}")
    if dataset == "stanford-cars" and _are_cars(classes):
        from evalib.car_errors import car_errors

        print(car_errors(evaluation, classes))
    wrong = int((evaluation.predictions != evaluation.labels).sum())
    print(
        f"test accuracy {evaluation.accuracy:.2%} on {len(evaluation.labels):,} images of {dataset} "
        f"({wrong:,} misclassified, loss {evaluation.loss:.4f}, {note})"
    )


def print_augmented(accuracy: float, views: int) -> None:
    """The second figure, which is never to be taken for the first."""
    print(f"with test-time augmentation, {views} views of each image: {accuracy:.2%}")


def _are_cars(classes: Sequence[str]) -> bool:
    from evalib.data.car_names import CAR_CLASSES

    return set(classes) <= set(CAR_CLASSES)


def write_all_figures(
    folder: Path, model: nn.Module, data: ImageData, evaluation: Evaluation, history: History | None
) -> None:
    """Draw and save every figure of a run; say where they are."""
    from evalib.report import write_figures

    start = time.perf_counter()
    files = write_figures(folder, model, data, evaluation, history=history)
    print(f"figures, {time.perf_counter() - start:.0f} s:")
    for name, path in files.items():
        print(f"  {name:10s} {path}")
