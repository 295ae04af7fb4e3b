"""Runs that change one another's recipe: which recipe each has, and that a finished one is read."""

import pytest

from evalib.comparison import ablation
from evalib.ladder import Ladder
from evalib.recipes import Recipe

START = Recipe(name="start", width=8, epochs=1, batch_size=8, precision="float32")


def test_each_run_changes_an_earlier_one_and_a_finished_one_is_read(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ladder = Ladder(tiny_data, START, tmp_path)
    first = ladder.train("first")
    ladder.train("second", lr=0.05)
    ladder.train("third", momentum=0.5)
    ladder.train("fourth", since="first", seed=3)
    changes = {name: START.replace(name=name).difference(recipe) for name, recipe in ladder.recipes.items()}
    assert changes == {
        "first": {},
        "second": {"lr": (0.01, 0.05)},
        "third": {"lr": (0.01, 0.05), "momentum": (0.9, 0.5)},
        "fourth": {"seed": (1, 3)},
    }
    assert [row["changes"] for row in ablation([ladder.run_dir(name) for name in ("first", "second")]).rows] == [
        None,
        "lr 0.05",
    ]
    again = Ladder(tiny_data, START, tmp_path).train("first")
    assert again == first  # its seconds too: it was read


def test_a_run_that_is_not_there(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="`since` must be one of : got 'zero'"):
        Ladder(tiny_data, START, tmp_path).train("first", since="zero")
