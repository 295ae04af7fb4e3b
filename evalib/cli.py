"""The command line: `evalib COMMAND ...`, also as `python -m evalib`."""

from __future__ import annotations

import argparse
import os
import sys

import evalib
from evalib import commands
from evalib.recipes import GEOMETRIES, MODEL_NAMES, PATHS, TEST_VIEWS, recipes

DATASETS = ("cifar10", "sample", "cars", "folder")
EXPORT_FORMATS = ("onnx", "torch_export", "safetensors")
DEVICE_HELP = "cpu, cuda, mps (default: the best one here)"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="evalib", description="Train an image classifier, see where it errs, and see why."
    )
    parser.add_argument("--version", action="version", version=f"evalib {evalib.__version__}")
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = added.add_parser("demo", help="train on the shipped sample within minutes and write all figures")
    demo.set_defaults(run=commands.train, dataset="sample", recipe="demo", data_dir=None, bare_step=False)
    _add_training(demo, run_dir="runs/demo")

    _add_train(added.add_parser("train", help="train by a recipe into a run directory; called again, it continues"))

    evaluate = added.add_parser("eval", help="test a run or a checkpoint: accuracy, classes, mistakes")
    evaluate.set_defaults(run=commands.evaluate)
    _add_trained(evaluate)
    _add_views(evaluate)

    _add_cam(added.add_parser("cam", help="maps of a run's mistakes, of chosen test images, or of one image"))
    _add_rank(added.add_parser("rank", help="which method at which layer to trust, measured on test images"))
    _add_predict(added.add_parser("predict", help="the classes of image files"))
    _add_report(added.add_parser("report", help="one HTML file about a run, or that compares several"))
    _add_app(added.add_parser("app", help="a page to explore a run: your images, its mistakes"))
    _add_export(added.add_parser("export", help="the network as a file for other programs, read back and compared"))

    data = added.add_parser("data", help="what there is to choose from, and downloads")
    data.add_argument("dataset", choices=("cars",))
    data.add_argument("--list", action="store_true", help="brands, types and years with their counts")
    _add_data(data)
    data.set_defaults(run=commands.data)

    doctor = added.add_parser("doctor", help="what is wrong here and what to do; versions, device, disk space")
    doctor.add_argument("--device", help=DEVICE_HELP)
    doctor.set_defaults(run=commands.doctor)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=DATASETS, help="sample: 6,000 CIFAR-10 images shipped with evalib")
    parser.add_argument(
        "folder", nargs="?", metavar="DIR", help="of your own images, after `folder`: DIR/<class>/*.jpg"
    )
    recipe_help = "default: fast, for cars cars-alexnet, for a folder chosen by what is in it"
    parser.add_argument("--recipe", choices=tuple(recipes), help=recipe_help)
    parser.add_argument("--bare-step", action="store_true", help="after every epoch also time the model step alone")
    parser.set_defaults(run=commands.train)
    _add_data(parser)
    _add_cars(parser)
    fraction_help = "of the images of each class of DIR, where it has no folders train and test (default: 0.2)"
    parser.add_argument("--test-fraction", type=float, metavar="F", help=fraction_help)
    _add_training(parser, run_dir=None)
    _add_changes(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where the dataset is or shall be downloaded to (default: data)"
    )
    parser.add_argument("--download", action="store_true", help="download Stanford Cars if it is not there")


def _add_cars(parser: argparse.ArgumentParser) -> None:
    cars = parser.add_argument_group("Stanford Cars", "which cars; several values each, all conditions must hold")
    cars.add_argument("--car-brand", nargs="+", metavar="BRAND", help="as BMW or 'Land Rover'")
    cars.add_argument("--car-type", nargs="+", metavar="TYPE", help="as Sedan or SUV")
    cars.add_argument("--car-year", nargs="+", metavar="YEAR", help="as 2012")
    target_help = "what to tell apart (default: %(default)s, that is brand, model, type and year)"
    cars.add_argument("--target", choices=("class", "brand", "type"), default="class", help=target_help)
    _add_damaged(cars)


