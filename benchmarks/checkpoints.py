"""What keeping a run costs: `fit` with a run directory, saving after every epoch, beside `fit` without one, in turn.

    python -m benchmarks.checkpoints [--width 64] [--images 512] [--epochs 4] [--save-steps 2] [--device cuda]

Epochs are short here on purpose: a checkpoint costs the same after 512 images as after 50,000. A third candidate saves
within epochs too, every `--save-steps` steps.

Below stands what one checkpoint costs, measured directly, which needs no idle machine: the seconds that training stands
still for it, and the processor time of the thread that writes it. Their sum is the most that it can cost, and as a
share of an epoch of `--epoch-images` at the measured speed without checkpoints, the most that keeping a run costs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from typing import ClassVar

from benchmarks.measure import Report, machine, parser, publish, take_turns
from evalib.checkpoint import Checkpoint
from evalib.data import sample
from evalib.data.image_data import ImageData
from evalib.engine import fit
from evalib.history import History
from evalib.models import build_model
from evalib.recipes import Recipe, recipes
from evalib.rundir import RunDirectory
from evalib.runtime import pick_device


class Timed(RunDirectory):
    """A run directory that keeps the seconds of its checkpoints."""

    waited: ClassVar[list[float]] = []
    written: ClassVar[list[float]] = []

    def save(self, checkpoint: Checkpoint, history: History) -> None:
        """As it is, timed: what training waits for."""
        start = time.perf_counter()
        super().save(checkpoint, history)
        self.waited.append(time.perf_counter() - start)

    def _write(self, checkpoint: Checkpoint, history: History) -> None:
        start = time.thread_time()
        super()._write(checkpoint, history)
        self.written.append(time.thread_time() - start)


def run(recipe: Recipe, data: ImageData, device: str, save_steps: int | None, kept: bool) -> float:
    """Training images per second of a whole call of `fit`, evaluation and saving included."""
    model = build_model(recipe.model, width=recipe.width, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Timed(folder, save_steps=save_steps) if kept else None
        start = time.perf_counter()
        fit(model, data, recipe, run_dir=run_dir, device=device, progress=False)
        return recipe.epochs * len(data.train) / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--recipe", choices=tuple(recipes), default="fast")
    options.add_argument("--width", type=int, default=64, help="of the ResNet (default: 64)")
    options.add_argument("--images", type=int, default=512, help="per epoch (default: 512)")
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--save-steps", type=int, default=2, help="for the third candidate (default: 2)")
    options.add_argument("--batch-size", type=int, default=64)
    options.add_argument("--epoch-images", type=int, default=50_000, help="of an epoch (default: 50,000)")
    arguments = options.parse_args()
    device = pick_device(arguments.device)
    changes = {name: getattr(arguments, name) for name in ("width", "epochs", "batch_size")}
    recipe = recipes[arguments.recipe].replace(**changes, test_views=1)
    data = sample().take(train=arguments.images, test=100)
    make = partial(run, recipe, data, str(device))
    candidates = {
        "nothing kept": partial(make, None, kept=False),
        "saved every epoch": partial(make, None, kept=True),
        f"saved every {arguments.save_steps} steps": partial(make, arguments.save_steps, kept=True),
    }
    figures = take_turns(candidates, arguments.rounds)
    waited, written = statistics.median(Timed.waited), statistics.median(Timed.written)
    epoch = arguments.epoch_images / statistics.median(figures["nothing kept"])
    settings = {"recipe": recipe.name, **changes, "images": arguments.images} | {
        "seconds that training waits for a checkpoint": round(waited, 4),
        "processor seconds that a checkpoint takes beside it": round(written, 4),
        f"at most, of an epoch of {arguments.epoch_images:,} images": f"{(waited + written) / epoch:.3%}",
    }
    publish([Report("keeping a run", "images/s", figures, "nothing kept", machine(device), settings)], arguments.output)


if __name__ == "__main__":
    main()
