"""Sections of a report that compares runs: results, recipes, curves, classes, and the same images through all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from evalib.data.image_data import ImageData
from evalib.data.image_files import DecodedFiles, ImageFiles, ResizedImages
from evalib.html_charts import Line, key, line_chart
from evalib.html_facts import RunFacts, network_name
from evalib.html_images import photo_uri
from evalib.html_parts import Markup, Part, joined, name, tag
from evalib.html_sections import history_lines
from evalib.html_tables import Cell, Row, duration, figure, folded, in_percent, number, percent, reading, section, table
from evalib.html_tested import Tested
from evalib.recipes import Recipe
from evalib.significance import Disagreement, compare_predictions

MOST_IMAGES = 12  # of those that one of two networks names right
ALPHA = 0.05


def same_test_images(one: RunFacts, other: RunFacts) -> bool:
    """Whether two runs were tested on the same images in the same order, whatever size their networks see them in."""
    if one.data is None or other.data is None or one.data.classes != other.data.classes:
        return False
    if not torch.equal(one.data.test.labels, other.data.test.labels):
        return False
    mine, others = _stored(one.data), _stored(other.data)
    if isinstance(mine, Tensor) and isinstance(others, Tensor):
        return torch.equal(mine, others)
    return isinstance(mine, tuple) and len(mine) > 0 and mine == others


def _stored(data: ImageData) -> Tensor | tuple[str, ...]:
    """The test images as they are stored: pixels in memory, or the files; nothing where neither is known."""
    images = data.test.images
    if isinstance(images, ImageFiles | DecodedFiles):
        return tuple(str(path.resolve()) for path in images.files)
    return images.images if isinstance(images, ResizedImages) else images


def results_section(runs: Sequence[RunFacts]) -> Markup:
    """All runs in one table, what differs in their recipes, and whether they may be compared at all."""
    rows: list[Row] = [
        [Cell(name(run.name), run.name), percent(run.accuracy), _interval(run),
         percent(run.last.test_accuracy_views if run.last else None),
         percent(run.last.train_accuracy if run.last else None),
         number(run.last.epoch if run.last else None), number(run.images or None), _time(run)]
        for run in runs
    ]  # fmt: skip
    columns = ["run", "test accuracy", "95 % interval", "with views", "train accuracy", "epochs", "test images", "time"]
    return tag(
        "section",
        tag("h2", "Side by side", id="compare-title", class_="unseen"),
        tag("p", _headline(runs), class_="headline"),
        [tag("p", words, class_="missing", role="note") for words in _warnings(runs)],
        table("Results of all runs", columns, rows, sortable=True),
        tag("p", "Every result is that of the last epoch, on the test images; the intervals (Wilson 1927) speak of "
            "other test images, not of other seeds.", class_="fine"),
        tag("h3", "What differs in the recipes"), _differences(runs),
        id="compare", aria_labelledby="compare-title",
    )  # fmt: skip


def _interval(run: RunFacts) -> Cell:
    if run.interval is None:
        return number(None)
    low, high = (100 * value for value in run.interval)
    return Cell(f"{low:.1f} to {high:.1f}\u00a0%", low)


def _time(run: RunFacts) -> Cell:
    if not run.history.epochs:
        return number(None)
    seconds = sum(run.history.column("seconds"))
    return Cell(duration(seconds), float(seconds))


def comparable(runs: Sequence[RunFacts]) -> bool:
    """Whether all runs were tested, on the same images."""
    return all(run.test is not None and same_test_images(runs[0], run) for run in runs)


def _headline(runs: Sequence[RunFacts]) -> Part:
    known = [run for run in runs if run.accuracy is not None]
    if not comparable(runs) or len(known) < 2:
        return f"{len(runs)} runs side by side."
    ordered = sorted(known, key=lambda run: -(run.accuracy or 0.0))
    best, second = ordered[:2]
    found = _compared(best, second)
    clear = found is not None and found.p_value < ALPHA
    words = "clearly more than" if clear else "which these images do not tell from"
    return joined(name(best.name), f" names {in_percent(best.accuracy or 0.0)} of {best.images:,} test images right, ",
                  words, " ", name(second.name), f" with {in_percent(second.accuracy or 0.0)}.")  # fmt: skip


def _warnings(runs: Sequence[RunFacts]) -> list[Part]:
    words: list[Part] = [joined(name(run.name), ": ", run.missing) for run in runs if run.missing]
    if not comparable(runs):
        words.append(
            "These runs are not known to have been tested on the same images, so their accuracies must not be compared "
            "as if they had been. Each stands for itself."
        )
    return words


def _differences(runs: Sequence[RunFacts]) -> Markup:
    settings = [field.name for field in dataclasses.fields(Recipe)]
    differing = [key for key in settings if len({getattr(run.recipe, key) for run in runs}) > 1]
    rows: list[Row] = [
        [key.replace("_", " "), *(Cell(str(getattr(run.recipe, key))) for run in runs)] for key in differing
    ]
    if len({run.data_name for run in runs}) > 1:
        rows.append(["data", *(name(run.data_name or "not known") for run in runs)])
    if not rows:
        return tag("p", "Nothing: all settings are the same.")
    columns = ["setting", *(run.name for run in runs)]
    return table("Settings that differ", columns, rows, words=range(len(columns)))


def overlaid_section(runs: Sequence[RunFacts]) -> Markup | None:
    """The curves of all runs in one frame."""
    charts: list[Markup] = []
    shown: list[Line] = []
    for measure, unit in (("accuracy", " %"), ("loss", "")):
        lines = [
            line
            for place, run in enumerate(runs)
            for line in history_lines(run.history, measure, label=run.name, color=place)
            if run.history.epochs and line.dash != "dotted"
        ]
        if not lines:
            return None
        shown = shown or lines
        words = f"{measure} by epoch of {len(runs)} runs, on the test images and in training"
        charts.append(figure(line_chart(measure.capitalize(), lines, unit=unit, described=words)))
    return section("curves", "Learning curves", "A color for each run; test solid, train dashed.", key(shown),
                   tag("div", charts, class_="pair"))  # fmt: skip


def classes_section(runs: Sequence[RunFacts]) -> Markup | None:
    """Recall by class and run; None unless all were tested on the same images."""
    tests = [run.test for run in runs if run.test is not None]
    if not comparable(runs):
        return None
    rows: list[Row] = []
    for index, label in enumerate(tests[0].classes):
        shares = [test.by_class[index].recall for test in tests]
        spread = 100 * (max(shares) - min(shares))
        rows.append([Cell(name(label), label), number(tests[0].by_class[index].images),
                     *(percent(share, bar=True) for share in shares), number(spread, "{:.1f}")])  # fmt: skip
    columns = ["class", "images", *(run.name for run in runs), "spread (points)"]
    return section(
        "classes", "Class by class", "The share of every class that is named right (recall).",
        table("Recall by class and run", columns, rows, sortable=True, tall=len(rows) > 25),
        reading("A class with a large spread is where the runs truly differ.",
                "Of many classes some differ by chance: trust differences of classes with many test images."),
    )  # fmt: skip


# --- image by image --------------------------------------------------------------------------------------------


def _compared(one: RunFacts, other: RunFacts) -> Disagreement | None:
    if one.test is None or other.test is None:
        return None
    mine, others = one.test.evaluation, other.test.evaluation
    return compare_predictions(mine.predictions, others.predictions, mine.labels)


def agreement_section(runs: Sequence[RunFacts]) -> Markup | None:
    """Every pair of runs on the same images; None unless they are the same."""
    if not comparable(runs):
        return None
    rows: list[Row] = []
    galleries: list[Part] = []
    for one, other in combinations(runs, 2):
        found = _compared(one, other)
        if found is None or one.test is None or other.test is None:
            continue
        p = found.p_value
        rows.append([joined(name(one.name), " / ", name(other.name)), percent(found.agreement), number(found.both),
                     number(int(found.only_a.sum())), number(int(found.only_b.sum())), number(found.neither),
                     "< 0.0001" if p < 1e-4 else f"{p:.4f}", "yes" if p < ALPHA else "no"])  # fmt: skip
        galleries += [_only(one, one.test, other, other.test, found.only_a),
                      _only(other, other.test, one, one.test, found.only_b)]  # fmt: skip
    columns = [
        "runs (A / B)",
        "named alike",
        "both right",
        "only A",
        "only B",
        "neither",
        "McNemar's p",
        "differ clearly",
    ]
    return section(
        "agreement", "Image by image", "The same test images through the networks.",
        table("Pairs of runs on the same images", columns, rows, words=(0, 7)),
        reading(
            "McNemar's exact test looks only at the images that one of the two names right: p is how often a fair coin "
            "would split them so unevenly.",
            "It speaks of these two networks, not of their recipes: another seed gives other networks. Of several "
            "pairs one is below 0.05 by chance sooner than a single one.",
        ),
        galleries,
    )  # fmt: skip


def _only(one: RunFacts, mine: Tested, other: RunFacts, theirs: Tested, chosen: Tensor) -> Markup | None:
    """Images that only one of two networks names right, those first that the other is surest about."""
    if one.data is None or not chosen.any():
        return None
    indices = chosen.nonzero().flatten()
    sure = theirs.evaluation.probabilities[indices].amax(dim=1)
    first = indices[sure.argsort(descending=True, stable=True)][:MOST_IMAGES]
    photos = one.data.test.images[first]
    tiles = []
    for index, photo in zip(first.tolist(), photos, strict=True):
        label = mine.classes[int(mine.evaluation.labels[index])]
        taken = theirs.classes[int(theirs.evaluation.predictions[index])]
        alt = f"test image {index}: {label}, which {other.name} names {taken}"
        picture = tag("img", src=photo_uri(photo), alt=alt, width=110, height=110, decoding="async",
                      class_="pixelated" if photo.shape[-1] <= 64 else None)  # fmt: skip
        words = tag(
            "span", tag("span", name(label), class_="true"), ", not ", tag("span", name(taken), class_="predicted")
        )
        tiles.append(tag("li", picture, words, tag("span", f"image {index}", class_="fine")))
    title = tag("h3", "Right in ", name(one.name), ", wrong in ", name(other.name), f": {len(indices):,} images")
    return tag("div", title, tag("ul", tiles, class_="thumbs"))


def briefs_section(runs: Sequence[RunFacts]) -> Markup:
    """Every run in a few words."""
    parts = []
    for run in runs:
        settings: list[Row] = [
            [key.replace("_", " "), str(value)] for key, value in dataclasses.asdict(run.recipe).items()
        ]
        parts.append(tag(
            "div", tag("h3", name(run.name)), tag("p", run.headline),
            tag("p", f"{network_name(run.recipe)}, recipe {run.recipe.name}, seed {run.recipe.seed}. Trained on ",
                run.history.device or "a device that is not known", ".", class_="fine"),
            folded("All settings", table(f"All settings of {run.name}", ["setting", "value"], settings, words=(0, 1),
                                         tall=True)),
        ))  # fmt: skip
    return section("runs", "The runs", "The command evalib report RUN writes a report of each.", parts)
