"""Colab: what it has is enough for evalib, and the notebooks' first cell installs nothing else.

`make colab-check` asks pip itself; that takes the package index and two minutes.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import venv

import pytest
from colab_check import ADDED, PIP_INSTALL, colab_versions, pretend
from conftest import ROOT
from packaging.requirements import Requirement

RUNTIMES = colab_versions()


def required(extras: str) -> list[Requirement]:
    """What setup.py asks for, itself and with the extras of "[a,b]"."""
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
    }
    names = [f"{extra.upper()}_REQUIRES" for extra in re.findall(r"\w+", extras)]
    return [Requirement(line) for name in ("INSTALL_REQUIRES", *names) for line in lists[name]]


def test_the_runtimes_are_whole():
    assert set(RUNTIMES) == {"3.12", "3.13"}
    assert {(versions["torch"], versions["albumentations"]) for versions in RUNTIMES.values()} == {
        ("2.11.0+cu128", "2.0.8")
    }
    assert [versions["numpy"] for versions in RUNTIMES.values()] == ["2.0.2", "2.1.3"]
    assert not {"grad-cam", "ttach", "evalib"} & RUNTIMES["3.13"].keys()


@pytest.mark.parametrize("extras", ADDED)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_colab_has_every_package_in_a_version_that_will_do(runtime, extras):
    versions = RUNTIMES[runtime]
    for requirement in required(extras):
        if requirement.name in ADDED[extras]:
            assert requirement.name not in versions
        else:
            assert requirement.specifier.contains(versions[requirement.name]), requirement


@pytest.mark.parametrize("extras", ADDED)
def test_what_is_added_asks_for_nothing_newer(extras):
    """The packages that Colab lacks, as they are installed here: grad-cam must not bring another OpenCV or numpy."""
    for name in ADDED[extras] - {"evalib"}:
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                for versions in RUNTIMES.values():
                    known = requirement.name.lower().replace("_", "-")
                    if known not in ADDED[extras]:
                        assert requirement.specifier.contains(versions[known], prereleases=True), (name, requirement)


def test_the_python_of_colab_will_do():
    minimum = re.search(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text("utf-8"))
    assert minimum
    assert all(int(runtime.split(".")[1]) >= int(minimum[1]) for runtime in RUNTIMES)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_install_evalib_as_the_check_does_and_nothing_else(path):
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    first, *others = ["".join(cell["source"]) for cell in cells]
    words = ", ".join(f'"{word}"' for word in PIP_INSTALL)
    assert f"pip_install = [sys.executable, {words}]" in first
    assert "subprocess.run([*pip_install, source], check=True)" in first
    assert first.count("pip") == 3, "one call of pip, defined once and used once"
    assert not [code for code in others if re.search(r"\bpip\b|\bapt\b|apt-get", code)]


def test_stand_ins_are_packages_to_pip(tmp_path):
    """Else every one of them would seem to be missing, or the check would hold whatever evalib asks for."""
    venv.create(tmp_path, with_pip=True)
    pretend(next(tmp_path.glob("lib/python*/site-packages")), RUNTIMES["3.13"])
    pip = [tmp_path / "bin" / "python", "-m", "pip"]
    listed = json.loads(subprocess.run([*pip, "list", "--format", "json"], capture_output=True, check=True).stdout)
    assert RUNTIMES["3.13"].items() <= {item["name"]: item["version"] for item in listed}.items()

    def installs(*lines):
        dry = [*pip, "install", "--dry-run", "--no-index", "--quiet", *lines]
        return subprocess.run(dry, capture_output=True, check=False).returncode == 0

    enough = [str(line) for line in required("") if line.name != "grad-cam"]
    assert installs(*enough)
    assert not installs(*enough, "numpy>=2.2"), "what Colab has is too old, and there is no index to take another from"
    assert not installs(*enough, "grad-cam")
