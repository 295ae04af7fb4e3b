"""Checkpoints: weights and what is needed to use and to continue them, as tensors and plain values in one file."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import evalib
from evalib.models import build_model
from evalib.recipes import Recipe
from evalib.runtime import replacing

FORMAT = "evalib-checkpoint-1"
# Where other projects put the weights in their files: kuangliu/pytorch-cifar, timm and Lightning, torchvision
WEIGHT_KEYS = ("net", "state_dict", "model", "weights")


@dataclass(frozen=True)
class Checkpoint:
    """One file of a run.

    Attributes:
        weights: the network's state dict.
        recipe: how it was trained; also names the network.
        classes: names of the classes; logit i is class i.
        mean: RGB mean of the preprocessing, on the scale [0, 1].
        std: RGB standard deviation of the preprocessing.
        image_size: height and width of the images in pixels.
        dataset: name of the data that it was trained on.
        epoch: finished epochs.
        metrics: figures after that epoch, as a history's dict.
        training: state of optimizer, scheduler and scaler; empty in a file for use only.
    """

    weights: dict[str, Tensor]
    recipe: Recipe
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    dataset: str
    epoch: int
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all: an older file under that name stays until the new one is complete."""
    values = {
        "format": FORMAT,
        "evalib": evalib.__version__,
        "torch": str(torch.__version__),  # a TorchVersion is no plain value
        "weights": checkpoint.weights,
        "recipe": checkpoint.recipe.to_json(),
        "classes": list(checkpoint.classes),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "image_size": checkpoint.image_size,
        "dataset": checkpoint.dataset,
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
    }
    with replacing(path) as temporary:
        torch.save(values, temporary)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a foreign pickle protocol: the error below says it better
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if isinstance(error, pickle.UnpicklingError):
            reason = "it is no checkpoint, or holds more than tensors and plain values, which evalib does not load"
        else:
            reason = f"it is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise ValueError(f"Cannot read the checkpoint {path}: {reason}.") from error


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint of evalib, not only weights of another project; errors as `load_checkpoint`."""
    values = _read(Path(path))
    return isinstance(values, dict) and values.get("format") == FORMAT


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint that evalib wrote, on the CPU; nothing in the file is executed.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, or not evalib's.
    """
    values = _read(Path(path))
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a checkpoint of evalib. For weights of another project name their network as well."
        )
    return Checkpoint(
        weights=values["weights"],
        recipe=Recipe.from_json(values["recipe"]),
        classes=tuple(values["classes"]),
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        image_size=values["image_size"],
        dataset=values["dataset"],
        epoch=values["epoch"],
        metrics=values["metrics"],
        training=values["training"],
    )


def load_model(path: str | Path) -> tuple[nn.Module, Checkpoint]:
    """The trained network of a checkpoint, on the CPU in evaluation mode, and the checkpoint itself.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, not evalib's, or its weights do not fit the network that it names.
    """
    checkpoint = load_checkpoint(path)
    recipe = checkpoint.recipe
    model = build_model(recipe.model, len(checkpoint.classes), width=recipe.width)
    _load_strictly(model, checkpoint.weights, path)
    return model.eval(), checkpoint


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights into `model`, strictly: evalib's, or a plain state dict of another project.

    Understands files that keep the state dict under "net" (kuangliu/pytorch-cifar), "state_dict", "model" or "weights",
    and names that DataParallel prefixed with "module.".

    Raises:
        ValueError: naming the first weights that do not fit.
    """
    values = _read(Path(path))
    for key in WEIGHT_KEYS:
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
            break
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(
            f"{path} holds no state dict: it needs tensors by name, directly or under one of {', '.join(WEIGHT_KEYS)}."
        )
    _load_strictly(model, {name.removeprefix("module."): value for name, value in values.items()}, path)


def _load_strictly(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:4]]
        raise ValueError(
            f"The weights in {path} do not fit this {type(model).__name__}: {' '.join(reasons)}"
        ) from error
