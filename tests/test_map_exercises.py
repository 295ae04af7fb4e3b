"""Checks of answers about maps, against right and wrong ones, on a network whose evidence is known."""

from __future__ import annotations

import pytest
import torch

from evalib import map_exercises
from evalib.broken_maps import centered_maps, uniform_maps
from evalib.map_exercises import check_best_layer, check_blind_map, check_cam
from evalib.map_makers import map_maker
from evalib.models import resnet18
from evalib.scores import Score, Scores
from tests.blobs import Blobs, blob_images


def failed(answer) -> list[str]:
    return [check.question for check in answer.checks if not check.passed]


@pytest.fixture(scope="module")
def blobs():
    images, classes, _ = blob_images(12)
    return Blobs.trained(), images, classes


def test_best_layer(monkeypatch):
    """ROAD as it is told here: layer3 is best, layer4 cannot be told from it, the others are clearly below."""
    means = {"layer0": 0.0, "layer1": 0.1, "layer2": 0.2, "layer3": 0.5, "layer4": 0.49}
    spread = torch.tensor([-0.1, 0.1, 0.05, -0.05], dtype=torch.float64)
    model, images = resnet18(3, width=4), torch.randn(4, 3, 32, 32)
    asked = iter(())

    def told(*_, **__):
        nonlocal asked
        name = next(asked)
        return Scores([Score("ROAD", means[name] + (spread.roll(1) if name == "layer4" else spread))])

    monkeypatch.setattr(map_exercises, "road", told)
    for layer, wrong in (("layer3", []), ("layer4", []), ("layer2", ["best layer"]), ("layer0", ["best layer"])):
        asked = iter(means)
        assert failed(check_best_layer(layer, model, images, torch.zeros(4, dtype=torch.int64))) == wrong
    with pytest.raises(ValueError, match=r"layer0, layer1, layer2, layer3, layer4.*got 'conv'"):
        check_best_layer("conv", model, images, torch.zeros(4, dtype=torch.int64))


def test_blind_map(blobs):
    def blind(model, images, classes):
        return images.amax(dim=1).sigmoid()

    assert failed(check_blind_map(blind, *blobs)) == []
    assert failed(check_blind_map(map_maker("grad_cam", "relu"), *blobs)) == ["fails 'class matters'"]
    assert failed(check_blind_map(centered_maps, *blobs)) == ["follows the image"]
    assert "looks like a map" in failed(check_blind_map(uniform_maps, *blobs))


def by_hand(model, images, classes):
    features = model.layer4_output(images)
    return torch.einsum("nk,nkhw->nhw", model.linear.weight[classes], features)


@pytest.fixture
def network():
    model = resnet18(3, width=4).eval()
    seen: list[torch.Tensor] = []
    model.layer4.register_forward_hook(lambda *found: seen.append(found[2]))

    def layer4_output(images):
        seen.clear()
        model(images)
        return seen[-1]

    model.layer4_output = layer4_output
    return model


def test_cam_by_hand(network):
    images, classes = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])

    def softmaxed(model, images, classes):
        weights = model.linear.weight[classes].softmax(dim=1)
        return torch.einsum("nk,nkhw->nhw", weights, model.layer4_output(images))

    def check(make_maps):
        return check_cam(make_maps, network, images, classes)

    assert failed(check(by_hand)) == []
    assert failed(check(softmaxed)) == ["equal"]
    assert "no softmax" in str(check(softmaxed))
    assert failed(check(lambda *about: by_hand(*about).relu())) == ["equal"]
    assert "after ReLU" in str(check(lambda *about: by_hand(*about).relu()))
    assert failed(check(lambda model, images, classes: by_hand(model, images, classes.roll(1)))) == ["equal"]
    assert failed(check(lambda *about: by_hand(*about)[0])) == ["shape", "equal"]
    assert failed(check(lambda *about: None)) == ["shape", "equal"]
    assert failed(check(lambda *about: by_hand(*about) * float("nan"))) == ["equal"]
