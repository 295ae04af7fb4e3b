"""What `doctor` says of machines with one thing wrong each: the line, and that a sound one has none."""

from __future__ import annotations

import errno
import re
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest
from conftest import ROOT

from evalib import checkup
from evalib.checkup import REQUIREMENTS, Findings
from evalib.runtime import doctor

Usage = namedtuple("Usage", "total used free")


def test_a_sound_machine_has_no_problem(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda _: Usage(50e9, 10e9, 40e9))
    start = time.perf_counter()
    found = doctor("cpu")
    assert time.perf_counter() - start < 5
    assert found.problems == ()
    assert str(found).startswith("python ")
    assert dict(found)["free disk"] == "40.0 GB"


def test_requirements_are_those_of_setup():
    text = (ROOT / "setup.py").read_text("utf-8")
    listed = re.findall(
        r'"([^"]+)"', text[text.index("INSTALL_REQUIRES = [") : text.index("]", text.index("INSTALL_"))]
    )
    assert tuple(listed) == REQUIREMENTS


def lines(check):
    found = Findings()
    found.look(check)
    return found.stops, found.warnings


def test_missing_old_and_double_packages(monkeypatch):
    versions = {"torch": "2.3.1", "numpy": "2.1.3", "scipy": "1.11", "pillow": "10.1rc1", "albumentationsx": "1.0"}
    needed = ("torch>=2.4", "numpy>=1.26,<3", "scipy>=1.9", "pillow>=10.1", "grad-cam>=1.5.5,<2")
    monkeypatch.setattr(checkup, "REQUIREMENTS", needed)
    monkeypatch.setattr(checkup, "installed", versions.get)
    stops, _ = lines(checkup.packages)
    assert stops[0] == "grad-cam is not installed: pip install grad-cam"
    assert stops[1] == "torch 2.3.1 is installed, evalib needs >=2.4: pip install 'torch>=2.4', then restart."
    assert stops[2].startswith("pillow 10.1rc1 is installed, evalib needs >=10.1"), "scipy 1.11 is more than 1.9"
    assert stops[3].startswith("albumentationsx and albumentations share one folder")


def test_another_version_is_loaded(monkeypatch):
    monkeypatch.setattr(checkup, "installed", lambda name: "2.4.6" if name == "numpy" else None)
    monkeypatch.setitem(checkup.sys.modules, "numpy", SimpleNamespace(__version__="2.1.3"))
    stops, _ = lines(checkup.loaded_packages)
    assert stops == [f"numpy 2.4.6 is installed, but 2.1.3 is loaded: {checkup.RESTART}"]


def test_a_full_disk(monkeypatch):
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda _: Usage(1e9, 1e9, 0.2e9))
    stops, _ = lines(checkup.disk)
    assert stops[0].startswith("Only 0.2 GB are free in this folder")
    assert doctor("cpu").stops == tuple(stops)


@pytest.mark.parametrize(
    ("stat", "told"),
    [
        (lambda _: time.sleep(3), "is mounted but does not answer"),
        (lambda _: (_ for _ in ()).throw(OSError(errno.ENOTCONN, "not connected")), "has lost its connection"),
        (lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")), "cannot be read (Input/output"),
    ],
)
def test_a_drive_that_hangs_or_is_lost(monkeypatch, stat, told):
    monkeypatch.setattr(checkup, "_is_mounted", lambda _: True)
    monkeypatch.setattr(checkup, "DRIVE_SECONDS", 0.1)
    monkeypatch.setattr(checkup.os, "stat", stat)
    _, warnings = lines(checkup.drive)
    monkeypatch.undo()
    assert len(warnings) == 1
    assert told in warnings[0]
    assert "force_remount=True" in warnings[0]


def test_two_opencvs(monkeypatch):
    versions = {"opencv-python": "4.14", "opencv-python-headless": "5.0.0.93"}
    monkeypatch.setattr(checkup, "installed", versions.get)
    monkeypatch.setattr(checkup, "_opencv_is_whole", lambda: True)
    monkeypatch.delitem(checkup.sys.modules, "cv2", raising=False)
    _, warnings = lines(checkup.opencv)
    assert warnings[0].startswith("opencv-python 4.14 and opencv-python-headless 5.0.0.93 lie in one folder.")
    monkeypatch.setattr(checkup, "_opencv_is_whole", lambda: False)
    stops, _ = lines(checkup.opencv)
    assert stops[0].startswith("`import cv2` cannot work")


def test_colab_without_a_gpu(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(checkup, "nvidia_gpu_is_there", lambda: False)
    line = "No GPU is chosen: Runtime > Change runtime type > T4 GPU, then run all again."
    assert line in doctor().warnings
    assert line not in doctor("cpu").problems, "who asks for the CPU needs no GPU"
    monkeypatch.setattr(checkup, "nvidia_gpu_is_there", lambda: True)
    assert any("There is an NVIDIA GPU, but torch" in warning for warning in doctor().warnings)


def test_a_check_that_fails_stops_no_other(monkeypatch):
    def broken(found):
        raise RuntimeError("no such file")

    monkeypatch.setattr(checkup, "disk", broken)
    found = doctor("cpu")
    assert found.warnings[0] == "The check of broken failed (no such file): the others stand."
    assert "python" in found


def test_a_device_that_is_not_here():
    assert "is not available here" in doctor("cuda:99").stops[0]
