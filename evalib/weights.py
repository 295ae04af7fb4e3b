"""Files of weights, evalib's and those of other projects: read safely, found under their names, loaded strictly."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Where projects put the weights in their files: kuangliu/pytorch-cifar, timm and Lightning, torchvision's references,
# KonWski/CAM_Stanford_Cars, evalib
WEIGHT_KEYS = ("net", "state_dict", "model", "model_state_dict", "weights")


def read_weights_file(path: str | Path) -> Any:
    """What a file of `torch.save` holds, on the CPU: tensors and plain values; nothing in the file is executed.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
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


def state_dict_in(values: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in what `read_weights_file` gave, whatever the project that wrote it.

    It stands directly in the file or under one of `WEIGHT_KEYS`. The prefix "module." of DataParallel is removed, and
    the second level of KonWski/CAM_Stanford_Cars, whose features are all called `features.0.N`, becomes `features.N`.

    Args:
        values: the content of the file.
        path: the file, for the error message.

    Raises:
        ValueError: if there is none.
    """
    for key in WEIGHT_KEYS:
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
            break
    if not (isinstance(values, dict) and values and all(isinstance(value, Tensor) for value in values.values())):
        raise ValueError(
            f"{path} holds no state dict: it needs tensors by name, directly or under one of {', '.join(WEIGHT_KEYS)}."
        )
    weights = {str(name).removeprefix("module."): value for name, value in values.items()}
    features = [name for name in weights if name.startswith("features.")]
    if all(re.match(r"features\.0\.\d", name) for name in features):
        return {re.sub(r"^features\.0\.", "features.", name): value for name, value in weights.items()}
    return weights


def load_strictly(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict into `model`, every name and shape; a model that it does not fit stays as it was.

    Args:
        model: the network.
        weights: as from `state_dict_in`.
        path: the file that they come from, for the error message.

    Raises:
        ValueError: naming the number of classes if that differs, else the first weights that do not fit.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        model.load_state_dict(before)
        reason = _other_classes(model, weights) or " ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ValueError(f"The weights in {path} do not fit this {type(model).__name__}: {reason}") from error


def _other_classes(model: nn.Module, weights: dict[str, Tensor]) -> str:
    """What to say if the last linear layer has another number of rows in `weights`, and of rows only; else nothing."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in layers[-1:]:
        found = weights.get(f"{name}.weight")
        if found is not None and found.shape[1:] == layer.weight.shape[1:] and len(found) != layer.out_features:
            return (
                f"size mismatch for {name}.weight: the file holds a network for {len(found)} classes, this one has "
                f"{layer.out_features}. Build it for {len(found)}, or load another file."
            )
    return ""
