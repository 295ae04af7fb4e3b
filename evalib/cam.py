"""Grad-CAM: which places of an image raised the score of a class.

The package grad-cam (`pytorch_grad_cam`) turns activations and gradients into maps. It gets both from one
forward and one backward pass of ours, for all layers at once, and not from its own hooks: those average the
layers into one map, mispair them when one gets no gradient, are overwritten by in-place operations, leave the
model in eval mode, clear the user's gradients and swallow an `IndexError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.runtime import eval_mode

ClassIdx: TypeAlias = Sequence[int] | Tensor | int | None


def cam_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The five layers of a ResNet that are worth a map, from fine and early to coarse and late.

    `layer1` to `layer4` are the last blocks of the four stages. `layer0` is the FIRST block of stage 1
    (`model.layer1[0]`) and not the stem: the stem's ReLU is a function call in `forward`, so this block is
    the first module whose output is an activation after a ReLU.

    Args:
        model: a network of `evalib.models` or another with stages `layer1` to `layer4`, as torchvision's.

    Returns:
        `{"layer0": module, ..., "layer4": module}`. For 32 x 32 images the feature maps of our networks
        have 32, 32, 16, 8 and 4 pixels a side.

    Raises:
        ValueError: if the model lacks one of the four stages.
    """
    model = _unwrap(model)
    stages = {name: getattr(model, name, None) for name in ("layer1", "layer2", "layer3", "layer4")}
    blocks = {name: list(stage) for name, stage in stages.items() if isinstance(stage, nn.Sequential)}
    for name in stages:
        if not blocks.get(name):
            raise ValueError(
                f"`model` needs stages of blocks as a ResNet has: this {type(model).__name__} has no such "
                f"`{name}`. Pass modules of your choice to `grad_cam`, such as the last ReLU before the pooling."
            )
    return {"layer0": blocks["layer1"][0], **{name: blocks[name][-1] for name in stages}}


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
        target_layers: one or several modules of the model with outputs (N, C, h, w), h and w at least 2.
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

    model = _unwrap(model)
    layers = [target_layers] if isinstance(target_layers, nn.Module) else list(target_layers)
    labels = _label_layers(model, layers)
    _check_inputs(model, images)
    with _explaining(model):
        found = _activations_and_gradients(model, images, labels, class_idx)
        engine = GradCAM(model=model, target_layers=[])  # no layers: it registers no hooks
    cams = {}
    for layer, (activation, gradient) in found.items():
        # (N, h, w), before ReLU; of the first three arguments Grad-CAM reads none
        cam = engine.get_cam_image(images, layer, None, activation.cpu().numpy(), gradient.cpu().numpy())
        cams[layer] = _finish(torch.from_numpy(cam).float(), images, labels[layer])
    return torch.stack([cams[layer] for layer in layers]).to(images.device)


def empty_maps(cams: Tensor) -> Tensor:
    """Which maps are zero everywhere: no place spoke for the class, or all did equally. Figures label these.

    Args:
        cams: (L, N, H, W) as `grad_cam` returns them.

    Returns:
        (L, N) bool, True for an empty map.

    Raises:
        ValueError: if `cams` has not four dimensions.
    """
    if cams.dim() != 4:
        raise ValueError(f"`cams` needs shape (L, N, H, W) as from `grad_cam`: got {tuple(cams.shape)}.")
    return (cams == 0).flatten(2).all(dim=2)


