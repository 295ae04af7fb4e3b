"""What the page computes, beside the network asked by hand. Nothing here needs gradio."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import make_run

from evalib import app_state, contrast
from evalib.app_state import (
    CONTRAST_METHODS,
    METHOD_WORDS,
    chosen_mistakes,
    class_choices,
    explain_choice,
    explain_mistake,
    layer_choices,
    load_state,
    method_choices,
    mistake_choices,
    thumbnails,
)
from evalib.explain import METHODS, explain
from evalib.image_prediction import ImagePrediction
from evalib.transforms import normalize

CLASSES = ("ant", "bee", "cow")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("state"), CLASSES)


@pytest.fixture(scope="module")
def state(run):
    return load_state(run, device="cpu")


def pixels_of(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def inputs_of(state, pixels):
    about = state.classifier.checkpoint
    return normalize(pixels, about.mean, about.std)


def test_a_choice_is_what_the_network_says(state, run):
    path = run.parent / "photos" / "test" / "bee" / "3.png"
    found = explain_choice(state, path, "cow", "layer2", "layer_cam", top=2)
    images = inputs_of(state, pixels_of(path)[None])
    with torch.no_grad():
        shares = state.classifier.model(images).softmax(dim=1)[0]
    order = shares.argsort(descending=True)
    assert isinstance(found, ImagePrediction)
    assert found.classes == tuple(CLASSES[index] for index in order[:2])
    np.testing.assert_allclose(found.probabilities, shares[order[:2]], atol=1e-6)
    expected = explain(state.classifier.model, images, "layer2", 2, method="layer_cam")[0, 0]
    torch.testing.assert_close(found.cam, expected)
    assert (found.explained, found.layer, found.method) == ("cow", "layer2", "layer_cam")
    assert found.overlay().shape == (32, 32, 3)
    plain = explain_choice(state, path)
    assert (plain.explained, plain.layer, plain.method) == (plain.classes[0], "layer4", "grad_cam")
    assert class_choices(state, found.all_probabilities) == [
        (f"{CLASSES[index]}  \u00b7  {100 * shares[index]:.1f} %", CLASSES[index]) for index in order
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("notes.txt", b"dear diary", "it begins with b'dear diary'"), ("empty.png", b"", "empty")],
)
def test_a_file_that_is_no_image_is_named_without_its_folder(state, tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name} cannot be read as an image: .*{reason}") as caught:
        explain_choice(state, tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


def test_half_an_image_is_refused(state, run, tmp_path):
    whole = (run.parent / "photos" / "test" / "bee" / "3.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="half.png cannot be read"):
        explain_choice(state, tmp_path / "half.png")


def test_every_method_has_its_words():
    assert list(METHOD_WORDS) == list(METHODS)
    assert set(CONTRAST_METHODS) == set(contrast.METHODS)
    assert all(label and words.endswith(".") and "\n" not in words for label, words in METHOD_WORDS.values())
    assert len({label for label, _ in METHOD_WORDS.values()}) == len(METHODS)
    assert method_choices(("cam",)) == [("Classic CAM", "cam")]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_map(state, run, method):
    found = explain_choice(state, run.parent / "photos" / "test" / "ant" / "0.png", "ant", "layer3", method)
    assert found.cam is not None
    assert found.layer == {"cam": "layer4", "refine_cam": "all layers", "full_grad": "all layers"}.get(method, "layer3")


def test_layers_are_those_of_the_network(state):
    assert [value for _, value in layer_choices(state)] == ["layer0", "layer1", "layer2", "layer3", "layer4"]
    assert [label for label, _ in layer_choices(state)][0::4] == ["layer0 (fine)", "layer4 (coarse)"]


def test_mistakes_are_all_that_the_network_gets_wrong(state, run):
    wrong = set()
    files = [(label, number) for label in range(3) for number in sorted(range(12), key=str)]
    for index, (label, number) in enumerate(files):
        pixels = pixels_of(run.parent / "photos" / "test" / CLASSES[label] / f"{number}.png")
        with torch.no_grad():
            predicted = int(state.classifier.model(inputs_of(state, pixels[None])).argmax())
        if predicted != label:
            wrong.add((index, label, predicted))
    found = state.mistakes
    columns = (found.indices.tolist(), found.true.tolist(), found.predicted.tolist())
    assert set(zip(*columns, strict=True)) == wrong
    assert found.probability.tolist() == sorted(found.probability.tolist(), reverse=True)
    for true, predicted in ((None, None), ("ant", None), (None, "cow"), ("ant", "cow"), ("", "")):
        fits = {
            index
            for index, label, other in wrong
            if true in (None, "", CLASSES[label]) and predicted in (None, "", CLASSES[other])
        }
        assert set(chosen_mistakes(state, true, predicted).indices.tolist()) == fits
    counted = {name: sum(label == CLASSES.index(name) for _, label, _ in wrong) for name in CLASSES}
    assert mistake_choices(state, "true") == [
        ("all classes", ""), *((f"{name} ({count})", name) for name, count in counted.items() if count)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="There is no class 'dog'"):
        chosen_mistakes(state, "dog")


def test_a_mistake_has_both_maps_on_one_scale(state):
    index = int(state.mistakes.indices[0])
    view = explain_mistake(state, index, "layer3", "grad_cam")
    images = inputs_of(state, view.photo[None])
    expected = contrast.contrast(
        state.classifier.model, images, view.predicted, view.true, "layer3", method="grad_cam"
    )  # fmt: skip
    torch.testing.assert_close(view.maps.cams, expected.cams)
    torch.testing.assert_close(view.maps.other_cams, expected.other_cams)
    assert view.maps.layers == ("layer3",)
    assert int(view.probabilities.argmax()) == view.predicted != view.true
    assert view.name == f"test image {index}"
    assert explain_mistake(state, index, "layer1", "cam").maps.cams.shape == (1, 1, 32, 32)
    right = set(range(36)) - set(state.mistakes.indices.tolist())
    with pytest.raises(ValueError, match="is no mistake"):
        explain_mistake(state, right.pop() if right else 99)


def test_small_images_are_enlarged_for_the_gallery(state):
    index = int(state.mistakes.indices[0])
    ((pixels, caption),) = thumbnails(state, [index])
    one = explain_mistake(state, index)
    assert pixels.shape == (160, 160, 3)
    np.testing.assert_array_equal(pixels[::5, ::5], one.photo.permute(1, 2, 0))
    assert caption == f"{CLASSES[one.predicted]}, not {CLASSES[one.true]}"


def test_data_are_read_when_the_mistakes_are_asked_for(run, tmp_path, monkeypatch):
    shutil.copytree(run.parent, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "photos" / "test")
    state = load_state(tmp_path / "moved" / "run", data_dir=tmp_path / "moved" / "photos", device="cpu")
    monkeypatch.setattr(app_state, "read_run", lambda *a, **k: pytest.fail("read too early"))
    explain_choice(state, run.parent / "photos" / "test" / "ant" / "0.png")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="The test images were not found: .*--data-dir DIR"):
        _ = state.mistakes


def test_summary_and_name(state):
    assert state.name == "run"
    assert state.summary == "ResNet18 of width 8, trained on photos, sees images of 32 \u00d7 32 pixels."
