"""Do maps lie on the object? Synthetic images whose masks are known, every method and layer, several seeds.

    python -m benchmarks.shapes [--seeds 3] [--roughness 0.25] [--output benchmarks/results/shapes.json]

For each seed a ResNet18 of few channels learns the four shapes of `evalib.data.shapes`; then maps of the true classes
are measured on the test images. Beside them stand what knows less: the same network with random weights; "random_cam",
the trained network's channels weighted at random; a Gaussian in the middle; noise; and chance, the share of the image
that the object fills.

On a rough background (0.25) the object is where the noise is not. On a smooth one (0.05) its outline tells it, and maps
of the layers before the last mark both sides of the outline: the bars are those for a rough one.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import machine, parser, versions
from evalib.data import shapes
from evalib.data.image_data import ImageData
from evalib.engine import fit
from evalib.explain import explain_methods
from evalib.faithfulness import control_maps
from evalib.localization import center_gaussian, measure_localization
from evalib.models import build_model, model_for
from evalib.recipes import Recipe, recipes
from evalib.scores import Scores
from evalib.tables import Table
from evalib.transforms import normalize

LAYERS = ("layer1", "layer2", "layer3", "layer4")
METHODS = (
    "cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "eigen_cam", "random_cam",
)  # fmt: skip
RECIPE = recipes["fast"].replace(width=8, epochs=6, batch_size=64, test_views=1)

CAM, MID, RANDOM_MAP = "cam layer4", "layer_cam layer3", "random_cam layer4"
RANDOM_WEIGHTS = "cam layer4, random weights"
CENTER = "center Gaussian"


def all_maps(model: nn.Module, data: ImageData, methods: tuple[str, ...] = METHODS) -> dict[str, Tensor]:
    """Maps (N, H, W) of the true classes of the test images, by "method layer"."""
    parts: dict[str, list[Tensor]] = {}
    for chosen in torch.arange(len(data.test)).split(100):
        inputs, labels = normalize(data.test.images[chosen], data.mean, data.std), data.test.labels[chosen]
        for method, cams in explain_methods(model, inputs, LAYERS, labels, methods=methods).items():
            for layer, maps in zip(LAYERS[-len(cams) :], cams, strict=True):
                parts.setdefault(f"{method} {layer}", []).append(maps)
    return {name: torch.cat(maps) for name, maps in parts.items()}


def one_seed(recipe: Recipe, data: ImageData, methods: tuple[str, ...] = METHODS) -> tuple[float, dict[str, Scores]]:
    """Train and measure: the test accuracy, and the figures by kind of map."""
    model = model_for(recipe, data.num_classes)
    history = fit(model, data, recipe, device="cpu")
    masks = data.test.masks
    assert masks is not None
    untrained = build_model(recipe.model, data.num_classes, width=recipe.width, seed=recipe.seed + 1000)
    maps = all_maps(model, data, methods)
    maps |= {f"{name}, random weights": cams for name, cams in all_maps(untrained, data, ("cam", "layer_cam")).items()}
    maps[CENTER] = center_gaussian(data.image_size, data.image_size).expand(len(data.test), -1, -1)
    maps["noise"] = control_maps(maps[CENTER], recipe.seed)["random"]
    found = {name: measure_localization(cams, masks) for name, cams in maps.items()}
    return history.epochs[-1].test_accuracy, found


def bars(found: dict[str, Scores]) -> dict[str, tuple[float, bool]]:
    """What one seed's maps have to reach: the figure, and whether it does."""
    cam, mid, random_map, random_weights, center = (
        found[name]["pointing"].mean for name in (CAM, MID, RANDOM_MAP, RANDOM_WEIGHTS, CENTER)
    )
    return {
        f"{CAM}: pointing at least 0.6": (cam, cam >= 0.6),
        f"{CAM}: pointing at least 3 x {CENTER}": (cam / center, cam >= 3 * center),
        f"{MID}: pointing at least 0.9": (mid, mid >= 0.9),
        f"{RANDOM_WEIGHTS}: pointing at most 0.15": (random_weights, random_weights <= 0.15),
        f"{MID} > {CAM} > {RANDOM_MAP} > random weights": (mid - cam, mid > cam > random_map > random_weights),
    }


def over_seeds(seeds: list[dict[str, Scores]]) -> Table:
    """Mean and standard deviation over the seeds, a row for each kind of map."""
    rows = []
    for kind, scores in seeds[0].items():
        row: dict[str, Any] = {"maps": kind, "flat": sum(found[kind]["pointing"].flat for found in seeds)}
        for name in scores:
            means = [found[kind][name].mean for found in seeds]
            spread = f" +- {statistics.stdev(means):.3f}" if len(means) > 1 else ""
            row[name] = f"{statistics.mean(means):.3f}{spread}"
        rows.append(row)
    count = len(seeds[0][CAM]["pointing"].values)
    return Table(rows, {"flat": "{:,}"}, [f"Mean +- standard deviation over {len(seeds)} seeds, {count} images each."])


def main() -> None:
    """Train, measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--roughness", type=float, default=0.25, help="of the background (default: 0.25)")
    made.add_argument("--train", type=int, default=2000, help="training images (default: 2000)")
    made.add_argument("--image-size", type=int, default=64)
    options = made.parse_args()
    seeds, accuracies, reached = [], [], []
    for seed in range(1, options.seeds + 1):
        data = shapes(seed, train=options.train, image_size=options.image_size, roughness=options.roughness)
        accuracy, found = one_seed(RECIPE.replace(seed=seed), data)
        seeds.append(found)
        accuracies.append(accuracy)
        reached.append(bars(found))
        chance = found["noise"]["energy"].mean  # the share of the image that objects fill
        print(f"seed {seed}: accuracy {accuracy:.2%}, chance {chance:.3f}", flush=True)
    print(over_seeds(seeds))
    for bar in reached[0]:
        verdict = "ok" if all(some[bar][1] for some in reached) else "MISSED"
        print(f"{verdict:6s} {bar}: {', '.join(f'{some[bar][0]:.3f}' for some in reached)}")
    if options.output is not None:
        settings = {name: getattr(options, name) for name in ("train", "image_size", "roughness")}
        report = {
            "benchmark": "shapes",
            "device": machine(torch.device("cpu")),
            "settings": settings | {"recipe": dataclasses.asdict(RECIPE)},
            "accuracy": accuracies,
            "bars": reached,
            "figures": {
                kind: {name: [found[kind][name].mean for found in seeds] for name in scores}
                for kind, scores in seeds[0].items()
            },
            "versions": versions(),
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
