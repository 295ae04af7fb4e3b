"""The methods of the package grad-cam that are not made here, without its side effects.

Some turn activations and gradients into a map: those of our own pass serve them, for all layers at once. The others
run the network themselves: they get a private copy of it, and each layer an object of its own, since an object with
several layers averages their maps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalib.cam_maps import finish, logits_of
from evalib.cam_pass import Formula, Pass
from evalib.layouts import Layout

# Names here and classes there.
FROM_PASS = {
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
    "seg_eigen_cam": "SegEigenCAM",
    "kpca_cam": "KPCA_CAM",
    "fem": "FEM",
    "random_cam": "RandomCAM",
}
FROM_COPY = {
    "finer_cam": "FinerCAM",
    "shapley_cam": "ShapleyCAM",
    "sess": "SESS",
    "refine_cam": "RefineCAM",
    "full_grad": "FullGrad",
}


def formula_of(method: str) -> Formula:
    """A method of `FROM_PASS` as one of `evalib.cam_pass.FORMULAS`; it works on the CPU."""
    engine = _class_of(FROM_PASS, method)(nn.Conv2d(1, 1, 1), target_layers=[])

    def formula(activation: Tensor, gradient: Tensor) -> Tensor:
        arrays = activation.cpu().numpy(), gradient.cpu().numpy()
        with _numpy_random_state_kept():
            maps = engine.get_cam_image(None, None, None, *arrays, eigen_smooth=False)
        return torch.from_numpy(maps).to(activation.device)

    return formula


def copy_maps(method: str, model: nn.Module, images: Tensor, found: Pass, layers: Sequence[nn.Module]) -> Tensor:
    """Maps of a method of `FROM_COPY`.

    Args:
        method: its name.
        model: the network itself, inside `evalib.cam_maps.explaining`.
        images: (N, 3, H, W) with the network's device and dtype.
        found: of `evalib.cam_pass.one_pass`.
        layers: modules of `model`.

    Returns:
        (L, N, H, W) float32 in [0, 1] on the network's device; of "refine_cam" and "full_grad" (1, N, H, W).
    """
    engine = _class_of(FROM_COPY, method)
    names = {module: name for name, module in model.named_modules()}
    private = copy.deepcopy(model).requires_grad_()
    for module in private.modules():
        if getattr(module, "inplace", False):  # its hooks keep no copy of what is written over
            module.inplace = False  # type: ignore[assignment]
    own = [_probed(private.get_submodule(names[layer]), found.layouts[layer]) for layer in layers]
    # of all layers together, and of all layers with a bias, which FullGrad finds itself
    whole: dict[str, list[list[nn.Module]]] = {"refine_cam": [own], "full_grad": [[]]}
    groups = whole.get(method) or [[layer] for layer in own]
    maps = []
    # the fused kernels of attention have no second derivative, which ShapleyCAM needs
    with _numpy_random_state_kept(), sdpa_kernel(SDPBackend.MATH):
        for group in groups:
            result = engine(_LogitsOnly(private), group)(images.clone(), _targets(method, found))
            maps.append(finish(torch.from_numpy(result).float(), images, f"`{method}`"))
    return torch.stack(maps)


class _LogitsOnly(nn.Module):
    """A network that returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.network(images), len(images))


def _probed(layer: nn.Module, layout: Layout) -> nn.Module:
    """A module whose output is the map (N, C, h, w) in a layer's output.

    grad-cam has transforms for other layouts, which ShapleyCAM applies to only a part of what it computes with.
    """
    if layout.kind == "channels first":
        return layer
    probe = nn.Identity()

    def through_the_probe(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        # grad-cam detaches maps and gradients in place, which views forbid: both are made anew
        return layout.with_map(output, probe(layout.channels_first(output).clone()) * 1)

    layer.register_forward_hook(through_the_probe)
    return probe


def _class_of(names: dict[str, str], method: str) -> Any:
    import pytorch_grad_cam

    if not hasattr(pytorch_grad_cam, names[method]):
        raise ImportError(
            f"{method!r} needs grad-cam 1.5.7 or later, which has {names[method]}: `pip install -U grad-cam`."
        )
    return getattr(pytorch_grad_cam, names[method])


def _targets(method: str, found: Pass) -> list[Callable[[Tensor], Any]]:
    """What each image is asked, as grad-cam has it."""
    from pytorch_grad_cam.utils import model_targets

    classes = found.classes.tolist()
    if method == "shapley_cam":  # the paper's; the bare logit has no second derivative in a network of ReLUs
        return [model_targets.ClassifierOutputReST(idx) for idx in classes]
    if method == "finer_cam":
        distances = (found.logits - found.logits.gather(1, found.classes[:, None])).abs()
        distances.scatter_(1, found.classes[:, None], torch.inf)
        nearest = distances.argsort(dim=1)[:, : min(3, found.logits.shape[1] - 1)].tolist()
        return [model_targets.FinerWeightedTarget(idx, others, 1) for idx, others in zip(classes, nearest, strict=True)]
    return [model_targets.ClassifierOutputTarget(idx) for idx in classes]


@contextmanager
def _numpy_random_state_kept() -> Iterator[None]:
    before = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(before)
