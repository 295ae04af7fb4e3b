"""Exercises about maps, with checks: the best layer, a map that is blind to the class, classic CAM by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evalib.cam import raw_cam
from evalib.cam_layers import cam_layers
from evalib.cam_maps import explaining, form, unwrap
from evalib.exercises import Answer
from evalib.faithfulness import road
from evalib.map_likeness import rank_correlation
from evalib.map_makers import make_in_batches, map_maker
from evalib.sanity import Check, check_maps, clearly_better
from evalib.scores import MapMaker, Score

MOST_IMAGE_CORRELATION = 0.9  # mean rank correlation of a map with that of the next image
CAM_TOLERANCE = 1e-4  # of the largest value of the maps


def check_best_layer(
    layer: str, model: nn.Module, images: Tensor, classes: Tensor, *, method: str = "grad_cam", seed: int = 1
) -> Answer:
    """Has a layer the best ROAD of all layers of a network, or one that is not clearly below it?

    Args:
        layer: a name of `evalib.cam_layers.cam_layers(model)`.
        model: classifier; it is left as it was.
        images: (N, 3, H, W) floating point, normalized as in training; 50 of them tell more than 10.
        classes: (N,) int64, the classes that the maps explain, as the predicted ones.
        method: a key of `evalib.explain.METHODS` that makes a map per layer.
        seed: of ROAD's noise.

    Raises:
        ValueError: if the network has no such layer or a single one, or as `evalib.faithfulness.road`.
    """
    names = list(cam_layers(model))
    if layer not in names or len(names) < 2:
        raise ValueError(
            f"`layer` needs one of the layers of a network with several, {', '.join(names)}: got {layer!r}."
        )
    scores: dict[str, Score] = {}
    for name in names:
        with explaining(unwrap(model)):
            cams = make_in_batches(model, images, classes, map_maker(method, name))
        scores[name] = road(model, images, cams, classes, seed=seed)["ROAD"]
    figures = {name: score for name, score in scores.items() if score.n}
    mine, found = figures.get(layer), "no figure: all maps of this layer are flat"
    if mine is not None:
        place = 1 + sum(score.mean > mine.mean for score in figures.values())
        found = f"ROAD {mine.mean:.3f}, place {place} of {len(names)} layers"
    passed = mine is not None and not any(clearly_better(score, mine) for score in figures.values())
    return Answer(
        "Find the layer with the best ROAD",
        (
            Check(
                "best layer",
                passed,
                found,
                "no other layer clearly above it, by 2 standard errors",
                "another layer's maps mark what the network needs better",
            ),
        ),
    )


def check_blind_map(make_maps: MapMaker, model: nn.Module, images: Tensor, classes: Tensor) -> Answer:
    """Does a student's broken map look like a map, and fail `check_maps` for the reason that was asked for?

    It has to differ from image to image and be nowhere flat, but hardly to change with the class.

    Args:
        make_maps: (model, images, classes) -> cams (N, H, W) in [0, 1].
        model: trained classifier; it is left as it was.
        images: (N, 3, H, W) floating point, normalized as in training, at least two.
        classes: (N,) int64, as the predicted ones.

    Raises:
        ValueError: as `evalib.sanity.check_maps`.
    """
    verdict = check_maps(model, images, classes, make_maps)
    said = {check.question: check for check in verdict.checks}
    flat, by_class = said["not flat"], said["class matters"]
    with explaining(unwrap(model)):
        cams = make_in_batches(model, images, classes, make_maps)
    likeness = Score("likeness", rank_correlation(cams, cams.roll(1, dims=0)))
    return Answer(
        "Make a map that is blind to the class",
        (
            Check("looks like a map", flat.passed, flat.found, flat.needed, "a flat map deceives nobody"),
            Check(
                "follows the image",
                likeness.n > 0 and likeness.mean < MOST_IMAGE_CORRELATION,
                f"rank correlation {likeness.mean:.2f} with the map of another image",
                f"below {MOST_IMAGE_CORRELATION}",
                "the same map for every image deceives nobody",
            ),
            Check(
                "fails 'class matters'",
                flat.passed and not by_class.passed,
                by_class.found,
                f"not {by_class.needed}",
                "the maps change with the class",
            ),
        ),
    )


def check_cam(make_maps: MapMaker, model: nn.Module, images: Tensor, classes: Tensor) -> Answer:
    """Is a classic CAM written by hand that of evalib (`evalib.cam.raw_cam`), unscaled and of both signs?

    Args:
        make_maps: (model, images, classes) -> maps (N, h, w) in the size of the last feature map.
        model: network that ends in global average pooling and one linear layer; run in eval mode, left as it was.
        images: (N, 3, H, W) floating point, normalized as in training.
        classes: (N,) int64.

    Raises:
        TypeError, ValueError: as `evalib.cam.raw_cam`.
    """
    truth = raw_cam(model, images, classes)
    with explaining(unwrap(model)):
        maps = make_maps(model, images, classes)
    fits = isinstance(maps, Tensor) and maps.shape == truth.shape
    gap = float("nan")
    if fits:
        gap = float((maps.detach().to(truth) - truth).abs().max() / truth.abs().max().clamp_min(1e-12))
    return Answer(
        "Write classic CAM by hand",
        (
            Check(
                "shape",
                fits,
                form(maps),
                str(tuple(truth.shape)),
                "one map per image, in the size of the last feature map",
            ),
            Check(
                "equal",
                gap <= CAM_TOLERANCE,
                f"largest difference {gap:.1e} of the largest value" if fits else "not compared",
                f"{CAM_TOLERANCE:.0e}",
                _cam_hint(maps, truth) if fits else "the shape has to fit first",
            ),
        ),
    )


def _cam_hint(maps: Tensor, truth: Tensor) -> str:
    """What most often makes maps differ that should be equal."""
    maps, tolerance = maps.detach().to(truth), CAM_TOLERANCE * float(truth.abs().max())
    if torch.allclose(maps, truth.relu(), rtol=0, atol=tolerance):
        return "they are equal after ReLU: leave negative evidence in"
    if torch.allclose(maps.relu().sum(dim=(1, 2)), maps.sum(dim=(1, 2))):
        return "nothing in them is negative: weights as they are, no softmax, no absolute values, no scaling"
    return "sum over channels of weight times feature map; weights of the class asked for; eval mode"
