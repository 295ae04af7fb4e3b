"""The figure of one mistake: its parts and its words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from evalib.data.loaders import eval_loader
from evalib.engine import evaluate
from evalib.mistake_plots import PREDICTED, TRUE
from evalib.mistake_story import plot_mistake
from evalib.mistakes import Mistakes, find_mistakes
from evalib.models import resnet18
from evalib.neighbors import nearest_images
from evalib.transforms import normalize

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
def mistakes(tiny_model, tiny_data) -> Mistakes:
    return find_mistakes(evaluate(tiny_model, eval_loader(tiny_data)))


def texts(figure) -> str:
    return " | ".join(text.get_text() for axes in figure.axes for text in (axes.title, axes.yaxis.label, *axes.texts))


def test_the_whole_story_of_the_first_mistake(tiny_model, tiny_data, mistakes):
    figure = plot_mistake(tiny_model, tiny_data, mistakes, k=4)
    assert len([axes for axes in figure.axes if axes.images]) == 1 + 3 * 3 + 4
    names = [tiny_data.classes[label] for label in (mistakes.true[0], mistakes.predicted[0])]
    found = texts(figure)
    for words in (f"true: {names[0]}", f"predicted: {names[1]}", "layer2", "layer3", "layer4", "difference"):
        assert words in found
    photo = np.asarray(figure.axes[0].images[0].get_array())
    expected = tiny_data.test.images[mistakes.indices[0]].permute(1, 2, 0).numpy() / 255
    np.testing.assert_allclose(photo, expected, atol=1e-5)


def test_the_bars_are_the_highest_probabilities(tiny_model, tiny_data, mistakes):
    tiny_model.train()
    figure = plot_mistake(tiny_model, tiny_data, mistakes, ["layer4"], k=2)
    assert tiny_model.training
    (bars,) = (axes for axes in figure.axes if axes.containers)
    names = [label.get_text() for label in bars.get_yticklabels()]
    widths = [bar.get_width() for bar in bars.patches]
    true, predicted = tiny_data.classes[mistakes.true[0]], tiny_data.classes[mistakes.predicted[0]]
    assert names[0] == predicted
    assert widths[0] == pytest.approx(100 * float(mistakes.probability[0]), rel=1e-4)
    assert sum(widths) == pytest.approx(100, rel=1e-4)
    colors = dict(zip(names, (to_rgb(bar.get_facecolor()) for bar in bars.patches), strict=True))
    assert (colors[true], colors[predicted]) == (to_rgb(TRUE), to_rgb(PREDICTED))


def test_a_true_class_that_is_far_down_is_shown_too(tiny_data):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18(num_classes=8, width=8).eval()
    data = dataclasses.replace(tiny_data, classes=tuple("abcdefgh"))
    with torch.no_grad():
        order = model(normalize(data.test.images[:1], data.mean, data.std)).argsort(descending=True)[0]
    data.test.labels[0] = order[7]
    mistake = Mistakes(torch.tensor([0]), order[7:], order[:1], torch.tensor([0.5]))
    (bars,) = (axes for axes in plot_mistake(model, data, mistake, "layer4", k=2).axes if axes.containers)
    assert [label.get_text() for label in bars.get_yticklabels()] == ["abcdefgh"[i] for i in [*order[:5], order[7]]]


def test_neighbors_that_are_known_are_not_searched_for(tiny_model, tiny_data, mistakes, monkeypatch):
    known = nearest_images(tiny_model, tiny_data, mistakes, k=3)
    monkeypatch.setattr("evalib.mistake_story.nearest_images", None)
    figure = plot_mistake(tiny_model, tiny_data, mistakes.select([1, 0]), method="cam", neighbors=known.select([1, 0]))
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images][-3:]
    for tile, index in zip(shown, known.indices[1], strict=True):
        np.testing.assert_array_equal(tile, tiny_data.train.images[index].permute(1, 2, 0).numpy())


def test_no_mistake_has_no_story(tiny_model, tiny_data, mistakes):
    with pytest.raises(ValueError, match="No misclassified image to explain"):
        plot_mistake(tiny_model, tiny_data, mistakes.select([]))
    training = Mistakes(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]), torch.tensor([0.5]))
    assert plot_mistake(tiny_model, tiny_data, training, "layer4", k=2, split="train").axes
