"""`evalib train folder DIR`: what is in a folder of images, the recipe and why, the result and what to do next."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalib.commands.inventory import print_skipped
from evalib.commands.running import run_training
from evalib.recipes import Recipe

if TYPE_CHECKING:
    from evalib.execution import SingleDevice


def train_on_folder(
    arguments: argparse.Namespace, recipe: Recipe | None, given: Mapping[str, Any], execution: SingleDevice
) -> int:
    """Look, choose, train; `given` are the settings that the command line names, `recipe` has them already."""
    from evalib.files import check_writable
    from evalib.models import model_for
    from evalib.own_images import check_outside, continued, describe_result, plan_folder, recipe_in, run_directory

    run_dir = Path(arguments.run_dir or run_directory(arguments.folder, given.get("seed", 1)))
    begun = None if recipe is not None else recipe_in(run_dir)
    settings: dict[str, Any] = {"test_fraction": arguments.test_fraction or 0.2, "device": arguments.device}
    settings |= {"weights": arguments.weights or "auto", "damaged": arguments.damaged or "skip"}
    with execution.first_on_host():  # it downloads, and writes caches, for the others
        plan = plan_folder(arguments.folder, recipe=recipe or begun, changes=given, **settings)
        plan = plan if begun is None else continued(plan, run_dir)
        check_outside(run_dir, plan)
        model = model_for(plan.recipe, plan.data.num_classes)
    execution.from_main(lambda: check_writable(run_dir))
    print(plan)
    print_skipped(plan.data)
    print()
    code, evaluation = run_training(arguments, model, plan.data, plan.recipe, execution, run_dir)
    if evaluation is not None:
        place = shlex.quote(str(run_dir))
        print(f"\n{describe_result(evaluation, plan.facts)}\nnext:")
        for command in (f"report {place}", f"app {place}", f"predict {place} photo.jpg"):
            print(f"  evalib {command}")
    return code
