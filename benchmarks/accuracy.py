"""Accuracy of recipes over several seeds: mean and standard deviation, plain and with test-time augmentation.

    python -m benchmarks.accuracy --data-dir DIR [--recipes fast eva6] [--seeds 5] [--device cuda]

Every run is one of `fit` on CIFAR-10; what counts is the test after its last epoch. Beside it stand the seconds of
whole runs (training and all tests), the images per second of training, and on GPUs of known peak the share in use.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine, parser, versions
from evalib.data import cifar10
from evalib.data.image_data import ImageData
from evalib.engine import fit
from evalib.models import build_model, model_for
from evalib.recipes import Recipe, recipes
from evalib.runtime import keep_freed_memory, pick_device

# Dense half-precision tensor operations per second, from the data sheets
PEAK_FLOPS = {"T4": 65e12, "L4": 121e12, "A100": 312e12, "H100": 989e12, "H200": 989e12}


def flops_per_image(recipe: Recipe) -> float:
    """Floating point operations of forward and backward pass for one 32 x 32 image, counted by torch."""
    model = build_model(recipe.model, width=recipe.width)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    return float(counter.get_total_flops()) / 2


def one_run(recipe: Recipe, data: ImageData, device: torch.device, run_dir: Path | None) -> dict[str, Any]:
    """Train once; the figures of the last epoch and of the whole run."""
    model, start = model_for(recipe, data.num_classes), time.perf_counter()
    history = fit(model, data, recipe, run_dir=run_dir, device=device)
    seconds, last = time.perf_counter() - start, history.epochs[-1]
    speed = statistics.median(history.column("images_per_second"))
    views = last.test_accuracy_views or last.test_accuracy
    found = {"recipe": recipe.name, "seed": recipe.seed, "plain": last.test_accuracy, "views": views}
    found |= {"seconds": seconds, "images_per_second": speed, "by_epoch": history.column("test_accuracy")}
    print(
        f"{recipe.name} seed {recipe.seed}: {last.test_accuracy:.2%}, with views {views:.2%}, {seconds:.1f} s, "
        f"{speed:,.0f} images/s",
        flush=True,
    )
    return found


def line(name: str, runs: list[dict[str, Any]], used: float | None) -> str:
    """A recipe's row of the table."""
    parts = [f"{name:10s} {len(runs)} runs"]
    for figure in ("plain", "views"):
        values = [run[figure] for run in runs]
        spread = f" +- {statistics.stdev(values):.2%}" if len(values) > 1 else ""
        parts.append(f"{figure} {statistics.mean(values):.2%}{spread}")
    parts.append(f"{statistics.median(run['seconds'] for run in runs):.1f} s a run")
    return ", ".join(parts if used is None else [*parts, f"{used:.0%} of the peak"])


def main() -> None:
    """Train, print and write."""
    options = parser(__doc__)
    options.add_argument("--recipes", nargs="+", choices=tuple(recipes), default=["fast", "eva6"])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--data-dir", default="data")
    options.add_argument("--epochs", type=int, help="instead of the recipes'")
    options.add_argument("--width", type=int, help="instead of the recipes'")
    options.add_argument("--images", type=int, help="training images, all by default")
    options.add_argument("--runs", type=Path, help="keep a run directory per run in this folder")
    arguments = options.parse_args()
    keep_freed_memory()
    device, data = pick_device(arguments.device), cifar10(arguments.data_dir).take(train=arguments.images)
    print(f"{machine(device)}; {data.source}; torch {torch.__version__}")
    peak = next((value for name, value in PEAK_FLOPS.items() if name in machine(device)), None)
    given = {"epochs": arguments.epochs, "width": arguments.width}
    runs: list[dict[str, Any]] = []
    lines = []
    for name in arguments.recipes:
        recipe = recipes[name].replace(test_views=6, **{key: value for key, value in given.items() if value})
        for seed in range(1, arguments.seeds + 1):
            folder = arguments.runs / f"{name}-seed{seed}" if arguments.runs else None
            runs.append(one_run(recipe.replace(seed=seed), data, device, folder))
        mine = [run for run in runs if run["recipe"] == name]
        speed = statistics.median(run["images_per_second"] for run in mine)
        lines.append(line(name, mine, peak and speed * flops_per_image(recipe) / peak))
    print("\n".join(lines))
    if arguments.output:
        report = {"benchmark": "accuracy", "device": machine(device), "source": data.source, "runs": runs}
        arguments.output.write_text(json.dumps({**report, "summary": lines, "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
