"""The report of a run: whole, small, true to the run, and without a way out or in."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from evalib.checkpoint import load_model
from evalib.cli import main
from evalib.data.image_data import ImageData, Split
from evalib.data.loaders import eval_loader
from evalib.engine import Evaluation, evaluate, fit
from evalib.html_compare import agreement_section, comparable, results_section
from evalib.html_facts import read_run
from evalib.html_report import MOST_BYTES, write_report
from evalib.models import model_for
from evalib.recipes import Recipe
from evalib.rundir import latest_checkpoint

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


def test_figures_are_those_of_the_run(make_run, tiny_data, tmp_path):
    """Accuracy, interval, confusion and calibration, computed anew from the logits of the run's network."""
    folder = make_run(tiny_data)
    model, _ = load_model(latest_checkpoint(folder))
    found = evaluate(model, eval_loader(tiny_data))
    labels, predictions = found.labels.tolist(), found.logits.argmax(1).tolist()
    right = sum(a == b for a, b in zip(labels, predictions, strict=True))
    page = Page(write_report(folder, tmp_path / "x.html", data=tiny_data, maps=False).read_text("utf-8"))
    low, high = (100 * value for value in binomtest(right, 12).proportion_ci(method="wilson"))
    headline = f"names {100 * right / 12:.1f} % of 12 test images right (95 % interval {low:.1f} to {high:.1f} %)"
    assert headline in page.words["result"]
    titles = [attributes["title"] for attributes in page.named("td") if " named " in attributes.get("title", "")]
    expected = [
        f"{list(zip(labels, predictions, strict=True)).count((i, j))} of 4 images of {true} named {other}"
        for i, true in enumerate(tiny_data.classes)
        for j, other in enumerate(tiny_data.classes)
    ]
    assert titles == expected
    confidence = found.logits.double().softmax(1).amax(1)
    error = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            hits = torch.tensor([t == p for t, p in zip(labels, predictions, strict=True)])[inside].double().mean()
            error += inside.double().mean().item() * abs(hits - confidence[inside].mean()).item()
    assert f"calibration error {100 * error:.1f} %" in page.words["calibration"]
    cards = page.named("article")
    wrong = {index for index in range(12) if labels[index] != predictions[index]}
    assert {int(card["data-index"]) for card in cards} == wrong
    for card in cards:
        index = int(card["data-index"])
        assert (int(card["data-true"]), int(card["data-predicted"])) == (labels[index], predictions[index])
        assert float(card["data-confidence"]) == pytest.approx(confidence[index].item(), abs=1e-4)
        assert float(card["data-loss"]) == pytest.approx(
            -found.logits.double().log_softmax(1)[index, labels[index]].item(), abs=1e-4
        )


def test_nothing_leads_out_of_the_file(make_run, tiny_data, tmp_path):
    folder = make_run(tiny_data)
    text = write_report(folder, tmp_path / "x.html", data=tiny_data, scores=2).read_text("utf-8")
    addresses = re.findall(r"(?:https?:)?//[\w.-]+|@import", re.sub(r"base64,[\w+/=]+", "", text))
    assert addresses == []
    for address in re.findall(r"url\(([^)]*)\)", text):
        assert address.startswith("data:image/")
    page = Page(text)
    assert {attributes.get("src", "data:image/")[:11] for _, attributes in page.elements} == {"data:image/"}
    assert all(attributes["href"].startswith("#") for _, attributes in page.elements if "href" in attributes)
    assert len(page.named("script")) == 1
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.named("meta")[1]["content"]


def test_every_picture_is_told_in_words(make_run, tiny_data, tmp_path):
    page = Page(write_report(make_run(tiny_data), tmp_path / "x.html", data=tiny_data, scores=2).read_text("utf-8"))
    assert page.named("img")
    assert all(
        re.match(r"test image \d+: true \w+, predicted \w+ with \d+", image["alt"]) for image in page.named("img")
    )
    pictures = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert all(attributes["aria-label"] for attributes in pictures)
    assert any(re.match(r"map of \w+ in layer3: strongest", attributes["aria-label"]) for attributes in pictures)
    svgs = [attributes for attributes in page.named("svg") if attributes.get("role") != "img"]
    assert all(attributes.get("aria-hidden") == "true" for attributes in svgs)


