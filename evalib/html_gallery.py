"""The gallery of mistakes with their maps, and what the maps are worth."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from evalib.html_cards import KINDS, mistake_card
from evalib.html_images import legend_colors
from evalib.html_mistakes import Gallery
from evalib.html_parts import Markup, Part, joined, name, style, tag
from evalib.html_scores import CENTER, MapScores
from evalib.html_tables import Cell, Row, number, percent, reading, section, table
from evalib.html_tested import Tested
from evalib.sanity import Check
from evalib.scores import Score


def gallery_section(test: Tested, gallery: Gallery | None) -> Markup:
    """The mistakes by kind, and a card for each that is shown.

    Args:
        test: what the network says of the test images.
        gallery: the mistakes; None if there is none.
    """
    if gallery is None:
        words = "There is no mistake to show: every test image is named right."
        return section("mistakes", "Mistakes", words)
    total, shown = len(gallery.groups.mistakes), len(gallery.rows)
    lead = f"{total:,} of {test.images:,} test images are named wrong"
    lead += "; all of them are shown." if shown == total else f"; {shown:,} are shown, taken in turn from every kind."
    cards = [mistake_card(test, gallery, place) for place in range(shown)]
    return section(
        "mistakes", "Mistakes", lead,
        [tag("p", note, class_="note") for note in gallery.notes],
        _kinds_table(gallery),
        reading(
            "Suspect labels: look whether the label is wrong; the nearest training images side with the network. "
            "Confident mistakes: look for what the network takes as a sign. Near ties: two classes that it hardly "
            "tells apart.",
            "A suspicion is no proof, and what the cards show is a choice, not a sample: do not count on them.",
        ),
        _maps_words(gallery) if gallery.maps is not None else None,
        _controls(test, gallery),
        tag("div", cards, class_="cards", id="cards"),
        tag("p", tag("button", "Show more", type="button", id="more", class_="wide-button"), class_="controls",
            hidden=True),
        tag("dialog", id="enlarged", aria_label="An enlarged mistake, all layers"),
    )  # fmt: skip


def _kinds_table(gallery: Gallery) -> Markup:
    found = gallery.groups.table()
    rows: list[Row] = [
        [KINDS[row["group"]], number(row["mistakes"]), percent(row["share"], bar=True), percent(row["probability"]),
         number(row["loss"], "{:.2f}"), Cell(re.sub(r"(?<=\d)%", "\u00a0%", row["rule"]))]
        for row in found.rows
    ]  # fmt: skip
    columns = ["kind", "mistakes", "share", "mean probability", "mean loss", "rule"]
    return joined(table("Mistakes by kind", columns, rows, words=(0, 5)),
                  [tag("p", note, class_="fine") for note in found.notes])  # fmt: skip


def _maps_words(gallery: Gallery) -> Markup:
    predicted, true = legend_colors()
    scale = tag(
        "div",
        tag("span", "speaks for the true class"),
        tag("span", class_="ramp", style=f"--true:{true};--predicted:{predicted}"),
        tag("span", "speaks for the predicted class"),
        class_="scale-legend", role="img", aria_label="Legend: blue speaks for the true class, orange for the "
        "predicted one; stronger colors are stronger evidence",
    )  # fmt: skip
    words = (
        "Each card shows the image and three maps over it in gray: the evidence for the predicted class, for the true "
        "class, and their difference, which decides between the two. The three of a card share one scale at each "
        "layer (HiResCAM before it is cut at 0; bilinear enlargement)."
    )
    caution = (
        "A map shows where the network's evidence lies, not why it counts. Colors of different cards and layers are "
        "not of one scale. Whether the maps of a layer deserve belief is measured below."
    )
    return joined(tag("h3", "How to read the maps"), tag("p", words), scale, tag("p", caution, class_="fine"))


# --- controls ----------------------------------------------------------------------------------------------------


def _controls(test: Tested, gallery: Gallery) -> Markup:
    """What chooses among the cards. Layers change without a script; the rest stays hidden until there is one."""
    shown = gallery.shown
    layers = _layers(gallery.maps.layers, gallery.layer) if gallery.maps is not None else None
    kinds = list(dict.fromkeys(gallery.kind(place) for place in range(len(gallery.rows))))
    selects = [
        _select("true", "True class", [(str(index), test.classes[index]) for index in sorted({*shown.true.tolist()})]),
        _select("predicted", "Predicted",
                [(str(index), test.classes[index]) for index in sorted({*shown.predicted.tolist()})]),
        _select("kind", "Kind", [(kind, KINDS[kind]) for kind in kinds]),
        tag("label", tag("span", "Search"), tag("input", type="search", id="search", autocomplete="off",
                                                placeholder="class, file, number")),
        tag("label", tag("span", "Sort by"), tag("select", [
            tag("option", words, value=value)
            for value, words in (("place", "the kinds in turn"), ("confidence", "confidence"), ("loss", "loss"),
                                 ("index", "number of the image"))
        ], id="sort")),
        tag("button", "Reset", type="button", id="everything"),
    ]  # fmt: skip
    told = tag("p", role="status", aria_live="polite", id="count", class_="fine")
    return joined(
        layers,
        tag("form", selects, class_="controls filters", id="filters", hidden=True, aria_label="Choose mistakes"),
        tag("div", told, class_="controls", hidden=True),
    )


def _select(identity: str, words: str, values: list[tuple[str, str]]) -> Markup:
    options = [tag("option", "all", value=""), *(tag("option", shown, value=value) for value, shown in values)]
    return tag("label", tag("span", words), tag("select", options, id=identity))


def _layers(layers: Sequence[str], first: str) -> Markup:
    choices = [
        tag("label", tag("input", type="radio", name="layer", value=place, id=f"layer-{place}",
                         checked=layer == first, autocomplete="off"), tag("span", name(layer)))
        for place, layer in enumerate(layers)
    ]  # fmt: skip
    rules = "".join(
        f"body:has(#layer-{place}:checked) #cards .maps:not([data-layer='{place}']){{display:none}}"
        for place in range(len(layers))
    )
    chosen = tag("fieldset", tag("legend", "Layer of the maps, from fine to coarse"), choices, class_="layers")
    return joined(chosen, style(rules))


# --- scores ------------------------------------------------------------------------------------------------------


def scores_section(gallery: Gallery) -> Markup | None:
    """What the maps are worth, layer by layer; None where there are no maps."""
    if gallery.maps is None:
        return None
    found, title = gallery.scores, "Can the maps be believed?"
    if isinstance(found, str):
        return section("scores", title, found)
    best, chosen = found.best, found.chosen
    lead = "No layer passes: read the maps above as pictures, not as explanations."
    if best is not None and chosen is not None:
        lead = f"Of {len(found.layers)} layers {best.layer} has the highest ROAD. The gallery begins with "
        lead += "it." if best is chosen else f"{chosen.layer}: not clearly behind, and calmer to read."
    rows: list[Row] = [
        [name(layer.layer), _with_error(layer.scores["ROAD"]), _with_error(layer.scores["class correlation"]),
         ", ".join(layer.problems) or ("highest ROAD" if layer is best else "ok")]
        for layer in found.layers
    ]  # fmt: skip
    told = {"random": "control: noise", "random, blurred": "control: smooth noise", CENTER: "control: the middle"}
    rows += [[told[key], _with_error(scores["ROAD"]), Cell("n/a"), "control"] for key, scores in found.controls.items()]
    columns = ["maps", "ROAD", "class correlation", "verdict"]
    return section(
        "scores", title, lead,
        table(f"Maps of {found.images} test images by layer, beside controls", columns, rows, words=(0, 3)),
        tag("p", f"Mean ± standard error over {found.images} test images drawn at random, maps of the predicted class "
            f"({found.method}). ROAD: the fall of its probability without the marked pixels beside that without the "
            "others, high is good (20, 50 and 80 % removed). Class correlation: likeness of the maps of two classes, "
            "low is good.", class_="fine"),
        _verdict(found),
        reading(
            "A layer whose ROAD is clearly above that of the controls marks what the network needs.",
            f"With {found.images} images only large differences count, and the best of several layers looks better "
            "than it is. That the network needs a place does not make it the right place.",
        ),
    )  # fmt: skip


def _verdict(found: MapScores) -> Part:
    if found.verdict is None:
        if found.chosen is None:
            return None
        return tag("p", "The four checks of evalib.sanity.check_maps would take too long on this device and were left "
                   "out.", class_="fine")  # fmt: skip
    checks = found.verdict.checks
    rows: list[Row] = [[Cell(_mark(check)), check.question, check.found, check.needed] for check in checks]
    words = f"Four checks of the maps of {found.chosen.layer}" if found.chosen else "Four checks"
    return joined(tag("h3", words), table(words, ["", "check", "found", "needed"], rows, words=(0, 1, 2, 3)))


def _mark(check: Check) -> Markup:
    return tag("span", "ok" if check.passed else "FAIL", class_="ok" if check.passed else "fail")


def _with_error(score: Score) -> Cell:
    if math.isnan(score.mean):
        return number(None)
    spread = "" if math.isnan(score.standard_error) else f" ± {score.standard_error:.3f}"
    return Cell(f"{score.mean:.3f}{spread}", score.mean)
