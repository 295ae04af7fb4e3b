"""The two tabs of the page of a run: their widgets, and what happens when one is used. gradio comes as an argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evalib import app_parts
from evalib.app_state import (
    CONTRAST_METHODS,
    METHOD_WORDS,
    SHOWN,
    AppState,
    chosen_mistakes,
    class_choices,
    explain_choice,
    explain_mistake,
    layer_choices,
    method_choices,
    mistake_choices,
    thumbnails,
)
from evalib.html_parts import Markup, joined
from evalib.image_prediction import ImagePrediction

# Calls of one network wait for each other: they hang hooks into it.
_ONE = {"concurrency_limit": 1, "concurrency_id": "network", "show_progress": "minimal"}
_EMPTY = "Drop an image, or click to choose one: what the network takes it for, and why, appears here."
_LAYER = "Early layers see edges, late ones objects."


def supported(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that a function takes: gradio 5, which Colab has, and gradio 6 differ in some."""
    return {name: value for name, value in settings.items() if name in inspect.signature(function).parameters}


def head_of_page(gr: Any, state: AppState) -> None:
    """What stands above the tabs."""
    _html(gr, app_parts.head(state))


def _html(gr: Any, markup: Markup, **options: Any) -> Any:
    """A place for HTML; only `Markup` comes into one, since gradio escapes nothing."""
    plain = supported(gr.HTML, {"apply_default_css": False, "padding": False})
    return gr.HTML(str(markup), **plain, **options)


# --- one image ---------------------------------------------------------------------------------------------------


def image_tab(gr: Any, state: AppState) -> None:
    """An image, the choices, the maps."""
    with gr.Row(elem_id="image"):
        with gr.Column(scale=1, min_width=280):
            file = gr.File(label="Image: JPEG, PNG, WebP, ...", height=170)
            with gr.Column(visible=False, elem_id="choices") as choices, gr.Group():
                label = gr.Dropdown([], label="Class", info="The most probable ones first.")
                layer = gr.Dropdown(layer_choices(state), value=state.classifier.layers[-1], label="Layer", info=_LAYER)
                method = gr.Dropdown(method_choices(), value="grad_cam", label="Method", info="How the map is made.")
                other = gr.Dropdown([("nothing", ""), *method_choices()], value="layer_cam", label="Compare with",
                                    info="A second method, its map beside the first.")  # fmt: skip
        with gr.Column(scale=3, min_width=280):
            answer = _html(gr, app_parts.message(_EMPTY), elem_id="answer")
            maps = _html(gr, joined([]), elem_id="maps")

    def explain_new(path: str | None, layer: str, method: str, other: str) -> tuple[Any, ...]:
        """Another image: the map is of its prediction, until another class is chosen."""
        nothing = gr.update(visible=False), "", gr.update(choices=[], value=None)
        if path is None:
            return str(app_parts.message(_EMPTY)), *nothing
        try:
            found = explain_choice(state, Path(path), None, layer, method)
        except ValueError as error:
            return str(app_parts.message(str(error), wrong=True)), *nothing
        shown = app_parts.maps_of([found, *_maps(state, path, found.explained, layer, other)])
        chosen = gr.update(choices=class_choices(state, found.all_probabilities), value=found.explained)
        return str(app_parts.answer(found)), gr.update(visible=True), str(shown), chosen

    def explain(path: str | None, label: str | None, layer: str, method: str, other: str) -> str:
        """The maps of a choice, as HTML."""
        return "" if path is None else str(app_parts.maps_of([*_maps(state, path, label, layer, method, other)]))

    chosen, results = [layer, method, other], [answer, choices, maps, label]
    gr.on([file.upload, file.clear], explain_new, [file, *chosen], results, api_name="explain_new", **_ONE)
    gr.on([part.input for part in (label, *chosen)], explain, [file, label, *chosen], maps, api_name="explain", **_ONE)


def _maps(state: AppState, path: str, label: str | None, layer: str, *methods: str) -> Iterator[ImagePrediction | str]:
    """A map by each of the methods that are chosen, or why there is none."""
    for method in filter(None, methods):
        try:
            yield explain_choice(state, Path(path), label, layer, method)
        except ValueError as error:
            yield f"{METHOD_WORDS.get(method, (method,))[0]}: {error}"


