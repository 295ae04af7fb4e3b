"""The page of a run: drop an image and see why, or look through the mistakes. It needs gradio, `evalib[app]`.

>>> page = evalib.open_app("runs/demo")  # in a notebook it opens below the cell, elsewhere in the browser
>>> page.close()
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalib.app_state import load_state
from evalib.app_tabs import head_of_page, image_tab, mistakes_tab, supported
from evalib.html_parts import asset

if TYPE_CHECKING:
    import torch

    from evalib.data.image_data import ImageData

# Nothing is told to gradio's makers, and no result is kept in the browser.
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "True"}


def build_app(
    run: str | Path,
    *,
    data: ImageData | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Any:
    """The page of a run as `gradio.Blocks`, not launched yet; `open_app` does both.

    Args:
        run: a run directory.
        data: its data; None loads them as the checkpoint says, when the mistakes are looked at.
        data_dir: where they are; None for where they were.
        device: where the network runs; None takes the best one here.

    Raises:
        ImportError: if gradio is missing.
        FileNotFoundError, ValueError: as `evalib.classifier.load`.
    """
    with _quietly():
        gr = _gradio()
        state = load_state(run, data=data, data_dir=data_dir, device=device)
        # what is dropped is deleted after a day, and when the page is closed
        with gr.Blocks(
            title=state.name,
            analytics_enabled=False,
            delete_cache=(3600, 86400),
            **supported(gr.Blocks.__init__, _look(gr)),
        ) as page:
            head_of_page(gr, state)
            with gr.Tabs():
                with gr.Tab("Your image"):
                    image_tab(gr, state)
                with gr.Tab("Mistakes") as tab:
                    mistakes_tab(gr, state, tab)
    return page


def open_app(
    run: str | Path,
    *,
    data: ImageData | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    port: int | None = None,
    share: bool = False,
    browser: bool = True,
) -> Any:
    """Open the page of a run: below the cell in a notebook, Colab's too; elsewhere in the browser.

    Only this machine can reach it, unless it is shared. It answers until the process ends or `.close()` is called; a
    script that shall wait for that calls `.block_thread()`.

    Args:
        run, data, data_dir, device: as in `build_app`.
        port: where it listens; None takes the first free one from 7860 on.
        share: whether to make a public link through gradio's servers: whoever has it can use the page, for a week.
        browser: whether to open a browser, outside of notebooks.

    Returns:
        The page, `gradio.Blocks`; `.local_url` is its address, `.share_url` the public one.

    Raises:
        ImportError: if gradio is missing.
        OSError: if the port is taken.
        FileNotFoundError, ValueError: as `evalib.classifier.load`.
    """
    page = build_app(run, data=data, data_dir=data_dir, device=device)
    with _quietly():
        gr = _gradio()
        try:
            page.launch(
                server_name="127.0.0.1",
                server_port=port,
                share=share,
                inbrowser=browser and not gr.utils.ipython_check(),
                prevent_thread_lock=True,
                height=900,
                max_file_size="100mb",
                quiet=True,
                ssr_mode=False,
                **supported(page.launch, _look(gr) | {"footer_links": [], "show_api": False}),
            )
        except OSError as error:
            if port is not None and "empty port" in str(error):
                raise OSError(f"Port {port} is taken. Name another one, or none for the first that is free.") from error
            raise
    return page


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The page needs gradio: pip install "evalib[app]"') from error
    return gradio


def _look(gr: Any) -> dict[str, Any]:
    # `css` would be rewritten, and media queries with it
    return {"theme": _theme(gr), "head": f"<style>{asset('app.css')}</style>"}


def _theme(gr: Any) -> Any:
    """Fonts of the system, since others come from elsewhere, and small print that can be read."""
    font, mono = gr.themes.Font("system-ui"), gr.themes.Font("ui-monospace")
    theme = gr.themes.Default(primary_hue="blue", font=[font], font_mono=[mono])
    gray = {"body_text_color_subdued": "*neutral_500", "block_info_text_color": "*neutral_500"}
    return theme.set(**gray)


@contextmanager
def _quietly() -> Iterator[None]:
    """gradio under `_QUIET`; the variables are put back."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # gradio 5 of what gradio 6 moves
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
