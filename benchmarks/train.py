"""The training loop: evalib's beside a plain one and beside the bare model step, in turn.

    python -m benchmarks.train [--recipe fast] [--images 1280] [--device cuda]

"plain loop" is what most scripts do: albumentations in a DataLoader with two workers, float32, contiguous tensors, the
memory allocator as it comes, the loss read at every step. "evalib" is `train_one_epoch` as `fit` calls it, with the
recipe's loader. "bare step" is the same network, optimizer and settings on one batch that lies on the device already:
no loop can be faster. Each runs in a process of its own, since allocator settings hold for a whole process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.measure import Report, machine, parser, publish, take_turns_in_processes
from evalib.data import sample
from evalib.data.image_data import ImageData
from evalib.data.loaders import WorkerLoader, train_loader
from evalib.engine import train_one_epoch
from evalib.execution import SingleDevice
from evalib.models import build_model
from evalib.optim import make_optimizer
from evalib.recipes import Recipe, recipes
from evalib.runtime import keep_freed_memory, pick_device

Round = Callable[[], float]


def plain_loop(recipe: Recipe, data: ImageData, device: torch.device) -> Round:
    """A function that trains for one pass and returns images per second."""
    model = build_model(recipe.model, width=recipe.width, seed=1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = WorkerLoader(data, "eva6", batch_size=recipe.batch_size, seed=1, workers=2, device=device)

    def one_pass() -> float:
        model.train()
        start, total = time.perf_counter(), 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return len(data.train) / (time.perf_counter() - start)

    return one_pass


def evalib_loop(recipe: Recipe, data: ImageData, device: torch.device) -> Round:
    """Likewise, with evalib's loop and settings."""
    keep_freed_memory()
    execution = SingleDevice(device, recipe.precision)
    model = execution.prepare(build_model(recipe.model, width=recipe.width, seed=1))
    optimizer = make_optimizer(model, recipe)
    loader = train_loader(data, recipe, device=device)

    def one_pass() -> float:
        result = train_one_epoch(model, loader, optimizer, execution=execution)
        return result.images / result.seconds

    return one_pass


def bare_step(recipe: Recipe, data: ImageData, device: torch.device) -> Round:
    """Likewise, the model step alone: forward, backward and optimizer on one batch that lies on the device."""
    keep_freed_memory()
    execution = SingleDevice(device, recipe.precision)
    model = execution.prepare(build_model(recipe.model, width=recipe.width, seed=1)).train()
    optimizer = make_optimizer(model, recipe)
    images = torch.randn(recipe.batch_size, 3, 32, 32, device=device)
    labels = torch.randint(10, (recipe.batch_size,), device=device)
    steps = max(1, len(data.train) // recipe.batch_size)

    def one_pass() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            execution.step(F.cross_entropy(execution.logits(model, images), labels), optimizer)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return steps * recipe.batch_size / (time.perf_counter() - start)

    return one_pass


def bare_sgd_step(recipe: Recipe, data: ImageData, device: torch.device) -> Round:
    """Likewise, with plain SGD: what is left is the cost of the recipe's optimizer."""
    return bare_step(recipe.replace(optimizer="sgd"), data, device)


CANDIDATES = {
    "plain loop": plain_loop, "evalib": evalib_loop, "bare step": bare_step, "bare step, SGD": bare_sgd_step,
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--recipe", choices=tuple(recipes), default="fast")
    options.add_argument("--images", type=int, default=1280, help="per round (default: 1280)")
    options.add_argument("--batch-size", type=int, help="default: the recipe's")
    arguments = options.parse_args()
    recipe = recipes[arguments.recipe]
    recipe = recipe.replace(batch_size=arguments.batch_size or recipe.batch_size)
    device = pick_device(arguments.device)
    data = sample().take(train=arguments.images)
    makers = {name: partial(make, recipe, data, device) for name, make in CANDIDATES.items()}
    figures = take_turns_in_processes(makers, arguments.rounds)
    precision = SingleDevice(device, recipe.precision).dtype
    settings = {"recipe": recipe.name, "model": recipe.model, "batch": recipe.batch_size, "precision": str(precision)}
    report = Report("training loop", "images/s", figures, "plain loop", machine(device), settings)
    publish([report], arguments.output)
    print(f"evalib reaches {report.ratio('evalib', to='bare step'):.3f} of the bare step")


if __name__ == "__main__":
    main()
