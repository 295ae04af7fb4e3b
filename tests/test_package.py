"""The package as its users get it: its requirements, its builds, its installation, the cost of its import."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, check, clean_environment, run

LATE = ("torch", "torchvision", "numpy", "albumentations", "matplotlib", "pytorch_grad_cam", "sklearn", "cv2")
SAMPLE_LIMIT = 4_000_000


def setup_constant(name: str) -> list[str]:
    """A list that setup.py assigns to a constant, read from its text."""
    for node in ast.parse((ROOT / "setup.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            value = ast.literal_eval(node.value)
            assert isinstance(value, list)
            return value
    raise AssertionError(f"setup.py assigns no {name}")


def loaded_by(statement: str) -> list[str]:
    """Which of the heavy packages are loaded once a statement has run in a new process."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules.keys() & {set(LATE)!r})))"
    shown = check(sys.executable, "-c", code, cwd=ROOT).splitlines()[-1]
    names: list[str] = json.loads(shown)
    return names


def seconds(*arguments: str) -> float:
    """Wall time of a new interpreter from its start to its end, the best of five.

    The best, since what else runs on the machine can only add to it; the limits get no allowance beyond that.
    """
    times = []
    for _ in range(5):
        start = time.perf_counter()
        command = [sys.executable, *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=clean_environment())
        times.append(time.perf_counter() - start)
    return min(times)


# --- the cost of an import ------------------------------------------------------------------------


def test_import_loads_nothing_heavy():
    assert loaded_by("import evalib") == []


def test_names_of_the_package_are_loaded_when_they_are_asked_for():
    import evalib
    from evalib.classifier import load
    from evalib.runtime import doctor

    assert evalib.load is load
    assert evalib.doctor is doctor
    assert {"load", "doctor", "__version__"} <= set(dir(evalib))
    assert loaded_by("import evalib; dir(evalib); hasattr(evalib, 'nothing')") == []
    with pytest.raises(AttributeError, match="module 'evalib' has no attribute 'lode'"):
        _ = evalib.lode


def test_import_costs_less_than_a_tenth_of_a_second():
    code = "import time; t = time.perf_counter(); import evalib; print(time.perf_counter() - t)"
    times = [float(check(sys.executable, "-c", code, cwd=ROOT)) for _ in range(5)]
    assert min(times) < 0.1, f"`import evalib` took {min(times):.3f} s at best of {len(times)}"


def test_help_is_fast():
    bare = seconds("-c", "pass")
    helped = seconds("-m", "evalib", "--help")
    assert helped < 0.5, f"`python -m evalib --help` took {helped:.2f} s; an empty program takes {bare:.2f} s"


def test_help_loads_no_torch():
    code = "import contextlib, runpy, sys\nsys.argv = ['evalib', '--help']\n"
    code += "with contextlib.suppress(SystemExit): runpy.run_module('evalib', run_name='__main__')"
    assert loaded_by(code) == []


# --- no network -------------------------------------------------------------------------------------


def test_tests_reach_this_machine_only():
    with pytest.raises(RuntimeError, match=r"tried to reach 'example\.org'"):
        urllib.request.urlopen("http://example.org/")
    with socket.socket() as plain, pytest.raises(RuntimeError, match=r"tried to reach '192\.0\.2\.1'"):
        plain.connect(("192.0.2.1", 80))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_new_interpreters_reach_this_machine_only(new_interpreter, tmp_path):
    code = "import urllib.request; urllib.request.urlopen('http://example.org/')"
    assert "tried to reach 'example.org'" in run(new_interpreter(), "-c", code, cwd=tmp_path).stdout


# --- requirements ---------------------------------------------------------------------------------


def test_requirements_have_lower_bounds_only():
    """Colab brings torch, numpy and OpenCV: an exact version, or naming OpenCV at all, would replace them."""
    for line in setup_constant("INSTALL_REQUIRES") + setup_constant("TEST_REQUIRES"):
        name = re.split(r"[<>=!~ ]", line)[0]
        assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+(,<[\d.]+)?", line), line
        assert "opencv" not in name, line
        assert name not in ("torch", "torchvision", "numpy") or "<" not in line, line


def test_requirements_txt_says_the_same_as_setup_py():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    stated = [line for line in lines if line and not line.startswith("#")]
    assert stated == setup_constant("INSTALL_REQUIRES") + setup_constant("TEST_REQUIRES")


# --- builds and installations ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def builds(source_tree, tmp_path_factory) -> dict[str, Path]:
    """The sdist of the working tree, and the wheel made from that sdist, without a network."""
    out = tmp_path_factory.mktemp("dist")
    check(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source_tree, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def test_wheel_holds_the_sample_and_the_types(builds):
    with zipfile.ZipFile(builds["wheel"]) as wheel:
        sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
        metadata = wheel.read(next(name for name in sizes if name.endswith("METADATA"))).decode()
    samples = [name for name in sizes if re.fullmatch(r"evalib/data/[^/]+\.tar\.xz", name)]
    assert "evalib/py.typed" in sizes
    assert {"evalib/html/report.css", "evalib/html/report.js"} <= sizes.keys()
    assert samples
    assert sum(sizes[name] for name in samples) <= SAMPLE_LIMIT
    assert not [name for name in sizes if name.startswith(("tests", "notebooks"))]
    stated = {line.replace(" ", "") for line in re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.M)}
    names = {re.split(r"[<>=]", line)[0] for line in stated}
    assert names == {re.split(r"[<>=]", line)[0] for line in setup_constant("INSTALL_REQUIRES")}


def test_sdist_holds_what_its_tests_need(builds):
    with tarfile.open(builds["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"setup.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "Makefile"} <= names
    assert {"evalib/py.typed", "tests/conftest.py", "notebooks/01_cifar10_resnet18_gradcam.ipynb"} <= names
    assert any(re.fullmatch(r"evalib/data/[^/]+\.tar\.xz", name) for name in names)
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "runs"))]


@pytest.mark.parametrize("origin", ["wheel", "sdist", "git"])
def test_installs_and_imports_elsewhere(origin, builds, source_tree, new_interpreter, tmp_path):
    """From every origin into an environment of its own, its requirements checked; used from elsewhere."""
    python = new_interpreter()
    target = f"git+{source_tree.as_uri()}" if origin == "git" else builds[origin]
    # Without --no-deps: what evalib requires must be satisfied by what is installed, and nothing else wanted.
    said = check(python, "-m", "pip", "install", "--no-build-isolation", target, cwd=tmp_path)
    assert re.search(r"^Successfully installed evalib-[\d.]+$", said, re.M), said
    code = "import evalib, pathlib; print(evalib.__version__); print(pathlib.Path(evalib.__file__).parent)"
    version, folder = check(python, "-c", code, cwd=tmp_path).split()
    assert version in builds["wheel"].name
    assert Path(folder).is_relative_to(python.parent.parent)
    assert (Path(folder) / "py.typed").is_file()
    assert list((Path(folder) / "data").glob("*.tar.xz"))
    command = python.with_name("evalib.exe" if os.name == "nt" else "evalib")
    assert "demo" in check(command, "--help", cwd=tmp_path)
