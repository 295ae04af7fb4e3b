"""What the network is given: batches as a loader yields them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from evalib.figures import gallery, require, show_image
from evalib.transforms import Channels, denormalize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_batches(batches: Mapping[str, Tensor], mean: Channels, std: Channels, *, count: int = 10) -> Figure:
    """The first images of several batches, a row for each, the colors as they were before normalization.

    Args:
        batches: (N, 3, H, W) float normalized, by the title of their row.
        mean: that they were normalized by.
        std: likewise.
        count: images to a row, fewer where a batch has fewer.

    Raises:
        ValueError: if there is no image to show.
    """
    count = min([count, *map(len, batches.values())])
    require(bool(batches) and count > 0, "`batches` needs at least one batch, and an image in each: got none.")
    figure, tiles = gallery(len(batches) * count, count, title_lines=1)
    for row, (title, images) in enumerate(batches.items()):
        pixels = denormalize(images[:count].cpu(), mean, std).permute(0, 2, 3, 1).numpy()
        for column, axes in enumerate(tiles[row * count : (row + 1) * count]):
            show_image(axes, pixels[column])
        tiles[row * count].set_title(title, fontsize=9, loc="left", parse_math=False)
    return figure
