"""What the commands of the command line do and say; `evalib.cli` has their words."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalib.recipes import Recipe, recipes

if TYPE_CHECKING:
    from torch import nn

    from evalib.checkpoint import Checkpoint
    from evalib.data import ImageData
    from evalib.engine import Evaluation
    from evalib.execution import SingleDevice
    from evalib.history import History

# torch and its friends are imported by the functions, so that --help answers at once

CHANGES = (
    "epochs", "seed", "model", "weights", "frozen_layers", "batch_size", "lr", "width", "geometry", "image_size",
)  # fmt: skip


def load_data(dataset: str, data_dir: str | None, filters: Mapping[str, Any], *, download: bool = False) -> ImageData:
    """A dataset by its name on the command line; the filters are those of Stanford Cars."""
    from evalib.data import cifar10, sample, stanford_cars

    if dataset == "cars":
        return stanford_cars(data_dir or "data", download=download, **filters)
    if any(value not in (None, "class") for value in filters.values()):
        raise ValueError(f"--car-brand, --car-type, --car-year and --target are for the dataset cars: got {dataset}.")
    return sample() if dataset == "sample" else cifar10(data_dir or "data")


def train(arguments: argparse.Namespace) -> int:
    """`evalib train` and `evalib demo`."""
    from evalib.engine import fit
    from evalib.models import model_for
    from evalib.rundir import CHECKPOINT_NAME
    from evalib.runtime import check_writable, describe_device, keep_freed_memory

    given = {name: getattr(arguments, name, None) for name in CHANGES}
    name = arguments.recipe or ("cars-alexnet" if arguments.dataset == "cars" else "eva6")
    recipe = recipes[name].replace(**{name: value for name, value in given.items() if value is not None})
    run_dir = check_writable(Path(arguments.run_dir or f"runs/{arguments.dataset}-{recipe.name}-seed{recipe.seed}"))
    keep_freed_memory()  # before the first large tensor
    filters = {name: getattr(arguments, f"car_{name}", None) for name in ("brand", "type", "year")}
    filters["target"] = getattr(arguments, "target", "class")
    download = getattr(arguments, "download", False)
    data = load_data(arguments.dataset, arguments.data_dir, filters, download=download).prepared_for(recipe)
    execution = _execution(arguments.device, recipe.precision)
    model = model_for(recipe, data.num_classes)
    print(
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images, {data.num_classes} classes, "
        f"{data.image_size} pixels, from {data.source}\n"
        f"{_describe_network(model, recipe)}\n"
        f"recipe {recipe.name}, {recipe.epochs} epochs, batch size {recipe.batch_size}, seed {recipe.seed}\n"
        f"{describe_device(execution.device)}, {str(execution.dtype).removeprefix('torch.')}\n"
        f"run directory {run_dir}",
        flush=True,
    )
    if (run_dir / CHECKPOINT_NAME).exists():
        print("It holds a checkpoint: the run continues after its last finished epoch.")
    report = EpochLines(model, recipe, execution, data.image_size if arguments.bare_step else None)
    settings = {"device": arguments.device, "workers": arguments.workers, "on_epoch": report}
    history = fit(model, data, recipe, run_dir=run_dir, **settings)
    if history.interrupted:
        print(f"\nStopped after epoch {len(history.epochs)} of {recipe.epochs}. The same command continues.")
        return 130
    evaluation = _evaluate(model, data, execution)
    _print_evaluation(evaluation, data.classes, data.name, f"seed {recipe.seed}")
    _write_figures(run_dir, model, data, evaluation, history)
    return 0


def _describe_network(model: nn.Module, recipe: Recipe) -> str:
    width = f", width {recipe.width}" if recipe.model.startswith("resnet") else ""
    start = "random weights" if recipe.weights == "none" else f"weights: {recipe.weights}"
    frozen = f", {recipe.frozen_layers} convolution layers frozen" if recipe.frozen_layers else ""
    return f"{recipe.model}{width}: {sum(p.numel() for p in model.parameters()):,} parameters, {start}{frozen}"


class EpochLines:
    """Prints a line per epoch and, if asked, the speed of the model step alone beside the loop's."""

    def __init__(self, model: nn.Module, recipe: Recipe, execution: SingleDevice, image_size: int | None) -> None:
        self.model, self.recipe, self.execution, self.image_size = model, recipe, execution, image_size

    def __call__(self, history: History) -> None:
        record = history.epochs[-1]
        line = (
            f"epoch {record.epoch:2d}/{self.recipe.epochs}  "
            f"train loss {record.train_loss:.4f} accuracy {record.train_accuracy:.2%}  "
            f"test loss {record.test_loss:.4f} accuracy {record.test_accuracy:.2%}  "
            f"{record.seconds:.0f} s, {record.images_per_second:.1f} images/s"
        )
        if self.image_size is not None:
            import torch

            from evalib.execution import bare_step_speed

            images = torch.randn(self.recipe.batch_size, 3, self.image_size, self.image_size)
            labels = torch.zeros(len(images), dtype=torch.long)
            bare = bare_step_speed(self.model, images, labels, execution=self.execution)
            line += f"; bare step {bare:.1f}, ratio {record.images_per_second / bare:.2f}"
        print(line, flush=True)