def _add_damaged(parser: argparse._ActionsContainer) -> None:
    damaged_help = (
        "look through all image files of cars first: stop at damaged ones, naming them all, or skip them (folder: skip)"
    )
    parser.add_argument("--damaged", choices=("stop", "skip"), help=damaged_help)


def _add_training(parser: argparse.ArgumentParser, run_dir: str | None) -> None:
    run_dir_help = f"default: {run_dir or 'runs/DATASET-RECIPE-seedN, of a folder runs/DIR-seedN'}"
    parser.add_argument("--run-dir", "--checkpoints-dir", metavar="RUN", default=run_dir, help=run_dir_help)
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--device", help=DEVICE_HELP)
    workers_help = "processes for decoding and augmentation (default: one per core, at most 4)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers_help)
    _add_keeping(parser)


def _add_keeping(parser: argparse.ArgumentParser) -> None:
    kept = parser.add_argument_group("keeping the run")
    mirror_help = "a second folder, such as one of Google Drive: everything is copied there in the background"
    kept.add_argument("--mirror-dir", metavar="DIR", help=mirror_help)
    steps_help = "save within epochs too, every N steps (default: after every epoch)"
    kept.add_argument("--save-steps", type=int, metavar="N", help=steps_help)
    best_help = "also keep best.pt, of the best validation accuracy; needs a recipe with validation images"
    kept.add_argument("--keep-best", action="store_true", help=best_help)
    accept_help = "continue a run with other settings, and say which; otherwise that is refused"
    kept.add_argument("--accept-changes", action="store_true", help=accept_help)


def _add_changes(parser: argparse.ArgumentParser) -> None:
    changes = parser.add_argument_group("settings instead of the recipe's")
    changes.add_argument("--model", choices=MODEL_NAMES)
    weights_help = "what the network begins with: none (random), imagenet, or a file"
    changes.add_argument("--weights", metavar="FILE", help=weights_help)
    changes.add_argument(
        "--frozen-layers", type=int, metavar="K", help="first convolution layers that stay as they are"
    )
    changes.add_argument("--batch-size", type=int, metavar="N")
    changes.add_argument("--lr", type=float, help="learning rate")
    changes.add_argument("--width", type=int, metavar="N", help="channels of a ResNet's first stage")
    changes.add_argument("--geometry", choices=GEOMETRIES, help="how images get the network's size")
    changes.add_argument("--image-size", type=int, metavar="PIXELS", help="height and width of the network's input")
    path_help = "how images come to the device: resident (whole batches augmented there), or workers"
    changes.add_argument("--path", choices=PATHS, help=path_help)
    _add_views(changes)
    compile_help = "run the network through torch.compile"
    changes.add_argument("--compile", action="store_true", default=None, help=compile_help)


def _add_views(parser: argparse._ActionsContainer) -> None:
    views_help = "views of each test image, averaged for a second, test-time augmented figure"
    parser.add_argument("--test-views", type=int, choices=TEST_VIEWS, help=views_help)


def _add_trained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", nargs="?", metavar="RUN", help="a run directory")
    _add_network(parser)
    parser.add_argument("--dataset", choices=DATASETS, help="test on this instead of what it was trained on")
    _add_data(parser)
    _add_damaged(parser)


def _add_network(parser: argparse.ArgumentParser) -> None:
    checkpoint_help = (
        "a checkpoint, or weights of kuangliu/pytorch-cifar, DL_CIFAR or CAM_Stanford_Cars, instead of a run"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help=checkpoint_help)
    model_help = "the network of foreign weights (default: %(default)s)"
    parser.add_argument("--model", choices=MODEL_NAMES, default="resnet18", help=model_help)
    parser.add_argument("--device", help=DEVICE_HELP)


def _add_cam(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.cam)
    _add_trained(parser)
    which = parser.add_mutually_exclusive_group()
    count_help = "the N misclassified test images that the network is surest of (default: %(default)s)"
    which.add_argument("--count", type=int, default=10, metavar="N", help=count_help)
    which.add_argument("--index", type=int, nargs="+", metavar="I", help="test images by their index, from 0")
    image_help = "one image: a file, or a test image by its index; probabilities, and the map of one class"
    which.add_argument("--image", metavar="FILE|I", help=image_help)
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="whose map (default: the predicted class's)")
    method_help = (
        "how maps are made, as grad_cam, layer_cam or score_cam (default: grad_cam; cam, the classic one, with --image)"
    )
    parser.add_argument("--method", metavar="NAME", help=method_help)
    output_help = "file to write (default: cam.png beside the checkpoint); with --image OUTPUT.png and OUTPUT_cam.png"
    parser.add_argument("--output", help=output_help)


