"""What a network may begin with instead of random weights alone: a whitening first convolution, identity blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evalib.cam_networks import convolutions
from evalib.data.image_data import ImageData
from evalib.recipes import Recipe
from evalib.runtime import derived_seed
from evalib.transforms import normalize

WHITENING_IMAGES = 1000  # about a million patches
EPSILON = 5e-4  # added to the variances: directions that hardly vary are not blown up to noise


def initialize(model: nn.Module, data: ImageData, recipe: Recipe) -> None:
    """Give the network the initial weights that the recipe asks for beyond random ones."""
    if recipe.whitening:
        generator = torch.Generator().manual_seed(derived_seed(recipe.seed, "whitening"))
        chosen = torch.randperm(len(data.train), generator=generator)[:WHITENING_IMAGES]
        whiten(model, normalize(data.train.images[chosen], data.mean, data.std))
    if recipe.zero_gamma:
        zero_gamma(model)


@torch.no_grad()
def whiten(model: nn.Module, images: Tensor) -> None:
    """Set the first convolution to filters that decorrelate patches of the images and give them one variance.

    The filters are the eigenvectors of the covariance of all patches, divided by the root of their eigenvalues, each
    with both signs since a ReLU follows (Page 2019, "How to Train Your ResNet 8"; Jordan 2024, arXiv:2404.00498,
    section 3). Those of the largest variance come first; filters beyond twice their number keep their random weights.

    Args:
        model: its first convolution takes the images' channels, ungrouped; a bias is set to 0.
        images: (N, 3, H, W) float32, normalized as in training; a few thousand of them.

    Raises:
        ValueError: if the network has no such convolution.
    """
    first = next(iter(convolutions(model)), None)
    if first is None or first.in_channels != images.shape[1] or first.groups != 1:
        raise ValueError("Whitening needs a network whose first convolution takes the images: this one has none.")
    variances, vectors = torch.linalg.eigh(_patch_covariance(images, first.kernel_size))  # ascending
    filters = (vectors / (variances + EPSILON).sqrt()).T.flip(0).reshape(-1, *first.weight.shape[1:])
    both_signs = torch.stack([filters, -filters], dim=1).flatten(0, 1)[: first.out_channels]
    first.weight[: len(both_signs)] = both_signs.to(first.weight)
    if first.bias is not None:
        first.bias.zero_()


def _patch_covariance(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """(C h w, C h w) float64 covariance of all patches of h x w pixels, image by image to bound the memory."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for image in images.double():
        patches = image.unfold(1, size[0], 1).unfold(2, size[1], 1).movedim(0, 2).flatten(2).flatten(0, 1)  # (P, C h w)
        count, total, products = count + len(patches), total + patches.sum(dim=0), products + patches.T @ patches
    mean = total / count
    return products / count - mean[:, None] * mean


@torch.no_grad()
def zero_gamma(model: nn.Module) -> None:
    """Set the scale of every residual block's last batch normalization to 0, so that the block begins as its shortcut.

    Goyal et al. 2017, arXiv:1706.02677, section 5.1. Networks without blocks `bn1`, `bn2` (`bn3`) stay as they are.
    """
    for block in model.modules():
        last = getattr(block, "bn3", getattr(block, "bn2", None))
        if isinstance(last, nn.BatchNorm2d):
            last.weight.zero_()


@contextmanager
def batch_norm_momentum(model: nn.Module, momentum: float) -> Iterator[None]:
    """Inside the block, a batch has this weight in the running statistics; each layer's own is put back afterwards.

    A `momentum` of 0 changes nothing.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = layers if momentum else []
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = momentum
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.momentum = own
