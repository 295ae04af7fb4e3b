"""Synthetic images whose truth is known: one shape on a textured background, and a mask of it; no download."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.data.image_data import ImageData, Split, masks_to_boxes
from evalib.runtime import derived_seed

SHAPES = ("circle", "cross", "square", "triangle")
_RADIUS = (0.13, 0.2)  # smallest and largest, as a fraction of the image's side


def shapes(seed: int = 1, *, train: int = 4_000, test: int = 400, image_size: int = 32) -> ImageData:
    """Images with one object of known place; the class is its shape, and nothing else tells it.

    Color, size and place of the shape and the texture behind it are random, and the same for every class. So a network
    that tells the classes apart looks at the object, and a map that explains it has to lie there.

    Args:
        seed: the same seed makes the same images, bit by bit on one version of torch.
        train: training images, as many of each class but for a remainder.
        test: test images, likewise.
        image_size: height and width in pixels, at least 16.

    Returns:
        Four classes. `split.masks` (N, H, W) bool are the pixels of the object, `split.boxes` the boxes around them.

    Raises:
        ValueError: if there are fewer images than classes, or they are too small.
    """
    if min(train, test) < len(SHAPES) or image_size < 16:
        raise ValueError(
            f"`train` and `test` need at least {len(SHAPES)} images, of `image_size` 16 or more: got {train}, {test} "
            f"and {image_size}."
        )
    splits = [
        _split(derived_seed(seed, f"shapes {name}"), count, image_size)
        for name, count in (("train", train), ("test", test))
    ]
    source = f"made from seed {seed}"
    return ImageData("shapes", SHAPES, splits[0], splits[1], mean=(0.5,) * 3, std=(0.25,) * 3, source=source)


def _split(seed: int, count: int, size: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % len(SHAPES))[torch.randperm(count, generator=generator)]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    radius = uniform(*_RADIUS)
    x, y = (radius + (1 - 2 * radius) * uniform(0, 1) for _ in range(2))
    places = (torch.arange(size) + 0.5) / size
    masks = _inside(labels[:, None, None], (places - x) / radius, (places[:, None] - y) / radius)
    background = _texture(generator, count, size)
    color = torch.rand(count, 3, 1, 1, generator=generator)
    # a color too near to the mean of the background gives way to one far from it
    middle = background.mean(dim=(2, 3), keepdim=True)
    too_near = (color - middle).abs().amax(dim=1, keepdim=True) < 0.25
    color = torch.where(too_near, 1 - middle.round(), color)
    grain = 0.05 * torch.randn(count, 3, size, size, generator=generator)
    images = torch.where(masks[:, None], color, background) + grain
    return Split((255 * images.clamp(0, 1)).round().to(torch.uint8), labels, masks_to_boxes(masks), masks)


def _inside(label: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(N, H, W) bool: pixels inside the shape, at (u, v) from its center, in radii; all four are about as large."""
    slim = u.abs().minimum(v.abs()) <= 0.38
    kinds = (
        u**2 + v**2 <= 0.8,
        slim & (u.abs().maximum(v.abs()) <= 1.0),
        u.abs().maximum(v.abs()) <= 0.8,
        (v.abs() <= 0.95) & (2 * u.abs() <= v + 1.15),
    )
    chosen = torch.stack([kind.expand(len(label), u.shape[-1], u.shape[-1]) for kind in kinds])
    return chosen.gather(0, label.expand(chosen.shape[1:])[None])[0]


def _texture(generator: torch.Generator, count: int, size: int) -> Tensor:
    """(N, 3, H, W) in [0, 1]: patches of color of several sizes, one over the other."""
    layers = []
    for cells, share in ((2, 0.5), (5, 0.3), (11, 0.2)):
        coarse = torch.rand(count, 3, cells, cells, generator=generator)
        layers.append(share * F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1))
    return torch.stack(layers).sum(dim=0)
