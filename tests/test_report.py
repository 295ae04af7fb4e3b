"""The figures of a run: which are written, and what their titles say."""

import pytest
import torch
from PIL import Image

from evalib.engine import Evaluation
from evalib.history import EpochRecord, History
from evalib.mistakes import find_mistakes
from evalib.report import explain_file, explain_mistakes, explain_test_images, write_figures


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
    figure, probabilities = explain_file(tiny_model, tiny_data, tmp_path / "photo.png")
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    assert f"predicted {tiny_data.classes[int(probabilities.argmax())]}" in texts(figure)
    with pytest.raises(FileNotFoundError, match="There is no image file"):
        explain_file(tiny_model, tiny_data, tmp_path / "none.png")
