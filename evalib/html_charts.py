"""Charts of a report as SVG inside the page: they take the page's colors, also at night, and stay sharp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evalib.calibration import Calibration
from evalib.html_parts import Markup, Part, joined, tag

# Of a chart, in its own units, which a page stretches
_WIDTH, _HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 30, 34
RUN_COLORS = 8  # --run-0 to --run-7 of the style


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: what it shows.
        points: (x, y) pairs; a gap where y is NaN.
        color: its place among the colors of runs.
        dash: "" for a solid line, "dashed" or "dotted".
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    dash: str = ""


@dataclass(frozen=True)
class _Frame:
    """The place of the data in a chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (value - low) / ((high - low) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        low, high = self.y
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` of them."""
    if not high > low:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (size * factor) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(title: str, lines: Sequence[Line], *, unit: str = "", x_name: str = "epoch", described: str) -> Markup:
    """Lines over epochs; every point tells its value when pointed at.

    Args:
        title: above it.
        lines: at least one with a point.
        unit: of the values, as " %".
        x_name: what stands below.
        described: the chart in words, for those who do not see it.

    Raises:
        ValueError: if there is no point.
    """
    points = [point for line in lines for point in line.points if math.isfinite(point[1])]
    if not points:
        raise ValueError("`lines` needs at least one point.")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    margin = 0.06 * (max(ys) - min(ys)) or 0.5
    low = max(0.0, min(ys) - margin) if min(ys) >= 0 else min(ys) - margin
    high = min(100.0, max(ys) + margin) if unit == " %" else max(ys) + margin
    frame = _Frame((min(xs), max(xs)), (low, high))
    drawn = [_line(frame, line, unit, x_name) for line in lines]
    return _chart(title, described, _grid(frame, unit, x_name), drawn)


def _grid(frame: _Frame, unit: str, x_name: str) -> Markup:
    parts: list[Part] = []
    for value in ticks(*frame.y):
        y = frame.up(value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", f"{value:g}{unit}", x=_LEFT - 6, y=y + 4, class_="tick end"))
    for value in dict.fromkeys(round(value) for value in ticks(*frame.x)):
        parts.append(tag("text", str(value), x=frame.across(value), y=_HEIGHT - _BOTTOM + 16, class_="tick middle"))
    parts.append(tag("text", x_name, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 3, class_="tick middle"))
    return joined(parts)


def _line(frame: _Frame, line: Line, unit: str, x_name: str) -> Markup:
    color = f"run-{line.color % RUN_COLORS}"
    path, pen = [], "M"
    for x, y in line.points:
        if not math.isfinite(y):
            pen = "M"
            continue
        path.append(f"{pen}{frame.across(x):.1f} {frame.up(y):.1f}")
        pen = "L"
    radius = 2.4 if len(line.points) <= 30 else 1.2
    dots = [
        tag("circle", tag("title", f"{line.name}, {x_name} {x:g}: {y:.4g}{unit}"),
            cx=round(frame.across(x), 1), cy=round(frame.up(y), 1), r=radius)
        for x, y in line.points if math.isfinite(y)
    ]  # fmt: skip
    return tag("g", tag("path", d=" ".join(path), class_=f"line {line.dash}".strip()), dots, class_=color)


def _chart(title: str, described: str, *parts: Part) -> Markup:
    heading = tag("text", title, x=_LEFT, y=15, class_="title")
    return tag("svg", heading, *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=described,
               class_="chart")  # fmt: skip


def key(lines: Sequence[Line]) -> Markup:
    """The legend of a chart, as a list."""
    entries = []
    for line in lines:
        stroke = tag("line", x1=0, x2=26, y1=5, y2=5, class_=f"line {line.dash}".strip())
        sample = tag("svg", tag("g", stroke, class_=f"run-{line.color % RUN_COLORS}"), viewBox="0 0 26 10", width=26,
                     height=10, aria_hidden="true")  # fmt: skip
        entries.append(tag("li", sample, " ", tag("bdi", line.name)))
    return tag("ul", entries, class_="key")


def reliability_chart(found: Calibration, described: str) -> Markup:
    """Accuracy in every bin of confidence as bars, beside the diagonal; below how many images there are."""
    frame = _Frame((0, 100), (0, 100))
    edges, total = (100 * found.edges).tolist(), int(found.counts.sum())
    bars: list[Part] = []
    rows = zip(found.counts.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    for place, (count, confidence, accuracy) in enumerate(rows):
        if not count:
            continue
        left, right = frame.across(edges[place]) + 1, frame.across(edges[place + 1]) - 1
        words = f"{count:,} images of confidence {edges[place]:.0f} to {edges[place + 1]:.0f} %"
        told = tag("title", f"{words}: mean {confidence:.1%}, right {accuracy:.1%}")
        middle, y = frame.across(100 * confidence), frame.up(100 * accuracy)
        # of little images little ink
        strength = 0.25 + 0.75 * math.sqrt(count / max(1, int(found.counts.max())))
        bars.append(
            tag("g", told,
                tag("rect", x=left, y=y, width=right - left, height=frame.up(0) - y, opacity=round(strength, 2),
                    class_="bar"),
                tag("line", x1=middle, x2=middle, y1=frame.up(100 * confidence), y2=y, class_="gap"))
        )  # fmt: skip
    diagonal = tag("line", x1=frame.across(0), y1=frame.up(0), x2=frame.across(100), y2=frame.up(100),
                   class_="diagonal")  # fmt: skip
    return _chart(f"Right, of {total:,} images", described, _grid(frame, " %", "confidence (%)"), bars, diagonal)


def large_confusion(confusion: Tensor) -> Markup:
    """A confusion matrix without names and numbers, for many classes: a dot for every cell that is not 0."""
    count = len(confusion)
    shares = confusion.double() / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    shades = 6
    level = (shares.sqrt() * shades).ceil().long().clamp(max=shades)
    paths = []
    for shade in range(1, shades + 1):
        cells = torch.nonzero((level == shade) & (confusion > 0)).tolist()
        if cells:
            path = "".join(f"M{column} {row}h1v1h-1z" for row, column in cells)
            paths.append(tag("path", d=path, opacity=round(0.15 + 0.85 * shade / shades, 2), class_="cell"))
    frame = tag("rect", x=0, y=0, width=count, height=count, class_="frame", vector_effect="non-scaling-stroke")
    right = int(confusion.trace())
    described = (
        f"Confusion matrix of {count} classes, true classes from top to bottom, predicted from left to right: "
        f"{right:,} of {int(confusion.sum()):,} images on the diagonal. The tables below name the pairs confused most."
    )
    return tag("svg", frame, paths, viewBox=f"0 0 {count} {count}", role="img", aria_label=described,
               class_="chart large-confusion", shape_rendering="crispEdges")  # fmt: skip
