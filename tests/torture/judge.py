"""Whether a run ended as the one that nothing happened to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CLOCK = ("seconds", "images_per_second")
KEPT = {"best.pt", "history.json", "last.pt", "last.damaged.pt", "previous.pt", "recipe.json"}


def state_of(run_dir: Path) -> dict[str, Any]:
    """All that must be equal: weights, optimizer, schedule and averages, and the figures without the clock's."""
    values = torch.load(run_dir / "last.pt", weights_only=True)
    training = {name: part for name, part in values["training"].items() if name != "epoch"}
    epochs = json.loads((run_dir / "history.json").read_text())["epochs"]
    figures = [{name: value for name, value in record.items() if name not in CLOCK} for record in epochs]
    return {"weights": values["weights"], "training": training, "epoch": values["epoch"], "figures": figures}


def difference(one: Any, other: Any, where: str = "") -> str:
    """Where two states differ first; empty if they are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return "" if same else f"{where}: tensors differ"
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: {sorted(map(str, one.keys() ^ other.keys()))} in one of them only"
        return next(filter(None, (difference(one[name], other[name], f"{where}/{name}") for name in one)), "")
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (difference(a, b, f"{where}/{i}") for i, (a, b) in pairs)), "")
    return "" if type(one) is type(other) and one == other else f"{where}: {one!r} and {other!r}"


def faults(run_dir: Path, expected: dict[str, Any]) -> list[str]:
    """What is wrong with a finished run; nothing if it is what was expected."""
    try:
        found = [difference(state_of(run_dir), expected)]
    except Exception as error:
        found = [f"cannot be read: {error!r}"]
    files = {path.name: path.stat().st_size for path in run_dir.iterdir()}
    found += [f"{name} has no byte" for name, size in files.items() if size == 0 and name != "last.damaged.pt"]
    found += [f"{name} was left there" for name in files if name not in KEPT]
    return [fault for fault in found if fault]
