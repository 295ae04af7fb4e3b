"""Synthetic images whose truth is known: one shape on a textured background, and a mask of it; no download."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.data.image_data import ImageData, Split, masks_to_boxes
from evalib.runtime import derived_seed

SHAPES = ("circle", "cross", "square", "triangle")
_SMALLEST, _LARGEST = 0.13, 0.2  # radius, as a fraction of the image's side
_GRAIN = 0.05  # standard deviation of the noise on the object


def shapes(
    seed: int = 1, *, train: int = 4_000, test: int = 400, image_size: int = 32, roughness: float = 0.25
) -> ImageData:
    """Images with one object of known place; the class is its shape, and nothing else tells it.

    Color, size and place of the shape and the texture behind it are random, and the same for every class. So a network
    that tells the classes apart looks at the object, and a map that explains it has to lie there.

    What it looks at there depends on the background. On a rough one, an object is where the noise is not. On a smooth
    one its outline is the clearest sign, and that is seen from outside as well: maps of an early layer then mark both
    sides of it, and their strongest pixel often lies a pixel or two beside the object.

    Args:
        seed: the same seed makes the same images, bit by bit on one version of torch.
        train: training images, as many of each class but for a remainder.
        test: test images, likewise.
        image_size: height and width in pixels, at least 16.
        roughness: standard deviation of the noise on the background, of white as 1; on the object it is 0.05.

    Returns:
        Four classes. `split.masks` (N, H, W) bool are the pixels of the object, `split.boxes` the boxes around them.

    Raises:
        ValueError: if there are fewer images than classes, they are too small, or `roughness` is negative.
    """
    if min(train, test) < len(SHAPES) or image_size < 16 or not roughness >= 0:
        raise ValueError(
            f"`train` and `test` need at least {len(SHAPES)} images, of `image_size` 16 or more, `roughness` at least "
            f"0: got {train}, {test}, {image_size} and {roughness}."
        )
    splits = [
        _split(derived_seed(seed, f"shapes {name}"), count, image_size, roughness)
        for name, count in (("train", train), ("test", test))
    ]
    source = f"made from seed {seed}"
    return ImageData("shapes", SHAPES, splits[0], splits[1], mean=(0.5,) * 3, std=(0.25,) * 3, source=source)


def _split(seed: int, count: int, size: int, roughness: float) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % len(SHAPES))[torch.randperm(count, generator=generator)]
    # a few at a time, so that memory does not grow with their number
    images, masks = zip(*(_draw(some, size, roughness, generator) for some in labels.split(100)), strict=True)
    return Split(torch.cat(images), labels, masks_to_boxes(torch.cat(masks)), torch.cat(masks))


def _draw(labels: Tensor, size: int, roughness: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (N, 3, size, size) uint8 of the shapes `labels` (N,), and masks (N, size, size) bool."""
    count = len(labels)
    radius = _SMALLEST + (_LARGEST - _SMALLEST) * torch.rand(count, 1, 1, generator=generator)
    x, y = (radius + (1 - 2 * radius) * torch.rand(count, 1, 1, generator=generator) for _ in range(2))
    places = (torch.arange(size) + 0.5) / size
    masks = _inside(labels, (places - x) / radius, (places[:, None] - y) / radius)
    background = _texture(count, size, generator)
    color = torch.rand(count, 3, 1, 1, generator=generator)
    # a color too near to the mean of the background gives way to one far from it
    middle = background.mean(dim=(2, 3), keepdim=True)
    too_near = (color - middle).abs().amax(dim=1, keepdim=True) < 0.25
    color = torch.where(too_near, 1 - middle.round(), color)
    noise = torch.randn(count, 3, size, size, generator=generator)
    images = torch.where(masks[:, None], color + _GRAIN * noise, background + roughness * noise)
    return (255 * images.clamp(0, 1)).round().to(torch.uint8), masks


def _inside(labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(N, H, W) bool: pixels inside the shape, at (u, v) from its center, in radii; all four are about as large."""
    far, near = u.abs().maximum(v.abs()), u.abs().minimum(v.abs())
    kinds = (
        u**2 + v**2 <= 0.8,
        (near <= 0.38) & (far <= 1.0),
        far <= 0.8,
        (v.abs() <= 0.95) & (2 * u.abs() <= v + 1.15),
    )
    return torch.stack(kinds)[labels, torch.arange(len(labels))]


def _texture(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W), most of it in [0, 1]: patches of color of several sizes, one over the other."""
    layers = []
    for cells, share in ((2, 0.5), (5, 0.3), (11, 0.2)):
        coarse = torch.rand(count, 3, cells, cells, generator=generator)
        layers.append(share * F.interpolate(coarse, size=size, mode="bicubic"))
    return torch.stack(layers).sum(dim=0)
