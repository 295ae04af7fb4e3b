"""Sections of a report that tell of the run as a whole: result, curves, recipe and data, environment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from evalib.history import History
from evalib.html_charts import Line, key, line_chart
from evalib.html_facts import RunFacts
from evalib.html_parts import Markup, Part, joined, name, tag
from evalib.html_tables import (
    Row,
    duration,
    facts_list,
    figure,
    folded,
    in_percent,
    number,
    percent,
    reading,
    section,
    table,
)  # fmt: skip
from evalib.mistake_groups import confused_pairs
from evalib.mistakes import find_mistakes
from evalib.recipes import Recipe


def result_section(facts: RunFacts) -> Markup:
    """The headline, the figures beside it, and what is missing."""
    tiles: list[Part] = []
    if facts.accuracy is not None:
        tiles.append(_tile("Test accuracy", f"{100 * facts.accuracy:.1f} %", _interval_words(facts), _scale(facts)))
    if facts.last is not None and facts.last.test_accuracy_views is not None:
        words = f"a second figure: {facts.recipe.test_views} views of each image, averaged"
        tiles.append(_tile("With test-time augmentation", f"{100 * facts.last.test_accuracy_views:.1f} %", words))
    if facts.test is not None:
        frequent, accuracy = facts.test.most_frequent
        tiles.append(_tile("Always the most frequent class", f"{100 * accuracy:.1f} %",
                           ("what has to be surpassed; here ", name(frequent))))  # fmt: skip
    if facts.images:
        of = ("of ", name(facts.data_name)) if facts.data_name else ""
        tiles.append(_tile("Test images", f"{facts.images:,}", of))
    missing = tag("p", facts.missing, class_="missing", role="note") if facts.missing else None
    notes = [tag("p", note, class_="note") for note in (*facts.notes, *facts.history.notes)]
    return tag(
        "section",
        tag("h2", "Result", id="result-title", class_="unseen"),
        tag("p", facts.headline, class_="headline"),
        tag("p", _summary(facts), class_="summary") if facts.test else None,
        missing,
        tag("div", tiles, class_="tiles"),
        tag("p", _last_epoch_words(facts), class_="fine") if facts.last else None,
        notes,
        id="result",
        aria_labelledby="result-title",
    )


def _summary(facts: RunFacts) -> Part:
    """What else one should know at once."""
    test = facts.test
    if test is None:
        return None
    pairs = confused_pairs(find_mistakes(test.evaluation), 1)
    words: list[Part] = []
    if pairs:
        pair = pairs[0]
        true, predicted = test.classes[pair.true], test.classes[pair.predicted]
        of = test.by_class[pair.true].images
        words += ["Most often it takes ", name(true), " for ", name(predicted), f": {pair.images:,} of {of:,} images. "]
    if len(test.classes) > 2 and all(facts.images for facts in test.by_class):
        worst, best = (pick(test.by_class, key=lambda facts: facts.recall) for pick in (min, max))
        if worst.recall < best.recall:
            words += ["Of the classes, ", name(best.name), f" fares best ({in_percent(best.recall)} right), ",
                      name(worst.name), f" worst ({in_percent(worst.recall)})."]  # fmt: skip
    return words or "It makes no mistake on them."


def _tile(title: str, value: str, words: Part = "", picture: Part = None) -> Markup:
    shown = [tag("p", title, class_="tile-name"), tag("p", value, class_="tile-value"), picture]
    return tag("div", shown, tag("p", words, class_="tile-words"), class_="tile")


def _interval_words(facts: RunFacts) -> str:
    if facts.interval is None:
        return "of how many images is not known"
    low, high = (100 * value for value in facts.interval)
    return f"95\u00a0% interval {low:.1f} to {high:.1f}\u00a0%, after the last epoch"


def _scale(facts: RunFacts) -> Markup | None:
    """Accuracy, its interval and guessing, on a line from 0 to 100 %."""
    if facts.interval is None or facts.accuracy is None:
        return None
    low, high = (100 * value for value in facts.interval)
    guess = [] if facts.test is None else [
        tag("line", x1=100 * facts.test.most_frequent[1], x2=100 * facts.test.most_frequent[1], y1=0, y2=8,
            class_="guess", vector_effect="non-scaling-stroke")
    ]  # fmt: skip
    return tag(
        "svg",
        tag("rect", x=0, y=3, width=100, height=2, class_="track"),
        tag("rect", x=0, y=3, width=100 * facts.accuracy, height=2, class_="fill"),
        tag("rect", x=low, y=1, width=max(high - low, 0.3), height=6, class_="interval"),
        guess,
        viewBox="0 0 100 8", preserveAspectRatio="none", class_="scale", aria_hidden="true",
    )  # fmt: skip


def _last_epoch_words(facts: RunFacts) -> str:
    planned, last = facts.recipe.epochs, facts.history.epochs[-1]
    done = f"after epoch {last.epoch}, the last one"
    if last.epoch < planned:
        done = f"after epoch {last.epoch} of {planned}: the run is not finished"
    return (
        f"The result is that {done}. The best epoch is never taken: chosen by the test images, it would look better "
        "than it is. The interval (Wilson 1927) tells how other test images of the same kind may come out; another "
        "seed trains another network, which it does not cover."
    )


# --- curves ------------------------------------------------------------------------------------------------------


def history_lines(history: History, measure: str, *, label: str = "", color: int | None = None) -> list[Line]:
    """Train, test and validation of a run, as lines; those without any value are left out."""
    scale = 100 if measure == "accuracy" else 1
    found = []
    for split, dash, own in (("test", "", 0), ("train", "dashed", 1), ("val", "dotted", 2)):
        values = [math.nan if v is None else scale * v for v in history.column(f"{split}_{measure}")]
        if not all(map(math.isnan, values)):
            points = list(zip(history.column("epoch"), values, strict=True))
            shown = {"val": "validation"}.get(split, split)
            found.append(Line(f"{label}, {shown}" if label else shown, points, own if color is None else color, dash))
    return found


def curves_section(facts: RunFacts) -> Markup | None:
    """Loss and accuracy by epoch; None before the first one."""
    history = facts.history
    if not history.epochs:
        return None
    first, last = history.epochs[0], history.epochs[-1]
    charts = []
    for measure, unit in (("accuracy", " %"), ("loss", "")):
        lines = history_lines(history, measure)
        begin, end = (getattr(record, f"test_{measure}") for record in (first, last))
        shown = (f"{begin:.1%}", f"{end:.1%}") if unit else (f"{begin:.2f}", f"{end:.2f}")
        words = f"{measure} by epoch: on the test images {shown[0]} after epoch {first.epoch}, {shown[1]} at the end"
        charts.append(figure(line_chart(measure.capitalize(), lines, unit=unit, described=words)))
    rows: list[Row] = [
        [str(record.epoch), percent(record.train_accuracy), percent(record.test_accuracy),
         number(record.train_loss, "{:.3f}"), number(record.test_loss, "{:.3f}"), number(record.lr, "{:.2g}"),
         number(record.seconds, "{:.1f}"), number(record.images_per_second, "{:,.0f}")]
        for record in history.epochs
    ]  # fmt: skip
    columns = ["epoch", "train accuracy", "test accuracy", "train loss", "test loss", "learning rate", "seconds",
               "images/s"]  # fmt: skip
    gap = 100 * (last.train_accuracy - last.test_accuracy)
    return section(
        "curves", "Learning curves", "What the network had learned after every epoch.",
        key(history_lines(history, "accuracy")), tag("div", charts, class_="pair"),
        reading(
            f"Curves that still rise at the end ask for more epochs. Train far above test is overfitting: here the "
            f"difference at the end is {gap:+.1f} points.",
            "Training images are changed at random before the network sees them, and it is measured while it learns: "
            "so train may well lie below test. A single run does not tell a small difference from chance.",
        ),
        folded("The figures of every epoch", table("Figures by epoch", columns, rows, tall=True)),
    )  # fmt: skip


# --- recipe and environment --------------------------------------------------------------------------------------


def recipe_section(facts: RunFacts) -> Markup:
    """How the network was trained, on what, and all settings."""
    recipe = facts.recipe
    named = dataclasses.asdict(recipe)
    settings: list[Row] = [[setting.replace("_", " "), str(value)] for setting, value in named.items()]
    return section(
        "recipe", "Recipe and data", "All that this run depends on.",
        facts_list([*_recipe_words(recipe), *_data_words(facts)]),
        folded("All settings", table("All settings of the recipe", ["setting", "value"], settings, words=(0, 1),
                                     tall=True)),
    )  # fmt: skip


def _recipe_words(recipe: Recipe) -> list[tuple[str, Part]]:
    start = {"none": "random weights", "imagenet": "weights of ImageNet"}.get(recipe.weights, recipe.weights)
    frozen = f", the first {recipe.frozen_layers} convolution layers frozen" if recipe.frozen_layers else ""
    way = recipe.geometry.replace("_", " ")
    size = "as stored" if recipe.geometry == "as_is" else f"{way} to {recipe.image_size} px"
    words: list[tuple[str, Part]] = [
        ("Recipe", recipe.name),
        ("Network", f"{recipe.model}, width {recipe.width}" if recipe.model.startswith("resnet") else recipe.model),
        ("Start", joined(start, frozen)),
        ("Epochs, batch", f"{recipe.epochs} epochs, {recipe.batch_size} images a step"),
        ("Optimizer", f"{recipe.optimizer}, learning rate {recipe.lr:g}, {recipe.schedule.replace('_', ' ')} schedule"),
        ("Augmentation", recipe.augmentation),
        ("Input", size),
        ("Label smoothing", f"{recipe.label_smoothing:g}"),
        ("Seed", str(recipe.seed)),
    ]
    return words


def _data_words(facts: RunFacts) -> list[tuple[str, Part]]:
    history, data = facts.history, facts.data
    words: list[tuple[str, Part]] = []
    if facts.data_name:
        words.append(("Data", name(facts.data_name)))
    if data is not None:
        words.append(("From", name(data.source)))
        words += [(f"Only {label}", name(", ".join(values))) for label, values in data.filters.items()]
        if data.skipped:
            told = f"{len(data.skipped):,} that cannot be decoded; the first: "
            words.append(("Left out", joined(told, name(data.skipped[0]))))
    if history.train_images:
        words.append(("Images", f"{history.train_images:,} for training, {history.test_images:,} for the test"))
    if facts.checkpoint is not None:
        words.append(("Classes", f"{len(facts.checkpoint.classes):,}"))
    return words


def environment_section(facts: RunFacts, here: Mapping[str, str]) -> Markup:
    """Where it was trained, and where the report was written."""
    history, checkpoint = facts.history, facts.checkpoint
    trained: list[tuple[str, Part]] = [("Device", history.device or "not known")]
    if history.epochs:
        trained.append(("Time", duration(sum(history.column("seconds"))) + " in the epochs"))
    if history.input:
        trained.append(("Input", history.input))
    if checkpoint is not None and checkpoint.torch_version:
        trained.append(("Written by", f"evalib {checkpoint.evalib_version}, torch {checkpoint.torch_version}"))
    return section(
        "environment", "Environment", "Other versions and devices may give slightly other figures.",
        tag("div",
            tag("div", tag("h3", "Training"), facts_list(trained)),
            tag("div", tag("h3", "This report"), facts_list([(label, value) for label, value in here.items()])),
            class_="pair"),
    )  # fmt: skip
