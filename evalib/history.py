"""History: what every epoch of a run gave, saved as it grows."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalib.files import replacing


@dataclass(frozen=True)
class EpochRecord:
    """Figures of one epoch. Losses are cross-entropies per image, accuracies fractions in [0, 1].

    Attributes:
        epoch: from 1.
        train_loss: over the augmented training images while the weights change, without penalties and smoothing.
        train_accuracy: likewise.
        test_loss: over all test images after the epoch.
        test_accuracy: likewise.
        seconds: of the training part of the epoch.
        images_per_second: training images per second of it.
        lr: learning rate after the epoch.
        val_loss: over the validation images, if there are any.
        val_accuracy: likewise.
        test_accuracy_views: over all test images with test-time augmentation, if the recipe asks for it; last epoch.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float
    lr: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    test_accuracy_views: float | None = None


@dataclass
class History:
    """The epochs of a run so far.

    Attributes:
        epochs: one record per finished epoch.
        interrupted: whether the run was stopped (Ctrl-C) before its last epoch.
        device: the hardware of the last call of `fit`, in words.
        train_images: number of training images.
        test_images: number of test images.
        input: how the training images came to the device, in words.
        notes: what a person should know: from where the run continued, what was damaged or could not be saved.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    interrupted: bool = False
    device: str = ""
    train_images: int = 0
    test_images: int = 0
    input: str = ""
    notes: list[str] = field(default_factory=list)

    def column(self, name: str) -> list[Any]:
        """One figure over all epochs, as `column("test_accuracy")`."""
        known = [field.name for field in dataclasses.fields(EpochRecord)]
        if name not in known:
            raise ValueError(f"Unknown figure {name!r}. Known: {', '.join(known)}.")
        return [getattr(record, name) for record in self.epochs]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> History:
        """Read what `to_dict` gave."""
        try:
            epochs = [EpochRecord(**record) for record in values["epochs"]]
            return cls(**{**values, "epochs": epochs, "interrupted": bool(values["interrupted"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"Not a history of evalib ({error}).") from error

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what `save` wrote; ValueError if it is damaged."""
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (json.JSONDecodeError, ValueError) as error:
            raise ValueError(f"{path} is not a history of evalib ({error}).") from error
