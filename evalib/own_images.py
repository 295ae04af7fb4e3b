"""Your own images: a folder to a trained and explained network, in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evalib.data.folder import image_folder
from evalib.data.image_data import ImageData
from evalib.data.inspection import DataFacts, inspect_folder
from evalib.data.loaders import eval_loader
from evalib.download import DownloadError
from evalib.engine import Evaluation, evaluate, fit
from evalib.history import History
from evalib.imagenet_networks import imagenet_weights
from evalib.metrics import wilson_interval
from evalib.models import model_for
from evalib.own_folder import get_folder as get_folder
from evalib.own_recipe import are_small
from evalib.own_recipe import choose_recipe as choose_recipe
from evalib.recipes import Recipe, recipes
from evalib.report import write_figures
from evalib.rundir import CHECKPOINT_NAME, RECIPE_NAME
from evalib.runtime import pick_device


@dataclass(frozen=True, eq=False)
class Plan:
    """What would be trained on a folder, and why; `str()` says it.

    Attributes:
        facts: about the folder.
        data: its images, prepared for the recipe.
        recipe: how they would be trained on.
        reasons: in one line each, why so.
        notes: what a person should know beyond that, as that weights could not be had.
    """

    facts: DataFacts
    data: ImageData
    recipe: Recipe
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        reasons = [f"  {reason}" for reason in self.reasons]
        return "\n".join([str(self.facts), f"recipe {self.recipe.name}", *reasons, *(f"note: {n}" for n in self.notes)])


@dataclass(frozen=True, eq=False)
class OwnRun:
    """A network trained on a folder; `str()` says how good it is.

    Attributes:
        plan: facts, data, recipe and why.
        model: trained, on its device.
        history: epoch by epoch.
        evaluation: of the test images; None if the training was stopped before its end.
        run_dir: where everything is kept; `evalib report`, `app` and `predict` take it.
        figures: the files by name, as `evalib.report.write_figures` has them.
    """

    plan: Plan
    model: nn.Module
    history: History
    evaluation: Evaluation | None
    run_dir: Path
    figures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def data(self) -> ImageData:
        """The images, prepared for the recipe."""
        return self.plan.data

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know: of the plan, and of the training."""
        return (*self.plan.notes, *self.history.notes)

    def __str__(self) -> str:
        if self.evaluation is None:
            return (
                f"Stopped after epoch {len(self.history.epochs)} of {self.plan.recipe.epochs}; the same call continues."
            )
        return describe_result(self.evaluation, self.plan.facts)


def describe_result(evaluation: Evaluation, facts: DataFacts) -> str:
    """The test accuracy with its 95 % interval, beside that of always naming the most frequent class."""
    count = len(evaluation.labels)
    correct = int((evaluation.predictions == evaluation.labels).sum())
    low, high = wilson_interval(correct, count)
    lines = [
        f"test accuracy {correct / count:.1%}: {correct:,} of {count:,} images (95 % interval {low:.0%} to {high:.0%})",
        f"always naming {facts.most_frequent!r} would be right for {facts.baseline:.1%}",
    ]
    if low <= facts.baseline:
        lines.append("That is not clearly more: it takes more images, or more test images to tell.")
    return "\n".join(lines)


def find_weights(weights: str = "auto") -> tuple[str, tuple[str, ...]]:
    """What a network for photographs can begin with here, and what a person should know of it.

    Args:
        weights: "auto" takes ImageNet's if they are there or can be downloaded, else none, and says so; anything else
            is taken as it is.

    Returns:
        "imagenet", "none" or a file; and notes.
    """
    if weights != "auto":
        return weights, ()
    try:
        imagenet_weights()
    except DownloadError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.startswith("      ")), "")
        place = Path(torch.hub.get_dir(), "checkpoints")
        return "none", (
            f"There are no ImageNet weights here, and they could not be downloaded ({reason or error}). So a "
            "small network learns from nothing but your images: expect less of it, most of all with fewer than "
            "hundreds of images of each class. To do better, run this where there is a network, or place "
            f"https://download.pytorch.org/models/resnet18-f37072fd.pth in {place}, or name a file of such weights "
            "(`weights=`, --weights); then train into another run directory.",
        )
    return "imagenet", ()


def plan_folder(
    root: str | Path,
    *,
    recipe: Recipe | str | None = None,
    changes: Mapping[str, Any] | None = None,
    weights: str = "auto",
    test_fraction: float = 0.2,
    damaged: str = "skip",
    device: str | torch.device | None = None,
) -> Plan:
    """Look at a folder of images, choose a recipe, and decode the images for it.

    Args:
        root: the folder, as `evalib.data.image_folder` takes it.
        recipe: one, or its name; None chooses by `choose_recipe`.
        changes: settings instead of the recipe's, as {"epochs": 5}. The seed is that of the training only: the test
            images are the same for any.
        weights: as in `find_weights`; of no use with a recipe, which names its own.
        test_fraction: of the images of each class, where no test images are given.
        damaged: as in `image_folder`.
        device: where the network will be trained; None takes the best one here.

    Raises:
        FileNotFoundError, ValueError: as `image_folder`, or for an unknown recipe or setting.
    """
    facts = inspect_folder(root, test_fraction=test_fraction)
    notes: tuple[str, ...] = ()
    if recipe is None:
        if not are_small(facts):  # else none are looked for
            weights, notes = find_weights(weights)
        chosen, reasons = choose_recipe(facts, pick_device(device), weights=weights)
        changes = {name: value for name, value in (changes or {}).items() if name != "weights"}
    else:
        chosen, reasons = recipes[recipe] if isinstance(recipe, str) else recipe, ("as asked for",)
    changed = _changed(chosen, changes or {}, facts)
    for name, (_, value) in chosen.difference(changed).items():
        reasons += (f"{name.replace('_', ' ')}: {value}, {'as asked for' if name in (changes or {}) else 'to fit'}",)
    settings: dict[str, Any] = {"image_size": changed.image_size, "geometry": changed.geometry, "damaged": damaged}
    data = image_folder(root, **settings, test_fraction=test_fraction).prepared_for(changed)
    return Plan(facts, data, changed, reasons, notes)


