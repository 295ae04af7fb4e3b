"""Whether files of ONNX give what the networks give: every shipped network at full width, through onnxruntime.

    python -m benchmarks.export [--model resnet18 vgg19_cam] [--width 64] [--format onnx] [--output FILE.json]

Each network has the statistics and scales of one that has seen images: BatchNorm is averaged over batches of the
shipped sample, then its scales and shifts, and all biases, are drawn. `evalib.export.export` writes the file, reads it
back and compares it; a difference above 1e-4 (of logits above 1: of the largest one) ends the command with an error,
unless float32 itself cannot do better: the column "float32" is what the network differs from itself in float64.
Residual networks for small images are compared at 32 pixels, the others at 224.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import machine
from evalib.checkpoint import Checkpoint
from evalib.data import sample
from evalib.export import SUFFIXES, TOLERANCE, export
from evalib.models import MODELS, build_model
from evalib.recipes import recipes
from evalib.runtime import train_mode
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry, normalize

SMALL_INPUT = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def lived_in(model: nn.Module, size: int) -> nn.Module:
    """The network as if it had been trained: statistics of images, scales, shifts and biases of its own."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3, generator=generator)
        nn.init.normal_(norm.bias, std=0.1, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain average
    images = Geometry("resize", size).batch(sample().train.images[::312][:16])
    with train_mode(model), torch.no_grad():
        for part in normalize(images, IMAGENET_MEAN, IMAGENET_STD).split(8) if norms else ():
            model(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def measured(name: str, width: int, form: str) -> dict[str, Any]:
    """One network: size of the file, largest difference, seconds."""
    size = 32 if name in SMALL_INPUT else 224
    model = lived_in(build_model(name, 10, width=width, seed=1), size)
    recipe = recipes["demo"].replace(model=name, width=width)
    classes = tuple(f"class {index}" for index in range(10))
    about = (IMAGENET_MEAN, IMAGENET_STD, size, "sample", 1)
    checkpoint = Checkpoint(model.state_dict(), recipe, classes, *about, geometry=Geometry("resize", size))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        exported = export((model, checkpoint), Path(folder, f"model{SUFFIXES[form]}"), format=form)
    return {
        "network": name,
        "format": form,
        "width": width,
        "image_size": size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "megabytes": round(exported.bytes / 1e6, 1),
        "difference": exported.difference,
        "rounding": exported.rounding,
        "largest_logit": round(exported.largest, 2),
        "compared": exported.compared,
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    options.add_argument("--width", type=int, default=64, help="of residual networks (default: 64)")
    options.add_argument("--format", choices=tuple(SUFFIXES), default="onnx")
    options.add_argument("--output", type=Path, help="also write the figures as JSON to this file")
    arguments = options.parse_args()
    titles = f"{'parameters':>12s} {'MB':>7s} {'difference':>11s} {'float32':>8s} {'logit':>7s} {'seconds':>8s}"
    print(f"{'network':18s} {titles}")
    rows = []
    for name in arguments.model:
        row = measured(name, arguments.width, arguments.format)
        rows.append(row)
        figures = f"{row['parameters']:12,} {row['megabytes']:7.1f} {row['difference']:11.1e} {row['rounding']:8.1e}"
        figures += f" {row['largest_logit']:7.2f} {row['seconds']:8.1f}"
        print(f"{name:18s} {figures}  {row['compared']}", flush=True)
    if arguments.output:
        values = {"tolerance": TOLERANCE, "machine": machine(torch.device("cpu")), "networks": rows}
        arguments.output.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
