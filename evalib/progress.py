"""Progress bars: in terminals and notebooks, and silent where nobody watches."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any


def notebook_shell() -> Any | None:
    """IPython's shell if it runs a notebook, whose outputs can be redrawn; None in a terminal and in plain Python."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell if hasattr(shell, "kernel") else None


def progress_bar(progress: bool | None, **settings: Any) -> Any:
    """A tqdm bar with the time left.

    Args:
        progress: whether to show it; None shows it in notebooks and terminals, and not in a log file.
        settings: as tqdm takes them: total, initial, desc, unit and so on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets tqdm warns, and draws its bar as text
        from tqdm.auto import tqdm

    if progress is None and notebook_shell() is not None:  # tqdm's own check sees no terminal there
        progress = True
    if _without_size(sys.stderr):  # tqdm would draw nothing at all
        settings = {"ncols": 100, "nrows": 20} | settings
    return tqdm(disable=None if progress is None else not progress, **settings)


def _without_size(file: Any) -> bool:
    """Whether this is a terminal that does not know its size, as those that programs make often are."""
    try:
        return 0 in os.get_terminal_size(file.fileno())
    except (OSError, ValueError, AttributeError):
        return False
