"""Figures: galleries, the confusion matrix, class activation maps over their images. The curves are in `curves`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evalib.cam import empty_maps
from evalib.car_errors import CarErrors
from evalib.curves import LiveCurves as LiveCurves
from evalib.curves import plot_history as plot_history
from evalib.data.image_data import ImageData
from evalib.figures import COLORS, TILE, WIDE_TILE, gallery, new_figure, require, row_height, show_image, unit_array
from evalib.figures import save_figure as save_figure
from evalib.metrics import per_class_accuracy
from evalib.mistakes import Mistakes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_samples(data: ImageData) -> Figure:
    """The first training image of every class, in the order of `data.classes`, ten to a row."""
    titles = [fill(name, 16) for name in data.classes]
    figure, tiles = gallery(len(titles), 10, title_lines=_most_lines(titles))
    for class_idx, (axes, title) in enumerate(zip(tiles, titles, strict=True)):
        members = torch.nonzero(data.train.labels == class_idx).flatten().tolist()
        pixels = data.train.images[members[0]].permute(1, 2, 0).numpy() if members else np.ones((1, 1, 3))
        show_image(axes, pixels, note="" if members else "no training image")
        axes.set_title(title, fontsize=9, parse_math=False)
    return figure


def plot_mistakes(data: ImageData, mistakes: Mistakes, *, columns: int = 5) -> Figure:
    """Misclassified test images with true class, predicted class and its probability, in the order given.

    Args:
        data: the dataset whose test split was evaluated; its uint8 images are shown as they are.
        mistakes: at most 200, as from `find_mistakes(evaluation).head(20)`.
        columns: images to a row.

    Raises:
        ValueError: if there is no mistake, more than 200, `columns` < 1, or they are not of this test split.
    """
    count = len(mistakes)
    require(count > 0, "no misclassified image to show: `mistakes` is empty. Check `len(mistakes)` first.")
    require(count <= 200, f"`mistakes` needs 200 images or fewer: got {count}. Pass `mistakes.head(20)`.")
    require(columns >= 1, f"`columns` needs to be 1 or more: got {columns}.")
    images = mistakes.images(data.test).permute(0, 2, 3, 1).numpy()
    titles = []
    for true, predicted, probability in zip(mistakes.true, mistakes.predicted, mistakes.probability, strict=True):
        said = _with_percent(data.classes[predicted], probability)
        titles.append(_wrapped(f"true: {data.classes[true]}", f"predicted: {said}"))
    figure, tiles = gallery(count, columns, title_lines=_most_lines(titles), size=WIDE_TILE)
    for axes, pixels, title in zip(tiles, images, titles, strict=True):
        show_image(axes, pixels)
        axes.set_title(title, fontsize=8, parse_math=False)
    return figure


def plot_confusion_matrix(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """Counts of true (rows) against predicted classes (columns), the accuracy of every class at the right.

    The title is the accuracy over all images. Colors are square roots of the share of the row, so that rare
    confusions stay visible beside the diagonal. Beyond 25 classes the counts are left out.

    Args:
        confusion: (C, C) integers, as `evalib.metrics.confusion_matrix` returns them.
        classes: C names.

    Raises:
        ValueError: if the matrix is not (C, C), has negative or fractional entries, or counts no image.
    """
    counts, size = torch.as_tensor(confusion).cpu().numpy(), len(classes)
    require(counts.shape == (size, size), f"`confusion` needs shape ({size}, {size}): got {counts.shape}.")
    valid = counts.dtype.kind in "iu" and counts.min() >= 0 and counts.any()
    require(bool(valid), "`confusion` needs integer counts >= 0, not all 0, as `confusion_matrix` gives them.")
    total, right = int(counts.sum()), int(counts.trace())
    cell, font = (0.52, 9) if size <= 25 else (0.15, 6)
    figure = new_figure(max(size * cell, 2.0) + 2.2, max(size * cell, 2.0) + 1.5)
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(range(size), classes, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(size), classes, parse_math=False)
    title = f"Accuracy {100 * right / total:.2f} % ({right:,} of {total:,} images)"
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    side = axes.secondary_yaxis("right")
    percent = (100 * per_class_accuracy(torch.from_numpy(counts))).tolist()
    side.set_yticks(range(size), ["no image" if math.isnan(value) else f"{value:.1f} %" for value in percent])
    side.set_ylabel("accuracy of the class", labelpad=8)
    for axis in (axes, side):
        axis.tick_params(length=0, labelsize=font)
        axis.spines[:].set_visible(False)
    for (row, column), count in np.ndenumerate(counts) if size <= 25 else ():
        shade = "0.75" if count == 0 else "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=shade)
    return figure


def plot_car_errors(errors: CarErrors) -> Figure:
    """How far off predictions about cars are: shares of the kinds (left), accuracy by attribute (right), in %.

    The marks at the right are what always saying the most frequent brand, type or year would give.

    Raises:
        ValueError: if there is no image.
    """
    require(len(errors) > 0, "`errors` has no image: nothing to show.")
    figure = new_figure(9.5, 2.9)
    left, right = figure.subplots(1, 2)
    for axes, values, title in (
        (left, errors.shares, f"All {len(errors):,} test images (%)"),
        (right, {"class": errors.shares["right"], **errors.accuracies}, "Accuracy (%)"),
    ):
        names = list(values)
        percent = [100 * value for value in values.values()]
        bars = axes.barh(names, percent, color=COLORS[0])
        axes.bar_label(bars, [f"{value:.1f}" for value in percent], padding=3, fontsize=9)
        axes.set(title=title, xlim=(0, 112), xticks=range(0, 101, 20))
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    marks = {name: 100 * value for name, value in errors.most_frequent.items()}
    right.plot(list(marks.values()), list(marks), "|", color=COLORS[1], markersize=22, markeredgewidth=2.5)
    figure.legend(right.lines, ["always the most frequent one"], loc="outside lower right", fontsize=9, markerscale=0.4)
    return figure


def overlay_cam(image: Tensor | np.ndarray, cam: Tensor | np.ndarray, *, alpha: float = 0.5) -> np.ndarray:
    """The map in jet colors over its image: `(1 - alpha) * image + alpha * jet(cam)`, channels in RGB order.

    A plain blend, brightness is not rescaled: equal evidence has equal color in every overlay.

    Args:
        image: (3, H, W) float in [0, 1], as `evalib.transforms.denormalize` gives it.
        cam: (H, W) float in [0, 1].
        alpha: weight of the map, in [0, 1].

    Returns:
        (H, W, 3) float64 in [0, 1].

    Raises:
        ValueError: if a shape, type or range is another one.
    """
    from matplotlib import colormaps

    photo, heat = unit_array("image", image, ndim=3), unit_array("cam", cam, ndim=2)
    require(photo.shape == (3, *heat.shape), f"`image` needs {(3, *heat.shape)}, as `cam`: got {photo.shape}.")
    require(0 <= alpha <= 1, f"`alpha` needs to be in [0, 1]: got {alpha}.")
    return (1 - alpha) * photo.transpose(1, 2, 0) + alpha * colormaps["jet"](heat)[..., :3]


def plot_cams(images: Tensor, cams: Tensor, *, layer_names: Sequence[str], row_titles: Sequence[str]) -> Figure:
    """One row per image: the image, then the map of every layer laid over it.

    A map without any evidence (all zero) is the plain image with the note "no evidence", not a blue veil.

    Args:
        images: (N, 3, H, W) float in [0, 1]; give an image twice to show the maps of two classes.
        cams: (L, N, H, W) float in [0, 1].
        layer_names: L column headings.
        row_titles: N titles, several lines allowed, written at the left.

    Raises:
        ValueError: if shapes, ranges or lengths do not fit each other.
    """
    photos, maps = unit_array("images", images, ndim=4), unit_array("cams", cams, ndim=4)
    (layers, rows, height, width), shapes = maps.shape, f"{photos.shape} and {maps.shape}"
    fits = photos.shape == (rows, 3, height, width) and maps.size > 0
    require(fits, f"`images` and `cams` need (N, 3, H, W) and (L, N, H, W), none of them 0: got {shapes}.")
    given = (len(layer_names), len(row_titles))
    require(given == (layers, rows), f"`layer_names`, `row_titles` need {layers}, {rows} entries: got {given}.")
    longest = max(len(line) for title in row_titles for line in ["", *title.splitlines()])
    figure = new_figure((layers + 1) * TILE + 0.075 * longest + 0.1, rows * TILE * height / width + 0.3)
    grid = figure.subplots(rows, layers + 1, squeeze=False)
    for row, title in enumerate(row_titles):
        show_image(grid[row, 0], photos[row].transpose(1, 2, 0))
        grid[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
        for tile, cam in zip(grid[row, 1:], maps[:, row], strict=True):
            _show_cam(tile, photos[row], cam)
    for tile, heading in zip(grid[0], ("image", *layer_names), strict=True):
        tile.set_title(heading, fontsize=9, parse_math=False)
    return figure


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class ModelCams:
    """What one model says of N images, and the maps of the classes that it predicts.

    Attributes:
        images: (N, 3, H, W) float in [0, 1], as this model sees them: cropped, enlarged.
        cams: (N, H, W) float in [0, 1].
        predicted: (N,) int64, the predicted classes.
        probability: (N,) float in [0, 1], their probabilities.
    """

    images: Tensor
    cams: Tensor
    predicted: Tensor
    probability: Tensor


def plot_model_grid(
    models: Mapping[str, ModelCams],
    images: Tensor,
    *,
    image_titles: Sequence[str],
    classes: Sequence[str],
    columns: int = 5,
) -> Figure:
    """The same images, seen by several models: the image, then the map of every model over what that model sees.

    A map without any evidence (all zero) is the plain image with the note "no evidence".

    Args:
        models: their maps, by the name that stands above each.
        images: (N, 3, H, W) float in [0, 1], shown first in every row.
        image_titles: N titles of the images, as "true: dog".
        classes: names of the classes.
        columns: tiles to a row, the image included. Further models go on in the next row, below the image again.

    Raises:
        ValueError: if there is no model, a shape, length or range does not fit, or `columns` < 2.
    """
    photos, count = unit_array("images", images, ndim=4), len(image_titles)
    fits = len(models) > 0 and columns >= 2
    require(fits, f"`models` needs at least 1, `columns` needs 2 or more: got {len(models)} and {columns}.")
    fits = photos.shape[:2] == (count, 3) and photos.size > 0
    require(fits, f"`images` needs (N, 3, H, W) for N = {count} `image_titles`, at least 1: got {photos.shape}.")
    tiles = [_model_tiles(name, model, count, classes) for name, model in models.items()]
    across = min(columns - 1, len(tiles))
    lines = -(-len(tiles) // across)
    titles = [_wrapped(title) for title in image_titles]
    title_lines = _most_lines([*titles, *(title for model in tiles for title, _, _ in model)])
    figure = new_figure((across + 1) * WIDE_TILE, count * lines * row_height(WIDE_TILE, title_lines))
    grid = figure.subplots(count * lines, across + 1, squeeze=False)
    for row, axes in enumerate(grid):
        n, line = divmod(row, lines)
        show_image(axes[0], photos[n].transpose(1, 2, 0))
        axes[0].set_title(titles[n], fontsize=8, parse_math=False)
        shown = tiles[line * across : (line + 1) * across]
        for place, model in zip(axes[1:], shown, strict=False):
            title, photo, cam = model[n]
            _show_cam(place, photo, cam)
            place.set_title(title, fontsize=8, parse_math=False)
        for spare in axes[1 + len(shown) :]:
            spare.remove()
    return figure


def _model_tiles(
    name: str, model: ModelCams, count: int, classes: Sequence[str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Title, image and map of a model for each of `count` images."""
    photos = unit_array(f"images of {name}", model.images, ndim=4)
    cams = unit_array(f"cams of {name}", model.cams, ndim=3)
    fits = photos.shape == (count, 3, *cams.shape[1:]) and len(cams) == len(model.predicted) == len(model.probability)
    came = f"{photos.shape}, {cams.shape}, {tuple(model.predicted.shape)}, {tuple(model.probability.shape)}"
    require(fits, f"{name} needs images ({count}, 3, H, W), cams ({count}, H, W) and {count} predictions: got {came}.")
    low, high = int(model.predicted.min()), int(model.predicted.max())
    fits = 0 <= low <= high < len(classes)
    require(fits, f"`predicted` of {name} needs to lie in 0..{len(classes) - 1}: got {low}..{high}.")
    pairs = zip(model.predicted, model.probability, strict=True)
    titles = [_wrapped(name, _with_percent(classes[p], probability)) for p, probability in pairs]
    return list(zip(titles, photos, cams, strict=True))


def _with_percent(name: str, probability: Tensor) -> str:
    """Name and probability, as "dog 87 %", never broken before the percent sign."""
    return f"{name} {100 * probability:.0f}\u00a0%"


def _wrapped(*lines: str) -> str:
    """A title of font size 8, no wider than a wide tile."""
    return "\n".join(fill(line, 27) for line in lines)


def _most_lines(titles: Sequence[str]) -> int:
    return 1 + max(title.count("\n") for title in titles)


def _show_cam(axes: Axes, photo: np.ndarray, cam: np.ndarray) -> None:
    """A map (H, W) laid over its image (3, H, W), or the plain image with a note if the map is empty."""
    if empty_maps(torch.from_numpy(cam)[None, None]).item():
        show_image(axes, photo.transpose(1, 2, 0), note="no evidence")
    else:
        show_image(axes, overlay_cam(photo, cam))
