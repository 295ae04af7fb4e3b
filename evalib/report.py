"""The figures of a run, written beside its checkpoint, and the explanation of a single image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evalib import plots
from evalib.cam import cam_layers, classic_cam, empty_maps, target_layer
from evalib.cam_maps import logits_of
from evalib.checkpoint import load_model
from evalib.data.image_data import ImageData
from evalib.engine import Evaluation
from evalib.explain import explain, explain_with_logits
from evalib.files import replacing
from evalib.history import History
from evalib.metrics import confusion_matrix
from evalib.mistakes import Mistakes, find_mistakes
from evalib.prediction import InputFormat, class_index
from evalib.prediction import read_image as read_image
from evalib.rundir import latest_checkpoint
from evalib.runtime import eval_mode, pick_device
from evalib.transforms import denormalize, normalize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explain_mistakes(model: nn.Module, data: ImageData, mistakes: Mistakes, *, method: str = "grad_cam") -> Figure:
    """Maps of misclassified test images: two rows an image, for the predicted and for the true class.

    Args:
        model: any classifier, see `evalib.cam.cam_layers`.
        data: whose test images the mistakes are.
        mistakes: which images to show; take a `head` of ten or so.
        method: a key of `evalib.explain.METHODS`.

    Raises:
        ValueError: if there is no mistake to show, or no such method.
    """
    if len(mistakes) == 0:
        raise ValueError("No misclassified image to explain: `mistakes` is empty.")
    titles = []
    for true_idx, predicted_idx, probability in zip(
        mistakes.true, mistakes.predicted, mistakes.probability, strict=True
    ):
        predicted_title = f"predicted {data.classes[predicted_idx]}\n{100 * probability:.0f} % · its map"
        titles.append((predicted_title, f"true {data.classes[true_idx]}\nits map"))
    classes = [mistakes.predicted, mistakes.true]
    return _cam_figure(model, data, mistakes.images(data.test), classes, titles, method)


def explain_test_images(
    model: nn.Module, data: ImageData, indices: Sequence[int], *, method: str = "grad_cam"
) -> Figure:
    """Maps of chosen test images, misclassified or not: for the predicted and for the true class.

    Raises:
        ValueError: if there is no index, one lies outside the test images, or there is no such method.
    """
    chosen = _checked_indices(indices, data)
    images = _input(model, data, data.test.images[chosen])
    probability, predicted = _probabilities(model, images).max(dim=1)
    shown = Mistakes(chosen, data.test.labels[chosen], predicted, probability)
    return explain_mistakes(model, data, shown, method=method)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network says of one image, and why.

    Attributes:
        image: (3, S, S) float32 in [0, 1], the network's input, denormalized.
        cam: (S, S) float32 in [0, 1], the class activation map of `class_idx`.
        class_idx: the class that is explained.
        probabilities: (C,) float32.
    """

    image: Tensor
    cam: Tensor
    class_idx: int
    probabilities: Tensor

    @property
    def predicted(self) -> int:
        """The predicted class."""
        return int(self.probabilities.argmax())

    @property
    def is_flat(self) -> bool:
        """Whether the map has no place that speaks for the class more than others."""
        return bool(empty_maps(self.cam[None, None])[0, 0])


def explain_image(
    model: nn.Module, pixels: Tensor, about: InputFormat, *, class_name: str | None = None, method: str = "cam"
) -> Explanation:
    """The probabilities of one image, and the map of one class that the last layer gives.

    Args:
        model: any classifier, see `evalib.cam.cam_layers`.
        pixels: (3, S, S) uint8, as from `read_image`, or an image of a split.
        about: the network's data or checkpoint.
        class_name: whose map; None takes the predicted class.
        method: a key of `evalib.explain.METHODS`; "cam" is classic CAM (Zhou et al. 2016).

    Raises:
        ValueError: if there is no such class or method, or the network has no such map.
    """
    images = _input(model, about, pixels[None])
    chosen = None if class_name is None else class_index(class_name, about.classes)
    layer = None if method == "cam" else target_layer(model, images)[0]
    cams, logits = explain_with_logits(model, images, layer, chosen, method=method)
    probabilities = logits[0].float().softmax(dim=0).cpu()
    class_idx = int(probabilities.argmax()) if chosen is None else chosen
    return Explanation(denormalize(images[0].cpu(), about.mean, about.std), cams[0, 0].cpu(), class_idx, probabilities)


