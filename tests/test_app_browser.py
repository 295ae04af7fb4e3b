"""The page in a real browser: what a visitor can do with it, and that it asks no other machine for anything."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment
from tiny_run import make_run

pytestmark = pytest.mark.slow
HOSTILE = ("\"'><b onmouseover=alert(2)> ${alert(3)} {{7*7}}", "<img src=x onerror=alert(1)>", "cow")
SECONDS = 60_000  # ms; the first map of a process takes some


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("page"), HOSTILE)


@pytest.fixture(scope="module")
def address(run):
    """The page of a run, as `evalib app` serves it; in a process of its own."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip('needs gradio: pip install "evalib[app]"')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "evalib", "app", str(run), "--port", str(port), "--no-browser", "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            assert said, "the page did not start"
            yield said[0]
        finally:
            process.terminate()


@contextlib.contextmanager
def opened(browser, address, **options):
    """The page, and a list of whatever it should not do."""
    page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
    page.set_default_timeout(SECONDS)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: wrong.append(request.url) if not known(request.url, address) else None)
    try:
        page.goto(address)
        page.locator("#answer").wait_for()
        yield page
        assert wrong == []
    finally:
        page.close()


def known(url, address):
    return url.startswith((address, "data:", f"blob:{address}"))


def drop(page, path):
    page.locator("#image input[type=file]").set_input_files(path)


def maps(page):
    """The pictures that the page shows of an image: itself and its maps."""
    return page.eval_on_selector_all("#maps img", "images => images.map(image => image.src)")


def choose(page, label, name):
    """Choose in a list of the tab that is shown."""
    page.get_by_label(label, exact=True).locator("visible=true").first.click()
    page.get_by_role("option", name=name).locator("visible=true").first.click()


@pytest.fixture
def photo(run):
    return run.parent / "photos" / "test" / "cow" / "2.png"


def test_another_class_layer_or_method_is_another_map(browser, address, photo):
    with opened(browser, address) as page:
        assert page.get_by_text("Drop an image, or click").is_visible()
        assert not page.locator("#choices").is_visible()
        drop(page, photo)
        page.locator("#maps img").nth(2).wait_for()
        shares = [float(text.split()[0]) for text in page.locator("#answer .value").all_inner_texts()]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.2)
        seen = [maps(page)]
        assert len(set(seen[0])) == 3
        first = page.locator("#answer .label").first.inner_text()
        other = next(name for name in ("cow", "<img") if not first.startswith(name))
        for label, name in (("Class", other), ("Layer", "layer2"), ("Method", "HiResCAM")):
            before = page.locator("#maps img").nth(1).screenshot()
            choose(page, label, name)
            page.wait_for_function("old => document.querySelectorAll('#maps img')[1].src !== old", arg=seen[-1][1])
            seen.append(maps(page))
            assert seen[-1][0] == seen[0][0], "the image stays"
            assert page.locator("#maps img").nth(1).screenshot() != before
        choose(page, "Compare with", "nothing")
        page.wait_for_function("document.querySelectorAll('#maps img').length === 2")
        assert maps(page) == seen[-1][:2]


def test_what_is_no_image_is_told(browser, address, photo, tmp_path):
    whole = Path(photo).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("dear diary")
    with opened(browser, address) as page:
        for name in ("half.png", "notes.txt"):
            drop(page, tmp_path / name)
            page.locator("#answer [role=alert]", has_text=f"{name} cannot be read as an image").wait_for()
            assert not page.locator("#choices").is_visible()
            assert "Traceback" not in page.content()
            page.get_by_label("Clear").click()
            page.get_by_text("Drop an image, or click").wait_for()
        drop(page, photo)
        page.locator("#maps img").nth(2).wait_for()
        page.get_by_label("Clear").click()
        page.get_by_text("Drop an image, or click").wait_for()
        assert maps(page) == []


def test_mistakes_are_filtered_and_chosen(browser, address):
    with opened(browser, address) as page:
        page.get_by_role("tab", name="Mistakes").click()
        page.locator("#mistake img").nth(3).wait_for()
        page.locator("#gallery button img").first.wait_for()
        everything = page.locator("#gallery button img").count()
        assert f"{everything} mistakes" in page.locator("#told").inner_text()
        first = page.locator("#mistake img").first.get_attribute("src")
        page.locator("#gallery button").nth(1).click()
        page.wait_for_function("old => document.querySelector('#mistake img').src !== old", arg=first)
        drawn = page.locator("#mistake img").nth(1).get_attribute("src")
        choose(page, "Layer", "layer2")
        page.wait_for_function("old => document.querySelectorAll('#mistake img')[1].src !== old", arg=drawn)
        choose(page, "True class", "cow")
        page.wait_for_function("all => document.querySelectorAll('#gallery button img').length < all", arg=everything)
        captions = page.locator("#gallery .caption-label").all_inner_texts()
        assert captions
        assert all(caption.endswith("not cow") for caption in captions)
        assert page.locator("#mistake h2").inner_text().endswith("instead of cow")


def test_names_create_no_element(browser, address, photo):
    with opened(browser, address) as page:
        drop(page, photo)
        page.locator("#maps img").nth(2).wait_for()
        assert HOSTILE[1] in page.locator("#answer").inner_text()
        assert HOSTILE[0] in page.locator(".head").inner_text(), "templates in names are text, too"
        choose(page, "Class", "<img")
        page.locator("#maps h2", has_text=HOSTILE[1]).wait_for()
        page.get_by_role("tab", name="Mistakes").click()
        page.locator("#gallery button img").first.wait_for()
        page.get_by_label("True class").click()
        page.wait_for_timeout(300)
        assert page.locator("img[src='x']").count() == 0
        assert page.locator("b[onmouseover]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only(browser, address, photo, scheme):
    with opened(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 390
        drop(page, photo)
        page.locator("#maps img").nth(2).wait_for()
        assert page.evaluate(width) <= 390
        result, choices = (page.locator(part).bounding_box() for part in ("#maps", "#choices"))
        assert result["y"] < choices["y"], "the result stands above its choices"
        page.get_by_role("tab", name="Mistakes").click()
        page.locator("#mistake img").nth(3).wait_for()
        assert page.evaluate(width) <= 390


def test_light_and_dark(browser, address):
    found = []
    for scheme in ("light", "dark"):
        with opened(browser, address, color_scheme=scheme) as page:
            found.append(page.evaluate("getComputedStyle(document.querySelector('h1')).color"))
    assert found[0] != found[1]
