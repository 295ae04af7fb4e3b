"""What the figures share: empty figures, tiles for images, checks, and the way to a file.

Every figure is closed in pyplot already: as the last line of a notebook cell it is shown once, `save_figure` writes
it, and no open figures pile up. rcParams and the backend stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evalib.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart by the color-blind; without their yellow, which is too pale for a line
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TILE = 1.3  # inches, 143 pixels: a 32x32 image enlarged about four times
WIDE_TILE = TILE + 0.5  # for a title of several words


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, made by pyplot so that notebooks can show it, closed before anything can fail."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height), dpi=110, layout="constrained")
    plt.close(figure)
    return figure


def row_height(size: float, title_lines: int) -> float:
    """Inches that a tile and the lines of its title take, at a font size of 9 or less."""
    return size + 0.16 * title_lines + 0.1


def gallery(count: int, columns: int, *, title_lines: int, size: float = TILE) -> tuple[Figure, list[Axes]]:
    """A figure with `count` tiles of `size` inches, titles above, at most `columns` to a row."""
    columns, rows = min(columns, count), -(-count // columns)
    figure = new_figure(columns * size, rows * row_height(size, title_lines))
    tiles = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in tiles[count:]:
        spare.remove()
    return figure, tiles[:count]


def show_image(axes: Axes, pixels: np.ndarray, *, note: str = "") -> None:
    """An (H, W, 3) image alone: no ticks, no frame, the pixels of a small image square; `note` on top."""
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) <= 64 else "antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if note:
        box = {"facecolor": "0.2", "edgecolor": "none", "pad": 2}
        axes.text(0.5, 0.05, note, transform=axes.transAxes, ha="center", size=8, color="white", bbox=box)


def save_figure(fig: Figure, path: str | Path) -> Path:
    """The path of the PNG file just written, whole or not at all; its folder is made if need be.

    Raises:
        ValueError: if the name does not end in `.png` (lossless: JPEG would smear the pixels).
        OSError: if the file cannot be written; an older one is then untouched.
    """
    path = Path(path)
    require(path.suffix.lower() == ".png", f"`path` needs to end in .png: got {path.name!r}.")
    with replacing(path) as temporary:
        fig.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.08)
    return path


def require(condition: bool, message: str) -> None:
    """ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def unit_array(name: str, values: Tensor | np.ndarray, *, ndim: int) -> np.ndarray:
    """`values` as float64 on the CPU; what rounding put beyond [0, 1] is cut off, more is an error."""
    tensor = torch.as_tensor(values).detach().cpu()
    came, fits = f"{tuple(tensor.shape)} {tensor.dtype}", tensor.dim() == ndim and tensor.is_floating_point()
    require(fits, f"`{name}` needs {ndim} dimensions of floats: got {came}. Divide uint8 images by 255.")
    low, high = (float(tensor.min()), float(tensor.max())) if tensor.numel() else (0.0, 0.0)
    fits = low >= -1e-3 and high <= 1 + 1e-3  # false for NaN, too
    require(fits, f"`{name}` needs values in [0, 1]: got {low:.4g} to {high:.4g}. Use `transforms.denormalize`.")
    return tensor.double().clamp(0, 1).numpy()
