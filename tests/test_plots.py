"""Figures: what is drawn is read back from the axes and compared with the numbers that went in."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from evalib.car_errors import car_errors
from evalib.data.car_names import CAR_CLASSES
from evalib.data.image_data import CIFAR10_CLASSES, ImageData, Split
from evalib.engine import Evaluation
from evalib.history import EpochRecord, History
from evalib.mistakes import Mistakes, find_mistakes
from evalib.plots import (
    ModelCams,
    overlay_cam,
    plot_cams,
    plot_car_errors,
    plot_confusion_matrix,
    plot_history,
    plot_mistakes,
    plot_model_grid,
    plot_samples,
    save_figure,
)

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def history_of(epochs: int) -> History:
    return History(
        [EpochRecord(k, 2 / k, 1 - 0.5 / k, 2.1 / k, 1 - 0.6 / k, 1.0, 1.0, 0.1) for k in range(1, epochs + 1)]
    )


def cifar_like(per_class: int = 3) -> ImageData:
    """Random pixels under the names of CIFAR-10, classes interleaved from last to first."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(9, -1, -1).repeat(per_class)
    images = torch.randint(0, 256, (2, len(labels), 3, 32, 32), dtype=torch.uint8, generator=generator)
    train, test = Split(images[0], labels), Split(images[1], labels)
    return ImageData("random", CIFAR10_CLASSES, train, test, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def cars_like() -> ImageData:
    """One photo, larger than those of CIFAR-10, of each of 14 cars with long names."""
    classes = tuple(sorted(CAR_CLASSES, key=len)[-14:])
    images = torch.randint(0, 256, (14, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    split = Split(images, torch.arange(14))
    return ImageData("cars", classes, split, split, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


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


def model_cams(count: int, size: int = 32, *, seed: int = 0, classes: int = 10) -> ModelCams:
    """Random images and maps; the first prediction is class `seed`, each further one the class after it."""
    generator = torch.Generator().manual_seed(seed)
    return ModelCams(
        images=torch.rand(count, 3, size, size, generator=generator),
        cams=torch.rand(count, size, size, generator=generator),
        predicted=(torch.arange(count) + seed) % classes,
        probability=torch.linspace(0.5, 0.9, count),
    )


def model_grid(count: int = 2, models: int = 6, *, columns: int = 5):
    """The models, the images, and the figure of them."""
    cams = {f"model {seed}": model_cams(count, 32 + 16 * seed, seed=seed) for seed in range(models)}
    images, titles = torch.rand(count, 3, 48, 48), [f"image {n}, true: cat" for n in range(count)]
    figure = plot_model_grid(cams, images, image_titles=titles, classes=CIFAR10_CLASSES, columns=columns)
    return cams, images, figure


def car_grid():
    cars = sorted(CAR_CLASSES, key=len)[-8:]
    models = {f"VGG19, {seed} % frozen": model_cams(1, 96, seed=seed, classes=8) for seed in range(8)}
    return plot_model_grid(models, torch.rand(1, 3, 96, 96), image_titles=[f"true: {cars[-1]}"], classes=cars)


def guesses_about_cars():
    """Every car once, taken for the one before it in the list, but for every third."""
    labels = torch.arange(196)
    logits = torch.nn.functional.one_hot((labels - (labels % 3 > 0).long()), 196).float()
    return car_errors(Evaluation(loss=0.0, accuracy=0.0, logits=logits, labels=labels), CAR_CLASSES)


def drawn(axes) -> np.ndarray:
    """The pixels that an axes was given."""
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


# --- every figure ---------------------------------------------------------------------------------

EVERY_FIGURE: dict[str, Callable[[], object]] = {
    "history": lambda: plot_history({"eva6": history_of(20), "fast": history_of(3)}),
    "samples": lambda: plot_samples(cifar_like()),
    "mistakes": lambda: plot_mistakes(cifar_like(), mistakes_of(cifar_like(), 7)),
    "confusion": lambda: plot_confusion_matrix(torch.eye(10, dtype=torch.int64) * 1000, CIFAR10_CLASSES),
    "cams": lambda: cam_figure(rows=2, layers=3)[2],
    "samples of cars": lambda: plot_samples(cars_like()),
    "mistakes about cars": lambda: plot_mistakes(cars_like(), mistakes_of(cars_like(), 10)),
    "errors about cars": lambda: plot_car_errors(guesses_about_cars()),
    "grid": lambda: model_grid(count=2, models=6)[2],
    "grid of cars": car_grid,
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
    assert figure.axes[0].get_title() == "true: truck\npredicted: airplane 87\u00a0%"
    assert figure.axes[1].get_title() == "true: ship\npredicted: truck 87\u00a0%"


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
    assert " ".join(lines[1:]) == "predicted: AM General Hummer SUV extended 2000 87\u00a0%"
    assert max(map(len, lines)) <= 27


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


@pytest.mark.parametrize(
    ("figure", "inches"),
    [
        (lambda: plot_samples(cars_like()), 1.3),
        (lambda: plot_mistakes(cars_like(), mistakes_of(cars_like(), 10)), 1.8),
        (car_grid, 1.8),
    ],
)
def test_titles_of_many_lines_do_not_shrink_their_images(figure, inches):
    drawn_figure = figure()
    drawn_figure.draw_without_rendering()
    for axes in drawn_figure.axes:
        width = axes.get_window_extent().width / drawn_figure.dpi
        assert 0.85 * inches < width <= inches


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


# --- grids of models ------------------------------------------------------------------------------


def test_each_row_of_the_grid_begins_with_the_image_and_every_model_has_its_own_below_its_name():
    models, images, figure = model_grid(count=2, models=8)
    grid = np.array(figure.axes).reshape(4, 5)  # two rows for each image: four models, then the other four
    for row, axes in enumerate(grid):
        n, first = row // 2, 4 * (row % 2)
        assert axes[0].get_title() == f"image {n}, true: cat"
        np.testing.assert_allclose(drawn(axes[0]), images[n].permute(1, 2, 0).numpy())
        for seed, tile in enumerate(axes[1:], start=first):
            model = models[f"model {seed}"]
            said = f"{CIFAR10_CLASSES[n + seed]} {(50, 90)[n]}\u00a0%"
            assert tile.get_title() == f"model {seed}\n{said}"
            np.testing.assert_array_equal(drawn(tile), overlay_cam(model.images[n], model.cams[n]))


@pytest.mark.parametrize(
    ("models", "columns", "tiles"),
    [(4, 5, [5]), (8, 5, [5, 5]), (3, 5, [4]), (5, 5, [5, 2]), (3, 2, [2, 2, 2]), (1, 9, [2])],
)
def test_models_go_on_in_the_next_row_below_the_image(models, columns, tiles):
    figure = model_grid(count=1, models=models, columns=columns)[2]
    figure.draw_without_rendering()
    places = [axes.get_position() for axes in figure.axes]
    rows = sorted({round(place.y0, 2) for place in places}, reverse=True)
    assert [sum(round(place.y0, 2) == row for place in places) for row in rows] == tiles
    for row in rows[1:]:  # tiles stand below those of the first row
        lefts = [round(place.x0, 2) for place in places if round(place.y0, 2) == row]
        assert lefts == [round(place.x0, 2) for place in places[: len(lefts)]]


def test_a_model_without_evidence_shows_the_plain_image_that_it_saw_and_says_so():
    models = {"blind": model_cams(2), "seeing": model_cams(2)}
    models["blind"].cams[1] = 0
    figure = plot_model_grid(models, torch.rand(2, 3, 8, 8), image_titles=["a", "b"], classes=CIFAR10_CLASSES)
    grid = np.array(figure.axes).reshape(2, 3)
    np.testing.assert_allclose(drawn(grid[1, 1]), models["blind"].images[1].permute(1, 2, 0).numpy())
    notes = [[text.get_text() for text in axes.texts] for axes in grid.flat]
    assert notes == [[], [], [], [], ["no evidence"], []]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": {}}, "`models` needs at least 1, `columns` needs 2 or more: got 0 and 5"),
        ({"columns": 1}, "`models` needs at least 1, `columns` needs 2 or more: got 1 and 1"),
        ({"images": torch.zeros(3, 3, 8, 8)}, r"`images` needs \(N, 3, H, W\) for N = 2 .*: got \(3, 3, 8, 8\)"),
        ({"images": torch.zeros(2, 1, 8, 8)}, r"`images` needs \(N, 3, H, W\) for N = 2 .*: got \(2, 1, 8, 8\)"),
        ({"images": torch.zeros(0, 3, 8, 8), "image_titles": []}, "for N = 0 `image_titles`, at least 1"),
        ({"images": torch.full((2, 3, 8, 8), 2.0)}, "`images` needs values in .*: got 2 to 2"),
        ({"models": {"m": model_cams(3)}}, r"m needs images \(2, 3, H, W\), .*: got \(3, 3, 32, 32\)"),
        ({"classes": ["cat"]}, r"`predicted` of m needs to lie in 0..0: got 0..1"),
    ],
)
def test_a_grid_of_models_that_does_not_fit_is_an_error(changed, message):
    arguments = {
        "models": {"m": model_cams(2)},
        "images": torch.zeros(2, 3, 8, 8),
        "image_titles": ["a", "b"],
        "classes": CIFAR10_CLASSES,
    }
    with pytest.raises(ValueError, match=message):
        plot_model_grid(**(arguments | changed))


@pytest.mark.parametrize("name", ["images", "cams", "predicted", "probability"])
def test_every_part_of_a_model_has_one_entry_per_image(name):
    parts = vars(model_cams(2))
    model = ModelCams(**{**parts, name: parts[name][:1]})
    with pytest.raises(ValueError, match=r"m needs images \(2, 3, H, W\), cams \(2, H, W\) and 2 predictions"):
        plot_model_grid({"m": model}, torch.zeros(2, 3, 8, 8), image_titles=["a", "b"], classes=CIFAR10_CLASSES)


# --- errors about cars ----------------------------------------------------------------------------


def test_bars_are_shares_and_accuracies_in_percent_and_marks_what_has_to_be_surpassed():
    errors = guesses_about_cars()
    left, right = plot_car_errors(errors).axes
    for axes, expected in ((left, errors.shares), (right, {"class": 66 / 196, **errors.accuracies})):
        assert [label.get_text() for label in axes.get_yticklabels()] == list(expected)
        assert [bar.get_width() for bar in axes.patches] == pytest.approx([100 * v for v in expected.values()])
        assert [text.get_text() for text in axes.texts] == [f"{100 * value:.1f}" for value in expected.values()]
        assert axes.yaxis_inverted()  # the first one on top
    assert left.get_title() == "All 196 test images (%)"
    (marks,) = right.lines
    assert list(marks.get_ydata()) == ["brand", "type", "year"]
    assert list(marks.get_xdata()) == pytest.approx([100 * value for value in errors.most_frequent.values()])


def test_errors_without_an_image_cannot_be_drawn():
    nothing = Evaluation(0.0, 0.0, logits=torch.zeros(0, 196), labels=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="`errors` has no image: nothing to show"):
        plot_car_errors(car_errors(nothing, CAR_CLASSES))


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
