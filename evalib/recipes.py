"""Recipes: everything that a training run depends on, as one frozen value that prints, compares and travels as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

MODEL_NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "alexnet_cam", "vgg19_cam")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "one_cycle", "cosine")
AUGMENTATIONS = ("none", "flip", "eva6", "cars")
GEOMETRIES = ("as_is", "resize", "center_crop")
STATISTICS = ("data", "imagenet")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


class UnknownNameError(KeyError, ValueError):
    """A name that is not in a list of names; its message gives the list."""

    def __str__(self) -> str:
        return str(self.args[0])


def check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Raise `UnknownNameError` listing `known` if `name` is not among them."""
    if name not in known:
        raise UnknownNameError(f"Unknown {kind} {name!r}. Known: {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training run.

    Attributes:
        name: what the recipe is called.
        model: one of `MODEL_NAMES`.
        width: channels of a ResNet's first stage, at least 8; 64 is the published network. The CAM networks have none.
        weights: what the network begins with: "none" (random), "imagenet", or the path of a file of weights.
        frozen_layers: that many convolution layers, from the first on, keep their weights.
        epochs: passes over the training images.
        batch_size: images per optimizer step.
        optimizer: "sgd", "adam" or "adamw".
        lr: learning rate; the peak of a one-cycle schedule.
        momentum: of SGD; Adam and AdamW keep their usual betas.
        nesterov: Nesterov's form of SGD's momentum.
        weight_decay: the optimizer's own weight decay, on all parameters.
        schedule: "constant", "step" (times `gamma` every `step_epochs` epochs), "one_cycle" (per step, up over
            `warmup` of all steps, down to 0 linearly) or "cosine" (per step, down to 0).
        label_smoothing: in [0, 1).
        l1: weight of the sum of absolute values of all parameters in the loss.
        l2: weight of half the sum of squares of all parameters in the loss.
        geometry: one of `GEOMETRIES`: images as they are, squeezed to `image_size`, or their middle of that size.
        image_size: height and width of the network's input in pixels; 0 with "as_is".
        statistics: mean and standard deviation to normalize by: those of the "data", or of "imagenet".
        augmentation: one of `AUGMENTATIONS`; "eva6" and "cars" are the albumentations pipelines of systems B and C.
        precision: "auto" takes the fastest that the device truly computes in.
        seed: of everything random: initial weights, order, augmentation.
        val_fraction: part of the training images split off for validation, in [0, 1).
    """

    name: str
    model: str = "resnet18"
    width: int = 64
    weights: str = "none"
    frozen_layers: int = 0
    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    step_epochs: int = 25
    gamma: float = 0.5
    warmup: float = 0.25
    label_smoothing: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    geometry: str = "as_is"
    image_size: int = 0
    statistics: str = "data"
    augmentation: str = "none"
    precision: str = "auto"
    seed: int = 1
    val_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_name("model", self.model, MODEL_NAMES)
        check_name("optimizer", self.optimizer, OPTIMIZERS)
        check_name("schedule", self.schedule, SCHEDULES)
        check_name("augmentation", self.augmentation, AUGMENTATIONS)
        check_name("geometry", self.geometry, GEOMETRIES)
        check_name("kind of statistics", self.statistics, STATISTICS)
        check_name("precision", self.precision, PRECISIONS)
        for field in ("width", "epochs", "batch_size", "step_epochs"):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 1: got {getattr(self, field)}.")
        for field in ("weight_decay", "l1", "l2", "frozen_layers", "image_size"):
            if getattr(self, field) < 0:
                raise ValueError(f"`{field}` must not be negative: got {getattr(self, field)}.")
        for field in ("momentum", "label_smoothing", "warmup", "val_fraction"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"`{field}` must lie in [0, 1): got {getattr(self, field)}.")
        if self.width < 8:  # torch 2.15 crashes in the backward pass of a 4-channel 1x1 convolution on AVX2 CPUs
            raise ValueError(f"`width` must be at least 8: got {self.width}.")
        if (self.geometry == "as_is") != (self.image_size == 0):
            raise ValueError(
                f"`image_size` must be 0 with geometry 'as_is' and positive with the others: "
                f"got {self.image_size} with {self.geometry!r}."
            )
        if self.lr <= 0:
            raise ValueError(f"`lr` must be positive: got {self.lr}.")

    def replace(self, **changes: Any) -> Recipe:
        """The same recipe with some settings changed; the name stays unless it is changed too."""
        known = tuple(field.name for field in dataclasses.fields(self))
        for name in changes:
            check_name("setting of a recipe", name, known)
        return dataclasses.replace(self, **changes)

    def difference(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Settings in which the two recipes differ, as {setting: (mine, other's)}."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def to_json(self) -> str:
        """The recipe as indented JSON; `Recipe.from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote; an unknown setting or a damaged text is a ValueError."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"The recipe is not valid JSON ({error}). It needs what `Recipe.to_json` writes."
            ) from error
        if not isinstance(values, dict) or "name" not in values:
            raise ValueError('A recipe is a JSON object with at least a "name".')
        known = tuple(field.name for field in dataclasses.fields(cls))
        for name in values:
            check_name("setting of a recipe", name, known)
        return cls(**values)


class _Named(dict[str, Recipe]):
    """Recipes by name; a missing one raises an error that lists them."""

    def __missing__(self, name: str) -> Recipe:
        raise UnknownNameError(f"Unknown recipe {name!r}. Known: {', '.join(self)}.")


# EVA6 session 8, "system B": 88.95 % on CIFAR-10's test images after 20 epochs. Its StepLR(25) never fires in
# 20 epochs; it stands here because it is part of that system.
EVA6 = Recipe(name="eva6", schedule="step", step_epochs=25, gamma=0.5, augmentation="eva6")

# For the shipped sample (5,000 images) on two CPU cores in under three minutes: a quarter of the channels, a tenth of
# the arithmetic's time; a one-cycle schedule because only that gets so far in 1,000 steps.
DEMO = Recipe(
    name="demo", width=16, epochs=10, batch_size=50, lr=0.1, nesterov=True, weight_decay=5e-4,
    schedule="one_cycle", label_smoothing=0.1, augmentation="flip",
)  # fmt: skip

# "System A": AlexNet and VGG19 with a CAM head on CIFAR-10 at ImageNet's size. It states 10 epochs and the learning
# rate; optimizer and batch size are ours. "center_crop" instead of "resize" is the other half of its comparison.
HPI_ALEXNET = Recipe(
    name="hpi-alexnet", model="alexnet_cam", weights="imagenet", epochs=10, batch_size=64, optimizer="adam", lr=1e-4,
    geometry="resize", image_size=224, statistics="imagenet",
)  # fmt: skip
HPI_VGG19 = HPI_ALEXNET.replace(name="hpi-vgg19", model="vgg19_cam")

# "System C": Stanford Cars. The augmentation is for training only; that system tested with it too.
CARS_ALEXNET = HPI_ALEXNET.replace(
    name="cars-alexnet", epochs=30, batch_size=4, lr=1e-5, image_size=256, augmentation="cars"
)

recipes = _Named({recipe.name: recipe for recipe in (EVA6, DEMO, HPI_ALEXNET, HPI_VGG19, CARS_ALEXNET)})
