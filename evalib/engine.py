"""The loops: `train_one_epoch`, `evaluate`, and `fit`, which runs a recipe and keeps its run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from evalib.averaging import Lookahead
from evalib.checkpoint import Checkpoint
from evalib.data.image_data import ImageData
from evalib.data.workers import naming_killed_workers
from evalib.distributed import make_execution
from evalib.epoch import SINGLE_IMAGE, EpochState, has_batch_norm, run_epoch
from evalib.epoch import EpochResult as EpochResult
from evalib.evaluation import Batches as Batches
from evalib.evaluation import Evaluation as Evaluation
from evalib.evaluation import evaluate as evaluate
from evalib.execution import SingleDevice
from evalib.history import History
from evalib.initialization import batch_norm_momentum, initialize
from evalib.interrupts import Stopped, StopRequest, stop_on_interrupt
from evalib.progress import progress_bar
from evalib.recipes import Recipe
from evalib.rundir import RunDirectory
from evalib.runtime import compiled, keep_freed_memory
from evalib.time_estimate import TimeEstimate
from evalib.training_run import TrainingRun
from evalib.training_step import TrainingStep


def train_one_epoch(
    model: nn.Module,
    loader: Batches,
    optimizer: Optimizer,
    *,
    scheduler: LRScheduler | None = None,
    execution: SingleDevice | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    penalties: tuple[float, float] = (0.0, 0.0),
    averaging: Lookahead | None = None,
) -> EpochResult:
    """Train over all batches once. Loss and accuracy stay on the device until the end: no step waits for a GPU.

    Args:
        model: logits (N, C) from images (N, 3, H, W); trained in place, its mode is put back afterwards.
        loader: batches (images, labels), images normalized float32, labels int64.
        optimizer: over the model's parameters.
        scheduler: stepped after every optimizer step.
        execution: device and precision; None takes the model's device and float32.
        loss_fn: from logits and labels to the mean loss to minimize.
        penalties: (l1, l2) as `evalib.optim.penalty` takes them.
        averaging: of the weights, stepped after every optimizer step.

    Returns:
        The plain cross-entropy and accuracy per image, seen while training.

    Raises:
        ValueError: if there is no batch, or one has a single image and the network normalizes by batch.
        FloatingPointError: if a loss is not finite; before that step changes the weights, on a GPU one step later.
        MemoryError: if memory is short even for a half of a batch.
    """
    settings: dict[str, Any] = {"scheduler": scheduler, "averaging": averaging, "penalties": penalties}
    step = TrainingStep(model, optimizer, execution=execution, loss_fn=loss_fn, **settings)
    return run_epoch(step, loader, EpochState())


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    run_dir: str | Path | RunDirectory | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    progress: bool | None = None,
    on_epoch: Callable[[History], Any] | None = None,
) -> History:
    """Train `model` by a recipe and test it after every epoch; with a run directory, keep everything there.

    The run directory gets `recipe.json`, `history.json` and the checkpoint `last.pt` after every epoch. Called again on
    it, `fit` continues where the checkpoint is, to the same result bit for bit on the same machine (on a GPU with
    deterministic algorithms only): everything random derives from (seed, epoch), or is kept.

    Ctrl-C ends the run after the step at hand: that state is saved, and the history so far returned with `interrupted`
    set; the same call continues. A second Ctrl-C ends it at once; then the checkpoint before counts, and the network
    may be in the middle of a step.

    Started in several processes (`evalib.distributed`), all train this one network; the main one reads and writes the
    run directory, shows the bar and calls `on_epoch`.

    Args:
        model: from `evalib.models.build_model`; trained in place, moved to the device.
        data: its `test` split is only ever reported; choose by `val` (the recipe's `val_fraction` splits it off).
        recipe: what to do.
        run_dir: folder to keep the run in, or a `RunDirectory`, which says how; None keeps nothing.
        device: None takes the best one here.
        workers: processes for augmentation with albumentations; None takes the number of cores, at most 4.
        progress: show a bar with the time left, and after some seconds how long all epochs will take; None shows it in
            notebooks and terminals.
        on_epoch: called with the history after every epoch.

    Returns:
        The history, whose `notes` say what a person should know: from where the run continued, what could not be saved.

    Raises:
        ValueError: if the data or the batch size cannot be trained on, or the directory holds a run of another recipe.
        OSError: before the first epoch, if the run directory cannot be written, or another process uses it.
        FloatingPointError: if the loss is not finite; the last checkpoint stays.
        MemoryError: if memory is short even for a half of a batch; the last checkpoint stays.
        ChildProcessError: an OSError, if a worker process was killed; likewise.
    """
    keep_freed_memory()
    execution = make_execution(device, recipe.precision)
    data = _splits_for(data, recipe)
    _check_batches(model, len(data.train), recipe.batch_size, execution.world)
    gpus = [execution.device] if execution.device.type == "cuda" else []
    with naming_killed_workers(), stop_on_interrupt(execution.world == 1) as stop, torch.random.fork_rng(gpus):
        folder, checkpoint = _begin(run_dir, recipe, data, execution)
        history = History() if checkpoint is None else History.from_dict(checkpoint.metrics)
        history.interrupted = False
        if folder is not None:  # one list: what the folder notes is in the history
            folder.notes[:0] = history.notes
            history.notes = folder.notes
        try:
            model = execution.prepare(model)
            if checkpoint is None:
                initialize(model, data, recipe)
            run = TrainingRun(model, data, recipe, execution, workers, history)
            if checkpoint is not None:
                run.resume(checkpoint)
            with batch_norm_momentum(model, recipe.batch_norm_momentum), compiled(model, recipe.compile):
                _train(run, folder, stop, progress, on_epoch)
        except KeyboardInterrupt:  # the second one, or where the first is not only noted
            history.interrupted = len(history.epochs) < recipe.epochs
        finally:
            if folder is not None:
                folder.close()
    return history


def _begin(
    run_dir: str | Path | RunDirectory | None, recipe: Recipe, data: ImageData, execution: SingleDevice
) -> tuple[RunDirectory | None, Checkpoint | None]:
    """The run directory, in the main process, and in all of them the checkpoint to continue from, where they exist."""
    if run_dir is None:
        return None, None
    folder: RunDirectory | None = None

    def begin() -> Checkpoint | None:
        nonlocal folder
        folder = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
        if folder.save_steps is not None and execution.world > 1:
            raise ValueError("`save_steps` is for one process: with several, a run continues at the end of an epoch.")
        return folder.begin(recipe, data)

    checkpoint = execution.from_main(begin)
    return folder, checkpoint


def _train(
    run: TrainingRun,
    folder: RunDirectory | None,
    stop: StopRequest,
    progress: bool | None,
    on_epoch: Callable[[History], Any] | None,
) -> None:
    """All epochs that are left; the folder is kept up to date, also where Ctrl-C stops them."""
    history, recipe, execution, steps = run.history, run.recipe, run.execution, len(run.train_loader)
    history.device, history.input = execution.describe(), str(run.input)
    history.train_images, history.test_images = len(run.data.train), len(run.data.test)
    done = len(history.epochs) * steps + run.state.step
    title = _title(run, steps)
    shown = progress if execution.is_main else False
    tested = history.test_images + len(run.data.val or ())
    estimate = TimeEstimate(recipe.epochs - done / steps, steps, tested / recipe.batch_size)

    with progress_bar(shown, desc=title, unit="step", total=recipe.epochs * steps, initial=done) as bar:

        def after_step() -> None:
            bar.set_postfix_str(estimate.after_step(), refresh=False)
            bar.update()
            every = None if folder is None else folder.save_steps
            if folder is not None and every and run.state.step % every == 0 and run.state.step < steps:
                folder.save(run.checkpoint(), history)
            stop.check()

        try:
            while len(history.epochs) < recipe.epochs:
                stop.check()
                run.epoch(after_step, stop)
                if folder is not None:
                    folder.save(run.checkpoint(), history)
                bar.set_postfix_str(estimate.after_epoch(), refresh=False)
                if on_epoch is not None and execution.is_main:
                    on_epoch(history)
        except Stopped:
            history.interrupted = True
            if folder is not None:
                folder.save(run.checkpoint(), history)


def _title(run: TrainingRun, steps: int) -> str:
    """What the bar is called; where a run continues, the history notes it."""
    history, step, epochs = run.history, run.state.step, run.recipe.epochs
    if not (history.epochs or step) or len(history.epochs) == epochs:
        return "training"
    within = f", step {step} of {steps}" if step else ""
    history.notes.append(f"Continued after epoch {len(history.epochs)} of {epochs}{within}.")
    return f"training on from epoch {len(history.epochs) + 1}"


def _splits_for(data: ImageData, recipe: Recipe) -> ImageData:
    """The data with the recipe's validation split; ValueError unless they are prepared for the recipe."""
    if recipe.val_fraction and data.val is None:
        data = data.split_validation(recipe.val_fraction, recipe.seed)
    prepared = data.prepared_for(recipe)
    if (data.geometry, data.mean, data.std) != (prepared.geometry, prepared.mean, prepared.std):
        raise ValueError(
            f"The recipe {recipe.name!r} wants images with {prepared.geometry} and {recipe.statistics} statistics: "
            f"got {data.geometry} and mean {data.mean}. Pass `data.prepared_for(recipe)`, here and from here on."
        )
    return data


def _check_batches(model: nn.Module, images: int, batch_size: int, world: int) -> None:
    if batch_size % world:
        raise ValueError(
            f"`batch_size` must be a multiple of the number of processes, which share each batch: got {batch_size} "
            f"for {world} processes. Choose another of the two."
        )
    smallest = (images % batch_size or batch_size) // world
    if has_batch_norm(model) and 1 in (smallest, batch_size // world):
        raise ValueError(
            f"`batch_size` {batch_size} makes a batch of a single image out of {images:,} training images"
            f"{f' for {world} processes' if world > 1 else ''}: {SINGLE_IMAGE}"
        )
