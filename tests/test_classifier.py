"""`evalib.load(...).predict(...)`, beside the network asked by hand."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image

import evalib
from evalib.checkpoint import Checkpoint, save_checkpoint
from evalib.classifier import Classifier, load
from evalib.data import sources
from evalib.explain import explain
from evalib.image_prediction import ImagePrediction
from evalib.prediction import Predictions
from evalib.recipes import recipes
from evalib.remote_images import RemoteImageError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
PIXELS = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def classifier(tiny_model):
    recipe = recipes["demo"].replace(width=8)
    about = Checkpoint(tiny_model.state_dict(), recipe, ("ant", "bee", "Cow"), MEAN, STD, 32, "tiny", 3)
    return Classifier(tiny_model.eval(), about)


def by_hand(model):
    """Probabilities of `PIXELS`, and the images as the network wants them."""
    images = ((torch.from_numpy(PIXELS) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images).softmax(dim=1)[0], images


def test_probabilities_and_map_are_those_of_the_network(classifier):
    shares, images = by_hand(classifier.model)
    found = classifier.predict(PIXELS, top=2)
    order = shares.argsort(descending=True)
    assert found.classes == tuple(classifier.classes[index] for index in order[:2])
    np.testing.assert_allclose(found.probabilities, shares[order[:2]], atol=1e-6)
    torch.testing.assert_close(found.all_probabilities, shares)
    np.testing.assert_array_equal(found.image.permute(1, 2, 0), PIXELS)
    expected = explain(classifier.model, images, "layer4", int(order[0]))[0, 0]
    torch.testing.assert_close(found.cam, expected)
    assert (found.explained, found.layer, found.method) == (found.classes[0], "layer4", "grad_cam")
    assert found.name == "the array (32, 32, 3)"


@pytest.mark.parametrize(
    ("method", "layer", "said"),
    [("layer_cam", "layer2", "layer2"), ("score_cam", None, "layer4"), ("cam", "layer1", "layer4"),
     ("full_grad", None, "all layers"), ("refine_cam", None, "all layers"), ("hires_cam", "layer3.0.conv1", None)],
)  # fmt: skip
def test_a_class_a_layer_and_a_method_of_ones_choice(classifier, method, layer, said):
    _, images = by_hand(classifier.model)
    found = classifier.predict(PIXELS, class_name="cow", method=method, layer=layer)
    layers = None if said == "all layers" else said or layer
    torch.testing.assert_close(found.cam, explain(classifier.model, images, layers, 2, method=method)[0, 0])
    assert (found.explained, found.layer, found.method) == ("Cow", said or layer, method)


def test_the_network_is_asked_once_and_left_as_it_was(classifier):
    model = classifier.model.train()
    model.layer2.eval()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    calls = []
    hook = model.register_forward_hook(lambda *arguments: calls.append(1))
    for cam in (True, False):
        classifier.predict(PIXELS, cam=cam)
    hook.remove()
    assert calls == [1, 1]
    assert [module.training for module in model.modules()] == modes
    assert (model.conv1.weight.grad == 1).all()
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_map_where_none_is_wanted(classifier):
    found = classifier.predict(PIXELS, cam=False)
    assert isinstance(found, ImagePrediction)
    assert (found.cam, found.layer, found.explained) == (None, "", "")
    torch.testing.assert_close(found.all_probabilities, by_hand(classifier.model)[0])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(PIXELS).save(folder / "a.png")
    Image.fromarray(255 - PIXELS).save(folder / "b.png")
    (folder / "c.jpg").write_bytes(b"<html>")
    return folder


def test_a_folder_gives_predictions_without_maps(classifier, photos):
    found = classifier.predict(photos)
    assert isinstance(found, Predictions)
    assert [image.name for image in found.images] == [str(photos / name) for name in ("a.png", "b.png", "c.jpg")]
    assert not any(isinstance(image, ImagePrediction) for image in found.images)
    assert "it begins with b'<html>'" in found.skipped[0].reason
    single = classifier.predict(str(photos / "a.png"))
    assert found.images[0].classes == single.classes
    np.testing.assert_allclose(found.images[0].probabilities, single.probabilities, atol=1e-6)


def test_a_folder_with_maps(classifier, photos):
    found = classifier.predict(str(photos), cam=True, method="layer_cam")
    assert [isinstance(image, ImagePrediction) for image in found.images] == [True, True, False]
    torch.testing.assert_close(found.images[1].cam, classifier.predict(255 - PIXELS, method="layer_cam").cam)
    assert [image.name for image in found.skipped] == [str(photos / "c.jpg")]


def test_a_list_of_anything_keeps_its_order(classifier, photos, monkeypatch):
    def fetch(url):
        if "none" in url:
            raise RemoteImageError(url, "HTTP 404 Not Found")
        stream = io.BytesIO()
        Image.fromarray(PIXELS).save(stream, "PNG")
        return stream.getvalue()

    monkeypatch.setattr(sources, "fetch_image", fetch)
    listed = [photos / "b.png", "https://host/a.png?k=1", PIXELS, "https://host/none.png", photos, PIXELS / 255]
    for cam in (False, True):
        found = classifier.predict(listed, cam=cam)
        names = ["b.png", "a.png?...", "the array (32, 32, 3)", "none.png", "a.png", "b.png", "c.jpg"]
        assert [image.name.rpartition("/")[2] for image in found.images] == [*names, "the array (32, 32, 3)"]
        assert [bool(image.reason) for image in found.images] == [False, False, False, True, False, False, True, True]
        assert found.images[3].reason == "HTTP 404 Not Found"
        assert found.images[7].reason.startswith("Pixels need to be uint8")
        assert found.images[1].probabilities == pytest.approx(found.images[2].probabilities)
    with pytest.raises(TypeError, match="got int"):
        classifier.predict([PIXELS, 3])


def test_maps_of_many_images_come_one_after_the_other(classifier):
    """So many that all of them at once would be asked for in vain: the second one is never read."""

    def endless():
        yield PIXELS
        raise AssertionError("read too far")

    first = next(classifier.predict_each(endless(), cam=True))
    torch.testing.assert_close(first.cam, classifier.predict(PIXELS).cam)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "`top` needs at least 1 class: got 0"),
        ({"method": "gradcam"}, "`method` needs one of 'grad_cam'.*got 'gradcam'"),
        ({"class_name": "be"}, "There is no class 'be'. Did you mean: bee"),
        ({"layer": "layer9"}, "layer9"),
    ],
)
def test_wrong_words(classifier, settings, message, photos):
    with pytest.raises(ValueError, match=message):
        classifier.predict(PIXELS, **settings)
    if "layer" not in settings:
        with pytest.raises(ValueError, match=message):
            classifier.predict([photos], **settings)


def test_damaged_and_missing_images_are_errors_of_their_own(classifier, photos):
    with pytest.raises(ValueError, match=r"Cannot decode the image .*c\.jpg"):
        classifier.predict(photos / "c.jpg")
    with pytest.raises(FileNotFoundError, match=r"There is no image file none\.png"):
        classifier.predict("none.png")


def test_load(tmp_path, classifier):
    save_checkpoint(tmp_path / "last.pt", classifier.checkpoint)
    for path in (tmp_path, str(tmp_path / "last.pt")):
        found = evalib.load(path, "cpu")
        assert not found.model.training
        assert found.classes == ("ant", "bee", "Cow")
        assert found.layers == ("layer0", "layer1", "layer2", "layer3", "layer4")
        assert found.device.type == "cpu"
        assert found.predict(PIXELS).probabilities == pytest.approx(classifier.predict(PIXELS).probabilities)
    assert evalib.load is load
    with pytest.raises(ValueError, match="Device 'abacus' is not available"):
        load(tmp_path, "abacus")
