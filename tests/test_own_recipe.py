"""The recipe for a folder: what is chosen for which facts, worked out by hand; and that there is a reason for each."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalib.data.inspection import DataFacts
from evalib.own_recipe import choose_recipe
from evalib.recipes import recipes

CPU, GPU = torch.device("cpu"), torch.device("cuda")  # the name of a device: none is needed


def facts(train=(80, 80), size=(640, 480), **changes):
    known = {"train": train, "test": (20,) * len(train)}
    return dataclasses.replace(DataFacts("pets", ("cat", "dog"), known, True, size, size), **changes)


def test_photos_with_weights_of_imagenet():
    recipe, reasons = choose_recipe(facts(), CPU)
    assert (recipe.model, recipe.weights, recipe.statistics) == ("resnet18_imagenet", "imagenet", "imagenet")
    assert (recipe.geometry, recipe.image_size, recipe.crop_padding) == ("center_crop", 224, 28)
    assert (recipe.epochs, recipe.batch_size) == (15, 32)  # 2,400 / 160 images
    kinds = [reason.partition(":")[0] for reason in reasons]
    assert kinds == ["model", "image size", "normalization", "epochs", "batch size"]
    assert "ImageNet's weights, because the images are photographs (median 640 x 480 pixels)" in reasons[0]
    assert reasons[3] == "epochs: 15, that is 2,400 images in all, on this CPU"
    assert reasons[4] == "batch size: 32, that is 5 steps an epoch"


def test_photos_without_weights():
    recipe, reasons = choose_recipe(facts(), CPU, weights="none")
    assert (recipe.name, recipe.model, recipe.width, recipe.weights) == ("photos-small", "resnet18", 16, "none")
    assert (recipe.geometry, recipe.image_size, recipe.epochs) == ("center_crop", 64, 60)
    assert "from random weights, because there are no weights to begin with" in reasons[0]
    assert choose_recipe(facts(), GPU, weights="none")[0].width == 64


def test_a_file_of_weights():
    recipe, reasons = choose_recipe(facts(), CPU, weights="mine.pt")
    assert (recipe.model, recipe.weights) == ("resnet18_imagenet", "mine.pt")
    assert "the weights in mine.pt" in reasons[0]


@pytest.mark.parametrize(
    ("size", "pixels"),
    [((32, 32), 32), ((28, 28), 32), ((16, 20), 32), ((50, 48), 48), ((64, 64), 64), ((500, 63), 64)],
)
def test_small_images_are_seen_at_their_size(size, pixels):
    recipe, reasons = choose_recipe(facts(size=size), CPU)
    assert (recipe.model, recipe.weights, recipe.geometry, recipe.image_size) == ("resnet18", "none", "resize", pixels)
    assert recipe.crop_padding == pixels // 8
    assert "because the images are small" in reasons[0]


def test_long_images_lose_their_ends_and_that_is_said():
    recipe, reasons = choose_recipe(facts(size=(800, 400)), CPU)
    assert recipe.geometry == "center_crop"
    assert "which shows 44% of images as long as these" in reasons[1]  # half of them, of that 224/256
    assert "shows" not in choose_recipe(facts(), CPU)[1][1]


@pytest.mark.parametrize(
    ("count", "device", "weights", "epochs"),
    [
        (100, CPU, "imagenet", 15),
        (300, CPU, "imagenet", 8),
        (5_000, CPU, "imagenet", 5),
        (100, GPU, "imagenet", 20),
        (3_000, GPU, "imagenet", 10),
        (50_000, GPU, "imagenet", 8),
        (40, CPU, "none", 60),
        (320, CPU, "none", 30),
        (5_000, CPU, "none", 15),
    ],
)
def test_fewer_epochs_for_more_images(count, device, weights, epochs):
    recipe, _ = choose_recipe(facts(train=(count // 2, count // 2)), device, weights=weights)
    assert recipe.epochs == epochs


@settings(deadline=None, max_examples=200)
@given(first=st.integers(1, 20_000), second=st.integers(1, 20_000), weights=st.sampled_from(("none", "imagenet")))
def test_no_batch_of_a_single_image(first, second, weights):
    recipe, _ = choose_recipe(facts(train=(first, second)), CPU, weights=weights)
    assert (first + second) % recipe.batch_size != 1
    assert 2 <= recipe.batch_size <= 64
    assert (recipe, _) == choose_recipe(facts(train=(first, second)), CPU, weights=weights), "the same facts, the same"


def test_an_odd_batch_size_is_explained():
    recipe, reasons = choose_recipe(facts(train=(32, 33)), CPU)
    assert recipe.batch_size == 31
    assert reasons[4] == "batch size: 31, not 32, so that no batch has a single image, that is 3 steps an epoch"


def test_nothing_can_be_read():
    with pytest.raises(ValueError, match="No image of pets can be read"):
        choose_recipe(facts(size=(0, 0), unreadable=("a.jpg: an empty file",)), CPU)


def test_the_named_recipes_can_be_taken_as_they_are():
    assert recipes["photos"].weights == "imagenet"
    assert recipes["photos-small"].weights == "none"