def test_hostile_names_stay_text(make_run, tiny_data, tmp_path):
    data = dataclasses.replace(tiny_data, classes=HOSTILE, name=HOSTILE[0], source=HOSTILE[1])
    plain = Page(write_report(make_run(tiny_data), tmp_path / "a.html", data=tiny_data, scores=2).read_text("utf-8"))
    text = write_report(make_run(data), tmp_path / "b.html", data=data, scores=2).read_text("utf-8")
    page = Page(text)
    assert "\u202e" not in text
    assert {name for name, _ in page.elements} <= {name for name, _ in plain.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert HOSTILE[0] in page.words["classes"]
    assert "\\u202egnp.exe" in page.words["confusion"]
    assert any(HOSTILE[1] in attributes.get("alt", "") for attributes in page.named("img"))


def test_a_run_without_its_data_says_what_is_missing(make_run, tiny_data, tmp_path):
    folder = make_run(tiny_data)
    page = Page(write_report(folder, tmp_path / "x.html").read_text("utf-8"))
    assert [attributes["id"] for attributes in page.named("section")] == ["result", "curves", "recipe", "environment"]
    assert "--data-dir" in page.words["result"]
    (folder / "last.pt").unlink()
    (folder / "previous.pt").unlink(missing_ok=True)
    page = Page(write_report(folder, tmp_path / "x.html").read_text("utf-8"))
    assert "no checkpoint" in page.words["result"]
    assert "names" in page.words["result"]  # the history has the accuracy


def test_one_epoch_and_no_mistake(make_run, tiny_data, tmp_path, monkeypatch):
    folder = make_run(tiny_data, RECIPE.replace(epochs=1))
    right = Evaluation(0.0, 1.0, 9.0 * torch.nn.functional.one_hot(tiny_data.test.labels, 3), tiny_data.test.labels)
    monkeypatch.setattr("evalib.html_facts.evaluate", lambda *_, **__: right)
    page = Page(write_report(folder, tmp_path / "x.html", data=tiny_data).read_text("utf-8"))
    assert "100.0 % of 12" in page.words["result"]
    assert "no mistake" in page.words["mistakes"]
    assert page.named("article") == []


@pytest.mark.parametrize("classes", [2, 196])
def test_few_and_many_classes(make_run, classes, tmp_path):
    generator = torch.Generator().manual_seed(1)

    def split(n):
        images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(n) % classes)

    names = tuple(f"class {index}" for index in range(classes))
    third = (1 / 3,) * 3
    data = ImageData("many", names, split(2 * classes), split(classes), third, third)
    path = write_report(make_run(data, RECIPE.replace(epochs=1)), tmp_path / "x.html", data=data, maps=False)
    page = Page(path.read_text("utf-8"))
    assert len([row for row in page.named("th") if row.get("data-v", "").startswith("class ")]) >= classes
    assert path.stat().st_size < MOST_BYTES


def test_a_file_that_would_be_too_large_gets_fewer_cards(make_run, tiny_data, tmp_path, monkeypatch):
    folder = make_run(tiny_data)
    whole = write_report(folder, tmp_path / "x.html", data=tiny_data, scores=2)
    cards = len(Page(whole.read_text("utf-8")).named("article"))
    monkeypatch.setattr("evalib.html_report.MOST_BYTES", whole.stat().st_size - 20_000)
    smaller = write_report(folder, tmp_path / "y.html", data=tiny_data, scores=2)
    page = Page(smaller.read_text("utf-8"))
    assert smaller.stat().st_size < whole.stat().st_size - 20_000
    assert 0 < len(page.named("article")) < cards
    assert "more of them this file would exceed" in page.words["mistakes"]


def test_nothing_is_left_switched(make_run, tiny_data, tmp_path):
    folder = make_run(tiny_data)
    state, images, place = torch.random.get_rng_state(), tiny_data.test.images.clone(), Path.cwd()
    write_report(folder, tmp_path / "x.html", data=tiny_data, scores=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(tiny_data.test.images, images)
    assert torch.is_grad_enabled()
    assert Path.cwd() == place


def test_wrong_arguments(tmp_path, make_run, tiny_data):
    with pytest.raises(FileNotFoundError, match="no run directory"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        write_report([])
    other = dataclasses.replace(tiny_data, classes=("x", "y", "z"))
    with pytest.raises(ValueError, match="needs the classes"):
        write_report(make_run(tiny_data), tmp_path / "x.html", data=other)


def test_the_command(make_run, tiny_data, tmp_path, capsys):
    folder = make_run(tiny_data)
    assert main(["report", str(folder), "--output", str(tmp_path / "r.html"), "--no-maps", "--device", "cpu"]) == 0
    assert str(tmp_path / "r.html") in capsys.readouterr().out
    assert main(["report", str(tmp_path / "none")]) == 1
    assert "no run directory" in capsys.readouterr().err


# --- several runs ------------------------------------------------------------------------------------------------


def test_runs_on_the_same_images_are_compared(make_run, tiny_data, tmp_path):
    folders = [make_run(tiny_data, RECIPE.replace(seed=seed, lr=0.01 * seed)) for seed in (1, 2)]
    path = write_report(folders, tmp_path / "c.html", data=tiny_data)
    page = Page(path.read_text("utf-8"))
    right = []
    for folder in folders:
        found = evaluate(load_model(latest_checkpoint(folder))[0], eval_loader(tiny_data))
        right.append(found.predictions == found.labels)
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert f"{p:.4f}" in page.words["agreement"]
    assert "lr" in page.words["compare"]
    pictures = page.named("img")
    assert len(pictures) == sum(only)
    assert [name for name, _ in page.elements].count("section") == 6


def test_runs_on_other_images_are_not_compared(make_run, tiny_data, tmp_path):
    other = dataclasses.replace(tiny_data, test=tiny_data.train)
    one, two = read_run(make_run(tiny_data), data=tiny_data), read_run(make_run(other), data=other)
    assert not comparable([one, two])
    assert comparable([one, read_run(make_run(tiny_data), data=tiny_data)])
    assert agreement_section([one, two]) is None
    assert "must not be compared" in str(results_section([one, two]))


@pytest.mark.parametrize("part", ["images", "labels"])
def test_one_other_image_or_label_is_another_test(make_run, tiny_data, part):
    values = {"images": tiny_data.test.images, "labels": tiny_data.test.labels}
    values[part] = values[part].flip(0)
    other = dataclasses.replace(tiny_data, test=Split(**values))
    folder = make_run(tiny_data)
    assert not comparable([read_run(folder, data=tiny_data), read_run(folder, data=other)])
