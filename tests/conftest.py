"""What the tests share: small data and models, no network, and interpreters without evalib."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from evalib.data.image_data import ImageData

ROOT = Path(__file__).resolve().parent.parent
JPEG_COPY = "EVALIB_CIFAR10_JPEG"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Before the first import of torch or matplotlib, and inherited by every process that a test starts.
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks gain nothing from more, and wait for each other on a busy machine
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C


def block_network() -> Callable[[], None]:
    """Let Python's sockets of this process reach this machine only; returns what undoes it.

    It stands on its own, because interpreters that tests make get its source.
    """
    import socket

    real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    real_lookup = socket.getaddrinfo
    here = ("localhost", "127.", "::1", "0.0.0.0")

    def refuse(address: object) -> None:
        host = address[0] if isinstance(address, tuple) else address
        host = host.decode() if isinstance(host, bytes) else host
        if isinstance(host, str) and host and not host.startswith(here):
            raise RuntimeError(f"A test tried to reach {host!r}: tests must not need the network.")

    def guard(name: str) -> Callable[..., object]:
        def guarded(self: socket.socket, address: object) -> object:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(address)
            return real[name](self, address)

        return guarded

    def lookup(host: object, *args: object, **kwargs: object) -> object:
        refuse(host)
        return real_lookup(host, *args, **kwargs)  # type: ignore[arg-type]

    def undo() -> None:
        for name, method in real.items():
            setattr(socket.socket, name, method)
        socket.getaddrinfo = real_lookup

    for name in real:
        setattr(socket.socket, name, guard(name))
    socket.getaddrinfo = lookup  # type: ignore[assignment]
    return undo


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Any connection to another machine raises a RuntimeError."""
    undo = block_network()
    yield
    undo()


# --- data and models ------------------------------------------------------------------------------


@pytest.fixture
def tiny_data() -> ImageData:
    """24 training and 12 test images of random pixels, 3 x 32 x 32, balanced over 3 classes."""
    import torch

    from evalib.data.image_data import ImageData, Split

    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Split(images=images, labels=torch.arange(n) % 3)

    return ImageData(
        name="tiny",
        classes=("ant", "bee", "cow"),
        train=split(24),
        test=split(12),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        source="random pixels",
    )


@pytest.fixture
def tiny_model() -> nn.Module:
    """ResNet18 of width 8 for the 3 classes of `tiny_data`: layer1 to layer4, BatchNorm, linear."""
    import torch

    from evalib.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resnet18(num_classes=3, width=8)


