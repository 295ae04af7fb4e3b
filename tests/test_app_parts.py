"""The HTML of the page: pictures whose colors are known, and texts that stay text."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from evalib import app_parts
from evalib.app_state import MistakeView
from evalib.contrast import Contrast
from evalib.image_prediction import ImagePrediction

GRAY = torch.full((3, 16, 16), 128, dtype=torch.uint8)


def pictures(markup):
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', str(markup))
    return [np.array(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int) for text in found]


def prediction(cam, **changes):
    shares = torch.tensor([0.75, 0.25])
    options = {"cam": cam, "explained": "cat", "layer": "layer3", "method": "layer_cam"} | changes
    return ImagePrediction("/home/me/my photo.png", ("cat", "dog"), (0.75, 0.25), "", GRAY, shares, **options)


def test_an_answer_names_the_classes_with_their_shares():
    text = str(app_parts.answer(prediction(None)))
    assert re.findall(r"--share:([\d.]+)", text) == ["0.7500", "0.2500"]
    assert re.findall(r'class="value">([^<]+)<', text) == ["75.0\u00a0%", "25.0\u00a0%"]


def test_a_map_is_red_where_it_is_high_and_can_be_kept():
    cam = torch.zeros(16, 16)
    cam[2, 12] = 1
    markup = app_parts.maps_of([prediction(cam)])
    photo, drawn = pictures(markup)
    assert (photo == 128).all()
    assert drawn[2, 12].argmax() == 0
    assert drawn[9, 3].argmax() == 2
    assert 'download="my_photo-cat-layer3-layer_cam.png"' in str(markup)
    assert "Map of cat by Layer-CAM at layer3: strongest upper right" in str(markup)
    assert "/home/me" not in str(markup)


def test_a_flat_map_says_so():
    markup = app_parts.maps_of([prediction(torch.zeros(16, 16))])
    assert "No place speaks for this class: the map is empty." in str(markup)
    assert (pictures(markup)[1] == 128).all()


@pytest.mark.parametrize("bad", ["<img src=x onerror=alert(1)>", "\"'><script>alert(2)</script>"])
def test_texts_stay_text(bad):
    state = SimpleNamespace(
        name=bad, summary=bad, classifier=SimpleNamespace(classes=(bad,) * 14, checkpoint=None)
    )  # fmt: skip
    found = prediction(torch.rand(16, 16), explained=bad)
    texts = [app_parts.head(state), app_parts.message(bad), app_parts.message(bad, wrong=True), app_parts.answer(found),
             app_parts.maps_of([found, bad]), app_parts.maps_of([bad]), app_parts.mistake(state, view(bad), "cam"),
             app_parts.probabilities([bad], [1.0])]  # fmt: skip
    for text in map(str, texts):
        assert "<img src=x" not in text
        assert "<script" not in text
    assert "and 2 more" in str(texts[0])


def view(name="cats/1.png"):
    """Evidence for the predicted class 1 at the left, for the true class 0 at the right."""
    predicted, true = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    predicted[..., :4], true[..., 12:] = 1, 1
    maps = Contrast(predicted, true, torch.ones(1, 1), torch.tensor([1]), torch.tensor([0]), ("layer3",))
    return MistakeView(name, GRAY, 0, 1, torch.tensor([0.1, 0.6, 0.1, 0.1, 0.1]), maps)


def test_a_mistake_has_the_colors_of_its_classes():
    state = SimpleNamespace(classifier=SimpleNamespace(classes=("cat", "dog", "elk", "fox", "gnu")))
    markup = app_parts.mistake(state, view(), "hires_cam")
    photo, chosen, true, difference = pictures(markup)
    assert (photo == 128).all()
    for drawn, orange, blue in ((chosen, True, False), (true, False, True), (difference, True, True)):
        assert (drawn[8, 1, 0] > drawn[8, 1, 2] + 100) == orange
        assert (drawn[8, 14, 2] > drawn[8, 14, 0] + 100) == blue
        assert np.ptp(drawn[8, 8]) == 0, "gray where nothing speaks"
    text = re.sub(r"<[^>]+>", "", str(markup))
    assert text.startswith("dog instead of cat")
    assert "cat: blue. dog: orange." in text
    assert re.findall(r'<li class="(\w+)"', str(markup)) == ["predicted", "true"]
