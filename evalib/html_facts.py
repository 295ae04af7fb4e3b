"""What a report says of a run, as values: read from its directory, computed from its network and its test images."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from evalib.checkpoint import Checkpoint, load_model
from evalib.data.cifar10 import cifar10
from evalib.data.image_data import ImageData
from evalib.data.loaders import eval_loader
from evalib.data.origins import data_of, origin_of
from evalib.engine import evaluate
from evalib.execution import SingleDevice
from evalib.history import EpochRecord, History
from evalib.html_tested import Tested
from evalib.metrics import wilson_interval
from evalib.recipes import Recipe
from evalib.rundir import HISTORY_NAME, RECIPE_NAME, latest_checkpoint
from evalib.runtime import keep_freed_memory


@dataclass(eq=False)
class RunFacts:
    """A run as a report tells it.

    Attributes:
        folder: the run directory.
        name: what the report calls it.
        recipe: how it was trained.
        history: its epochs.
        checkpoint: its last one; None if there is none to read.
        model: its network, on the device; None likewise.
        data: what it was tested on, prepared for it; None if they were not found.
        test: what it says of the test images; None likewise.
        missing: what is missing and how to give it; empty if nothing is.
        notes: what else a reader should know.
    """

    folder: Path
    name: str
    recipe: Recipe
    history: History
    checkpoint: Checkpoint | None = None
    model: nn.Module | None = None
    data: ImageData | None = None
    test: Tested | None = None
    missing: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def last(self) -> EpochRecord | None:
        """The last finished epoch."""
        return self.history.epochs[-1] if self.history.epochs else None

    @property
    def accuracy(self) -> float | None:
        """On the test images: as measured for this report, else as the history says."""
        if self.test is not None:
            return self.test.evaluation.accuracy
        return None if self.last is None else self.last.test_accuracy

    @property
    def images(self) -> int:
        """Number of test images; 0 where it is not known."""
        return self.history.test_images if self.test is None else self.test.images

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy; None where it is not known of how many images it is."""
        if self.accuracy is None or not self.images:
            return None
        return wilson_interval(round(self.accuracy * self.images), self.images)

    @property
    def data_name(self) -> str:
        """What the data are called; empty where it is not known."""
        return self.data.name if self.data else self.checkpoint.dataset if self.checkpoint else ""

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        network = network_name(self.recipe)
        if self.accuracy is None:
            return f"{network} has not finished its first epoch yet."
        of = f"{self.images:,} test images" if self.images else "the test images"
        sentence = f"{network} names {100 * self.accuracy:.1f} % of {of} right"
        if self.interval:
            low, high = (100 * value for value in self.interval)
            sentence += f" (95 % interval {low:.1f} to {high:.1f} %)"
        return sentence + "."


def network_name(recipe: Recipe) -> str:
    """The network in words, as "ResNet18 of width 16"."""
    known = {"alexnet_cam": "AlexNet with a CAM head", "vgg19_cam": "VGG19 with a CAM head"}
    name = known.get(recipe.model, recipe.model.replace("resnet", "ResNet"))
    narrow = recipe.model.startswith("resnet") and recipe.width != 64
    return f"{name} of width {recipe.width}" if narrow else name


def read_run(
    folder: str | Path,
    *,
    data: ImageData | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
) -> RunFacts:
    """All that is known of a run without a map; its network is tested once more if the test images are found.

    Args:
        folder: the run directory; nothing in it is changed.
        data: its data, prepared or not; None loads them as the checkpoint says.
        data_dir: where they are; None for where they were.
        device: where the network runs; None takes the best one.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if its files are damaged, or `data` are of other classes.
    """
    folder = Path(folder)
    checkpoint, model, missing = _network(folder)
    recipe, history = _recipe(folder, checkpoint), _history(folder, checkpoint)
    facts = RunFacts(folder, folder.resolve().name, recipe, history, checkpoint, missing=missing)
    if checkpoint is None or model is None:
        return facts
    facts.model = SingleDevice(device, "float32").prepare(model)
    if data is not None:
        facts.data = _fitting(data, checkpoint)
    else:
        try:
            facts.data = _found(checkpoint, data_dir)
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            facts.missing = (
                f"The test images were not found: {reason} To see what is made from them, name their "
                "folder with --data-dir DIR, or in Python pass the data themselves, `data=data`."
            )
            return facts
    facts.test = _tested(facts.model, facts.data)
    _note_other_accuracy(facts)
    return facts


def _network(folder: Path) -> tuple[Checkpoint | None, nn.Module | None, str]:
    try:
        model, checkpoint = load_model(latest_checkpoint(folder))
    except FileNotFoundError as error:
        if not (folder / RECIPE_NAME).is_file():
            raise FileNotFoundError(
                f"{folder} is no run directory: it holds neither a checkpoint nor {RECIPE_NAME}. "
                "Name a folder that `evalib train` or `fit(..., run_dir=...)` wrote."
            ) from error
        return None, None, "The run has no checkpoint: all that needs its network is left out."
    return checkpoint, model, ""


def _recipe(folder: Path, checkpoint: Checkpoint | None) -> Recipe:
    if checkpoint is not None:
        return checkpoint.recipe
    return Recipe.from_json((folder / RECIPE_NAME).read_text())


def _history(folder: Path, checkpoint: Checkpoint | None) -> History:
    if (folder / HISTORY_NAME).is_file():
        return History.load(folder / HISTORY_NAME)
    return History.from_dict(checkpoint.metrics) if checkpoint is not None and checkpoint.metrics else History()


def _found(checkpoint: Checkpoint, root: str | Path | None) -> ImageData:
    """The data of a checkpoint, from this machine only: a report must not begin with a download."""
    origin = origin_of(checkpoint)
    if origin.kind != "cifar10":
        return data_of(checkpoint, root)
    train, test = origin.take
    data = cifar10(root or origin.root or "data", download=False).take(train=train, test=test)
    return data.prepared_for(checkpoint.recipe)


def _fitting(data: ImageData, checkpoint: Checkpoint) -> ImageData:
    if data.classes != checkpoint.classes:
        raise ValueError(
            f"`data` needs the classes that the network was trained on, {len(checkpoint.classes)} of "
            f"{checkpoint.dataset}: {data.name!r} has other ones."
        )
    return data.prepared_for(checkpoint.recipe)


def _tested(model: nn.Module, data: ImageData) -> Tested:
    device = next(model.parameters()).device
    loader = eval_loader(data, device=device)
    keep_freed_memory()
    start = time.perf_counter()
    evaluation = evaluate(model, loader, execution=SingleDevice(device, "float32"))
    return Tested(evaluation, data.classes, len(evaluation.labels) / (time.perf_counter() - start))


def _note_other_accuracy(facts: RunFacts) -> None:
    """Tell where the network, tested again, is not what the history says: other images, or another precision."""
    if facts.last is None or facts.test is None or facts.checkpoint is None:
        return
    known, found = facts.last.test_accuracy, facts.test.evaluation.accuracy
    if facts.checkpoint.epoch == facts.last.epoch and abs(known - found) * facts.test.images > 0.5:
        facts.notes.append(
            f"The history says {known:.2%} after epoch {facts.last.epoch}; tested again for this report, in float32, "
            f"the network names {found:.2%} right. Large differences mean other test images."
        )
