"""The figures of a run: which are written, and what their titles say."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from evalib.data.decoding import decode_image
from evalib.engine import Evaluation, fit
from evalib.explain import explain
from evalib.history import EpochRecord, History
from evalib.mistakes import find_mistakes
from evalib.models import model_for
from evalib.plots import overlay_cam
from evalib.recipes import recipes
from evalib.report import (
    explain_image,
    explain_mistakes,
    explain_test_images,
    explain_with_runs,
    read_image,
    write_explanation,
    write_figures,
)
from evalib.transforms import normalize


def evaluation_of(labels, predictions, num_classes=3):
    logits = torch.nn.functional.one_hot(torch.as_tensor(predictions), num_classes).float() * 2
    labels = torch.as_tensor(labels)
    return Evaluation(0.5, (logits.argmax(1) == labels).double().mean().item(), logits, labels)


@pytest.fixture
def evaluation(tiny_data):
    labels = tiny_data.test.labels
    return evaluation_of(labels, (labels + (torch.arange(12) < 5)) % 3)  # the first five are wrong


def texts(figure):
    return " | ".join(text.get_text() for axes in figure.axes for text in [axes.title, axes.yaxis.label, *axes.texts])


def test_all_figures_of_a_run(tiny_model, tiny_data, evaluation, tmp_path):
    history = History([EpochRecord(1, 1.0, 0.5, 1.1, 0.4, 2.0, 100.0, 0.1)])
    files = write_figures(tmp_path, tiny_model, tiny_data, evaluation, history=history, count=3)
    assert sorted(files) == ["cam", "confusion", "curves", "mistakes", "samples"]
    for path in files.values():
        extremes = Image.open(path).convert("L").getextrema()
        assert extremes[1] - extremes[0] > 100, f"{path.name} is blank"


def test_a_perfect_network_has_no_gallery(tiny_model, tiny_data, tmp_path):
    labels = tiny_data.test.labels
    files = write_figures(tmp_path, tiny_model, tiny_data, evaluation_of(labels, labels))
    assert sorted(files) == ["confusion", "samples"]


def test_each_mistake_has_a_row_for_the_predicted_and_one_for_the_true_class(tiny_model, tiny_data, evaluation):
    mistakes = find_mistakes(evaluation).head(2)
    figure = explain_mistakes(tiny_model, tiny_data, mistakes)
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 2 * 2 * (1 + 5)
    found = texts(figure)
    for name in ("layer0", "layer4", "predicted bee", "true ant", "predicted cow", "true bee"):
        assert name in found


def test_the_maps_are_of_the_chosen_method(tiny_model, tiny_data, monkeypatch):
    given = {}

    def plot_cams(images, cams, layer_names, row_titles):
        given.update(cams=cams, layer_names=layer_names)

    monkeypatch.setattr("evalib.plots.plot_cams", plot_cams)
    images = normalize(tiny_data.test.images[[4]], tiny_data.mean, tiny_data.std)
    for method in ("grad_cam", "layer_cam", "cam"):
        explain_test_images(tiny_model, tiny_data, [4], method=method)
        predicted = explain(tiny_model, images, method=method)
        torch.testing.assert_close(given["cams"][:, :1], predicted)
        assert len(given["layer_names"]) == len(predicted)
        one = explain_image(tiny_model, tiny_data.test.images[4], tiny_data, method=method)
        torch.testing.assert_close(one.cam, predicted[-1, 0])
    assert given["layer_names"] == ["layer4"]
    with pytest.raises(ValueError, match="'layer_cam'.*got 'layercam'"):
        explain_test_images(tiny_model, tiny_data, [4], method="layercam")


def test_no_mistake_is_an_error(tiny_model, tiny_data):
    labels = tiny_data.test.labels
    with pytest.raises(ValueError, match="No misclassified image to explain"):
        explain_mistakes(tiny_model, tiny_data, find_mistakes(evaluation_of(labels, labels)))


def test_chosen_images(tiny_model, tiny_data):
    figure = explain_test_images(tiny_model, tiny_data, [4, 0])
    assert "true bee" in texts(figure)
    assert "true ant" in texts(figure)
    for indices in ([], [12], [-1]):
        with pytest.raises(ValueError, match=r"`indices` must name at least one test image in 0..11"):
            explain_test_images(tiny_model, tiny_data, indices)


def test_an_image_file_of_any_size(tiny_model, tiny_data, tmp_path):
    Image.new("RGB", (57, 91), (200, 30, 60)).save(tmp_path / "photo.png")
    pixels = read_image(tmp_path / "photo.png", tiny_data)
    assert pixels.shape == (3, 32, 32)
    explanation = explain_image(tiny_model, pixels, tiny_data)
    assert explanation.probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    assert explanation.class_idx == explanation.predicted == int(explanation.probabilities.argmax())
    assert (explanation.image * 255 - pixels).abs().max() < 1e-3, "what is shown is not what the network saw"
    with pytest.raises(FileNotFoundError, match="There is no image file"):
        read_image(tmp_path / "none.png", tiny_data)


def test_the_map_of_any_class_by_its_name(tiny_model, tiny_data):
    pixels = tiny_data.test.images[0]
    maps = [explain_image(tiny_model, pixels, tiny_data, class_name=name) for name in ("ant", "BEE", "cow")]
    assert [found.class_idx for found in maps] == [0, 1, 2]
    assert not torch.equal(maps[0].cam, maps[1].cam), "the map does not depend on the class"
    with pytest.raises(ValueError, match=r"There is no class 'ants'. Did you mean: ant"):
        explain_image(tiny_model, pixels, tiny_data, class_name="ants")


def test_the_written_pictures_are_the_input_and_the_overlay(tiny_model, tiny_data, tmp_path):
    explanation = explain_image(tiny_model, tiny_data.test.images[3], tiny_data)
    paths = write_explanation(explanation, tmp_path / "new" / "out.png")
    assert [path.name for path in paths] == ["out.png", "out_cam.png"]
    photo, overlay = (decode_image(path, path.name).astype(int) for path in paths)
    assert np.array_equal(photo, tiny_data.test.images[3].permute(1, 2, 0).numpy())
    expected = np.round(overlay_cam(explanation.image, explanation.cam) * 255)
    assert np.abs(overlay - expected).max() <= 1


def test_the_same_images_through_several_runs(tiny_data, tmp_path):
    recipe = recipes["demo"].replace(width=8, epochs=1, batch_size=8, precision="float32")
    folders = {}
    for name, changed in (("whole", recipe), ("middle", recipe.replace(geometry="center_crop", image_size=40))):
        model = model_for(changed, 3)
        fit(model, tiny_data.prepared_for(changed), changed, run_dir=tmp_path / name, progress=False)
        folders[name] = tmp_path / name
    figure = explain_with_runs(folders, tiny_data, [2, 5])
    pictures = [axes.images[0].get_array().shape[:2] for axes in figure.axes if axes.images]
    assert pictures == [(32, 32), (32, 32), (40, 40)] * 2
    assert "true: cow" in texts(figure)
    assert "middle" in texts(figure)
    other = dataclasses.replace(tiny_data, classes=("ant", "bee", "dog"))
    with pytest.raises(ValueError, match="was trained on other classes"):
        explain_with_runs(folders, other, [2])
    with pytest.raises(ValueError, match=r"at least one test image in 0..11"):
        explain_with_runs(folders, tiny_data, [12])
