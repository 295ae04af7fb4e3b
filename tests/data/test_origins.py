"""The data of a run come back as they were: same images, same labels, same choice of a larger set."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from evalib.checkpoint import Checkpoint, load_checkpoint
from evalib.data import image_folder, sample, stanford_cars
from evalib.data.origins import data_of, load_origin, origin_of
from evalib.engine import fit
from evalib.models import build_model
from evalib.origin import Origin
from evalib.recipes import recipes

DEMO = recipes["demo"].replace(width=8, epochs=1, batch_size=20)


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{index}.png")
    return tmp_path / "pets"


def same(one, other):
    for split, again in zip(one.splits().values(), other.splits().values(), strict=True):
        everything = torch.arange(len(split))
        assert torch.equal(split.labels, again.labels)
        assert torch.equal(split.images[everything], again.images[everything])
    assert (one.classes, one.mean, one.std) == (other.classes, other.mean, other.std)


def checkpoint(data, **changes):
    known = Checkpoint({}, DEMO, data.classes, data.mean, data.std, data.image_size, data.name, 1, origin=data.origin)
    return dataclasses.replace(known, **changes)


def test_a_part_of_the_sample():
    data = sample().take(train=50, test=20)
    same(load_origin(data.origin), data)


def test_a_folder_also_when_it_was_moved(folder, tmp_path):
    data = image_folder(folder, image_size=32)
    same(load_origin(data.origin), data)
    folder.rename(tmp_path / "moved")
    same(data_of(checkpoint(data), tmp_path / "moved"), data)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        data_of(checkpoint(data))


def test_a_folder_with_other_classes_is_told(folder):
    data = image_folder(folder, image_size=32)
    for split in ("train", "test"):
        (folder / split / "dog").rename(folder / split / "wolf")
    with pytest.raises(ValueError, match="other classes than the network was trained on: dog, wolf"):
        data_of(checkpoint(data))


def test_chosen_cars(small_cars):
    data = stanford_cars(small_cars, brand="BMW", target="type", image_size=48)
    same(data_of(checkpoint(data)), data)
    older = checkpoint(data, origin=None, filters=dict(data.filters))  # of before origins
    assert data_of(older, small_cars).classes == data.classes
    assert data_of(older, small_cars).filters == data.filters


def test_a_run_remembers_its_data(tmp_path):
    data = sample().take(train=40, test=20)
    fit(build_model("resnet18", 10, width=8, seed=1), data, DEMO, run_dir=tmp_path, device="cpu", progress=False)
    known = load_checkpoint(tmp_path / "last.pt")
    assert known.origin == Origin("sample", take=(40, 20))
    same(data_of(known), data)


def test_another_kind_by_name():
    cars = checkpoint(sample(), dataset="stanford-cars", filters={"brand": ("BMW",)}, origin=None)
    assert origin_of(cars) == Origin("cars", options={"brand": ("BMW",)})
    assert origin_of(cars, "sample") == Origin("sample")
    assert origin_of(checkpoint(sample(), origin=None, dataset="cifar10")) == Origin("cifar10")


def test_data_made_in_python_cannot_come_back(tiny_data):
    with pytest.raises(ValueError, match="does not say where its data 'tiny' came from"):
        data_of(checkpoint(tiny_data))


def test_another_number_of_classes(tiny_data):
    with pytest.raises(ValueError, match="tells 3 classes apart, cifar10-sample has 10"):
        data_of(checkpoint(tiny_data, dataset="cifar10-sample"))
