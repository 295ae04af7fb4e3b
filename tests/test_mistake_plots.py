"""What the figures about mistakes show: which tiles, in which colors, with which words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from evalib.contrast import Contrast, contrast_mistakes, mean_contrasts
from evalib.engine import Evaluation
from evalib.mistake_groups import group_mistakes
from evalib.mistake_plots import PREDICTED, TRUE, plot_contrasts, plot_groups, plot_neighbors, plot_pair_contrasts
from evalib.mistakes import Mistakes, find_mistakes
from evalib.neighbors import Neighbors

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
def evaluation(tiny_data) -> Evaluation:
    """Five of twelve wrong: three surely so, two by a hair."""
    labels = tiny_data.test.labels
    logits = torch.nn.functional.one_hot((labels + (torch.arange(12) < 5)) % 3, 3).float() * 4
    logits[3:5] *= 0.01
    return Evaluation(0.5, 7 / 12, logits, labels)


@pytest.fixture
def mistakes(evaluation) -> Mistakes:
    return find_mistakes(evaluation)


def texts(figure) -> str:
    found = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label, axes.xaxis.label, *axes.texts)]
    return " | ".join(text.get_text() for text in found)


def pictures(figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def contrast_of(mistakes: Mistakes, cams: torch.Tensor, other_cams: torch.Tensor) -> Contrast:
    """One layer, (M, 32, 32) each."""
    scale = torch.ones(1, len(mistakes))
    return Contrast(cams[None], other_cams[None], scale, mistakes.predicted, mistakes.true, ("layer3",))


def test_a_color_says_which_class_a_place_helps(tiny_data, mistakes):
    tiny_data.test.images[0] = 255  # so that the gray image below the maps is white
    cams, other_cams = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    cams[0, 0, 0], other_cams[0, 0, 1], other_cams[0, 0, 2], cams[0, 0, 3] = 1.0, 1.0, -1.0, -0.5
    one = mistakes.head(1)
    figure = plot_contrasts(tiny_data, one, contrast_of(one, cams, other_cams))
    image, true, predicted, difference = pictures(figure)
    np.testing.assert_allclose(image, 1, atol=1e-6)

    def shade(color, weight):
        return 1 - 0.9 * weight * (1 - np.array(to_rgb(color)))

    for tile, place, color, weight in (
        (predicted, 0, PREDICTED, 1), (predicted, 3, TRUE, 0.5), (true, 1, TRUE, 1), (true, 2, PREDICTED, 1),
        (difference, 0, PREDICTED, 1), (difference, 1, TRUE, 1), (difference, 2, PREDICTED, 1),
        (difference, 3, TRUE, 0.5),
    ):  # fmt: skip
        np.testing.assert_allclose(tile[0, place], shade(color, weight), atol=1e-5)
        np.testing.assert_allclose(tile[5, 5], 1, atol=1e-5)
    found = texts(figure)
    for words in ("true: ant", "predicted: bee 96\u00a0%", "layer3", "true class", "predicted class", "difference"):
        assert words in found
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_xticklabels()] == ["-1\nfor true", "0", "1\nfor predicted"]


def test_a_row_for_every_mistake_and_layer(tiny_model, tiny_data, mistakes):
    contrast = contrast_mistakes(tiny_model, tiny_data, mistakes.head(2), ["layer2", "layer3", "layer4"])
    figure = plot_contrasts(tiny_data, mistakes.head(2), contrast)
    assert len(pictures(figure)) == 2 * (1 + 3 * 3)
    assert texts(figure).count("layer3") == 2


def test_flat_differences_say_so(tiny_data, mistakes):
    flat = torch.full((2, 32, 32), 0.5)
    uneven = flat.clone()
    uneven[1, 3, 3] = 1.0
    figure = plot_contrasts(tiny_data, mistakes.head(2), contrast_of(mistakes.head(2), uneven, flat))
    assert texts(figure).count("the same everywhere") == 1


def test_contrasts_of_others_are_refused(tiny_model, tiny_data, mistakes):
    contrast = contrast_mistakes(tiny_model, tiny_data, mistakes.head(2), "layer4")
    with pytest.raises(ValueError, match="`contrast` needs to be that of `mistakes`"):
        plot_contrasts(tiny_data, mistakes.head(3), contrast)
    wrong = dataclasses.replace(contrast, other_classes=contrast.classes)
    with pytest.raises(ValueError, match="`contrast` needs to be that of `mistakes`"):
        plot_contrasts(tiny_data, mistakes.head(2), wrong)
    many = mistakes.select([0] * 61)
    cams = torch.zeros(61, 32, 32)
    with pytest.raises(ValueError, match="need to be 1 to 60 rows: got 61"):
        plot_contrasts(tiny_data, many, contrast_of(many, cams, cams))


def test_means_of_pairs(tiny_model, tiny_data, mistakes):
    found = mean_contrasts(tiny_model, tiny_data, mistakes, ["layer3", "layer4"], n=2)
    figure = plot_pair_contrasts(found, tiny_data.classes)
    assert len(pictures(figure)) == 2 * 2 * 3
    for words in ("true: ant\npredicted: bee\nlayer3, 2 images", "true: bee\npredicted: cow\nlayer3, 2 images"):
        assert words in texts(figure)
    largest = max(
        part.abs().max().item() for part in (found.means.cams, found.means.other_cams, found.means.difference)
    )
    darkest = min(
        np.abs(tile - to_rgb(color)).max(axis=2).min() for tile in pictures(figure) for color in (TRUE, PREDICTED)
    )
    assert darkest == pytest.approx(0.1 * (1 - min(to_rgb(TRUE))), abs=1e-4), "the strongest place has the full color"
    assert figure.axes[-1].get_xticklabels()[2].get_text() == f"{largest:.2g}\nfor predicted"


def test_a_row_for_every_group_that_has_a_mistake(tiny_data, evaluation):
    groups = group_mistakes(evaluation)
    assert [len(groups[name]) for name in groups.rules] == [3, 2, 0]
    figure = plot_groups(tiny_data, groups, count=2)
    assert len(pictures(figure)) == 4
    for words in ("confident\n3 of 5\n(60%)", "near tie\n2 of 5\n(40%)", "true: ant\npredicted: bee"):
        assert words in texts(figure)
    assert "unsure" not in texts(figure)
    assert len(pictures(plot_groups(tiny_data, groups))) == 5, "no empty tiles"
    with pytest.raises(ValueError, match="`count` needs to be 1 or more: got 0"):
        plot_groups(tiny_data, groups, count=0)


def test_neighbors_are_framed_in_the_color_of_their_class(tiny_data, mistakes):
    indices = torch.tensor([[0, 1, 2], [5, 4, 3]])
    neighbors = Neighbors(indices, torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]]), tiny_data.train.labels[indices])
    figure = plot_neighbors(tiny_data, mistakes.head(2), neighbors)  # an ant for a bee, a bee for a cow
    frames = [
        to_rgb(axes.spines["left"].get_edgecolor()) if axes.spines["left"].get_visible() else None
        for axes in figure.axes
    ]
    true, predicted = to_rgb(TRUE), to_rgb(PREDICTED)
    assert frames == [None, true, predicted, None, None, predicted, true, None]
    np.testing.assert_array_equal(pictures(figure)[5], tiny_data.train.images[5].permute(1, 2, 0).numpy())
    assert "cow\n0.60" in texts(figure)
    with pytest.raises(ValueError, match="an entry for each of 1 mistakes: got 2"):
        plot_neighbors(tiny_data, mistakes.head(1), neighbors)


def test_names_of_classes_are_plain_text(tiny_model, tiny_data, mistakes):
    data = dataclasses.replace(tiny_data, classes=("$ant$", "bee_$", "c$ow"))
    contrast = contrast_mistakes(tiny_model, data, mistakes.head(1), "layer4")
    plot_contrasts(data, mistakes.head(1), contrast).canvas.draw()
    plot_pair_contrasts(mean_contrasts(tiny_model, data, mistakes, "layer4"), data.classes).canvas.draw()
