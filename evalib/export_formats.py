"""How a network gets into a file of ONNX or torch.export, how that file is run again, and how both are compared."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalib.transforms import Channels

OPSET = 20  # of ONNX; onnxruntime reads it from 1.17 on
INPUT, OUTPUT = "images", "logits"
METADATA_FILE = "evalib.json"  # inside a file of torch.export
Runner = Callable[[Tensor], Tensor]


class PrivateNetwork(nn.Module):
    """A private copy on the CPU, in float32 and evaluation mode, with normalization before it if asked for."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Channels, std: Channels, raw: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to("cpu", torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.raw = raw
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        if self.raw:  # as `evalib.transforms.normalize`
            images = (images.to(self.mean.dtype) - self.mean) / self.std
        logits: Tensor = self.model(images)
        return logits


def onnx_packages() -> tuple[Any, Any]:
    """The modules `onnx` and `onnxruntime`.

    Raises:
        ImportError: if they, or onnxscript, through which torch writes ONNX, are missing; saying what to install.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Files of ONNX need the packages onnx, onnxruntime and onnxscript: pip install 'evalib[export]'."
        ) from error
    return onnx, onnxruntime


def write_onnx(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str], *, dynamic: bool) -> None:
    """Write a network as one file of ONNX: weights inside, metadata as its properties, no path of this machine."""
    onnx, _ = onnx_packages()
    settings: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": OPSET}
    with _quietly():
        program: Any = torch.onnx.export(
            model, (example,), dynamo=True, dynamic_shapes=_shapes(dynamic), verbose=False, **settings
        )
    for function in (program.model.graph, *program.model.functions.values()):
        for node in function:
            node.metadata_props.clear()  # where in which file the operation was called
    program.model.metadata_props.update(metadata)
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)


def read_onnx(path: Path) -> tuple[Runner, dict[str, str]]:
    """A file of ONNX, run by onnxruntime on the CPU, and its metadata."""
    _, onnxruntime = onnx_packages()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run, dict(session.get_modelmeta().custom_metadata_map)


def write_torch_export(
    model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str], *, dynamic: bool
) -> None:
    """Write a network as a file of torch.export; the metadata lie in it as JSON under `METADATA_FILE`."""
    with _quietly():
        program = torch.export.export(model, (example,), dynamic_shapes=_shapes(dynamic))
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # with the folders of this machine
        torch.export.save(program, str(path), extra_files={METADATA_FILE: json.dumps(dict(metadata))})


def read_torch_export(path: Path) -> tuple[Runner, dict[str, str]]:
    """A file of torch.export, run by torch on the CPU, and its metadata."""
    extra = {METADATA_FILE: ""}
    with _quietly():
        module = torch.export.load(str(path), extra_files=extra).module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return module(images)  # type: ignore[no-any-return]

    return run, json.loads(extra[METADATA_FILE])


def _shapes(dynamic: bool) -> Any:
    """Any number of images, or the one of the example; their size stays."""
    return ({0: torch.export.Dim("batch", min=1)},) if dynamic else None


def largest_difference(network: PrivateNetwork, run: Runner, inputs: list[Tensor]) -> tuple[float, float]:
    """The largest difference of two logits, NaN if the file gives one, and the network's largest logit."""
    worst = largest = 0.0
    with torch.no_grad():
        for images in inputs:
            expected, found = network(images), run(images)
            if found.shape != expected.shape or not found.isfinite().all():
                return math.nan, largest
            worst = max(worst, float((found - expected).abs().max()))
            largest = max(largest, float(expected.abs().max()))
    return worst, largest


def rounding_error(network: PrivateNetwork, images: Tensor) -> float:
    """The largest difference of the network's logits in float32 and in float64; 0 if it cannot compute in float64."""
    exact = copy.deepcopy(network).double()
    with torch.no_grad():
        expected = network(images).double()
        try:
            found = exact(images if network.raw else images.double())
        except RuntimeError:  # a network that makes float32 tensors of its own
            return 0.0
    return float((expected - found).abs().max())


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters log and warn of: whether a file is right is seen by comparing it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
