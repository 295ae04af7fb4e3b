"""Whether a run ended as the one that nothing happened to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from evalib.checkpoint import load_checkpoint

COPIED = ("last.pt", "history.json", "recipe.json")
CLOCK = ("seconds", "images_per_second")


def state_of(run_dir: Path) -> dict[str, Any]:
    """All that must be equal: weights, optimizer, schedule, averages, random numbers, and the figures but the clock's.

    Of every checkpoint but previous.pt, which may be of another step; it must be readable, and older than last.pt. Also
    the names of the files, so that nothing is left there.
    """
    history = json.loads((run_dir / "history.json").read_text())
    names = {path.name for path in run_dir.iterdir()} - {"last.damaged.pt"}
    state: dict[str, Any] = {"files": dict.fromkeys(names), "figures": _figures(history)}
    state["interrupted"] = history["interrupted"]
    for name in ("last.pt", "best.pt"):
        if (run_dir / name).exists():
            values = torch.load(run_dir / name, weights_only=True)
            training = {**values["training"], "epoch": {**values["training"]["epoch"], "seconds": None}}
            state[name] = {"weights": values["weights"], "training": training, "figures": _figures(values["metrics"])}
    last, previous = load_checkpoint(run_dir / "last.pt"), load_checkpoint(run_dir / "previous.pt")
    state["previous.pt is older"] = previous.progress < last.progress
    return state


def _figures(history: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in history["epochs"]]


def difference(one: Any, other: Any, where: str = "") -> str:
    """Where two states differ first; empty if they are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return "" if same else f"{where}: tensors differ"
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: {sorted(map(str, one.keys() ^ other.keys()))} in one of them only"
        return next(filter(None, (difference(one[name], other[name], f"{where}/{name}") for name in one)), "")
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return f"{where}: {len(one)} items and {len(other)}"
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (difference(a, b, f"{where}/{i}") for i, (a, b) in pairs)), "")
    return "" if type(one) is type(other) and one == other else f"{where}: {one!r} and {other!r}"


def faults(run_dir: Path, expected: dict[str, Any], mirror: Path | None = None) -> list[str]:
    """What is wrong with a finished run; nothing if it is what was expected, and so is its copy."""
    try:
        found = [difference(state_of(run_dir), expected)]
    except Exception as error:
        found = [f"cannot be read: {error!r}"]
    empty = [path.name for path in run_dir.iterdir() if not path.stat().st_size and path.name != "last.damaged.pt"]
    found += [f"{name} has no byte" for name in empty]
    if mirror is not None:
        found += [f"the copy of {name} is another file" for name in COPIED if not _same(run_dir / name, mirror / name)]
    return [fault for fault in found if fault]


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.read_bytes() == other.read_bytes()
