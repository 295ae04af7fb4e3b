"""Checkpoints: weights and what is needed to use and to continue them, as tensors and plain values in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import evalib
from evalib.files import DamagedFileError, replacing
from evalib.models import build_model
from evalib.origin import Origin
from evalib.recipes import Recipe
from evalib.transforms import Geometry
from evalib.weights import (
    FORMAT,
    load_strictly,
    read_weights_file,
    safetensors_torch,
    state_dict_in,
    write_weights_file,
)

_FAMILY = "evalib-checkpoint-"
_OLDER = ("evalib-checkpoint-1",)  # without a SHA-256


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
        step: steps done of the epoch after the finished ones; 0 between two epochs.
        train_images: number of training images; 0 where it is not known.
        evalib_version: of the evalib that wrote the file; empty before that.
        torch_version: likewise.
        origin: what loads its data again; None where that is not known.
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
    step: int = 0
    train_images: int = 0
    evalib_version: str = ""
    torch_version: str = ""
    origin: Origin | None = None

    @property
    def progress(self) -> tuple[int, int]:
        """Finished epochs, and steps of the next one; of two checkpoints of a run the later one has the larger."""
        return self.epoch, self.step


def save_checkpoint(path: Path, checkpoint: Checkpoint, keep: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all: an older file under that name stays until the new one is complete.

    Args:
        path: the file.
        checkpoint: what to write.
        keep: a name for the file that was there, in the same folder.

    Raises:
        OSError: if there is no space, or no right to write.
    """
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
        "origin": None if checkpoint.origin is None else checkpoint.origin.to_dict(),
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "train_images": checkpoint.train_images,
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
    }
    write_weights_file(path, values, keep)


def save_safetensors(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the weights of a checkpoint for other programs, as a file of safetensors; `load_weights` reads it too.

    Its metadata are strings: "classes", "preprocessing", "recipe" and "metrics" are JSON, "format" is "pt". What
    continues a run is not in it.

    Raises:
        ImportError: if safetensors is not installed.
        OSError: if there is no space, or no right to write.
    """
    metadata = metadata_of(checkpoint)
    # neither shared memory nor other layouts exist in that format
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in checkpoint.weights.items()}
    content = safetensors_torch().save(weights, metadata)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def metadata_of(about: Any) -> dict[str, str]:
    """What a file for other programs says of its network, as strings; "classes", "preprocessing", "recipe" are JSON.

    Args:
        about: a checkpoint, or data: then there is no recipe, epoch and figures.
    """
    preprocessing = {
        "mean": about.mean,
        "std": about.std,
        "image_size": about.image_size,
        "geometry": about.geometry.kind,
    }
    metadata = {
        "format": "pt",  # what other readers of safetensors look for
        "evalib": evalib.__version__,
        "classes": json.dumps(about.classes),
        "preprocessing": json.dumps(preprocessing),
    }
    if not isinstance(about, Checkpoint):
        return metadata | {"dataset": str(getattr(about, "name", ""))}
    return metadata | {
        "recipe": about.recipe.to_json(),
        "recipe_name": about.recipe.name,
        "dataset": about.dataset,
        "epoch": str(about.epoch),
        "metrics": json.dumps(about.metrics),
    }


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint of evalib, not only weights of another project; errors as `load_checkpoint`."""
    return bool(_format(read_weights_file(path)))


def _format(values: Any) -> str:
    """The format of a checkpoint of evalib, of whatever age; empty for anything else."""
    found = values.get("format") if isinstance(values, dict) else None
    return found if isinstance(found, str) and found.startswith(_FAMILY) else ""


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint that evalib wrote, on the CPU; nothing in the file is executed.

    Raises:
        FileNotFoundError: if it is not there.
        DamagedFileError: a ValueError, if it is damaged.
        ValueError: if it is not evalib's, or of a newer evalib.
    """
    values = read_weights_file(path)
    if not (found := _format(values)):
        raise ValueError(
            f"{path} is not a checkpoint of evalib. For weights of another project name their network as well."
        )
    writer = f"evalib {values.get('evalib', '')}".strip()
    if found not in (FORMAT, *_OLDER):
        raise ValueError(
            f"{path} has the format {found}, written by {writer}: this is evalib {evalib.__version__}, which knows "
            f"{FORMAT} and older. Update evalib."
        )
    try:
        recipe = Recipe.from_json(values["recipe"])
    except ValueError as error:  # a setting that this evalib does not know
        raise ValueError(f"{path}, written by {writer}: {error} This is evalib {evalib.__version__}.") from error
    except Exception as error:
        raise _damaged(path, "it has no recipe") from error
    try:
        return _from_values(values, recipe)
    except Exception as error:  # whatever values of a wrong kind lead to
        raise _damaged(path, str(error) or type(error).__name__) from error


def _damaged(path: str | Path, reason: str) -> DamagedFileError:
    return DamagedFileError(f"Cannot read the checkpoint {path}: it is damaged: {reason.rstrip('.')}.")


def _from_values(values: dict[str, Any], recipe: Recipe) -> Checkpoint:
    def get(name: str, kind: type, default: Any = None) -> Any:
        value = values.get(name, default)
        if not isinstance(value, kind):
            raise ValueError(f"its {name!r} must be of type {kind.__name__}: got {type(value).__name__}")
        return value

    weights, classes, mean, std = get("weights", dict), get("classes", list), get("mean", list), get("std", list)
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise ValueError("its 'weights' must be tensors by name")
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("its 'classes' must be names")
    if (len(mean), len(std)) != (3, 3) or not all(isinstance(value, float) for value in (*mean, *std)):
        raise ValueError("its 'mean' and 'std' must be three numbers each")
    epoch, step = get("epoch", int), get("step", int, 0)
    if min(epoch, step) < 0:
        raise ValueError("its 'epoch' and 'step' must not be negative")
    return Checkpoint(
        weights=weights,
        recipe=recipe,
        classes=tuple(classes),
        mean=tuple(mean),
        std=tuple(std),
        image_size=get("image_size", int),
        dataset=get("dataset", str),
        epoch=epoch,
        metrics=get("metrics", dict),
        training=get("training", dict),
        # older files lack what has a default here
        geometry=Geometry(*get("geometry", list, [])),
        filters={name: tuple(chosen) for name, chosen in get("filters", dict, {}).items()},
        step=step,
        train_images=get("train_images", int, 0),
        evalib_version=get("evalib", str, ""),
        torch_version=get("torch", str, ""),
        origin=None if values.get("origin") is None else Origin.from_dict(values["origin"]),
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
