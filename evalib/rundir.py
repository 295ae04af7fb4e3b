"""A run directory: `recipe.json`, `history.json`, the checkpoint `last.pt` and, later, figures."""

from __future__ import annotations

from pathlib import Path

from evalib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from evalib.files import check_writable, replacing
from evalib.history import History
from evalib.recipes import Recipe

CHECKPOINT_NAME, RECIPE_NAME, HISTORY_NAME = "last.pt", "recipe.json", "history.json"


class RunDirectory:
    """The folder of one run.

    Args:
        path: made if it is not there.

    Raises:
        OSError: if it cannot be written, so that this shows before any training.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = check_writable(Path(path))

    @property
    def checkpoint_path(self) -> Path:
        """The checkpoint of the last finished epoch."""
        return self.path / CHECKPOINT_NAME

    def begin(self, recipe: Recipe, classes: tuple[str, ...]) -> Checkpoint | None:
        """Take the directory for a run of `recipe`: its checkpoint to continue from, or None for a new run.

        A larger number of epochs continues a run whose schedule does not depend on it.

        Raises:
            ValueError: if it holds a run of another recipe or of other classes; the message names the differences.
        """
        checkpoint = load_checkpoint(self.checkpoint_path) if self.checkpoint_path.exists() else None
        if checkpoint is not None:
            difference = checkpoint.recipe.difference(recipe)
            if recipe.schedule in ("constant", "step") and recipe.epochs >= checkpoint.epoch:
                difference.pop("epochs", None)
            if checkpoint.classes != classes:
                difference["classes"] = (checkpoint.classes, classes)
            if difference:
                changes = "; ".join(f"{name}: {old!r} there, {new!r} now" for name, (old, new) in difference.items())
                raise ValueError(
                    f"{self.path} holds another run ({changes}). "
                    "Choose another run directory, or the same settings to continue."
                )
        with replacing(self.path / RECIPE_NAME) as temporary:
            temporary.write_text(recipe.to_json())
        return checkpoint

    def save(self, checkpoint: Checkpoint, history: History) -> None:
        """Write the checkpoint, then the history for people; what continues a run reads the checkpoint alone."""
        save_checkpoint(self.checkpoint_path, checkpoint)
        history.save(self.path / HISTORY_NAME)


def open_run(
    path: str | Path | None, recipe: Recipe, classes: tuple[str, ...]
) -> tuple[RunDirectory | None, Checkpoint | None]:
    """The folder of a run and its checkpoint to continue from, as far as there are any; errors as `RunDirectory`'s."""
    if path is None:
        return None, None
    folder = RunDirectory(path)
    return folder, folder.begin(recipe, classes)
