"""Checkpoints: what goes in comes out; foreign weights load strictly; nothing hostile runs."""

import json
import os
import pickle
from dataclasses import replace

import pytest
import torch

from evalib.checkpoint import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
)
from evalib.models import build_model
from evalib.recipes import recipes
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


def test_a_hostile_file_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, write in (("torch.pt", lambda f: torch.save(Bomb(), f)), ("plain.pt", lambda f: pickle.dump(Bomb(), f))):
        with open(name, "wb") as file:
            write(file)
        with pytest.raises(ValueError, match=f"Cannot read the checkpoint {name}: it is no checkpoint, or holds more"):
            load_checkpoint(name)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\0" * 5000])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read the checkpoint .*last.pt"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_truncated_file_is_named(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"Cannot read the checkpoint .*last.pt: it is damaged"):
        load_checkpoint(tmp_path / "last.pt")


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
