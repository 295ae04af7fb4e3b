"""Classic CAM and Grad-CAM: which places of an image raised the score of a class.

Classic CAM reads the last feature map of a network that ends in global average pooling and one linear layer, and is
exact there; Grad-CAM reads any layer of any network.

The package grad-cam (`pytorch_grad_cam`) turns activations and gradients into maps. It gets both from one
forward and one backward pass of ours, for all layers at once, and not from its own hooks: those average the
layers into one map, mispair them when one gets no gradient, are overwritten by in-place operations, leave the
model in eval mode, clear the user's gradients and swallow an `IndexError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from evalib.cam_maps import ClassIdx, check_inputs, explaining, finish, form, logits_and_classes, unwrap
from evalib.cam_maps import empty_maps as empty_maps
from evalib.cam_networks import VGG19CAM, AlexNetCAM, CAMNetwork

# Modules of `features`: outputs of pooling layers, and of the ReLU after a convolution that none follows.
_FEATURE_LAYERS: dict[type[CAMNetwork], dict[str, int]] = {
    AlexNetCAM: {"pool1": 2, "pool2": 5, "conv3": 7, "conv4": 9, "pool3": 12},
    VGG19CAM: {"pool1": 4, "pool2": 9, "pool3": 18, "pool4": 27, "pool5": 36},
}
# Feature maps and linear layer: of a CAM network, a ResNet of `evalib.models`, one of torchvision.
_ENDS = (("features", "classifier"), ("layer4", "linear"), ("layer4", "fc"))


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


def raw_cam(model: nn.Module, images: Tensor, class_idx: ClassIdx = None) -> Tensor:
    """Class activation maps as they are: M(x, y) = sum_k w_k f_k(x, y) (Zhou et al. 2016, arXiv:1512.04150, eq. 2).

    `f_k` is channel k of the last feature map and `w_k` its weight for the class. The mean of a map over its places
    plus the class's bias IS the logit; the call checks it. One forward pass, no gradients. The model (run in eval
    mode) and `images` are left as they were, whatever is frozen or set outside, always in full precision.

    Args:
        model: float32 network that ends in global average pooling and one linear layer: a `CAMNetwork`, a ResNet of
            `evalib.models` or of torchvision. `torch.compile` and `DataParallel` around it are looked through.
        images: (N, 3, H, W) floating point, normalized as in training.
        class_idx: None for the predicted classes, an int for the same class throughout, or one per image.

    Returns:
        (N, h, w) float32, unscaled and of both signs, in the size of the feature map, on the device of `images`.

    Raises:
        TypeError: if a class is no integer.
        ValueError: if the network ends otherwise, or shape, dtype or class allow no map.
    """
    model = unwrap(model)
    check_inputs(model, images)
    wrong_end = (
        f"`model` needs to end in global average pooling and one linear layer: this {type(model).__name__} does not. "
        "Use `grad_cam`, which takes any network."
    )
    for name, linear_name in _ENDS:
        features, linear = getattr(model, name, None), getattr(model, linear_name, None)
        if isinstance(features, nn.Module) and isinstance(linear, nn.Linear):
            break
    else:
        raise ValueError(wrong_end)
    with explaining(model), torch.no_grad(), _captured({features: f"`model.{name}`"}) as activations:
        logits, classes = logits_and_classes(model, images, class_idx)
        if features not in activations or activations[features].shape[1] != linear.in_features:
            raise ValueError(wrong_end)
        # Not a matrix product, which a GPU may be told to round to TF32. Channels last, so that every place is summed
        # in the same order: constant features give a constant map.
        terms = linear.weight[classes][:, None, None] * activations[features].movedim(1, -1).contiguous()
        bias = logits.new_zeros(len(images)) if linear.bias is None else linear.bias[classes]
        maps, logit = terms.sum(dim=-1), logits.gather(1, classes[:, None])[:, 0]
        # rounding goes with the size of the terms, much of which cancels out in their sum
        allowed = 1e-3 * logit.abs() + 1e-4 * (terms.abs().sum(dim=-1).mean(dim=(1, 2)) + bias.abs())
        if not ((maps.mean(dim=(1, 2)) + bias - logit).abs() <= allowed).all():
            raise ValueError(wrong_end)
    return maps.float().to(images.device)


def classic_cam(model: nn.Module, images: Tensor, class_idx: ClassIdx = None) -> Tensor:
    """One class activation map per image (Zhou et al. 2016, arXiv:1512.04150), finished as those of `grad_cam`.

    These are the maps of `raw_cam` after ReLU, enlarged to the image (bilinear) and scaled so that the weakest pixel
    is 0 and the strongest 1; without positive evidence, or where all places have the same, a map is zero (see
    `empty_maps`). They equal Grad-CAM's of the last layer, without a backward pass.

    Args:
        model: as in `raw_cam`.
        images: (N, 3, H, W) floating point, normalized as in training.
        class_idx: as in `raw_cam`.

    Returns:
        cams: (1, N, H, W) float32 in [0, 1], one layer of maps as from `grad_cam`, on the device of `images`.

    Raises:
        TypeError, ValueError: as `raw_cam`.

    Example:
        >>> from evalib.models import resnet18
        >>> classic_cam(resnet18(width=4), torch.randn(2, 3, 32, 32), class_idx=3).shape
        torch.Size([1, 2, 32, 32])
    """
    return finish(raw_cam(model, images, class_idx), images, "`model`")[None]


def grad_cam(
    model: nn.Module,
    images: Tensor,
    target_layers: Sequence[nn.Module] | nn.Module,
    class_idx: ClassIdx = None,
) -> Tensor:
    """One Grad-CAM map per layer and image (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2).

    A map is `relu(sum_k a_k A_k)`: `A_k` is channel k of the layer's output, `a_k` the mean over all places of
    the gradient of the class's logit with respect to it. It is enlarged to the image (bilinear) and scaled so
    that its weakest pixel is 0 and its strongest 1; without positive evidence it is zero (see `empty_maps`).

    The model (run in eval mode) and `images` are left as they were, also on an exception. Works on frozen
    layers and under `no_grad`, `inference_mode` and `autocast`, always in full precision.

    Args:
        model: classifier with float32 weights that returns logits (N, num_classes). `torch.compile` and
            `DataParallel` around it are looked through.
        images: (N, 3, H, W) floating point, normalized as in training.
        target_layers: one or several modules of the model with outputs (N, C, h, w); of 1 x 1 place, the map is empty.
        class_idx: None for the predicted classes, an int for the same class throughout, or one per image.

    Returns:
        cams: (L, N, H, W) float32 in [0, 1], in the order of `target_layers`, on the device of `images`.

    Raises:
        TypeError: if a layer is no module or a class no integer.
        ValueError: if shape, dtype, class, layer or feature map allow no map, or if logits or maps are not
            finite; the message says what to pass instead.

    Example:
        >>> from evalib.models import resnet18
        >>> model = resnet18(width=4)
        >>> grad_cam(model, torch.randn(2, 3, 32, 32), list(cam_layers(model).values()), class_idx=3).shape
        torch.Size([5, 2, 32, 32])
    """
    from pytorch_grad_cam import GradCAM

    model = unwrap(model)
    layers = [target_layers] if isinstance(target_layers, nn.Module) else list(target_layers)
    labels = _label_layers(model, layers)
    check_inputs(model, images)
    with explaining(model):
        found = _activations_and_gradients(model, images, labels, class_idx)
        engine = GradCAM(model=model, target_layers=[])  # no layers: it registers no hooks
    cams = {}
    for layer, (activation, gradient) in found.items():
        # (N, h, w), before ReLU; of the first three arguments Grad-CAM reads none
        cam = engine.get_cam_image(images, layer, None, activation.cpu().numpy(), gradient.cpu().numpy())
        cams[layer] = finish(torch.from_numpy(cam).float(), images, labels[layer])
    return torch.stack([cams[layer] for layer in layers]).to(images.device)


def _label_layers(model: nn.Module, layers: Sequence[nn.Module]) -> dict[nn.Module, str]:
    """Every layer once, with its name for messages."""
    names = {module: name for name, module in model.named_modules()}
    labels = {}
    for i, layer in enumerate(layers):
        if not isinstance(layer, nn.Module):
            raise TypeError(
                f"`target_layers` needs modules: got {type(layer).__name__} as item {i}. "
                "Pass `model.layer4` or `list(cam_layers(model).values())`."
            )
        if layer not in names:
            raise ValueError(
                f"`target_layers[{i}]` ({type(layer).__name__}) is no part of `model`. "
                "Take the layers from this very object; those of a copy are others."
            )
        labels[layer] = f"`target_layers[{i}]` ({names[layer] or 'the model'}: {type(layer).__name__})"
    if not labels:
        raise ValueError("`target_layers` needs at least one layer: got none.")
    return labels


def _activations_and_gradients(
    model: nn.Module, images: Tensor, labels: Mapping[nn.Module, str], class_idx: ClassIdx
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Output of every layer and gradient of the classes' logits with respect to it, both (N, C, h, w)."""
    with _captured(labels) as activations:
        logits, classes = logits_and_classes(model, images, class_idx)
    for layer, label in labels.items():
        if layer not in activations:
            raise ValueError(f"{label} does not run in the model's `forward`. Choose a layer that does.")
    score = logits.gather(1, classes[:, None]).sum()
    gradients: Sequence[Tensor | None] = [None] * len(activations)
    if score.requires_grad:
        # stops at the layers and, unlike `backward`, writes no `.grad` and runs no hook of a parameter
        gradients = torch.autograd.grad(score, list(activations.values()), allow_unused=True)
    found = {}
    for (layer, activation), gradient in zip(activations.items(), gradients, strict=True):
        if gradient is None:
            raise ValueError(f"{labels[layer]} gets no gradient from the logits. Choose a later layer.")
        found[layer] = (activation.detach(), gradient)
    return found


@contextmanager
def _captured(labels: Mapping[nn.Module, str]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect the layers' outputs during a forward pass."""
    activations: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 4:
            got = f"{labels[layer]} needs an output (N, C, h, w): got {form(output)}"
            raise ValueError(f"{got}. Choose a convolutional layer.")
        if layer in activations:
            raise ValueError(f"{labels[layer]} runs more than once in `forward`. Choose one that runs once.")
        # Two copies, one to keep and one to go on, so that no in-place operation around the layer (ReLU, `+=`)
        # changes what is kept. If the layers so far are frozen or under `no_grad`, the graph begins here.
        with torch.enable_grad():
            activations[layer] = output.clone().requires_grad_()
            return activations[layer].clone()

    with ExitStack() as hooks:
        for layer in labels:
            hooks.callback(layer.register_forward_hook(keep).remove)
        yield activations
