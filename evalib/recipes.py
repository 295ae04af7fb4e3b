"""Recipes: everything that a training run depends on, as one frozen value that prints, compares and travels as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MODEL_NAMES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "alexnet_cam", "vgg19_cam", "resnet18_imagenet",
)  # fmt: skip
WIDE_MODELS = MODEL_NAMES[:5]  # of any width
OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
SCHEDULES = ("constant", "step", "one_cycle", "cosine", "triangle")
AUGMENTATIONS = ("none", "flip", "crop", "eva6", "cars")
FLIPS = ("random", "alternating")
AVERAGINGS = ("none", "lookahead")
TEST_VIEWS = (1, 2, 6)
GEOMETRIES = ("as_is", "resize", "center_crop")
STATISTICS = ("data", "imagenet")
PATHS = ("auto", "resident", "workers")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


# Settings, what they must fulfill, and that in words
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("width", "epochs", "batch_size", "step_epochs"), lambda value: value >= 1, "be at least 1"),
    (("lr", "muon_lr", "bias_lr_factor"), lambda value: value > 0, "be positive"),
    (("weight_decay", "muon_decay", "l1", "l2", "frozen_layers"), lambda value: value >= 0, "not be negative"),
    (("image_size", "crop_padding", "cutout"), lambda value: value >= 0, "not be negative"),
    (("momentum", "label_smoothing", "warmup"), lambda value: 0 <= value < 1, "lie in [0, 1)"),
    (("val_fraction", "batch_norm_momentum"), lambda value: 0 <= value < 1, "lie in [0, 1)"),
)


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
        width: channels of a ResNet's first stage, at least 8; 64 is the published network. Only `WIDE_MODELS` have
            others.
        weights: what the network begins with: "none" (random), "imagenet", or the path of a file of weights.
        frozen_layers: that many convolution layers, from the first on, keep their weights.
        epochs: passes over the training images.
        batch_size: images per optimizer step.
        optimizer: "sgd", "adam", "adamw", or "muon": Muon for convolution filters, SGD for everything else.
        lr: learning rate; the peak of a one-cycle or triangle schedule.
        momentum: of SGD; Adam and AdamW keep their usual betas.
        nesterov: Nesterov's form of SGD's momentum.
        weight_decay: the optimizer's own weight decay.
        decay_all: whether it holds for all parameters, or not for biases and batch normalization.
        bias_lr_factor: the biases of batch normalization learn at this many times `lr`, with `weight_decay` divided by
            it, so that their decay per step is the same.
        muon_lr: learning rate of Muon's filters; it follows the same schedule.
        muon_decay: their decoupled weight decay: each step takes away this many times its learning rate of them.
        schedule: "constant", "step" (times `gamma` every `step_epochs` epochs), "one_cycle" (per step, from lr / 25 up
            over `warmup` of all steps, down to 0 linearly), "triangle" (likewise, from lr / 5) or "cosine" (per step,
            down to 0).
        label_smoothing: in [0, 1).
        l1: weight of the sum of absolute values of all parameters in the loss.
        l2: weight of half the sum of squares of all parameters in the loss.
        geometry: one of `GEOMETRIES`: images as they are, squeezed to `image_size`, or their middle of that size.
        image_size: height and width of the network's input in pixels; 0 with "as_is".
        statistics: mean and standard deviation to normalize by: those of the "data", or of "imagenet".
        whitening: begin with a first convolution that decorrelates patches of the training images.
        zero_gamma: begin with residual blocks that are the identity.
        batch_norm_momentum: weight of a batch in the running statistics of batch normalization; 0 keeps the network's.
        averaging: "none", or "lookahead": every few steps the weights are drawn back to their moving average.
        augmentation: one of `AUGMENTATIONS`; "crop" shifts and flips, "eva6" and "cars" are the pipelines of systems B
            and C.
        crop_padding: reflected pixels around an image that "crop" cuts a window of the image's size out of.
        flip: how "crop" mirrors left and right: each image at "random" in every epoch, or "alternating": at random in
            the first, then every other epoch, so that two epochs in a row show both sides.
        cutout: pixels a side of the square that "crop" fills with the mean color; 0 for none.
        path: how training images come to the device: "resident", "workers", or "auto", the first where they fit. The
            two draw other random numbers from the same distribution.
        precision: "auto" takes the fastest that the device truly computes in.
        compile: whether the network runs through `torch.compile`: a minute at the start, then faster on some machines.
        seed: of everything random: initial weights, order, augmentation.
        val_fraction: part of the training images split off for validation, in [0, 1).
        test_views: views of a test image whose logits are averaged for the second, test-time augmented figure of the
            last epoch: 1 (none), 2 (mirrored) or 6 (mirrored and shifted by one pixel).
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
    decay_all: bool = True
    bias_lr_factor: float = 1.0
    muon_lr: float = 0.1
    muon_decay: float = 0.05
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
    whitening: bool = False
    zero_gamma: bool = False
    batch_norm_momentum: float = 0.0
    averaging: str = "none"
    augmentation: str = "none"
    crop_padding: int = 4
    flip: str = "random"
    cutout: int = 0
    path: str = "auto"
    precision: str = "auto"
    compile: bool = False
    seed: int = 1
    val_fraction: float = 0.0
    test_views: int = 1

    def __post_init__(self) -> None:
        check_name("model", self.model, MODEL_NAMES)
        check_name("optimizer", self.optimizer, OPTIMIZERS)
        check_name("schedule", self.schedule, SCHEDULES)
        check_name("augmentation", self.augmentation, AUGMENTATIONS)
        check_name("geometry", self.geometry, GEOMETRIES)
        check_name("kind of statistics", self.statistics, STATISTICS)
        check_name("precision", self.precision, PRECISIONS)
        check_name("path", self.path, PATHS)
        check_name("flip", self.flip, FLIPS)
        check_name("averaging", self.averaging, AVERAGINGS)
        for fields, fits, range_ in _RANGES:
            for field in fields:
                if not fits(getattr(self, field)):
                    raise ValueError(f"`{field}` must {range_}: got {getattr(self, field)}.")
        if self.width < 8:  # torch 2.15 crashes in the backward pass of a 4-channel 1x1 convolution on AVX2 CPUs
            raise ValueError(f"`width` must be at least 8: got {self.width}.")
        if (self.geometry == "as_is") != (self.image_size == 0):
            raise ValueError(
                f"`image_size` must be 0 with geometry 'as_is' and positive with the others: "
                f"got {self.image_size} with {self.geometry!r}."
            )
        if self.test_views not in TEST_VIEWS:
            raise ValueError(f"`test_views` must be one of {TEST_VIEWS}: got {self.test_views}.")

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

# Ours: the same network and number of epochs. Its ingredients are those that paid when they were tried one by one
# (notebook 04): the schedule, light augmentation, label smoothing, Muon, whitening.
FAST = Recipe(
    name="fast", batch_size=256, optimizer="muon", lr=0.2, muon_lr=0.1, nesterov=True, weight_decay=5e-4,
    schedule="triangle", warmup=0.22, label_smoothing=0.1, whitening=True, augmentation="crop", test_views=6,
)  # fmt: skip
FAST_40 = FAST.replace(name="fast-40", epochs=40)

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

# Photographs of one's own: torchvision's ResNet18, learned on ImageNet, all of it trained on, gently. The number of
# epochs follows the number of images, see `evalib.own_recipe`.
PHOTOS = Recipe(
    name="photos", model="resnet18_imagenet", weights="imagenet", epochs=12, batch_size=32, optimizer="adamw", lr=3e-4,
    weight_decay=0.05, schedule="one_cycle", label_smoothing=0.1, geometry="center_crop", image_size=224,
    statistics="imagenet", augmentation="crop", crop_padding=28,
)  # fmt: skip

# The same without anything learned before, for a few hundred photos and two CPU cores: our own narrow network at 64
# pixels. Muon, because a few hundred steps lead it furthest.
PHOTOS_SMALL = Recipe(
    name="photos-small", width=16, epochs=60, batch_size=32, optimizer="muon", lr=0.1, muon_lr=0.05, nesterov=True,
    weight_decay=5e-4, schedule="triangle", label_smoothing=0.1, whitening=True, zero_gamma=True,
    geometry="center_crop", image_size=64, augmentation="crop", crop_padding=8,
)  # fmt: skip

recipes = _Named(
    {
        recipe.name: recipe
        for recipe in (EVA6, FAST, FAST_40, DEMO, HPI_ALEXNET, HPI_VGG19, CARS_ALEXNET, PHOTOS, PHOTOS_SMALL)
    }
)
