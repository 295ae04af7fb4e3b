"""A trained network from wherever it is: a run directory, a checkpoint, or weights of another project."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from evalib.checkpoint import Checkpoint, is_checkpoint, load_model
from evalib.data.image_data import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD
from evalib.models import build_model
from evalib.recipes import WIDE_MODELS, recipes
from evalib.rundir import latest_checkpoint
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry
from evalib.weights import load_strictly, read_weights_file, state_dict_in


def load_trained(path: str | Path, network: str = "resnet18") -> tuple[nn.Module, Checkpoint]:
    """The network of a run or of a file, on the CPU in evaluation mode, and what is known of it.

    Args:
        path: a run directory, a checkpoint of evalib, or weights of kuangliu/pytorch-cifar, DL_CIFAR or
            CAM_Stanford_Cars.
        network: whose weights the last ones are, one of `evalib.recipes.MODEL_NAMES`. They say neither classes nor
            preprocessing: where they tell ten classes apart, they are taken to be for CIFAR-10.

    Raises:
        FileNotFoundError: if there is no such file, or no checkpoint in the folder.
        ValueError: if the file is damaged, holds no weights, or they do not fit the network.
    """
    file = checkpoint_file(path)
    own = Path(path).is_dir() or is_checkpoint(file)
    return load_model(file) if own else _of_other_project(file, network)


def checkpoint_file(path: str | Path) -> Path:
    """The newest checkpoint of a run directory; any other path as it is.

    Raises:
        FileNotFoundError: if there is nothing of that name, or no checkpoint in the folder.
    """
    if Path(path).is_dir():
        return latest_checkpoint(path)
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no run directory or checkpoint {path}. `evalib train` makes one.")
    return Path(path)


def _of_other_project(path: Path, network: str) -> tuple[nn.Module, Checkpoint]:
    weights = state_dict_in(read_weights_file(path), path)
    num_classes = next((len(tensor) for tensor in reversed(weights.values()) if tensor.dim() == 2), 10)
    model = build_model(network, num_classes)
    load_strictly(model, weights, path)
    classes = CIFAR10_CLASSES if num_classes == 10 else tuple(f"class {index}" for index in range(num_classes))
    small = network in WIDE_MODELS
    recipe = recipes["eva6" if small else "hpi-alexnet"].replace(model=network)
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if small else (IMAGENET_MEAN, IMAGENET_STD)
    geometry = Geometry(recipe.geometry, recipe.image_size)
    size = geometry.image_size or 32
    return model.eval(), Checkpoint(weights, recipe, classes, mean, std, size, "cifar10", 0, geometry=geometry)
