"""Sections, tables and figures as every report has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from evalib.html_parts import Markup, Part, tag


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what its column is sorted by.

    Attributes:
        shown: its content.
        value: a number or text to sort by; None where there is none.
        share: in [0, 1], the length of a bar behind the number; None for no bar.
    """

    shown: Part
    value: float | str | None = None
    share: float | None = None


Row: TypeAlias = Sequence["Cell | Part"]


def number(value: float | None, form: str = "{:,.0f}", share: float | None = None) -> Cell:
    """A number as a cell; a dash where there is none."""
    if value is None or math.isnan(value):
        return Cell("n/a", -1.0)
    return Cell(form.format(value), float(value), share)


def in_percent(fraction: float, digits: int = 1) -> str:
    """A fraction in [0, 1] in words, with a space that no line breaks at."""
    return f"{100 * fraction:.{digits}f}\u00a0%"


def percent(value: float | None, *, bar: bool = False) -> Cell:
    """A fraction in [0, 1] as a cell in %."""
    return number(None if value is None else 100 * value, "{:.1f}\u00a0%", value if bar else None)


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    words: Sequence[int] = (0,),
    sortable: bool = False,
    tall: bool = False,
) -> Markup:
    """A table that scrolls inside itself.

    Args:
        caption: what it is, for those who do not see it.
        columns: names.
        rows: their cells, the first of which names the row.
        words: which columns are words, the others are numbers.
        sortable: whether a reader may sort it.
        tall: whether it scrolls from top to bottom as well.
    """
    heads = [
        tag("th", name, scope="col", class_=None if place in words else "number",
            data_sort=("word" if place in words else "number") if sortable else None)
        for place, name in enumerate(columns)
    ]  # fmt: skip
    body = [tag("tr", [_cell(part, place, place in words) for place, part in enumerate(row)]) for row in rows]
    inside = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", body),
                 class_="sortable" if sortable else None)  # fmt: skip
    return tag("div", inside, class_="scroll tall" if tall else "scroll", tabindex=0, role="region", aria_label=caption)


def _cell(part: Cell | Part, place: int, words: bool) -> Markup:
    found = part if isinstance(part, Cell) else Cell(part)
    shown: Part = found.shown
    if found.share is not None:
        shown = tag("span", found.shown, class_="bar", style=f"--share:{max(0.0, min(1.0, found.share)):.4f}")
    sort = None if found.value is None else (f"{found.value:.8g}" if isinstance(found.value, float) else found.value)
    if place == 0:
        return tag("th", shown, scope="row", data_v=sort)
    return tag("td", shown, class_=None if words else "number", data_v=sort)


def section(identity: str, title: str, lead: Part, *parts: Part) -> Markup:
    """A part of a page, with a heading that the table of contents leads to.

    Args:
        identity: the name of its place.
        title: its heading.
        lead: the sentence below it: what there is to see.
        parts: everything else.
    """
    heading = tag("h2", title, id=f"{identity}-title")
    opening = tag("p", lead, class_="lead") if lead is not None else None
    return tag("section", heading, opening, *parts, id=identity, aria_labelledby=f"{identity}-title")


def reading(conclude: Part, caution: Part) -> Markup:
    """What to conclude from what is seen, and what not."""
    return tag(
        "div",
        tag("p", tag("strong", "What it tells. "), conclude),
        tag("p", tag("strong", "What it does not. "), caution),
        class_="reading",
    )


def figure(picture: Part, *caption: Part, wide: bool = False) -> Markup:
    """A picture with words below it."""
    words = tag("figcaption", *caption) if caption else None
    return tag("figure", picture, words, class_="wide" if wide else None)


def facts_list(pairs: Sequence[tuple[str, Part]]) -> Markup:
    """Names and values, one below the other."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


def folded(summary: str, *parts: Part) -> Markup:
    """What is there for those who ask."""
    return tag("details", tag("summary", summary), *parts)


def duration(seconds: float) -> str:
    """A time in words, as "2 min 5 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"
