"""A run of a recipe: network, data, optimizer and what follows them, and the state from which it can be taken up."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from evalib.averaging import Lookahead
from evalib.checkpoint import Checkpoint
from evalib.data.image_data import ImageData
from evalib.data.loaders import Loader, eval_loader, train_loader
from evalib.data.order import batch_indices
from evalib.data.resident import choose_path
from evalib.epoch import EpochResult, EpochState, run_epoch
from evalib.evaluation import evaluate
from evalib.execution import SingleDevice
from evalib.history import EpochRecord, History
from evalib.interrupts import StopRequest
from evalib.optim import make_optimizer, make_scheduler
from evalib.recipes import Recipe
from evalib.runtime import derived_seed
from evalib.training_step import NonFiniteLossError, TrainingStep


class TrainingRun:
    """The moving parts of one call of `fit`.

    Args:
        model: on the device of `execution` already.
        data: prepared for the recipe, with its validation split.
        recipe: what to do.
        execution: device, precision, other processes.
        workers: processes for augmentation; None takes the number of cores, at most 4.
        history: of the epochs done; grows.
    """

    def __init__(
        self, model: nn.Module, data: ImageData, recipe: Recipe, execution: SingleDevice, workers: int | None,
        history: History,
    ) -> None:  # fmt: skip
        self.model, self.data, self.recipe, self.execution, self.history = model, data, recipe, execution, history
        network = execution.replicated(model)  # first of all: it gives all processes the same weights
        where: dict[str, Any] = {"workers": workers, "device": execution.device}
        where["shard"] = execution.rank, execution.world
        self.input = execution.from_main(lambda: choose_path(data, recipe, execution.device))
        self.train_loader: Loader = train_loader(data, recipe, path=self.input.kind, **where)
        self.eval_loaders = {name: eval_loader(data, name, **where) for name in data.splits() if name != "train"}
        self.optimizer = make_optimizer(model, recipe)
        self.scheduler = make_scheduler(self.optimizer, recipe, len(self.train_loader))
        total = recipe.epochs * len(self.train_loader)
        self.averaging = Lookahead(model, total) if recipe.averaging == "lookahead" else None
        self.step = TrainingStep(
            network, self.optimizer, scheduler=self.scheduler, execution=execution,
            loss_fn=nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
            penalties=(recipe.l1, recipe.l2), averaging=self.averaging,
        )  # fmt: skip
        self.state = EpochState()

    def epoch(self, after_step: Callable[[], None], stop: StopRequest) -> None:
        """Train and test for one epoch, or for what the state leaves of it; the history gets its record.

        Args:
            after_step: called after every step.
            stop: asked after every batch of an evaluation.

        Raises:
            FloatingPointError: naming epoch, step, learning rate and images, if a loss is not finite.
            evalib.interrupts.Stopped: with a state from which `epoch` goes on.
        """
        number = len(self.history.epochs) + 1
        if self.state.step == 0:  # for networks that draw, as dropout does
            torch.manual_seed(derived_seed(self.recipe.seed, "step", number, self.execution.rank))
        self.train_loader.set_epoch(number, self.state.step)
        in_parts = self.step.part_size is not None

        def stepped() -> None:
            nonlocal in_parts
            if self.step.part_size is not None and not in_parts:
                in_parts = True
                self._tell_parts(number)
            after_step()

        try:
            result = run_epoch(self.step, self.train_loader, self.state, stepped)
        except NonFiniteLossError as error:
            raise FloatingPointError(self._where(error, number)) from error
        self.history.epochs.append(self._record(number, result, stop))
        self.state = EpochState()

    def _tell_parts(self, epoch: int) -> None:
        note = (
            f"Memory ran out: from epoch {epoch}, step {self.state.step} on a batch is computed in two parts "
            f"of at most {self.step.part_size} images."
        )
        self.history.notes.append(note)
        warnings.warn(note, RuntimeWarning, stacklevel=2)

    def _where(self, error: NonFiniteLossError, epoch: int) -> str:
        step, recipe = self.state.step + (not error.late), self.recipe
        images = batch_indices(len(self.data.train), recipe.batch_size, recipe.seed, epoch, step).tolist()
        shown = ", ".join(map(str, images[:8])) + (", ..." if len(images) > 8 else "")
        return (
            f"The training loss became {error.loss} in epoch {epoch}, step {step} of {len(self.train_loader)}, with "
            f"the learning rate {error.lr:g} and the training images {shown}. Lower the learning rate, or look at "
            "these images; what was saved before stays."
        )

    def _record(self, epoch: int, result: EpochResult, stop: StopRequest) -> EpochRecord:
        found = {
            name: evaluate(self.model, stop.between(batches), execution=self.execution)
            for name, batches in self.eval_loaders.items()
        }
        val, views = found.get("val"), self.recipe.test_views
        augmented = None
        if views > 1 and epoch == self.recipe.epochs:
            batches = stop.between(self.eval_loaders["test"])
            augmented = evaluate(self.model, batches, execution=self.execution, views=views)
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

    def checkpoint(self) -> Checkpoint:
        """All that continues the run from here.

        Raises:
            FloatingPointError: if a loss or a weight is not finite: such a state is worth nothing.
        """
        self.step.watch.flush()
        weights = self.model.state_dict()
        floats = [tensor for tensor in weights.values() if tensor.is_floating_point()]
        if not torch.stack([tensor.isfinite().all() for tensor in floats]).all():
            epoch = len(self.history.epochs) + (self.state.step > 0)
            raise FloatingPointError(
                f"Weights of the network became NaN or infinite in epoch {epoch}. Lower the learning rate; what was "
                "saved before stays."
            )
        return Checkpoint(
            weights=weights,
            recipe=self.recipe,
            classes=self.data.classes,
            mean=self.data.mean,
            std=self.data.std,
            image_size=self.data.image_size,
            geometry=self.data.geometry,
            filters=dict(self.data.filters),
            dataset=self.data.name,
            origin=self.data.origin,
            train_images=len(self.data.train),
            epoch=len(self.history.epochs),
            step=self.state.step,
            metrics=self.history.to_dict(),
            training={name: part.state_dict() for name, part in self._parts().items()} | {"epoch": self._epoch_state()},
        )

    def _parts(self) -> dict[str, Any]:
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.execution.scaler}
        return parts if self.averaging is None else {**parts, "averaging": self.averaging}

    def _epoch_state(self) -> dict[str, Any]:
        """What is between two epochs' ends: totals so far, and the random numbers that networks draw."""
        random = {"cpu": torch.get_rng_state()}
        if self.execution.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.execution.device)
        totals, seconds = self.state.totals, self.state.seconds
        return {"totals": totals, "seconds": seconds, "random": random, "part_size": self.step.part_size}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint; of one with another recipe what fits, from its last finished epoch."""
        self.model.load_state_dict(checkpoint.weights)
        if set(checkpoint.recipe.difference(self.recipe)) - {"epochs"}:
            self._adopt(checkpoint)
            return
        for name, part in self._parts().items():
            part.load_state_dict(checkpoint.training[name])
        epoch = checkpoint.training.get("epoch", {})  # older files have none, and no steps
        self.step.part_size = epoch.get("part_size")
        if checkpoint.step:
            self.state = EpochState(checkpoint.step, epoch["totals"].to(self.execution.device), epoch["seconds"])
            torch.set_rng_state(epoch["random"]["cpu"])
            if "cuda" in epoch["random"] and self.execution.device.type == "cuda":
                torch.cuda.set_rng_state(epoch["random"]["cuda"], self.execution.device)

    def _adopt(self, checkpoint: Checkpoint) -> None:
        """Go on with weights that another recipe trained: its moments where the optimizer is the same, our settings."""
        kept, ours = checkpoint.training["optimizer"], self.optimizer.state_dict()
        groups = [[len(group["params"]) for group in state["param_groups"]] for state in (kept, ours)]
        if checkpoint.recipe.optimizer == self.recipe.optimizer and groups[0] == groups[1]:
            self.optimizer.load_state_dict({**kept, "param_groups": ours["param_groups"]})
        done = checkpoint.epoch * len(self.train_loader)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of schedules that move before the optimizer does
            for _ in range(done):
                self.scheduler.step()
        if self.averaging is not None:
            self.averaging.load_state_dict({"steps": done, "slow": [tensor.clone() for tensor in self.averaging.fast]})
