"""The report of a run: whole, small, true to the run, and without a way out or in."""

from html.parser import HTMLParser

import pytest

from evalib.engine import fit
from evalib.html_report import MOST_BYTES, write_report
from evalib.models import model_for
from evalib.recipes import Recipe

RECIPE = Recipe(name="tiny", width=8, epochs=2, batch_size=8, lr=0.05)
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\"'></bdi></script><script>alert(2)</script>",
    "\u202egnp.exe; url(http://x.y)",
)
VOID = {"br", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """A page as a tree of tags is read, with what a browser would load or run."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.ids, self.words = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        inside = [identity for tag, identity in self.open if tag == "section"]
        if not self.open or self.open[-1][0] not in ("script", "style"):
            where = inside[0] if inside else ""
            self.words[where] = self.words.get(where, "") + data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Trains a tiny network on data of its own; the run directory."""

    def make(data, recipe=RECIPE):
        folder = tmp_path_factory.mktemp("runs") / "a run"
        model = model_for(recipe, data.num_classes)
        fit(model, data, recipe, run_dir=folder, progress=False)
        return folder

    return make


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.html"}


def test_a_report_is_one_small_file_with_everything_inside(make_run, tiny_data, tmp_path):
    folder = make_run(tiny_data)
    before = files_in(folder)
    path = write_report(folder, data=tiny_data, scores=2)
    assert path == folder / "report.html"
    assert files_in(folder) == before
    text = path.read_text("utf-8")
    assert len(text.encode()) < MOST_BYTES
    found = Page(text)
    assert len(set(found.ids)) == len(found.ids)
    for link in found.named("a"):
        assert link["href"][1:] in found.ids
    sections = [attributes["id"] for attributes in found.named("section")]
    assert sections == ["result", "curves", "confusion", "classes", "calibration", "mistakes", "scores", "recipe",
                        "environment"]  # fmt: skip
