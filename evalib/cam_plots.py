"""Figures about maps: methods by layers as heat tables, curves of removal, the maps themselves side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evalib.faithfulness import Curves
from evalib.figures import COLORS, TILE, new_figure, require, show_image, unit_array
from evalib.perturbation import flat_maps
from evalib.ranking import CENTER, Ranking
from evalib.sanity import CONTROLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
_MAP_COLORS = "magma"  # even in brightness, so that it also reads in gray and to the color-blind


def plot_ranking(ranking: Ranking) -> Figure:
    """A table for each figure that counts: methods down, layers across, the mean in each cell and as its color.

    Bright is good; the best kind of map is framed, what must not be chosen is hatched. Controls stand in the titles.
    """
    methods, layers = (
        list(dict.fromkeys(names)) for names in zip(*((c.method, c.layer) for c in ranking.candidates), strict=True)
    )
    across = min(2, len(ranking.figures))
    down = -(-len(ranking.figures) // across)
    longest = max(map(len, methods))
    width = max(0.85 * len(layers) + 0.5, 3.8)  # room for the controls above
    figure = new_figure(across * width + 0.08 * longest, down * (0.42 * len(methods) + 1.1) + 0.3)
    grid = figure.subplots(down, across, squeeze=False)
    panels = list(grid.flat)
    for axes, name in zip(panels, ranking.figures, strict=False):
        _heat_table(axes, ranking, name, methods, layers)
    for axes in panels[1::across]:
        axes.tick_params(labelleft=False)
    for spare in panels[len(ranking.figures) :]:
        spare.remove()
    best = "nothing may be chosen" if ranking.best is None else f"framed: the best, {ranking.best.name}"
    figure.supxlabel(f"hatched: left out; {best}", fontsize=9, parse_math=False)
    return figure


def _heat_table(axes: Axes, ranking: Ranking, name: str, methods: list[str], layers: list[str]) -> None:
    from matplotlib.colors import Normalize

    controls = {key: ranking.controls[key][name].mean for key in (*CONTROLS, CENTER)}
    good = [candidate.scores[name].mean for candidate in ranking.candidates if not candidate.problems]
    scale = Normalize(min([*controls.values(), *good]), max([*controls.values(), *good]))
    for candidate in ranking.candidates:
        place = layers.index(candidate.layer), methods.index(candidate.method)
        value = candidate.scores[name].mean
        _cell(axes, place, value, None if candidate.problems else float(scale(value)), candidate is ranking.best)
    axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(len(methods) - 0.5, -0.5))
    axes.set_xticks(range(len(layers)), [layer.replace(" ", "\n") for layer in layers], parse_math=False)
    axes.set_yticks(range(len(methods)), methods, parse_math=False)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{name}\n", fontsize=10)
    beside = "   ".join(f"{key}: {value:.3f}" for key, value in controls.items())
    axes.text(0.5, 1.02, beside, transform=axes.transAxes, ha="center", va="bottom", fontsize=8, color="0.3")


def _cell(axes: Axes, place: tuple[int, int], value: float, shade: float | None, best: bool) -> None:
    """One value as a cell of a shade in [0, 1], hatched if that is None."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    column, row = place
    style: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.8", "hatch": "////", "linewidth": 0}
    words: dict[str, Any] = {"color": "0.3", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
    if shade is not None:
        style = {"facecolor": colormaps["cividis"](shade), "edgecolor": "white"}
        words = {"color": "black" if shade > 0.55 else "white"}
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **style))
    text = "n/a" if math.isnan(value) else f"{value:.3f}"
    axes.text(column, row, text, ha="center", va="center", fontsize=8, **words)
    if best:
        frame: dict[str, Any] = {"fill": False, "edgecolor": COLORS[1], "linewidth": 2.5}
        axes.add_patch(Rectangle((column - 0.45, row - 0.42), 0.9, 0.84, **frame))


