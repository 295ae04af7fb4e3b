"""Do the maps point at the car? The pointing game on Stanford Cars with boxes, beside what needs no network.

For a run of `evalib train cars` and for the same network with random weights: the share of
test images whose strongest place lies inside the car's box. Beside it a Gaussian in the middle of the image and the
share of the image that the boxes fill (chance).

Photographs of cars have the car in the middle, which the middle alone exploits. So the same is done on windows: parts
of half the width and height, drawn at random (seeded), of which the car fills between a twentieth and a half; there
the middle knows nothing.

    python benchmarks/cars_pointing.py RUN/last.pt --data-dir DIR
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from evalib.cam import classic_cam
from evalib.checkpoint import load_model
from evalib.data import stanford_cars
from evalib.faithfulness import center_gaussian, pointing_game
from evalib.models import build_model
from evalib.runtime import derived_seed
from evalib.transforms import Geometry, normalize


def classic_maps(model: nn.Module, images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """(N, H, W) maps of the predicted classes."""
    return torch.cat([classic_cam(model, normalize(part, mean, std))[0] for part in images.split(64)])


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    trained, checkpoint = load_model(options.checkpoint)
    recipe, size = checkpoint.recipe, checkpoint.image_size
    random = build_model(recipe.model, len(checkpoint.classes), width=recipe.width, seed=options.seed).eval()
    data = stanford_cars(options.data_dir, image_size=2 * size)
    large = data.test.with_geometry(Geometry("resize", 2 * size))
    with_box = large.boxes.any(dim=1).nonzero().flatten()
    images, boxes = large.images[with_box], large.input_boxes(with_box)
    whole = Geometry("resize", size).batch(images), boxes / 2
    print(f"{recipe.model}, {checkpoint.epoch} epochs on {checkpoint.dataset}, {size} pixels, seed {recipe.seed}")
    for name, (pixels, inside) in (("whole frames", whole), ("windows", windows(images, boxes, options.seed))):
        area = ((inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])).mean() / size**2
        maps = {
            "trained": classic_maps(trained, pixels, checkpoint.mean, checkpoint.std),
            "random weights": classic_maps(random, pixels, checkpoint.mean, checkpoint.std),
            "center Gaussian": center_gaussian(size, size).expand(len(pixels), -1, -1),
        }
        print(f"{name}, n = {len(pixels)}: chance {area:.3f}")
        for kind, cams in maps.items():
            hits = pointing_game(cams, inside).double()
            error = (hits.var() / len(hits)).sqrt()
            energy = energy_inside(cams, inside)
            print(f"  {kind:16s} pointing {hits.mean():.3f} +- {error:.3f}   energy in the box {energy:.3f}")


def energy_inside(cams: Tensor, boxes: Tensor) -> float:
    """The mean share of a map's sum that lies inside the box; flat maps count 0."""
    size = cams.shape[-1]
    centers = torch.arange(size) + 0.5
    columns = (centers >= boxes[:, :1]) & (centers < boxes[:, 2:3])
    rows = (centers >= boxes[:, 1:2]) & (centers < boxes[:, 3:4])
    inside = (cams * (rows[:, :, None] & columns[:, None, :])).sum(dim=(1, 2))
    return (inside / cams.sum(dim=(1, 2)).clamp(min=1e-9)).mean().item()


if __name__ == "__main__":
    main()
