"""Figures: galleries, the confusion matrix, class activation maps over their images. The curves are in `curves`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evalib.cam import empty_maps
from evalib.curves import LiveCurves as LiveCurves
from evalib.curves import plot_history as plot_history
from evalib.data.image_data import ImageData
from evalib.figures import TILE, gallery, new_figure, require, show_image, unit_array
from evalib.figures import save_figure as save_figure
from evalib.metrics import per_class_accuracy
from evalib.mistakes import Mistakes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_samples(data: ImageData) -> Figure:
    """The first training image of every class, in the order of `data.classes`, ten to a row."""
    titles = [fill(name, 18) for name in data.classes]
    figure, tiles = gallery(len(titles), 10, title_lines=1 + max(title.count("\n") for title in titles))
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
    figure, tiles = gallery(count, columns, title_lines=2, width=TILE + 0.5)
    for m, axes in enumerate(tiles):
        show_image(axes, images[m])
        true, predicted = data.classes[mistakes.true[m]], data.classes[mistakes.predicted[m]]
        lines = (f"true: {true}", f"predicted: {predicted} {100 * mistakes.probability[m]:.0f} %")
        axes.set_title("\n".join(fill(line, 30) for line in lines), fontsize=8, parse_math=False)
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
    empty = empty_maps(torch.from_numpy(maps)).tolist()
    for row, title in enumerate(row_titles):
        photo = photos[row].transpose(1, 2, 0)
        show_image(grid[row, 0], photo)
        grid[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
        for layer in range(layers):
            pixels = photo if empty[layer][row] else overlay_cam(photos[row], maps[layer, row])
            show_image(grid[row, layer + 1], pixels, note="no evidence" if empty[layer][row] else "")
    for tile, heading in zip(grid[0], ("image", *layer_names), strict=True):
        tile.set_title(heading, fontsize=9, parse_math=False)
    return figure
