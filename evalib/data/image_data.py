"""What a dataset is to this library: classes, splits of uint8 images, and the statistics to normalize by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from evalib.data.image_files import DecodedFiles, ImageFiles, ResizedImages
from evalib.origin import Origin as Origin
from evalib.recipes import Recipe
from evalib.runtime import derived_seed
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Channels, Geometry

Images: TypeAlias = Tensor | DecodedFiles | ImageFiles | ResizedImages

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# RGB mean and standard deviation of all 60,000 images on the scale [0, 1], as system B has them
CIFAR10_MEAN = (0.4919, 0.4827, 0.4472)
CIFAR10_STD = (0.2470, 0.2434, 0.2616)


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split, and their labels.

    Attributes:
        images: (N, 3, H, W) uint8, in memory or made when asked for: `images[indices]` is a tensor either way.
        labels: (N,) int64.
        boxes: (N, 4) float32, left, top, right, bottom of the object in pixels of the image as stored; all 0 where it
            is not known; None if the dataset has none.
        masks: (N, H, W) bool, the pixels of the object in the image as stored; None if the dataset has none.
    """

    images: Images
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.images.shape) != 4 or self.images.shape[1] != 3 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"`images` must be (N, 3, H, W) uint8: got {tuple(self.images.shape)} {self.images.dtype}."
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise ValueError(
                f"`labels` must be ({len(self.images)},) int64, one per image: "
                f"got {tuple(self.labels.shape)} {self.labels.dtype}."
            )
        if self.boxes is not None and self.boxes.shape != (len(self.images), 4):
            raise ValueError(f"`boxes` must be ({len(self.images)}, 4), one per image: got {tuple(self.boxes.shape)}.")
        if self.masks is not None and self.masks.shape != (len(self.images), *self.images.shape[2:]):
            raise ValueError(f"`masks` must be (N, H, W), one per image: got {tuple(self.masks.shape)}.")

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> Split:
        """The images at `indices` (M,) int64, in that order."""
        images = self.images[indices] if isinstance(self.images, Tensor) else self.images.select(indices)
        boxes, masks = (None if known is None else known[indices] for known in (self.boxes, self.masks))
        return Split(images, self.labels[indices], boxes, masks)

    @property
    def geometry(self) -> Geometry:
        """How the images are brought to the size of the network's input."""
        return Geometry() if isinstance(self.images, Tensor) else self.images.geometry

    def with_geometry(self, geometry: Geometry) -> Split:
        """The same images, seen through another geometry; masks, which lie on the images as stored, are left behind."""
        if isinstance(self.images, Tensor):
            return (
                self
                if geometry.kind == "as_is"
                else Split(ResizedImages(self.images, geometry), self.labels, self.boxes)
            )
        return Split(self.images.with_geometry(geometry), self.labels, self.boxes)

    def input_boxes(self, indices: Tensor | None = None) -> Tensor:
        """(M, 4) float32 boxes in pixels of the network's input, all 0 where there is none.

        Raises:
            ValueError: if the dataset has no boxes.
        """
        if self.boxes is None:
            raise ValueError("This dataset has no boxes.")
        indices = torch.arange(len(self)) if indices is None else indices
        images = ResizedImages(self.images, Geometry()) if isinstance(self.images, Tensor) else self.images
        return self.geometry.boxes(self.boxes[indices], images.sizes(indices))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A dataset: small images in memory, or files decoded as needed.

    Attributes:
        name: what the dataset is called.
        classes: names of the classes; label i is class i.
        train: training images.
        test: test images.
        mean: RGB mean on the scale [0, 1].
        std: RGB standard deviation on the scale [0, 1].
        val: validation images, split off the training images; never part of the test images.
        source: in one line, where the images came from.
        filters: what was chosen of a larger dataset, as {"brand": ("BMW",)}.
        skipped: images that were left out because they cannot be decoded, each as "name: reason".
        origin: what loads the same images again; None for data made in Python.

    Raises:
        ValueError: if a split is empty, a label lies outside the classes, or the splits differ in image size.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: Channels
    std: Channels
    val: Split | None = None
    source: str = ""
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    origin: Origin | None = None

    def __post_init__(self) -> None:
        for name, split in self.splits().items():
            if len(split) == 0:
                raise ValueError(f"The {name} split of {self.name!r} has no image; it needs at least one.")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"Labels of the {name} split of {self.name!r} must lie in 0..{len(self.classes) - 1} "
                    f"({len(self.classes)} classes): got {low}..{high}."
                )
            if split.images.shape[2:] != self.train.images.shape[2:]:
                raise ValueError(
                    f"All splits of {self.name!r} need one image size: train has {tuple(self.train.images.shape[2:])}, "
                    f"{name} has {tuple(split.images.shape[2:])}."
                )

    def splits(self) -> dict[str, Split]:
        """The splits that are there, by name: train, test and, if split off, val."""
        found = {"train": self.train, "test": self.test}
        return found if self.val is None else {**found, "val": self.val}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Height of the images in pixels."""
        return self.train.images.shape[2]

    @property
    def geometry(self) -> Geometry:
        """How images are brought to the size of the network's input."""
        return self.train.geometry

    def prepared_for(self, recipe: Recipe) -> ImageData:
        """The same images as a recipe wants to see them: its geometry, for all splits, and its statistics."""
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if recipe.statistics == "imagenet" else (self.mean, self.std)
        geometry = Geometry(recipe.geometry, recipe.image_size)
        if geometry.kind == "as_is":
            geometry = self.geometry
        return dataclasses.replace(
            self,
            train=self.train.with_geometry(geometry),
            test=self.test.with_geometry(geometry),
            val=None if self.val is None else self.val.with_geometry(geometry),
            mean=mean,
            std=std,
        )

    def split_validation(self, fraction: float, seed: int) -> ImageData:
        """Move about `fraction` of the training images of each class into `val`; the test images stay untouched.

        Args:
            fraction: in (0, 1).
            seed: the same seed moves the same images.

        Raises:
            ValueError: if there is a validation split already, or a class has too few images for both splits.
        """
        if self.val is not None:
            raise ValueError(f"{self.name!r} has a validation split of {len(self.val)} images already.")
        if not 0 < fraction < 1:
            raise ValueError(f"`fraction` must lie in (0, 1): got {fraction}.")
        generator = torch.Generator().manual_seed(derived_seed(seed, "validation"))
        chosen = torch.zeros(len(self.train), dtype=torch.bool)
        for label, name in enumerate(self.classes):
            members = (self.train.labels == label).nonzero().flatten()
            count = round(fraction * len(members))
            if len(members) and not 0 < count < len(members):
                raise ValueError(
                    f"Class {name!r} has {len(members)} training images: too few to split off {fraction:.0%} of them."
                )
            chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
        return dataclasses.replace(
            self,
            train=self.train.select((~chosen).nonzero().flatten()),
            val=self.train.select(chosen.nonzero().flatten()),
        )

    def take(self, *, train: int | None = None, test: int | None = None) -> ImageData:
        """A smaller dataset: the first images of each class, in all about `train` and `test` of them.

        A number that the split does not exceed leaves the split as it is.
        """
        smaller_train = _first_of_each_class(self.train, train, self.num_classes)
        smaller_test = _first_of_each_class(self.test, test, self.num_classes)
        if smaller_train is self.train and smaller_test is self.test:
            return self
        source = f"{self.source}, of it {len(smaller_train):,} training and {len(smaller_test):,} test images"
        origin = None if self.origin is None else self.origin.taking(train, test)
        return dataclasses.replace(self, train=smaller_train, test=smaller_test, source=source, origin=origin)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """(N, 4) float32 boxes around masks (N, H, W) bool: left, top, right, bottom, the latter two behind the last pixel.

    Raises:
        ValueError: if a mask is empty.
    """
    from torchvision import ops

    if not masks.flatten(1).any(dim=1).all():
        raise ValueError("`masks` needs an object in every image: one is empty.")
    return ops.masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0], device=masks.device)


def _first_of_each_class(split: Split, count: int | None, num_classes: int) -> Split:
    if count is None or count >= len(split):
        return split
    each = max(1, count // num_classes)
    kept = [(split.labels == label).nonzero().flatten()[:each] for label in range(num_classes)]
    return split.select(torch.cat(kept).sort().values)
