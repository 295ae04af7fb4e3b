"""ROAD, deletion and insertion, and imputation alone: images/s of evalib and grad-cam on the same maps, in turn.

    python -m benchmarks.faithfulness [--images 8] [--photos 2] [--widths 64 8]
                                      [--rounds 5] [--device cuda] [--output FILE]

ResNet18 for 32 x 32 images, images of the shipped sample, Layer-CAM maps of layer3; then torchvision's ResNet18 for 224
x 224, on the same images enlarged. Weights are as drawn but for the last layer, which is scaled so that the logits tell
the images apart. A little noise makes all values of a map differ: then both remove the same pixels, and the report has
the largest difference of their figures without noise of imputation. All run with kept memory
(`evalib.runtime.keep_freed_memory`). Where the device computes in bfloat16 or float16, evalib is also timed inside
`torch.autocast`, and the report has what that changes in the figures.

What bounds the ratio: grad-cam's ROADCombined asks the network 36 times about an image, evalib 19 times, and deletion
and insertion of 16 steps 33 times, of 9 steps 19 times. "19 forward passes" is the network alone in the batches that
evalib makes, which nothing that asks 19 times can be faster than. The more the network has to do, the less anything
else counts; the larger the image, the more grad-cam's imputation does.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.measure import Report, machine, parser, publish, take_turns
from evalib.data import sample
from evalib.explain import explain
from evalib.faithfulness import PERCENTILES, deletion_insertion, road
from evalib.imputation import impute
from evalib.models import build_model
from evalib.runtime import keep_freed_memory, pick_device, pick_precision
from evalib.transforms import normalize

T = TypeVar("T")
Subject = tuple[nn.Module, Tensor, Tensor, Tensor]
BY_IMAGE, IN_BATCH = "grad-cam ROADCombined, image by image", "grad-cam ROADCombined, in one batch"


def subject(build: Callable[[], nn.Module], size: int, number: int, device: torch.device) -> Subject:
    """Model, images of `size` x `size` pixels, maps and predicted classes, on the device."""
    torch.manual_seed(0)
    data, model = sample(), build().to(device).eval()
    images = normalize(data.test.images[torch.arange(number)], data.mean, data.std)
    images = F.interpolate(images, size=size, mode="bicubic").to(device).contiguous()
    with torch.no_grad():
        logits = model(images)
        scale = 2 / logits.std(dim=0)
        *_, last = model.children()
        last.load_state_dict({"weight": last.weight * scale[:, None], "bias": (last.bias - logits.mean(dim=0)) * scale})
        classes = model(images).argmax(dim=1)
    cams = explain(model, images, "layer3", classes, method="layer_cam")[0]
    return model, images, (cams + 1e-4 * torch.rand_like(cams)) / 1.0001, classes


def grad_cam_road(model: nn.Module, images: Tensor, cams: Tensor, classes: Tensor, *, at_once: int) -> Tensor:
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    metric, scores = ROADCombined(list(PERCENTILES)), []
    for some, maps, labels in zip(images.split(at_once), cams.split(at_once), classes.split(at_once), strict=True):
        targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in labels]
        scores.append(torch.from_numpy(metric(some, maps.cpu().numpy(), targets, model)))
    return torch.cat(scores)


def forward_passes(model: nn.Module, images: Tensor, number: int) -> Tensor:
    with torch.inference_mode():
        versions = images.repeat_interleave(number, 0).contiguous(memory_format=torch.channels_last)
        return torch.cat([model(batch) for batch in versions.split(max(1, 2**19 // images[0].numel()))])


def removed_pixels(cams: Tensor) -> Tensor:
    """(N, 18, H, W): the strongest and the weakest pixels, for each percentile."""
    ranks = cams.flatten(1).argsort(dim=1).argsort(dim=1).view(cams.shape)[:, None]
    counts = [1 + percentile * (cams[0].numel() - 1) // 100 for percentile in PERCENTILES]
    few = torch.tensor(counts, device=cams.device)[:, None, None]
    return torch.cat([ranks >= cams[0].numel() - few, ranks < few], dim=1)


def grad_cam_imputes(images: Tensor, removed: Tensor, noise: float = 0.0) -> Tensor:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    imputer, kept = NoisyLinearImputer(noise), (~removed).float().cpu()
    filled = [imputer(image, mask) for image, masks in zip(images.cpu(), kept, strict=True) for mask in masks]
    return torch.stack(filled).unflatten(0, removed.shape[:2])


def largest_differences(about: Subject) -> dict[str, str]:
    """Of the figures and of the imputed pixels, without noise."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights

    _, images, cams, _ = about
    imputed = impute(images, removed_pixels(cams)).cpu() - grad_cam_imputes(images, removed_pixels(cams))
    defaults = NoisyLinearImputer.__init__.__defaults__
    NoisyLinearImputer.__init__.__defaults__ = (0.0, neighbors_weights)
    try:
        theirs = grad_cam_road(*about, at_once=len(images))
    finally:
        NoisyLinearImputer.__init__.__defaults__ = defaults
    ours = road(*about, noise=0.0)["ROAD"].values
    return {
        "largest difference of imputed pixels": f"{imputed.abs().max():.1e}",
        "largest difference of ROAD": f"{(ours - theirs).abs().max():.1e}",
        "mean size of ROAD": f"{ours.abs().mean():.3f}",
    }


