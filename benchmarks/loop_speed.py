"""The training loop beside the bare model step: images/s of both, measured in turn in one process.

    python benchmarks/loop_speed.py [--recipe eva6] [--images 1280] [--rounds 3] [--device cuda]

The loop is `train_one_epoch` with the recipe's own loader, on part of the shipped sample; the bare step is the same
network on one batch of random tensors that lies on the device already. Allocator settings and precision are the same
for both. The medians of the rounds and of their ratios count, since machines are noisy.
"""

import argparse
import statistics

import torch

from evalib.data import sample
from evalib.data.loaders import train_loader
from evalib.engine import train_one_epoch
from evalib.execution import SingleDevice, bare_step_speed
from evalib.models import build_model
from evalib.optim import make_optimizer
from evalib.recipes import recipes
from evalib.runtime import describe_device, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--recipe", choices=tuple(recipes), default="eva6")
parser.add_argument("--images", type=int, default=1280, help="per round")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--device")
parser.add_argument("--workers", type=int)
arguments = parser.parse_args()

keep_freed_memory()
recipe = recipes[arguments.recipe]
data = sample().take(train=arguments.images)
execution = SingleDevice(arguments.device, recipe.precision)
model = execution.prepare(build_model(recipe.model, width=recipe.width, seed=recipe.seed))
optimizer = make_optimizer(model, recipe)
loader = train_loader(data, recipe, workers=arguments.workers, device=execution.device)
images = torch.randn(recipe.batch_size, 3, 32, 32)
labels = torch.randint(10, (recipe.batch_size,))
print(f"{recipe.model}, width {recipe.width}, batch {recipe.batch_size}, recipe {recipe.name}")
print(f"{describe_device(execution.device)}, {execution.dtype}, torch {torch.__version__}")

speeds = []
for epoch in range(1, arguments.rounds + 2):
    loader.set_epoch(epoch)
    result = train_one_epoch(model, loader, optimizer, execution=execution)
    bare = bare_step_speed(model, images, labels, execution=execution, steps=result.images // recipe.batch_size)
    if epoch > 1:  # the first round starts the workers and warms the libraries up
        speeds.append((result.images / result.seconds, bare))
        print(f"loop {speeds[-1][0]:8.1f}  bare step {bare:8.1f}  ratio {speeds[-1][0] / bare:.3f}", flush=True)
loop, bare, ratio = (statistics.median(values) for values in zip(*((a, b, a / b) for a, b in speeds), strict=True))
print(f"median loop {loop:.1f} images/s, bare step {bare:.1f} images/s, ratio {ratio:.3f}")
