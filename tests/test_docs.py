"""The site: every module is there, every link leads somewhere, and what the pages name exists."""

from __future__ import annotations

import ast
import importlib.util
import re

import pytest
from conftest import ROOT, check

pytest.importorskip("pdoc", reason="needs the extra `docs`")

SPEC = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
assert SPEC is not None
assert SPEC.loader is not None
BUILD = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BUILD)
TEXTS = {file: (ROOT / "docs" / file).read_text("utf-8") for file in BUILD.PAGES}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    import sys

    folder = tmp_path_factory.mktemp("site")
    check(sys.executable, ROOT / "docs" / "build.py", folder, cwd=ROOT, PYTHONPATH=str(ROOT))
    return folder


def test_every_public_module_and_page_is_there(site):
    found = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    sources = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "evalib").rglob("*.py")]
    modules = {(path.parent if path.name == "__init__" else path).as_posix() for path in sources}
    expected = {f"{name}.html" for name in modules if "__main__" not in name}
    assert expected <= found
    assert {file.replace(".md", ".html") for file in TEXTS} <= found
    assert "check_overfit" in (site / "evalib" / "exercises.html").read_text("utf-8")


def test_all_links_resolve(site):
    assert BUILD.broken_links(site) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html#y"></a><a href="c.html"></a><a href="#x"></a>')
    (tmp_path / "b.html").write_text(
        '<a href="a.html#x"></a><a href="#z"></a><a href="../b.html"></a><a href="https://x.y"></a>'
    )
    expected = ["a.html: b.html#y", "a.html: c.html", "b.html: #z", "b.html: ../b.html"]
    assert sorted(BUILD.broken_links(tmp_path)) == sorted(expected)


def test_a_page_that_names_no_file_is_refused():
    with pytest.raises(BUILD.SiteError, match=r"no notebooks/99\.ipynb"):
        BUILD.render_page("# T\n\n[x](../notebooks/99.ipynb)\n")
    with pytest.raises(BUILD.SiteError, match="first line"):
        BUILD.render_page("T\n")


def test_which_notebook_names_every_notebook():
    """Also those that a page links to exist: `render_page` refuses others."""
    named = set(re.findall(r"\.\./notebooks/([\w.]+)", TEXTS["which-notebook.md"]))
    assert named >= {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    for text in TEXTS.values():
        BUILD.render_page(text)


@pytest.mark.parametrize("file", list(TEXTS))
def test_code_of_the_pages_imports_what_exists(file):
    blocks = re.findall(r"```python\n(.*?)```", TEXTS[file], re.S)
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_every_check_has_its_exercise():
    from evalib import exercises, map_exercises

    text = TEXTS["teachers.md"]
    checks = {
        name
        for module in (exercises, map_exercises)
        for name in vars(module)
        if name.startswith("check_") and getattr(module, name).__module__ == module.__name__
    }
    assert len(checks) == len(re.findall(r"^## \d", text, re.M)) == 8
    assert checks == set(re.findall(r"^(check_\w+)\(", text, re.M))
