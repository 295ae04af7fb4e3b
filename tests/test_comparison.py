"""Comparisons of runs: every cell is followed back to the files that the run wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from evalib.comparison import ablation, compare_runs
from evalib.engine import fit
from evalib.history import EpochRecord, History
from evalib.recipes import Recipe

ALEXNET = Recipe(name="a", model="alexnet_cam", geometry="resize", image_size=224, weights="imagenet", epochs=3, seed=7)


def write_run(
    folder: Path, recipe: Recipe = ALEXNET, *, seconds=(9.0, 2.0, 3.0), accuracy: float = 0.5, **more
) -> Path:
    """A run whose epoch k took seconds[k - 1] and whose last accuracies are `accuracy` and a tenth more."""
    records = [
        EpochRecord(k, 1.0, accuracy + 0.1, 1.1, accuracy if k == len(seconds) else 0.99, taken, 1.0, 0.1)
        for k, taken in enumerate(seconds, start=1)
    ]
    folder.mkdir()
    (folder / "recipe.json").write_text(recipe.to_json())
    settings = {"device": "one GPU", "train_images": 50000, "test_images": 10000, **more}
    History(records, **settings).save(folder / "history.json")
    return folder


def test_a_row_holds_what_the_run_wrote(tmp_path):
    (row,) = compare_runs([write_run(tmp_path / "first", accuracy=0.8895)]).rows
    assert row == {
        "run": "first",
        "model": "alexnet_cam",
        "image size": 224,
        "geometry": "resize",
        "weights": "ImageNet",
        "frozen layers": 0,
        "train images": 50000,
        "test images": 10000,
        "epochs": 3,
        "state": "finished",
        "test accuracy": 0.8895,  # of the last epoch, though the others are better
        "train accuracy": pytest.approx(0.9895),
        "seconds per epoch": 3.0,  # the median of 9, 2, 3
        "device": "one GPU",
        "seed": 7,
    }


def test_a_real_run_can_be_compared(tiny_model, tiny_data, tmp_path):
    recipe = Recipe(name="tiny", width=8, epochs=2, batch_size=8)
    history = fit(tiny_model, tiny_data, recipe, run_dir=tmp_path / "run", device="cpu", progress=False)
    (row,) = compare_runs({"mine": tmp_path / "run"}).rows
    assert (row["run"], row["model"]) == ("mine", "resnet18, width 8")
    assert (row["train images"], row["test images"], row["epochs"], row["state"]) == (24, 12, 2, "finished")
    assert row["test accuracy"] == history.epochs[-1].test_accuracy
    assert row["train accuracy"] == history.epochs[-1].train_accuracy
    assert row["seconds per epoch"] == pytest.approx(sum(epoch.seconds for epoch in history.epochs) / 2)
    assert row["device"]


@pytest.mark.parametrize(
    ("weights", "shown"),
    [("none", "random"), ("imagenet", "ImageNet"), ("runs/cars/last.pt", "cars/last.pt"), ("vgg.pth", "vgg.pth")],
)
def test_what_a_network_begins_with(tmp_path, weights, shown):
    (row,) = compare_runs([write_run(tmp_path / "run", ALEXNET.replace(weights=weights))]).rows
    assert row["weights"] == shown


def test_the_width_is_named_where_it_is_not_the_published_one(tmp_path):
    recipes = [Recipe(name="r", width=64, epochs=3), Recipe(name="r", width=16, epochs=3), ALEXNET.replace(width=16)]
    rows = compare_runs([write_run(tmp_path / str(i), recipe) for i, recipe in enumerate(recipes)]).rows
    assert [row["model"] for row in rows] == ["resnet18", "resnet18, width 16", "alexnet_cam"]


def test_images_that_stay_as_they_are_and_older_histories_have_no_value(tmp_path):
    folder = write_run(tmp_path / "old", Recipe(name="r", epochs=3))
    values = json.loads((folder / "history.json").read_text())
    older = {name: values[name] for name in ("epochs", "interrupted")}
    (folder / "history.json").write_text(json.dumps(older))
    comparison = compare_runs([folder])
    (row,) = comparison.rows
    empty = [name for name, value in row.items() if value is None]
    assert empty == ["image size", "train images", "test images", "device"]
    assert str(comparison).split("\n")[2].count("n/a") == 4


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"interrupted": True}, "interrupted, 10 planned"),
        ({"interrupted": False}, "unfinished, 10 planned"),  # killed, or still running
    ],
)
def test_a_run_that_ended_early_is_marked(tmp_path, changes, state):
    early = write_run(tmp_path / "early", ALEXNET.replace(epochs=10), **changes)
    comparison = compare_runs([early, write_run(tmp_path / "whole")])
    assert [row["state"] for row in comparison.rows] == [state, "finished"]
    assert state in str(comparison)
    assert state in comparison._repr_markdown_()


def test_settings_that_all_runs_share_stand_once_below_the_table(tmp_path):
    runs = {f"{k} frozen": write_run(tmp_path / str(k), ALEXNET.replace(frozen_layers=k)) for k in (0, 2)}
    text = str(compare_runs(runs))
    assert text.split("\n") == [
        "run       frozen layers  test accuracy  train accuracy  seconds per epoch",
        "--------  -------------  -------------  --------------  -----------------",
        "0 frozen              0         50.00%          60.00%                3.0",
        "2 frozen              2         50.00%          60.00%                3.0",
        "The same in all runs: model alexnet_cam, image size 224 px, geometry resize, weights ImageNet, "
        "train images 50,000, test images 10,000, epochs 3, state finished, device one GPU, seed 7.",
    ]


def test_a_single_run_shares_with_nobody(tmp_path):
    comparison = compare_runs([write_run(tmp_path / "one")])
    assert comparison.shared == {}
    header, rule, line = str(comparison).split("\n")
    assert len(rule) == len(header)
    assert "one GPU" in line


def test_any_other_setting_in_which_runs_differ_gets_a_column(tmp_path):
    """Otherwise a better result would look like an effect of the columns that are there."""
    runs = [
        write_run(tmp_path / "x"),
        write_run(tmp_path / "y", ALEXNET.replace(lr=0.5, statistics="imagenet", name="b")),
        write_run(tmp_path / "z", ALEXNET.replace(width=8)),
    ]
    rows = compare_runs(runs).rows
    assert [(row["lr"], row["statistics"]) for row in rows] == [("0.01", "data"), ("0.5", "imagenet"), ("0.01", "data")]
    assert not {"name", "width", "batch size"} & set(rows[0])
    assert all(list(row) == list(rows[0]) for row in rows)


def test_markdown_table(tmp_path):
    runs = {"a|b": write_run(tmp_path / "a"), "c": write_run(tmp_path / "c", ALEXNET.replace(seed=8), accuracy=0.25)}
    lines = compare_runs(runs)._repr_markdown_().split("\n")
    assert lines[:4] == [
        "| run | test accuracy | train accuracy | seconds per epoch | seed |",
        "| --- | ---: | ---: | ---: | ---: |",
        r"| a\|b | 50.00% | 60.00% | 3.0 | 7 |",
        "| c | 25.00% | 35.00% | 3.0 | 8 |",
    ]
    assert lines[4] == ""
    assert lines[5].startswith("The same in all runs: model alexnet_cam, image size 224 px, ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("recipe.json", "{", "recipe.json is not a recipe of evalib .*not valid JSON"),
        ("recipe.json", '{"name": "a", "colour": 3}', "recipe.json is not a recipe of evalib .*'colour'"),
        ("recipe.json", '{"name": "a", "epochs": "3"}', "recipe.json is not a recipe of evalib"),
        ("history.json", "{", "history.json is not a history of evalib"),
        ("history.json", '{"epochs": [], "interrupted": false}', "history.json has no epoch yet"),
    ],
)
def test_a_damaged_run_is_an_error_that_names_the_file(tmp_path, name, text, message):
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad")
    (bad / name).write_text(text)
    with pytest.raises(ValueError, match=f"bad.{message}"):
        compare_runs([good, bad])


@pytest.mark.parametrize("missing", ["recipe.json", "history.json", ""])
def test_a_folder_that_is_no_run_is_an_error(tmp_path, missing):
    folder = write_run(tmp_path / "run") if missing else tmp_path / "nowhere"
    (folder / missing).unlink() if missing else None
    with pytest.raises(FileNotFoundError, match=f"{folder.name} has no {missing or 'recipe.json'}: it needs to be"):
        compare_runs([folder])


@pytest.mark.parametrize("runs", [[], {}])
def test_no_run_is_an_error(runs):
    with pytest.raises(ValueError, match="needs at least one run"):
        compare_runs(runs)


def test_two_folders_of_one_name_need_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")]
    with pytest.raises(ValueError, match=r"no name twice: got \['run', 'run'\]"):
        compare_runs(folders)
    assert [row["run"] for row in compare_runs(dict(zip("ab", folders, strict=True))).rows] == ["a", "b"]


def test_a_single_folder_is_not_taken_for_a_list_of_letters(tmp_path):
    with pytest.raises(ValueError, match="needs several folders, as a list or by name: got the single"):
        compare_runs(str(write_run(tmp_path / "run")))


def with_figures(folder, recipe, *, val=None, views=None, accuracy=0.5):
    """A run whose last epoch was also tested on validation images and with views."""
    write_run(folder, recipe, accuracy=accuracy)
    history = History.load(folder / "history.json")
    history.epochs[-1] = dataclasses.replace(history.epochs[-1], val_accuracy=val, test_accuracy_views=views)
    history.save(folder / "history.json")
    return folder


def test_an_ablation_names_what_each_run_changed_and_gained(tmp_path):
    second = ALEXNET.replace(lr=0.5, schedule="cosine", name="other")
    runs = {
        "first": with_figures(tmp_path / "a", ALEXNET, val=0.5, accuracy=0.9),
        "second": with_figures(tmp_path / "b", second, val=0.625, accuracy=0.8),
        "third": with_figures(tmp_path / "c", second.replace(seed=9), val=0.6, views=0.75),
    }
    rows = ablation(runs).rows
    assert [row["run"] for row in rows] == ["first", "second", "third"]
    assert [row["changes"] for row in rows] == [None, "lr 0.5, schedule cosine", "seed 9"]
    assert [row["gain"] for row in rows] == [None, pytest.approx(0.125), pytest.approx(-0.025)]
    assert [row["with views"] for row in rows] == [None, None, 0.75]
    assert "+12.50%" in str(ablation(runs))
    assert "-2.50%" in str(ablation(runs))


def test_an_ablation_without_validation_images_goes_by_the_test_images(tmp_path):
    runs = [write_run(tmp_path / "a", accuracy=0.5), write_run(tmp_path / "b", accuracy=0.25)]
    assert [row["gain"] for row in ablation(runs).rows] == [None, -0.25]


def test_the_augmented_figure_has_a_column_if_any_run_has_it(tmp_path):
    runs = [with_figures(tmp_path / "a", ALEXNET, views=0.7), write_run(tmp_path / "b")]
    assert [row["with views"] for row in compare_runs(runs).rows] == [0.7, None]
    assert "with views" not in compare_runs(runs[1:]).rows[0]


def test_an_ablation_against_one_reference(tmp_path):
    runs = {
        "a": write_run(tmp_path / "a", ALEXNET.replace(lr=0.5), accuracy=0.25),
        "base": write_run(tmp_path / "base", accuracy=0.5),
        "b": write_run(tmp_path / "b", ALEXNET.replace(momentum=0.5), accuracy=0.75),
    }
    rows = ablation(runs, reference="base").rows
    assert [(row["changes"], row["gain"]) for row in rows] == [("lr 0.5", -0.25), (None, None), ("momentum 0.5", 0.25)]
    with pytest.raises(ValueError, match="`reference` must be one of a, base, b: got 'c'"):
        ablation(runs, reference="c")
