"""`evalib eval` and `evalib cam`: what is done with a run or a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from evalib.commands import inventory
from evalib.commands.results import evaluated, execution_on, print_augmented, print_evaluation, write_all_figures

if TYPE_CHECKING:
    from torch import nn

    from evalib.checkpoint import Checkpoint
    from evalib.data import ImageData
    from evalib.execution import SingleDevice


def load_trained(arguments: argparse.Namespace) -> tuple[nn.Module, Checkpoint, SingleDevice, Path]:
    """The network, what is known of it, the device and the folder that `eval`, `cam` or `predict` names."""
    from evalib import trained
    from evalib.distributed import launched_processes

    if launched_processes() > 1:
        raise ValueError(f"`evalib {arguments.command}` is for one process: start it without a launcher.")
    if (arguments.run_dir is None) == (arguments.checkpoint is None):
        raise ValueError("Name either a run directory or --checkpoint FILE.")
    path = arguments.checkpoint or arguments.run_dir
    model, checkpoint = trained.load_trained(path, arguments.model)
    execution = execution_on(arguments.device)
    return execution.prepare(model), checkpoint, execution, trained.checkpoint_file(path).parent


def test_data(arguments: argparse.Namespace, checkpoint: Checkpoint) -> ImageData:
    """The data of a checkpoint, chosen and prepared as for its training; or another dataset that is named."""
    from evalib.data.origins import data_of

    root, download, damaged = arguments.data_dir, arguments.download, arguments.damaged
    data = data_of(checkpoint, root, kind=arguments.dataset, download=download, damaged=damaged)
    inventory.print_skipped(data)
    return data


def evaluate(arguments: argparse.Namespace) -> int:
    """`evalib eval`."""
    from evalib.history import History

    model, checkpoint, execution, folder = load_trained(arguments)
    data = test_data(arguments, checkpoint)
    evaluation = evaluated(model, data, execution)
    note = f"after epoch {checkpoint.epoch}" if checkpoint.epoch else "foreign weights"
    print_evaluation(evaluation, data.classes, data.name, note)
    if arguments.test_views:
        print_augmented(evaluated(model, data, execution, arguments.test_views).accuracy, arguments.test_views)
    if arguments.run_dir:
        write_all_figures(folder, model, data, evaluation, History.from_dict(checkpoint.metrics))
    return 0


def cam(arguments: argparse.Namespace) -> int:
    """`evalib cam`."""
    from evalib import plots
    from evalib.report import explain_mistakes, explain_test_images

    model, checkpoint, execution, folder = load_trained(arguments)
    if arguments.image:
        return _cam_of_image(arguments, model, checkpoint, folder)
    data, method = test_data(arguments, checkpoint), arguments.method or "grad_cam"
    if arguments.index:
        figure = explain_test_images(model, data, arguments.index, method=method)
    else:
        from evalib.mistakes import find_mistakes

        mistakes = find_mistakes(evaluated(model, data, execution)).by_confidence()
        figure = explain_mistakes(model, data, mistakes.head(arguments.count), method=method)
    print(plots.save_figure(figure, Path(arguments.output or folder / "cam.png")))
    return 0


def _cam_of_image(arguments: argparse.Namespace, model: nn.Module, checkpoint: Checkpoint, folder: Path) -> int:
    """An image file needs the checkpoint alone; a test image by its index needs the data, and has a real class."""
    from evalib.report import explain_image, read_image, write_explanation

    real = None
    if arguments.image.isdecimal() and not Path(arguments.image).exists():
        data = test_data(arguments, checkpoint)
        index = int(arguments.image)
        if index >= len(data.test):
            raise ValueError(f"--image must name a test image in 0..{len(data.test) - 1}, or a file: got {index}.")
        pixels, real = data.test.images[index], int(data.test.labels[index])
    else:
        pixels = read_image(arguments.image, checkpoint)
    method = arguments.method or "cam"
    explanation = explain_image(model, pixels, checkpoint, class_name=arguments.class_name, method=method)
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
