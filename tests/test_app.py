"""The page without a browser: what its functions answer, how it is launched, and what it leaves behind."""

from __future__ import annotations

import functools
import gc
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from types import SimpleNamespace

import pytest
from conftest import ROOT, clean_environment
from tiny_run import make_run

import evalib
from evalib.app import build_app, open_app
from evalib.app_state import load_state
from evalib.cli import main

HOSTILE = ("\"'><b onmouseover=alert(2)> ${alert(3)}", "<img src=x onerror=alert(1)>", "cow")  # sorted, as folders are


@pytest.fixture(scope="module")
def gradio():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # event loops that its import leaves open
        found = pytest.importorskip("gradio", reason='needs gradio: pip install "evalib[app]"')
        gc.collect()
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("app"), HOSTILE)


@pytest.fixture
def quiet():
    """gradio leaves event loops open wherever it builds a page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture
def functions(gradio, run, quiet):
    """The functions of the page by name, as gradio calls them."""
    page = build_app(run, device="cpu")
    return {function.api_name: function.fn for function in page.fns.values()}


@pytest.fixture
def photo(run):
    return str(run.parent / "photos" / "test" / "cow" / "2.png")


def pictures(html):
    return re.findall(r'<img src="(data:image/[^"]+)"', html)


def test_a_new_image_gets_its_classes_and_two_maps(functions, run, photo):
    answer, choices, maps, label = functions["explain_new"](photo, "layer4", "grad_cam", "layer_cam")
    found = load_state(run, device="cpu").classifier.predict(photo)
    assert choices["visible"] is True
    assert label["value"] == found.classes[0]
    assert sorted(value for _, value in label["choices"]) == sorted(HOSTILE)
    assert f"{100 * found.probabilities[0]:.1f}\u00a0%" in answer
    assert len(set(pictures(maps))) == 3
    assert "Grad-CAM" in maps
    assert "Layer-CAM" in maps


def test_each_choice_changes_the_map(functions, photo):
    explain = functions["explain"]
    choices = [
        ("cow", "layer2", "grad_cam", ""), (HOSTILE[0], "layer2", "grad_cam", ""), ("cow", "layer3", "grad_cam", ""),
        ("cow", "layer2", "hires_cam", ""),
    ]  # fmt: skip
    maps = [pictures(explain(photo, *choice)) for choice in choices]
    assert [len(found) for found in maps] == [2] * 4
    assert len({photo for photo, _ in maps}) == 1
    assert len({drawn for _, drawn in maps}) == 4
    assert maps[0] == pictures(explain(photo, *choices[0]))
    assert pictures(explain(photo, "cow", "layer2", "grad_cam", "hires_cam"))[1:] == [maps[0][1], maps[3][1]]


def test_no_image_is_no_error(functions):
    answer, choices, maps, label = functions["explain_new"](None, "layer4", "grad_cam", "")
    assert "Drop an image" in answer
    assert (choices["visible"], maps, label["choices"]) == (False, "", [])
    assert functions["explain"](None, None, "layer4", "grad_cam", "") == ""


def test_a_file_that_is_no_image_is_told(functions, tmp_path):
    name = "<b>notes.txt"
    (tmp_path / name).write_text("dear diary")
    answer, choices, maps, _ = functions["explain_new"](str(tmp_path / name), "layer4", "grad_cam", "layer_cam")
    assert 'role="alert"' in answer
    assert "&lt;b&gt;notes.txt cannot be read as an image: no JPEG, PNG" in answer
    assert str(tmp_path) not in answer
    assert (choices["visible"], maps) == (False, "")


def test_a_choice_without_a_map_is_told_beside_the_other_map(functions, photo):
    shown = functions["explain"](photo, "cow", "layer9", "grad_cam", "full_grad")
    assert len(pictures(shown)) == 2
    assert "Grad-CAM: " in shown
    assert "has no &#x27;layer9&#x27;" in shown
    both = functions["explain"](photo, "cow", "layer9", "grad_cam", "nonsense")
    assert both.count('role="alert"') == 2


def test_mistakes_are_listed_chosen_and_explained(functions, run):
    mistakes = load_state(run, device="cpu").mistakes
    told, choices, row, true, predicted, listed, first, gallery, view = functions["mistakes"]("layer4", "hires_cam")
    assert f"{len(mistakes)} mistakes" in told
    assert choices["visible"] is row["visible"] is True
    assert listed == mistakes.indices.tolist()
    assert (first, gallery["selected_index"], len(gallery["value"])) == (listed[0], 0, len(listed))
    assert len(set(pictures(view))) == 4
    assert true["choices"][0] == predicted["choices"][0] == ("all classes", "")

    wanted = true["choices"][1][1]
    some, first, gallery, other = functions["choose_mistakes"](wanted, "", "layer4", "hires_cam")
    assert some == mistakes.select(mistakes.true == HOSTILE.index(wanted)).indices.tolist()
    assert len(gallery["value"]) == len(some)
    none, first, gallery, empty = functions["choose_mistakes"](wanted, wanted, "layer4", "hires_cam")
    assert (none, first, gallery["value"], gallery["selected_index"]) == ([], None, [], None)
    assert "No mistake is of these two classes" in empty

    pick = next(function for name, function in functions.items() if name not in ("explain", "explain_new", "mistakes",
                "choose_mistakes", "explain_mistake"))  # fmt: skip
    chosen, picked = pick(some, "layer4", "hires_cam", SimpleNamespace(index=1))
    assert chosen == some[1]
    assert picked == functions["explain_mistake"](some[1], "layer4", "hires_cam") != other
    assert pictures(functions["explain_mistake"](some[1], "layer2", "hires_cam"))[1:] != pictures(picked)[1:]


def test_without_test_images_the_page_says_what_to_do(gradio, run, quiet, tmp_path, photo):
    (tmp_path / "empty").mkdir()
    page = build_app(run, data_dir=tmp_path / "empty", device="cpu")
    functions = {function.api_name: function.fn for function in page.fns.values()}
    told, choices, row, *_ = functions["mistakes"]("layer4", "hires_cam")
    assert 'role="alert"' in told
    assert "--data-dir" in told
    assert choices["visible"] is row["visible"] is False
    assert len(pictures(functions["explain"](photo, "cow", "layer4", "grad_cam", ""))) == 2


def test_no_name_becomes_an_element(functions, gradio, run, photo, quiet):
    answer, _, maps, _ = functions["explain_new"](photo, "layer4", "grad_cam", "layer_cam")
    texts = [answer, maps, functions["explain"](photo, HOSTILE[0], "layer4", "grad_cam", "")]
    texts += [functions["mistakes"]("layer4", "hires_cam")[-1], functions["mistakes"]("layer4", "hires_cam")[0]]
    page = build_app(run, device="cpu")
    texts += [block.value for block in page.blocks.values() if isinstance(block, gradio.HTML) and block.value]
    assert any("&lt;img src=x onerror" in text for text in texts)
    for text in texts:
        assert "<img src=x" not in text
        assert "<b onmouseover" not in text
        assert "\"'>" not in text


def test_calls_of_the_network_wait_for_each_other(gradio, run, quiet):
    page = build_app(run, device="cpu")
    assert {(function.concurrency_id, function.concurrency_limit) for function in page.fns.values()} == {("network", 1)}
    assert page.analytics_enabled is False


# --- launching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("known", [None, "True"])
def test_only_this_machine_is_served_and_the_environment_is_put_back(gradio, run, quiet, monkeypatch, known, fails):
    seen = {}

    def launch(self, **options):
        seen.update(options, analytics=os.environ["GRADIO_ANALYTICS_ENABLED"], kept=os.environ["GRADIO_RUN_HISTORY"])
        if fails:
            raise OSError("no sockets today")

    monkeypatch.setattr(gradio.Blocks, "launch", launch)
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
        if known:
            monkeypatch.setenv(name, known)
    before = dict(os.environ)
    if fails:
        with pytest.raises(OSError, match="no sockets today"):
            evalib.open_app(run, device="cpu", port=7999)
    else:
        evalib.open_app(run, device="cpu", port=7999, browser=False)
        assert seen["inbrowser"] is False
    assert dict(os.environ) == before
    assert (seen["analytics"], seen["kept"]) == ("False", "False")
    assert (seen["server_name"], seen["server_port"], seen["share"]) == ("127.0.0.1", 7999, False)
    assert "inline" not in seen, "gradio finds out itself whether it is in a notebook"


def test_a_notebook_opens_no_browser(gradio, run, quiet, monkeypatch):
    seen = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda self, **options: seen.update(options))
    monkeypatch.setattr(gradio.utils, "ipython_check", lambda: True)
    open_app(run, device="cpu")
    assert seen["inbrowser"] is False
    monkeypatch.setattr(gradio.utils, "ipython_check", lambda: False)
    open_app(run, device="cpu")
    assert seen["inbrowser"] is True


def test_nothing_of_the_theme_comes_from_elsewhere(gradio, run, quiet, monkeypatch):
    seen = {}
    launch = functools.wraps(gradio.Blocks.launch)(lambda self, **options: seen.update(options))
    monkeypatch.setattr(gradio.Blocks, "launch", launch)
    seen |= vars(open_app(run, device="cpu", browser=False)) | seen  # gradio 5 takes theme and head earlier
    theme = seen["theme"]
    assert theme._stylesheets == []
    assert not re.search(r"url\(['\"]?http", theme._get_theme_css())
    assert "@font-face" not in theme._get_theme_css()
    assert "http" not in seen["head"]
    assert seen.get("footer_links") == [] or seen["show_api"] is False


def test_a_port_that_is_taken_is_told_in_one_line(gradio, run, quiet, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["app", str(run), "--port", str(port), "--no-browser", "--device", "cpu"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"evalib: Port {port} is taken. Name another one, or none for the first that is free."
    assert len(said) == 2


def test_without_gradio_one_line_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for opens in (build_app, open_app):
        with pytest.raises(ImportError, match=r'The page needs gradio: pip install "evalib\[app\]"$'):
            opens(run)
    assert main(["app", str(run), "--no-browser"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == 'evalib: The page needs gradio: pip install "evalib[app]"'


def test_no_run_is_told(gradio, quiet, tmp_path, capsys):
    assert main(["app", str(tmp_path / "none"), "--no-browser"]) == 1
    assert "There is no run directory or checkpoint" in capsys.readouterr().err


def test_the_command_serves_the_page_until_it_is_interrupted(gradio, run):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "evalib", "app", str(run), "--port", str(port), "--no-browser", "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"http://127.0.0.1:{port}/  the page of {run}")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                page = answer.read().decode()
            assert "--bar" in page, "its style is in it"
            process.send_signal(2)
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert process.returncode == 0
        finally:
            process.kill()
