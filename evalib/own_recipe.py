"""A recipe for images of one's own, chosen from facts about them, with a reason for each choice."""

from __future__ import annotations

import torch

from evalib.data.inspection import DataFacts
from evalib.recipes import Recipe, check_name, recipes

SMALL = 64  # pixels: images whose shorter side is not larger are seen by a network for small images, at their size
WIDE = 1.8  # times as long as wide, by the medians: of longer images it is said how little a middle crop shows
# Images seen in training, all epochs together; and the fewest and the most epochs. On a CPU "photos-small" takes 145 s
# of one core for 160 photos (torch 2.15, AVX2). Its test accuracy, 3 seeds of split and training, beside that of always
# naming the most frequent class: convertibles and SUVs of BMW (160 photos to train on) 80.0 % of 120 beside 50 %; X5
# and Z4 of BMW (67) 83.3 % of 48 beside 50 %; convertibles, SUVs and vans of 128 x 96 pixels (168) 62.7 % of 126 beside
# 33 %; of CIFAR-10 airplane, automobile, ship (144) 67.6 % of 108 beside 33 %, cat and dog (160) 60.0 % of 120 beside
# 50 %. In 30 epochs, on the first: 80.0 %; by SGD 58.3 %, without whitening 72.5 %, squeezed instead of cropped 71.7 %.
# "photos" is not measured: there was no file of weights. Its passes are about two minutes of two cores.
_PASSES = {
    ("photos", "cpu"): (2_400, 5, 15),
    ("photos", "gpu"): (30_000, 8, 20),
    ("photos-small", "cpu"): (9_600, 15, 60),
    ("photos-small", "gpu"): (100_000, 30, 100),
}


def choose_recipe(
    facts: DataFacts, device: torch.device, *, weights: str = "imagenet"
) -> tuple[Recipe, tuple[str, ...]]:
    """A recipe for a folder of images, and in one line each why its settings are what they are.

    Photographs are learned by torchvision's ResNet18 with weights of ImageNet; where there are none, and for images
    of at most `SMALL` pixels, by our own narrow ResNet18 from random weights. The same facts give the same recipe.

    Args:
        facts: as `evalib.data.inspection.inspect_folder` finds them.
        device: where the network will be trained; a CPU gets fewer epochs and a narrower network.
        weights: what there is to begin with: "imagenet", the path of a file for torchvision's ResNet18, or "none".

    Returns:
        The recipe, and reasons for model, image size, normalization, epochs and batch size, in this order.

    Raises:
        ValueError: if no image could be read.
    """
    width, height = facts.median_size
    if not width:
        raise ValueError(f"No image of {facts.name} can be read. Look at the first ones: {facts.unreadable[:3]}.")
    is_small = are_small(facts)
    pretrained = weights != "none" and not is_small
    recipe = recipes["photos" if pretrained else "photos-small"]
    pixels = f"median {width} x {height} pixels"
    if pretrained:
        begins = "ImageNet's weights" if weights == "imagenet" else f"the weights in {weights}"
        recipe = recipe.replace(weights=weights)
        model = f"torchvision's ResNet18 with {begins}, because the images are photographs ({pixels})"
    else:
        recipe = recipe.replace(width=64 if device.type != "cpu" else 16)
        why = f"because the images are small ({pixels})" if is_small else "because there are no weights to begin with"
        model = f"our ResNet18 of width {recipe.width} from random weights, {why}"
    recipe, size = _sized(recipe, facts, pretrained, is_small)
    recipe, epochs = _counted(recipe, sum(facts.counts["train"]), device)
    statistics = "ImageNet's, which the weights are used to" if pretrained else "that of the training images"
    recipe, batch = _batched(recipe, sum(facts.counts["train"]))
    return recipe, (
        f"model: {model}",
        f"image size: {size}",
        f"normalization: {statistics}",
        f"epochs: {epochs}",
        f"batch size: {batch}",
    )


def are_small(facts: DataFacts) -> bool:
    """Whether images are seen at their own size, by a network for small images."""
    return min(facts.median_size) <= SMALL


def _sized(recipe: Recipe, facts: DataFacts, pretrained: bool, is_small: bool) -> tuple[Recipe, str]:
    """The size of the network's input, and how images get it."""
    width, height = facts.median_size
    size = recipe.image_size
    why = "that of these weights" if pretrained else "what a CPU can train on from nothing"
    if is_small:
        size = max(32, 4 * round(min(width, height) / 4))
        why = "their own" if size == min(width, height) else "about their own; the network takes no less than 32"
    kind, how = "center_crop", "the shorter side resized, the middle cut out"
    if is_small:
        kind, how = "resize", "squeezed to a square"
    elif max(width, height) > WIDE * min(width, height):
        seen = min(width, height) / max(width, height) * 224 / 256
        how += f", which shows {seen:.0%} of images as long as these; to see all of them squeezed use geometry 'resize'"
    recipe = recipe.replace(image_size=size, geometry=kind, crop_padding=size // 8)
    return recipe, f"{size} pixels, {why}; {how}"


def _counted(recipe: Recipe, count: int, device: torch.device) -> tuple[Recipe, str]:
    """The number of epochs for `count` training images."""
    place = "cpu" if device.type == "cpu" else "gpu"
    check_name("recipe for images of one's own", recipe.name, ("photos", "photos-small"))
    passes, fewest, most = _PASSES[recipe.name, place]
    epochs = min(max(round(passes / count), fewest), most)
    return recipe.replace(epochs=epochs), f"{epochs}, that is {epochs * count:,} images in all, on this {place.upper()}"


def _batched(recipe: Recipe, count: int) -> tuple[Recipe, str]:
    """A batch size for `count` training images that leaves none alone: batch normalization could not learn from it."""
    wanted = recipe.batch_size if count < 2_000 else 2 * recipe.batch_size
    size = next(size for size in range(wanted, 1, -1) if count % size != 1)
    why = f", not {wanted}, so that no batch has a single image" if size != wanted else ""
    return recipe.replace(batch_size=size), f"{size}{why}, that is {-(-count // size):,} steps an epoch"
