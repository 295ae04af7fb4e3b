"""What the maps of a report are worth: figures of the modules that measure, and how many images they are of."""

import pytest
import torch

from evalib.faithfulness import road
from evalib.html_scores import PERCENTILES, USUAL, MapScores, score_maps
from evalib.map_makers import map_maker


@pytest.fixture
def images():
    return torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_the_figures_are_roads(tiny_model, images):
    classes = tiny_model.eval()(images).argmax(1)
    found = score_maps(tiny_model, images, classes, ["layer3", "layer4"], count=5)
    assert isinstance(found, MapScores)
    assert found.images == 5
    cams = map_maker("hires_cam", "layer4")(tiny_model, images[:5], classes[:5])
    expected = road(tiny_model, images[:5], cams, classes[:5], percentiles=PERCENTILES)["ROAD"]
    assert found.layers[1].scores["ROAD"].mean == pytest.approx(expected.mean, abs=1e-6)
    assert set(found.controls) == {"random", "random, blurred", "center"}
    assert found.chosen is None or not found.chosen.problems


def test_small_images_need_no_trial(tiny_model, images, monkeypatch):
    monkeypatch.setattr("evalib.html_scores._seconds_for_one", lambda *_: pytest.fail("tried"))
    found = score_maps(tiny_model, images, tiny_model.eval()(images).argmax(1), ["layer3"])
    assert isinstance(found, MapScores)
    assert found.images == USUAL


def test_what_would_take_too_long_is_said(tiny_model, monkeypatch):
    monkeypatch.setattr("evalib.html_scores._seconds_for_one", lambda *_: 5.0)
    large = torch.randn(8, 3, 96, 96)
    told = score_maps(tiny_model, large, torch.zeros(8, dtype=torch.int64), ["layer3"])
    assert isinstance(told, str)
    assert "--scores" in told


def test_one_image_has_no_error(tiny_model, images):
    assert "two images" in str(score_maps(tiny_model, images[:1], torch.tensor([0]), ["layer3"]))