def _changed(recipe: Recipe, changes: Mapping[str, Any], facts: DataFacts) -> Recipe:
    """A recipe with changes, and with what follows from them, and from a folder whose images have no one size."""
    changes = {name: value for name, value in changes.items() if value is not None}
    if recipe.geometry == "as_is" and "geometry" not in changes:
        fitting, _ = choose_recipe(facts, torch.device("cpu"), weights="none")
        changes = {"image_size": fitting.image_size, **changes, "geometry": fitting.geometry}
    if recipe.augmentation == "crop" and "image_size" in changes:
        changes.setdefault("crop_padding", changes["image_size"] // 8)
    recipe = recipe.replace(**changes)
    if sum(facts.counts["train"]) % recipe.batch_size == 1 < recipe.batch_size and "batch_size" not in changes:
        recipe = recipe.replace(batch_size=recipe.batch_size - 1)  # else the last image would be a batch of its own
    return recipe


def run_directory(root: str | Path, seed: int) -> Path:
    """Where a folder's run is kept if nothing else is said: `runs/<its name>-seed<seed>`."""
    return Path("runs", f"{Path(root).resolve().name}-seed{seed}")


def recipe_in(run_dir: Path) -> Recipe | None:
    """The recipe of a run that was begun, so that it continues even where another would be chosen now."""
    if not (run_dir / CHECKPOINT_NAME).exists() or not (run_dir / RECIPE_NAME).exists():
        return None
    return Recipe.from_json((run_dir / RECIPE_NAME).read_text("utf-8"))


def continued(plan: Plan, run_dir: Path) -> Plan:
    """A plan whose recipe is that of a run that was begun."""
    return dataclasses.replace(plan, reasons=(f"that of the run in {run_dir}, which continues",))


def train_folder(
    root: str | Path,
    run_dir: str | Path | None = None,
    *,
    recipe: Recipe | str | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    weights: str = "auto",
    test_fraction: float = 0.2,
    seed: int = 1,
) -> OwnRun:
    """Train a network on a folder of images, test it, and explain its mistakes, in one call.

    Called again, it continues where it was, by the recipe that it began with.

    Args:
        root: the folder, as `evalib.data.image_folder` takes it: `root/<class>/*`, or train and test folders of these.
        run_dir: where everything is kept; None takes `run_directory`.
        recipe, epochs, image_size, weights, test_fraction, seed: as in `plan_folder`.

    Raises:
        FileNotFoundError, ValueError: as `plan_folder`, or if the run directory holds another run.
        OSError: as `evalib.engine.fit`.
    """
    run_dir = run_directory(root, seed) if run_dir is None else Path(run_dir)
    begun = recipe_in(run_dir) if recipe is None else None
    plan = plan_folder(
        root, recipe=begun or recipe, changes={"epochs": epochs, "image_size": image_size, "seed": seed},
        weights=weights, test_fraction=test_fraction,
    )  # fmt: skip
    if begun is not None:
        plan = continued(plan, run_dir)
    return train_plan(plan, run_dir)


def train_plan(
    plan: Plan,
    run_dir: str | Path,
    *,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    on_epoch: Callable[[History], Any] | None = None,
) -> OwnRun:
    """Do what a plan says.

    Args:
        plan: as `plan_folder` makes it.
        run_dir: where everything is kept.
        device, progress, on_epoch: as in `evalib.engine.fit`.

    Raises:
        FileNotFoundError, DownloadError: if the recipe's weights are not to be had.
        ValueError, OSError: as `fit`.
    """
    check_outside(run_dir, plan)
    data, run_dir = plan.data, Path(run_dir)
    model = model_for(plan.recipe, data.num_classes)
    history = fit(model, data, plan.recipe, run_dir=run_dir, device=device, progress=progress, on_epoch=on_epoch)
    if history.interrupted:
        return OwnRun(plan, model, history, None, run_dir)
    evaluation = evaluate(model, eval_loader(data, device=next(model.parameters()).device))
    figures = write_figures(run_dir, model, data, evaluation, history=history)
    return OwnRun(plan, model, history, evaluation, run_dir, figures)


def check_outside(run_dir: str | Path, plan: Plan) -> None:
    """ValueError if a run directory lies in the folder of images: its figures would be taken for images of a class."""
    root = Path(plan.data.origin.root).resolve() if plan.data.origin else None
    if root is not None and root in (Path(run_dir).resolve(), *Path(run_dir).resolve().parents):
        raise ValueError(f"`run_dir` must lie outside the folder of images {root}: got {run_dir}.")