@pytest.fixture(scope="session")
def jpeg_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as JPEG files, train/<class>/*.jpg and test/<class>/*.jpg; skips where there is none."""
    named = os.environ.get(JPEG_COPY)
    path = Path(named) if named else ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if path.is_dir():
        return path
    if named and not path.is_file():
        raise FileNotFoundError(f"`{JPEG_COPY}` must name a folder or a .tar.xz file: {named} is neither.")
    if not path.is_file():
        pytest.skip(f"needs CIFAR-10 as JPEG files: set {JPEG_COPY} to the folder or to cifar10-jpeg.tar.xz")
    folder = tmp_path_factory.mktemp("cifar10-jpeg")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    """No test may leave an open figure, another backend or other settings behind, and nor may a plot."""
    import matplotlib
    import matplotlib.pyplot as plt

    settings = dict(matplotlib.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings


@pytest.fixture(scope="session")
def small_cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stanford Cars in torchvision's layout: 6 training and 3 test images of each of four classes, random dots."""
    import numpy as np
    import scipy.io
    from PIL import Image

    from evalib.data.car_names import CAR_CLASSES

    root = tmp_path_factory.mktemp("cars")
    folder, generator = root / "stanford_cars", np.random.default_rng(0)
    (folder / "devkit").mkdir(parents=True)
    names = {"class_names": np.array(CAR_CLASSES, dtype=object)}
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", names)
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for split, each, file in (
        ("train", 6, "devkit/cars_train_annos.mat"),
        ("test", 3, "cars_test_annos_withlabels.mat"),
    ):
        (folder / f"cars_{split}").mkdir()
        rows = np.zeros(4 * each, dtype=[(field, object) for field in fields])
        for index in range(4 * each):
            number = (26, 29, 38, 155)[index % 4]  # three of BMW, one of Land Rover, counted from 1
            name = f"{index + 1:05d}.jpg"
            dots = generator.integers(0, 256, (72, 96, 3), dtype=np.uint8)
            Image.fromarray(dots).save(folder / f"cars_{split}" / name)
            rows[index] = (10, 10, 80, 60, number, name)
        scipy.io.savemat(folder / file, {"annotations": rows})
    return root


@pytest.fixture(scope="session")
def features_of_cam_networks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of files of random weights, `{model}` in place of the network's name."""
    import torch

    from evalib.models import build_model

    folder = tmp_path_factory.mktemp("weights")
    for name in ("alexnet_cam", "vgg19_cam"):
        torch.save(build_model(name, 3, seed=5).state_dict(), folder / f"{name}.pt")
    return str(folder / "{model}.pt")


# --- interpreters without evalib ------------------------------------------------------------------


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment less what could lead a child to this checkout or to a package index."""
    strangers = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MPLBACKEND")
    families = ("PIP_", "PYTEST_", "EVALIB_", "JUPYTER_", "IPYTHON", "OMP_")
    kept = {k: v for k, v in os.environ.items() if k not in strangers and not k.startswith(families)}
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    plain_git = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    return kept | offline | plain_git | more


def run(*command: str | Path, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a clean environment; its standard output and error come back together as `stdout`."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(**environment),
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def check(*command: str | Path, cwd: Path, timeout: float = 300, **environment: str) -> str:
    """Like `run`, but a command that fails fails the test and shows what it said."""
    done = run(*command, cwd=cwd, timeout=timeout, **environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def new_interpreter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes interpreters that see every installed package except evalib, and no network.

    The virtual environment holds no package; a .pth file adds the site-packages of the running one. Python
    does not process the .pth files found there, so that an editable evalib stays out of sight.
    """

    def make() -> Path:
        folder = tmp_path_factory.mktemp("interpreter")
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder / "env")
        python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        show = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = Path(check(python, "-c", show, cwd=folder).strip())
        parents = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        source = "from __future__ import annotations\n\n" + inspect.getsource(block_network)
        (site / "no_network.py").write_text(source + "\n\nblock_network()\n")
        (site / "parent.pth").write_text("\n".join([*parents, "import no_network"]) + "\n")
        probe = run(python, "-c", "import evalib", cwd=folder)
        assert "No module named 'evalib'" in probe.stdout, (
            "The new interpreter must not see evalib, but it does: install evalib editable "
            f"(`pip install -e .`), as `make test` does.\n{probe.stdout}"
        )
        return python

    return make


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Git repository with one commit: the working tree as it is now, without what git ignores."""
    assert shutil.which("git"), "These tests need git, as the notebooks' set-up cells do."
    tree = tmp_path_factory.mktemp("source") / "evalib"
    git = ("git", "-c", "safe.directory=*")
    listed = run(*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if (ROOT / ".git").exists() and listed.returncode == 0:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():  # a deleted file is listed until its removal is committed
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
    else:  # an unpacked archive
        left = (".venv", ".git", "__pycache__", "*.egg-info", ".*_cache", "build", "dist", "runs")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*left))
    who = ("-c", "user.name=evalib tests", "-c", "user.email=tests@localhost")
    check(*git, "init", "--quiet", cwd=tree)
    check(*git, "add", "--all", cwd=tree)
    check(*git, *who, "commit", "--quiet", "--message", "the working tree", cwd=tree)
    return tree


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright; tests that want it skip where either is missing."""
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)} on the PATH")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of playwright and asyncio
        with playwright.sync_playwright() as started:
            opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
            yield opened
            opened.close()
