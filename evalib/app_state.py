"""What the page of a run knows and computes, without its widgets: maps of a choice, mistakes of the test images.

>>> state = load_state("runs/demo")
>>> explain_choice(state, "photo.jpg", "cat", "layer3", "layer_cam")    # probabilities, map, overlay
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalib import contrast
from evalib.classifier import Classifier, load
from evalib.contrast import Contrast, contrast_mistakes
from evalib.data.image_data import ImageData
from evalib.data.sources import Source
from evalib.html_facts import RunFacts, network_name, read_run
from evalib.html_mistakes import image_name
from evalib.image_prediction import ImagePrediction
from evalib.map_makers import WHOLE_NETWORK
from evalib.mistakes import Mistakes, find_mistakes

TOP = 5  # classes whose probabilities are shown
SHOWN = 60  # mistakes of a gallery, at most
_THUMBNAIL = 144  # pixels a side, at least, of an image of the gallery

# What each method is called, and in one line what it does: for readers who do not know the papers.
METHOD_WORDS: Mapping[str, tuple[str, str]] = {
    "grad_cam": ("Grad-CAM", "The usual choice: features weighted by how much they raise the class."),
    "grad_cam_plus_plus": ("Grad-CAM++", "Like Grad-CAM; finds several objects of a class better."),
    "xgrad_cam": ("XGrad-CAM", "Like Grad-CAM; features weigh more where they are active."),
    "hires_cam": ("HiResCAM", "Place by place: shows exactly what the last layer used."),
    "element_wise_grad_cam": ("Element-wise Grad-CAM", "Place by place, positive evidence only."),
    "layer_cam": ("Layer-CAM", "Place by place; gives sharp maps at early layers too."),
    "eigen_cam": ("Eigen-CAM", "The strongest pattern of the features; the same for every class."),
    "eigen_grad_cam": ("Eigen-Grad-CAM", "The strongest pattern of what raises the class."),
    "seg_eigen_cam": ("Seg-Eigen-CAM", "Like Eigen-Grad-CAM, with the sign settled."),
    "kpca_cam": ("KPCA-CAM", "The strongest curved pattern of the features; the same for every class."),
    "fem": ("FEM", "Where features are unusually strong; the same for every class."),
    "random_cam": ("Random weights", "A control: a map that is better than this one tells something."),
    "score_cam": ("Score-CAM (slow)", "Asks the network about the image behind each feature."),
    "ablation_cam": ("Ablation-CAM", "Asks the network what it would say without each feature."),
    "finer_cam": ("Finer-CAM", "What tells the class from the three most like it."),
    "shapley_cam": ("Shapley-CAM", "Grad-CAM with the curvature of the class's score."),
    "sess": ("SESS (slow)", "Grad-CAM of many parts at many scales, blended."),
    "cam": ("Classic CAM", "Reads the last layer, whatever layer is chosen."),
    "refine_cam": ("Refine-CAM", "Combines all layers, whatever layer is chosen."),
    "full_grad": ("Full-Grad", "Gradients of all layers, whatever layer is chosen."),
}
# Those whose maps of two classes can be compared, for mistakes.
CONTRAST_METHODS = tuple(method for method in METHOD_WORDS if method in contrast.METHODS)


@dataclass(eq=False)
class AppState:
    """A run as its page shows it.

    Attributes:
        folder: the run directory.
        classifier: its network.
        data: its data, where they were given.
        data_dir: where its data are; None for where they were.
    """

    folder: Path
    classifier: Classifier
    data: ImageData | None = None
    data_dir: str | Path | None = None

    @property
    def name(self) -> str:
        """What the page calls the run."""
        return self.folder.resolve().name

    @property
    def summary(self) -> str:
        """The network and its data in a sentence."""
        about = self.classifier.checkpoint
        size = f"{about.image_size} \u00d7 {about.image_size}"
        return f"{network_name(about.recipe)}, trained on {about.dataset}, sees images of {size} pixels."

    @cached_property
    def facts(self) -> RunFacts:
        """The run with its test images and what the network says of them: computed when they are first asked for.

        Raises:
            FileNotFoundError, ValueError: as `evalib.html_facts.read_run`.
        """
        device = self.classifier.device
        return read_run(self.folder, data=self.data, data_dir=self.data_dir, device=device)

    @cached_property
    def mistakes(self) -> Mistakes:
        """All mistakes of the test images, the surest first.

        Raises:
            FileNotFoundError: if there are no test images; the message says what to do.
        """
        if self.facts.test is None:
            raise FileNotFoundError(self.facts.missing)
        return find_mistakes(self.facts.test.evaluation).by_confidence()


def load_state(
    run: str | Path,
    *,
    data: ImageData | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
) -> AppState:
    """A run, ready to be explored.

    Args:
        run: a run directory; of a checkpoint alone there are no mistakes to show.
        data: its data; None loads them as the checkpoint says, when the mistakes are asked for.
        data_dir: where the data are; None for where they were.
        device: where to compute; None takes the best one here.

    Raises:
        FileNotFoundError, ValueError: as `evalib.classifier.load`.
    """
    return AppState(Path(run), load(run, device), data, data_dir)


# --- one image ---------------------------------------------------------------------------------------------------


def explain_choice(
    state: AppState,
    source: Source,
    class_name: str | None = None,
    layer: str | None = None,
    method: str = "grad_cam",
    *,
    top: int = TOP,
) -> ImagePrediction:
    """What the network says of an image, and where it sees a class: `.probabilities`, `.cam` and `.overlay()`.

    Args:
        state: of the page.
        source: as `evalib.classifier.Classifier.predict` takes one image.
        class_name: whose map; None takes the prediction's.
        layer: where; None takes the last one.
        method: a key of `METHOD_WORDS`.
        top: how many classes.

    Raises:
        ValueError: if the image cannot be read, or the choice gives no map; in words for the page.
    """
    options = {"class_name": class_name, "layer": layer, "method": method}
    (found,) = state.classifier.predict_each([source], top=top, cam=True, **options)  # type: ignore[arg-type]
    if not isinstance(found, ImagePrediction):
        raise ValueError(f"{short_name(found.name)} cannot be read as an image: {found.reason}")
    return found


def short_name(name: str) -> str:
    """The last part of a path: where a page keeps its files is of no interest."""
    return name.rpartition("/")[2] or name


def class_choices(state: AppState, probabilities: Tensor) -> list[tuple[str, str]]:
    """(label, name) of every class, the most probable first.

    Args:
        state: of the page.
        probabilities: (C,) of all classes.
    """
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return [
        (f"{state.classifier.classes[index]}  \u00b7  {100 * float(probabilities[index]):.1f} %",
         state.classifier.classes[index])
        for index in order
    ]  # fmt: skip


def layer_choices(state: AppState) -> list[tuple[str, str]]:
    """(label, name) of every layer that is worth a map, from fine to coarse."""
    layers = state.classifier.layers
    ends = {layers[0]: " (fine)", layers[-1]: " (coarse)"}
    return [(layer + ends.get(layer, ""), layer) for layer in layers]


def method_choices(methods: tuple[str, ...] = tuple(METHOD_WORDS)) -> list[tuple[str, str]]:
    """(label, key) of methods."""
    return [(METHOD_WORDS[method][0], method) for method in methods]


# --- mistakes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MistakeView:
    """One mistake with its maps.

    Attributes:
        name: what the user knows the image by.
        photo: (3, S, S) uint8, what the network saw.
        true: the class that it is.
        predicted: the class that the network took it for.
        probabilities: (C,) float32, of all classes.
        maps: evidence for the predicted and for the true class at one layer, on one scale.
    """

    name: str
    photo: Tensor
    true: int
    predicted: int
    probabilities: Tensor
    maps: Contrast


def chosen_mistakes(state: AppState, true: str | None = None, predicted: str | None = None) -> Mistakes:
    """The mistakes of a class, or that were taken for one, the surest first; None takes all classes.

    Raises:
        ValueError: if there is no such class.
        FileNotFoundError: as `AppState.mistakes`.
    """
    found = state.mistakes
    for column, wanted in (("true", true), ("predicted", predicted)):
        if wanted:
            if wanted not in state.classifier.classes:
                raise ValueError(f"There is no class {wanted!r}.")
            found = found.select(getattr(found, column) == state.classifier.classes.index(wanted))
    return found


def mistake_choices(state: AppState, column: str) -> list[tuple[str, str]]:
    """(label, name) of the classes that mistakes are of, with their number; the first stands for all of them.

    Args:
        state: of the page.
        column: "true" or "predicted".
    """
    labels = getattr(state.mistakes, column)
    counts = torch.bincount(labels, minlength=len(state.classifier.classes)).tolist()
    named = zip(state.classifier.classes, counts, strict=True)
    return [("all classes", ""), *((f"{name} ({count:,})", name) for name, count in named if count)]


def explain_mistake(state: AppState, index: int, layer: str | None = None, method: str = "hires_cam") -> MistakeView:
    """Where the network saw the class that it named wrongly, and where the true one.

    Args:
        state: of the page.
        index: of the test image, one of `state.mistakes.indices`.
        layer: where; None takes the last one.
        method: one of `CONTRAST_METHODS`.

    Raises:
        ValueError: if the image is no mistake, or the choice gives no map.
        FileNotFoundError: as `AppState.mistakes`.
    """
    one = state.mistakes.select(state.mistakes.indices == index)
    facts = state.facts
    if len(one) != 1 or facts.model is None or facts.data is None or facts.test is None:
        raise ValueError(f"Test image {index} is no mistake of this network.")
    layers = None if method in WHOLE_NETWORK else layer or state.classifier.layers[-1]
    maps = contrast_mistakes(facts.model, facts.data, one, layers, method=method, progress=False)
    photo = facts.data.test.images[one.indices][0]
    probabilities = facts.test.evaluation.probabilities[index]
    name = image_name(facts.data.test, index)
    return MistakeView(name, photo, int(one.true[0]), int(one.predicted[0]), probabilities, maps)


def thumbnails(state: AppState, indices: list[int]) -> list[tuple[np.ndarray, str]]:
    """Test images (H, W, 3) uint8 by their indices, with captions; small ones are enlarged pixel by pixel.

    Raises:
        FileNotFoundError: as `AppState.mistakes`.
    """
    mistakes, classes, data = state.mistakes, state.classifier.classes, state.facts.data
    shown = []
    for index in indices if data else []:
        one = mistakes.select(mistakes.indices == index)
        pixels = data.test.images[one.indices][0].permute(1, 2, 0).numpy()  # type: ignore[union-attr]
        factor = -(-_THUMBNAIL // len(pixels))
        caption = f"{classes[int(one.predicted[0])]}, not {classes[int(one.true[0])]}"
        shown.append((pixels.repeat(factor, axis=0).repeat(factor, axis=1), caption))
    return shown
