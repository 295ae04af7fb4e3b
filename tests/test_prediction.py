"""Predictions for image files, by a network whose answers are known by arithmetic."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evalib.prediction import Prediction, Predictions, image_paths, predict_files
from evalib.transforms import Geometry

ABOUT = SimpleNamespace(
    classes=("red", "green", "blue"),
    mean=(0.25, 0.5, 0.5),
    std=(0.5, 0.25, 0.5),
    image_size=8,
    geometry=Geometry(),
)


class MeanColor(nn.Module):
    """Logits are the mean of each channel of the normalized image; notes how many images it saw at a time."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(tuple(images.shape))
        return self.scale * images.mean(dim=(2, 3))


def shares_of(color):
    """What `MeanColor` gives for an image of one color."""
    logits = (np.array(color) / 255 - ABOUT.mean) / ABOUT.std
    return np.exp(logits) / np.exp(logits).sum()


COLORS = {"a.png": (250, 10, 20), "b.jpg": (10, 240, 30), "c.gif": (0, 0, 250)}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my photos"
    root.mkdir()
    for index, (name, color) in enumerate(COLORS.items()):
        Image.new("RGB", (20 + index, 30), color).save(root / name)
    return root


def test_the_most_probable_classes_with_their_probabilities(folder):
    model = MeanColor().train()
    predictions = predict_files(model, ABOUT, folder)
    assert [image.name for image in predictions.images] == [str(folder / name) for name in COLORS]
    for image, color in zip(predictions.images, COLORS.values(), strict=True):
        shares = shares_of(color)
        order = (-shares).argsort()
        assert image.classes == tuple(ABOUT.classes[index] for index in order)
        np.testing.assert_allclose(image.probabilities, shares[order], atol=0.02)  # b.jpg and c.gif are not exact
        assert image.reason == ""
    assert [image.classes[0] for image in predictions.images] == ["red", "green", "blue"]
    assert model.seen == [(3, 3, 8, 8)], "one batch, of the network's input size"
    assert model.training, "the model is left as it was found"
    assert model.scale.grad is None
    assert predictions.skipped == ()


def test_top(folder):
    (best,) = predict_files(MeanColor(), ABOUT, folder / "a.png", top=1).images
    assert best.classes == ("red",)
    (all_of_them,) = predict_files(MeanColor(), ABOUT, str(folder / "a.png"), top=9).images
    assert len(all_of_them.classes) == 3
    assert sum(all_of_them.probabilities) == pytest.approx(1)
    with pytest.raises(ValueError, match="`top` needs at least 1 class: got 0"):
        predict_files(MeanColor(), ABOUT, folder, top=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_files_are_skipped_and_named_the_others_keep_their_place(folder, workers):
    (folder / "aa.jpg").write_bytes(b"<html>404</html>")
    (folder / "b2.tif").write_bytes(b"")
    model = MeanColor()
    predictions = predict_files(model, ABOUT, [folder, folder / "none.png"], batch_size=2, workers=workers)
    found = [(os.path.basename(image.name), *image.classes[:1]) for image in predictions.images]
    assert found == [("a.png", "red"), ("aa.jpg",), ("b.jpg", "green"), ("b2.tif",), ("c.gif", "blue"), ("none.png",)]
    assert [image.reason for image in predictions.skipped] == [
        "no JPEG, PNG, GIF, BMP, WEBP, TIFF file that can be identified; it begins with b'<html>404</html>'",
        "an empty file",
        "No such file or directory",
    ]
    assert [shape[0] for shape in model.seen] == [1, 1, 1]
    lines = str(predictions).splitlines()
    assert len(lines) == 7
    assert lines[0].startswith(f"{folder / 'a.png'}  red {shares_of(COLORS['a.png'])[0]:.1%}, ")
    assert lines[3] == f"{folder / 'b2.tif'}  skipped: an empty file"
    names = ", ".join(str(folder / name) for name in ("aa.jpg", "b2.tif", "none.png"))
    assert lines[6] == f"3 of 6 skipped: {names}"


def test_a_batch_without_an_image_is_not_shown_to_the_network(folder):
    model = MeanColor()
    predictions = predict_files(model, ABOUT, [folder / "1.png", folder / "2.png", folder / "a.png"], batch_size=2)
    assert [len(image.classes) for image in predictions.images] == [0, 0, 3]
    assert model.seen == [(1, 3, 8, 8)]


def test_what_predictions_say():
    whole = Prediction("a.png", ("red", "blue"), (0.91, 0.09))
    assert str(Predictions((whole,))) == "a.png  red 91.0%, blue 9.0%"
    bad = [Prediction(f"{number}.png", reason="an empty file") for number in range(12)]
    assert str(Predictions((bad[0],))) == "0.png  skipped: an empty file"
    assert (Predictions((bad[0],)).summary, Predictions((whole, whole)).summary) == ("", "")
    said = str(Predictions((*bad, whole))).splitlines()
    assert said[-1] == f"12 of 13 skipped: {', '.join(f'{number}.png' for number in range(10))}, ..."
    assert len(said) == 14


def test_a_folder_stands_for_its_image_files(folder):
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "deep" / "er" / "D.JPEG")
    (folder / "x.jpg").mkdir()
    (folder / "x.jpg" / "inside.png").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "e.png").write_bytes(b"")
    (folder / "deep" / "loop").symlink_to(folder, target_is_directory=True)
    found = [str(path.relative_to(folder)) for path in image_paths([folder])]
    assert found == ["a.png", "b.jpg", "c.gif", os.path.join("deep", "er", "D.JPEG"), "x.jpg"]
    predictions = predict_files(MeanColor(), ABOUT, folder)
    assert [image.reason for image in predictions.images] == ["", "", "", "", "a folder"]
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"There is no image \(\.jpg, .*\) in the folder .*empty"):
        predict_files(MeanColor(), ABOUT, folder / "empty")


def test_named_files_are_tried_whatever_their_suffix(folder):
    (folder / "a.png").rename(folder / "photo")
    (image,) = predict_files(MeanColor(), ABOUT, [folder / "photo"]).images
    assert image.classes[0] == "red"


def test_the_geometry_of_the_network(tmp_path):
    """ "center_crop" sees the middle alone."""
    pixels = np.full((10, 40, 3), (0, 0, 255), dtype=np.uint8)
    pixels[:, 15:25] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "strip.png")
    about = SimpleNamespace(**{**vars(ABOUT), "geometry": Geometry("center_crop", 8)})
    (image,) = predict_files(MeanColor(), about, tmp_path / "strip.png").images
    np.testing.assert_allclose(image.probabilities[0], shares_of((255, 0, 0))[0], atol=0.02)
    (image,) = predict_files(MeanColor(), ABOUT, tmp_path / "strip.png").images
    np.testing.assert_allclose(image.probabilities[0], max(shares_of((63.75, 0, 191.25))), atol=0.02)


def test_names_are_printable(tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"")
    said = str(predict_files(MeanColor(), ABOUT, tmp_path))
    assert len(said.splitlines()) == 1
    assert "two\\nlines.png  skipped: an empty file" in said
