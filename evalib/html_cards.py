"""The card of a mistake: image, maps, probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evalib.contrast import Contrast
from evalib.html_images import Sprite, maps_sprite, photo_uri
from evalib.html_mistakes import Gallery, strongest_place
from evalib.html_parts import Markup, name, tag
from evalib.html_tables import in_percent
from evalib.html_tested import Tested

# What a kind is called on a card
KINDS = {"label suspect": "suspect label", "confident": "confident", "near tie": "near tie", "unsure": "unsure"}
TOP = 3


def mistake_card(test: Tested, gallery: Gallery, place: int) -> Markup:
    """One mistake: the image, its maps at every layer, the most probable classes.

    Args:
        test: what the network says of the test images.
        gallery: the mistakes that are shown.
        place: of this one among them.
    """
    row = int(gallery.rows[place])
    mistakes = gallery.groups.mistakes
    index, true, predicted = (int(column[row]) for column in (mistakes.indices, mistakes.true, mistakes.predicted))
    kind, label, chosen = gallery.kind(place), test.classes[true], test.classes[predicted]
    sure = float(mistakes.probability[row])
    photo = photo_uri(gallery.photos[place])
    alt = f"{gallery.names[place]}: true {label}, predicted {chosen} with {in_percent(sure, 0)}"
    pictures = f"--photo:url({photo})"
    maps: list[Markup] = []
    if gallery.maps is not None:
        sprite, maps = _maps(test.classes, gallery.maps, place)
        pictures += f";--maps:url({sprite.uri});--size:{sprite.size}"
    pixelated = "pixelated" if gallery.photos.shape[-1] <= 64 else ""
    heading = tag(
        "h3", tag("span", name(chosen), class_="predicted"), " ", tag("span", in_percent(sure, 0), class_="sure"),
        tag("span", " instead of ", class_="instead"), tag("span", name(label), class_="true"),
    )  # fmt: skip
    image = tag("img", src=photo, alt=alt, width=160, height=160, decoding="async")
    picture = tag("button", image, type="button", class_="photo", aria_label=f"Enlarge {alt}")
    return tag(
        "article",
        tag("header", tag("span", KINDS[kind], class_=f"badge {kind.replace(' ', '-')}"),
            tag("span", name(gallery.names[place]), class_="file")),
        heading,
        tag("div", tag("div", picture, tag("span", "image", class_="tile-label"), class_="main"), maps,
            class_=f"views {pixelated}".strip()),
        _likely(test, gallery, place, true, predicted),
        tag("p", _evidence_words(gallery, row), class_="fine"),
        class_="card", id=f"mistake-{index}", style=pictures, data_true=true, data_predicted=predicted, data_kind=kind,
        data_confidence=sure, data_loss=float(gallery.groups.loss[row]), data_index=index, data_place=place,
        data_text=f"{gallery.names[place]} {index} {label} {chosen}".casefold(),
    )  # fmt: skip


def _maps(classes: Sequence[str], found: Contrast, place: int) -> tuple[Sprite, list[Markup]]:
    """The picture of all maps of a card, and for every layer the three places that show its part of it."""
    cams, others, differences = (part[:, place] for part in (found.cams, found.other_cams, found.difference))
    # what speaks for the true class has its color, in all three
    sprite = maps_sprite(torch.stack([cams, -others, differences], dim=1))
    chosen, label = (classes[int(index[place])] for index in (found.classes, found.other_classes))
    rows = []
    for layer, layer_name in enumerate(found.layers):
        ways = (
            ("predicted", f"map of {chosen} in {layer_name}: strongest {strongest_place(cams[layer])}"),
            ("true", f"map of {label} in {layer_name}: strongest {strongest_place(others[layer])}"),
            ("difference", _difference_words(found.difference[layer, place], bool(found.flat[layer, place]), chosen,
                                             label, layer_name)),
        )  # fmt: skip
        tiles = [
            tag("div", tag("span", class_="map", role="img", aria_label=words, title=words,
                           style="--x:{};--y:{}".format(*sprite.positions[layer][column])),
                tag("span", kind, class_="tile-label"))
            for column, (kind, words) in enumerate(ways)
        ]  # fmt: skip
        heading = tag("span", name(layer_name), class_="layer-name")
        rows.append(tag("div", heading, tiles, class_="maps", data_layer=layer))
    return sprite, rows


def _difference_words(values: Tensor, flat: bool, chosen: str, label: str, layer: str) -> str:
    if flat:
        return f"difference in {layer}: the same everywhere"
    return (
        f"difference in {layer}: most for {chosen} {strongest_place(values)}, "
        f"most for {label} {strongest_place(-values)}"
    )


def _likely(test: Tested, gallery: Gallery, place: int, true: int, predicted: int) -> Markup:
    """The most probable classes as bars, the true one always among them."""
    probabilities = gallery.probabilities[place]
    order = probabilities.argsort(descending=True)[:TOP].tolist()
    order = order if true in order else [*order[: TOP - 1], true]
    rows = []
    for index in order:
        share = float(probabilities[index])
        role = "predicted" if index == predicted else "true" if index == true else ""
        rows.append(tag("li", tag("span", name(test.classes[index]), class_="label"),
                        tag("span", class_="meter", style=f"--share:{share:.4f}", aria_hidden="true"),
                        tag("span", in_percent(share), class_="value"), class_=role or None))  # fmt: skip
    return tag("ul", rows, class_="likely")


def _evidence_words(gallery: Gallery, row: int) -> str:
    words = f"loss {float(gallery.groups.loss[row]):.2f}"
    if gallery.groups.agreement is not None:
        share = in_percent(float(gallery.groups.agreement[row]), 0)
        words += f", {share} of the nearest training images are labeled as predicted"
    return words
