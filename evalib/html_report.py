"""One HTML file that tells all about a run, or compares several; it needs no network and holds everything.

>>> write_report("runs/demo")  # doctest: +SKIP
PosixPath('runs/demo/report.html')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import evalib
from evalib import html_compare
from evalib.data.image_data import ImageData
from evalib.files import replacing
from evalib.html_classes import calibration_section, cars_section, classes_section, confusion_section
from evalib.html_facts import RunFacts, read_run
from evalib.html_gallery import gallery_section, scores_section
from evalib.html_mistakes import Gallery, make_gallery
from evalib.html_parts import Markup, joined, name, page, tag
from evalib.html_sections import curves_section, environment_section, recipe_section, result_section
from evalib.runtime import doctor

REPORT_NAME, COMPARISON_NAME = "report.html", "comparison.html"
MOST_BYTES = 5_000_000

_CONTENTS = {
    "result": "Result", "compare": "Side by side", "curves": "Curves", "agreement": "Image by image",
    "confusion": "Confusion", "classes": "Classes", "cars": "How far off", "calibration": "Calibration",
    "mistakes": "Mistakes", "scores": "Worth of the maps", "recipe": "Recipe and data", "environment": "Environment",
    "runs": "The runs",
}  # fmt: skip


def write_report(
    run_dirs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    data: ImageData | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    mistakes: int = 48,
    maps: bool = True,
    scores: int | None = None,
) -> Path:
    """Write the report of a run, or the comparison of several, as one HTML file of less than 5 MB.

    Nothing else is written. What cannot be told, as without the test images, is left out, and the report says so.

    Args:
        run_dirs: a run directory, or several to compare.
        output: the file; None takes report.html in the (first) run directory, of several comparison.html.
        data: the data of the runs; None loads them as their checkpoints say.
        data_dir: where the data are now; None for where they were.
        device: where the networks run; None takes the best one.
        mistakes: cards in the gallery at most; fewer if the file would grow too large.
        maps: whether to make maps, and to measure what they are worth.
        scores: test images for that measure; None takes 16, of large images as many as do not take long.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: if a folder holds no run.
        ValueError: if there is no run, files are damaged, `data` do not fit, or a number is negative.
        OSError: if the file cannot be written.
    """
    folders = [Path(run_dirs)] if isinstance(run_dirs, str | Path) else [Path(folder) for folder in run_dirs]
    if not folders or mistakes < 0 or (scores is not None and scores < 2):
        raise ValueError(
            f"A report needs at least one run, `mistakes` of 0 or more and `scores` of 2 or more, or None: got "
            f"{len(folders)} runs, {mistakes} and {scores}."
        )
    with torch.random.fork_rng(devices=[]):  # a network is built with random weights before its own are loaded
        runs = [read_run(folder, data=data, data_dir=data_dir, device=device) for folder in folders]
        if len(runs) > 1:
            _tell_apart(runs)
            text = page("evalib: comparison of runs", _comparison(runs, doctor(device)))
        else:
            text = _single(runs[0], device, mistakes=mistakes, maps=maps, scores=scores)
    path = Path(output or folders[0] / (REPORT_NAME if len(runs) == 1 else COMPARISON_NAME))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _single(
    facts: RunFacts, device: str | torch.device | None, *, mistakes: int, maps: bool, scores: int | None
) -> str:
    """The text of the report of one run, with as many cards as it has space for."""
    gallery = make_gallery(facts, count=mistakes, maps=maps, scores=scores)
    here = doctor(device)
    text = page(f"{facts.name}: report", _body(facts, gallery, here))
    while gallery is not None and len(gallery.rows) and len(text.encode()) > MOST_BYTES:
        gallery = _fewer(gallery, len(text.encode()))
        text = page(f"{facts.name}: report", _body(facts, gallery, here))
    return text


def _fewer(gallery: Gallery, size: int) -> Gallery:
    """A gallery with fewer cards, so that the page gets below the limit."""
    keep = max(0, min(len(gallery.rows) - 1, int(len(gallery.rows) * 0.9 * MOST_BYTES / size)))
    return gallery.head(keep, f"Only {keep} cards: with more of them this file would exceed {MOST_BYTES // 10**6} MB.")


def _tell_apart(runs: list[RunFacts]) -> None:
    """Give runs whose folders have one name more of their path; a run that is named twice gets a number."""
    names = [run.name for run in runs]
    for place, run in enumerate(runs):
        if names.count(run.name) > 1:
            parts = run.folder.resolve().parts
            run.name = "/".join(parts[-2:])
            run.name += f" ({place + 1})" if run.name in [other.name for other in runs[:place]] else ""


def _comparison(runs: Sequence[RunFacts], here: Mapping[str, str]) -> Markup:
    sections = {
        "compare": html_compare.results_section(runs),
        "curves": html_compare.overlaid_section(runs),
        "agreement": html_compare.agreement_section(runs),
        "classes": html_compare.classes_section(runs),
        "runs": html_compare.briefs_section(runs),
        "environment": environment_section(runs[0], here),
    }
    title = ", ".join(run.name for run in runs)
    return frame(title, "comparison", {key: part for key, part in sections.items() if part})


def _body(facts: RunFacts, gallery: Gallery | None, here: Mapping[str, str]) -> Markup:
    test = facts.test
    sections = {
        "result": result_section(facts),
        "curves": curves_section(facts),
        "confusion": test and confusion_section(test),
        "classes": test and classes_section(test),
        "cars": test and cars_section(test),
        "calibration": test and calibration_section(test),
        "mistakes": test and gallery_section(test, gallery),
        "scores": gallery and scores_section(gallery),
        "recipe": recipe_section(facts),
        "environment": environment_section(facts, here),
    }
    return frame(facts.name, "report", {key: part for key, part in sections.items() if part})


def frame(title: str, kind: str, sections: dict[str, Markup]) -> Markup:
    """Head, table of contents and foot around the sections."""
    entries = [tag("li", tag("a", _CONTENTS[key], href=f"#{key}")) for key in sections]
    toggle = tag("button", "Dark", type="button", id="theme", class_="controls", hidden=True)
    head = tag("header", tag("div", tag("p", f"evalib {kind}", class_="eyebrow"), tag("h1", name(title))), toggle,
               class_="top")  # fmt: skip
    foot = tag("footer", f"Written by evalib {evalib.__version__}. Nothing in this file leaves it.")
    return joined(
        tag("a", "Skip to the result", href=f"#{next(iter(sections))}", class_="skip"),
        head,
        tag("div", tag("nav", tag("ol", entries), aria_label="Contents"), tag("main", list(sections.values())),
            class_="columns"),
        foot,
    )  # fmt: skip
