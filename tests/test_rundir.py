"""Run directories: begun, continued, and refused to another run."""

import pytest
import torch

from evalib.checkpoint import Checkpoint
from evalib.history import History
from evalib.recipes import Recipe, recipes
from evalib.rundir import RunDirectory

CLASSES = ("ant", "bee")


def checkpoint(recipe, epoch=3):
    return Checkpoint(
        {"w": torch.ones(1)}, recipe, CLASSES, (0.5,) * 3, (0.5,) * 3, 32, "tiny", epoch, History().to_dict(), {}
    )


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert run.begin(recipes["eva6"], CLASSES) is None
    run.save(checkpoint(recipes["eva6"]), History())
    return run


def test_files(run):
    assert sorted(path.name for path in run.path.iterdir()) == ["history.json", "last.pt", "recipe.json"]
    assert Recipe.from_json((run.path / "recipe.json").read_text()) == recipes["eva6"]


def test_the_same_recipe_continues(run):
    assert run.begin(recipes["eva6"], CLASSES).epoch == 3


def test_another_recipe_or_other_classes_are_refused_and_nothing_is_lost(run):
    with pytest.raises(ValueError, match=r"holds another run \(lr: 0.01 there, 0.2 now; seed: 1 there, 9 now\)"):
        run.begin(recipes["eva6"].replace(lr=0.2, seed=9), CLASSES)
    with pytest.raises(ValueError, match=r"classes: \('ant', 'bee'\) there, \('cow',\) now"):
        run.begin(recipes["eva6"], ("cow",))
    assert Recipe.from_json((run.path / "recipe.json").read_text()) == recipes["eva6"]


def test_more_epochs_continue_where_the_schedule_does_not_depend_on_them(run):
    assert run.begin(recipes["eva6"].replace(epochs=30), CLASSES).epoch == 3
    with pytest.raises(ValueError, match="epochs: 20 there, 2 now"):
        run.begin(recipes["eva6"].replace(epochs=2), CLASSES)


def test_more_epochs_of_a_one_cycle_run_are_refused(tmp_path):
    run = RunDirectory(tmp_path)
    run.save(checkpoint(recipes["demo"]), History())
    with pytest.raises(ValueError, match="epochs: "):
        run.begin(recipes["demo"].replace(epochs=99), CLASSES)
