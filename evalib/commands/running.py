"""What every training does and says on the command line: its head, a line per epoch, the result, the figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalib.commands.results import evaluated, print_augmented, print_evaluation, write_all_figures
from evalib.recipes import WIDE_MODELS, Recipe

if TYPE_CHECKING:
    from torch import nn

    from evalib.data import ImageData
    from evalib.engine import Evaluation
    from evalib.execution import SingleDevice
    from evalib.history import History

KEEPING = ("mirror_dir", "save_steps", "keep_best", "accept_changes")


def run_training(
    arguments: argparse.Namespace, model: nn.Module, data: ImageData, recipe: Recipe, execution: SingleDevice,
    run_dir: Path,
) -> tuple[int, Evaluation | None]:  # fmt: skip
    """Train, test and draw; the exit code, and in the main process what the network says of the test images."""
    from evalib.distributed import speaks_first
    from evalib.engine import fit
    from evalib.rundir import RunDirectory

    _print_head(data, model, recipe, execution, run_dir)
    report = EpochLines(model, recipe, execution, data.image_size if arguments.bare_step else None)
    settings = {"device": arguments.device, "workers": arguments.workers, "on_epoch": report}
    # processes other than the main one know its place, and never touch it
    kept = RunDirectory(run_dir, **_keeping(arguments)) if execution.is_main else run_dir
    history = fit(model, data, recipe, run_dir=kept, **settings)
    report.tell(history)
    if history.interrupted:
        if execution.is_main:
            speaks_first()  # so that no other process reports that it lost this one
        print(f"\nStopped after epoch {len(history.epochs)} of {recipe.epochs}. The same command continues.")
        return 130, None
    evaluation = evaluated(model, data, execution)
    if not execution.is_main:
        return 0, None
    print_evaluation(evaluation, data.classes, data.name, f"seed {recipe.seed}")
    if (augmented := history.epochs[-1].test_accuracy_views) is not None:
        print_augmented(augmented, recipe.test_views)
    write_all_figures(run_dir, model, data, evaluation, history)
    return 0, evaluation


def _print_head(data: ImageData, model: nn.Module, recipe: Recipe, execution: SingleDevice, run_dir: Path) -> None:
    from evalib.rundir import CHECKPOINT_NAME

    print(
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images, {data.num_classes} classes, "
        f"{data.image_size} pixels, from {data.source}\n"
        f"{_describe_network(model, recipe)}\n"
        f"recipe {recipe.name}, {recipe.epochs} epochs, batch size {recipe.batch_size}, seed {recipe.seed}\n"
        f"{execution.describe()}, {str(execution.dtype).removeprefix('torch.')}\n"
        f"run directory {run_dir}",
        flush=True,
    )
    if (run_dir / CHECKPOINT_NAME).exists():
        print("It holds a checkpoint: the run continues from there.")


def _keeping(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the run directory is to be kept, as `RunDirectory` takes it."""
    return {name: value for name in KEEPING if (value := getattr(arguments, name, None)) is not None}


def _describe_network(model: nn.Module, recipe: Recipe) -> str:
    width = f", width {recipe.width}" if recipe.model in WIDE_MODELS else ""
    start = "random weights" if recipe.weights == "none" else f"weights: {recipe.weights}"
    frozen = f", {recipe.frozen_layers} convolution layers frozen" if recipe.frozen_layers else ""
    return f"{recipe.model}{width}: {sum(p.numel() for p in model.parameters()):,} parameters, {start}{frozen}"


class EpochLines:
    """Prints a line per epoch, what a person should know, and, if asked, the speed of the model step alone."""

    def __init__(self, model: nn.Module, recipe: Recipe, execution: SingleDevice, image_size: int | None) -> None:
        self.model, self.recipe, self.execution, self.image_size = model, recipe, execution, image_size
        self.told = 0

    def tell(self, history: History) -> None:
        """Print the notes that were not printed yet."""
        for note in history.notes[self.told :]:
            print(f"note: {note}", flush=True)
        self.told = len(history.notes)

    def __call__(self, history: History) -> None:
        self.tell(history)
        record = history.epochs[-1]
        line = (
            f"epoch {record.epoch:2d}/{self.recipe.epochs}  "
            f"train loss {record.train_loss:.4f} accuracy {record.train_accuracy:.2%}  "
            f"test loss {record.test_loss:.4f} accuracy {record.test_accuracy:.2%}  "
            f"{record.seconds:.0f} s, {record.images_per_second:.1f} images/s"
        )
        if self.image_size is not None:
            import torch

            from evalib.execution import bare_step_speed

            world = self.execution.world  # the step of one process, on its share of a batch
            images = torch.randn(self.recipe.batch_size // world, 3, self.image_size, self.image_size)
            labels = torch.zeros(len(images), dtype=torch.long)
            bare = world * bare_step_speed(self.model, images, labels, execution=self.execution)
            line += f"; bare step {bare:.1f}, ratio {record.images_per_second / bare:.2f}"
        if len(history.epochs) == 1:
            print(f"input {history.input}")
        print(line, flush=True)
