"""The loops: `train_one_epoch`, `evaluate`, and `fit`, which runs a recipe and keeps its run directory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
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
from evalib.data.loaders import Loader, eval_loader, train_loader
from evalib.data.resident import choose_path
from evalib.distributed import make_execution
from evalib.evaluation import Batches as Batches
from evalib.evaluation import Evaluation as Evaluation
from evalib.evaluation import evaluate as evaluate
from evalib.execution import SingleDevice
from evalib.history import EpochRecord, History
from evalib.initialization import batch_norm_momentum, initialize
from evalib.optim import make_optimizer, make_scheduler, penalty
from evalib.progress import progress_bar
from evalib.recipes import Recipe
from evalib.rundir import open_run
from evalib.runtime import compiled, keep_freed_memory, train_mode

_SINGLE_IMAGE = "BatchNorm has no statistics of one image. Choose another `batch_size`, of at least 2."


@dataclass(frozen=True)
class EpochResult:
    """Training figures of one epoch: cross-entropy and accuracy over `images` images, and its `seconds`."""

    loss: float
    accuracy: float
    images: int
    seconds: float


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
    """Train over all batches once. Loss and accuracy stay on the device until the end: no step waits for the host.

    Args:
        model: logits (N, C) from images (N, 3, H, W); trained in place, its mode is put back afterwards. With several
            processes what `execution.replicated` made of it.
        loader: batches (images, labels), images normalized float32, labels int64.
        optimizer: over the model's parameters.
        scheduler: stepped after every optimizer step.
        execution: device and precision; None takes the model's device and float32.
        loss_fn: from logits and labels to the mean loss to minimize.
        penalties: (l1, l2) as `evalib.optim.penalty` takes them.
        averaging: of the weights, stepped after every optimizer step.

    Returns:
        The plain cross-entropy and accuracy per image, seen while training, over the images of all processes.

    Raises:
        ValueError: if there is no batch, or one has a single image and the network normalizes by batch.
        FloatingPointError: if the loss is not finite.
    """
    execution = execution or SingleDevice(next(model.parameters()).device, "float32")
    needs_two_images = _has_batch_norm(model)
    dtype = torch.float32 if execution.device.type == "mps" else torch.float64  # MPS has no float64
    totals = torch.zeros(3, dtype=dtype, device=execution.device)  # loss, right predictions, images
    start = time.perf_counter()
    with train_mode(model):
        for images, labels in loader:
            if needs_two_images and len(images) == 1:
                raise ValueError(f"A training batch has a single image: {_SINGLE_IMAGE}")
            logits = execution.logits(model, images)
            labels = labels.to(logits.device, non_blocking=True)
            loss = execution.weighted(loss_fn(logits, labels), len(images))
            stepped = execution.step(loss + penalty(model, *penalties), optimizer)
            for follower in (scheduler, averaging) if stepped else ():
                if follower is not None:
                    follower.step()
            with torch.no_grad():
                plain_loss, correct = F.cross_entropy(logits, labels, reduction="sum"), logits.argmax(dim=1) == labels
                totals[:2] += torch.stack([plain_loss.to(dtype), correct.sum().to(dtype)])
                totals[2] += len(images)
    # running statistics, which each process took of its own images, and the averages of them
    execution.average([*model.buffers(), *(averaging.slow if averaging else ())])
    loss, right, images_total = execution.reduce(totals).tolist()  # waits for the device, once
    if images_total == 0:
        raise ValueError("`loader` gave no batch; training needs at least one.")
    loss /= images_total
    if not math.isfinite(loss):
        raise FloatingPointError(f"The training loss became {loss}. Lower the learning rate.")
    return EpochResult(loss, right / images_total, int(images_total), seconds=time.perf_counter() - start)


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    run_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    progress: bool | None = None,
    on_epoch: Callable[[History], Any] | None = None,
) -> History:
    """Train `model` by a recipe and test it after every epoch; with a run directory, keep everything there.

    The run directory gets `recipe.json`, `history.json` and the checkpoint `last.pt` after every epoch. Called again on
    it, `fit` continues after the last finished epoch; everything random derives from (seed, epoch). Ctrl-C ends the run
    early: the history so far is returned, with `interrupted` set, and the files of the last finished epoch stay.

    Started in several processes (`evalib.distributed`), all train this one network; the main one reads and writes the
    run directory, shows the bar and calls `on_epoch`.

    Args:
        model: from `evalib.models.build_model`; trained in place, moved to the device.
        data: its `test` split is only ever reported; choose by `val` (the recipe's `val_fraction` splits it off).
        recipe: what to do.
        run_dir: folder to keep the run in; None keeps nothing.
        device: None takes the best one here.
        workers: processes for augmentation with albumentations; None takes the number of cores, at most 4.
        progress: show a bar with the time left; None shows it in notebooks and terminals.
        on_epoch: called with the history after every epoch.

    Raises:
        ValueError: if the data or the batch size cannot be trained on, or the directory holds a run of another recipe.
        OSError: before the first epoch, if the run directory cannot be written.
        FloatingPointError: if the loss is not finite; the last checkpoint stays.
    """
    keep_freed_memory()
    execution = make_execution(device, recipe.precision)
    data = _splits_for(data, recipe)
    _check_batches(model, len(data.train), recipe.batch_size, execution.world)
    folder, checkpoint = execution.from_main(lambda: open_run(run_dir, recipe, data))
    model = execution.prepare(model)
    if checkpoint is None:
        initialize(model, data, recipe)
    run = _Run(model, data, recipe, execution, workers)
    history = History() if checkpoint is None else run.resume(checkpoint)
    history.device, history.input = execution.describe(), str(run.input)
    history.train_images, history.test_images = len(data.train), len(data.test)
    steps = len(run.train_loader)
    bar_steps = {"total": recipe.epochs * steps, "initial": len(history.epochs) * steps}
    with (
        (execution.is_main and folder) or nullcontext(),
        batch_norm_momentum(model, recipe.batch_norm_momentum),
        compiled(model, recipe.compile),
        progress_bar(progress if execution.is_main else False, desc="training", unit="step", **bar_steps) as bar,
    ):
        try:
            for epoch in range(len(history.epochs) + 1, recipe.epochs + 1):
                history.epochs.append(run.epoch(epoch, bar))
                if folder is not None:
                    execution.from_main(lambda: folder.save(run.checkpoint(history), history))
                if on_epoch is not None and execution.is_main:
                    on_epoch(history)
        except KeyboardInterrupt:
            history.interrupted = len(history.epochs) < recipe.epochs
    return history


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
    if _has_batch_norm(model) and 1 in (smallest, batch_size // world):
        raise ValueError(
            f"`batch_size` {batch_size} makes a batch of a single image out of {images:,} training images"
            f"{f' for {world} processes' if world > 1 else ''}: {_SINGLE_IMAGE}"
        )


def _counted(batches: Batches, bar: Any) -> Batches:
    """The same batches; the progress bar moves after each has been worked on."""
    for batch in batches:
        yield batch
        bar.update()


class _Run:
    """The moving parts of one call of `fit`."""

    def __init__(
        self, model: nn.Module, data: ImageData, recipe: Recipe, execution: SingleDevice, workers: int | None
    ) -> None:
        self.model, self.data, self.recipe, self.execution = model, data, recipe, execution
        self.network = execution.replicated(model)  # first of all: it gives all processes the same weights
        shard = execution.rank, execution.world
        where: dict[str, Any] = {"workers": workers, "device": execution.device, "shard": shard}
        self.input = execution.from_main(lambda: choose_path(data, recipe, execution.device))
        self.train_loader: Loader = train_loader(data, recipe, path=self.input.kind, **where)
        self.eval_loaders = {name: eval_loader(data, name, **where) for name in data.splits() if name != "train"}
        self.optimizer = make_optimizer(model, recipe)
        self.scheduler = make_scheduler(self.optimizer, recipe, len(self.train_loader))
        self.loss_fn = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        total = recipe.epochs * len(self.train_loader)
        self.averaging = Lookahead(model, total) if recipe.averaging == "lookahead" else None

    def resume(self, checkpoint: Checkpoint) -> History:
        """Take over the state of a checkpoint; returns its history."""
        self.model.load_state_dict(checkpoint.weights)
        for name, part in self._training_parts().items():
            part.load_state_dict(checkpoint.training[name])
        return History.from_dict(checkpoint.metrics)

    def checkpoint(self, history: History) -> Checkpoint:
        """The state after the last epoch of the history."""
        return Checkpoint(
            weights=self.model.state_dict(),
            recipe=self.recipe,
            classes=self.data.classes,
            mean=self.data.mean,
            std=self.data.std,
            image_size=self.data.image_size,
            geometry=self.data.geometry,
            filters=dict(self.data.filters),
            dataset=self.data.name,
            epoch=len(history.epochs),
            metrics=history.to_dict(),
            training={name: part.state_dict() for name, part in self._training_parts().items()},
        )

    def _training_parts(self) -> dict[str, Any]:
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.execution.scaler}
        return parts if self.averaging is None else {**parts, "averaging": self.averaging}

    def epoch(self, epoch: int, bar: Any) -> EpochRecord:
        """Train and test for one epoch; moves the progress bar by one for every step."""
        self.train_loader.set_epoch(epoch)
        result = train_one_epoch(
            self.network,
            _counted(self.train_loader, bar),
            self.optimizer,
            scheduler=self.scheduler,
            execution=self.execution,
            loss_fn=self.loss_fn,
            penalties=(self.recipe.l1, self.recipe.l2),
            averaging=self.averaging,
        )
        found = {name: evaluate(self.model, part, execution=self.execution) for name, part in self.eval_loaders.items()}
        val, views = found.get("val"), self.recipe.test_views
        augmented = None
        if views > 1 and epoch == self.recipe.epochs:
            augmented = evaluate(self.model, self.eval_loaders["test"], execution=self.execution, views=views)
        return EpochRecord(
            epoch=epoch,
            train_loss=result.loss,
            train_accuracy=result.accuracy,
            test_loss=found["test"].loss,
            test_accuracy=found["test"].accuracy,
            seconds=result.seconds,
            images_per_second=result.images / result.seconds,
            lr=self.optimizer.param_groups[0]["lr"],
            val_loss=None if val is None else val.loss,
            val_accuracy=None if val is None else val.accuracy,
            test_accuracy_views=None if augmented is None else augmented.accuracy,
        )