def _add_rank(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.rank)
    _add_trained(parser)
    count_help = "about so many test images, of all classes alike (default: %(default)s)"
    parser.add_argument("--count", type=int, default=50, metavar="N", help=count_help)
    method_help = "methods to try (default: grad_cam, grad_cam_plus_plus, hires_cam, layer_cam)"
    parser.add_argument("--method", nargs="+", metavar="NAME", help=method_help)
    parser.add_argument("--layer", nargs="+", metavar="NAME", help="layers to try (default: five of the network)")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.predict)
    paths_help = "a run directory, unless --checkpoint is given; then images: files, folders, http(s) addresses"
    parser.add_argument("paths", nargs="+", metavar="PATH", help=paths_help)
    top_help = "how many classes of each image (default: %(default)s)"
    parser.add_argument("--top", type=int, default=3, metavar="N", help=top_help)
    parser.add_argument("--cam", metavar="DIR", help="write the map of each image's prediction over it into DIR")
    parser.add_argument("--method", metavar="NAME", default="grad_cam", help="how maps are made (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of lines")
    _add_network(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.report)
    parser.add_argument("run_dirs", nargs="+", metavar="RUN", help="a run directory; several are compared")
    parser.add_argument("--output", metavar="FILE", help="default: report.html in RUN, of several comparison.html")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data are (default: where they were)")
    mistakes_help = "cards in the gallery of mistakes, at most (default: %(default)s)"
    parser.add_argument("--mistakes", type=int, default=48, metavar="N", help=mistakes_help)
    parser.add_argument("--no-maps", action="store_true", help="no class activation maps, and no measure of them")
    scores_help = "test images to measure the maps on (default: 16; of large ones as many as take some seconds)"
    parser.add_argument("--scores", type=int, metavar="N", help=scores_help)
    parser.add_argument("--device", help=DEVICE_HELP)


def _add_app(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.app)
    parser.add_argument("run_dir", metavar="RUN", help="a run directory")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data are (default: where they were)")
    port_help = "where the page listens, on this machine only (default: the first free one from 7860 on)"
    parser.add_argument("--port", type=int, metavar="N", help=port_help)
    share_help = "also make a public link, through gradio's servers: whoever has it can use the page"
    parser.add_argument("--share", action="store_true", help=share_help)
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    parser.add_argument("--device", help=DEVICE_HELP)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.export)
    parser.add_argument("run_dir", nargs="?", metavar="RUN", help="a run directory")
    parser.add_argument("--checkpoint", metavar="FILE", help="a checkpoint of evalib, instead of a run")
    parser.add_argument("--format", choices=EXPORT_FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", help="file to write (default: model.* beside the checkpoint)")
    size_help = "height and width of the input (default: what it was trained with)"
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help=size_help)
    one_help = "take one image at a time (default: any number)"
    parser.add_argument("--one-image", action="store_true", help=one_help)
    raw_help = "take uint8 pixels, and normalize them inside the file"
    parser.add_argument("--include-preprocessing", action="store_true", help=raw_help)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 after an error, 2 for unknown words, 130 after Ctrl-C."""
    # Before torch is loaded: its threads wait for each other by spinning, which takes the cores from whatever else runs
    # on the machine, and then from themselves. Beside one busy process training is 1.7 times as fast so.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    parsed = build_parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed) or 0)
    except (ValueError, OSError, FloatingPointError, ImportError, MemoryError) as error:
        if os.environ.get("EVALIB_TRACEBACK"):
            raise
        _report(f"evalib: {error}\n(EVALIB_TRACEBACK=1 shows where.)")
        return 1
    except KeyboardInterrupt:
        _report("evalib: stopped.")
        return 130


def _report(message: str) -> None:
    from evalib.distributed import speaks_first

    if speaks_first():
        print(message, file=sys.stderr)
