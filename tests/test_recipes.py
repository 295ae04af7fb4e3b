"""Recipes: what they name, what they refuse, and their way through JSON."""

import dataclasses
import json

import pytest

from evalib.models import MODELS
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
    with pytest.raises(ValueError, match=r"Unknown recipe 'eva7'. Known: eva6, demo"):
        recipes["eva7"]
    with pytest.raises(KeyError):
        recipes["eva7"]
    with pytest.raises(ValueError, match=r"Unknown optimizer 'lion'. Known: sgd, adam, adamw"):
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
