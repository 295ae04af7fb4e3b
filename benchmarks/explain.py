"""Grad-CAM maps of five layers: images/s and peak memory of evalib, grad-cam and torch-cam, measured in turn.

    python -m benchmarks.explain [--images 50] [--rounds 5] [--device cuda] [--output benchmarks/results/explain.json]

ResNet18 for 32 x 32 images with weights as drawn, and images of the shipped sample; the predicted class of each is
explained in one batch. "forward + backward" is the bare work: logits, and the gradient of the classes' logits with
respect to the five activations, with parameters frozen and no map made. grad-cam gives one map per layer only from one
object per layer; from a list it gives their mean. torch-cam's maps are enlarged to the images, as the others' are. It
is measured if it is installed (`pip install torchcam`).

Score-CAM is measured on a ResNet18 of width 16, of its last layer, with 16 masked images at once (grad-cam's own
number), for two numbers of images: grad-cam's memory grows with them.

Peak memory is that beyond network and images, each candidate in a process of its own: on a GPU what was allocated, on
Linux the growth of the resident set; elsewhere it is not measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Report, machine, parser, publish, take_turns, take_turns_in_processes
from evalib.cam import cam_layers
from evalib.data import sample
from evalib.explain import explain
from evalib.models import build_model
from evalib.runtime import pick_device
from evalib.transforms import normalize

Explainer = Callable[[nn.Module, Tensor], Tensor]
LIST, PER_LAYER, OURS = "grad-cam, list (mean of 5 maps)", "grad-cam, one object per layer", "evalib"
BARE = "forward + backward"


def forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def forward_and_backward(model: nn.Module, images: Tensor) -> Tensor:
    activations: list[Tensor] = []
    layers = cam_layers(model).values()
    hooks = [layer.register_forward_hook(lambda _m, _i, output: activations.append(output)) for layer in layers]
    model.requires_grad_(False)
    logits = model(images.clone().requires_grad_())
    gradients = torch.autograd.grad(logits.amax(dim=1).sum(), activations)
    model.requires_grad_(True)
    for hook in hooks:
        hook.remove()
    return gradients[0]


def grad_cam_per_layer(model: nn.Module, images: Tensor, method: str = "GradCAM", layers: str | None = None) -> Tensor:
    import pytorch_grad_cam

    maps = []
    for name, layer in cam_layers(model).items():
        if layers is None or name == layers:
            with getattr(pytorch_grad_cam, method)(model, [layer]) as engine, contextlib.redirect_stderr(io.StringIO()):
                maps.append(torch.from_numpy(engine(images, targets=None)))
    return torch.stack(maps)


def grad_cam_list(model: nn.Module, images: Tensor) -> Tensor:
    from pytorch_grad_cam import GradCAM

    with GradCAM(model, list(cam_layers(model).values())) as engine:
        return torch.from_numpy(engine(images, targets=None))


def torch_cam(model: nn.Module, images: Tensor) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(model, list(cam_layers(model).values())) as extractor:
        logits = model(images)
        maps = extractor(logits.argmax(dim=1).tolist(), logits)
    return torch.stack([F.interpolate(part[:, None], images.shape[2:], mode="bilinear")[:, 0] for part in maps])


def candidates() -> dict[str, Explainer]:
    """By name, whatever is installed."""
    found: dict[str, Explainer] = {
        "forward": forward,
        BARE: forward_and_backward,
        OURS: explain,
        "torch-cam": torch_cam,
        LIST: grad_cam_list,
        PER_LAYER: grad_cam_per_layer,
    }
    if find_spec("torchcam") is None:
        del found["torch-cam"]
    return found


SCORE_CAM: dict[str, Explainer] = {
    OURS: partial(explain, layers="layer4", method="score_cam", channels_at_once=16),
    "grad-cam": partial(grad_cam_per_layer, layers="layer4", method="ScoreCAM"),
}


def network_and_images(number: int, width: int, device: torch.device) -> tuple[nn.Module, Tensor]:
    """ResNet18 in evaluation mode, and images of the sample, normalized."""
    data = sample()
    images = normalize(data.test.images[:number], data.mean, data.std)
    return build_model("resnet18", width=width, seed=0).eval().to(device), images.to(device)


def speed(work: Explainer, model: nn.Module, images: Tensor) -> float:
    """Images per second."""
    start = time.perf_counter()
    work(model, images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return len(images) / (time.perf_counter() - start)


# --- memory ----------------------------------------------------------------------------------------------------


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Megabytes that were in use at once beyond those in use before; NaN where nobody counts them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work()
    return (_kilobytes("VmHWM") - before) * 1024 / 1e6


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_of(work: Explainer, number: int, width: int, device: torch.device) -> Callable[[], float]:
    """In a new process: a candidate that measures once, since freed memory may stay with the process."""
    model, images = network_and_images(number, width, device)
    work(model, images[:1])  # loads libraries
    figures: list[float] = []

    def candidate() -> float:
        if not figures:
            figures.append(peak_memory(lambda: work(model, images), device))
        return figures[0]

    return candidate


def grad_cam_reports(number: int, rounds: int, device: torch.device) -> list[Report]:
    """Speed and memory of the maps of five layers."""
    found, where = candidates(), machine(device)
    model, images = network_and_images(number, 64, device)
    difference = (explain(model, images).cpu() - grad_cam_per_layer(model, images)).abs().max()
    settings = {
        "images": number,
        "layers": 5,
        "threads": torch.get_num_threads(),
        "largest difference to grad-cam": f"{difference:.1e}",
    }
    if "torch-cam" not in found:
        settings["torch-cam"] = "not installed"
    figures = take_turns({name: partial(speed, work, model, images) for name, work in found.items()}, rounds)
    per_layer = {name: figures[name] for name in (OURS, PER_LAYER)}
    makers = {name: partial(memory_of, work, number, 64, device) for name, work in found.items()}
    peaks = take_turns_in_processes(makers, rounds=1)
    return [
        Report("Grad-CAM", "images/s", figures, BARE, where, settings),
        Report("Grad-CAM, one map per layer", "images/s", per_layer, PER_LAYER, where, settings),
        Report("Grad-CAM, peak memory (less is better)", "MB", peaks, BARE, where, settings),
    ]


def score_cam_reports(rounds: int, device: torch.device) -> list[Report]:
    """Speed and memory of Score-CAM."""
    where, sizes = machine(device), (16, 64)
    model, images = network_and_images(sizes[0], 16, device)
    ours, theirs = (work(model, images[:4]).cpu() for work in SCORE_CAM.values())
    settings = {"width": 16, "channels": 128, "largest difference to grad-cam": f"{(ours - theirs).abs().max():.1e}"}
    figures = take_turns({name: partial(speed, work, model, images) for name, work in SCORE_CAM.items()}, rounds)
    makers = {
        f"{name}, {size} images": partial(memory_of, work, size, 16, device)
        for name, work in SCORE_CAM.items()
        for size in sizes
    }
    peaks = take_turns_in_processes(makers, rounds=1)
    baseline = f"grad-cam, {sizes[0]} images"
    return [
        Report("Score-CAM", "images/s", figures, "grad-cam", where, {"images": sizes[0], **settings}),
        Report("Score-CAM, peak memory (less is better)", "MB", peaks, baseline, where, settings),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=50, help="in the batch (default: 50)")
    arguments = options.parse_args()
    device = pick_device(arguments.device)
    reports = grad_cam_reports(arguments.images, arguments.rounds, device)
    reports += score_cam_reports(min(arguments.rounds, 3), device)
    publish(reports, arguments.output)


if __name__ == "__main__":
    main()
