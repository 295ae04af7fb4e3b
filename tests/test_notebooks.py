"""The notebooks: rules read from their JSON, and each one run from top to bottom as by a newcomer."""

from __future__ import annotations

import ast
import base64
import copy
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, run
from PIL import Image

Notebook = dict[str, Any]

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIRST = ROOT / "notebooks" / "01_cifar10_resnet18_gradcam.ipynb"
JUDGING = ROOT / "notebooks" / "05_which_cam_to_trust.ipynb"
OWN = ROOT / "notebooks" / "06_your_own_images.ipynb"
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# Folders that tell of a machine, at the start of a path; and a drive of Windows.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|work|tmp|content|mnt|opt|srv|usr|var)/|\b[A-Z]:\\\\?\w")
# Small enough for a slow CPU: a minute for a whole notebook, most of it spent on imports.
SMALL = {
    "EVALIB_DATA": "sample",
    "EVALIB_RECIPE": "demo",
    "EVALIB_EPOCHS": "1",
    "EVALIB_TRAIN_LIMIT": "200",
    "EVALIB_TEST_LIMIT": "100",
}
SMALL_CAM = {
    "EVALIB_TRAIN_LIMIT": "20",
    "EVALIB_TEST_LIMIT": "10",
    "EVALIB_IMAGE_SIZE": "96",
    "EVALIB_WIDTH": "8",
    "EVALIB_BATCH_SIZE": "10",
    "EVALIB_LR": "1e-5",
    "EVALIB_WEIGHTS": "none",
}
# Some of the test images have to be right, some wrong, for the mistakes to be told by kind.
SMALL_JUDGING = {
    "EVALIB_TRAIN_LIMIT": "60",
    "EVALIB_TEST_LIMIT": "60",
    "EVALIB_JUDGED": "4",
    "EVALIB_METHODS": "layer_cam",
    "EVALIB_CARS_EPOCHS": "1",
}
SMALL_OWN = {"EVALIB_SOURCE": "sample", "EVALIB_IMAGE_SIZE": "32"}
TINY = SMALL | {"EVALIB_TRAIN_LIMIT": "50", "EVALIB_TEST_LIMIT": "50"}


def read(path: Path) -> Notebook:
    notebook: Notebook = json.loads(path.read_text("utf-8"))
    return notebook


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def code_cell_with(notebook: Notebook, text: str) -> int:
    """The number of the only code cell that contains a text, counted as nbval does: code cells from 0."""
    (number,) = [n for n, cell in enumerate(code_cells(notebook)) if text in source(cell)]
    return number


def repository() -> str:
    """The one address that setup.py states."""
    (address,) = re.findall(r'^URL = "([^"]+)"$', (ROOT / "setup.py").read_text("utf-8"), re.M)
    return str(address)


def texts(value: Any) -> list[str]:
    """Every text in a cell's outputs except encoded images."""
    if isinstance(value, dict):
        return [text for key, part in value.items() if not key.startswith("image/") for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


# --- rules ------------------------------------------------------------------------------------------


def test_there_are_notebooks():
    assert FIRST in NOTEBOOKS


@every_notebook
def test_form(path):
    notebook = read(path)
    ids = [cell.get("id") for cell in notebook["cells"]]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    # notebooks 04 and 05 have a cell, and a line of text, for each ingredient or question
    assert 10 <= len(ids) <= (32 if path.stem in ("04_fast_training", JUDGING.stem) else 15)
    assert all(ids)
    assert len(set(ids)) == len(ids)


@every_notebook
def test_code_cells_are_short_calls(path):
    for cell in code_cells(read(path)):
        lines = source(cell).splitlines()
        assert 1 <= len(lines) <= 12, f"{cell['id']}: {len(lines)} lines"
        shell = [line for line in lines if re.match(r"\s*(?:\w+\s*=\s*)?[!%]", line)]
        assert not shell, f"{cell['id']}: {shell}; a failing `!` or `%` line passes unnoticed"
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Try)
        found = [type(node).__name__ for node in ast.walk(ast.parse(source(cell))) if isinstance(node, kinds)]
        assert not found, f"{cell['id']}: {found} belongs into the library"


