"""What a network says of one image, and the class activation map that shows why, as a value that can be looked at."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalib.figures import gallery, show_image
from evalib.files import replacing
from evalib.plots import overlay_cam
from evalib.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SMALLEST = 224  # pixels a side of a saved overlay: smaller inputs are enlarged


@dataclass(frozen=True, eq=False)
class ImagePrediction(Prediction):
    """A prediction with the image and, where it was asked for, a map. In a notebook it shows its figure.

    Attributes:
        image: (3, S, S) uint8, what the network saw.
        all_probabilities: (C,) float32, of all classes in the network's order.
        cam: (S, S) float32 in [0, 1], where the image spoke for `explained`; None if no map was asked for.
        explained: the class that the map is about.
        layer: the layer that it comes from, as `evalib.cam.cam_layers` names it, or "all layers".
        method: how it was made, a key of `evalib.explain.METHODS`.
    """

    image: Tensor = torch.zeros(3, 1, 1, dtype=torch.uint8)  # noqa: RUF009, never written to
    all_probabilities: Tensor = torch.zeros(0)  # noqa: RUF009
    cam: Tensor | None = None
    explained: str = ""
    layer: str = ""
    method: str = ""

    @property
    def is_flat(self) -> bool:
        """Whether there is a map in which no place speaks for the class more than others."""
        return self.cam is not None and not bool(self.cam.any())

    def __str__(self) -> str:
        about = f"  (map of {self.explained}: {self.layer}, {self.method})" if self.cam is not None else ""
        return super().__str__() + about + (": flat, no place speaks for it" if self.is_flat else "")

    __repr__ = __str__  # not all pixels

    def overlay(self) -> np.ndarray:
        """(S, S, 3) uint8, the map in jet colors over the image; the plain image where the map is flat.

        Raises:
            ValueError: if no map was asked for.
        """
        if self.cam is None:
            raise ValueError("This prediction has no map: call `predict` with `cam=True`.")
        photo = self.image.permute(1, 2, 0).numpy()
        if self.is_flat:
            return photo.copy()
        return (255 * overlay_cam(self.image.float() / 255, self.cam)).round().astype(np.uint8)

    def plot(self) -> Figure:
        """The image with its most probable classes, and beside it the map laid over it."""
        tiles = 1 if self.cam is None else 2
        lines = [f"{name} {share:.1%}" for name, share in zip(self.classes, self.probabilities, strict=True)]
        figure, axes = gallery(tiles, tiles, title_lines=max(2, len(lines)), size=2.6)
        show_image(axes[0], self.image.permute(1, 2, 0).numpy())
        axes[0].set_title("\n".join(lines), fontsize=9, parse_math=False)
        if self.cam is not None:
            show_image(axes[1], self.overlay(), note="no evidence" if self.is_flat else "")
            title = f"what speaks for {self.explained}\n{self.layer}, {self.method}"
            axes[1].set_title(title, fontsize=9, parse_math=False)
        return figure

    def save_overlay(self, path: str | Path) -> Path:
        """Write `overlay()` as a PNG file of at least 224 pixels a side; the path of the file.

        Raises:
            ValueError: if no map was asked for.
            OSError: if the file cannot be written; an older one is then untouched.
        """
        pixels = self.overlay()
        factor = -(-_SMALLEST // len(pixels))
        picture = Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
        with replacing(Path(path)) as temporary:
            picture.save(temporary, format="PNG")
        return Path(path)

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.plot().savefig(stream, format="png", bbox_inches="tight")
        return stream.getvalue()
