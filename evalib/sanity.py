"""Do maps depend on the network and on the class at all? A map can follow the edges of an image and please the eye,
and be the same for any weights and any class.

Each question is asked of a way to make maps, a function (model, images, classes) -> cams as
`evalib.ranking.map_maker("grad_cam", "layer4")` gives it, since maps alone cannot answer it.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from evalib.cam_maps import check_inputs, explaining, unwrap
from evalib.map_likeness import rank_correlation
from evalib.randomization import flat_maps, make_in_batches
from evalib.randomization import randomize_layers as randomize_layers
from evalib.runtime import derived_seed
from evalib.scores import MapMaker, Score


def class_sensitivity(
    model: nn.Module, images: Tensor, classes: Tensor, make_maps: MapMaker, *, batch_size: int = 64
) -> Score:
    """Rank correlation of each map with that of the least likely other class: about 1 for maps blind to the class.

    Args:
        model, images, make_maps, batch_size: as in `randomize_layers`.
        classes: (N,) int64, the classes that the maps explain, as the predicted ones.

    Returns:
        "class correlation" in [-1, 1], low is good. NaN where the map is flat, which `flat` counts; 0 where only
        that of the least likely class is, since there is then no evidence for it: `note` counts these.

    Raises:
        ValueError: if images, classes or maps do not fit, or the network has a single class.
    """
    start = time.perf_counter()
    model = unwrap(model)
    check_inputs(model, images)
    with explaining(model):
        least = _least_likely(model, images, classes, batch_size)
        cams, others = (make_in_batches(model, images, wanted, make_maps, batch_size) for wanted in (classes, least))
    flat = flat_maps(cams)
    note = f"flat maps of the least likely class: {int((flat_maps(others) & ~flat).sum())}"
    values, seconds = rank_correlation(cams, others), time.perf_counter() - start
    return Score("class correlation", values, "low", int(flat.sum()), seconds, note)


def max_sensitivity(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    make_maps: MapMaker,
    *,
    radius: float = 0.02,
    draws: int = 10,
    seed: int = 1,
    batch_size: int = 64,
) -> Score:
    """Max-sensitivity (Yeh et al. 2019, arXiv:1901.09392), relative: how far small noise moves a map.

    The largest norm of the difference between the map of the noisy image and that of the image, as a fraction of the
    norm of the latter.

    Args:
        model, images, classes, make_maps, batch_size: as in `randomize_layers`. The classes stay as they are, whatever
            the network says of noisy images.
        radius: noise is uniform in [-radius, radius], in the units of `images`.
        draws: noisy versions of each image; more of them find a larger maximum.
        seed: of the noise.

    Returns:
        "max-sensitivity", at least 0, low is good; NaN where the map is flat, which `flat` counts.

    Raises:
        ValueError: if `radius` or `draws` is not positive, or images, classes or maps do not fit.
    """
    if not radius > 0 or draws < 1:
        raise ValueError(f"`radius` and `draws` need to be positive: got {radius} and {draws}.")
    start = time.perf_counter()
    model = unwrap(model)
    check_inputs(model, images)
    generator = torch.Generator().manual_seed(derived_seed(seed, "noise for max-sensitivity"))
    with explaining(model):
        cams = make_in_batches(model, images, classes, make_maps, batch_size).flatten(1).double()
        largest = torch.zeros(len(images), dtype=torch.float64, device=cams.device)
        for _ in range(draws):
            noise = radius * (2 * torch.rand(images.shape, generator=generator) - 1)
            noisy = make_in_batches(model, images + noise.to(images), classes, make_maps, batch_size)
            largest = largest.maximum((noisy.flatten(1) - cams).norm(dim=1))
    flat = cams.amax(dim=1) == cams.amin(dim=1)
    values = torch.where(flat, torch.nan, largest / cams.norm(dim=1))
    note = f"noise of ± {radius:g}, {draws} draws"
    return Score("max-sensitivity", values, "low", int(flat.sum()), time.perf_counter() - start, note)


def _least_likely(model: nn.Module, images: Tensor, classes: Tensor, batch_size: int) -> Tensor:
    """(N,) int64: the class of the lowest logit that is not the class itself."""
    weight = next(model.parameters())
    with torch.no_grad():
        logits = torch.cat(
            [model(part.to(weight.device, weight.dtype, copy=True)) for part in images.split(batch_size)]
        )
    if logits.shape[1] < 2:
        raise ValueError("`model` needs at least two classes to compare their maps: this one has one.")
    logits.scatter_(1, classes[:, None].to(logits.device), torch.inf)
    return logits.argmin(dim=1).to(classes.device)