def write_explanation(explanation: Explanation, stem: str | Path) -> tuple[Path, Path]:
    """Write STEM.png, the network's input, and STEM_cam.png, the map laid over it; returns both paths."""
    from matplotlib.image import imsave

    stem = Path(str(stem).removesuffix(".png"))
    paths = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}_cam.png")
    photo = explanation.image.permute(1, 2, 0).double().numpy()
    overlay = photo if explanation.is_flat else plots.overlay_cam(explanation.image, explanation.cam)
    for path, picture in zip(paths, (photo, overlay), strict=True):
        with replacing(path) as temporary:
            imsave(temporary, np.round(picture * 255).astype(np.uint8))
    return paths


def explain_with_runs(
    run_dirs: Mapping[str, str | Path], data: ImageData, indices: Sequence[int], *, columns: int = 5
) -> Figure:
    """The same test images through the networks of several runs: for each the classic CAM of its predicted class.

    Args:
        run_dirs: run directories by the name to show.
        data: the dataset, as loaded; every network sees it through its own geometry and statistics.
        indices: test images.
        columns: tiles to a row, the image itself included.

    Raises:
        FileNotFoundError: if a directory holds no checkpoint.
        ValueError: if an index lies outside, or a network tells other classes apart.
    """
    chosen = _checked_indices(indices, data)
    models = {}
    for name, folder in run_dirs.items():
        model, checkpoint = load_model(latest_checkpoint(folder))
        if checkpoint.classes != data.classes:
            raise ValueError(f"{folder} was trained on other classes ({checkpoint.dataset}) than {data.name!r} has.")
        pixels = data.prepared_for(checkpoint.recipe).test.images[chosen]
        model = model.to(pick_device())
        images = _input(model, checkpoint, pixels)
        probability, predicted = _probabilities(model, images).max(dim=1)
        cams = classic_cam(model, images)[0].cpu()
        models[name] = plots.ModelCams(pixels.float() / 255, cams, predicted, probability)
    titles = [f"true: {data.classes[label]}" for label in data.test.labels[chosen].tolist()]
    photos = data.test.images[chosen].float() / 255
    return plots.plot_model_grid(models, photos, image_titles=titles, classes=data.classes, columns=columns)


def _checked_indices(indices: Sequence[int], data: ImageData) -> Tensor:
    if not indices or not 0 <= min(indices) <= max(indices) < len(data.test):
        raise ValueError(
            f"`indices` must name at least one test image in 0..{len(data.test) - 1}: got {list(indices)}."
        )
    return torch.tensor(list(indices))


def _input(model: nn.Module, about: InputFormat, pixels: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 images, normalized and on the network's device."""
    return normalize(pixels, about.mean, about.std).to(next(model.parameters()).device)


def _probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """(N, C) float32 on the CPU, of images as from `_input`."""
    with eval_mode(model), torch.no_grad():
        return logits_of(model(images), len(images)).softmax(dim=1).cpu()


def _cam_figure(
    model: nn.Module, data: ImageData, raw: Tensor, classes: Sequence[Tensor], titles: Sequence[Sequence[str]],
    method: str,
) -> Figure:  # fmt: skip
    """A row per image of (M, 3, H, W) uint8 and class: `classes` holds (M,) tensors, `titles` a title for each."""
    images = _input(model, data, raw)
    layers = list(cam_layers(model, images))
    maps = [explain(model, images, layers, class_idx, method=method).cpu() for class_idx in classes]
    layer_names = layers[-len(maps[0]) :]  # methods with one map for all layers: the last
    cams = torch.stack(maps, dim=2).flatten(1, 2)  # K times (L, M, H, W) -> (L, M K, H, W), an image's maps together
    shown = (raw.float() / 255).repeat_interleave(len(classes), dim=0)
    row_titles = [title for image_titles in titles for title in image_titles]
    return plots.plot_cams(shown, cams, layer_names=layer_names, row_titles=row_titles)


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
