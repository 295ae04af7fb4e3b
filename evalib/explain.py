"""Class activation maps by any method, for any layers and a whole batch or set of images, in one call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from evalib.cam import evidence, pooled_end
from evalib.cam_layers import Layers, cam_layers, find_layers
from evalib.cam_maps import ClassIdx, check_inputs, explaining, finish, unwrap
from evalib.cam_masks import WEIGHTS, masked_maps
from evalib.cam_others import FROM_COPY, FROM_PASS, copy_maps, formula_of
from evalib.cam_pass import FORMULAS, Pass, layer_maps, one_pass
from evalib.progress import progress_bar

# What each method makes its maps from: A are a layer's activations, G the gradients of the class's logit.
METHODS: Mapping[str, str] = {
    # one pass for all layers, and for all of these methods
    "grad_cam": "A weighted by the means of G (Selvaraju et al. 2017, arXiv:1610.02391)",
    "grad_cam_plus_plus": "A weighted by weighted means of positive G (Chattopadhay et al. 2018, arXiv:1710.11063)",
    "xgrad_cam": "A weighted by means of G where A is large (Fu et al. 2020, arXiv:2008.02312)",
    "hires_cam": "A times G, place by place (Draelos and Carin 2020, arXiv:2011.08891)",
    "element_wise_grad_cam": "A times G, place by place, each channel's positive part only",
    "layer_cam": "A times positive G, place by place (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943)",
    # grad-cam's, from the same pass
    "eigen_cam": "first principal component of A, blind to the class and of either sign (arXiv:2008.00299)",
    "eigen_grad_cam": "first principal component of A times G, of either sign",
    "seg_eigen_cam": "first principal component of A times |G|, with the sign settled (doi:10.3390/app15137562)",
    "kpca_cam": "first kernel principal component of A, blind to the class (arXiv:2410.00267)",
    "fem": "A weighted by the share of its unusually large places, blind to the class (Fuad et al. 2020)",
    "random_cam": "A weighted at random: a control that no method should fail to beat",
    # one pass, then the network once per channel
    "score_cam": "A weighted by the logit of the image behind the channel (Wang et al. 2020, arXiv:1910.01279)",
    "ablation_cam": "A weighted by the fall of the logit without the channel (Ramaswamy and Desai 2020, WACV)",
    # grad-cam's, on a private copy of the network
    "finer_cam": "Grad-CAM of the class against the three of the nearest logits (arXiv:2501.11309)",
    "shapley_cam": "Grad-CAM with a term of second order (arXiv:2501.06261)",
    "sess": "Grad-CAM of many patches at many scales, blended (arXiv:2207.01769)",
    # one map per image, whatever the layers
    "cam": "classic CAM of the last feature map (Zhou et al. 2016, arXiv:1512.04150)",
    "refine_cam": "product of Grad-CAM++ over all layers (arXiv:2605.14641)",
    "full_grad": "gradients of the image and of all biases (Srinivas and Fleuret 2019, arXiv:1905.00780)",
}


def explain(
    model: nn.Module,
    images: Tensor,
    layers: Layers = None,
    class_idx: ClassIdx = None,
    *,
    method: str = "grad_cam",
    channels_at_once: int | None = None,
) -> Tensor:
    """One map per layer and image, by a method of `METHODS`.

    Where a map is high, the image spoke for the class. Each is enlarged to the image (bilinear) and scaled so that
    its weakest pixel is 0 and its strongest 1; without positive evidence it is zero (see `evalib.cam.empty_maps`).

    The model (run in eval mode), `images` and random states are left as they were, also on an exception. Works on
    frozen layers and under `no_grad`, `inference_mode` and `autocast`, always in full precision.

    Args:
        model: any classifier with float32 (or float64) weights that returns logits (N, num_classes), alone, as
            `.logits` or first in a tuple. `torch.compile` and `DataParallel` around it are looked through.
        images: (N, 3, H, W) floating point, normalized as in training.
        layers: modules of the model with outputs (N, C, h, w), (N, h, w, C) as of Swin or (N, tokens, C) as of ViT;
            keys of `evalib.cam.cam_layers(model, images)` or names of modules such as "layer4.1.conv2"; one or several,
            None for all of `cam_layers(model, images)`. Of 1 x 1 place, the map is empty. "cam" and "full_grad" do not
            read it.
        class_idx: None for the predicted classes, an int for the same class throughout, or one per image.
        method: a key of `METHODS`.
        channels_at_once: for "score_cam" and "ablation_cam", changed images that the network sees in one batch, which
            bounds the memory; None for as many as have 2**20 pixel values together.

    Returns:
        cams: (L, N, H, W) float32 in [0, 1], in the order of `layers`, on the device of `images`. "cam", "refine_cam"
            and "full_grad" make one map per image: their L is 1.

    Raises:
        TypeError: if a layer is neither module nor name, or a class no integer.
        ValueError: if the method is unknown, or shape, dtype, class, layer or feature map allow no map, or if logits
            or maps are not finite; the message says what to pass instead.

    Example:
        >>> from evalib.models import resnet18
        >>> explain(resnet18(width=4), torch.randn(2, 3, 32, 32), ["layer3", "layer4"], method="layer_cam").shape
        torch.Size([2, 2, 32, 32])
    """
    return explain_methods(model, images, layers, class_idx, methods=[method], channels_at_once=channels_at_once)[
        method
    ]


def explain_methods(
    model: nn.Module,
    images: Tensor,
    layers: Layers = None,
    class_idx: ClassIdx = None,
    *,
    methods: Sequence[str],
    channels_at_once: int | None = None,
) -> dict[str, Tensor]:
    """Maps of several methods side by side; those made from activations and gradients share one pass.

    Args:
        model, images, layers, class_idx, channels_at_once: as in `explain`.
        methods: keys of `METHODS`.

    Returns:
        {method: cams}, in the order of `methods`, `cams` as from `explain`.

    Raises:
        TypeError, ValueError: as `explain`.
    """
    return _explain(model, images, layers, class_idx, methods, channels_at_once)[0]


def explain_with_logits(
    model: nn.Module, images: Tensor, layers: Layers = None, class_idx: ClassIdx = None, *, method: str = "grad_cam"
) -> tuple[Tensor, Tensor]:
    """Maps as from `explain`, and the logits that the same pass gave: the network is not asked twice.

    Returns:
        cams: (L, N, H, W) float32 in [0, 1].
        logits: (N, num_classes), both on the device of `images`.

    Raises:
        TypeError, ValueError: as `explain`.
    """
    cams, found = _explain(model, images, layers, class_idx, [method], None)
    return cams[method], found.logits.to(images.device)


def _explain(
    model: nn.Module,
    images: Tensor,
    layers: Layers,
    class_idx: ClassIdx,
    methods: Sequence[str],
    channels_at_once: int | None,
) -> tuple[dict[str, Tensor], Pass]:
    """Maps by method, and the pass that they come from."""
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"`method` needs one of {', '.join(map(repr, METHODS))}: got {method!r}.")
    if channels_at_once is not None and channels_at_once < 1:
        raise ValueError(f"`channels_at_once` needs at least 1, or None: got {channels_at_once}.")
    model = unwrap(model)
    check_inputs(model, images)
    chosen: list[nn.Module] = []
    labels: dict[nn.Module, str] = {}
    if set(methods) - {"cam", "full_grad"}:
        chosen, labels = find_layers(model, layers, images=images)
    end = pooled_end(model, images) if "cam" in methods else None
    read = labels | end.labels if end else labels
    with explaining(model):
        gradients = not set(methods).isdisjoint((*FORMULAS, *FROM_PASS))
        found = one_pass(model, images, read, class_idx, gradients=gradients)
        found.require(labels)
        inputs = images.detach().to(found.logits)  # its device and dtype
        cams = {}
        for method in methods:
            if end and method == "cam":
                maps = finish(evidence(end, found).float(), images, "`model`")[None]
            elif method in FROM_COPY:
                maps = copy_maps(method, model, inputs, found, chosen)
            elif method in WEIGHTS:
                raw = partial(masked_maps, method, model, inputs, found, channels_at_once)
                maps = layer_maps(raw, images, chosen, labels)
            else:
                formula = FORMULAS.get(method) or formula_of(method)
                maps = layer_maps(partial(found.raw_maps, formula), images, chosen, labels)
            cams[method] = maps.to(images.device)
    return cams, found


# --- a set of images -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """Maps of a set of images.

    Attributes:
        cams: (L, N, H, W) float32 in [0, 1] on the CPU, in the loader's order.
        classes: (N,) int64 on the CPU, the classes that were explained.
        labels: (N,) int64 on the CPU, the true ones.
        seconds: what it took, the loading of the images included.
    """

    cams: Tensor
    classes: Tensor
    labels: Tensor
    seconds: float

    @property
    def images_per_second(self) -> float:
        """How many images were explained in a second."""
        return len(self.classes) / self.seconds


def explain_batches(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    layers: Layers = None,
    class_idx: int | Literal["labels"] | None = None,
    *,
    method: str = "grad_cam",
    channels_at_once: int | None = None,
    progress: bool | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Maps of a set of images batch by batch, so that memory does not grow with the set.

    Args:
        model, layers, method, channels_at_once: as in `explain`.
        loader: batches (images, labels).
        class_idx: None for the predicted classes, "labels" for the true ones, an int for the same class throughout.
        progress: whether to show a bar; None shows it in notebooks and terminals.

    Yields:
        cams: (L, N, H, W) float32 in [0, 1], on the device of the batch's images.
        classes: (N,) int64, those explained.
        labels: (N,) int64, the true ones, as the loader gave them.

    Raises:
        TypeError, ValueError: as `explain`, and if `class_idx` is another word.
    """
    if isinstance(class_idx, str) and class_idx != "labels":
        raise ValueError(f'`class_idx` needs an int, "labels" or None: got {class_idx!r}.')
    total = len(loader) if isinstance(loader, Sized) else None
    with progress_bar(progress, total=total, desc=method, unit="batch") as bar:
        for images, labels in loader:
            if layers is None and method not in ("cam", "full_grad"):  # found once, from the first batch
                layers = list(cam_layers(model, images).values())
            wanted = labels if class_idx == "labels" else class_idx
            cams, found = _explain(model, images, layers, wanted, [method], channels_at_once)
            yield cams[method], found.classes.to(images.device), labels
            bar.update()


def explain_loader(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    layers: Layers = None,
    class_idx: int | Literal["labels"] | None = None,
    *,
    method: str = "grad_cam",
    channels_at_once: int | None = None,
    progress: bool | None = None,
) -> Explained:
    """Maps of a set of images, all of them kept: 4 kB for each layer and image of 32 x 32, 200 kB of 224 x 224.

    Args:
        model, loader, layers, class_idx, method, channels_at_once, progress: as in `explain_batches`, which keeps none.

    Raises:
        TypeError, ValueError: as `explain_batches`, and if there is no batch.
    """
    start = time.perf_counter()
    batches = [
        tuple(part.cpu() for part in batch)
        for batch in explain_batches(
            model, loader, layers, class_idx, method=method, channels_at_once=channels_at_once, progress=progress
        )
    ]
    if not batches:
        raise ValueError("`loader` gave no batch; an explanation needs at least one.")
    cams, classes, labels = zip(*batches, strict=True)
    kept = torch.cat(cams, dim=1), torch.cat(classes), torch.cat(labels)
    return Explained(*kept, seconds=time.perf_counter() - start)
