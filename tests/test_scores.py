"""Figures per image: means and spreads beside numpy's, and what may not vanish in them."""

import math

import numpy as np
import pytest
import torch

from evalib.scores import Score, Scores, scores_table

VALUES = torch.tensor([0.0, 1.0, math.nan, 0.5])


def test_mean_spread_and_number_leave_out_what_is_not_defined():
    score = Score("pointing", VALUES, flat=1, seconds=2.0)
    kept = np.array([0.0, 1.0, 0.5])
    assert score.n == 3
    assert score.mean == pytest.approx(kept.mean())
    assert score.sd == pytest.approx(kept.std(ddof=1))
    assert score.standard_error == pytest.approx(kept.std(ddof=1) / math.sqrt(3))
    assert score.images_per_second == 2.0  # the flat one took its time, too


def test_no_figure_at_all_is_not_a_zero():
    score = Score("ROAD", torch.tensor([math.nan, math.nan]), flat=2)
    assert score.n == 0
    assert math.isnan(score.mean)
    assert math.isnan(score.sd)
    assert math.isnan(score.standard_error)
    assert "n/a" in str(Scores([score]))


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(2, 2), torch.tensor([1.0, math.inf])])
def test_other_figures_are_refused(values):
    with pytest.raises(ValueError, match="needs one finite figure or NaN per image"):
        Score("ROAD", values)


def test_a_row_per_figure():
    scores = Scores([Score("pointing", VALUES, flat=1)]) | Scores([Score("deletion", VALUES, better="low", seconds=4)])
    assert list(scores) == ["pointing", "deletion"]
    assert len(scores) == 2
    first, second = scores.table().rows
    assert (first["figure"], first["n"], first["flat maps"], first["images/s"]) == ("pointing", 3, 1, None)
    assert (second["better"], second["images/s"]) == ("low", 1.0)
    assert scores._repr_markdown_().startswith("| figure |")


def test_a_row_per_kind_of_map():
    table = scores_table(
        {
            "layer_cam": Scores([Score("pointing", VALUES, flat=1), Score("ROAD", VALUES, seconds=2)]),
            "random": Scores([Score("pointing", torch.tensor([1.0]))]),
        }
    )
    first, second = table.rows
    assert (first["maps"], first["n"], first["flat"], first["pointing"]) == ("layer_cam", 4, 1, "0.500 ± 0.289")
    assert (second["pointing"], second["ROAD"]) == ("1.000", None)
    assert "pointing: higher is better" in str(table)
    with pytest.raises(ValueError, match="at least one kind"):
        scores_table({})
