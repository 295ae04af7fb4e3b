"""A run directory: recipe, history and checkpoints of a run; begun, continued, saved to, by one process at a time."""

from __future__ import annotations

import copy
import dataclasses
import errno
import math
import os
import reprlib
import warnings
from pathlib import Path
from typing import Any

from evalib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from evalib.data.image_data import ImageData
from evalib.files import DamagedFileError, check_writable, remove_parts, replacing
from evalib.history import History
from evalib.mirror import Mirror, restore
from evalib.recipes import Recipe
from evalib.run_lock import RunLock, start_of
from evalib.saver import Saver, snapshot

CHECKPOINT_NAME, PREVIOUS_NAME, BEST_NAME = "last.pt", "previous.pt", "best.pt"
RECIPE_NAME, HISTORY_NAME, LOCK_NAME = "recipe.json", "history.json", "run.lock"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_shown = reprlib.Repr()
_shown.maxstring = 100


class RunDirectory:
    """The folder of one run, and how the run is kept there. Also a context manager that closes it.

    Attributes:
        path: the folder.
        notes: lines that a person should read: where the run continued, what was damaged or could not be written.

    Args:
        path: made if it is not there.
        mirror_dir: a second place, as a mounted drive, that the files are copied to (`evalib.mirror.Mirror`).
        save_steps: a checkpoint also after every so many steps of an epoch; None only between epochs.
        keep_best: also keep the checkpoint of the best validation accuracy, as best.pt.
        accept_changes: continue a run with another recipe or other data, and note the difference.

    Raises:
        OSError: if it cannot be written, so that this shows before any training.
        ValueError: if `save_steps` is less than 1.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mirror_dir: str | Path | None = None,
        save_steps: int | None = None,
        keep_best: bool = False,
        accept_changes: bool = False,
    ) -> None:
        if save_steps is not None and save_steps < 1:
            raise ValueError(
                f"`save_steps` must be at least 1, or None for checkpoints between epochs: got {save_steps}."
            )
        self.path = check_writable(Path(path))
        self.mirror_dir, self.save_steps = None if mirror_dir is None else Path(mirror_dir), save_steps
        self.keep_best, self.accept_changes = keep_best, accept_changes
        self.notes: list[str] = []
        self._lock, self._saver = RunLock(self.path / LOCK_NAME), Saver()
        self._mirror: Mirror | None = None
        self._progress = (0, 0)  # of the newest checkpoint, written or under way
        self._written: tuple[int, int] | None = None  # of the newest one that is whole on the disk
        self._best = -math.inf  # validation accuracy of best.pt
        self._failures: set[object] = set()  # kinds of failed writes that are told already

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, recipe: Recipe, data: ImageData) -> Checkpoint | None:
        """Take the directory for a run of `recipe` on `data`: its checkpoint to continue from, or None for a new run.

        A damaged last checkpoint is set aside and the one before it used, which `notes` then tell. A larger number of
        epochs continues a run whose schedule does not depend on it.

        Raises:
            ValueError: if it holds a run of another recipe or on other data, naming the differences; if no checkpoint
                in it is whole; or if `keep_best` has no validation images to go by. Nothing is overwritten.
            OSError: if another process, or another call in this one, uses it.
        """
        if self.keep_best and data.val is None:
            raise ValueError("`keep_best` needs validation images: give the recipe a `val_fraction`, or leave it out.")
        self._lock.acquire()
        try:
            self.notes, self._failures = [], set()
            remove_parts(self.path, in_use=_in_use)
            checkpoint = self._find()
            if checkpoint is not None:
                self._check(checkpoint, recipe, data)
            with replacing(self.path / RECIPE_NAME) as temporary:
                temporary.write_text(recipe.to_json())
            self._written = None if checkpoint is None else checkpoint.progress
            self._progress = self._written or (0, 0)
            self._best = -math.inf if checkpoint is None else _accuracy(self.path / BEST_NAME)
            if checkpoint is not None:  # a kill may have come after the checkpoint and before what follows it
                self._follow(checkpoint, History.from_dict(checkpoint.metrics))
            if self.mirror_dir is not None:
                self._mirror = Mirror(self.path, self.mirror_dir)
                files = (RECIPE_NAME, HISTORY_NAME, CHECKPOINT_NAME, PREVIOUS_NAME, BEST_NAME)
                self._mirror.copy(*(name for name in files if (self.path / name).exists()))
        except BaseException:
            self._lock.release()
            raise
        return checkpoint

    def save(self, checkpoint: Checkpoint, history: History) -> None:
        """Have the checkpoint written, then the history for people; what continues a run reads the checkpoint alone.

        Returns as soon as everything is copied in memory, and the write before is done; a thread writes it. If that
        fails the older files stay, and the next `save` or `close` warns and notes it.

        Raises:
            ValueError: if the directory was not begun, or holds a later checkpoint of this run.
        """
        if not self._lock.held:
            raise ValueError(f"{self.path} is not in use: call `begin` first.")
        if checkpoint.progress < self._progress:
            raise ValueError(
                f"{self.path} holds this run {_after(self._progress)}: a checkpoint {_after(checkpoint.progress)} does "
                "not replace that. Choose another run directory."
            )
        self._wait()
        weights, training, metrics = snapshot((checkpoint.weights, checkpoint.training, checkpoint.metrics))
        copied = dataclasses.replace(checkpoint, weights=weights, training=training, metrics=metrics)
        history = copy.deepcopy(history)
        self._progress = checkpoint.progress
        self._saver.start(lambda: self._write(copied, history))

    def close(self) -> None:
        """Wait for the last write, and a limited time for the mirror, complete the notes, and give the lock back.

        Does nothing if the directory is not in use.
        """
        try:
            self._wait()
            if self._mirror is not None:
                self.notes += self._mirror.close()
        finally:
            self._mirror = None
            self._lock.release()

    def _find(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, if there is any."""
        restored = [] if self.mirror_dir is None else restore(self.mirror_dir, self.path)
        damaged: dict[str, DamagedFileError] = {}
        for name in (CHECKPOINT_NAME, PREVIOUS_NAME):
            path = self.path / name
            if not path.exists():  # last.pt is not there if a kill came between two renames
                continue
            try:
                checkpoint = load_checkpoint(path)
            except DamagedFileError as error:
                damaged[name] = error
                continue
            after = _after(checkpoint.progress)
            for other, fault in damaged.items():
                aside = other.replace(".", ".damaged.")
                os.replace(self.path / other, self.path / aside)
                self.notes.append(f"{fault} It is {aside} now; the run continues from {name}, {after}.")
            if restored:
                self.notes.append(f"{self.path} continues from the copy in {self.mirror_dir}, {after}.")
            return checkpoint
        if damaged:
            faults = " ".join(map(str, damaged.values()))
            anew = "begin anew" if self.mirror_dir is None else f"continue from what {self.mirror_dir} has"
            raise ValueError(
                f"{self.path} has no checkpoint to continue from. {faults} Put a good copy in place of "
                f"{self.path / CHECKPOINT_NAME}, or delete {' and '.join(damaged)} to {anew}."
            )
        return None

    def _check(self, checkpoint: Checkpoint, recipe: Recipe, data: ImageData) -> None:
        """Refuse a run that differs, or note in what."""
        difference = _difference(checkpoint, recipe, data)
        if not difference:
            return
        changes = "; ".join(
            f"{name}: {_shown.repr(a)} there, {_shown.repr(b)} now" for name, (a, b) in difference.items()
        )
        fixed = difference.keys() & {"classes", "model", "width"}
        if fixed or not self.accept_changes:
            more = "" if fixed else " To continue with the changes set `accept_changes`."
            raise ValueError(
                f"{self.path} holds another run ({changes}). "
                f"Choose another run directory, or the same settings to continue.{more}"
            )
        self.notes.append(f"{self.path} continues {_after(checkpoint.progress)} with changes ({changes}).")

    def _write(self, checkpoint: Checkpoint, history: History) -> None:
        """What the thread does."""
        save_checkpoint(self.path / CHECKPOINT_NAME, checkpoint, keep=self.path / PREVIOUS_NAME)
        self._written = checkpoint.progress
        followed = self._follow(checkpoint, history)
        if self._mirror is not None:
            self._mirror.copy(CHECKPOINT_NAME, *followed)
        if self._failures:
            self._failures.clear()
            self.notes.append(f"{self.path} is written again, {_after(checkpoint.progress)}.")

    def _follow(self, checkpoint: Checkpoint, history: History) -> list[str]:
        """Bring the best checkpoint and the history up to a checkpoint that is written; the names of the files."""
        accuracy = history.epochs[-1].val_accuracy if history.epochs and not checkpoint.step else None
        names = [HISTORY_NAME]
        if self.keep_best and accuracy is not None and accuracy > self._best:
            save_checkpoint(self.path / BEST_NAME, checkpoint)
            self._best = accuracy
            names.append(BEST_NAME)
        history.save(self.path / HISTORY_NAME)
        return names

    def _wait(self) -> None:
        """Wait for the write under way; warn and note if it failed, once for each kind of failure."""
        error = self._saver.wait()
        if error is None:
            return
        if not isinstance(error, OSError | MemoryError):
            raise error
        kind = getattr(error, "errno", None) or type(error)
        if kind in self._failures:
            return
        self._failures.add(kind)
        fault = "There is not enough space at" if kind in _NO_SPACE else "Cannot write to"
        good = "none" if self._written is None else _after(self._written).removeprefix("after ")
        reason = str(error) or type(error).__name__
        line = f"{fault} {self.path} ({reason}). The run goes on; last good checkpoint: {good}."
        self.notes.append(line)
        warnings.warn(line, RuntimeWarning, stacklevel=3)


