"""The story of one mistake in one figure.

>>> mistakes = find_mistakes(evaluate(model, eval_loader(data))).by_confidence()
>>> plot_mistake(model, data, mistakes)                 # the most confident one
>>> plot_mistake(model, data, mistakes.select([7]))     # another one
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from torch import Tensor, nn

from evalib.cam_layers import Layers, cam_layers
from evalib.contrast import contrast_mistakes
from evalib.data.image_data import ImageData
from evalib.figures import TILE, new_figure, require, row_height, show_image
from evalib.map_makers import logits_in_batches
from evalib.mistake_plots import PREDICTED, TRUE, contrast_rows, draw_contrasts, draw_neighbors, photos_of, titles_of
from evalib.mistakes import Mistakes
from evalib.neighbors import Neighbors, nearest_images
from evalib.runtime import eval_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_mistake(
    model: nn.Module,
    data: ImageData,
    mistakes: Mistakes,
    layers: Layers = None,
    *,
    method: str = "hires_cam",
    neighbors: Neighbors | None = None,
    k: int = 6,
    split: str = "test",
) -> Figure:
    """The first of some mistakes: what it is, what the network says, where it sees it, and what it is like.

    Left: the image and the highest probabilities. Right: for each layer the evidence for the true and for the predicted
    class and their difference, as in `evalib.mistake_plots.plot_contrasts`. Below: the nearest training images, as in
    `plot_neighbors`. One color stands for the true class throughout, another one for the predicted.

    Args:
        model: a network that ends in a linear layer.
        data: whose image it is.
        mistakes: at least one.
        layers, method: as for `evalib.contrast.contrast`; None takes the last three of `cam_layers(model, images)`.
        neighbors: of these mistakes, if there are any from `nearest_images` already: their search takes a pass over
            all training images.
        k: how many training images to search for without them.
        split: the split that the mistake is from.

    Raises:
        TypeError, ValueError: as `contrast_mistakes` and `nearest_images`.
    """
    require(len(mistakes) > 0, "No misclassified image to explain: `mistakes` is empty.")
    one = mistakes.head(1)
    near = nearest_images(model, data, one, k=k, split=split) if neighbors is None else neighbors.select([0])
    if layers is None and method != "cam":
        layers = list(cam_layers(model, next(one.batches(data, split))[1]))[-3:]
    contrast = contrast_mistakes(model, data, one, layers, method=method, split=split, progress=False)
    (photo,) = photos_of(data, one, split)
    heights = max(3.2, len(contrast.layers) * row_height(TILE, 0) + 0.9), row_height(TILE, 3) + 0.1
    tiles = near.indices.shape[1]
    figure = new_figure(max(3.4 + 3 * TILE + 0.7, tiles * TILE + 0.2), sum(heights))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    left, right = above.subfigures(1, 2, squeeze=False, width_ratios=[3.4, 3 * TILE + 0.7])[0]
    picture, bars = left.subplots(2, 1, height_ratios=[3, 2])
    show_image(picture, photo)
    picture.set_title(titles_of(data, one)[0], fontsize=9, parse_math=False)
    _draw_probabilities(bars, _probabilities(model, data, one, split), one, data.classes)
    draw_contrasts(right, contrast_rows(contrast, [photo]), columns=3)
    below.suptitle("nearest training images by feature (cosine similarity)", fontsize=9)
    draw_neighbors(below.subplots(1, tiles, squeeze=False)[0], data, one, near)
    return figure


def _draw_probabilities(axes: Axes, probabilities: Tensor, mistake: Mistakes, classes: Sequence[str]) -> None:
    """The five highest, and the true class's if it is not among them."""
    true, predicted = int(mistake.true[0]), int(mistake.predicted[0])
    shown = probabilities.argsort(descending=True, stable=True)[:5].tolist()
    shown += [] if true in shown else [true]
    percent = [100 * float(probabilities[label]) for label in shown]
    colors = {true: TRUE, predicted: PREDICTED}
    bars = axes.barh(range(len(shown)), percent, color=[colors.get(label, "0.7") for label in shown])
    axes.bar_label(bars, [f"{value:.0f} %" for value in percent], padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), [fill(classes[label], 30) for label in shown], fontsize=7.5, parse_math=False)
    axes.set(xticks=[], xlim=(0, 1.25 * max(percent)))
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _probabilities(model: nn.Module, data: ImageData, mistake: Mistakes, split: str) -> Tensor:
    """(C,) float32 on the CPU."""
    ((_, images),) = mistake.batches(data, split)
    with eval_mode(model):
        return logits_in_batches(model, images).softmax(dim=1)[0]
