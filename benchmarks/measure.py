"""What the benchmarks share: candidates that take turns, medians, ratios, and a report as text and JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from evalib.data.workers import available_cores
from evalib.runtime import describe_device

PACKAGES = ("torch", "torchvision", "albumentations", "grad-cam", "torchcam", "numpy")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=5, help="timed rounds, after one that is not (default: 5)")
    made.add_argument("--device", help="default: the best one here")
    made.add_argument("--output", type=Path, help="also write the report as JSON to this file")
    return made


def take_turns(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every candidate once per round, in turn; a first round, which warms up, does not count.

    Args:
        candidates: by name, functions that do their work and return its figure, as images per second.
        rounds: figures per candidate.
    """
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds + 1):
        first = number % len(names)  # nobody always comes after the same neighbor
        for name in names[first:] + names[:first]:
            figure = candidates[name]()
            if number > 0:
                figures[name].append(figure)
    return figures


def take_turns_in_processes(
    makers: Mapping[str, Callable[[], Callable[[], float]]], rounds: int
) -> dict[str, list[float]]:
    """`take_turns`, each candidate in a process of its own: allocator and thread settings hold for a whole process.

    Args:
        makers: by name, functions that a new process can be given, which set up and return the candidate.
        rounds: figures per candidate.
    """
    context = multiprocessing.get_context("spawn")
    candidates, pipes = {}, []
    for name, make in makers.items():
        here, there = context.Pipe()
        # no daemon, since it may have worker processes of its own
        context.Process(target=_serve, args=(make, there)).start()
        candidates[name] = partial(_ask, here)
        pipes.append(here)
    try:
        return take_turns(candidates, rounds)
    finally:
        for pipe in pipes:
            pipe.close()


def _serve(make: Callable[[], Callable[[], float]], pipe: Connection) -> None:
    """In the new process: a figure for every request, until the other side hangs up."""
    candidate = make()
    try:
        while pipe.recv():
            pipe.send(candidate())
    except EOFError:
        pass


def _ask(pipe: Connection) -> float:
    pipe.send(True)
    return float(pipe.recv())


@dataclass(frozen=True)
class Report:
    """Figures of one benchmark.

    Attributes:
        name: of the benchmark.
        unit: of the figures; more is better.
        figures: those of every round, by candidate.
        baseline: the candidate that ratios are taken to, round by round.
        device: the hardware, in words.
        settings: whatever the figures depend on.
    """

    name: str
    unit: str
    figures: dict[str, list[float]]
    baseline: str
    device: str
    settings: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Median figure of a candidate."""
        return statistics.median(self.figures[name])

    def ratio(self, name: str, to: str | None = None) -> float:
        """Median, over the rounds, of a candidate's figure divided by that of another (the baseline)."""
        others = self.figures[to or self.baseline]
        return statistics.median(a / b for a, b in zip(self.figures[name], others, strict=True))

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"{self.name}: {self.device}; " + ", ".join(f"{k} {v}" for k, v in self.settings.items())]
        lines += [
            f"  {name:{width}s}  {self.median(name):12,.1f} {self.unit}  {self.ratio(name):8.2f} x {self.baseline}"
            for name in self.figures
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the versions of what was measured."""
        return {
            "benchmark": self.name,
            "unit": self.unit,
            "baseline": self.baseline,
            "median": {name: self.median(name) for name in self.figures},
            "ratio": {name: self.ratio(name) for name in self.figures},
            "figures": self.figures,
            "device": self.device,
            "settings": self.settings,
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are measured, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine(device: torch.device) -> str:
    """The device and the cores beside it, in words."""
    return f"{describe_device(device)}, {available_cores()} cores"


def publish(reports: list[Report], output: Path | None) -> None:
    """Print the reports; write them to a JSON file if one is named."""
    for report in reports:
        print(report, flush=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps([report.to_dict() for report in reports], indent=2) + "\n")
        print(f"written to {output}")
