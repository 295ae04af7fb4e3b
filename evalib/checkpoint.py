"""Checkpoints: weights and what is needed to use and to continue them, as tensors and plain values in one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import evalib
from evalib.files import replacing
from evalib.models import build_model
from evalib.recipes import Recipe
from evalib.transforms import Geometry
from evalib.weights import load_strictly, read_weights_file, state_dict_in

FORMAT = "evalib-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """One file of a run.

    Attributes:
        weights: the network's state dict.
        recipe: how it was trained; also names the network.
        classes: names of the classes; logit i is class i.
        mean: RGB mean of the preprocessing, on the scale [0, 1].
        std: RGB standard deviation of the preprocessing.
        image_size: height and width of the network's input in pixels.
        dataset: name of the data that it was trained on.
        epoch: finished epochs.
        metrics: figures after that epoch, as a history's dict.
        geometry: how images are brought to that size.
        filters: what was chosen of a larger dataset, as {"brand": ("BMW",)}.
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
    geometry: Geometry = Geometry()  # noqa: RUF009, frozen itself
    filters: dict[str, tuple[str, ...]] = field(default_factory=dict)


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
        "geometry": [checkpoint.geometry.kind, checkpoint.geometry.image_size],
        "filters": {name: list(values) for name, values in checkpoint.filters.items()},
        "dataset": checkpoint.dataset,
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
    }
    with replacing(path) as temporary:
        torch.save(values, temporary)


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint of evalib, not only weights of another project; errors as `load_checkpoint`."""
    values = read_weights_file(path)
    return isinstance(values, dict) and values.get("format") == FORMAT


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint that evalib wrote, on the CPU; nothing in the file is executed.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, or not evalib's.
    """
    values = read_weights_file(path)
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
        geometry=Geometry(*values.get("geometry", ())),  # older files lack both
        filters={name: tuple(chosen) for name, chosen in values.get("filters", {}).items()},
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
    load_strictly(model, checkpoint.weights, path)
    return model.eval(), checkpoint


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights into `model`, strictly: evalib's, or a plain state dict of another project.

    Understands the layouts of `evalib.weights.state_dict_in`.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged or holds no state dict; naming the first weights that do not fit.
    """
    load_strictly(model, state_dict_in(read_weights_file(path), path), path)
