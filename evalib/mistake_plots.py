"""Figures about mistakes: why this class and not that one, groups of mistakes, and the nearest training images.

In all of them one color (vermilion) stands for the predicted class and one (blue) for the true one; the color-blind can
tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch

from evalib.contrast import Contrast, PairContrasts
from evalib.data.image_data import ImageData
from evalib.figures import COLORS, TILE, WIDE_TILE, new_figure, require, row_height, show_image
from evalib.mistake_groups import MistakeGroups
from evalib.mistakes import Mistakes
from evalib.neighbors import Neighbors
from evalib.transforms import denormalize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

TRUE, PREDICTED = COLORS[0], COLORS[1]
_MOST_ROWS = 60


def plot_contrasts(data: ImageData, mistakes: Mistakes, contrast: Contrast, *, split: str = "test") -> Figure:
    """Why the predicted and not the true class: a row for each mistake and layer.

    From left to right: the image, evidence for the true class, for the predicted class, and their difference. Colors
    say whom a place helps, in all three: evidence AGAINST the true class has the color of the predicted one, so that
    the colors of the two maps add up to those of the difference.

    Args:
        data: whose images the mistakes are.
        mistakes: M of them.
        contrast: theirs, as from `contrast_mistakes`.
        split: the split that they are from.

    Raises:
        ValueError: if there is no mistake, more than 60 rows, or the contrast is of other classes.
    """
    fits = torch.equal(contrast.classes, mistakes.predicted) and torch.equal(contrast.other_classes, mistakes.true)
    require(fits, "`contrast` needs to be that of `mistakes`: its classes are others. Use `contrast_mistakes`.")
    photos, titles = photos_of(data, mistakes, split), titles_of(data, mistakes)
    rows = contrast_rows(contrast, photos)
    figure = new_figure(4 * TILE + 2.5, len(rows) * row_height(TILE, 0) + 0.8)
    grid = draw_contrasts(figure, rows, columns=4)
    for number, axes in enumerate(grid[:, 0]):
        mistake, layer = divmod(number, len(contrast.layers))
        if layer > 0:
            axes.remove()
            continue
        show_image(axes, photos[mistake])
        _label(axes, titles[mistake])
    grid[0, 0].set_title("image", fontsize=9)
    return figure


def plot_pair_contrasts(found: PairContrasts, classes: Sequence[str]) -> Figure:
    """Mean contrasts of confused pairs: a row for each pair and layer, in the colors of `plot_contrasts`.

    Args:
        found: as from `mean_contrasts`.
        classes: names of the classes.

    Raises:
        ValueError: if there are more than 60 rows.
    """
    rows = contrast_rows(found.means, [None] * len(found.pairs))
    for number, row in enumerate(rows):
        place, layer = divmod(number, len(found.means.layers))
        pair = found.pairs[place]
        if layer == 0:
            row.label = f"{_lines(classes[pair.true], classes[pair.predicted])}\n{row.label}"
        row.label += f", {int(found.used[layer, place])} images"
    figure = new_figure(3 * TILE + 2.0, len(rows) * row_height(TILE, 0) + 0.8)
    draw_contrasts(figure, rows, columns=3)
    return figure


def plot_groups(data: ImageData, groups: MistakeGroups, *, count: int = 6, split: str = "test") -> Figure:
    """The first mistakes of every group, a row for each group that has any: see `MistakeGroups.rows` for the order.

    Args:
        data: whose images were evaluated.
        groups: as from `group_mistakes`.
        count: images of a row.
        split: the split that was evaluated.

    Raises:
        ValueError: if `count` < 1, or the mistakes are of other images.
    """
    require(count >= 1, f"`count` needs to be 1 or more: got {count}.")
    names = [name for name in groups.rules if len(groups.rows(name))]
    columns = min(count, max(len(groups.rows(name)) for name in names))
    figure = new_figure(columns * WIDE_TILE + 1.5, len(names) * row_height(WIDE_TILE, 2))
    grid = figure.subplots(len(names), columns, squeeze=False)
    for line, name in zip(grid, names, strict=True):
        mistakes = groups[name]
        label = f"{name}\n{len(mistakes):,} of {len(groups.mistakes):,}\n({len(mistakes) / len(groups.mistakes):.0%})"
        shown = mistakes.head(columns)
        for axes, photo, title in zip(line, photos_of(data, shown, split), titles_of(data, shown), strict=False):
            show_image(axes, photo)
            axes.set_title(title, fontsize=8, parse_math=False)
        _label(line[0], label)
        for spare in line[len(shown) :]:
            spare.remove()
    return figure


def plot_neighbors(data: ImageData, mistakes: Mistakes, neighbors: Neighbors, *, split: str = "test") -> Figure:
    """A row for each mistake: the image, and the training images nearest to it with label and similarity.

    Those labeled as the predicted or the true class are framed in its color.

    Args:
        data: whose images they are.
        mistakes: M of them, at most 60.
        neighbors: theirs, as from `nearest_images`.
        split: the split that the mistakes are from.

    Raises:
        ValueError: if there is no mistake, more than 60, or the numbers differ.
    """
    count, k = neighbors.indices.shape
    require(count == len(mistakes), f"`neighbors` needs an entry for each of {len(mistakes)} mistakes: got {count}.")
    require(count <= _MOST_ROWS, f"`mistakes` needs {_MOST_ROWS} or fewer: got {count}. Pass `mistakes.head(5)`.")
    figure = new_figure((k + 1) * TILE + 1.9, count * row_height(TILE, 2))
    grid = figure.subplots(count, k + 1, squeeze=False)
    photos, titles = photos_of(data, mistakes, split), titles_of(data, mistakes)
    for m, line in enumerate(grid):
        show_image(line[0], photos[m])
        _label(line[0], titles[m])
        draw_neighbors(list(line[1:]), data, mistakes.select([m]), neighbors.select([m]))
    return figure


# --- parts of figures ----------------------------------------------------------------------------------------


@dataclass
class Row:
    """A row of `draw_contrasts`.

    Attributes:
        label: at its left.
        maps: (3, H, W) float: evidence for the true class, negated; for the predicted class; and their sum.
        flat: whether the last is.
        photo: (H, W, 3) in [0, 1], to lay them over; None lays them over white.
    """

    label: str
    maps: np.ndarray
    flat: bool
    photo: np.ndarray | None


def contrast_rows(contrast: Contrast, photos: Sequence[np.ndarray | None]) -> list[Row]:
    """A row for each layer of each image, of which there are `photos`."""
    count = len(photos) * len(contrast.layers)
    require(0 < count <= _MOST_ROWS, f"Mistakes times layers need to be 1 to {_MOST_ROWS} rows: got {count}.")
    maps = torch.stack([-contrast.other_cams, contrast.cams, contrast.difference], dim=2).cpu().numpy()
    flat = contrast.flat.tolist()
    return [
        Row(name, maps[layer, m], flat[layer][m], photo)
        for m, photo in enumerate(photos)
        for layer, name in enumerate(contrast.layers)
    ]


def draw_contrasts(figure: Figure | SubFigure, rows: list[Row], *, columns: int) -> np.ndarray:
    """The maps in the last three of so many columns, with a scale below; returns the grid of axes."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap

    largest = max(float(np.abs(row.maps).max()) for row in rows) or 1.0
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        for axes, values in zip(line[-3:], row.maps, strict=True):
            show_image(axes, colored_map(values / largest, row.photo))
        if row.flat:
            show_image(line[-1], colored_map(row.maps[-1] / largest, row.photo), note="the same everywhere")
        _label(line[-3], row.label)
    for axes, heading in zip(grid[0, -3:], ("true class", "predicted class", "difference"), strict=True):
        axes.set_title(heading, fontsize=9)
    colors = LinearSegmentedColormap.from_list("", [TRUE, "white", PREDICTED])
    scale = ScalarMappable(cmap=colors)
    scale.set_clim(-largest, largest)
    bar = figure.colorbar(scale, ax=grid[:, -3:], location="bottom", aspect=40, shrink=0.9, pad=0.02)
    ends = f"-{largest:.2g}\nfor true", "0", f"{largest:.2g}\nfor predicted"
    bar.set_ticks([-largest, 0, largest], labels=ends, fontsize=8)
    return grid


