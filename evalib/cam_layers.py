"""Which layers of a network are worth a map, and how they are named."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from torch import nn

from evalib.cam_maps import unwrap
from evalib.cam_networks import VGG19CAM, AlexNetCAM, CAMNetwork

Layer: TypeAlias = nn.Module | str
Layers: TypeAlias = Sequence[Layer] | Layer | None

# Modules of `features`: outputs of pooling layers, and of the ReLU after a convolution that none follows.
_FEATURE_LAYERS: dict[type[CAMNetwork], dict[str, int]] = {
    AlexNetCAM: {"pool1": 2, "pool2": 5, "conv3": 7, "conv4": 9, "pool3": 12},
    VGG19CAM: {"pool1": 4, "pool2": 9, "pool3": 18, "pool4": 27, "pool5": 36},
}


def cam_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Five layers of a network that are worth a map, from fine and early to coarse and late.

    Of a ResNet, `layer1` to `layer4` are the last blocks of the four stages. `layer0` is the FIRST block of stage 1
    (`model.layer1[0]`) and not the stem: the stem's ReLU is a function call in `forward`, so this block is
    the first module whose output is an activation after a ReLU.

    The last layer is the one that `classic_cam` reads.

    Args:
        model: a ResNet of `evalib.models` or another with stages `layer1` to `layer4`, as torchvision's; or an
            `AlexNetCAM` or a `VGG19CAM`.

    Returns:
        A ResNet's `{"layer0": module, ..., "layer4": module}`: for 32 x 32 images the feature maps of our networks
        have 32, 32, 16, 8 and 4 pixels a side. AlexNet's `pool1`, `pool2`, `conv3`, `conv4`, `pool3`: 27, 13, 13, 13
        and 6 pixels a side for 224 x 224 images. VGG19's `pool1` to `pool5`: 112, 56, 28, 14 and 7.

    Raises:
        ValueError: if the model lacks one of the four stages and is no CAM network.
    """
    model = unwrap(model)
    for network, places in _FEATURE_LAYERS.items():
        if isinstance(model, network):
            return {name: model.features[place] for name, place in places.items()}
    stages = {name: getattr(model, name, None) for name in ("layer1", "layer2", "layer3", "layer4")}
    blocks = {name: list(stage) for name, stage in stages.items() if isinstance(stage, nn.Sequential)}
    for name in stages:
        if not blocks.get(name):
            raise ValueError(
                f"`model` needs stages of blocks as a ResNet has: this {type(model).__name__} has no such "
                f"`{name}`. Pass modules of your choice to `grad_cam`, such as the last ReLU before the pooling."
            )
    return {"layer0": blocks["layer1"][0], **{name: blocks[name][-1] for name in stages}}


def find_layers(
    model: nn.Module, layers: Layers, argument: str = "layers"
) -> tuple[list[nn.Module], dict[nn.Module, str]]:
    """Layers as modules, and what messages call them.

    Args:
        model: the network itself, see `evalib.cam_maps.unwrap`.
        layers: modules of `model`, keys of `cam_layers(model)` or names of modules such as "layer4.1.conv2"; one or
            several, or None for all of `cam_layers(model)`.
        argument: what the caller calls `layers`.

    Returns:
        modules: in the order of `layers`.
        labels: every module once, with its label.

    Raises:
        TypeError: if a layer is neither a module nor a name.
        ValueError: if a layer is no part of `model`, a name unknown, or there is no layer.
    """
    if layers is None:
        layers = list(cam_layers(model).values())
    listed = [layers] if isinstance(layers, nn.Module | str) else list(layers)
    names = {module: name for name, module in model.named_modules()}
    modules, labels = [], {}
    for i, layer in enumerate(listed):
        if isinstance(layer, str):
            layer = _by_name(model, layer, f"{argument}[{i}]")
        if not isinstance(layer, nn.Module):
            raise TypeError(
                f"`{argument}` needs modules or their names: got {type(layer).__name__} as item {i}. "
                "Pass `model.layer4` or `list(cam_layers(model).values())`."
            )
        if layer not in names:
            raise ValueError(
                f"`{argument}[{i}]` ({type(layer).__name__}) is no part of `model`. "
                "Take the layers from this very object; those of a copy are others."
            )
        modules.append(layer)
        labels[layer] = f"`{argument}[{i}]` ({names[layer] or 'the model'}: {type(layer).__name__})"
    if not modules:
        raise ValueError(f"`{argument}` needs at least one layer: got none.")
    return modules, labels


def _by_name(model: nn.Module, name: str, place: str) -> nn.Module:
    known = {path: module for path, module in model.named_modules() if path}
    with suppress(ValueError):  # another network has no such five
        known |= cam_layers(model)
    if name not in known:
        near = difflib.get_close_matches(name, known) or list(known)[:5]
        raise ValueError(
            f"`{place}` needs the name of a layer: this {type(model).__name__} has no {name!r}. "
            f"It has {', '.join(map(repr, near))}; all names: `dict(model.named_modules())`."
        )
    return known[name]
