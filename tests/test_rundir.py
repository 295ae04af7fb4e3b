"""Run directories: begun, continued, and refused to another run."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from evalib.checkpoint import Checkpoint, load_checkpoint
from evalib.history import EpochRecord, History
from evalib.recipes import Recipe, recipes
from evalib.rundir import RunDirectory, latest_checkpoint

EVA6 = recipes["eva6"]


def data(**changes):
    """What a run directory asks of an ImageData."""
    values = {"name": "tiny", "classes": ("ant", "bee"), "filters": {}, "train": range(8), "val": None}
    return SimpleNamespace(**{**values, **changes})


def history(epochs, **changes):
    record = dict.fromkeys(EpochRecord.__dataclass_fields__, 0.5) | changes
    return History([EpochRecord(**{**record, "epoch": epoch + 1}) for epoch in range(epochs)])


def checkpoint(recipe=EVA6, epoch=3, step=0, **changes):
    return Checkpoint(
        weights={"w": torch.full((100,), float(epoch))},
        recipe=recipe,
        classes=("ant", "bee"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        image_size=32,
        dataset="tiny",
        epoch=epoch,
        step=step,
        train_images=8,
        metrics=history(epoch).to_dict(),
        training={"optimizer": {"lr": 0.1}},
        **changes,
    )


def kept(path, *epochs, recipe=EVA6, **settings):
    """A run directory after so many epochs, closed."""
    with RunDirectory(path, **settings) as run:
        run.begin(recipe, data())
        for epoch in epochs:
            run.save(checkpoint(recipe, epoch), history(epoch))
    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files(tmp_path):
    with RunDirectory(tmp_path / "run") as run:
        assert run.begin(EVA6, data()) is None
        assert names(run.path) == ["recipe.json", "run.lock"]
        run.save(checkpoint(epoch=1), history(1))
        run.save(checkpoint(epoch=2), history(2))
    assert names(run.path) == ["history.json", "last.pt", "previous.pt", "recipe.json"]
    assert Recipe.from_json((run.path / "recipe.json").read_text()) == EVA6
    assert History.load(run.path / "history.json") == history(2)
    assert load_checkpoint(run.path / "last.pt").progress == (2, 0)
    assert load_checkpoint(run.path / "previous.pt").progress == (1, 0)
    assert latest_checkpoint(run.path) == run.path / "last.pt"
    assert run.notes == []


def test_the_same_recipe_continues(tmp_path):
    run = kept(tmp_path, 2, 3)
    assert run.begin(EVA6, data()).epoch == 3
    run.close()
    assert run.notes == []
    with RunDirectory(tmp_path) as again:
        assert again.begin(EVA6, data()).epoch == 3


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (EVA6.replace(lr=0.2, seed=9), {}, r"\(lr: 0.01 there, 0.2 now; seed: 1 there, 9 now\)"),
        (EVA6, {"classes": ("cow",)}, r"\(classes: \('ant', 'bee'\) there, \('cow',\) now\)"),
        (EVA6, {"name": "other"}, r"\(dataset: 'tiny' there, 'other' now\)"),
        (EVA6, {"filters": {"year": ["2012"]}}, r"\(filters: \{\} there, \{'year': \('2012',\)\} now\)"),
        (EVA6, {"train": range(7)}, r"\(training images: 8 there, 7 now\)"),
    ],
)
def test_another_run_is_refused_and_nothing_is_lost(tmp_path, recipe, changes, message):
    run = kept(tmp_path, 3)
    with pytest.raises(ValueError, match=f"holds another run {message}. Choose another run directory"):
        run.begin(recipe, data(**changes))
    assert Recipe.from_json((tmp_path / "recipe.json").read_text()) == EVA6
    assert not (tmp_path / "run.lock").exists()
    accepting = RunDirectory(tmp_path, accept_changes=True)
    if "classes" in changes:
        with pytest.raises(ValueError, match=r"holds another run .* or the same settings to continue.$"):
            accepting.begin(recipe, data(**changes))
    else:
        with accepting:
            assert accepting.begin(recipe, data(**changes)).epoch == 3
            assert len(accepting.notes) == 1
            assert f"continues after epoch 3 with changes {message[2:8]}" in accepting.notes[0].replace("(", "")


@pytest.mark.parametrize("change", [{"model": "resnet34"}, {"width": 16}])
def test_another_network_is_never_accepted(tmp_path, change):
    kept(tmp_path, 3)
    with pytest.raises(ValueError, match="holds another run"):
        RunDirectory(tmp_path, accept_changes=True).begin(EVA6.replace(**change), data())


def test_older_checkpoints_do_not_know_their_number_of_images(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.begin(EVA6, data())
        run.save(replace(checkpoint(), train_images=0), history(3))
    with run:
        assert run.begin(EVA6, data(train=range(7))).epoch == 3


def test_more_epochs_continue_where_the_schedule_does_not_depend_on_them(tmp_path):
    run = kept(tmp_path, 3)
    with run:
        assert run.begin(EVA6.replace(epochs=30), data()).epoch == 3
    with pytest.raises(ValueError, match="epochs: 20 there, 2 now"):
        run.begin(EVA6.replace(epochs=2), data())


def test_more_epochs_of_a_one_cycle_run_are_refused(tmp_path):
    run = kept(tmp_path, 3, recipe=recipes["demo"])
    with pytest.raises(ValueError, match="epochs: "):
        run.begin(recipes["demo"].replace(epochs=99), data())
