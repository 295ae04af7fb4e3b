"""The machine below: device, precision, seeds, memory allocator, and what `doctor` has to say about them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from evalib import checkup
from evalib.checkup import Checkup, Findings

SHOWN = ("evalib", "torch", "torchvision", "numpy", "albumentations", "grad-cam", "matplotlib", "torchsummary")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed from a run's seed and a purpose, as `derived_seed(1, "order", epoch)`.

    Everything random derives from the run's seed so: nothing depends on what was drawn before, and the epoch k of a
    continued run equals the epoch k of an uninterrupted one.
    """
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside the block; every submodule's own flag is put back, also on an exception."""
    with _mode(model, training=False):
        yield model


@contextmanager
def train_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Training mode inside the block; every submodule's own flag is put back, also on an exception."""
    with _mode(model, training=True):
        yield model


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device to compute on: the named one, or with None the first of CUDA, MPS and CPU that is there.

    Raises:
        ValueError: if the named device does not exist here.
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except Exception as error:  # torch raises RuntimeError, AssertionError or NotImplementedError, by device
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"Device {str(device)!r} is not available here ({reason}). Use 'cpu', 'cuda', 'mps' or 'auto'."
        ) from error
    return picked


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this CPU as Linux names them; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the forward and backward pass.

    "auto" takes bfloat16 where the device computes it in hardware (CUDA from capability 8.0, CPUs with AMX or
    AVX512-BF16), float16 on older CUDA devices from 7.0 (a T4 emulates bfloat16, slowly), else float32.

    Raises:
        ValueError: for an unknown name, or float16 on a CPU.
    """
    if precision == "auto":
        if device.type == "cuda":
            capability = torch.cuda.get_device_capability(device)
            return torch.bfloat16 if capability >= (8, 0) else torch.float16 if capability >= (7, 0) else torch.float32
        has_bfloat16 = device.type == "cpu" and cpu_flags() & {"amx_bf16", "avx512_bf16"}
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}. Known: auto, {', '.join(PRECISIONS)}.")
    if precision == "float16" and device.type == "cpu":
        raise ValueError("Precision 'float16' needs a GPU: CPUs compute it by emulation. Use 'auto'.")
    return PRECISIONS[precision]


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory instead of giving it back to the system; True where that was done.

    A training step frees and takes hundreds of megabytes; giving them back costs page faults that on a CPU took more
    than half of the time (measured: 66 images/s against 19). It holds for the whole process, the memory in use stays
    what the largest step needed, and it is harmless where nothing is trained. Elsewhere than on glibc it does nothing;
    `EVALIB_KEEP_MEMORY=0` switches it off.
    """
    if os.environ.get("EVALIB_KEEP_MEMORY", "1") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    settings = ((m_mmap_max, 0), (m_trim_threshold, 2**31 - 1), (m_top_pad, 256 << 20))
    accepted = [mallopt(option, value) == 1 for option, value in settings]  # all three, also after a refusal
    return all(accepted)


@contextmanager
def compiled(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside the block, calls of the network run through `torch.compile`; names of weights stay as they are.

    The first call of a shape compiles, for a minute or so; whether that pays depends on the machine (measure it:
    `python -m benchmarks.cpu`).

    Raises:
        RuntimeError: if the network is on a CPU and there is no C++ compiler, which torch.compile needs there.
    """
    if not enabled:
        yield
        return
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++", "cl"))):
        raise RuntimeError("`compile` needs a C++ compiler on a CPU: found none. Install g++, or leave it out.")
    before = model._compiled_call_impl
    model.compile()
    try:
        yield
    finally:
        model._compiled_call_impl = before


def describe_device(device: torch.device) -> str:
    """The device in words: a GPU's name, or the CPU's with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return str(device)


def doctor(device: str | torch.device | None = None, workers: int | None = None) -> Checkup:
    """Versions, device, precision and disk space, and what is wrong, a line each; nothing is changed, or raised.

    Args:
        device: to be used; None takes the best one here.
        workers: processes for augmentation that are meant to run; None: as many as evalib takes by itself.

    Returns:
        A mapping from names to words, whose `problems` and text begin with what will stop a run. Packages that are
        missing or that need a restart (installed after Python had loaded another version) say so.
    """
    found = Findings()
    try:
        picked = pick_device(device)
    except ValueError as error:
        found.stops.append(str(error))
        picked = torch.device("cpu")
    for check in (checkup.packages, checkup.loaded_packages, checkup.opencv, checkup.disk, checkup.drive):
        found.look(check)
    if device is None or torch.device(device if device != "auto" else "cuda").type == "cuda":
        found.look(_gpu)
    found.look(partial(_cores, workers=workers))
    facts = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    facts |= {package: _installed_version(package) for package in SHOWN}
    facts["device"] = describe_device(picked)
    facts["precision"] = str(pick_precision("auto", picked)).removeprefix("torch.")
    facts["free disk"] = f"{shutil.disk_usage('.').free / 1e9:.1f} GB"
    return Checkup(facts, tuple(found.stops), tuple(found.warnings))


def _gpu(found: Findings) -> None:
    """A GPU that is not chosen, cannot be used, or is taken by others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of drivers, which the line below tells
        usable = torch.cuda.is_available()
    if usable:
        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
        if others > max(0.5 * total, 2e9):
            manage = (
                "in Colab end the others under Runtime > Manage sessions" if checkup.in_colab() else "see nvidia-smi"
            )
            found.warnings.append(
                f"Only {free / 1e9:.1f} of {total / 1e9:.1f} GB of the GPU are free, something else uses it: {manage}."
            )
    elif checkup.nvidia_gpu_is_there():
        build = f"torch {torch.__version__}"
        found.warnings.append(
            f"There is an NVIDIA GPU, but {build} was built without CUDA: install torch with CUDA (pytorch.org)."
            if torch.version.cuda is None
            else f"There is an NVIDIA GPU, but {build} (CUDA {torch.version.cuda}) cannot use it: its driver is "
            "too old or not running (see nvidia-smi). Update it, or install torch for an older CUDA."
        )
    elif checkup.in_colab():
        found.warnings.append("No GPU is chosen: Runtime > Change runtime type > T4 GPU, then run all again.")


def _cores(found: Findings, workers: int | None) -> None:
    """More threads or processes than cores: they wait for each other."""
    cores = max(1, int(checkup.available_cores()))
    if torch.get_num_threads() > cores:
        found.warnings.append(
            f"torch computes with {torch.get_num_threads()} threads on {cores} cores: set OMP_NUM_THREADS={cores} "
            "before Python starts."
        )
    if workers is not None and workers > cores:
        found.warnings.append(f"{workers} workers on {cores} cores wait for each other: use at most {cores}.")


def _installed_version(package: str) -> str:
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "evalib":
            return "not installed, used from its folder"
        return f"missing: pip install {package}"
    loaded = getattr(sys.modules.get(package), "__version__", installed)
    # torch's local version (+cu128) is not part of its released one
    if loaded.split("+")[0] != installed.split("+")[0]:
        return f"{installed} installed, but {loaded} is loaded: restart the runtime, then run again"
    return installed
