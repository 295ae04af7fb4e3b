"""The site: every public module by pdoc, the Markdown pages of this folder, one menu.

    python docs/build.py site

A warning is an error, and so is a link that leads nowhere.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import markdown2
import pdoc
import pdoc.extract
import pdoc.render
import pdoc.render_helpers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# The Markdown pages in the order of the menu, and what they are called there.
PAGES = {
    "index.md": "Start",
    "which-notebook.md": "Which notebook is for me?",
    "teachers.md": "For teachers",
    "troubleshooting.md": "When something fails",
}
API = ("evalib.html", "All modules")


class SiteError(ValueError):
    """What is wrong with the pages, a line each."""


class _Links(HTMLParser):
    """The links of a page, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif name == ("href" if tag in ("a", "link") else "src") and value:
                self.links.add(value)


def broken_links(site: Path) -> list[str]:
    """Links inside the site that lead to no page, or to no place in it, each as "page: link"."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path.resolve()] = found = _Links()
        found.feed(path.read_text("utf-8"))
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            there = target.is_file() and target.is_relative_to(site.resolve())
            if not there or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site.resolve()).as_posix()}: {link}")
    return broken


def repository() -> str:
    """The public address of the repository, which stands in setup.py."""
    found = re.search(r'^URL = "([^"]+)"$', (ROOT / "setup.py").read_text("utf-8"), re.M)
    if found is None:
        raise SiteError('setup.py needs a line `URL = "https://..."`.')
    return found[1]


def render_page(text: str) -> tuple[str, str, str]:
    """Title, body and table of contents of a Markdown page, as HTML.

    Links to other pages become links to their HTML, those to files of the repository links to its public address;
    such a file has to exist.

    Raises:
        SiteError: if the page has no title, or links to a file that is not there.
    """
    title = re.match(r"# (.+)\n", text)
    if title is None:
        raise SiteError(f"A page needs a first line `# Title`: got {text[:40]!r}.")
    extras = {name: value for name, value in pdoc.render_helpers.markdown_extensions.items() if name != "link-patterns"}
    made = markdown2.markdown(text, extras=extras)
    contents = made.toc_html or ""

    def elsewhere(match: re.Match[str]) -> str:
        file = match[1]
        if not (ROOT / file).is_file():
            raise SiteError(f"There is no {file} in the repository, to which {title[1]!r} links.")
        return f'href="{repository()}/blob/main/{file}"'

    body = re.sub(r'href="\.\./([^"#]+)"', elsewhere, made)
    body = re.sub(r'href="([\w-]+)\.md(#[^"]*)?"', lambda match: f'href="{match[1]}.html{match[2] or ""}"', body)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return title[1], body, contents


def module_names(package: str = "evalib") -> list[str]:
    """Every public module of the package."""
    return [name for name in pdoc.extract.walk_specs([package]) if "._" not in name]


def build(site: Path, modules: Iterable[str] | None = None) -> list[Path]:
    """Write the site; the files in it.

    Args:
        site: a folder, made if need be; other files in it stay.
        modules: what to document; None takes all public modules.

    Raises:
        SiteError: if a page or a link is wrong.
        Warning: any that comes up on the way.
    """
    site.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = sorted(module_names() if modules is None else modules)
        pdoc.render.configure(docformat="google", template_directory=HERE / "templates", search=True)
        menu = [*((Path(file).stem + ".html", title) for file, title in PAGES.items()), API]
        pdoc.render.env.globals["pages"] = menu
        documented = {name: pdoc.doc.Module.from_name(name) for name in names}
        written = {f"{name.replace('.', '/')}.html": pdoc.render.html_module(module, documented)
                   for name, module in documented.items()}  # fmt: skip
        written["search.js"] = pdoc.render.search_index(documented)
        template = pdoc.render.env.get_template("page.html.jinja2")
        for file in PAGES:
            title, body, contents = render_page((HERE / file).read_text("utf-8"))
            current = Path(file).stem + ".html"
            written[current] = template.render(title=title, body=body, toc=contents, current=current)
    for name, text in written.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, "utf-8")
    if broken := broken_links(site):
        raise SiteError("Links that lead nowhere:\n" + "\n".join(broken))
    return [site / name for name in written]


def main() -> int:
    """Build into the folder that the command line names."""
    if len(sys.argv) != 2:
        print("python docs/build.py FOLDER")
        return 2
    try:
        files = build(Path(sys.argv[1]))
    except SiteError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    print(f"{len(files)} files in {sys.argv[1]}; open {Path(sys.argv[1]) / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
