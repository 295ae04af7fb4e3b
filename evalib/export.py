"""A trained network as a file for other programs, read back and compared before it counts.

TorchScript is not among the formats: torch itself deprecates it and names torch.export in its place.

A file of ONNX needs neither evalib nor torch. This program is all that reads one:

    import json
    import sys

    import numpy as np
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(sys.argv[1])
    about = session.get_modelmeta().custom_metadata_map
    classes, preprocessing = json.loads(about["classes"]), json.loads(about["preprocessing"])
    size = preprocessing["image_size"]
    image = Image.open(sys.argv[2]).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) / 255  # (S, S, 3)
    pixels = (pixels - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])
    (logits,) = session.run(["logits"], {"images": pixels.transpose(2, 0, 1)[None]})
    print(classes[int(logits[0].argmax())])

Of torch.export, with torch alone, where `images` are as above, (N, 3, S, S) float32:

    import json

    import torch

    extra = {"evalib.json": ""}
    network = torch.export.load("model.pt2", extra_files=extra).module()
    classes = json.loads(json.loads(extra["evalib.json"])["classes"])
    print([classes[index] for index in network(images).argmax(dim=1).tolist()])

Of safetensors, with the network's own code:

    from evalib.checkpoint import load_weights
    from evalib.models import build_model

    network = build_model("resnet18", num_classes=10, width=16).eval()
    load_weights(network, "model.safetensors")
    print(network(images).argmax(dim=1))

With "geometry" "center_crop" the shorter side becomes 256/224 of the image size, and the middle is cut out.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalib.checkpoint import Checkpoint, load_model, load_weights, metadata_of, save_safetensors
from evalib.data import sample
from evalib.export_formats import (
    PrivateNetwork,
    Runner,
    largest_difference,
    onnx_packages,
    read_onnx,
    read_torch_export,
    rounding_error,
    write_onnx,
    write_torch_export,
)
from evalib.files import replacing
from evalib.rundir import latest_checkpoint
from evalib.transforms import Geometry, normalize
from evalib.weights import safetensors_torch

if TYPE_CHECKING:
    from evalib.prediction import InputFormat

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
TOLERANCE = 1e-4  # largest difference of two logits; of those above 1 a share of the largest
OWN_ERRORS = 3  # where that is finer than float32: as many times what float32 costs the network itself
SEEDS, BATCH_SIZES = (1, 2, 3), (1, 3)


@dataclass(frozen=True)
class Exported:
    """A file that was written, read back and found equal.

    Attributes:
        path: the file.
        format: one of "onnx", "torch_export", "safetensors".
        bytes: its size.
        difference: the largest difference of two logits.
        largest: the largest logit; `TOLERANCE` is for logits up to 1, and grows with larger ones.
        rounding: the largest difference of the network's logits in float32 and in float64: what no file in float32 can
            be asked to be better than.
        compared: what was compared, in words.
    """

    path: Path
    format: str
    bytes: int
    difference: float
    largest: float
    rounding: float
    compared: str

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.format}, {self.bytes / 1e6:.1f} MB; logits up to {self.largest:.1f} differ by at most "
            f"{self.difference:.1e} (float32 itself costs {self.rounding:.1e}), {self.compared}"
        )


def export(
    source: str | Path | tuple[nn.Module, InputFormat] | Any,
    path: str | Path | None = None,
    *,
    format: str = "onnx",
    image_size: int | None = None,
    dynamic_batch: bool = True,
    include_preprocessing: bool = False,
) -> Exported:
    """Write a trained network for other programs, read the file back, and compare its logits with the network's.

    Images of the shipped sample, normalized as the network wants them, go through both: onnxruntime, torch.export or a
    fresh network with the weights of the file on the one side, the network itself in float32 on the other. A file that
    differs is removed, and an older one under its name stays. The network is left as it was found. A file differs if
    its logits do so by more than `TOLERANCE` and by more than `OWN_ERRORS` times what float32 costs the network itself:
    one of more than a hundred layers may lose more than `TOLERANCE` to rounding alone.

    The metadata, strings by name, are those of `evalib.checkpoint.metadata_of`; of all formats but safetensors without
    the figures of the run, and with a line about the "input".

    Args:
        source: a run directory, a checkpoint of evalib, a pair of a network and its checkpoint or data, or anything
            with a `model` and a `checkpoint`.
        path: the file; None puts "model" with the format's suffix beside the checkpoint.
        format: "onnx", "torch_export" or "safetensors".
        image_size: height and width of the input in pixels; None takes what the network was trained with.
        dynamic_batch: take any number of images at once; else always one.
        include_preprocessing: take (N, 3, S, S) uint8 RGB pixels, and normalize them inside the file. Not with
            "safetensors", which holds weights only.

    Raises:
        ValueError: if the source is nothing to export, the network cannot be written in this format, or the file
            differs from the network.
        OSError: if there is no source, no space, or no right to write.
        ImportError: if a package is missing; it says which to install.
    """
    _check(format, include_preprocessing)
    model, about, folder = _opened(source)
    path = _file(path, folder, format)
    size = image_size or about.image_size
    network = PrivateNetwork(model, about.mean, about.std, include_preprocessing)
    inputs = _inputs(about, size, BATCH_SIZES if dynamic_batch else (1,), raw=include_preprocessing)
    with replacing(path) as temporary, torch.autocast("cpu", enabled=False):
        try:
            run = _written(network, about, temporary, format, inputs[-1], dynamic_batch)
        except (OSError, ImportError, MemoryError):
            raise
        except Exception as error:  # exporters raise whatever they raise
            raise ValueError(_cannot(model, format, error)) from error
        difference, largest = largest_difference(network, run, inputs)
        rounding = rounding_error(network, inputs[-1])
        if not difference <= (allowed := max(TOLERANCE * max(1.0, largest), OWN_ERRORS * rounding)):
            raise ValueError(
                f"The network as {format} gives other logits than the network itself: they differ by {difference:.1e}, "
                f"allowed are {allowed:.1e}. Nothing was written to {path}."
            )
        count = sum(map(len, inputs))
        size_of_file = temporary.stat().st_size
    compared = f"{count} images of {size} pixels in batches of {' and '.join(map(str, sorted({*map(len, inputs)})))}"
    return Exported(path, format, size_of_file, difference, largest, rounding, compared)


def _check(format: str, include_preprocessing: bool) -> None:
    """Errors that need no network."""
    if format not in SUFFIXES:
        more = " torch deprecates TorchScript: use 'torch_export'." if format == "torchscript" else ""
        raise ValueError(f"`format` must be one of {', '.join(SUFFIXES)}: got {format!r}.{more}")
    if format == "safetensors":
        safetensors_torch()
        if include_preprocessing:
            raise ValueError("`include_preprocessing` is not for safetensors, which holds weights only.")
    elif format == "onnx":
        onnx_packages()


def _opened(source: Any) -> tuple[nn.Module, InputFormat, Path | None]:
    """The network, what is known of its input and classes, and the folder of its checkpoint."""
    if isinstance(source, str | Path):
        file = latest_checkpoint(source) if Path(source).is_dir() else Path(source)
        return *load_model(file), file.parent
    if isinstance(source, tuple) and len(source) == 2:
        model, about = source
    else:
        model, about = getattr(source, "model", None), getattr(source, "checkpoint", None)
    if not isinstance(model, nn.Module) or not hasattr(about, "geometry"):
        raise ValueError(
            "`source` must be a run directory, a checkpoint, or a pair (network, checkpoint or data): got "
            f"{type(source).__name__}."
        )
    return model, about, None


def _file(path: str | Path | None, folder: Path | None, format: str) -> Path:
    suffix = SUFFIXES[format]
    if path is None and folder is None:
        raise ValueError("`path` must name the file to write, where the source is no run directory and no checkpoint.")
    path = Path(path) if path is not None else Path(folder or "") / f"model{suffix}"
    if path.suffix != suffix:
        raise ValueError(f"`path` must end in {suffix} for {format}: got {path.name!r}.")
    return path


def _metadata(about: InputFormat, size: int, raw: bool) -> dict[str, str]:
    """What stands in a file that runs."""
    found = {name: value for name, value in metadata_of(about).items() if name not in ("format", "metrics")}
    preprocessing = json.loads(found["preprocessing"]) | {"image_size": size}
    kind = "uint8 RGB in 0..255, not normalized" if raw else "float32 RGB, (pixels / 255 - mean) / std"
    return found | {"preprocessing": json.dumps(preprocessing), "input": f"images (N, 3, {size}, {size}): {kind}"}


def _inputs(about: InputFormat, size: int, batch_sizes: tuple[int, ...], *, raw: bool) -> list[Tensor]:
    """Batches of the shipped sample as the network takes them: for each seed, one of each size, the largest last."""
    images = sample().test.images
    if not isinstance(images, Tensor):
        raise TypeError("The shipped sample must be one tensor.")
    batches = []
    for count in sorted(batch_sizes):
        for seed in SEEDS:
            chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
            pixels = Geometry("resize", size).batch(images[chosen])
            batches.append(pixels if raw else normalize(pixels, about.mean, about.std))
    return batches


def _written(
    network: PrivateNetwork, about: InputFormat, path: Path, format: str, example: Tensor, dynamic: bool
) -> Runner:
    """Write the file, and give what runs it."""
    size = example.shape[-1]
    if format == "safetensors":
        return _safetensors(network, about, path, size)
    write, read = (write_onnx, read_onnx) if format == "onnx" else (write_torch_export, read_torch_export)
    metadata = _metadata(about, size, network.raw)
    write(network, example, path, metadata, dynamic=dynamic)
    run, found = read(path)
    if {name: found.get(name) for name in metadata} != metadata:
        raise ValueError("its metadata came out different")
    return run


def _safetensors(network: PrivateNetwork, about: InputFormat, path: Path, size: int) -> Runner:
    """A fresh network with the weights of the file: every number that the file lacks would be NaN."""
    if not isinstance(about, Checkpoint):
        raise ValueError("it needs the network's checkpoint, whose recipe belongs into the file")
    save_safetensors(path, dataclasses.replace(about, weights=network.model.state_dict(), image_size=size))
    fresh = copy.deepcopy(network)
    for tensor in fresh.model.state_dict().values():
        tensor.fill_(math.nan if tensor.is_floating_point() else -1)
    load_weights(fresh.model, path)
    return fresh


def _cannot(model: nn.Module, format: str, error: Exception) -> str:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip().rstrip(".")
    return f"{type(model).__name__} cannot be written as {format}: {reason}."
