"""The command line: `evalib demo | train | eval | cam | doctor`, also as `python -m evalib`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import evalib
from evalib.recipes import MODEL_NAMES, Recipe, recipes

if TYPE_CHECKING:
    from torch import nn

    from evalib.checkpoint import Checkpoint
    from evalib.data import ImageData
    from evalib.engine import Evaluation
    from evalib.execution import SingleDevice
    from evalib.history import History

# torch and its friends are imported by the commands, so that --help answers at once


DEVICE_HELP = "cpu, cuda, mps (default: the best one here)"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="evalib", description="Train an image classifier, see where it errs, and see why."
    )
    parser.add_argument("--version", action="version", version=f"evalib {evalib.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train on the shipped sample within minutes and write all figures")
    demo.set_defaults(run=_train, dataset="sample", recipe="demo", data_dir=None, bare_step=False)
    _add_training(demo, run_dir="runs/demo")

    train = commands.add_parser("train", help="train by a recipe into a run directory; called again, it continues")
    train.add_argument(
        "dataset", choices=("cifar10", "sample"), help="sample: 6,000 CIFAR-10 images shipped with evalib"
    )
    train.add_argument("--recipe", choices=tuple(recipes), default="eva6", help="default: %(default)s")
    train.add_argument("--data-dir", metavar="DIR", help="where CIFAR-10 is or shall be downloaded to (default: data)")
    train.add_argument("--bare-step", action="store_true", help="after every epoch also time the model step alone")
    train.set_defaults(run=_train)
    _add_training(train, run_dir=None)

    evaluate = commands.add_parser("eval", help="test a run or a checkpoint: accuracy, classes, mistakes")
    evaluate.set_defaults(run=_eval)
    _add_trained(evaluate)

    cam = commands.add_parser("cam", help="Grad-CAM of a run's mistakes, of chosen test images, or of an image file")
    cam.set_defaults(run=_cam)
    _add_cam(cam)

    doctor = commands.add_parser("doctor", help="versions, device, precision and disk space")
    doctor.add_argument("--device", help=DEVICE_HELP)
    doctor.set_defaults(run=_doctor)
    return parser


def _add_cam(parser: argparse.ArgumentParser) -> None:
    _add_trained(parser)
    which = parser.add_mutually_exclusive_group()
    count_help = "the N misclassified test images that the network is surest of (default: %(default)s)"
    which.add_argument("--count", type=int, default=10, metavar="N", help=count_help)
    which.add_argument("--index", type=int, nargs="+", metavar="I", help="test images by their index, from 0")
    which.add_argument("--image", metavar="FILE", help="an image file, resized to the network's input")
    parser.add_argument("--output", metavar="PNG", help="file to write (default: cam.png beside the checkpoint)")


def _add_training(parser: argparse.ArgumentParser, run_dir: str | None) -> None:
    run_dir_help = f"default: {run_dir or 'runs/DATASET-RECIPE-seedN'}"
    parser.add_argument("--run-dir", metavar="RUN", default=run_dir, help=run_dir_help)
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--device", help=DEVICE_HELP)
    workers_help = "processes for augmentation (default: one per core, at most 4)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers_help)


def _add_trained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", nargs="?", metavar="RUN", help="a run directory")
    checkpoint_help = "a checkpoint, or weights of kuangliu/pytorch-cifar, instead of a run"
    parser.add_argument("--checkpoint", metavar="FILE", help=checkpoint_help)
    model_help = "the network of foreign weights (default: %(default)s)"
    parser.add_argument("--model", choices=MODEL_NAMES, default="resnet18", help=model_help)
    dataset_help = "test on this instead of what it was trained on"
    parser.add_argument("--dataset", choices=("cifar10", "sample"), help=dataset_help)
    parser.add_argument("--data-dir", metavar="DIR", help="where CIFAR-10 is (default: data)")
    parser.add_argument("--device", help=DEVICE_HELP)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 after an error, 2 for unknown words, 130 after Ctrl-C."""
    parsed = build_parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed) or 0)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("EVALIB_TRACEBACK"):
            raise
        print(f"evalib: {error}\n(EVALIB_TRACEBACK=1 shows where.)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evalib: stopped.", file=sys.stderr)
        return 130


def _load_data(dataset: str, data_dir: str | None) -> ImageData:
    from evalib.data import cifar10, sample

    return sample() if dataset == "sample" else cifar10(data_dir or "data")


