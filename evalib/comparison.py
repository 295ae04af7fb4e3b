"""Several runs in one table, made from the recipe and the history that every run wrote: nothing is typed in.

>>> compare_runs({"random start": "runs/a", "ImageNet start": "runs/b"})
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalib.history import History
from evalib.recipes import WIDE_MODELS, Recipe
from evalib.rundir import HISTORY_NAME, RECIPE_NAME
from evalib.tables import Table, Tabular, cell

# Columns of numbers; every other one is words
FORMATS = {
    "image size": "{} px",
    "frozen layers": "{}",
    "train images": "{:,}",
    "test images": "{:,}",
    "epochs": "{}",
    "test accuracy": "{:.2%}",
    "train accuracy": "{:.2%}",
    "validation accuracy": "{:.2%}",
    "with views": "{:.2%}",
    "gain": "{:+.2%}",
    "seconds per epoch": "{:.1f}",
    "seed": "{}",
}
# What a run is and gave; stays in the table, even if two runs agree in it
ALWAYS = ("run", "test accuracy", "train accuracy", "seconds per epoch")
# Settings that every comparison names, in words of its own; any other one is named if the runs differ in it
NAMED = ("name", "model", "width", "image_size", "geometry", "weights", "frozen_layers", "epochs", "seed")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Tabular):
    """Runs side by side: `print` it, or let a notebook show it. Settings that all runs share stand below the table.

    Attributes:
        rows: one dictionary per run, column to value, all with the same columns. Accuracies are fractions in [0, 1]
            at the last epoch, "seconds per epoch" is the median over the epochs, "state" is "finished" or such as
            "interrupted, 10 planned". A value is None where it does not apply or an older run did not record it.
    """

    rows: list[dict[str, Any]]

    @property
    def shared(self) -> dict[str, Any]:
        """The settings in which all runs agree; empty for a single run."""
        first, *others = self.rows
        agreed = {name: value for name, value in first.items() if all(row[name] == value for row in others)}
        return {name: value for name, value in agreed.items() if others and name not in ALWAYS}

    def table(self) -> Table:
        """A row per run, of what the runs differ in."""
        shared = self.shared
        rows = [{name: value for name, value in row.items() if name not in shared} for row in self.rows]
        words = [f"{name} {cell(value, FORMATS.get(name, '{}'))}" for name, value in shared.items()]
        return Table(rows, FORMATS, [f"The same in all runs: {', '.join(words)}."] if words else [])


def compare_runs(run_dirs: Mapping[str, str | Path] | Sequence[str | Path]) -> Comparison:
    """Compare runs: their settings, their accuracy on the test images at the LAST epoch, and what an epoch took.

    Args:
        run_dirs: folders of runs by the name that each is to have in the table, or just the folders, whose own names
            are taken then.

    Raises:
        FileNotFoundError: if a folder is not there or is none of a run.
        ValueError: if a file in it is damaged, a run has no finished epoch, two have one name, or there is no run.
    """
    runs = _read_runs(run_dirs)
    first = next(iter(runs.values()))[0]
    others = {setting for recipe, _ in runs.values() for setting in first.difference(recipe) if setting not in NAMED}
    differing = [field.name for field in dataclasses.fields(Recipe) if field.name in others]
    rows = [{"run": name, **_row(*run, differing)} for name, run in runs.items()]
    if all(row["with views"] is None for row in rows):
        rows = [{name: value for name, value in row.items() if name != "with views"} for row in rows]
    return Comparison(rows)


def ablation(run_dirs: Mapping[str, str | Path] | Sequence[str | Path], *, reference: str | None = None) -> Comparison:
    """Runs that each change something in the run before, or all in one: what was changed, and what it gained.

    The gain is that of the accuracy on the validation images, or on the test images in runs without any.

    Args:
        run_dirs: as `compare_runs` takes them, in the order in which the changes add up.
        reference: name of the run that each other is compared to; None takes the run before.

    Raises:
        FileNotFoundError, ValueError: as `compare_runs`; also if there is no such reference.
    """
    runs = _read_runs(run_dirs)
    if reference is not None and reference not in runs:
        raise ValueError(f"`reference` must be one of {', '.join(runs)}: got {reference!r}.")
    rows, before = [], None
    for name, (recipe, history) in runs.items():
        last, other = history.epochs[-1], reference or before
        row = {"run": name, "changes": None, "validation accuracy": last.val_accuracy, "gain": None}
        if other not in (None, name):
            changes = runs[other][0].replace(name=recipe.name).difference(recipe)
            row["changes"] = ", ".join(f"{setting} {new}" for setting, (_, new) in changes.items())
            row["gain"] = _judged(history) - _judged(runs[other][1])
        row |= {"test accuracy": last.test_accuracy, "with views": last.test_accuracy_views}
        rows.append({**row, "seconds per epoch": statistics.median(history.column("seconds"))})
        before = name
    return Comparison(rows)


def _judged(history: History) -> float:
    last = history.epochs[-1]
    return last.test_accuracy if last.val_accuracy is None else last.val_accuracy


def _read_runs(run_dirs: Mapping[str, str | Path] | Sequence[str | Path]) -> dict[str, tuple[Recipe, History]]:
    if isinstance(run_dirs, str | Path):
        raise ValueError(f"`run_dirs` needs several folders, as a list or by name: got the single {str(run_dirs)!r}.")
    if isinstance(run_dirs, Mapping):
        named = [(str(name), Path(folder)) for name, folder in run_dirs.items()]
    else:
        named = [(Path(folder).resolve().name, Path(folder)) for folder in run_dirs]
    names = [name for name, _ in named]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`run_dirs` needs at least one run, and no name twice: got {names}. Give names: {{name: folder, ...}}."
        )
    return {name: _read_run(folder) for name, folder in named}


def _read_run(folder: Path) -> tuple[Recipe, History]:
    for name in (RECIPE_NAME, HISTORY_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: it needs to be the folder of a run with at least one finished epoch, "
                "as `fit(..., run_dir=...)` and `evalib train --run-dir` write it."
            )
    try:
        recipe = Recipe.from_json((folder / RECIPE_NAME).read_text())
    except (ValueError, TypeError) as error:  # TypeError: a setting of another type
        raise ValueError(f"{folder / RECIPE_NAME} is not a recipe of evalib ({error}).") from error
    history = History.load(folder / HISTORY_NAME)
    if not history.epochs:
        raise ValueError(f"{folder / HISTORY_NAME} has no epoch yet: nothing to compare.")
    return recipe, history


def _row(recipe: Recipe, history: History, differing: Sequence[str]) -> dict[str, Any]:
    last = history.epochs[-1]
    ended = "interrupted" if history.interrupted else "unfinished"
    state = "finished" if last.epoch >= recipe.epochs else f"{ended}, {recipe.epochs} planned"
    narrow = recipe.model in WIDE_MODELS and recipe.width != 64
    start = {"none": "random", "imagenet": "ImageNet"}
    return {
        "model": f"{recipe.model}, width {recipe.width}" if narrow else recipe.model,
        "image size": recipe.image_size or None,
        "geometry": recipe.geometry.replace("_", " "),
        # the folder, too: every checkpoint is called last.pt
        "weights": start.get(recipe.weights, "/".join(Path(recipe.weights).parts[-2:])),
        "frozen layers": recipe.frozen_layers,
        **{name.replace("_", " "): str(getattr(recipe, name)) for name in differing},
        "train images": history.train_images or None,
        "test images": history.test_images or None,
        "epochs": last.epoch,
        "state": state,
        "test accuracy": last.test_accuracy,
        "with views": last.test_accuracy_views,
        "train accuracy": last.train_accuracy,
        "seconds per epoch": statistics.median(history.column("seconds")),
        "device": history.device or None,
        "seed": recipe.seed,
    }
