"""Sections of a report that tell of the classes: confusion matrix, class by class, calibration, cars."""

from __future__ import annotations

import math

from evalib.car_errors import CarErrors, car_errors
from evalib.data.car_names import CAR_CLASSES
from evalib.html_charts import large_confusion, reliability_chart
from evalib.html_parts import Markup, Part, joined, name, tag
from evalib.html_tables import Cell, Row, figure, number, percent, reading, section, table
from evalib.html_tested import Tested
from evalib.mistake_groups import confused_pairs
from evalib.mistakes import find_mistakes

MOST_NAMED = 25  # classes whose confusion matrix has names and numbers


def confusion_section(test: Tested) -> Markup:
    """The confusion matrix, and the pairs of classes confused most."""
    few = len(test.classes) <= MOST_NAMED
    caption = "Row: true class, column: predicted class, both in the order of the table of classes."
    matrix = _confusion_table(test) if few else figure(large_confusion(test.confusion), caption)
    pairs = _pairs_table(test)
    click = " A click on a number shows its mistakes." if few and pairs else ""
    return section(
        "confusion", "Confusion matrix",
        f"Rows are true classes, columns what the network named.{click}",
        matrix,
        reading(
            "The diagonal holds what is right; what is dark beside it are classes taken for each other. Shades are "
            "shares of the row, so that rare classes count as much as frequent ones.",
            "A pair that is confused often need not be alike to the eye: look at the images below.",
        ),
        joined(tag("h3", "Pairs confused most"), pairs) if pairs else None,
    )  # fmt: skip


def _confusion_table(test: Tested) -> Markup:
    heads = [tag("th", tag("span", name(label)), scope="col") for label in test.classes]
    rows = []
    for true, counts in enumerate(test.confusion.tolist()):
        total = sum(counts) or 1
        cells = [_confusion_cell(test, true, predicted, count, total) for predicted, count in enumerate(counts)]
        rows.append(tag("tr", tag("th", name(test.classes[true]), scope="row"), cells))
    caption = "Confusion matrix: images by true class (rows) and predicted class (columns)"
    corner = tag("td", tag("span", "true ↓ · predicted →"), class_="corner")
    inside = tag("table", tag("caption", caption), tag("thead", tag("tr", corner, heads)), tag("tbody", rows),
                 class_="confusion")  # fmt: skip
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _confusion_cell(test: Tested, true: int, predicted: int, count: int, total: int) -> Markup:
    words = f"{count:,} of {total:,} images of {test.classes[true]} named {test.classes[predicted]}"
    shown: Part = f"{count:,}" if count else ""
    if count and true != predicted:
        shown = tag("a", shown, href="#mistakes", data_true=true, data_predicted=predicted, aria_label=words)
    share = math.sqrt(count / total)  # a few per cent are to be seen as well
    kind = "right" if true == predicted else "wrong" if count else None
    dark = "strong" if share > 0.65 else None
    return tag("td", shown, title=words, style=f"--share:{share:.3f}" if count else None,
               class_=" ".join(filter(None, (kind, dark))) or None)  # fmt: skip


def _pairs_table(test: Tested, count: int = 10) -> Markup | None:
    mistakes = find_mistakes(test.evaluation)
    pairs = confused_pairs(mistakes)
    if not pairs:
        return None
    counts = {(pair.true, pair.predicted): pair.images for pair in pairs}
    rows: list[Row] = [
        [Cell(name(test.classes[pair.true]), test.classes[pair.true]),
         Cell(name(test.classes[pair.predicted]), test.classes[pair.predicted]),
         number(pair.images, share=pair.images / pairs[0].images), percent(pair.images / len(mistakes)),
         number(counts.get((pair.predicted, pair.true), 0))]
        for pair in pairs[:count]
    ]  # fmt: skip
    columns = ["true class", "taken for", "images", "share of all mistakes", "the other way round"]
    return table("Pairs of classes confused most", columns, rows, words=(0, 1), sortable=True)


def classes_section(test: Tested) -> Markup:
    """A row for every class."""
    rows: list[Row] = []
    for facts in test.by_class:
        taken: Part = "n/a"
        if facts.taken_for:
            other, images = facts.taken_for
            taken = joined(name(test.classes[other]), f" ({images:,})")
        rows.append([Cell(name(facts.name), facts.name), number(facts.images), percent(facts.recall, bar=True),
                     percent(facts.precision, bar=True), percent(facts.f1), taken])  # fmt: skip
    columns = ["class", "test images", "right (recall)", "precision", "F1", "most often taken for"]
    tall = len(rows) > MOST_NAMED
    return section(
        "classes", "Class by class", "A click on a column's name sorts by it.",
        table("Figures by class", columns, rows, words=(0, 5), sortable=True, tall=tall),
        reading(
            "Recall: of the images of a class, the share that is named so. Precision: of the images named so, the "
            "share that is of it. High recall with low precision is a class that the network names too readily. F1 is "
            "the harmonic mean of both.",
            _few_words(test),
        ),
    )  # fmt: skip


def _few_words(test: Tested) -> str:
    fewest = min(facts.images for facts in test.by_class)
    half = 100 * 0.98 / math.sqrt(max(1, fewest))
    return (
        f"The rarest class has {fewest:,} test images: its recall may be off by about {min(half, 100):.0f} points by "
        "chance alone. Do not rank classes whose figures are closer than that."
    )


# --- calibration -------------------------------------------------------------------------------------------------


def calibration_section(test: Tested) -> Markup:
    """The reliability diagram and its error."""
    found = test.calibration
    error, surer = 100 * found.error, 100 * found.overconfidence
    manner = "about as sure as it is right" if abs(surer) < 1 else "too sure" if surer > 0 else "not sure enough"
    words = f"On the whole the network is {manner}: its mean confidence is {surer:+.1f} points from its accuracy."
    described = f"Reliability diagram: expected calibration error {error:.1f} %. {words}"
    return section(
        "calibration", "How sure, how right",
        f"Expected calibration error {error:.1f} % ({len(found.counts)} bins). {words}",
        figure(reliability_chart(found, described),
               "Bars: the share that is right of the images of that confidence; strong colors stand for many images. "
               "On the dashed line confidence would be accuracy."),
        reading(
            "Where a bar ends below the line the network is surer than it is right; above it, it is right more often "
            "than it says.",
            "Confidence is no proof: a network can be sure and wrong, as the mistakes below show. Of few images the "
            "error is large by chance alone. Label smoothing makes networks less sure.",
        ),
    )  # fmt: skip


# --- cars --------------------------------------------------------------------------------------------------------


def cars_section(test: Tested) -> Markup | None:
    """Mistakes about cars by how far off they are; None for anything else."""
    if not set(test.classes) <= set(CAR_CLASSES):
        return None
    found: CarErrors = car_errors(test.evaluation, test.classes)
    kinds: list[Row] = [[kind, number(n), percent(n / len(found), bar=True)] for kind, n in found.counts.items()]
    usual = found.most_frequent
    parts: list[Row] = [[key, percent(value, bar=True), percent(usual[key])] for key, value in found.accuracies.items()]
    return section(
        "cars", "How far off", "A car of the wrong year is a smaller mistake than one of the wrong brand.",
        tag("div", table("Predictions by kind", ["kind", "images", "share"], kinds),
            table("Right by brand, type and year", ["of the name", "right", "always the most frequent"], parts),
            class_="pair"),
    )  # fmt: skip
