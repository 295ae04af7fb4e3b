"""What pip would do to Colab: `make colab-check` asks it in environments that claim to have what Colab has.

Each environment is a fresh one whose packages are stand-ins: folders of metadata with a name and a version. They name
no dependencies, because what Colab has fits together already; pip is asked only what evalib would change. The call of
pip is that of the notebooks' first cell, plus --dry-run. Any interpreter will do: nothing that pip proposes has
compiled parts. Needs the package index, so it is not part of `make test`; `tests/test_colab.py` is, and needs none.
"""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP_INSTALL = ("-m", "pip", "install", "--quiet", "--no-build-isolation")  # as in the notebooks
# What Colab lacks, by what is asked for: evalib itself, and its extras.
ADDED = {
    "": {"evalib", "grad-cam", "ttach"},  # grad-cam smooths its maps with ttach
    "[app]": {"evalib", "grad-cam", "ttach"},
    "[hf,dist]": {"evalib", "grad-cam", "ttach"},
    "[export]": {"evalib", "grad-cam", "ttach", "onnx", "onnx-ir", "onnxruntime", "onnxscript"},
}


def colab_versions() -> dict[str, dict[str, str]]:
    """By runtime (its Python) and by package: the version that Colab has."""
    runtimes = configparser.ConfigParser()
    runtimes.read(ROOT / "tests" / "colab_versions.ini", encoding="utf-8")
    return {name: dict(runtimes[name]) for name in runtimes.sections()}


def pretend(site: Path, versions: dict[str, str]) -> None:
    """Metadata of packages that are not there."""
    for name, version in versions.items():
        place = site / f"{name.replace('-', '_')}-{version}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (place / "INSTALLER").write_text("pip\n")
        (place / "RECORD").write_text(f"{place.name}/METADATA,,\n")


def proposed(versions: dict[str, str], extras: str) -> dict[str, str]:
    """What pip would install, by name, into an environment that has these versions."""
    with tempfile.TemporaryDirectory() as folder:
        environment, source, report = Path(folder, "env"), Path(folder, "source"), Path(folder, "report.json")
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), source], check=True)
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        # These two are really used, to build evalib and grad-cam from source.
        subprocess.run([python, "-m", "pip", "install", "--quiet", "setuptools==75.2.0", "wheel==0.47.0"], check=True)
        pretend(next(environment.glob("lib/python*/site-packages")), versions)
        dry = ("--dry-run", "--report", report, f"{source}{extras}")
        subprocess.run([python, *PIP_INSTALL, *dry], check=True)
        items = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in items}


def main() -> int:
    """Print what pip proposes; 1 if it is not what is expected."""
    wrong = 0
    for runtime, versions in colab_versions().items():
        for extras, expected in ADDED.items():
            found = proposed(versions, extras)
            changed = sorted(found.keys() & versions.keys())
            fits = not changed and found.keys() == expected
            wrong += not fits
            words = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
            print(f"Colab, Python {runtime}, {len(versions)} packages: evalib{extras} adds {words}", flush=True)
            if not fits:
                print(f"  WRONG: changes {changed or 'nothing'}; expected only {sorted(expected)}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
