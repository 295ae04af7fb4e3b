"""Pieces of an HTML page that cannot hold foreign markup: every text is escaped where it enters the tree.

>>> str(tag("p", "a < b, ", tag("b", 'say "hi"'), title='"x"'))
'<p title="&quot;x&quot;">a &lt; b, <b>say &quot;hi&quot;</b></p>'

A template engine would escape, too, yet only where its author asks for it, and not in attributes without quotes. Here
there is no other way in: `Markup` is made here alone; `tests/test_html_parts.py` looks for others.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

_NAME = re.compile(r"[a-z][a-z0-9-]*", re.IGNORECASE)
_VOID = {"br", "col", "hr", "img", "input", "link", "meta"}
# Elements whose content is not text to a browser: nothing of a user may stand in them.
_RAW = {"script", "style"}
_ALLOWED_LINKS = ("#", "data:image/")
# Directional signs would turn what stands around them; control signs and halves of pairs have no place in HTML.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class Markup:
    """HTML that is safe as it stands."""

    html: str

    def __str__(self) -> str:
        return self.html


Part: TypeAlias = Markup | str | int | Iterable["Part"] | None


def visible(text: str) -> str:
    r"""A text whose control and directional signs can be seen, as "\u202e", and do nothing."""
    return _UNSEEN.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def escaped(text: str) -> str:
    """A text as the content of an element or of an attribute in double quotes."""
    return html.escape(visible(text), quote=True)


def tag(element: str, *parts: Part, **attributes: str | int | float | bool | None) -> Markup:
    """An element with its content.

    Args:
        element: its name.
        parts: what it holds, in order: texts, which are escaped, elements, or lists of both; None is nothing.
        attributes: by name, "_" for "-", and one more at the end of a name that Python keeps for itself ("class_").
            True writes the name alone; False and None leave the attribute out.

    Raises:
        ValueError: if a name is none, a link leads out of the page, or an element without content gets one.
    """
    shown = "".join(_attribute(name, value) for name, value in attributes.items())
    content = "".join(_flat(parts))
    if not _NAME.fullmatch(element) or element in _RAW or (element in _VOID and content):
        raise ValueError(f"`element` needs the name of one that may hold these parts: got {element!r}.")
    return Markup(f"<{element}{shown}>" if element in _VOID else f"<{element}{shown}>{content}</{element}>")


def joined(*parts: Part) -> Markup:
    """Parts one after the other."""
    return Markup("".join(_flat(parts)))


def name(text: str) -> Markup:
    """What a user called something: as text that cannot change the direction of the text around it."""
    return tag("bdi", text)


def style(rules: str) -> Markup:
    """Rules that this library makes of numbers; nothing of a user may be in them.

    Raises:
        ValueError: if they hold what could end them or load something.
    """
    if re.search(r"[<\\@]|url|import", rules):
        raise ValueError(f"`rules` needs plain rules: got {rules[:40]!r}.")
    return Markup(f"<style>{rules}</style>")


def _flat(parts: Iterable[Part]) -> Iterable[str]:
    for part in parts:
        if isinstance(part, Markup):
            yield part.html
        elif isinstance(part, str):
            yield escaped(part)
        elif isinstance(part, int):
            yield str(part)
        elif part is not None:
            yield from _flat(part)


def _attribute(name: str, value: str | int | float | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if not _NAME.fullmatch(name) or name.lower().startswith("on"):
        raise ValueError(f"{name!r} is no name of an attribute that may stand here.")
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if name in ("href", "src", "action", "formaction") and not text.startswith(_ALLOWED_LINKS):
        raise ValueError(f"`{name}` needs a place in this page or an image in it: got {text[:40]!r}.")
    return f' {name}="{escaped(text)}"'


# --- the page --------------------------------------------------------------------------------------------------


@cache
def asset(name: str) -> str:
    """The text of a file of evalib/html/, as "report.css"."""
    return (Path(__file__).parent / "html" / name).read_text("utf-8")


def page(title: str, body: Markup, *, language: str = "en") -> str:
    """A whole document, with the style and the script of this package inside.

    Its policy forbids a browser to load anything from anywhere, and to run any script but this one, whatever may have
    found its way into the page.

    Args:
        title: of the window.
        body: what the body holds.
        language: of its texts.
    """
    style, script = asset("report.css"), asset("report.js")
    if "</" in style or "</script" in script.lower() or "<!--" in script:
        raise ValueError("The style and the script of a page must not hold what ends them.")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = (
        '<meta charset="utf-8">',
        str(tag("meta", http_equiv="Content-Security-Policy", content=policy)),
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        str(tag("title", title)),
        f"<style>{style}</style>",
    )
    start = f'<!doctype html>\n<html lang="{escaped(language)}">\n<head>\n'
    return start + "\n".join(head) + f"\n</head>\n<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
