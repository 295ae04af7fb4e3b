"""Figures: curves, galleries, the confusion matrix, class activation maps over their images.

Every figure returned is closed in pyplot already: as the last line of a notebook cell it is shown once,
`save_figure` writes it, and no open figures pile up. rcParams and the backend stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from evalib.cam import empty_maps
from evalib.data.image_data import ImageData
from evalib.history import EpochRecord, History
from evalib.metrics import per_class_accuracy
from evalib.mistakes import Mistakes
from evalib.progress import notebook_shell
from evalib.runtime import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart by the color-blind; without their yellow, which is too pale for a line
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = {"train": "--o", "test": "-o", "val": ":x"}
TILE = 1.3  # inches, 143 pixels: a 32x32 image enlarged about four times


def plot_history(histories: History | Mapping[str, History]) -> Figure:
    """Loss (left) and accuracy in % (right) over one epoch axis: train dashed, test solid, val dotted.

    Args:
        histories: one run, or several by name, each in its own color (an eighth has the first one again).
            The legend gives the test accuracy of the LAST epoch: the best epoch on the test set is no result.

    Raises:
        TypeError: if a value is not a `History`.
        ValueError: if there is no run, or a run has no epoch.
    """
    runs = dict(histories) if isinstance(histories, Mapping) else {"": histories}
    _require(len(runs) > 0, "`histories` needs at least one run: got none.")
    for name, run in runs.items():
        if not isinstance(run, History):
            raise TypeError(f"`histories` needs a History, or several by name: got {type(run).__name__}.")
        _require(len(run.epochs) > 0, f"`histories` needs an epoch in every run: {name or 'it'} has none.")
    last = max(run.epochs[-1].epoch for run in runs.values())
    step = next((step for step in (1, 5, 10, 20, 50, 100, 200) if last <= 12 * step), 500)
    figure = _new_figure(9.5, 3.9 + 0.2 * len(runs))
    panels = figure.subplots(1, 2)
    for axes, title in zip(panels, ("Loss", "Accuracy (%)"), strict=True):
        axes.set(title=title, xlabel="epoch", xticks=[1, *range(max(step, 2), last + 1, step)])
        axes.grid(color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for (name, run), color in zip(runs.items(), cycle(COLORS), strict=False):
        _draw_run(panels, run, color=color, name=name)
    panels[1].set_ylim(top=min(panels[1].get_ylim()[1], 101.0))
    longest = max(len(str(line.get_label())) for line in panels[0].lines)
    columns = max(1, min(137 // (8 + longest), len(runs) if len(runs) > 1 else len(STYLES)))
    figure.legend(handles=panels[0].lines, loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def plot_samples(data: ImageData) -> Figure:
    """The first training image of every class, in the order of `data.classes`, ten to a row."""
    titles = [fill(name, 18) for name in data.classes]
    figure, tiles = _gallery(len(titles), 10, title_lines=1 + max(title.count("\n") for title in titles))
    for class_idx, (axes, title) in enumerate(zip(tiles, titles, strict=True)):
        members = torch.nonzero(data.train.labels == class_idx).flatten().tolist()
        pixels = data.train.images[members[0]].permute(1, 2, 0).numpy() if members else np.ones((1, 1, 3))
        _show(axes, pixels, note="" if members else "no training image")
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
    _require(count > 0, "no misclassified image to show: `mistakes` is empty. Check `len(mistakes)` first.")
    _require(count <= 200, f"`mistakes` needs 200 images or fewer: got {count}. Pass `mistakes.head(20)`.")
    _require(columns >= 1, f"`columns` needs to be 1 or more: got {columns}.")
    images = mistakes.images(data.test).permute(0, 2, 3, 1).numpy()
    figure, tiles = _gallery(count, columns, title_lines=2, width=TILE + 0.5)
    for m, axes in enumerate(tiles):
        _show(axes, images[m])
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
    _require(counts.shape == (size, size), f"`confusion` needs shape ({size}, {size}): got {counts.shape}.")
    valid = counts.dtype.kind in "iu" and counts.min() >= 0 and counts.any()
    _require(bool(valid), "`confusion` needs integer counts >= 0, not all 0, as `confusion_matrix` gives them.")
    total, right = int(counts.sum()), int(counts.trace())
    cell, font = (0.52, 9) if size <= 25 else (0.15, 6)
    figure = _new_figure(max(size * cell, 2.0) + 2.2, max(size * cell, 2.0) + 1.5)
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

    photo, heat = _unit_array("image", image, ndim=3), _unit_array("cam", cam, ndim=2)
    _require(photo.shape == (3, *heat.shape), f"`image` needs {(3, *heat.shape)}, as `cam`: got {photo.shape}.")
    _require(0 <= alpha <= 1, f"`alpha` needs to be in [0, 1]: got {alpha}.")
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
    photos, maps = _unit_array("images", images, ndim=4), _unit_array("cams", cams, ndim=4)
    (layers, rows, height, width), shapes = maps.shape, f"{photos.shape} and {maps.shape}"
    fits = photos.shape == (rows, 3, height, width) and maps.size > 0
    _require(fits, f"`images` and `cams` need (N, 3, H, W) and (L, N, H, W), none of them 0: got {shapes}.")
    given = (len(layer_names), len(row_titles))
    _require(given == (layers, rows), f"`layer_names`, `row_titles` need {layers}, {rows} entries: got {given}.")
    longest = max(len(line) for title in row_titles for line in ["", *title.splitlines()])
    figure = _new_figure((layers + 1) * TILE + 0.075 * longest + 0.1, rows * TILE * height / width + 0.3)
    grid = figure.subplots(rows, layers + 1, squeeze=False)
    empty = empty_maps(torch.from_numpy(maps)).tolist()
    for row, title in enumerate(row_titles):
        photo = photos[row].transpose(1, 2, 0)
        _show(grid[row, 0], photo)
        grid[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
        for layer in range(layers):
            pixels = photo if empty[layer][row] else overlay_cam(photos[row], maps[layer, row])
            _show(grid[row, layer + 1], pixels, note="no evidence" if empty[layer][row] else "")
    for tile, heading in zip(grid[0], ("image", *layer_names), strict=True):
        tile.set_title(heading, fontsize=9, parse_math=False)
    return figure


class LiveCurves:
    """The curves of a run while it trains, redrawn in one notebook output: `fit(..., on_epoch=LiveCurves())`.

    Outside a notebook a call does nothing. Another run, or another run of the cell, begins a new output.
    """

    def __init__(self) -> None:
        self._display_ids: dict[tuple[int, EpochRecord], str] = {}

    def __call__(self, history: History) -> None:
        shell = notebook_shell()
        if shell is None or not history.epochs:
            return
        from IPython.display import display, update_display

        output = (shell.execution_count, history.epochs[0])
        show = update_display if output in self._display_ids else display
        show(plot_history(history), display_id=self._display_ids.setdefault(output, uuid4().hex))


def save_figure(fig: Figure, path: str | Path) -> Path:
    """The path of the PNG file just written, whole or not at all; its folder is made if need be.

    Raises:
        ValueError: if the name does not end in `.png` (lossless: JPEG would smear the pixels).
        OSError: if the file cannot be written; an older one is then untouched.
    """
    path = Path(path)
    _require(path.suffix.lower() == ".png", f"`path` needs to end in .png: got {path.name!r}.")
    with replacing(path) as temporary:
        fig.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.08)
    return path


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _unit_array(name: str, values: Tensor | np.ndarray, *, ndim: int) -> np.ndarray:
    """`values` as float64 on the CPU; what rounding put beyond [0, 1] is cut off, more is an error."""
    tensor = torch.as_tensor(values).detach().cpu()
    came, fits = f"{tuple(tensor.shape)} {tensor.dtype}", tensor.dim() == ndim and tensor.is_floating_point()
    _require(fits, f"`{name}` needs {ndim} dimensions of floats: got {came}. Divide uint8 images by 255.")
    low, high = (float(tensor.min()), float(tensor.max())) if tensor.numel() else (0.0, 0.0)
    fits = low >= -1e-3 and high <= 1 + 1e-3  # false for NaN, too
    _require(fits, f"`{name}` needs values in [0, 1]: got {low:.4g} to {high:.4g}. Use `transforms.denormalize`.")
    return tensor.double().clamp(0, 1).numpy()


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure, made by pyplot so that notebooks can show it, closed before anything can fail."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height), dpi=110, layout="constrained")
    plt.close(figure)
    return figure


def _gallery(count: int, columns: int, *, title_lines: int, width: float = TILE) -> tuple[Figure, list[Axes]]:
    """A figure with `count` tiles, at most `columns` to a row."""
    columns, rows = min(columns, count), -(-count // columns)
    figure = _new_figure(columns * width, rows * (TILE + 0.16 * title_lines))
    tiles = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in tiles[count:]:
        spare.remove()
    return figure, tiles[:count]


def _show(axes: Axes, pixels: np.ndarray, *, note: str = "") -> None:
    """An (H, W, 3) image alone: no ticks, no frame, the pixels of a small image square; `note` on top."""
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) <= 64 else "antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if note:
        box = {"facecolor": "0.2", "edgecolor": "none", "pad": 2}
        axes.text(0.5, 0.05, note, transform=axes.transAxes, ha="center", size=8, color="white", bbox=box)


def _draw_run(panels: Sequence[Axes], run: History, *, color: str, name: str) -> None:
    """Loss and accuracy of a run; an epoch without a value is a gap, a split without any has no line."""
    last, ending = run.epochs[-1], ", interrupted" if run.interrupted else ""
    result = f": {100 * last.test_accuracy:.2f} % at epoch {last.epoch}{ending}"
    look: dict[str, Any] = {"color": color, "markersize": 4 if len(run.epochs) <= 12 else 0}
    for split, style in STYLES.items():
        look["label"] = f"{split} {name}".strip().replace("$", r"\$") + (result if split == "test" else "")
        look["fillstyle"] = "none" if split == "train" else "full"
        for axes, measure, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=True):
            values = [math.nan if v is None else scale * v for v in run.column(f"{split}_{measure}")]
            if split != "val" or not all(map(math.isnan, values)):
                axes.plot(run.column("epoch"), values, style, **look)