def latest_checkpoint(run_dir: str | Path) -> Path:
    """The newest checkpoint in a run directory, for reading.

    Raises:
        FileNotFoundError: if there is none.
    """
    for name in (CHECKPOINT_NAME, PREVIOUS_NAME):
        if (Path(run_dir) / name).exists():
            return Path(run_dir) / name
    raise FileNotFoundError(f"{run_dir} is no run directory: it has no {CHECKPOINT_NAME}. `evalib train` makes one.")


def _in_use(name: str, pid: int) -> bool:
    """Whether a process may be writing a file of a run directory that this one has the lock of."""
    own = (CHECKPOINT_NAME, BEST_NAME, RECIPE_NAME, HISTORY_NAME)
    return name not in own and pid != os.getpid() and start_of(pid) is not None


def _after(progress: tuple[int, int]) -> str:
    """When a checkpoint was made, in words: "after epoch 3"."""
    epoch, step = progress
    return f"after epoch {epoch}" + (f" and {step} steps" if step else "")


def _accuracy(path: Path) -> float:
    """The validation accuracy of a checkpoint, or less than any if it cannot be read."""
    try:
        return float(load_checkpoint(path).metrics["epochs"][-1]["val_accuracy"])
    except (OSError, ValueError, LookupError, TypeError):
        return -math.inf


def _difference(checkpoint: Checkpoint, recipe: Recipe, data: ImageData) -> dict[str, tuple[Any, Any]]:
    """In what a run would differ from that of the checkpoint, as {name: (there, now)}."""
    difference = checkpoint.recipe.difference(recipe)
    if recipe.schedule in ("constant", "step") and (recipe.epochs, 0) >= checkpoint.progress:
        difference.pop("epochs", None)
    pairs = {
        "classes": (checkpoint.classes, data.classes),
        "dataset": (checkpoint.dataset, data.name),
        "filters": (checkpoint.filters, {name: tuple(chosen) for name, chosen in data.filters.items()}),
        "training images": (checkpoint.train_images or len(data.train), len(data.train)),
    }
    files = [None if known is None else known.options.get("files") for known in (checkpoint.origin, data.origin)]
    if None not in files and files[0] != files[1]:
        pairs["files of the folder"] = ("those trained on", "others")
    return difference | {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
