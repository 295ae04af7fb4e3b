"""One forward pass and one gradient for all layers, and the methods that need nothing else.

The package grad-cam gets both from hooks of its own; those average the layers into one map, mispair them when one
gets no gradient, are overwritten by in-place operations, leave the model in eval mode, clear the user's gradients,
swallow an `IndexError`, and need one pass for every layer whose own map is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from evalib.cam_maps import ClassIdx, finish, form, logits_and_classes
from evalib.layouts import Layout, gradient_reaches_places, layout_of

Formula: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pass:
    """What one pass over a batch leaves.

    Attributes:
        logits: (N, num_classes).
        classes: (N,) int64, those to explain.
        outputs: what each layer returned that ran.
        layouts: how an output holds its map.
        activations: (N, C, h, w), the maps as views of `outputs`.
        gradients: of the classes' logits with respect to `activations`; empty unless asked for.
    """

    logits: Tensor
    classes: Tensor
    outputs: dict[nn.Module, Tensor]
    layouts: dict[nn.Module, Layout]
    activations: dict[nn.Module, Tensor]
    gradients: dict[nn.Module, Tensor]

    def require(self, labels: Mapping[nn.Module, str]) -> None:
        """Refuse layers that did not run.

        Raises:
            ValueError: if there is one.
        """
        for layer, label in labels.items():
            if layer not in self.activations:
                raise ValueError(f"{label} does not run in the model's `forward`. Choose a layer that does.")

    def raw_maps(self, formula: Formula, layer: nn.Module) -> Tensor:
        """Maps (N, h, w) of a layer by one of `FORMULAS`, before ReLU."""
        return formula(self.activations[layer], self.gradients[layer])


def one_pass(
    model: nn.Module,
    images: Tensor,
    labels: Mapping[nn.Module, str],
    class_idx: ClassIdx,
    *,
    gradients: bool = True,
) -> Pass:
    """Activations of all layers from one forward pass, and gradients from one backward pass that stops at the layers.

    Unlike `backward` it computes no gradient of a parameter, writes no `.grad` and runs no hook of a parameter.

    Args:
        model: the network itself, inside `evalib.cam_maps.explaining`.
        images: (N, 3, H, W) floating point.
        labels: the layers, and what messages call them.
        class_idx: None for the predicted classes, an int for the same class throughout, or one per image.
        gradients: whether they are needed.

    Raises:
        TypeError: if a class is no integer.
        ValueError: if a layer runs twice, has no output with a map (see `evalib.layouts`) or no influence on
            the logits, or if classes or logits allow no map.
    """
    with torch.set_grad_enabled(gradients):
        logits, classes, kept = _forward(model, images, labels, class_idx)
    layouts = {layer: _layout(output, images, layer, labels[layer]) for layer, output in kept.items()}
    found = _gradients(logits, classes, kept, labels) if gradients else {}
    for layer, gradient in found.items():
        if not gradient_reaches_places(gradient, layouts[layer]):
            raise ValueError(
                f"{labels[layer]} acts on the logits through its class token alone: no place of it has a gradient. "
                "Choose an earlier layer, such as the first normalization of the last block (`norm1`, `ln_1`)."
            )
        found[layer] = layouts[layer].channels_first(gradient)
    outputs = {layer: output.detach() for layer, output in kept.items()}
    maps = {layer: layouts[layer].channels_first(output) for layer, output in outputs.items()}
    return Pass(logits.detach(), classes, outputs, layouts, maps, found)


def _layout(output: Tensor, images: Tensor, layer: nn.Module, label: str) -> Layout:
    layout = layout_of(output, images.shape[2:], layer)
    if layout is None:
        raise ValueError(
            f"{label} needs an output (N, C, h, w), (N, h, w, C) or (N, tokens, C) that can be read as a map of "
            f"{images.shape[2]} x {images.shape[3]} pixels in one way only: got {form(output)}. Choose another layer, "
            "or wrap this one in a module that returns (N, C, h, w)."
        )
    return layout


def _forward(
    model: nn.Module, images: Tensor, labels: Mapping[nn.Module, str], class_idx: ClassIdx
) -> tuple[Tensor, Tensor, dict[nn.Module, Tensor]]:
    """Logits, classes, and outputs of those layers that ran, as they were before anything wrote over them."""
    with _captured(labels, copies=False) as (activations, versions):
        logits, classes = logits_and_classes(model, images, class_idx)
    if any(activation._version != versions[layer] for layer, activation in activations.items()):
        # An in-place operation, such as a ReLU, wrote over what was kept: once more, with copies.
        with _captured(labels, copies=True) as (activations, _):
            logits, classes = logits_and_classes(model, images, classes)
    return logits, classes, activations


def _gradients(
    logits: Tensor, classes: Tensor, activations: Mapping[nn.Module, Tensor], labels: Mapping[nn.Module, str]
) -> dict[nn.Module, Tensor]:
    score = logits.gather(1, classes[:, None]).sum()
    gradients: tuple[Tensor | None, ...] = (None,) * len(activations)
    if score.requires_grad and activations:
        gradients = torch.autograd.grad(score, list(activations.values()), allow_unused=True)
    found = {}
    for layer, gradient in zip(activations, gradients, strict=True):
        if gradient is None:
            raise ValueError(f"{labels[layer]} gets no gradient from the logits. Choose a later layer.")
        found[layer] = gradient
    return found


@contextmanager
def _captured(
    labels: Mapping[nn.Module, str], *, copies: bool
) -> Iterator[tuple[dict[nn.Module, Tensor], dict[nn.Module, int]]]:
    """Collect the layers' outputs during a forward pass, and how often each had been written to by then."""
    activations: dict[nn.Module, Tensor] = {}
    versions: dict[nn.Module, int] = {}

    def keep(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() not in (3, 4):
            got = f"{labels[layer]} needs an output (N, C, h, w), (N, h, w, C) or (N, tokens, C): got {form(output)}"
            raise ValueError(f"{got}. Choose a convolutional layer or a transformer's block.")
        if layer in activations:
            raise ValueError(f"{labels[layer]} runs more than once in `forward`. Choose one that runs once.")
        with torch.enable_grad():
            # The graph begins at the first layer, which frees what came before, and anew after a part that is frozen.
            first = not activations or not output.requires_grad
            activation = output.detach() if first else output
            if copies:
                activation = activation.clone()
            activations[layer] = activation.requires_grad_()
            versions[layer] = activation._version
            # No in-place operation may write to a leaf of the graph, nor to a copy that is to stay what it is.
            return activation.clone() if first or copies else activation

    with ExitStack() as hooks:
        for layer in labels:
            hooks.callback(layer.register_forward_hook(keep).remove)
        yield activations, versions


def layer_maps(
    raw: Callable[[nn.Module], Tensor], images: Tensor, layers: Sequence[nn.Module], labels: Mapping[nn.Module, str]
) -> Tensor:
    """Maps of one method for every layer, finished.

    Args:
        raw: maps (N, h, w) of a layer, before ReLU.
        images: (N, 3, H, W), of which only size and device are read.
        layers: in the order wanted; one may come twice.
        labels: every layer once, and what messages call it.

    Returns:
        (L, N, H, W) float32 in [0, 1], on the device of `images`.

    Raises:
        ValueError: if a map is not finite.
    """
    maps = {layer: finish(raw(layer).float(), images, label) for layer, label in labels.items()}
    return torch.stack([maps[layer] for layer in layers]).to(images.device)


# --- methods -------------------------------------------------------------------------------------------------
# From a layer's activations A and gradients G, both (N, C, h, w), to maps (N, h, w) before ReLU.


def _weighted(weights: Tensor, activation: Tensor) -> Tensor:
    """Sum over the channels; not a matrix product, which a GPU may be told to round to TF32."""
    return (weights * activation).sum(dim=1)


def _grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return _weighted(gradient.mean(dim=(2, 3), keepdim=True), activation)


def _grad_cam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    # eq. 19 of the paper times relu(G); 1e-6 is grad-cam's, and dims channels whose gradients are below 1e-3
    positive = gradient.relu()
    total = activation.sum(dim=(2, 3), keepdim=True)
    alphas = positive**2 / (2 * positive**2 + total * positive**3 + 1e-6)
    return _weighted((alphas * positive).sum(dim=(2, 3), keepdim=True), activation)


def _xgrad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    # 1e-7 is grad-cam's: a channel that is 0 everywhere has no share in the map
    shares = (gradient * activation).sum(dim=(2, 3), keepdim=True)
    return _weighted(shares / (activation.sum(dim=(2, 3), keepdim=True) + 1e-7), activation)


def _hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return _weighted(gradient, activation)


def _element_wise_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return (gradient * activation).relu().sum(dim=1)


def _layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return _weighted(gradient.relu(), activation)


FORMULAS: dict[str, Formula] = {
    "grad_cam": _grad_cam,
    "grad_cam_plus_plus": _grad_cam_plus_plus,
    "xgrad_cam": _xgrad_cam,
    "hires_cam": _hires_cam,
    "element_wise_grad_cam": _element_wise_grad_cam,
    "layer_cam": _layer_cam,
}
