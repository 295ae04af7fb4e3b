"""Learning curves: of finished runs, and of a run while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from evalib.figures import COLORS, new_figure, require
from evalib.history import EpochRecord, History
from evalib.progress import notebook_shell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {"train": "--o", "test": "-o", "val": ":x"}


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
    require(len(runs) > 0, "`histories` needs at least one run: got none.")
    for name, run in runs.items():
        if not isinstance(run, History):
            raise TypeError(f"`histories` needs a History, or several by name: got {type(run).__name__}.")
        require(len(run.epochs) > 0, f"`histories` needs an epoch in every run: {name or 'it'} has none.")
    last = max(run.epochs[-1].epoch for run in runs.values())
    step = next((step for step in (1, 5, 10, 20, 50, 100, 200) if last <= 12 * step), 500)
    figure = new_figure(9.5, 3.9 + 0.2 * len(runs))
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
