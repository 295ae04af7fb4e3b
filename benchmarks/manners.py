"""What a call for Grad-CAM leaves behind, where it works, and what it says to bad input: evalib, grad-cam, torch-cam.

    python -m benchmarks.manners [--output benchmarks/results/manners.json]

Each line is tried, not looked up: a ResNet18 of width 8 with weights as drawn, four images, each library as its own
documentation calls it, with one target layer (five in the line that asks for five maps). "yes" means that it did what
the line says; otherwise what happened instead. What is not installed is left out (`pip install torchcam`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import versions
from evalib.explain import METHODS, explain
from evalib.models import build_model
from evalib.tables import Table

LAYERS = ("layer1", "layer2", "layer3", "layer4")
Call = Callable[[nn.Module, Tensor, Sequence[str], Sequence[int]], Tensor]
Trial = Callable[[Call], str]


def ours(model: nn.Module, images: Tensor, layers: Sequence[str], classes: Sequence[int]) -> Tensor:
    return explain(model, images, list(layers), torch.tensor(classes))


def grad_cam(model: nn.Module, images: Tensor, layers: Sequence[str], classes: Sequence[int]) -> Tensor:
    """As the README of grad-cam: a list of layers gives the mean of their maps."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=model, target_layers=[getattr(model, name)[-1] for name in layers]) as cam:
        maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(index) for index in classes])
    return torch.from_numpy(maps)[None]  # type: ignore[possibly-undefined]  # not assigned where it swallows an error


def torch_cam(model: nn.Module, images: Tensor, layers: Sequence[str], classes: Sequence[int]) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(model, list(layers)) as extractor:
        maps = extractor(list(classes), model(images))
    return torch.stack([nn.functional.interpolate(part[:, None], images.shape[2:])[:, 0] for part in maps])


def _network() -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return build_model("resnet18", width=8, seed=0).eval(), torch.randn(4, 3, 32, 32, generator=generator)


def _tried(call: Call, model: nn.Module, images: Tensor, classes: Sequence[int] = (0, 1, 2, 3)) -> str:
    """ "yes" if there is a map of each image that is finite and not flat."""
    maps = call(model, images, ["layer4"], classes)[0]
    if maps.shape[0] != len(images) or not maps.isfinite().all():
        return f"no: {tuple(maps.shape)}, finite: {bool(maps.isfinite().all())}"
    flat = int((maps.flatten(1).amax(dim=1) == maps.flatten(1).amin(dim=1)).sum())
    return "yes" if flat == 0 else f"no: {flat} of {len(maps)} maps are flat"


# --- what is left behind -------------------------------------------------------------------------------------


def mode_is_put_back(call: Call) -> str:
    model, images = _network()
    model.train()
    call(model, images, ["layer4"], (0, 1, 2, 3))
    left = sum(not module.training for module in model.modules())
    return "yes" if left == 0 else f"no: {left} modules left in evaluation mode"


def statistics_stay(call: Call) -> str:
    model, images = _network()
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    call(model, images, ["layer4"], (0, 1, 2, 3))
    changed = sum(not torch.equal(value, before[name]) for name, value in model.named_buffers())
    return "yes" if changed == 0 else f"no: {changed} buffers changed"


def gradients_stay(call: Call) -> str:
    model, images = _network()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    call(model, images, ["layer4"], (0, 1, 2, 3))
    left = [parameter.grad for parameter in model.parameters()]
    changed = sum(grad is None or not bool((grad == 1).all()) for grad in left)
    return "yes" if changed == 0 else f"no: {changed} of {len(left)} changed"


# --- where it works ------------------------------------------------------------------------------------------


def five_maps(call: Call) -> str:
    model, images = _network()
    maps = call(model, images, LAYERS, (0, 1, 2, 3))
    return "yes" if len(maps) == len(LAYERS) else "no: their mean"


def frozen(call: Call) -> str:
    model, images = _network()
    return _tried(call, model.requires_grad_(False), images)


def without_gradients(call: Call) -> str:
    model, images = _network()
    with torch.no_grad():
        return _tried(call, model, images)


def autocast(call: Call) -> str:
    model, images = _network()
    with torch.autocast("cpu", torch.bfloat16):
        return _tried(call, model, images)


# --- bad input -----------------------------------------------------------------------------------------------


def _refused(call: Call, model: nn.Module, images: Tensor, classes: Sequence[int]) -> str:
    """ "yes" if it ends with an error about the input."""
    try:
        maps = call(model, images, ["layer4"], classes)
    except UnboundLocalError:
        return "no: the error is swallowed, no map is returned"
    except (ValueError, IndexError, TypeError, RuntimeError):
        return "yes"
    empty = int((maps[0].flatten(1).amax(dim=1) == 0).sum())
    return f"no: returns {maps.shape[1]} maps, {empty} of them black"


def class_out_of_range(call: Call) -> str:
    return _refused(call, *_network(), (0, 1, 2, 99))


def too_few_classes(call: Call) -> str:
    return _refused(call, *_network(), (0, 1))


def weights_that_are_nan(call: Call) -> str:
    model, images = _network()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return _refused(call, model, images, (0, 1, 2, 3))


TRIALS: dict[str, Trial] = {
    "training mode is put back": mode_is_put_back,
    "BatchNorm's statistics stay": statistics_stay,
    "the user's gradients stay": gradients_stay,
    "a map for each of several layers": five_maps,
    "works with frozen parameters": frozen,
    "works inside no_grad": without_gradients,
    "works under autocast to bfloat16": autocast,
    "class 99 of 10 is an error": class_out_of_range,
    "two classes for four images are an error": too_few_classes,
    "weights that are NaN are an error": weights_that_are_nan,
}
CALLS: dict[str, Call] = {"evalib": ours, "grad-cam": grad_cam}
if find_spec("torchcam"):
    CALLS["torch-cam"] = torch_cam


def outcome(trial: Trial, call: Call) -> str:
    """What a trial says, or the first line of its error."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return trial(call)
    except Exception as error:  # of whatever kind: that is the finding
        lines = str(error).strip().splitlines() or [""]
        return f"no: {type(error).__name__}: {lines[0][:80]}"


def methods() -> dict[str, str]:
    """How many methods each library has: those of its own list."""
    import pytorch_grad_cam
    from pytorch_grad_cam.base_cam import BaseCAM

    theirs = {value for value in vars(pytorch_grad_cam).values() if isinstance(value, type)}
    found = {"evalib": len(METHODS), "grad-cam": sum(issubclass(value, BaseCAM) for value in theirs)}
    if "torch-cam" in CALLS:
        import torchcam.methods

        found["torch-cam"] = sum(isinstance(value, type) for value in vars(torchcam.methods).values())
    return {name: str(count) for name, count in found.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, help="also write the table as JSON to this file")
    arguments = options.parse_args()
    rows = [{"": name} | {who: outcome(trial, call) for who, call in CALLS.items()} for name, trial in TRIALS.items()]
    rows.append({"": "methods in its list"} | methods())
    found = {"benchmark": "manners", "rows": rows, "versions": versions()}
    print(Table(rows, notes=[", ".join(f"{name} {version}" for name, version in versions().items())]))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
