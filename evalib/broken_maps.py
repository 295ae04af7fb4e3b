"""Ways to make maps that are worth nothing: what `evalib.sanity.check_maps` must say so of.

Each is a `MapMaker`, (model, images, classes) -> cams, or makes one.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from evalib.cam import pooled_end
from evalib.cam_maps import explaining, finish, unwrap
from evalib.cam_pass import one_pass
from evalib.localization import center_gaussian
from evalib.scores import MapMaker


def uniform_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Flat maps: the same value everywhere."""
    return torch.zeros(len(images), *images.shape[2:], device=images.device)


def centered_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The same map for every image: the middle."""
    return center_gaussian(*images.shape[2:]).expand(len(images), -1, -1).to(images.device)


def maps_of(other: nn.Module, make_maps: MapMaker) -> MapMaker:
    """Maps of another network, as one with random weights, whatever network is asked about."""
    return partial(_maps_of, unwrap(other), make_maps)


def _maps_of(other: nn.Module, make_maps: MapMaker, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return make_maps(other, images, classes)


def class_blind_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Classic CAM with a mistake that has been made: the class's weights go through a softmax first.

    Hundreds of small weights of both signs become nearly equal positive ones, so the map is the mean of the last
    feature map, whatever the class. It looks like a good map where that feature map is active at the object.

    Raises:
        TypeError, ValueError: as `evalib.cam.raw_cam`.
    """
    model = unwrap(model)
    end = pooled_end(model, images)
    with explaining(model):
        found = one_pass(model, images, end.labels, classes, gradients=False)
        weights = end.linear.weight[found.classes].softmax(dim=1)
        maps = (weights[:, :, None, None] * found.activations[end.features]).sum(dim=1)
        return finish(maps.detach().float(), images, "`model`").to(images.device)
