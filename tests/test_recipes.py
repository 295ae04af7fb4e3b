"""Recipes: what they name, what they refuse, and their way through JSON."""

import dataclasses
import json
import re

import pytest

from evalib.models import MODELS, build_model
from evalib.recipes import MODEL_NAMES, Recipe, recipes


def test_eva6_is_system_b():
    eva6 = recipes["eva6"]
    assert (eva6.model, eva6.width, eva6.epochs, eva6.batch_size) == ("resnet18", 64, 20, 64)
    assert (eva6.optimizer, eva6.lr, eva6.momentum, eva6.nesterov) == ("sgd", 0.01, 0.9, False)
    assert (eva6.weight_decay, eva6.l1, eva6.l2, eva6.label_smoothing) == (0, 0, 0, 0)
    assert (eva6.schedule, eva6.step_epochs, eva6.gamma, eva6.augmentation) == ("step", 25, 0.5, "eva6")


@pytest.mark.parametrize("name", recipes)
def test_json_and_back(name):
    recipe = recipes[name]
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["name"] == name


def test_a_recipe_is_frozen_and_replace_makes_another():
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes["eva6"].epochs = 3
    changed = recipes["eva6"].replace(epochs=3, seed=7)
    assert changed.difference(recipes["eva6"]) == {"epochs": (3, 20), "seed": (7, 1)}


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown recipe 'eva7'. Known: eva6, fast, fast-40, demo"):
        recipes["eva7"]
    with pytest.raises(KeyError):
        recipes["eva7"]
    with pytest.raises(ValueError, match=r"Unknown optimizer 'lion'. Known: sgd, adam, adamw, muon"):
        Recipe(name="x", optimizer="lion")
    with pytest.raises(ValueError, match="Unknown setting of a recipe 'learning_rate'"):
        recipes["eva6"].replace(learning_rate=1)
    with pytest.raises(ValueError, match="Unknown setting of a recipe 'colour'"):
        Recipe.from_json('{"name": "x", "colour": 1}')


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0),
        ("width", 4),
        ("batch_size", -1),
        ("lr", 0.0),
        ("label_smoothing", 1.0),
        ("val_fraction", -0.1),
        ("l1", -1.0),
        ("frozen_layers", -1),
        ("image_size", -224),
        ("muon_lr", 0.0),
        ("bias_lr_factor", -1.0),
        ("cutout", -1),
        ("batch_norm_momentum", 1.0),
        ("test_views", 3),
    ],
)
def test_values_out_of_range(setting, value):
    with pytest.raises(ValueError, match=f"`{setting}` must"):
        Recipe(name="x", **{setting: value})


@pytest.mark.parametrize("text", ["", "[1]", '{"model": "resnet18"}'])
def test_damaged_json(text):
    with pytest.raises(ValueError, match=r"(?i)recipe"):
        Recipe.from_json(text)


def test_the_names_of_models_are_those_that_can_be_built():
    assert tuple(MODELS) == MODEL_NAMES


def test_a_geometry_needs_a_size_and_only_a_geometry_does():
    for geometry, size in (("resize", 0), ("center_crop", 0), ("as_is", 224)):
        with pytest.raises(
            ValueError, match=f"`image_size` must be 0 with geometry 'as_is'.*got {size} with '{geometry}'"
        ):
            Recipe(name="x", geometry=geometry, image_size=size)
    assert Recipe(name="x", geometry="center_crop", image_size=224).image_size == 224


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"geometry": "squash"}, "Unknown geometry 'squash'. Known: as_is, resize, center_crop"),
        ({"statistics": "mine"}, "Unknown kind of statistics 'mine'. Known: data, imagenet"),
        ({"augmentation": "car"}, "Unknown augmentation 'car'. Known: none, flip, crop, eva6, cars"),
        ({"model": "alexnet"}, "Unknown model 'alexnet'. Known: .*alexnet_cam, vgg19_cam"),
    ],
)
def test_unknown_settings_of_images_and_networks(setting, message):
    with pytest.raises(ValueError, match=message):
        Recipe(name="x", **setting)


def test_recipes_of_older_runs_see_images_as_they_are_and_begin_randomly():
    """Without the settings that came later, every one of them."""
    recipe = Recipe.from_json('{"name": "old", "model": "resnet18", "lr": 0.1}')
    assert (recipe.geometry, recipe.image_size, recipe.statistics) == ("as_is", 0, "data")
    assert (recipe.weights, recipe.frozen_layers) == ("none", 0)
    assert recipe == Recipe(name="old", lr=0.1)


def test_the_hpi_recipes_are_system_a():
    alexnet, vgg = recipes["hpi-alexnet"], recipes["hpi-vgg19"]
    assert (alexnet.model, vgg.model) == ("alexnet_cam", "vgg19_cam")
    assert set(vgg.difference(alexnet)) == {"name", "model"}
    assert (alexnet.geometry, alexnet.image_size, alexnet.statistics) == ("resize", 224, "imagenet")
    assert (alexnet.weights, alexnet.frozen_layers, alexnet.epochs) == ("imagenet", 0, 10)
    assert alexnet.augmentation == "none"


def test_cars_alexnet_is_system_c():
    cars = recipes["cars-alexnet"]
    assert (cars.model, cars.weights, cars.optimizer, cars.lr) == ("alexnet_cam", "imagenet", "adam", 1e-5)
    assert (cars.epochs, cars.batch_size, cars.augmentation) == (30, 4, "cars")
    assert (cars.geometry, cars.image_size, cars.statistics) == ("resize", 256, "imagenet")


def test_fast_is_the_published_network_in_as_many_epochs():
    fast, eva6 = recipes["fast"], recipes["eva6"]
    same = ("model", "width", "epochs", "frozen_layers", "weights")
    assert [getattr(fast, name) for name in same] == [getattr(eva6, name) for name in same]
    model = build_model(fast.model, 10, width=fast.width)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    assert recipes["fast-40"].difference(fast) == {"name": ("fast-40", "fast"), "epochs": (40, 20)}


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("path", "gpu", "Unknown path 'gpu'. Known: auto, resident, workers"),
        ("flip", "up", "Unknown flip 'up'. Known: random, alternating"),
        ("averaging", "ema", "Unknown averaging 'ema'. Known: none, lookahead"),
    ],
)
def test_unknown_ways_of_training(setting, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe(name="x", **{setting: value})
