"""Figures about maps: what is drawn is read back and compared with what went in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from evalib.cam_plots import plot_map_grid, plot_ranking, plot_removal_curves
from evalib.faithfulness import Curves
from evalib.figures import save_figure
from evalib.ranking import CENTER, WHOLE, Candidate, Ranking
from evalib.scores import Score, Scores

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def scores(value: float) -> Scores:
    return Scores(Score(name, torch.tensor([value, value])) for name in ("ROAD", "insertion - deletion"))


def ranking(*, all_bad: bool = False) -> Ranking:
    blind = ("blind to the class",)
    found = (
        Candidate("grad_cam", "layer3", scores(0.11), 0.01, blind if all_bad else (), 2.0),
        Candidate("grad_cam", "layer4", scores(0.22), 0.01, blind if all_bad else (), 1.0),
        Candidate("eigen_cam", "layer3", scores(0.33), 0.01, blind),
        Candidate("eigen_cam", "layer4", scores(0.44), 0.01, blind),
        Candidate("cam", WHOLE, scores(math.nan), 0.01, blind),
    )
    controls = {"random": scores(0.01), "random, blurred": scores(0.02), CENTER: scores(0.03)}
    return Ranking(found, controls, ("ROAD", "insertion - deletion"))


def test_every_cell_of_the_heat_tables_is_in_its_place() -> None:
    figure = plot_ranking(ranking())
    figure.draw_without_rendering()
    assert [axes.get_title().strip() for axes in figure.axes] == ["ROAD", "insertion - deletion"]
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["grad_cam", "eigen_cam", "cam"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["layer3", "layer4", "whole\nnetwork"]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    cells = {(0, 0): "0.110", (1, 0): "0.220", (0, 1): "0.330", (1, 1): "0.440", (2, 2): "n/a"}
    assert {place: texts[place] for place in cells} == cells
    assert "random: 0.010   random, blurred: 0.020   center: 0.030" in texts.values()
    hatched = [patch.get_xy() for patch in axes.patches if patch.get_hatch()]
    assert hatched == [(-0.5, 0.5), (0.5, 0.5), (1.5, 1.5)]
    frame = next(patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_fill())
    assert (round(frame.get_x()), round(frame.get_y())) == (1, 0)
    brightness = [sum(patch.get_facecolor()[:3]) for patch in axes.patches[:2]]
    assert brightness[1] > brightness[0]
    assert "the best, grad_cam layer4" in figure.get_supxlabel()


def test_a_ranking_without_a_best_has_no_frame() -> None:
    figure = plot_ranking(ranking(all_bad=True))
    assert all(patch.get_fill() for patch in figure.axes[0].patches)
    assert "nothing may be chosen" in figure.get_supxlabel()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_panel_for_each_figure(count: int) -> None:
    names = tuple("abcd"[:count])
    one = Scores(Score(name, torch.tensor([0.5])) for name in names)
    controls = {"random": one, "random, blurred": one, CENTER: one}
    figure = plot_ranking(Ranking((Candidate("cam", WHOLE, one, 0.01, (), 1.0),), controls, names))
    assert [axes.get_title().strip() for axes in figure.axes] == list(names)


def curves(seed: int, flat: int = 0) -> Curves:
    generator = torch.Generator().manual_seed(seed)
    deletion, insertion = torch.rand(2, 6, 5, generator=generator, dtype=torch.float64)
    deletion[:flat], insertion[:flat] = torch.nan, torch.nan
    return Curves(torch.linspace(0, 1, 5, dtype=torch.float64), deletion, insertion)


def test_curves_are_means_and_bands_are_standard_errors() -> None:
    given = {"a": curves(1), "b": curves(2, flat=2)}
    figure = plot_removal_curves(given)
    for axes, part in zip(figure.axes, ("deletion", "insertion"), strict=True):
        for line, band, found in zip(axes.lines, axes.collections, given.values(), strict=True):
            values = getattr(found, part).numpy()
            values = values[~np.isnan(values[:, 0])]
            mean, error = values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5
            np.testing.assert_allclose(line.get_xdata(), [0, 25, 50, 75, 100])
            np.testing.assert_allclose(line.get_ydata(), mean)
            path = band.get_paths()[0].vertices
            assert path[:, 1].max() == pytest.approx((mean + error).max())
            assert path[:, 1].min() == pytest.approx((mean - error).min())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    area = np.trapezoid(given["a"].deletion.numpy(), dx=0.25, axis=1).mean()
    assert labels[0].startswith(f"a: deletion {area:.3f}, insertion 0.")
    assert [label[-5:] for label in labels] == ["n = 6", "n = 4"]


def test_lines_differ_in_more_than_color() -> None:
    figure = plot_removal_curves({str(seed): curves(seed) for seed in range(7)})
    lines = figure.axes[0].lines
    assert len({line.get_color() for line in lines}) == 7
    assert len({str(line._dash_pattern) for line in lines}) == 7


def test_curves_that_cannot_be_shown() -> None:
    for given in ({}, {str(seed): curves(seed) for seed in range(8)}):
        with pytest.raises(ValueError, match="1 to 7 kinds"):
            plot_removal_curves(given)
    with pytest.raises(ValueError, match="not flat"):
        plot_removal_curves({"a": curves(1, flat=6)})
    one = Curves(*(part[:1] if part.dim() == 2 else part for part in vars(curves(1)).values() if torch.is_tensor(part)))
    assert not plot_removal_curves({"a": one}).axes[0].collections  # one image has no error


def test_the_grid_shows_each_map_in_its_place(tmp_path) -> None:
    generator = torch.Generator().manual_seed(1)
    image, cams = torch.rand(3, 12, 16, generator=generator), torch.rand(2, 3, 12, 16, generator=generator)
    cams[1, 0] = 0
    figure = plot_map_grid(image, {"grad_cam": cams[0], "layer_cam": cams[1]}, layer_names=["a", "b", "c"])
    tiles = np.array(figure.axes[:8]).reshape(2, 4)
    assert [tile.get_title() for tile in tiles[0]] == ["image", "a", "b", "c"]
    assert [row[0].get_ylabel() for row in tiles] == ["grad_cam", "layer_cam"]
    for row, maps in zip(tiles, cams, strict=True):
        np.testing.assert_allclose(row[0].images[0].get_array(), image.permute(1, 2, 0), atol=1e-6)
        for tile, cam in zip(row[1:], maps, strict=True):
            brightness = np.asarray(tile.images[0].get_array()).sum(axis=2).ravel()
            order = cam.numpy().ravel().argsort(kind="stable")
            assert (np.diff(brightness[order]) >= 0).all()
            assert [text.get_text() for text in tile.texts] == (["flat"] if cam.max() == 0 else [])
    assert save_figure(figure, tmp_path / "grid.png").stat().st_size > 1000


def test_grids_that_do_not_fit() -> None:
    image, cams = torch.rand(3, 12, 12), torch.rand(2, 12, 12)
    with pytest.raises(ValueError, match="one or more"):
        plot_map_grid(image, {}, layer_names=["a"])
    with pytest.raises(ValueError, match="`cams` of 'grad_cam' needs shape"):
        plot_map_grid(image, {"grad_cam": cams}, layer_names=["a"])
