"""The figures of a run: curves, gallery of mistakes, confusion matrix and Grad-CAM, written beside its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evalib import plots
from evalib.cam import cam_layers, grad_cam
from evalib.data.folder import stack_images
from evalib.data.image_data import ImageData
from evalib.engine import Evaluation
from evalib.history import History
from evalib.metrics import confusion_matrix
from evalib.mistakes import Mistakes, find_mistakes
from evalib.runtime import eval_mode
from evalib.transforms import normalize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explain_mistakes(model: nn.Module, data: ImageData, mistakes: Mistakes) -> Figure:
    """Grad-CAM of misclassified test images: two rows an image, for the predicted and for the true class.

    Args:
        model: a network with layer1..layer4.
        data: whose test images the mistakes are.
        mistakes: which images to show; take a `head` of ten or so.

    Raises:
        ValueError: if there is no mistake to show.
    """
    if len(mistakes) == 0:
        raise ValueError("No misclassified image to explain: `mistakes` is empty.")
    titles = []
    for true_idx, predicted_idx, probability in zip(
        mistakes.true, mistakes.predicted, mistakes.probability, strict=True
    ):
        predicted_title = f"predicted {data.classes[predicted_idx]}\n{100 * probability:.0f} % · its map"
        titles.append((predicted_title, f"true {data.classes[true_idx]}\nits map"))
    return _cam_figure(model, data, mistakes.images(data.test), [mistakes.predicted, mistakes.true], titles)


def explain_test_images(model: nn.Module, data: ImageData, indices: Sequence[int]) -> Figure:
    """Grad-CAM of chosen test images, misclassified or not: for the predicted and for the true class.

    Raises:
        ValueError: if there is no index, or one lies outside the test images.
    """
    if not indices or not 0 <= min(indices) <= max(indices) < len(data.test):
        raise ValueError(
            f"`indices` must name at least one test image in 0..{len(data.test) - 1}: got {list(indices)}."
        )
    chosen = torch.tensor(list(indices))
    probability, predicted = _probabilities(model, data, data.test.images[chosen]).max(dim=1)
    return explain_mistakes(model, data, Mistakes(chosen, data.test.labels[chosen], predicted, probability))


def explain_file(model: nn.Module, data: ImageData, path: str | Path) -> tuple[Figure, Tensor]:
    """Grad-CAM of an image file for its predicted class, and the probabilities of all classes.

    Args:
        model: a network with layer1..layer4.
        data: the data that the network was trained on: classes, statistics, image size.
        path: any image file that Pillow reads; resized to the network's input.

    Returns:
        The figure, and (C,) float32 probabilities in the order of the classes.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it cannot be decoded.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no image file {path}.")
    raw = stack_images([(Path(path), str(path))], data.image_size)
    probabilities = _probabilities(model, data, raw)[0]
    best = int(probabilities.argmax())
    title = (f"predicted {data.classes[best]}\n{100 * probabilities[best]:.0f} % · its map",)
    return _cam_figure(model, data, raw, [torch.tensor([best])], [title]), probabilities


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _probabilities(model: nn.Module, data: ImageData, raw: Tensor) -> Tensor:
    with eval_mode(model), torch.no_grad():
        return model(normalize(raw, data.mean, data.std).to(_device(model))).softmax(dim=1).cpu()


def _cam_figure(
    model: nn.Module, data: ImageData, raw: Tensor, classes: Sequence[Tensor], titles: Sequence[Sequence[str]]
) -> Figure:
    """A row per image of (M, 3, H, W) uint8 and class: `classes` holds (M,) tensors, `titles` a title for each."""
    layers = cam_layers(model)
    images = normalize(raw, data.mean, data.std).to(_device(model))
    maps = [grad_cam(model, images, list(layers.values()), class_idx=class_idx).cpu() for class_idx in classes]
    cams = torch.stack(maps, dim=2).flatten(1, 2)  # K times (L, M, H, W) -> (L, M K, H, W), an image's maps together
    shown = (raw.float() / 255).repeat_interleave(len(classes), dim=0)
    row_titles = [title for image_titles in titles for title in image_titles]
    return plots.plot_cams(shown, cams, layer_names=list(layers), row_titles=row_titles)


def write_figures(
    folder: Path,
    model: nn.Module,
    data: ImageData,
    evaluation: Evaluation,
    *,
    history: History | None = None,
    count: int = 10,
) -> dict[str, Path]:
    """Write the figures of a run as PNG files.

    Args:
        folder: where to.
        model: the trained network.
        data: its data.
        evaluation: of the network over the test images.
        history: for the curves; without it, or without an epoch in it, there are none.
        count: misclassified images in the gallery and in the Grad-CAM figure, those that the network is surest of.

    Returns:
        The files by name: samples, confusion and, where there is something to show, curves, mistakes, cam.
    """
    confusion = confusion_matrix(evaluation.predictions, evaluation.labels, data.num_classes)
    figures = {
        "samples": plots.plot_samples(data),
        "confusion": plots.plot_confusion_matrix(confusion, data.classes),
    }
    if history is not None and history.epochs:
        figures["curves"] = plots.plot_history(history)
    mistakes = find_mistakes(evaluation).by_confidence()  # in dataset order a folder's first ones are all of one class
    if len(mistakes):
        figures["mistakes"] = plots.plot_mistakes(data, mistakes.head(count))
        figures["cam"] = explain_mistakes(model, data, mistakes.head(count))
    return {name: plots.save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()}