def _train(arguments: argparse.Namespace) -> int:
    from evalib.engine import fit
    from evalib.models import build_model
    from evalib.rundir import CHECKPOINT_NAME
    from evalib.runtime import check_writable, describe_device, keep_freed_memory

    changes = {name: getattr(arguments, name) for name in ("epochs", "seed") if getattr(arguments, name) is not None}
    recipe: Recipe = recipes[arguments.recipe].replace(**changes)
    run_dir = check_writable(Path(arguments.run_dir or f"runs/{arguments.dataset}-{recipe.name}-seed{recipe.seed}"))
    keep_freed_memory()  # before the first large tensor
    data = _load_data(arguments.dataset, arguments.data_dir)
    execution = _execution(arguments.device, recipe.precision)
    model = build_model(recipe.model, data.num_classes, width=recipe.width, seed=recipe.seed)
    print(
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images, from {data.source}\n"
        f"{recipe.model}, width {recipe.width}: {sum(p.numel() for p in model.parameters()):,} parameters\n"
        f"recipe {recipe.name}, {recipe.epochs} epochs, batch size {recipe.batch_size}, seed {recipe.seed}\n"
        f"{describe_device(execution.device)}, {str(execution.dtype).removeprefix('torch.')}\n"
        f"run directory {run_dir}",
        flush=True,
    )
    if (run_dir / CHECKPOINT_NAME).exists():
        print("It holds a checkpoint: the run continues after its last finished epoch.")
    report = _EpochLines(model, recipe, execution, data.image_size if arguments.bare_step else None)
    settings = {"device": arguments.device, "workers": arguments.workers, "on_epoch": report}
    history = fit(model, data, recipe, run_dir=run_dir, **settings)
    if history.interrupted:
        print(f"\nStopped after epoch {len(history.epochs)} of {recipe.epochs}. The same command continues.")
        return 130
    evaluation = _evaluate(model, data, execution)
    _print_evaluation(evaluation, data, f"seed {recipe.seed}")
    _write_figures(run_dir, model, data, evaluation, history)
    return 0


class _EpochLines:
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

    return SingleDevice(device, precision)


def _evaluate(model: nn.Module, data: ImageData, execution: SingleDevice) -> Evaluation:
    from evalib.data.loaders import eval_loader
    from evalib.engine import evaluate

    return evaluate(model, eval_loader(data, device=execution.device), execution=execution)


def _print_evaluation(evaluation: Evaluation, data: ImageData, note: str) -> None:
    from evalib.metrics import confusion_matrix, per_class_accuracy

    confusion = confusion_matrix(evaluation.predictions, evaluation.labels, data.num_classes)
    for name, accuracy in zip(data.classes, per_class_accuracy(confusion).tolist(), strict=True):
        print(f"  {name:12s} {accuracy:6.1%}")
    wrong = int((evaluation.predictions != evaluation.labels).sum())
    print(
        f"test accuracy {evaluation.accuracy:.2%} on {len(evaluation.labels):,} images of {data.name} "
        f"({wrong:,} misclassified, loss {evaluation.loss:.4f}, {note})"
    )


def _write_figures(
    folder: Path, model: nn.Module, data: ImageData, evaluation: Evaluation, history: History | None
) -> None:
    from evalib.report import write_figures

    start = time.perf_counter()
    files = write_figures(folder, model, data, evaluation, history=history)
    print(f"figures, {time.perf_counter() - start:.0f} s:")
    for name, path in files.items():
        print(f"  {name:10s} {path}")


def _trained(arguments: argparse.Namespace) -> tuple[nn.Module, ImageData, SingleDevice, Path, Checkpoint | None]:
    """The network, data, device, folder and checkpoint that `eval` and `cam` name."""
    from evalib.checkpoint import is_checkpoint, load_model, load_weights
    from evalib.models import build_model
    from evalib.rundir import CHECKPOINT_NAME

    if (arguments.run_dir is None) == (arguments.checkpoint is None):
        raise ValueError("Name either a run directory or --checkpoint FILE.")
    path = Path(arguments.checkpoint or Path(arguments.run_dir) / CHECKPOINT_NAME)
    if arguments.run_dir and not path.exists():
        raise FileNotFoundError(
            f"{arguments.run_dir} is no run directory: it has no {CHECKPOINT_NAME}. `evalib train` makes one."
        )
    checkpoint: Checkpoint | None = None
    model: nn.Module
    if arguments.run_dir or is_checkpoint(path):
        model, checkpoint = load_model(path)
    else:
        model = build_model(arguments.model)
        load_weights(model, path)
    dataset = arguments.dataset or ("sample" if checkpoint and checkpoint.dataset == "cifar10-sample" else "cifar10")
    execution = _execution(arguments.device)
    return execution.prepare(model), _load_data(dataset, arguments.data_dir), execution, path.parent, checkpoint


def _eval(arguments: argparse.Namespace) -> int:
    from evalib.history import History

    model, data, execution, folder, checkpoint = _trained(arguments)
    evaluation = _evaluate(model, data, execution)
    _print_evaluation(evaluation, data, f"after epoch {checkpoint.epoch}" if checkpoint else "foreign weights")
    history = History.from_dict(checkpoint.metrics) if checkpoint else None
    if arguments.run_dir:
        _write_figures(folder, model, data, evaluation, history)
    return 0


def _cam(arguments: argparse.Namespace) -> int:
    from evalib import plots
    from evalib.report import explain_file, explain_mistakes, explain_test_images

    model, data, execution, folder, _ = _trained(arguments)
    if arguments.image:
        figure, probabilities = explain_file(model, data, arguments.image)
        for index in probabilities.argsort(descending=True).tolist():
            print(f"{probabilities[index]:6.1%}  {data.classes[index]}")
    elif arguments.index:
        figure = explain_test_images(model, data, arguments.index)
    else:
        from evalib.mistakes import find_mistakes

        mistakes = find_mistakes(_evaluate(model, data, execution)).by_confidence()
        figure = explain_mistakes(model, data, mistakes.head(arguments.count))
    print(plots.save_figure(figure, Path(arguments.output or folder / "cam.png")))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from evalib.runtime import doctor

    for name, value in doctor(arguments.device).items():
        print(f"{name:14s} {value}")
    return 0
