"""Figures: what is drawn is read back from the axes and compared with the numbers that went in."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from evalib.data.image_data import CIFAR10_CLASSES, ImageData, Split
from evalib.engine import Evaluation
from evalib.history import EpochRecord, History
from evalib.mistakes import Mistakes, find_mistakes
from evalib.plots import (
    LiveCurves,
    overlay_cam,
    plot_cams,
    plot_confusion_matrix,
    plot_history,
    plot_mistakes,
    plot_samples,
    save_figure,
)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No test may leave an open figure, another backend or other settings behind, and nor may a plot."""
    settings = dict(matplotlib.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings


def history_of(epochs: int, *, val: bool = False, interrupted: bool = False) -> History:
    records = []
    for epoch in range(1, epochs + 1):
        measured = {"train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch}
        measured |= {"test_loss": 2.1 / epoch, "test_accuracy": 1 - 0.625 / epoch}
        measured |= {"val_loss": 2.2 / epoch, "val_accuracy": 1 - 0.75 / epoch} if val else {}
        records.append(EpochRecord(epoch=epoch, seconds=1.0, images_per_second=1.0, lr=0.1, **measured))
    return History(records, interrupted=interrupted)


def cifar_like(per_class: int = 3) -> ImageData:
    """Random pixels under the names of CIFAR-10, classes interleaved from last to first."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(9, -1, -1).repeat(per_class)
    images = torch.randint(0, 256, (2, len(labels), 3, 32, 32), dtype=torch.uint8, generator=generator)
    train, test = Split(images[0], labels), Split(images[1], labels)
    return ImageData("random", CIFAR10_CLASSES, train, test, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def mistakes_of(data: ImageData, count: int) -> Mistakes:
    """The first `count` test images taken for the class after their own, with 87 % of the probability."""
    logits = torch.nn.functional.one_hot(data.test.labels, data.num_classes).float()
    logits[:count] = logits[:count].roll(1, dims=1)
    logits *= math.log(0.87 / (0.13 / (data.num_classes - 1)))
    return find_mistakes(Evaluation(loss=0.0, accuracy=0.0, logits=logits, labels=data.test.labels))


def cam_figure(rows: int = 2, layers: int = 3):
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(rows, 3, 32, 32, generator=generator)
    cams = torch.rand(layers, rows, 32, 32, generator=generator)
    cams[-1, 0] = 0
    names = [f"layer{layer}" for layer in range(layers)]
    titles = [f"true cat\npredicted dog 87 %\nmap {row}" for row in range(rows)]
    return images, cams, plot_cams(images, cams, layer_names=names, row_titles=titles)


def drawn(axes) -> np.ndarray:
    """The pixels that an axes was given."""
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


# --- every figure ---------------------------------------------------------------------------------

EVERY_FIGURE: dict[str, Callable[[], object]] = {
    "history": lambda: plot_history({"eva6": history_of(20), "fast": history_of(3, val=True)}),
    "samples": lambda: plot_samples(cifar_like()),
    "mistakes": lambda: plot_mistakes(cifar_like(), mistakes_of(cifar_like(), 7)),
    "confusion": lambda: plot_confusion_matrix(torch.eye(10, dtype=torch.int64) * 1000, CIFAR10_CLASSES),
    "cams": lambda: cam_figure(rows=2, layers=3)[2],
}
every_figure = pytest.mark.parametrize("make", EVERY_FIGURE.values(), ids=EVERY_FIGURE)


@every_figure
def test_figures_are_closed_and_the_users_current_figure_stays_current(make):
    mine = plt.figure()
    try:
        figure = make()
        assert isinstance(figure, matplotlib.figure.Figure)
        assert plt.get_fignums() == [mine.number]
        assert plt.gcf() is mine
    finally:
        plt.close(mine)


@every_figure
def test_texts_do_not_overlap_and_lie_inside_the_figure(make):
    figure = make()
    figure.draw_without_rendering()
    texts = []
    for axes in [*figure.axes, *(side for one in figure.axes for side in one.child_axes)]:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high and label.get_rotation() != 45]
    texts = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert boxes
    for (first, a), (second, b) in combinations(boxes, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width <= 1 or height <= 1, f"{first!r} overlaps {second!r} by {width:.0f} x {height:.0f} pixels"
    for text, box in boxes:
        assert figure.bbox.x0 - 2 <= box.x0 <= box.x1 <= figure.bbox.x1 + 2, text
        assert figure.bbox.y0 - 2 <= box.y0 <= box.y1 <= figure.bbox.y1 + 2, text


@every_figure
def test_saved_png_shows_something(make, tmp_path):
    path = save_figure(make(), tmp_path / "deep" / "figure.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert 100 < pixels.shape[0] < 1500
    assert 300 < pixels.shape[1] < 1500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert [file.name for file in path.parent.iterdir()] == ["figure.png"]  # no temporary file stays


def test_all_images_of_a_small_dataset_are_drawn_as_square_pixels_without_a_frame():
    figures = [plot_samples(cifar_like()), plot_mistakes(cifar_like(), mistakes_of(cifar_like(), 3))]
    for axes in [axes for figure in [*figures, cam_figure()[2]] for axes in figure.axes]:
        assert axes.get_images()[0].get_interpolation() == "nearest"
        assert not any(spine.get_visible() for spine in axes.spines.values())
        assert list(axes.get_xticks()) == list(axes.get_yticks()) == []


# --- curves ---------------------------------------------------------------------------------------


def test_lines_are_the_columns_of_the_history_on_one_epoch_axis():
    history = history_of(20)
    loss, accuracy = plot_history(history).axes
    for axes, measure, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        train, test = axes.lines
        for line, split, style in ((train, "train", "--"), (test, "test", "-")):
            assert line.get_linestyle() == style
            assert list(line.get_xdata()) == list(range(1, 21))
            expected = [scale * value for value in history.column(f"{split}_{measure}")]
            assert list(line.get_ydata()) == pytest.approx(expected)
        assert train.get_color() == test.get_color()
    assert (loss.get_title(), accuracy.get_title()) == ("Loss", "Accuracy (%)")
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch"


@pytest.mark.parametrize("epochs", [1, 2, 7, 12, 13, 20, 60, 61, 200, 3000])
def test_epoch_ticks_are_whole_start_at_one_and_are_not_crowded(epochs):
    axes = plot_history(history_of(epochs)).axes[0]
    ticks = list(axes.get_xticks())
    assert ticks[0] == 1
    assert all(tick == int(tick) <= epochs for tick in ticks)
    assert len(ticks) == len(set(ticks)) <= 13
    assert epochs == 1 or len(ticks) > 1
    assert axes.get_xlim()[0] > -0.1 * epochs
    assert axes.get_xlim()[0] < 1 <= epochs < axes.get_xlim()[1]


def test_several_runs_have_a_color_and_a_name_each_and_tell_their_last_test_accuracy():
    runs = {"eva6": history_of(4), "_fast $x$": history_of(2, val=True, interrupted=True)}
    figure = plot_history(runs)
    lines = figure.axes[1].lines
    assert len(lines) == 5
    assert len({line.get_color() for line in lines}) == 2
    legend = [text.get_text().replace(r"\$", "$") for text in figure.legends[0].get_texts()]
    assert legend == [
        "train eva6",
        "test eva6: 84.38 % at epoch 4",  # 1 - 0.625 / 4 = 0.84375
        "train _fast $x$",
        "test _fast $x$: 68.75 % at epoch 2, interrupted",
        "val _fast $x$",
    ]
    assert lines[4].get_linestyle() == ":"
    assert list(lines[4].get_ydata()) == [25.0, 62.5]


def test_an_epoch_without_validation_is_a_gap():
    history = history_of(3, val=True)
    history.epochs[1] = history_of(3).epochs[1]
    values = plot_history(history).axes[0].lines[2].get_ydata()
    assert values[0] == pytest.approx(2.2)
    assert math.isnan(values[1])


def test_a_single_epoch_and_eight_runs_and_diverged_losses_can_be_drawn(tmp_path):
    for line in plot_history(history_of(1)).axes[0].lines:
        assert line.get_marker() == "o"
        assert line.get_markersize() > 0
    record = EpochRecord(1, math.nan, 0.1, math.inf, 0.1, 1.0, 1.0, 0.1)
    save_figure(plot_history({str(run): History([record]) for run in range(8)}), tmp_path / "nan.png")


def test_accuracy_axis_ends_at_100_percent():
    history = History([EpochRecord(e, 0.1, 1.0, 0.1, 0.5 * e, 1.0, 1.0, 0.1) for e in (1, 2)])
    assert 100 < plot_history(history).axes[1].get_ylim()[1] <= 101


@pytest.mark.parametrize(
    ("histories", "error", "message"),
    [
        (History(), ValueError, "needs an epoch in every run: it has none"),
        ({"a": history_of(1), "b": History()}, ValueError, "needs an epoch in every run: b has none"),
        ({}, ValueError, "at least one run: got none"),
        ([history_of(1)], TypeError, "needs a History, or several by name: got list"),
    ],
)
def test_nothing_to_plot_is_an_error(histories, error, message):
    with pytest.raises(error, match=message):
        plot_history(histories)


# --- samples and mistakes -------------------------------------------------------------------------


def test_samples_are_the_first_training_image_of_every_class_in_order():
    data = cifar_like()
    axes = plot_samples(data).axes
    assert [one.get_title() for one in axes] == list(CIFAR10_CLASSES)
    for class_idx, one in enumerate(axes):
        expected = data.train.images[9 - class_idx].permute(1, 2, 0).numpy()  # labels run 9, 8, ..., 0
        np.testing.assert_array_equal(drawn(one), expected)
    assert len({round(one.get_position().y0, 3) for one in axes}) == 1  # one row


def test_samples_show_every_class_also_the_eleventh_and_one_without_training_images():
    images = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    split = Split(images, torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]))
    classes = tuple(f"class {i}" for i in range(12))
    figure = plot_samples(ImageData("twelve", classes, split, split, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == list(classes)
    assert [text.get_text() for text in figure.axes[11].texts] == ["no training image"]
    rows = [round(axes.get_position().y0, 3) for axes in figure.axes]
    assert len(set(rows[:10])) == 1
    assert rows[10] < rows[0]


def test_mistakes_show_their_untouched_pixels_and_tell_both_classes():
    data = cifar_like()
    mistakes = mistakes_of(data, 7)
    figure = plot_mistakes(data, mistakes)
    assert len(figure.axes) == 7
    for m, axes in enumerate(figure.axes):
        np.testing.assert_array_equal(drawn(axes), data.test.images[m].permute(1, 2, 0).numpy())
        assert drawn(axes).dtype == np.uint8
    # labels run 9, 8, ...; the class after 9 (truck) is 0 (airplane)
    assert figure.axes[0].get_title() == "true: truck\npredicted: airplane 87 %"
    assert figure.axes[1].get_title() == "true: ship\npredicted: truck 87 %"


def test_mistakes_keep_the_order_given_and_the_number_of_columns():
    data = cifar_like()
    mistakes = mistakes_of(data, 5)
    backwards = Mistakes(*(column.flip(0) for column in vars(mistakes).values()))
    figure = plot_mistakes(data, backwards, columns=2)
    figure.draw_without_rendering()
    np.testing.assert_array_equal(drawn(figure.axes[0]), data.test.images[4].permute(1, 2, 0).numpy())
    assert len({round(axes.get_position().x0, 3) for axes in figure.axes}) == 2
    assert len({round(axes.get_position().y0, 3) for axes in figure.axes}) == 3


def test_long_class_names_are_wrapped():
    data = cifar_like()
    names = ("AM General Hummer SUV extended 2000", *CIFAR10_CLASSES[1:])
    data = ImageData("cars", names, data.train, data.test, data.mean, data.std)
    lines = plot_mistakes(data, mistakes_of(data, 1)).axes[0].get_title().split("\n")
    assert lines[0] == "true: truck"
    assert " ".join(lines[1:]) == "predicted: AM General Hummer SUV extended 2000 87 %"
    assert max(map(len, lines)) <= 30


def test_an_empty_gallery_fails_loudly():
    data = cifar_like()
    with pytest.raises(ValueError, match="no misclassified image to show: `mistakes` is empty"):
        plot_mistakes(data, mistakes_of(data, 0))


def test_a_gallery_of_hundreds_is_refused():
    data = cifar_like(per_class=21)
    with pytest.raises(ValueError, match=r"needs 200 images or fewer: got 210. Pass `mistakes.head\(20\)`"):
        plot_mistakes(data, mistakes_of(data, 210))


def test_no_column_is_an_error():
    data = cifar_like()
    with pytest.raises(ValueError, match="`columns` needs to be 1 or more: got 0"):
        plot_mistakes(data, mistakes_of(data, 2), columns=0)


def test_mistakes_of_another_dataset_are_an_error(tiny_data):
    with pytest.raises(ValueError, match="needs to be the images that were evaluated, in order"):
        plot_mistakes(tiny_data, mistakes_of(cifar_like(), 3))


# --- confusion matrix -----------------------------------------------------------------------------


def test_confusion_matrix_tells_counts_and_accuracies():
    figure = plot_confusion_matrix(torch.tensor([[8, 2, 0], [1, 3, 0], [0, 0, 0]]), ["ant", "bee", "cow"])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    counts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert counts == {
        (0, 0): "8",
        (0, 1): "2",
        (0, 2): "0",
        (1, 0): "1",
        (1, 1): "3",
        (1, 2): "0",
        (2, 0): "0",
        (2, 1): "0",
        (2, 2): "0",
    }
    assert axes.get_title() == "Accuracy 78.57 % (11 of 14 images)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["ant", "bee", "cow"]
    (side,) = axes.child_axes
    assert [label.get_text() for label in side.get_yticklabels()] == ["80.0 %", "75.0 %", "no image"]
    np.testing.assert_allclose(drawn(axes)[:2] ** 2, [[0.8, 0.2, 0], [0.25, 0.75, 0]])


def test_confusion_matrix_of_many_classes_leaves_the_counts_out():
    figure = plot_confusion_matrix(torch.eye(26, dtype=torch.int64), [f"class {i}" for i in range(26)])
    assert len(figure.axes[0].texts) == 0
    assert "(26 of 26 images)" in figure.axes[0].get_title()


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), r"needs shape \(2, 2\): got \(2, 3\)"),
        (torch.ones(3, 3, dtype=torch.int64), r"needs shape \(2, 2\): got \(3, 3\)"),
        (torch.ones(2, 2), "needs integer counts >= 0, not all 0"),
        (torch.tensor([[1, -1], [0, 1]]), "needs integer counts >= 0, not all 0"),
        (torch.zeros(2, 2, dtype=torch.int64), "needs integer counts >= 0, not all 0"),
    ],
)
def test_no_confusion_matrix_is_an_error(confusion, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion_matrix(confusion, ["cat", "dog"])


# --- overlays -------------------------------------------------------------------------------------

# Jet by its definition, piecewise linear in 256 steps: first and last color are half blue and half red.
JET_LOW, JET_HIGH = (0.0, 0.0, 0.5), (0.5, 0.0, 0.0)


@pytest.mark.parametrize("alpha", [0.5, 0.3, 1.0])
@pytest.mark.parametrize(("evidence", "color"), [(0.0, JET_LOW), (1.0, JET_HIGH)])
def test_overlay_on_black_is_the_color_of_the_evidence_in_rgb_order(evidence, color, alpha):
    pixels = overlay_cam(torch.zeros(3, 4, 5), torch.full((4, 5), evidence), alpha=alpha)
    assert pixels.shape == (4, 5, 3)
    np.testing.assert_array_equal(pixels, np.broadcast_to(alpha * np.array(color), (4, 5, 3)))


def test_overlay_is_a_blend_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    image, cam = torch.rand(3, 6, 7, generator=generator), torch.zeros(6, 7)
    cam[2, 3] = 1.0
    pixels = overlay_cam(image, cam)
    for row, column in np.ndindex(6, 7):
        heat = JET_HIGH if (row, column) == (2, 3) else JET_LOW
        expected = [0.5 * float(image[c, row, column]) + 0.5 * heat[c] for c in range(3)]
        assert list(pixels[row, column]) == pytest.approx(expected, abs=1e-12)


def test_constant_evidence_has_one_color_on_every_image():
    """System B's overlay divided by its maximum: the same evidence looked different on a dark image."""
    cam = torch.full((8, 8), 0.7)
    dark, bright = torch.full((3, 8, 8), 0.1), torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    heat = [overlay_cam(image, cam) - 0.5 * image.permute(1, 2, 0).double().numpy() for image in (dark, bright)]
    np.testing.assert_allclose(heat[0], heat[1], atol=1e-12)
    assert heat[0].max() <= 0.5


def test_the_warmest_place_is_red_the_coldest_blue_and_the_middle_green():
    pixels = overlay_cam(torch.zeros(3, 1, 3), torch.tensor([[0.9, 0.1, 0.5]]))[0]
    assert [int(pixel.argmax()) for pixel in pixels] == [0, 2, 1]


def test_overlay_takes_arrays_other_precisions_and_tensors_with_gradient_and_leaves_them_alone():
    image, cam = torch.rand(3, 4, 4, requires_grad=True), torch.rand(4, 4)
    before = image.detach().clone(), cam.clone()
    expected = overlay_cam(image, cam)
    np.testing.assert_array_equal(overlay_cam(image.detach().numpy(), cam.numpy()), expected)
    np.testing.assert_allclose(overlay_cam(image.bfloat16(), cam.bfloat16()), expected, atol=0.03)
    assert torch.equal(image, before[0])
    assert torch.equal(cam, before[1])


def test_overlay_cuts_rounding_errors_off():
    pixels = overlay_cam(torch.full((3, 2, 2), 1.0001), torch.full((2, 2), -1e-6))
    np.testing.assert_array_equal(pixels, np.broadcast_to([0.5, 0.5, 0.75], (2, 2, 3)))


@pytest.mark.parametrize(
    ("image", "cam", "alpha", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(4, 5), 0.5, r"`image` needs \(3, 4, 5\), as `cam`: got \(3, 4, 4\)"),
        (torch.zeros(1, 4, 4), torch.zeros(4, 4), 0.5, r"`image` needs \(3, 4, 4\), as `cam`: got \(1, 4, 4\)"),
        (torch.zeros(4, 4, 3), torch.zeros(4, 4), 0.5, r"`image` needs \(3, 4, 4\), as `cam`: got \(4, 4, 3\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(4, 4), 0.5, "`image` needs 3 dimensions of floats"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4), 0.5, "Divide uint8 images by 255"),
        (torch.full((3, 4, 4), -1.5), torch.zeros(4, 4), 0.5, "`image` needs values in .*: got -1.5 to -1.5"),
        (torch.zeros(3, 4, 4), torch.full((4, 4), 255.0), 0.5, "`cam` needs values in .*: got 255 to 255"),
        (torch.zeros(3, 4, 4), torch.full((4, 4), math.nan), 0.5, "`cam` needs values in .*: got nan"),
        (torch.zeros(3, 4, 4), torch.zeros(4, 4), 1.5, "`alpha` needs to be in .*: got 1.5"),
    ],
)
def test_overlay_of_other_shapes_and_ranges_is_an_error(image, cam, alpha, message):
    with pytest.raises(ValueError, match=message):
        overlay_cam(image, cam, alpha=alpha)


# --- grids of maps --------------------------------------------------------------------------------


def test_cam_grid_shows_the_image_and_the_overlay_of_every_layer():
    images, cams, figure = cam_figure(rows=2, layers=3)
    assert len(figure.axes) == 2 * 4
    grid = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_title() for axes in grid[0]] == ["image", "layer0", "layer1", "layer2"]
    assert [axes.get_title() for axes in grid[1]] == [""] * 4
    assert [axes.get_ylabel() for axes in grid[:, 0]] == [f"true cat\npredicted dog 87 %\nmap {i}" for i in (0, 1)]
    for row in range(2):
        np.testing.assert_allclose(drawn(grid[row, 0]), images[row].permute(1, 2, 0).numpy())
        for layer in range(3):
            if (layer, row) != (2, 0):
                expected = overlay_cam(images[row], cams[layer, row])
                np.testing.assert_array_equal(drawn(grid[row, layer + 1]), expected)
                assert not grid[row, layer + 1].texts


def test_a_map_without_evidence_is_the_plain_image_and_says_so():
    images, _, figure = cam_figure(rows=2, layers=3)
    tile = np.array(figure.axes).reshape(2, 4)[0, 3]
    np.testing.assert_allclose(drawn(tile), images[0].permute(1, 2, 0).numpy())
    assert [text.get_text() for text in tile.texts] == ["no evidence"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(3, 3, 8, 8)}, r"need \(N, 3, H, W\) and \(L, N, H, W\), none of them 0: got \(3, 3"),
        ({"images": torch.zeros(2, 3, 8, 9)}, r"none of them 0: got \(2, 3, 8, 9\) and \(4, 2, 8, 8\)"),
        ({"images": torch.zeros(0, 3, 8, 8), "cams": torch.zeros(4, 0, 8, 8)}, "none of them 0"),
        ({"cams": torch.zeros(2, 8, 8)}, "`cams` needs 4 dimensions of floats"),
        ({"images": torch.full((2, 3, 8, 8), 2.0)}, "`images` needs values in .*: got 2 to 2"),
        ({"layer_names": ["a", "b"]}, r"need 4, 2 entries: got \(2, 2\)"),
        ({"row_titles": ["a"]}, r"need 4, 2 entries: got \(4, 1\)"),
    ],
)
def test_a_grid_that_does_not_fit_is_an_error(changed, message):
    arguments = {
        "images": torch.zeros(2, 3, 8, 8),
        "cams": torch.zeros(4, 2, 8, 8),
        "layer_names": list("abcd"),
        "row_titles": ["first", "second"],
    }
    with pytest.raises(ValueError, match=message):
        plot_cams(**(arguments | changed))


