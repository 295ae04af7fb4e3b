"""Settings of a CPU: threads, the memory allocator and torch.compile, for training and for inference, in turn.

    python -m benchmarks.cpu [--batch-size 128]

"default" is torch as it comes; "kept memory" adds `evalib.runtime.keep_freed_memory`, as `fit` and the commands do; the
others change one thing more. Each runs in a process of its own. The network is the recipe `fast`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.measure import Report, machine, parser, publish, take_turns_in_processes
from evalib.data.workers import available_cores
from evalib.execution import SingleDevice
from evalib.models import build_model
from evalib.optim import make_optimizer
from evalib.recipes import recipes
from evalib.runtime import compiled, eval_mode, keep_freed_memory

Round = Callable[[], float]
RECIPE = recipes["fast"]


def training(batch_size: int, keep: bool, threads: int, compile_it: bool) -> Round:
    """A function that returns training images per second under these settings."""
    set_up(keep, threads)
    execution = SingleDevice("cpu", RECIPE.precision)
    model = execution.prepare(build_model(RECIPE.model, seed=1)).train()
    optimizer = make_optimizer(model, RECIPE)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))

    def one_round() -> float:
        with compiled(model, compile_it):
            execution.step(F.cross_entropy(execution.logits(model, images), labels), optimizer)  # compiles
            start = time.perf_counter()
            for _ in range(3):
                execution.step(F.cross_entropy(execution.logits(model, images), labels), optimizer)
            return 3 * batch_size / (time.perf_counter() - start)

    return one_round


def inference(batch_size: int, keep: bool, threads: int, compile_it: bool) -> Round:
    """Likewise, of the forward pass alone."""
    set_up(keep, threads)
    execution = SingleDevice("cpu", RECIPE.precision)
    model, images = execution.prepare(build_model(RECIPE.model, seed=1)), torch.randn(batch_size, 3, 32, 32)

    def one_round() -> float:
        with compiled(model, compile_it), eval_mode(model), torch.inference_mode():
            execution.logits(model, images)  # compiles
            start = time.perf_counter()
            for _ in range(4):
                execution.logits(model, images)
            return 4 * batch_size / (time.perf_counter() - start)

    return one_round


def set_up(keep: bool, threads: int) -> None:
    """Settings of this process."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(threads)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--batch-size", type=int, default=128)
    arguments = options.parse_args()
    cores = available_cores()
    settings = {
        "default": (False, torch.get_num_threads(), False),
        "kept memory": (True, torch.get_num_threads(), False),
        "kept memory, 1 thread": (True, 1, False),
        "kept memory, 2 threads a core": (True, 2 * cores, False),
        "kept memory, compiled": (True, torch.get_num_threads(), True),
    }
    reports = []
    for name, make in {"training": training, "inference": inference}.items():
        makers = {label: partial(make, arguments.batch_size, *values) for label, values in settings.items()}
        figures = take_turns_in_processes(makers, arguments.rounds)
        described = {"model": RECIPE.model, "batch": arguments.batch_size, "threads by default": settings["default"][1]}
        reports.append(Report(name, "images/s", figures, "default", machine(torch.device("cpu")), described))
    publish(reports, arguments.output)


if __name__ == "__main__":
    main()