def in_precision(dtype: torch.dtype, device: torch.device, work: Callable[[], T]) -> T:
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        return work()


def speed(work: Callable[[], object], number: int, device: torch.device) -> float:
    """Images per second."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return number / (time.perf_counter() - start)


def whole_figures(about: Subject, network: str, rounds: int) -> Report:
    model, images, _, _ = about
    number, device = len(images), images.device
    settings = {"network": network, **sizes(images), **largest_differences(about)}
    ours: dict[str, Callable[[], object]] = {
        "19 forward passes": partial(forward_passes, model, images, 19),
        "evalib road": partial(road, *about),
        "evalib deletion_insertion, 16 steps": partial(deletion_insertion, *about),
        "evalib deletion_insertion, 9 steps": partial(deletion_insertion, *about, steps=9),
    }
    figures = ours | {
        IN_BATCH: partial(grad_cam_road, *about, at_once=number),
        BY_IMAGE: partial(grad_cam_road, *about, at_once=1),
    }
    dtype = pick_precision("auto", device)
    if dtype != torch.float32:
        short = str(dtype).removeprefix("torch.")
        figures |= {f"{name}, {short}": partial(in_precision, dtype, device, work) for name, work in ours.items()}
        exact, mixed = road(*about)["ROAD"].values, in_precision(dtype, device, partial(road, *about))["ROAD"].values
        settings[f"largest difference of ROAD, {short}"] = f"{(exact - mixed).abs().max():.1e}"
    measured = take_turns({name: partial(speed, work, number, device) for name, work in figures.items()}, rounds)
    return Report("Faithfulness", "images/s", measured, BY_IMAGE, machine(device), settings)


def imputation(about: Subject, rounds: int) -> Report:
    _, images, cams, _ = about
    removed, theirs = removed_pixels(cams), "grad-cam NoisyLinearImputer"
    imputing: dict[str, Callable[[], object]] = {
        "evalib impute": partial(impute, images, removed, 0.01 * torch.randn_like(images)[:, None]),
        theirs: partial(grad_cam_imputes, images, removed, 0.01),
    }
    timed = {name: partial(speed, work, len(images), images.device) for name, work in imputing.items()}
    measured = take_turns(timed, rounds)
    device = machine(images.device)
    return Report("Imputation of 18 sets of pixels", "images/s", measured, theirs, device, sizes(images))


def sizes(images: Tensor) -> dict[str, int]:
    return {"images": len(images), "pixels": images.shape[-1], "threads": torch.get_num_threads()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=8, help="explained images (default: 8)")
    options.add_argument("--photos", type=int, default=2, help="enlarged images, 0 for none (default: 2)")
    options.add_argument("--widths", type=int, nargs="+", default=[64, 8], help="of the ResNet18s (default: 64 8)")
    arguments = options.parse_args()
    device, rounds = pick_device(arguments.device), arguments.rounds
    keep_freed_memory()
    small = {
        f"resnet18, width {width}": subject(partial(build_model, "resnet18", width=width), 32, arguments.images, device)
        for width in arguments.widths
    }
    large = {}
    if arguments.photos:
        large["torchvision's resnet18"] = subject(partial(resnet18, num_classes=10), 224, arguments.photos, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of grad-cam's use of numpy
        reports = [whole_figures(about, network, rounds) for network, about in (small | large).items()]
        # what is imputed depends on the size of the images, not on the network: once for each
        reports += [imputation(next(iter(subjects.values())), rounds) for subjects in (small, large) if subjects]
    publish(reports, arguments.output)


if __name__ == "__main__":
    main()