def _unwrap(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile` and data-parallel wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):  # set by torch.compile
            model = original
        else:
            return model


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


def _check_inputs(model: nn.Module, images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dim() != 4 or images.numel() == 0:
        raise ValueError(
            f"`images` needs a tensor (N, 3, H, W) with at least one image: got {_form(images)}. "
            "Make a single image a batch with `image[None]`."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"`images` needs floating point: got {images.dtype}. "
            "Normalize them as in training (`evalib.transforms.normalize`)."
        )
    if next(model.parameters(), None) is None:
        raise ValueError("`model` needs parameters: got none. Pass a trained classifier.")
    for name, weight in chain(model.named_parameters(), model.named_buffers()):
        if weight.is_floating_point() and weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`model` needs float32 weights: got {weight.dtype} in `{name}`. "
                "Pass a copy, and layers of that copy: `copy.deepcopy(model).float()`."
            )


@contextmanager
def _explaining(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients, full precision, nothing compiled, whatever is set outside; random state kept."""
    device = next(model.parameters()).device
    # A part compiled earlier would leave our hooks out, one compiled now would keep them. (From torch 2.6 on.)
    eager = torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()
    with (
        eager,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        eval_mode(model),
    ):
        yield


def _activations_and_gradients(
    model: nn.Module, images: Tensor, labels: Mapping[nn.Module, str], class_idx: ClassIdx
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Output of every layer and gradient of the classes' logits with respect to it, both (N, C, h, w)."""
    weight = next(model.parameters())
    with _captured(labels) as activations:
        # a copy, since a network may begin with an in-place operation
        logits = model(images.detach().to(weight.device, weight.dtype, copy=True))
    for layer, label in labels.items():
        if layer not in activations:
            raise ValueError(f"{label} does not run in the model's `forward`. Choose a layer that does.")
    classes = _one_class_per_image(class_idx, logits, len(images))
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
        _check_feature_map(output, labels[layer])
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


def _form(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _check_feature_map(output: Tensor, label: str) -> None:
    if not isinstance(output, Tensor) or output.dim() != 4:
        raise ValueError(f"{label} needs an output (N, C, h, w): got {_form(output)}. Choose a convolutional layer.")
    height, width = output.shape[2:]
    if height < 2 or width < 2:
        raise ValueError(
            f"{label} needs a feature map of at least 2x2 to tell places apart: got {height}x{width}. "
            "Choose an earlier layer or pass larger images."
        )


def _one_class_per_image(class_idx: ClassIdx, logits: Tensor, num_images: int) -> Tensor:
    """The classes to explain, (N,) int64, of logits (N, num_classes)."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != num_images:
        raise ValueError(f"`model` needs to return logits ({num_images}, num_classes): got {_form(logits)}.")
    if not logits.isfinite().all():
        raise ValueError("`model` returned logits that are not finite. Check weights and `images` for NaN.")
    if class_idx is None:
        return logits.argmax(dim=1)
    classes = torch.as_tensor(class_idx)
    if classes.dim() == 0:
        classes = classes.expand(num_images)
    if classes.shape != (num_images,):
        raise ValueError(
            f"`class_idx` needs one class per image: got {_form(classes)} for {num_images} images. "
            "Pass an int for the same class throughout, None for the predicted classes."
        )
    if classes.dtype == torch.bool or classes.is_floating_point() or classes.is_complex():
        raise TypeError(f"`class_idx` needs integers: got {classes.dtype}.")
    # a copy, since a tensor made under `inference_mode` cannot be part of a graph
    classes = classes.to(logits.device, torch.int64, copy=True)
    outside = classes[(classes < 0) | (classes >= logits.shape[1])]
    if len(outside):
        raise ValueError(f"`class_idx` needs classes from 0 to {logits.shape[1] - 1}: got {int(outside[0])}.")
    return classes


def _finish(maps: Tensor, images: Tensor, label: str) -> Tensor:
    """ReLU, enlargement to (N, H, W) and scaling to [0, 1] of maps (N, h, w)."""
    if not maps.isfinite().all():
        raise ValueError(f"{label} gives a map that is not finite. Check the weights for huge values.")
    maps = F.interpolate(maps.relu()[:, None], size=images.shape[2:], mode="bilinear")[:, 0]
    return _unit_range(maps)


def _unit_range(maps: Tensor) -> Tensor:
    """Min-max of each map, on its own scale since gradients can be tiny; flat but for rounding becomes 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high - low <= 1e-5 * high, 0.0, (maps - low) / (high - low))
