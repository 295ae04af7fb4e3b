"""A small network learns shapes whose masks are known: its maps lie on them, and maps of nothing do not.

The quick form of `python -m benchmarks.shapes`, with a network and a schedule of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evalib.data import shapes
from evalib.engine import fit
from evalib.explain import explain_methods
from evalib.localization import center_gaussian, measure_localization
from evalib.recipes import recipes
from evalib.transforms import normalize

MID, LAST = "features.2", "features.4"


def stage(in_channels: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, channels):
        layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class ThreeStages(nn.Module):
    """Maps of 32 x 32, 16 x 16 and 8 x 8, global average pooling, one linear layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.features = nn.Sequential(stage(3, 8), nn.MaxPool2d(2), stage(8, 16), nn.MaxPool2d(2), stage(16, 32))
            self.classifier = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def test_maps_find_the_object_and_maps_of_nothing_do_not() -> None:
    data = shapes(1, train=4000, test=200)
    images, labels, masks = normalize(data.test.images, data.mean, data.std), data.test.labels, data.test.masks
    trained, untrained = ThreeStages(1), ThreeStages(1001)
    recipe = recipes["fast"].replace(
        width=8, epochs=10, batch_size=50, whitening=False, augmentation="none", test_views=1, precision="float32"
    )
    history = fit(trained, data, recipe, device="cpu", progress=False)
    assert history.epochs[-1].test_accuracy > 0.85  # chance: 0.25

    maps = explain_methods(trained, images, [MID, LAST], labels, methods=("cam", "layer_cam", "random_cam"))
    kinds = {
        "cam": maps["cam"][0],
        "mid": maps["layer_cam"][0],
        "random map": maps["random_cam"][1],
        "random weights": explain_methods(untrained, images, None, labels, methods=("cam",))["cam"][0],
        "center": center_gaussian(32, 32).expand(200, -1, -1),
    }
    found = {name: measure_localization(cams, masks) for name, cams in kinds.items()}
    pointing = {name: scores["pointing"].mean for name, scores in found.items()}
    assert pointing["cam"] >= 0.6
    assert pointing["cam"] >= 3 * pointing["center"]
    assert pointing["mid"] >= 0.9
    assert pointing["random weights"] <= 0.15
    assert pointing["mid"] > pointing["cam"] > pointing["random map"] > pointing["random weights"]
    for figure in ("energy", "best IoU", "MaxBoxAcc"):  # the other figures know it, too
        trusted = min(found["cam"][figure].mean, found["mid"][figure].mean)
        assert trusted > 2 * found["random weights"][figure].mean, figure
        assert trusted > found["center"][figure].mean, figure