def _execution(device: str | None, precision: str = "auto") -> SingleDevice:
    from evalib.execution import SingleDevice
    from evalib.runtime import keep_freed_memory

    keep_freed_memory()
    return SingleDevice(device, precision)


def _evaluate(model: nn.Module, data: ImageData, execution: SingleDevice) -> Evaluation:
    from evalib.data.loaders import eval_loader
    from evalib.engine import evaluate

    return evaluate(model, eval_loader(data, device=execution.device), execution=execution)


def _print_evaluation(evaluation: Evaluation, classes: Sequence[str], dataset: str, note: str) -> None:
    from evalib.metrics import confusion_matrix, per_class_accuracy

    confusion = confusion_matrix(evaluation.predictions, evaluation.labels, len(classes))
    if len(classes) <= 25:
        for name, accuracy in zip(classes, per_class_accuracy(confusion).tolist(), strict=True):
            print(f"  {name:12s} {accuracy:6.1%}")
    if dataset == "stanford-cars" and _are_cars(classes):
        from evalib.car_errors import car_errors

        print(car_errors(evaluation, classes))
    wrong = int((evaluation.predictions != evaluation.labels).sum())
    print(
        f"test accuracy {evaluation.accuracy:.2%} on {len(evaluation.labels):,} images of {dataset} "
        f"({wrong:,} misclassified, loss {evaluation.loss:.4f}, {note})"
    )


def _are_cars(classes: Sequence[str]) -> bool:
    from evalib.data.car_names import CAR_CLASSES

    return set(classes) <= set(CAR_CLASSES)


def _write_figures(
    folder: Path, model: nn.Module, data: ImageData, evaluation: Evaluation, history: History | None
) -> None:
    from evalib.report import write_figures

    start = time.perf_counter()
    files = write_figures(folder, model, data, evaluation, history=history)
    print(f"figures, {time.perf_counter() - start:.0f} s:")
    for name, path in files.items():
        print(f"  {name:10s} {path}")


def _trained(arguments: argparse.Namespace) -> tuple[nn.Module, Checkpoint, SingleDevice, Path]:
    """The network, what is known of it, the device and the folder that `eval` and `cam` name."""
    from evalib.checkpoint import is_checkpoint, load_model
    from evalib.rundir import CHECKPOINT_NAME

    if (arguments.run_dir is None) == (arguments.checkpoint is None):
        raise ValueError("Name either a run directory or --checkpoint FILE.")
    path = Path(arguments.checkpoint or Path(arguments.run_dir) / CHECKPOINT_NAME)
    if arguments.run_dir and not path.exists():
        raise FileNotFoundError(
            f"{arguments.run_dir} is no run directory: it has no {CHECKPOINT_NAME}. `evalib train` makes one."
        )
    own = arguments.run_dir is not None or is_checkpoint(path)
    model, checkpoint = load_model(path) if own else _foreign(path, arguments.model)
    execution = _execution(arguments.device)
    return execution.prepare(model), checkpoint, execution, path.parent


def _foreign(path: Path, name: str) -> tuple[nn.Module, Checkpoint]:
    """Weights of another project in a network of ours, taken to be for CIFAR-10 where they tell ten classes apart."""
    from evalib.checkpoint import Checkpoint
    from evalib.data.image_data import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD
    from evalib.models import build_model
    from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry
    from evalib.weights import load_strictly, read_weights_file, state_dict_in

    weights = state_dict_in(read_weights_file(path), path)
    num_classes = next((len(tensor) for tensor in reversed(weights.values()) if tensor.dim() == 2), 10)
    model = build_model(name, num_classes)
    load_strictly(model, weights, path)
    classes = CIFAR10_CLASSES if num_classes == 10 else tuple(f"class {index}" for index in range(num_classes))
    small = name.startswith("resnet")
    recipe = recipes["eva6" if small else "hpi-alexnet"].replace(model=name)
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if small else (IMAGENET_MEAN, IMAGENET_STD)
    geometry = Geometry(recipe.geometry, recipe.image_size)
    size = geometry.image_size or 32
    return model.eval(), Checkpoint(weights, recipe, classes, mean, std, size, "cifar10", 0, geometry=geometry)


