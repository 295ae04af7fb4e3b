"""Pieces of a page: nothing that is put in as text can become markup, a link out of the page or a script."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evalib.html_parts import asset, escaped, joined, name, page, style, tag, visible

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "</script><!--",
    "a & b &lt;",
    "\u202egnp.exe",
]


class Reader(HTMLParser):
    """The elements, attributes and texts that a browser would see."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts = [], []

    def handle_starttag(self, element, attributes):
        self.elements.append((element, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def read(markup):
    reader = Reader()
    reader.feed(str(markup))
    reader.close()
    return reader


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text):
    found = read(tag("p", text, name(text), title=text, data_x=text))
    shown = visible(text)
    assert found.elements == [("p", {"title": shown, "data-x": shown}), ("bdi", {})]
    assert "".join(found.texts) == 2 * shown


def test_what_turns_or_hides_text_is_shown():
    assert visible("a\u202eb\x00c\ud800") == "a\\u202eb\\x00c\\ud800"
    assert visible("שלום 👩‍🔬 é\n") == "שלום 👩‍🔬 é\n"  # right to left, joined signs and accents are none of that
    escaped("\ud800").encode()  # half of a pair cannot be written


def test_elements_nest_and_nothing_is_left_out():
    found = tag("ul", [tag("li", word, 3) for word in ("a", "b")], None, class_="x", hidden=False, open=True)
    assert str(found) == '<ul class="x" open><li>a3</li><li>b3</li></ul>'
    assert str(joined("<", tag("br"))) == "&lt;<br>"


@pytest.mark.parametrize(
    "make",
    [
        lambda: tag("script", "x"),
        lambda: tag("style", "x"),
        lambda: tag("p onclick=x"),
        lambda: tag("br", "x"),
        lambda: tag("a", href="https://example.org"),
        lambda: tag("a", href="javascript:alert(1)"),
        lambda: tag("img", src="//example.org/x.png"),
        lambda: tag("p", onclick="x"),
        lambda: tag("p", **{"x y": "z"}),
        lambda: style("p{background:url(x)}"),
        lambda: style("</style>"),
    ],
)
def test_what_could_run_or_lead_out_is_refused(make):
    with pytest.raises(ValueError, match="needs|is no name"):
        make()


def test_a_page_holds_its_style_and_script_and_forbids_all_else():
    text = page("<title>", tag("p", "x"))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#x27;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert asset("report.css") in text
    assert asset("report.js") in text
    assert "<title>&lt;title&gt;</title>" in text


def test_markup_is_made_in_one_place():
    """Whoever calls `Markup` elsewhere has a way around the escaping."""
    folder = Path(__file__).resolve().parent.parent / "evalib"
    for path in sorted(folder.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        makers = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Markup"]
        assert not makers or path.name == "html_parts.py", path