# --- live curves ----------------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch):
    """Stands in for IPython: notes what is displayed and under which name. `shell` is the running shell."""
    calls: list[tuple[str, object, str]] = []
    shell = SimpleNamespace(kernel=object(), execution_count=1)
    display = SimpleNamespace(
        display=lambda shown, *, display_id: calls.append(("display", shown, display_id)),
        update_display=lambda shown, *, display_id: calls.append(("update", shown, display_id)),
    )
    stage = SimpleNamespace(calls=calls, shell=shell)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: stage.shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return stage


def train(live: LiveCurves, epochs: int) -> None:
    """Call it as `fit` does: after every epoch, with the one history that grows."""
    history, source = History(), history_of(epochs)
    for record in source.epochs:
        history.epochs.append(record)
        live(history)


def test_live_curves_are_created_once_and_then_redrawn_in_place(notebook):
    train(LiveCurves(), 3)
    assert [kind for kind, _, _ in notebook.calls] == ["display", "update", "update"]
    assert len({display_id for _, _, display_id in notebook.calls}) == 1
    for epoch, (_, figure, _) in enumerate(notebook.calls, start=1):
        assert len(figure.axes[0].lines[0].get_xdata()) == epoch


def test_running_the_cell_again_or_training_again_begins_a_new_output(notebook):
    live = LiveCurves()
    train(live, 2)
    notebook.shell.execution_count = 2  # the output of the first run of the cell is gone
    train(live, 2)
    other = history_of(3)
    other.epochs = other.epochs[1:]  # another run in the same cell: its first epoch is another one
    live(other)
    assert [kind for kind, _, _ in notebook.calls] == ["display", "update", "display", "update", "display"]
    assert len({display_id for _, _, display_id in notebook.calls}) == 3


