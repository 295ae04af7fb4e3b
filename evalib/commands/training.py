"""`evalib train` and `evalib demo`."""

from __future__ import annotations

import argparse
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from evalib.commands import inventory
from evalib.commands.own_images import train_on_folder
from evalib.commands.results import execution_on
from evalib.commands.running import run_training
from evalib.recipes import Recipe, recipes

if TYPE_CHECKING:
    from evalib.data import ImageData
    from evalib.execution import SingleDevice

CHANGES = (
    "epochs", "seed", "model", "weights", "frozen_layers", "batch_size", "lr", "width", "geometry", "image_size",
    "path", "compile", "test_views",
)  # fmt: skip


def train(arguments: argparse.Namespace) -> int:
    """`evalib train` and `evalib demo`; of several processes the main one prints and draws."""
    given = {name: value for name in CHANGES if (value := getattr(arguments, name, None)) is not None}
    folder = getattr(arguments, "folder", None)
    if (arguments.dataset == "folder") != (folder is not None):
        raise ValueError("Name the folder of your images: `evalib train folder DIR`; other datasets take none.")
    name = arguments.recipe or {"cars": "cars-alexnet", "folder": None}.get(arguments.dataset, "fast")
    recipe = None if name is None else recipes[name].replace(**given)
    execution = execution_on(arguments.device, "auto" if recipe is None else recipe.precision)
    with nullcontext() if execution.is_main else redirect_stdout(None):
        if folder is not None:
            code = train_on_folder(arguments, recipe, given, execution)
        else:
            assert recipe is not None
            code = _train(arguments, recipe, execution)
    execution.close()
    return code


def _train(arguments: argparse.Namespace, recipe: Recipe, execution: SingleDevice) -> int:
    from evalib.files import check_writable
    from evalib.models import model_for

    run_dir = Path(arguments.run_dir or f"runs/{arguments.dataset}-{recipe.name}-seed{recipe.seed}")
    execution.from_main(lambda: check_writable(run_dir))
    with execution.first_on_host():  # it downloads, and writes caches, for the others
        data = _data(arguments).prepared_for(recipe)
        model = model_for(recipe, data.num_classes)
    return run_training(arguments, model, data, recipe, execution, run_dir)[0]


def _data(arguments: argparse.Namespace) -> ImageData:
    filters = {name: getattr(arguments, f"car_{name}", None) for name in ("brand", "type", "year")}
    filters["target"] = getattr(arguments, "target", "class")
    download, damaged = getattr(arguments, "download", False), getattr(arguments, "damaged", None)
    return inventory.load_data(arguments.dataset, arguments.data_dir, filters, download=download, damaged=damaged)