@every_notebook
def test_first_cell_names_data_hardware_versions_and_has_the_badge(path):
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    assert source(first).startswith("# ")
    assert re.search(r"^Outputs below: ", source(first), re.M)
    site = repository().replace("https://github.com/", "https://colab.research.google.com/github/")
    badge = f"{site}/blob/main/{path.relative_to(ROOT).as_posix()}"
    assert re.findall(r"\((https://colab\.research\.google\.com/github/[^)]+)\)", source(first)) == [badge]


@every_notebook
def test_set_up_cell_installs_from_the_one_address(path):
    set_up = source(code_cells(read(path))[0])
    assert f'REPO = os.environ.get("EVALIB_REPO", "{repository()}")' in set_up
    assert set_up.count("subprocess.run(") == set_up.count("check=True") == 2
    everything = "\n".join(source(cell) for cell in read(path)["cells"])
    assert set(re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", everything)) == {repository()}


@every_notebook
def test_parameters_stand_in_one_cell(path):
    holders = [
        cell["id"]
        for cell in code_cells(read(path))[1:]
        if re.search(r"^[A-Z][A-Z_]+ = |os\.environ\.get", source(cell), re.M)
    ]
    assert holders == ["parameters"]


@every_notebook
def test_outputs(path):
    """No errors, no path of a machine, and either no output at all or those of one run from top to bottom."""
    cells = code_cells(read(path))
    counts = [cell["execution_count"] for cell in cells]
    assert counts in ([None] * len(cells), list(range(1, len(cells) + 1)))
    for cell in cells:
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"], cell["id"]
        for text in [source(cell), *texts(cell["outputs"])]:
            assert not MACHINE_PATH.search(text), f"{cell['id']}: {MACHINE_PATH.search(text)}"


def test_the_search_for_machine_paths_finds_them():
    for text in ("saved /home/ann/runs/x", '"/content/evalib"', r"C:\Users\ann", "(/tmp/a)"):
        assert MACHINE_PATH.search(text), text
    for text in ("runs/home/x", "https://example.org/tmp/a", "and/or", "file:///tmp/"):
        assert not MACHINE_PATH.search(text), text


# --- runs -------------------------------------------------------------------------------------------

# Lies beside the notebook while nbval runs it: writes down how every code cell ended and what it showed.
RECORDER = """
import json
import pathlib

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        record = {"cell": item.cell_num, "passed": report.passed, "outputs": item.test_outputs or []}
        with open(pathlib.Path(__file__).with_name("record.jsonl"), "a") as file:
            file.write(json.dumps(record) + "\\n")
    return report
"""


@dataclass(frozen=True)
class Execution:
    """What nbval said: its exit status and text, how each code cell ended, and what the cells showed."""

    status: int
    text: str
    passed: dict[int, bool]
    outputs: dict[int, list[dict[str, Any]]]

    def images(self, cell: int) -> list[np.ndarray]:
        """The pictures that a cell showed, each (H, W, 3) uint8."""
        encoded = [output["data"].get("image/png") for output in self.outputs[cell] if "data" in output]
        opened = [Image.open(io.BytesIO(base64.b64decode(png))) for png in encoded if png]
        return [np.asarray(image.convert("RGB")) for image in opened]


def execute(notebook: Notebook, python: Path, folder: Path, environment: dict[str, str]) -> Execution:
    """Run a notebook under nbval in an interpreter, in an empty folder, up to the first failing cell."""
    (folder / "notebook.ipynb").write_text(json.dumps(notebook), "utf-8")
    (folder / "conftest.py").write_text(RECORDER, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    private = dict.fromkeys(("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"), str(folder / "jupyter"))
    options = "--nbval-lax --nbval-current-env --nbval-cell-timeout=600 -p no:cacheprovider --exitfirst -v"
    command = ("-m", "pytest", *options.split(), "notebook.ipynb")
    done = run(python, *command, cwd=folder, timeout=1500, **(private | environment))
    record = folder / "record.jsonl"
    cells = [json.loads(line) for line in record.read_text("utf-8").splitlines()] if record.exists() else []
    passed = {cell["cell"]: cell["passed"] for cell in cells}
    return Execution(done.returncode, done.stdout, passed, {cell["cell"]: cell["outputs"] for cell in cells})


@pytest.fixture(scope="module")
def executed(
    new_interpreter, source_tree, tmp_path_factory, small_cars, features_of_cam_networks
) -> Callable[[Path], tuple[Execution, Path]]:
    """Runs a notebook, once, where evalib is not installed; gives the execution and its interpreter.

    The set-up cell clones the working tree and installs it, so that the interpreter has evalib afterwards.
    """
    done: dict[Path, tuple[Execution, Path]] = {}

    def get(path: Path) -> tuple[Execution, Path]:
        if path not in done:
            python, folder = new_interpreter(), tmp_path_factory.mktemp("notebook")
            environment = SMALL | {"EVALIB_REPO": source_tree.as_uri()}
            if path != FIRST:
                places = {"EVALIB_CARS_DIR": str(small_cars), "EVALIB_PRETRAINED": features_of_cam_networks}
                environment |= SMALL_CAM | places | {JUDGING: SMALL_JUDGING, OWN: SMALL_OWN}.get(path, {})
            done[path] = execute(read(path), python, folder, environment), python
        return done[path]

    return get


@every_notebook
@pytest.mark.timeout(1800)
def test_runs_from_top_to_bottom(path, executed):
    execution, python = executed(path)
    assert execution.status == 0, execution.text
    assert execution.passed == dict.fromkeys(range(len(code_cells(read(path)))), True)
    place = run(python, "-c", "import evalib; print(evalib.__file__)", cwd=python.parent).stdout
    assert str(python.parent.parent) in place, "the set-up cell has not installed evalib"


@every_notebook
@pytest.mark.timeout(1800)
def test_every_plot_shows_a_picture(path, executed):
    """nbval never looks at pictures: a cell that ends in a plot must show one, not blank, and in color."""
    execution, _ = executed(path)
    cells = enumerate(code_cells(read(path)))
    plotting = [n for n, cell in cells if re.match(r"(plot|explain)_\w+\(", source(cell).splitlines()[-1])]
    assert len(plotting) >= 3
    for number in plotting:
        images = execution.images(number)
        assert images, f"code cell {number} shows no picture"
        for image in images:
            colors = image.max(axis=2).astype(int) - image.min(axis=2)
            assert image.std() > 5, f"code cell {number}: blank"
            # Of a network that has learned next to nothing, all kinds of maps are left out, and those have no color.
            colored = code_cells(read(path))[number]["id"] not in ("plot-ranking", "plot-shapes")
            assert colors.max() > 60 or not colored, f"code cell {number}: axes and text, but nothing drawn"


# Each: what to replace, by what, in the first notebook; and what must then be said about that cell.
MUTATIONS = {
    "clone": ("REPO = os", "REPO = 'file:///no/such/repository' or os", "CalledProcessError"),
    "import": ("from evalib.data import", "from evalib.data_set import", "No module named 'evalib.data_set'"),
    "gallery": (
        "find_mistakes(evaluation)",
        "find_mistakes(__import__('dataclasses').replace(evaluation, labels=evaluation.predictions))",
        "no misclassified image",
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.timeout(1800)
def test_a_broken_notebook_fails_in_its_broken_cell(mutation, executed, new_interpreter, tmp_path):
    before, after, complaint = MUTATIONS[mutation]
    notebook = copy.deepcopy(read(FIRST))
    broken = code_cell_with(notebook, before)
    cell = code_cells(notebook)[broken]
    cell["source"] = source(cell).replace(before, after)
    # A set-up cell has something to do only where evalib is missing; for the others it is already there.
    python = new_interpreter() if mutation == "clone" else executed(FIRST)[1]
    execution = execute(notebook, python, tmp_path, TINY | {"EVALIB_REPO": "file:///not/to/be/used"})
    assert execution.status == 1, execution.text
    assert execution.passed == {number: number < broken for number in range(broken + 1)}, execution.text
    assert complaint in execution.text
