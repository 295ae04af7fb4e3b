"""What the page of a run shows, as HTML without foreign markup: probabilities, maps side by side, messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalib.app_state import METHOD_WORDS, SHOWN, AppState, MistakeView, short_name
from evalib.data.sources import stem_of
from evalib.html_images import photo_uri
from evalib.html_mistakes import strongest_place
from evalib.html_parts import Markup, Part, joined, name, tag
from evalib.html_tables import in_percent
from evalib.image_prediction import ImagePrediction
from evalib.mistake_plots import PREDICTED, TRUE, colored_map

_LARGEST = 448  # pixels a side of a picture on the page
_SMALL = 64  # images up to this size are shown with their pixels
_NAMED = 12  # classes that the head names


def head(state: AppState) -> Markup:
    """The title of the page: the run, its network, and the classes that it knows."""
    classes = state.classifier.classes
    more = len(classes) - _NAMED
    listed = [part for known in classes[:_NAMED] for part in (", ", name(known))][1:]
    return tag(
        "header",
        tag("h1", name(state.name)),
        tag("p", state.summary),
        tag("p", f"It knows {len(classes)} classes: ", listed, f" and {more} more" if more > 0 else "", ".",
            class_="fine"),
        class_="evalib head",
    )  # fmt: skip


def message(text: str, *, wrong: bool = False) -> Markup:
    """A text in place of a result.

    Args:
        text: what to do, or what went wrong.
        wrong: whether something did.
    """
    return tag("p", text, class_="evalib message wrong" if wrong else "evalib message", role="alert" if wrong else None)


def probabilities(names: Sequence[str], shares: Sequence[float], roles: Sequence[str] = ()) -> Markup:
    """Classes with their probabilities as bars.

    Args:
        names: of the classes, the most probable first.
        shares: their probabilities, in [0, 1].
        roles: "predicted", "true" or "" of each; empty for none.
    """
    rows = [
        tag("li", tag("span", name(label), class_="label"),
            tag("span", class_="meter", style=f"--share:{share:.4f}", aria_hidden="true"),
            tag("span", in_percent(share), class_="value"), class_=role or None)
        for label, share, role in zip(names, shares, roles or [""] * len(names), strict=True)
    ]  # fmt: skip
    return tag("ol", rows, class_="bars")


def answer(found: ImagePrediction) -> Markup:
    """What the network says of an image."""
    return tag(
        "section",
        tag("h2", name(found.classes[0]), " ", tag("span", in_percent(found.probabilities[0], 0), class_="fine")),
        probabilities(found.classes, found.probabilities),
        class_="evalib answer",
    )


def maps_of(found: Sequence[ImagePrediction | str]) -> Markup:
    """An image and its maps side by side.

    Args:
        found: the predictions of one image, with maps; a text in place of one that could not be made.
    """
    shown = next((one for one in found if isinstance(one, ImagePrediction)), None)
    if shown is None:
        return joined([message(str(text), wrong=True) for text in found])
    size = shown.image.shape[-1]
    title = short_name(shown.name)
    tiles = [_tile("Image", f"as the network sees it, {size} \u00d7 {size} pixels", shown.image, title)]
    tiles += [_map_tile(one) if isinstance(one, ImagePrediction) else message(one, wrong=True) for one in found]
    scale = tag(
        "p", tag("span", class_="scale", aria_hidden="true"),
        "Blue: says nothing for the class. Red: says most for it. Each map has its own scale.", class_="fine",
    )  # fmt: skip
    heading = tag("h2", "What speaks for ", name(shown.explained), "?")
    return tag("section", heading, tag("div", tiles, class_="tiles"), scale, class_="evalib maps")


def _map_tile(found: ImagePrediction) -> Markup:
    label, words = METHOD_WORDS[found.method]
    if found.is_flat or found.cam is None:
        words, strongest = "No place speaks for this class: the map is empty.", "nowhere"
    else:
        strongest = strongest_place(found.cam)
    pixels = torch.from_numpy(found.overlay()).permute(2, 0, 1)
    alt = f"Map of {found.explained} by {label} at {found.layer}: strongest {strongest}"
    file = "-".join([stem_of(short_name(found.name)), stem_of(found.explained), found.layer.replace(" ", "_")])
    return _tile(label, [tag("b", found.layer), f". {words}"], pixels, alt, file=f"{file}-{found.method}")


def _tile(title: Part, words: Part, pixels: Tensor, alt: str, *, file: str = "") -> Markup:
    """A picture with its caption, and if it has a file name a way to keep it.

    Args:
        title: above.
        words: below.
        pixels: (3, H, W) uint8.
        alt: for those who do not see it.
        file: name of the file without its suffix.
    """
    uri = photo_uri(pixels, _LARGEST)
    suffix = uri.partition("/")[2].partition(";")[0]
    small = "pixelated" if pixels.shape[-1] <= _SMALL else None
    keep = tag("a", "Save", href=uri, download=f"{file}.{suffix}", aria_label=f"Save: {alt}") if file else None
    return tag(
        "figure",
        tag("figcaption", tag("b", title), keep, class_="title"),
        tag("img", src=uri, alt=alt, class_=small),
        tag("figcaption", words, class_="fine"),
    )


# --- mistakes ----------------------------------------------------------------------------------------------------


def mistake(state: AppState, view: MistakeView, method: str) -> Markup:
    """One mistake: what it is, what the network says, and the places that speak for either class.

    Args:
        state: of the page.
        view: the mistake and its maps.
        method: how they were made.
    """
    classes = state.classifier.classes
    chosen, label = classes[view.predicted], classes[view.true]
    return tag(
        "section",
        tag("h2", tag("span", name(chosen), class_="predicted"), " instead of ",
            tag("span", name(label), class_="true")),
        tag("div", _contrast_tiles(view, chosen, label), class_="tiles four"),
        tag("p", tag("span", class_="scale two", aria_hidden="true"), tag("b", name(label), class_="true"),
            ": blue. ", tag("b", name(chosen), class_="predicted"),
            f": orange. The three maps share one scale. {METHOD_WORDS[method][0]}, {view.maps.layers[0]}.",
            class_="fine"),
        _likely(view, classes),
        class_="evalib mistake", style=f"--predicted:{PREDICTED};--true:{TRUE}",
    )  # fmt: skip


def _contrast_tiles(view: MistakeView, chosen: str, label: str) -> list[Markup]:
    """The image, and the maps in the colors of `evalib.mistake_plots.plot_contrasts`."""
    photo = view.photo.permute(1, 2, 0).double().numpy() / 255
    maps = view.maps
    rows: list[tuple[Part, str, Tensor]] = [
        (["For ", name(chosen)], "the predicted class", maps.cams[0, 0]),
        (["For ", name(label)], "the true class", -maps.other_cams[0, 0]),
        ("Difference", "why one and not the other", maps.difference[0, 0]),
    ]
    largest = max(float(values.abs().max()) for _, _, values in rows) or 1.0
    tiles = [_tile("Image", [name(view.name)], view.photo, f"{view.name}: {label}, taken for {chosen}")]
    for (title, words, values), alt in zip(rows, (chosen, label, f"{chosen} less {label}"), strict=True):
        pixels = (255 * colored_map(values.cpu().numpy() / largest, photo)).round().astype(np.uint8)
        tiles.append(_tile(title, words, torch.from_numpy(pixels).permute(2, 0, 1), f"Map of {alt}"))
    return tiles


def _likely(view: MistakeView, classes: Sequence[str]) -> Markup:
    """The three most probable classes, the true one always among them."""
    order = view.probabilities.argsort(descending=True, stable=True)[:3].tolist()
    order = order if view.true in order else [*order[:2], view.true]
    roles = {view.predicted: "predicted", view.true: "true"}
    shares = [float(view.probabilities[index]) for index in order]
    return probabilities([classes[index] for index in order], shares, [roles.get(index, "") for index in order])


def told(state: AppState) -> Markup:
    """How many mistakes there are, and how many of them are shown."""
    count = len(state.mistakes)
    shown = f"{count:,} mistakes" if count else "There is no mistake to look at."
    if count:
        shown += f"; at most {SHOWN} are shown, the surest first." if count > SHOWN else ", the surest first."
    return tag("p", tag("b", state.facts.headline), " ", shown, class_="evalib")
