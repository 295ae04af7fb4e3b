"""Which layers of a network are worth a map, and how they are named."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from torch import Tensor, nn

from evalib.cam_maps import unwrap
from evalib.cam_networks import VGG19CAM, AlexNetCAM, CAMNetwork
from evalib.layer_search import search_layers

Layer: TypeAlias = nn.Module | str
Layers: TypeAlias = Sequence[Layer] | Layer | None

# Modules of `features`: outputs of pooling layers, and of the ReLU after a convolution that none follows.
_FEATURE_LAYERS: dict[type[CAMNetwork], dict[str, int]] = {
    AlexNetCAM: {"pool1": 2, "pool2": 5, "conv3": 7, "conv4": 9, "pool3": 12},
    VGG19CAM: {"pool1": 4, "pool2": 9, "pool3": 18, "pool4": 27, "pool5": 36},
}


def cam_layers(model: nn.Module, images: Tensor | None = None) -> dict[str, nn.Module]:
    """Up to five layers of a network that are worth a map, from fine and early to coarse and late.

    Networks known by their structure have names of their own. Of a ResNet, `layer1` to `layer4` are the last blocks of
    the four stages. `layer0` is the FIRST block of stage 1 (`model.layer1[0]`) and not the stem: the stem's ReLU is
    a function call in `forward`, so this block is the first module whose output is an activation after a ReLU.

    Of any other network the layers are found by running it once on the first of `images`, see
    `evalib.layer_search.search_layers`, and are named by their module paths, such as "features.8" or "blocks.11.norm1".

    The last layer is the one nearest to the logits, see `target_layer`; where `classic_cam` can read a network, it is
    the one that it reads.

    Args:
        model: any classifier. Known by structure are an `AlexNetCAM`, a `VGG19CAM`, a ResNet of `evalib.models` and
            others with stages `layer1` to `layer4`, as torchvision's and timm's.
        images: (N, 3, H, W) floating point, normalized as in training; needed for networks that are not known.

    Returns:
        A ResNet's `{"layer0": module, ..., "layer4": module}`: for 32 x 32 images the feature maps of our networks
        have 32, 32, 16, 8 and 4 pixels a side. AlexNet's `pool1`, `pool2`, `conv3`, `conv4`, `pool3`: 27, 13, 13, 13
        and 6 pixels a side for 224 x 224 images. VGG19's `pool1` to `pool5`: 112, 56, 28, 14 and 7.

    Raises:
        ValueError: if the network is not known and there are no images, or no layer of it gives a map.

    Example:
        >>> from torchvision.models import mobilenet_v3_small
        >>> list(cam_layers(mobilenet_v3_small(), torch.randn(1, 3, 64, 64)))
        ['features.0', 'features.1', 'features.3', 'features.8', 'features.12']
    """
    model = unwrap(model)
    for network, places in _FEATURE_LAYERS.items():
        if isinstance(model, network):
            return {name: model.features[place] for name, place in places.items()}
    stages = {name: getattr(model, name, None) for name in ("layer1", "layer2", "layer3", "layer4")}
    blocks = {name: list(stage) for name, stage in stages.items() if isinstance(stage, nn.Sequential)}
    for name in stages:
        if not blocks.get(name):
            if images is not None:
                return search_layers(model, images)
            raise ValueError(
                f"`model` needs stages of blocks as a ResNet has: this {type(model).__name__} has no such "
                f"`{name}`. Pass a batch, `cam_layers(model, images)`, and its layers are found by a forward pass; or "
                "pass modules of your choice to `grad_cam`, such as the last ReLU before the pooling."
            )
    return {"layer0": blocks["layer1"][0], **{name: blocks[name][-1] for name in stages}}


def target_layer(model: nn.Module, images: Tensor | None = None) -> tuple[str, nn.Module]:
    """The layer that a single map is made from: the last one of `cam_layers`, by name and as a module.

    Args:
        model, images: as in `cam_layers`.

    Returns:
        name: as `explain` takes it for `layers`.
        layer: the module of `model`.

    Raises:
        ValueError: as `cam_layers`.

    Example:
        >>> from evalib.models import resnet18
        >>> target_layer(resnet18(width=4))[0]
        'layer4'
    """
    return list(cam_layers(model, images).items())[-1]


def find_layers(
    model: nn.Module, layers: Layers, argument: str = "layers", images: Tensor | None = None
) -> tuple[list[nn.Module], dict[nn.Module, str]]:
    """Layers as modules, and what messages call them.

    Args:
        model: the network itself, see `evalib.cam_maps.unwrap`.
        layers: modules of `model`, keys of `cam_layers(model)` or names of modules such as "layer4.1.conv2"; one or
            several, or None for all of `cam_layers(model, images)`.
        argument: what the caller calls `layers`.
        images: for None, see `cam_layers`.

    Returns:
        modules: in the order of `layers`.
        labels: every module once, with its label.

    Raises:
        TypeError: if a layer is neither a module nor a name.
        ValueError: if a layer is no part of `model`, a name unknown, or there is no layer.
    """
    if layers is None:
        layers = list(cam_layers(model, images).values())
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