def _label(axes: Axes, text: str) -> None:
    """Text of several lines at the left of a tile."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)


def colored_map(values: np.ndarray, photo: np.ndarray | None) -> np.ndarray:
    """The color of the class that each place helps, over the pale gray image.

    Args:
        values: (H, W) in [-1, 1], above 0 for the predicted class.
        photo: (H, W, 3) in [0, 1]; None for white.

    Returns:
        (H, W, 3) in [0, 1].
    """
    from matplotlib.colors import to_rgb

    gray = np.ones(values.shape) if photo is None else 0.45 + 0.55 * photo.mean(axis=2)
    color = np.where(values[..., None] > 0, to_rgb(PREDICTED), to_rgb(TRUE))
    weight = 0.9 * np.abs(values)[..., None].clip(0, 1)
    return (1 - weight) * gray[..., None] + weight * color


def draw_neighbors(tiles: Sequence[Axes], data: ImageData, mistake: Mistakes, neighbors: Neighbors) -> None:
    """The k training images nearest to one mistake into k tiles, with label and similarity."""
    near = data.train.images[neighbors.indices[0]].permute(0, 2, 3, 1).numpy()
    colors = {int(mistake.true[0]): TRUE, int(mistake.predicted[0]): PREDICTED}
    for axes, pixels, label, similarity in zip(
        tiles, near, neighbors.labels[0].tolist(), neighbors.similarity[0].tolist(), strict=True
    ):
        show_image(axes, pixels)
        axes.set_title(f"{fill(data.classes[label], 18)}\n{similarity:.2f}", fontsize=8, parse_math=False)
        if label in colors:
            axes.spines[:].set(visible=True, color=colors[label], linewidth=3)


def photos_of(data: ImageData, mistakes: Mistakes, split: str) -> list[np.ndarray]:
    """(H, W, 3) float64 in [0, 1] of every mistake."""
    pixels = [denormalize(images, data.mean, data.std) for _, images in mistakes.batches(data, split)]
    return list(torch.cat(pixels).permute(0, 2, 3, 1).double().numpy().clip(0, 1))


def titles_of(data: ImageData, mistakes: Mistakes) -> list[str]:
    """True and predicted class of every mistake, the latter with its probability."""
    columns = zip(mistakes.true.tolist(), mistakes.predicted.tolist(), mistakes.probability.tolist(), strict=True)
    return [
        _lines(data.classes[true], f"{data.classes[predicted]} {100 * probability:.0f}\u00a0%")
        for true, predicted, probability in columns
    ]


def _lines(true: str, predicted: str) -> str:
    return "\n".join(fill(line, 27) for line in (f"true: {true}", f"predicted: {predicted}"))
