"""Classic CAM and Grad-CAM: which places of an image raised the score of a class.

Classic CAM reads the last feature map of a network that ends in global average pooling and one linear layer, and is
exact there; Grad-CAM reads any layer of any network. `evalib.explain` has both and many more methods in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from evalib.cam_layers import Layers, find_layers
from evalib.cam_layers import cam_layers as cam_layers
from evalib.cam_layers import target_layer as target_layer
from evalib.cam_maps import ClassIdx, check_inputs, explaining, finish, unwrap
from evalib.cam_maps import empty_maps as empty_maps
from evalib.cam_pass import FORMULAS, Pass, layer_maps, one_pass
from evalib.layer_search import search_end

# Feature maps and linear layer: of a CAM network, a ResNet of `evalib.models`, one of torchvision.
_ENDS = (("features", "classifier"), ("layer4", "linear"), ("layer4", "fc"))


def raw_cam(model: nn.Module, images: Tensor, class_idx: ClassIdx = None) -> Tensor:
    """Class activation maps as they are: M(x, y) = sum_k w_k f_k(x, y) (Zhou et al. 2016, arXiv:1512.04150, eq. 2).

    `f_k` is channel k of the last feature map and `w_k` its weight for the class. The mean of a map over its places
    plus the class's bias IS the logit; the call checks it. One forward pass, no gradients. The model (run in eval
    mode) and `images` are left as they were, whatever is frozen or set outside, always in full precision.

    Args:
        model: float32 network that ends in global average pooling and one linear layer: a `CAMNetwork`, a ResNet of
            `evalib.models` or of torchvision, or any other, see `pooled_end`. `torch.compile` and `DataParallel`
            around it are looked through.
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
    end = pooled_end(model, images)
    with explaining(model):
        found = one_pass(model, images, end.labels, class_idx, gradients=False)
        return evidence(end, found).float().to(images.device)


@dataclass(frozen=True)
class PooledEnd:
    """The end of a network that classic CAM reads: a feature map, global average pooling, one linear layer."""

    features: nn.Module
    linear: nn.Linear
    labels: dict[nn.Module, str]
    wrong: str


def pooled_end(model: nn.Module, images: Tensor | None = None) -> PooledEnd:
    """The end of a network by its names, or else by a forward pass; `evidence` checks that it computes so.

    Args:
        model: the network itself, see `evalib.cam_maps.unwrap`.
        images: (N, 3, H, W), for networks without the names of ours or torchvision's ResNets. The feature map must
            be the output of a module: after a ReLU that is a function call before the pooling there is none.

    Raises:
        ValueError: if the network ends otherwise, or has no such names and there are no images.
    """
    wrong = (
        f"`model` needs to end in global average pooling and one linear layer: this {type(model).__name__} does not. "
        "Use `grad_cam`, which takes any network."
    )
    for name, linear_name in _ENDS:
        features, linear = getattr(model, name, None), getattr(model, linear_name, None)
        if isinstance(features, nn.Module) and isinstance(linear, nn.Linear):
            return PooledEnd(features, linear, {features: f"`model.{name}`"}, wrong)
    if images is not None and (found := search_end(model, images)) is not None:
        return PooledEnd(found[1], found[2], {found[1]: f"`model.{found[0]}`"}, wrong)
    raise ValueError(wrong)


@torch.no_grad()
def evidence(end: PooledEnd, found: Pass) -> Tensor:
    """Maps (N, h, w) of `raw_cam` from a pass over the network.

    Raises:
        ValueError: if means of the maps and bias are not the logits: the network ends otherwise.
    """
    features, linear, logits, classes = found.activations.get(end.features), end.linear, found.logits, found.classes
    if features is None or features.shape[1] != linear.in_features:
        raise ValueError(end.wrong)
    # Not a matrix product, which a GPU may be told to round to TF32. Channels last, so that every place is summed
    # in the same order: constant features give a constant map.
    terms = linear.weight[classes][:, None, None] * features.movedim(1, -1).contiguous()
    bias = logits.new_zeros(len(logits)) if linear.bias is None else linear.bias[classes]
    maps, logit = terms.sum(dim=-1), logits.gather(1, classes[:, None])[:, 0]
    # rounding goes with the size of the terms, much of which cancels out in their sum
    allowed = 1e-3 * logit.abs() + 1e-4 * (terms.abs().sum(dim=-1).mean(dim=(1, 2)) + bias.abs())
    if not ((maps.mean(dim=(1, 2)) + bias - logit).abs() <= allowed).all():
        raise ValueError(end.wrong)
    return maps


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
    target_layers: Layers = None,
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
        target_layers: one or several modules of the model whose outputs are maps, or their names, see
            `evalib.explain.explain`; None for all of `cam_layers(model, images)`.
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
    model = unwrap(model)
    check_inputs(model, images)
    layers, labels = find_layers(model, target_layers, "target_layers", images)
    with explaining(model):
        found = one_pass(model, images, labels, class_idx)
        found.require(labels)
        return layer_maps(partial(found.raw_maps, FORMULAS["grad_cam"]), images, layers, labels)
