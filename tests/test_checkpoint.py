"""Checkpoints: what goes in comes out; foreign weights load strictly; nothing hostile runs."""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evalib
from evalib.checkpoint import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
    save_safetensors,
)
from evalib.files import DamagedFileError
from evalib.models import build_model
from evalib.recipes import Recipe, recipes
from evalib.transforms import Geometry


@pytest.fixture
def model():
    return build_model("resnet18", 3, width=8, seed=5).eval()


@pytest.fixture
def checkpoint(model):
    return Checkpoint(
        weights=model.state_dict(),
        recipe=recipes["demo"].replace(width=8),
        classes=("ant", "bee", "cow"),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        image_size=32,
        dataset="tiny",
        epoch=4,
        metrics={"epochs": [], "interrupted": False},
        training={"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}},
    )


def test_one_file_is_enough_to_predict(model, checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    loaded, found = load_model(tmp_path / "last.pt")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    for name in ("recipe", "classes", "mean", "std", "image_size", "dataset", "epoch", "metrics"):
        assert getattr(found, name) == getattr(checkpoint, name)
    assert torch.equal(found.training["optimizer"]["state"][0]["momentum_buffer"], torch.ones(2))
    assert is_checkpoint(tmp_path / "last.pt")


def test_an_older_file_survives_a_failed_write(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("key", [None, "net", "state_dict"])
def test_weights_of_other_projects(model, tmp_path, prefix, key):
    weights = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({key: weights, "acc": 95.1, "epoch": 180} if key else weights, tmp_path / "ckpt.pth")
    other = build_model("resnet18", 3, width=8, seed=6)
    load_weights(other, tmp_path / "ckpt.pth")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert not is_checkpoint(tmp_path / "ckpt.pth")


@pytest.mark.parametrize("level", ["", "0."])
def test_whole_networks_of_the_other_systems(tmp_path, level):
    """features.N and classifier of DL_CIFAR, features.0.N of CAM_Stanford_Cars."""
    given = build_model("alexnet_cam", 3, seed=1)
    names = {name: name.replace("features.", f"features.{level}") for name in given.state_dict()}
    weights = {names[name]: value for name, value in given.state_dict().items()}
    torch.save({"model_state_dict": weights, "n_classes": 3} if level else weights, tmp_path / "AlexnetCam")
    other = build_model("alexnet_cam", 3, seed=2)
    load_weights(other, tmp_path / "AlexnetCam")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in given.state_dict().items())


def test_a_cam_network_needs_nothing_but_its_checkpoint(checkpoint, tmp_path, monkeypatch):
    """Also one that began with ImageNet's weights: they are not looked for again."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    model = build_model("alexnet_cam", 3, seed=1).eval()
    recipe = checkpoint.recipe.replace(model="alexnet_cam", weights="imagenet", frozen_layers=2)
    save_checkpoint(tmp_path / "cam.pt", replace(checkpoint, weights=model.state_dict(), recipe=recipe))
    loaded, _ = load_model(tmp_path / "cam.pt")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert not (tmp_path / "hub").exists()


def test_a_checkpoint_of_another_number_of_classes(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    with pytest.raises(ValueError, match=r"last.pt .* holds a network for 3 classes, this one has 10. Build it for 3"):
        load_weights(build_model("resnet18", 10, width=8), tmp_path / "last.pt")


def test_weights_that_do_not_fit(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "three.pth")
    with pytest.raises(ValueError, match=r"three.pth do not fit this ResNet: size mismatch for linear.weight"):
        load_weights(build_model("resnet18", 10, width=8), tmp_path / "three.pth")
    torch.save({"a": 1}, tmp_path / "number.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_weights(model, tmp_path / "number.pth")


class Bomb:
    def __reduce__(self):
        return exec, ("open('boom', 'w').close()",)


def test_a_hostile_file_runs_nothing(model, checkpoint, tmp_path, monkeypatch):
    """`tests/test_weights.py` has many more; here, one behind a right digest, by every way that leads to a file."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("torch.pt"), replace(checkpoint, training={"optimizer": Bomb()}))
    Path("plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("torch.pt", "plain.pt"):
        for read in (load_checkpoint, load_model, is_checkpoint, lambda path: load_weights(model, path)):
            with pytest.raises(DamagedFileError, match=f"Cannot read the checkpoint {name}: it is no checkpoint, or"):
                read(name)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("damage", ["empty", "half", "zeros", "HTML", "one bit"])
def test_a_damaged_file_is_named(model, checkpoint, tmp_path, damage):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4  # in the numbers, where neither the zip file nor torch looks at them
    page = b"<html></html>"
    damaged = {"empty": b"", "half": content[: len(content) // 2], "zeros": bytes(5000), "HTML": page}
    path.write_bytes(damaged.get(damage, content))
    for read in (load_checkpoint, load_model, is_checkpoint, lambda path: load_weights(model, path)):
        with pytest.raises(DamagedFileError, match=r"Cannot read the checkpoint .*last.pt: it is (damaged|no checkp)"):
            read(path)


def changed(path, checkpoint, **changes):
    """A file of the older format, which has no digest, with some of its values changed; None takes one away."""
    save_checkpoint(path, checkpoint)
    values = torch.load(path, weights_only=True) | {"format": "evalib-checkpoint-1"} | changes
    torch.save({name: value for name, value in values.items() if value is not None}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, "'weights' must be of type dict: got NoneType"),
        ({"weights": {"a": 1}}, "'weights' must be tensors by name"),
        ({"recipe": None}, "has no recipe"),
        ({"recipe": [1]}, "has no recipe"),
        ({"classes": ["ant", 2]}, "'classes' must be names"),
        ({"classes": []}, "'classes' must be names"),
        ({"mean": [0.1, 0.2]}, "'mean' and 'std' must be three numbers each"),
        ({"std": ["a", "b", "c"]}, "'mean' and 'std' must be three numbers each"),
        ({"epoch": "4"}, "'epoch' must be of type int: got str"),
        ({"epoch": -1}, "'epoch' and 'step' must not be negative"),
        ({"step": -1}, "'epoch' and 'step' must not be negative"),
        ({"geometry": ["sideways", 32]}, "sideways"),
        ({"filters": {"brand": 7}}, "not iterable"),
        ({"training": []}, "'training' must be of type dict"),
    ],
)
def test_values_that_make_no_sense_are_damage(checkpoint, tmp_path, changes, message):
    with pytest.raises(DamagedFileError, match=f"Cannot read the checkpoint .*last.pt: it is damaged: .*{message}"):
        load_checkpoint(changed(tmp_path / "last.pt", checkpoint, **changes))


ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ODD = ODD | st.lists(ODD, max_size=3) | st.dictionaries(ODD, ODD, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(["weights", "recipe", "classes", "mean", "std", "image_size", "dataset", "epoch", "metrics",
                         "training", "geometry", "filters", "step", "train_images", "evalib", "torch", "format"]),
        ODD, min_size=1, max_size=3,
    )
)  # fmt: skip
def test_any_values_give_a_checkpoint_or_one_error(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    small = Checkpoint({"w": torch.ones(1)}, recipes["demo"], ("a",), (0.5,) * 3, (0.5,) * 3, 32, "tiny", 1)
    try:
        found = load_checkpoint(changed(path, small, **changes))
    except ValueError as error:
        message = str(error)
        assert "any.pt" in message
    else:
        assert found.progress >= (0, 0)
        assert all(isinstance(name, str) for name in found.classes)


def test_a_file_of_a_newer_evalib_is_no_damage(checkpoint, tmp_path):
    path = changed(tmp_path / "last.pt", checkpoint, format="evalib-checkpoint-3", evalib="9.1")
    with pytest.raises(
        ValueError, match=r"has the format evalib-checkpoint-3, written by evalib 9.1: this is .* Update"
    ):
        load_checkpoint(path)
    assert is_checkpoint(path)
    recipe = json.dumps({**json.loads(checkpoint.recipe.to_json()), "sharpness": 2})
    path = changed(tmp_path / "last.pt", checkpoint, recipe=recipe, evalib="9.1")
    with pytest.raises(
        ValueError, match=r"last.pt, written by evalib 9.1: Unknown setting of a recipe 'sharpness'"
    ) as raised:
        load_checkpoint(path)
    assert not isinstance(raised.value, DamagedFileError)


def test_who_wrote_it_and_how_far_it_was(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", replace(checkpoint, step=17, train_images=24))
    found = load_checkpoint(tmp_path / "last.pt")
    assert (found.progress, found.train_images) == ((4, 17), 24)
    assert (found.evalib_version, found.torch_version) == (evalib.__version__, torch.__version__)
    assert type(found.torch_version) is str
    assert checkpoint.progress == (4, 0)


def test_the_older_file_can_be_kept(checkpoint, tmp_path):
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path / "last.pt", replace(checkpoint, epoch=epoch), keep=tmp_path / "previous.pt")
    assert [load_checkpoint(tmp_path / name).epoch for name in ("last.pt", "previous.pt")] == [3, 2]


def test_weights_for_other_programs(model, checkpoint, tmp_path):
    """Read by safetensors itself; strides and shared memory are not of that format."""
    safetensors = pytest.importorskip("safetensors")
    weights = {name: value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
               for name, value in model.state_dict().items()}  # fmt: skip
    weights["bn1.bias"] = weights["bn1.weight"] = weights["bn1.weight"]
    path = tmp_path / "model.safetensors"
    save_safetensors(path, replace(checkpoint, weights=weights, geometry=Geometry("resize", 32)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
        assert all(torch.equal(file.get_tensor(name), value) for name, value in weights.items())
    assert about["format"] == "pt"
    assert json.loads(about["classes"]) == ["ant", "bee", "cow"]
    expected = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "image_size": 32, "geometry": "resize"}
    assert json.loads(about["preprocessing"]) == expected
    assert Recipe.from_json(about["recipe"]) == checkpoint.recipe
    assert (about["dataset"], about["epoch"], json.loads(about["metrics"])) == ("tiny", "4", checkpoint.metrics)
    other = build_model("resnet18", 3, width=8, seed=6)
    load_weights(other, path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in weights.items())


def test_without_safetensors(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install 'evalib\[export\]'"):
        save_safetensors(tmp_path / "model.safetensors", checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_network(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    other = build_model("alexnet_cam", 3, seed=1)
    with pytest.raises(ValueError, match=r"last.pt do not fit this \w+: it is of another network, which has 0 of this"):
        load_weights(other, tmp_path / "last.pt")


def test_missing_and_foreign_files(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save(model.state_dict(), tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="is not a checkpoint of evalib"):
        load_checkpoint(tmp_path / "foreign.pth")


def test_geometry_and_filters_come_back(checkpoint, tmp_path):
    filters = {"brand": ("BMW", "Audi"), "year": ("2012",)}
    whole = replace(checkpoint, geometry=Geometry("center_crop", 224), filters=filters)
    save_checkpoint(tmp_path / "last.pt", whole)
    found = load_checkpoint(tmp_path / "last.pt")
    assert found.geometry == Geometry("center_crop", 224)
    assert found.filters == filters


def test_older_checkpoints_have_neither_geometry_nor_filters(checkpoint, model, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    values = torch.load(tmp_path / "last.pt", weights_only=True)
    del values["geometry"], values["filters"]
    later = ("geometry", "image_size", "statistics", "weights", "frozen_layers")
    recipe = json.loads(values["recipe"])
    values["recipe"] = json.dumps({name: value for name, value in recipe.items() if name not in later})
    del values["step"], values["train_images"]
    torch.save({**values, "format": "evalib-checkpoint-1"}, tmp_path / "older.pt")
    loaded, found = load_model(tmp_path / "older.pt")
    assert found.geometry == Geometry()
    assert found.filters == {}
    assert (found.progress, found.train_images) == ((4, 0), 0)
    assert found.recipe == checkpoint.recipe
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
