"""A trained classifier, ready to be asked: `load(run)`, then `predict` of any image.

>>> classifier = evalib.load("runs/demo")
>>> classifier.predict("photo.jpg")  # classes, probabilities, and a map that shows why
>>> print(classifier.predict("photos/"))  # a line for each image of a folder
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalib.cam_layers import cam_layers
from evalib.checkpoint import Checkpoint
from evalib.data.decoding import ImageError, one_line
from evalib.data.sources import Source, is_path, name_of, read_source
from evalib.explain import METHODS, explain_with_logits
from evalib.image_prediction import ImagePrediction
from evalib.map_makers import WHOLE_NETWORK
from evalib.prediction import Prediction, Predictions, class_index, image_paths, input_geometry, predict_files
from evalib.remote_images import RemoteImageError
from evalib.runtime import eval_mode, pick_device
from evalib.trained import load_trained
from evalib.transforms import normalize


def load(path: str | Path, device: str | torch.device | None = None, *, network: str = "resnet18") -> Classifier:
    """A trained classifier; also as `evalib.load`.

    Args:
        path: a run directory, a checkpoint of evalib, or weights of another project (see `evalib.trained`).
        device: where to compute; None takes the best one here.
        network: whose weights those of another project are.

    Raises:
        FileNotFoundError: if there is no such file, or no checkpoint in the folder.
        ValueError: if the file is damaged, its weights do not fit, or the device is not there.

    Example:
        >>> print(evalib.load("runs/demo").predict("photo.jpg"))
    """
    model, checkpoint = load_trained(path, network)
    return Classifier(model.to(pick_device(device)), checkpoint)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network, and what is needed to show it any image.

    Attributes:
        model: the network, in evaluation mode as `load` gives it; calls leave it as they found it.
        checkpoint: its classes, preprocessing, recipe and figures.
    """

    model: nn.Module
    checkpoint: Checkpoint

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.checkpoint.classes

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are worth a map, the last one is what `predict` takes."""
        return tuple(cam_layers(self.model))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def predict(
        self,
        source: Source | Iterable[Source],
        *,
        top: int = 3,
        cam: bool | None = None,
        method: str = "grad_cam",
        layer: str | None = None,
        class_name: str | None = None,
    ) -> ImagePrediction | Predictions:
        """The most probable classes of one image, and a map; or of the images of a folder or a list.

        Args:
            source: a path; an http(s) address (at most 20 MB and 30 s); bytes of an image file; an image of Pillow;
                an array (H, W, 3), (H, W, 4) or (H, W) or a tensor (3, H, W), both uint8. Or a folder, or a list of
                any of these; there an image that cannot be had is skipped, with the reason.
            top: how many classes.
            cam: whether to make maps; None makes one for a single image, and none for a folder or a list.
            method: how, a key of `evalib.explain.METHODS`.
            layer: a key of `layers` or another module's name; None takes the last one. "cam", "refine_cam" and
                "full_grad" have a map for the whole network and do not read it.
            class_name: the class to explain; None takes each image's prediction.

        Returns:
            Of one image an `ImagePrediction`, with the image, the map and `plot()`; else `Predictions`, whose `images`
            are in the order of the files. `print` either.

        Raises:
            FileNotFoundError, OSError: if there is no such image, or an address gives none.
            TypeError: if a source is of another kind.
            ValueError: if an image cannot be decoded, or an argument names nothing that there is.
        """
        options: dict[str, Any] = {"top": top, "method": method, "layer": layer, "class_name": class_name}
        folder = isinstance(source, str | Path) and is_path(source) and Path(source).is_dir()
        if folder or isinstance(source, list | tuple):
            sources: Any = [source] if folder else source
            return Predictions(tuple(self.predict_each(sources, cam=bool(cam), **options)))
        self._check(top, method, class_name)
        image: Any = source
        pixels = read_source(image, input_geometry(self.checkpoint))
        return self._explained(name_of(image), pixels, cam is not False, **options)

    def predict_each(
        self,
        sources: Iterable[Source],
        *,
        top: int = 3,
        cam: bool = False,
        method: str = "grad_cam",
        layer: str | None = None,
        class_name: str | None = None,
    ) -> Iterator[Prediction]:
        """The predictions of many images one after the other, so that maps of thousands need not fit into memory.

        Args:
            sources: as `predict` takes each; a folder stands for its image files.
            top, method, layer, class_name: as for `predict`.
            cam: whether to make maps.

        Yields:
            An `ImagePrediction` for each image if `cam`, or if it is no file; else a `Prediction`, also for an image
            that cannot be had, with the reason.

        Raises:
            TypeError, ValueError: as `predict`, but not for an image that cannot be had.
        """
        self._check(top, method, class_name)
        options: dict[str, Any] = {"top": top, "method": method, "layer": layer, "class_name": class_name}
        geometry = input_geometry(self.checkpoint)
        for are_paths, group in groupby(sources, is_path):
            if are_paths and not cam:  # in batches, decoded by worker processes
                files: Any = list(group)
                yield from predict_files(self.model, self.checkpoint, files, top=top).images
                continue
            listed: Any = group
            for source in image_paths(listed) if are_paths else group:
                try:
                    pixels = read_source(source, geometry)
                except (ImageError, RemoteImageError) as error:
                    reason = error.failure.reason if isinstance(error, ImageError) else error.reason
                except (OSError, ValueError) as error:
                    reason = one_line(str(error))
                else:
                    yield self._explained(name_of(source), pixels, cam, **options)
                    continue
                yield Prediction(name_of(source), reason=reason)

    def _check(self, top: int, method: str, class_name: str | None) -> None:
        if top < 1:
            raise ValueError(f"`top` needs at least 1 class: got {top}.")
        if method not in METHODS:
            raise ValueError(f"`method` needs one of {', '.join(map(repr, METHODS))}: got {method!r}.")
        if class_name is not None:
            class_index(class_name, self.classes)

    def _explained(
        self, name: str, pixels: Tensor, cam: bool, top: int, method: str, layer: str | None, class_name: str | None
    ) -> ImagePrediction:
        """The prediction of (3, S, S) uint8 pixels; one pass gives the probabilities and the map."""
        about = self.checkpoint
        images = normalize(pixels[None], about.mean, about.std).to(self.device)
        chosen = None if class_name is None else class_index(class_name, self.classes)
        if cam:
            read = layer if layer is not None and method not in WHOLE_NETWORK else self.layers[-1]
            whole = method in ("refine_cam", "full_grad")
            layers = None if whole else read
            cams, logits = explain_with_logits(self.model, images, layers, chosen, method=method)
            shown: tuple[Tensor, str, str] | None = cams[0, 0].float().cpu(), "all layers" if whole else read, method
        else:
            shown = None
            with eval_mode(self.model), torch.no_grad():
                logits = self.model(images)
        shares = logits[0].float().softmax(dim=0).cpu()
        values, indices = shares.topk(min(top, len(self.classes)))
        names = tuple(self.classes[index] for index in indices.tolist())
        found = ImagePrediction(name, names, tuple(values.tolist()), "", pixels, shares)
        if shown is None:
            return found
        explained = names[0] if chosen is None else self.classes[chosen]
        return replace(found, cam=shown[0], layer=shown[1], method=shown[2], explained=explained)