# --- mistakes ----------------------------------------------------------------------------------------------------


def mistakes_tab(gr: Any, state: AppState, tab: Any) -> None:
    """A gallery of the mistakes, and beside it the one that is chosen."""
    told = _html(gr, app_parts.message("Testing the network on its test images ..."), elem_id="told")
    choices, true, predicted, layer, method = _mistake_choices(gr, state)
    indices, chosen = gr.State([]), gr.State(None)
    with gr.Row(visible=False) as row:
        with gr.Column(scale=2, min_width=280):
            gallery = _gallery(gr)
        with gr.Column(scale=3, min_width=280):
            view = _html(gr, joined([]), elem_id="mistake")

    show = partial(_mistake, state)

    def open_tab(layer: str, method: str) -> tuple[Any, ...]:
        """All mistakes; or why there are none."""
        try:
            filters = [gr.update(choices=mistake_choices(state, column), value="") for column in ("true", "predicted")]
        except (ValueError, OSError) as error:
            hidden = [gr.update(visible=False)] * 2
            return str(app_parts.message(str(error), wrong=True)), *hidden, *[gr.update()] * 2, [], None, None, ""
        seen = [gr.update(visible=len(state.mistakes) > 0)] * 2
        return str(app_parts.told(state)), *seen, *filters, *choose("", "", layer, method)

    def choose(true: str, predicted: str, layer: str, method: str) -> tuple[Any, ...]:
        """The mistakes of two classes, and the first of them."""
        listed = chosen_mistakes(state, true, predicted).indices[:SHOWN].tolist()
        first = listed[0] if listed else None
        pictures = gr.update(value=thumbnails(state, listed), selected_index=0 if listed else None)
        return listed, first, pictures, show(first, layer, method)

    def pick(listed: list[int], layer: str, method: str, event: Any) -> tuple[int, str]:
        """The mistake that was clicked."""
        return listed[event.index], show(listed[event.index], layer, method)

    pick.__annotations__["event"] = gr.SelectData  # by this gradio knows what to pass; it cannot see local names
    how, results = [layer, method], [indices, chosen, gallery, view]
    tab.select(open_tab, how, [told, choices, row, true, predicted, *results], api_name="mistakes", **_ONE)
    gr.on([true.input, predicted.input], choose, [true, predicted, *how], results, api_name="choose_mistakes", **_ONE)
    gr.on([layer.input, method.input], show, [chosen, *how], view, api_name="explain_mistake", **_ONE)
    private = supported(gallery.select, {"api_visibility": "private"})
    gallery.select(pick, [indices, *how], [chosen, view], **private, **_ONE)


def _gallery(gr: Any) -> Any:
    """Thumbnails to choose from, without the buttons of gradio 6 and of gradio 5."""
    names = ("show_download_button", "show_fullscreen_button", "show_share_button")
    return gr.Gallery(
        label="Mistakes", columns=3, height=480, allow_preview=False, show_label=False, object_fit="cover",
        interactive=False, elem_id="gallery", **supported(gr.Gallery, {"buttons": [], **dict.fromkeys(names, False)}),
    )  # fmt: skip


def _mistake_choices(gr: Any, state: AppState) -> tuple[Any, Any, Any, Any, Any]:
    """A row of widgets, hidden until the mistakes are known: which mistakes, and how their maps are made."""
    with gr.Row(visible=False) as choices:
        true = gr.Dropdown([], label="True class", info="What the image shows.", min_width=160)
        predicted = gr.Dropdown([], label="Predicted class", info="What the network said.", min_width=160)
        layer = gr.Dropdown(layer_choices(state), value=state.classifier.layers[-1], label="Layer", info=_LAYER,
                            min_width=160)  # fmt: skip
        method = gr.Dropdown(method_choices(CONTRAST_METHODS), value="hires_cam", label="Method", min_width=160,
                             info="How the maps are made.")  # fmt: skip
    return choices, true, predicted, layer, method


def _mistake(state: AppState, index: int | None, layer: str, method: str) -> str:
    """One mistake, as HTML."""
    if index is None:
        return str(app_parts.message("No mistake is of these two classes. Choose others."))
    try:
        return str(app_parts.mistake(state, explain_mistake(state, index, layer, method), method))
    except ValueError as error:
        return str(app_parts.message(str(error), wrong=True))
