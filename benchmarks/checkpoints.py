"""What keeping a run costs: `fit` with a run directory, saving after every epoch, beside `fit` without one, in turn.

    python -m benchmarks.checkpoints [--width 64] [--images 512] [--epochs 4] [--save-steps 2] [--device cuda]

Epochs are short here on purpose: a checkpoint costs the same after 512 images as after 50,000. A third candidate saves
within epochs too, every `--save-steps` steps.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial

from benchmarks.measure import Report, machine, parser, publish, take_turns
from evalib.data import sample
from evalib.data.image_data import ImageData
from evalib.engine import fit
from evalib.models import build_model
from evalib.recipes import Recipe, recipes
from evalib.rundir import RunDirectory
from evalib.runtime import pick_device


def run(recipe: Recipe, data: ImageData, device: str, save_steps: int | None, kept: bool) -> float:
    """Training images per second of a whole call of `fit`, evaluation and saving included."""
    model = build_model(recipe.model, width=recipe.width, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDirectory(folder, save_steps=save_steps) if kept else None
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
    settings = {"recipe": recipe.name, **changes, "images": arguments.images}
    figures = take_turns(candidates, arguments.rounds)
    publish([Report("keeping a run", "images/s", figures, "nothing kept", machine(device), settings)], arguments.output)


if __name__ == "__main__":
    main()
