"""A folder to a trained and explained network, on tiny pictures that a network can tell apart by their color."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from evalib import own_images
from evalib.checkpoint import load_model
from evalib.cli import main
from evalib.data.origins import data_of
from evalib.download import DownloadError
from evalib.engine import Evaluation
from evalib.imagenet_networks import resnet18_imagenet
from evalib.metrics import wilson_interval
from evalib.own_images import describe_result, find_weights, plan_folder, train_folder
from evalib.recipes import recipes


@pytest.fixture
def folder(tmp_path):
    """Two classes, 10 noisy pictures each of 36 x 32 pixels: reddish and bluish."""
    generator = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        for index in range(10):
            pixels = generator.integers(0, 120, (32, 36, 3), dtype=np.uint8)
            pixels[..., channel] += 130
            path = tmp_path / "colors" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "colors"


@pytest.fixture
def photos(tmp_path):
    """Two classes of 5 photos of 100 x 80 pixels, each of one color."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(5):
            path = tmp_path / "pets" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 80), (200 * label, 20 * index, 90)).save(path)
    return tmp_path / "pets"


@pytest.fixture
def offline(monkeypatch):
    """No weights, no network; counts how often that was tried."""
    tried = []

    def fail():
        tried.append(1)
        raise DownloadError(
            "`resnet18.pth` could not be downloaded. Every mirror failed:\n  - http://x\n      no answer"
        )

    monkeypatch.setattr(own_images, "imagenet_weights", fail)
    return tried


# --- planning ---------------------------------------------------------------------------------------


def test_a_plan_says_what_it_found_and_why(folder, offline):
    plan = plan_folder(folder)
    assert (plan.recipe.name, plan.recipe.image_size, plan.recipe.geometry) == ("photos-small", 32, "resize")
    assert (len(plan.data.train), len(plan.data.test), plan.data.image_size) == (16, 4, 32)
    assert offline == [], "small images need no weights, so none are looked for"
    text = str(plan)
    assert "colors: 20 images of 2 classes" in text
    assert all(reason in text for reason in plan.reasons)
    assert len(plan.reasons) == 5


def test_photos_without_a_network_get_a_plain_note(photos, offline):
    plan = plan_folder(photos)
    assert (plan.recipe.name, plan.recipe.weights, len(offline)) == ("photos-small", "none", 1)
    (note,) = plan.notes
    for part in ("could not be downloaded (no answer)", "expect less of it", "resnet18-f37072fd.pth", "--weights"):
        assert part in note
    assert f"note: {note}" in str(plan)


