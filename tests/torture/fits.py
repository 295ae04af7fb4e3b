"""Many calls of `fit` in one process: what they leave behind."""

from __future__ import annotations

import gc
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
import torch

from evalib.engine import fit
from evalib.models import build_model
from evalib.rundir import RunDirectory
from tests.torture.child import DATA, RECIPES
from tests.torture.trials import Trials


def fits(folder: Path, trials: int, seed: int) -> Trials:
    """Runs of every kind, some stopped, on one network: nothing is left but the run directories.

    A fifth of the calls warms up, at least one with workers, for which torch sets a handler once; the resident memory
    afterwards may grow by 5 %.
    """
    result, begun, draw = Trials("fits"), time.monotonic(), random.Random(seed)
    model, kinds = build_model("resnet18", 10, width=8, seed=1), [kind for kind in RECIPES if kind != "drawing"]
    warm, first, peak = max(trials // 5, len(kinds)), 0, 0
    before: dict[str, Any] = {}
    for number in range(trials):
        kind = kinds[number % len(kinds)]
        recipe = RECIPES[kind].replace(epochs=1 + number % 2, seed=number)
        run_dir = folder / str(number)
        kept = RunDirectory(run_dir, save_steps=4, mirror_dir=folder / f"{number}-mirror")

        def on_epoch(history: Any, stop: bool = draw.random() < 0.2) -> None:
            if stop:
                raise KeyboardInterrupt

        settings: dict[str, Any] = {"device": "cpu", "workers": 2, "progress": False, "on_epoch": on_epoch}
        fit(model, DATA, recipe, run_dir=kept, **settings)
        shutil.rmtree(run_dir)
        shutil.rmtree(folder / f"{number}-mirror")
        now = _left(model)
        before = before if number > warm else now
        result.trials += 1
        result.finished += 1
        changed = [name for name in now if now[name] != before[name]]
        result.lost += [f"call {number}: {name} was {before[name]}, is {now[name]}"[:500] for name in changed]
        memory = psutil.Process().memory_info().rss
        first, peak = (memory, memory) if number <= warm else (first, max(peak, memory))
    drift = peak / first - 1
    result.seen["% of memory more"] = round(100 * drift, 2)
    result.seen["MB resident"] = round(peak / 1e6)
    if drift > 0.05:
        result.lost.append(f"memory grew by {drift:.1%}")
    result.seconds = time.monotonic() - begun
    return result


def _left(model: torch.nn.Module) -> dict[str, Any]:
    """What a call must leave as it found it."""
    gc.collect()
    process = psutil.Process()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())
    return {
        "children": len(process.children()),
        "open files": process.num_fds(),
        "threads": threading.active_count(),
        "figures": plt.get_fignums(),
        "hooks": hooks,
        "handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "modes": [module.training for module in model.modules()],
        "gradients are on": torch.is_grad_enabled(),
        "random numbers": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }
