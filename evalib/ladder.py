"""Runs that each change the recipe of an earlier one: ingredient by ingredient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalib.data.image_data import ImageData
from evalib.engine import fit
from evalib.history import History
from evalib.models import model_for
from evalib.recipes import Recipe


class Ladder:
    """Trains by one recipe after another, each made from an earlier one, and keeps every run in a folder of its name.

    A folder that holds a finished run of the same recipe is read, not trained again. `evalib.comparison.ablation` makes
    the table.

    Args:
        data: prepared for the recipe.
        start: the recipe that the first run changes, or takes as it is.
        folder: gets a run directory for each run.
    """

    def __init__(self, data: ImageData, start: Recipe, folder: str | Path) -> None:
        self.data, self.start, self.folder = data, start, Path(folder)
        self.recipes: dict[str, Recipe] = {}

    def train(self, name: str, since: str | None = None, **changes: Any) -> History:
        """Train by the recipe of the run `since` (None: the last one), with changes; the run's history.

        Raises:
            ValueError: if there is no such run, or a setting is unknown; and as `fit`.
        """
        if since is not None and since not in self.recipes:
            raise ValueError(f"`since` must be one of {', '.join(self.recipes)}: got {since!r}.")
        before = self.recipes[since] if since else next(reversed(self.recipes.values()), self.start)
        recipe = before.replace(name=name, **changes)
        history = fit(model_for(recipe, self.data.num_classes), self.data, recipe, run_dir=self.run_dir(name))
        self.recipes[name] = recipe
        return history

    def run_dir(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / name