def test_photos_with_weights(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(own_images, "imagenet_weights", lambda: tmp_path / "there.pth")
    plan = plan_folder(photos)
    assert (plan.recipe.name, plan.recipe.weights, plan.notes) == ("photos", "imagenet", ())
    assert (plan.data.geometry.kind, plan.data.image_size) == ("center_crop", 224)
    assert find_weights("mine.pt") == ("mine.pt", ())


def test_changes_are_taken_and_told(folder):
    plan = plan_folder(folder, changes={"epochs": 2, "image_size": 48, "seed": 7, "lr": None})
    assert (plan.recipe.epochs, plan.recipe.image_size, plan.recipe.crop_padding, plan.recipe.seed) == (2, 48, 6, 7)
    assert plan.data.image_size == 48
    assert {"epochs: 2, as asked for", "image size: 48, as asked for", "seed: 7, as asked for"} <= set(plan.reasons)
    same = plan_folder(folder, changes={"image_size": 48})
    assert plan.data.test.images.files == same.data.test.images.files, "the seed is that of the training"


def test_a_named_recipe_is_fitted_to_the_folder(folder):
    plan = plan_folder(folder, recipe="demo")
    assert (plan.recipe.geometry, plan.recipe.image_size, plan.recipe.width) == ("resize", 32, 16)
    assert plan.reasons[0] == "as asked for"
    assert plan_folder(folder, recipe=recipes["demo"].replace(batch_size=15)).recipe.batch_size == 14
    with pytest.raises(ValueError, match="Unknown recipe 'dem'"):
        plan_folder(folder, recipe="dem")


def test_damaged_images_are_skipped_unless_told(folder):
    (folder / "red" / "bad.jpg").write_bytes(b"<html>")
    plan = plan_folder(folder)
    assert len(plan.data.skipped) == 1
    assert "cannot be read, 1:\n  red/bad.jpg" in str(plan)
    with pytest.raises(ValueError, match="1 of 21 images of .* cannot be decoded"):
        plan_folder(folder, damaged="stop")


# --- training ---------------------------------------------------------------------------------------


def test_a_folder_to_an_explained_run(folder, tmp_path):
    run = train_folder(
        folder, tmp_path / "run", recipe=recipes["photos-small"].replace(width=8, whitening=False), epochs=6
    )
    assert run.evaluation.accuracy == 1, "red from blue"
    assert set(run.figures) >= {"samples", "curves", "confusion"}
    assert all(path.exists() for path in run.figures.values())
    assert len(run.history.epochs) == 6
    assert str(run).startswith("test accuracy 100.0%: 4 of 4 images (95 % interval 51% to 100%)\nalways naming 'blue'")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["epochs"] == 6

    again = train_folder(folder, tmp_path / "run")  # by the recipe that it began with, though another would be chosen
    assert len(again.history.epochs) == 6
    assert torch.equal(again.evaluation.logits, run.evaluation.logits)
    assert again.plan.reasons == (f"that of the run in {tmp_path / 'run'}, which continues",)

    _, checkpoint = load_model(tmp_path / "run" / "last.pt")
    assert (checkpoint.origin.kind, checkpoint.geometry.image_size) == ("folder", 64)
    data = data_of(checkpoint)
    assert data.test.images.files == run.data.test.images.files
    assert torch.equal(data.train.images[:], run.data.train.images[:])

    shutil.copy(folder / "red" / "0.png", folder / "red" / "new.png")
    with pytest.raises(ValueError, match=r"The folder colors has changed since .* on 16 images of it: now 17 would be"):
        data_of(checkpoint)
    assert len(data_of(checkpoint, kind="folder").train) == 17
    with pytest.raises(ValueError, match="holds another run"):
        train_folder(folder, tmp_path / "run")


def test_the_run_must_not_lie_among_the_images(folder):
    with pytest.raises(ValueError, match="`run_dir` must lie outside the folder of images"):
        train_folder(folder, folder / "run", epochs=1)
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == ["blue", "red"]


def evaluation(correct, count):
    labels = torch.zeros(count, dtype=torch.int64)
    logits = torch.tensor([[1.0, 0.0]] * correct + [[0.0, 1.0]] * (count - correct))
    return Evaluation(0.5, correct / count, logits, labels)


def test_the_result_beside_what_costs_nothing(folder):
    facts = plan_folder(folder).facts
    low, high = wilson_interval(30, 40)
    text = describe_result(evaluation(30, 40), facts)
    assert text.splitlines() == [
        f"test accuracy 75.0%: 30 of 40 images (95 % interval {low:.0%} to {high:.0%})",
        "always naming 'blue' would be right for 50.0%",
    ]
    assert describe_result(evaluation(24, 40), facts).splitlines()[2].startswith("That is not clearly more")


# --- the command line -------------------------------------------------------------------------------


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "red" / "bad.jpg").write_bytes(b"<html>")
    shutil.copy(folder / "red" / "0.png", folder / "blue" / "liar.png")
    assert main(["train", "folder", "colors", "--epochs", "1", "--width", "8", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    order = [
        "colors: 22 images of 2 classes", "always naming", "the same image in two classes, so one label is wrong: 1",
        "recipe photos-small", "model: our ResNet18", "epochs: 1, as asked for",
        "skipped 1 of 22 images:\n  red/bad.jpg", "epoch  1/1", "\ntest accuracy", "figures", "95 % interval", "next:",
        *(f"  evalib {words}" for words in (
            "report runs/colors-seed1", "app runs/colors-seed1", "predict runs/colors-seed1 photo.jpg"
        )),
    ]  # fmt: skip
    places = [text.find(part) for part in order]
    assert -1 not in places, (order[places.index(-1)], text)
    assert places == sorted(places)

    assert main(["train", "folder", "colors", "--device", "cpu"]) == 0
    assert "that of the run in runs/colors-seed1, which continues" in capsys.readouterr().out
    assert main(["eval", "runs/colors-seed1", "--device", "cpu"]) == 0
    assert "on 4 images of colors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folder"], "Name the folder of your images: `evalib train folder DIR`"),
        (["sample", "colors"], "Name the folder of your images"),
        (["folder", "nowhere"], "There is no folder nowhere"),
        (["folder", "colors", "--test-fraction", "1.5"], r"`test_fraction` must lie in (0, 1): got 1.5"),
        (["folder", "colors", "--damaged", "stop"], "1 of 21 images of colors cannot be decoded"),
        (["folder", "colors", "--weights", "no.pt", "--recipe", "photos"], "there is no file no.pt"),
    ],
)
def test_wrong_words_are_one_line(words, message, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "red" / "bad.jpg").write_bytes(b"<html>")
    assert main(["train", *words, "--device", "cpu", "--epochs", "1"]) == 1
    assert message in capsys.readouterr().err


def test_weights_of_a_file_on_the_command_line(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(resnet18_imagenet(1000).state_dict(), "mine.pt")
    words = ["--weights", "mine.pt", "--image-size", "64", "--epochs", "1", "--device", "cpu"]
    assert main(["train", "folder", "pets", *words]) == 0
    text = capsys.readouterr().out
    assert "torchvision's ResNet18 with the weights in mine.pt" in text
    assert "resnet18_imagenet: 11,177,538 parameters, weights: mine.pt" in text
    model, checkpoint = load_model(tmp_path / "runs" / "pets-seed1" / "last.pt")
    assert (checkpoint.recipe.model, checkpoint.image_size, model.fc.out_features) == ("resnet18_imagenet", 64, 2)