def _test_data(arguments: argparse.Namespace, checkpoint: Checkpoint) -> ImageData:
    """The data of a checkpoint, chosen and prepared as for its training."""
    known = {"cifar10-sample": "sample", "stanford-cars": "cars"}
    dataset = arguments.dataset or known.get(checkpoint.dataset, "cifar10")
    filters: dict[str, Any] = dict(checkpoint.filters) if dataset == "cars" else {}
    if "target" in filters:
        filters["target"] = filters["target"][0]
    data = load_data(dataset, arguments.data_dir, filters, download=arguments.download)
    if data.num_classes != len(checkpoint.classes):
        raise ValueError(
            f"The network tells {len(checkpoint.classes)} classes apart, {data.name} has {data.num_classes}. "
            "Name the data that it was trained on with --dataset and --data-dir."
        )
    return data.prepared_for(checkpoint.recipe)


def evaluate(arguments: argparse.Namespace) -> int:
    """`evalib eval`."""
    from evalib.history import History

    model, checkpoint, execution, folder = _trained(arguments)
    data = _test_data(arguments, checkpoint)
    evaluation = _evaluate(model, data, execution)
    note = f"after epoch {checkpoint.epoch}" if checkpoint.epoch else "foreign weights"
    _print_evaluation(evaluation, data.classes, data.name, note)
    if arguments.run_dir:
        _write_figures(folder, model, data, evaluation, History.from_dict(checkpoint.metrics))
    return 0


def cam(arguments: argparse.Namespace) -> int:
    """`evalib cam`."""
    from evalib import plots
    from evalib.report import explain_mistakes, explain_test_images

    model, checkpoint, execution, folder = _trained(arguments)
    if arguments.image:
        return _cam_of_image(arguments, model, checkpoint, folder)
    data = _test_data(arguments, checkpoint)
    if arguments.index:
        figure = explain_test_images(model, data, arguments.index)
    else:
        from evalib.mistakes import find_mistakes

        mistakes = find_mistakes(_evaluate(model, data, execution)).by_confidence()
        figure = explain_mistakes(model, data, mistakes.head(arguments.count))
    print(plots.save_figure(figure, Path(arguments.output or folder / "cam.png")))
    return 0


def _cam_of_image(arguments: argparse.Namespace, model: nn.Module, checkpoint: Checkpoint, folder: Path) -> int:
    """An image file needs the checkpoint alone; a test image by its index needs the data, and has a real class."""
    from evalib.report import explain_image, read_image, write_explanation

    real = None
    if arguments.image.isdecimal() and not Path(arguments.image).exists():
        data = _test_data(arguments, checkpoint)
        index = int(arguments.image)
        if index >= len(data.test):
            raise ValueError(f"--image must name a test image in 0..{len(data.test) - 1}, or a file: got {index}.")
        pixels, real = data.test.images[index], int(data.test.labels[index])
    else:
        pixels = read_image(arguments.image, checkpoint)
    explanation = explain_image(model, pixels, checkpoint, class_name=arguments.class_name)
    for index in explanation.probabilities.argsort(descending=True).tolist():
        print(f"{explanation.probabilities[index]:7.2%}  {checkpoint.classes[index]} ({index})")
    print(f"predicted: {checkpoint.classes[explanation.predicted]} ({explanation.predicted})")
    if real is not None:
        print(f"real:      {checkpoint.classes[real]} ({real})")
    note = ": no evidence for it, the map is flat" if explanation.is_flat else ""
    print(f"map of:    {checkpoint.classes[explanation.class_idx]} ({explanation.class_idx}){note}")
    for path in write_explanation(explanation, arguments.output or folder / "image"):
        print(path)
    return 0


def data(arguments: argparse.Namespace) -> int:
    """`evalib data`."""
    from evalib.data.stanford_cars import car_inventory

    if arguments.download:
        found = load_data("cars", arguments.data_dir, {}, download=True)
        print(f"{found.name}: {len(found.train):,} training and {len(found.test):,} test images, from {found.source}")
    if arguments.list or not arguments.download:
        print(car_inventory(arguments.data_dir))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`evalib doctor`."""
    from evalib.runtime import doctor

    for name, value in doctor(arguments.device).items():
        print(f"{name:14s} {value}")
    return 0
