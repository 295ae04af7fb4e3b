"""The report in a real browser: what a reader can do with it, and that nothing in it acts by itself."""

import contextlib
import dataclasses

import pytest

from evalib.engine import fit
from evalib.html_report import write_report
from evalib.models import model_for
from evalib.recipes import Recipe

pytestmark = pytest.mark.slow
HOSTILE = ("<img src=x onerror=alert(1)>", "\"'><script>alert(2)</script>", "cow")
RECIPE = Recipe(name="tiny", width=8, epochs=1, batch_size=8, lr=0.05)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report whose class names try to become elements, and which has 8 mistakes at least."""
    import torch

    from evalib.data.image_data import ImageData, Split

    generator = torch.Generator().manual_seed(0)

    def split(n):
        images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(n) % 3)

    data = ImageData(HOSTILE[0], HOSTILE, split(24), split(60), (0.5,) * 3, (0.25,) * 3, source=HOSTILE[1])
    folder = tmp_path_factory.mktemp("report") / "run"
    fit(model_for(RECIPE, 3), data, RECIPE, run_dir=folder, progress=False)
    return write_report(folder, data=dataclasses.replace(data), scores=2)


@contextlib.contextmanager
def opened(browser, path, **options):
    """The page, and a list of whatever it should not do."""
    page = browser.new_page(**options)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: wrong.append(request.url) if not known(request.url, path) else None)
    try:
        page.goto(path.as_uri())
        yield page
        assert wrong == []
    finally:
        page.close()


def known(url, path):
    return url == path.as_uri() or url.startswith("data:image/")


def shown(page):
    return page.eval_on_selector_all(
        "#cards .card", "cards => cards.filter(c => c.offsetParent !== null).map(c => ({...c.dataset}))"
    )


def test_names_create_no_element_and_no_request(browser, report):
    with opened(browser, report) as page:
        page.wait_for_timeout(200)
        assert page.locator("img[src='x']").count() == 0
        assert page.locator("script").count() == 1
        assert HOSTILE[0] in page.locator("#classes").inner_text()


def test_filters_search_and_sorting(browser, report):
    with opened(browser, report) as page:
        assert len(shown(page)) == 12
        page.locator("#more").click()
        total = len(shown(page))
        assert total > 12
        page.locator("#sort").select_option("loss")
        losses = [float(card["loss"]) for card in shown(page)]
        assert losses == sorted(losses, reverse=True)
        page.locator("#sort").select_option("index")
        indices = [int(card["index"]) for card in shown(page)]
        assert indices == sorted(indices)
        wanted = shown(page)[0]["true"]
        page.locator("#true").select_option(wanted)
        assert {card["true"] for card in shown(page)} == {wanted}
        page.locator("#everything").click()
        page.locator("#search").fill(f"image {indices[0]} cow")
        assert all("cow" in card["text"] for card in shown(page))
        page.locator("#search").fill("no such thing")
        assert shown(page) == []
        assert page.locator("#count").inner_text() == "None of the mistakes on this page fits."


def test_a_number_of_the_confusion_matrix_shows_its_mistakes(browser, report):
    with opened(browser, report) as page:
        first = shown(page)[0]
        cell = page.locator(f".confusion a[data-true='{first['true']}'][data-predicted='{first['predicted']}']")
        cell.click()
        assert {(card["true"], card["predicted"]) for card in shown(page)} == {(first["true"], first["predicted"])}
        assert first["index"] in [card["index"] for card in shown(page)]


def test_another_layer_is_another_picture(browser, report):
    with opened(browser, report) as page:
        card = page.locator("#cards .card").first
        page.locator("label:has(#layer-3)").click()
        before = card.screenshot()
        assert card.locator(".maps:visible .map").first.get_attribute("aria-label").find("layer3") > 0
        page.locator("#layer-3").press("ArrowRight")
        assert card.locator(".map:visible").first.get_attribute("aria-label").find("layer4") > 0
        assert card.locator(".map:visible").count() == 3
        assert card.screenshot() != before


def test_a_card_is_enlarged_with_all_layers_by_keys_alone(browser, report):
    with opened(browser, report) as page:
        page.locator("#cards .photo").first.focus()
        page.keyboard.press("Enter")
        dialog = page.locator("#enlarged")
        assert dialog.is_visible()
        assert dialog.locator(".map:visible").count() == 15
        first = dialog.locator("h3").inner_text() + dialog.locator(".file").inner_text()
        page.keyboard.press("ArrowRight")
        assert dialog.locator("h3").inner_text() + dialog.locator(".file").inner_text() != first
        page.keyboard.press("Escape")
        assert not dialog.is_visible()


def test_tables_are_sorted(browser, report):
    with opened(browser, report) as page:
        page.locator("#classes th button", has_text="recall").click()
        shares = [
            float(text.split()[0]) for text in page.locator("#classes tbody tr td:nth-child(3)").all_inner_texts()
        ]
        assert shares == sorted(shares, reverse=True)
        assert page.locator("#classes th[aria-sort='descending']").count() == 1


def color(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_light_and_dark(browser, report):
    with opened(browser, report, color_scheme="light") as page:
        light = color(page)
        page.locator("#theme").click()
        dark = color(page)
        assert dark != light
        page.emulate_media(media="print")
        assert color(page) == "rgb(255, 255, 255)"
        assert page.locator("#theme").is_hidden()
    with opened(browser, report, color_scheme="dark") as page:
        assert color(page) == dark


def test_a_phone_scrolls_down_only(browser, report):
    with opened(browser, report, viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_a_script_everything_is_there(browser, report):
    with opened(browser, report, java_script_enabled=False) as page:
        cards = page.locator("#cards .card")
        assert cards.count() > 12
        assert cards.last.is_visible()
        assert not page.locator("#filters").is_visible()
        page.locator("label:has(#layer-0)").click()
        assert cards.first.locator(".map:visible").first.get_attribute("aria-label").find("layer0") > 0