def plot_removal_curves(curves: Mapping[str, Curves]) -> Figure:
    """Deletion (left) and insertion (right): the mean probability of the class, with bands of one standard error.

    Images with a flat map are left out; `n` counts the others. The areas under the curves stand in the legend.

    Args:
        curves: of 1 to 7 kinds of maps by name, as from `evalib.faithfulness.deletion_insertion`.

    Raises:
        ValueError: if there is no kind, more than 7, or one whose maps are all flat.
    """
    require(0 < len(curves) <= len(COLORS), f"`curves` needs 1 to {len(COLORS)} kinds of maps: got {len(curves)}.")
    figure = new_figure(8.5, 3.3 + 0.2 * len(curves))
    panels = figure.subplots(1, 2, sharey=True)
    for (name, found), color, line in zip(curves.items(), COLORS, _LINES, strict=False):
        areas = found.scores
        n = areas["deletion"].n
        require(n > 0, f"`curves` of {name!r} needs a map that is not flat: got none.")
        told = ", ".join(f"{key} {areas[key].mean:.3f}" for key in ("deletion", "insertion"))
        for axes, values in zip(panels, (found.deletion, found.insertion), strict=True):
            values = values[~values.isnan().any(dim=1)]
            percent, mean = 100 * found.fractions, values.mean(dim=0)
            axes.plot(percent, mean, color=color, linestyle=line, label=f"{name}: {told}, n = {n:,}")
            if n > 1:
                error = values.std(dim=0) / n**0.5
                axes.fill_between(percent, mean - error, mean + error, color=color, alpha=0.18, linewidth=0)
    for axes, title, label in (
        (panels[0], "Deletion: low is good", "pixels removed (%), strongest first"),
        (panels[1], "Insertion: high is good", "pixels put back (%), strongest first"),
    ):
        axes.set(title=title, xlabel=label, xlim=(0, 100), ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("probability of the class, ± 1 standard error")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=9, frameon=False, handlelength=3.5)
    return figure


def plot_map_grid(image: Tensor | np.ndarray, cams: Mapping[str, Tensor], *, layer_names: Sequence[str]) -> Figure:
    """Maps of one image: a row per method, a column per layer; bright is strong. A flat map says so.

    Args:
        image: (3, H, W) float in [0, 1], as `evalib.transforms.denormalize` gives it.
        cams: maps (L, H, W) in [0, 1] by method, as `explain_methods(...)` gives them for each image.
        layer_names: L column headings.

    Raises:
        ValueError: if there is no method, or a shape, length or range does not fit.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    photo, columns = unit_array("image", image, ndim=3), len(layer_names)
    height, width = photo.shape[1:]
    require(len(cams) > 0 and columns > 0, f"`cams`, `layer_names` need one or more: got {len(cams)} and {columns}.")
    side = 0.085 * max(map(len, cams)) + 0.2
    figure = new_figure(side + (columns + 1) * TILE + 0.7, len(cams) * TILE * height / width + 0.35)
    grid = figure.subplots(len(cams), columns + 1, squeeze=False)
    for axes, (method, given) in zip(grid, cams.items(), strict=True):
        maps = unit_array(method, given, ndim=3)
        needed = (columns, height, width)
        require(maps.shape == needed, f"`cams` of {method!r} needs shape {needed}: got {maps.shape}.")
        show_image(axes[0], photo.transpose(1, 2, 0))
        axes[0].set_ylabel(method, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
        flat = flat_maps(torch.from_numpy(maps))
        for tile, cam, is_flat in zip(axes[1:], maps, flat, strict=True):
            show_image(tile, colormaps[_MAP_COLORS](cam)[..., :3], note="flat" if is_flat else "")
    for tile, heading in zip(grid[0], ("image", *layer_names), strict=True):
        tile.set_title(heading, fontsize=9, parse_math=False)
    bar = figure.colorbar(ScalarMappable(cmap=_MAP_COLORS), ax=list(grid.flat), aspect=30, ticks=[0, 1])
    bar.ax.set_yticklabels(["weakest\npixel", "strongest\npixel"], fontsize=8)
    bar.outline.set_visible(False)
    return figure