def test_live_curves_need_no_notebook(notebook, monkeypatch):
    notebook.shell = None  # IPython is installed, but this is a plain Python
    train(LiveCurves(), 2)
    notebook.shell = SimpleNamespace(execution_count=1)  # IPython in a terminal
    train(LiveCurves(), 2)
    monkeypatch.delitem(sys.modules, "IPython")
    train(LiveCurves(), 2)
    assert notebook.calls == []
    assert "IPython" not in sys.modules


def test_live_curves_wait_for_the_first_epoch(notebook):
    LiveCurves()(History())
    assert notebook.calls == []


# --- files ----------------------------------------------------------------------------------------


def test_saving_returns_the_path_and_replaces_the_file(tmp_path):
    path = tmp_path / "a" / "b" / "curves.png"
    assert save_figure(plot_history(history_of(2)), str(path)) == path
    first = path.read_bytes()
    assert save_figure(plot_history(history_of(3)), path) == path
    assert path.read_bytes() != first


def test_a_failing_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = save_figure(plot_history(history_of(2)), tmp_path / "curves.png")
    before = path.read_bytes()
    figure = plot_history(history_of(3))

    def disk_full(target, **options):
        target.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(figure, "savefig", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["curves.jpg", "curves", "curves.png.txt"])
def test_figures_are_png_files(tmp_path, name):
    with pytest.raises(ValueError, match=f"`path` needs to end in .png: got '{name}'"):
        save_figure(plot_history(history_of(1)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
