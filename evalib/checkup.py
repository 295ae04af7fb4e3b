"""What is wrong with a machine, in one line each that says what to do: the checks behind `evalib.runtime.doctor`.

Nothing is imported for them: what Python has not loaded yet is judged by what is installed.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evalib.copying import within

# As in setup.py, which a test compares: evalib also works from its folder, without being installed.
REQUIREMENTS = (
    "torch>=2.4", "torchvision>=0.19", "albumentations>=2.0,<2.1", "grad-cam>=1.5.5,<2", "matplotlib>=3.7",
    "torchsummary>=1.5.1", "numpy>=1.26", "tqdm>=4.60", "pillow>=10.1", "scipy>=1.10",
)  # fmt: skip
# Distributions whose modules may have been loaded, by Colab for one, before another version was installed.
LOADED = {
    "numpy": "numpy", "torch": "torch", "torchvision": "torchvision", "pillow": "PIL", "matplotlib": "matplotlib",
    "scipy": "scipy", "albumentations": "albumentations", "evalib": "evalib",
}  # fmt: skip
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
RUN_BYTES = 1e9  # CIFAR-10 packed and unpacked, 0.35 GB, and three checkpoints of a ResNet18, 0.4 GB
DRIVE, DRIVE_SECONDS = "/content/drive", 1.0
RESTART = "restart Python (in Colab: Runtime > Restart session), then run all again."


@dataclass(frozen=True)
class Checkup(Mapping[str, str]):
    """What `doctor` found: by name versions, device, precision and disk space; and what is wrong.

    Attributes:
        facts: by name, in words.
        stops: what will stop a run, a line each: what is wrong and what to do.
        warnings: what will make it slower, or may cost its result; likewise.
    """

    facts: dict[str, str]
    stops: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """All lines about what is wrong, those first that will stop a run."""
        return self.stops + self.warnings

    def __getitem__(self, name: str) -> str:
        return self.facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts)

    def __len__(self) -> int:
        return len(self.facts)

    def __str__(self) -> str:
        lines = [*(f"problem: {line}" for line in self.stops), *(f"warning: {line}" for line in self.warnings)]
        return "\n".join([*lines, *(f"{name:15} {value}" for name, value in self.facts.items())])

    __repr__ = __str__  # what a notebook shows


@dataclass
class Findings:
    """Lines that checks have found so far; `look` runs one and survives it."""

    stops: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def look(self, check: Callable[[Findings], None]) -> None:
        """Run a check; one that fails itself is told, and stops no other."""
        try:
            check(self)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            name = getattr(check, "func", check).__name__.strip("_").replace("_", " ")
            self.warnings.append(f"The check of {name} failed ({reason}): the others stand.")


def in_colab() -> bool:
    """Whether this is Google Colab, also in a process that a notebook started."""
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


def installed(package: str) -> str | None:
    """The version of an installed distribution; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(found: Findings) -> None:
    """Missing ones, those that are too old or too new, and a second albumentations in the same folder."""
    from packaging.requirements import Requirement  # it comes with matplotlib

    needed = [Requirement(line) for line in REQUIREMENTS]
    versions = {requirement.name: installed(requirement.name) for requirement in needed}
    if missing := [name for name, version in versions.items() if version is None]:
        verb = "is" if len(missing) == 1 else "are"
        found.stops.append(f"{', '.join(missing)} {verb} not installed: pip install {' '.join(missing)}")
    for requirement in needed:
        version = versions[requirement.name]
        if version and not requirement.specifier.contains(version, prereleases=True):
            found.stops.append(
                f"{requirement.name} {version} is installed, evalib needs {requirement.specifier}: "
                f"pip install '{requirement}', then restart."
            )
    if installed("albumentationsx"):
        found.stops.append(
            "albumentationsx and albumentations share one folder: pip uninstall -y albumentationsx albumentations, "
            "then pip install 'albumentations>=2.0,<2.1'"
        )


def loaded_packages(found: Findings) -> None:
    """Packages of which Python has loaded another version than the installed one."""
    for package, module in LOADED.items():
        version, loaded = installed(package), getattr(sys.modules.get(module), "__version__", None)
        # torch's local version (+cu128) is not part of its released one
        if version and isinstance(loaded, str) and version.split("+")[0] != loaded.split("+")[0]:
            found.stops.append(f"{package} {version} is installed, but {loaded} is loaded: {RESTART}")


def disk(found: Findings) -> None:
    """Space in the current folder, where runs are kept."""
    free = shutil.disk_usage(".").free
    if free < RUN_BYTES:
        found.stops.append(
            f"Only {free / 1e9:.1f} GB are free in this folder: a run on CIFAR-10 takes about {RUN_BYTES / 1e9:.0f} GB "
            "(data and checkpoints). Delete what is not needed, or work in another folder."
        )


def drive(found: Findings) -> None:
    """Google Drive, if it is mounted: does it answer, and has it space?"""
    if not _is_mounted(DRIVE):
        return
    again = f"drive.flush_and_unmount(), then drive.mount('{DRIVE}', force_remount=True)."
    try:
        free = within(DRIVE_SECONDS, lambda: (os.stat(DRIVE), shutil.disk_usage(DRIVE).free)[1])
    except TimeoutError:
        found.warnings.append(f"Google Drive is mounted but does not answer: {again}")
    except OSError as error:
        lost = "has lost its connection" if error.errno == errno.ENOTCONN else f"cannot be read ({error.strerror})"
        found.warnings.append(f"Google Drive {lost}: {again}")
    else:
        if free < RUN_BYTES:
            found.warnings.append(
                f"Google Drive has only {free / 1e9:.1f} GB left: empty its trash, or keep the run elsewhere."
            )


def _is_mounted(folder: str) -> bool:
    """Read from the list of mounts, which never hangs as the folder itself may."""
    try:
        mounts = Path("/proc/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split()[1] == folder for line in mounts if line.count(" ") > 1)


def opencv(found: Findings) -> None:
    """Several distributions of OpenCV write into one folder: is what lies there whole, and which of them?"""
    versions = {name: version for name in OPENCV if (version := installed(name))}
    if not versions:
        return  # it comes with albumentations, whose absence is told
    named = " and ".join(f"{name} {version}" for name, version in versions.items())
    again = f"pip uninstall -y {' '.join(versions)}, then pip install opencv-python-headless, then restart."
    if not _opencv_is_whole():
        found.stops.append(f"`import cv2` cannot work, the files of {named} are not all there: {again}")
    elif len(set(versions.values())) > 1 and "cv2" not in sys.modules:
        found.warnings.append(f"{named} lie in one folder. If `import cv2` fails: {again}")


def _opencv_is_whole() -> bool:
    """Whether there is a folder cv2 with Python's part and the compiled part."""
    if "cv2" in sys.modules:
        return hasattr(sys.modules["cv2"], "imread")
    for folder in filter(None, sys.path):
        place = Path(folder, "cv2")
        if place.is_dir():
            return (place / "__init__.py").is_file() and any(
                entry.suffix in (".so", ".pyd") for entry in (*place.glob("cv2*"), *place.glob("python-*/cv2*"))
            )
    return False


def available_cores() -> float:
    """Cores that this process may use: by affinity, and by the share that a container has."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def nvidia_gpu_is_there() -> bool:
    """Whether the system shows an NVIDIA GPU, and nobody has hidden it from this process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists())
