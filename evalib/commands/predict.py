"""`evalib predict`: the classes of images, and on request their maps."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalib.commands.trained import load_trained

if TYPE_CHECKING:
    from evalib.prediction import Prediction


def predict(arguments: argparse.Namespace) -> int:
    """`evalib predict`: the exit code is 1 if no image could be decoded."""
    from evalib.classifier import Classifier
    from evalib.prediction import Prediction, Predictions

    arguments.run_dir, paths = None, arguments.paths
    if arguments.checkpoint is None:
        arguments.run_dir, *paths = paths
    if not paths:
        raise ValueError("Name image files or folders of them, after the run directory if there is no --checkpoint.")
    model, checkpoint, _, _ = load_trained(arguments)
    folder = Path(arguments.cam) if arguments.cam else None
    options: dict[str, Any] = {"top": arguments.top, "cam": folder is not None, "method": arguments.method}
    told, entries = [], []
    for found in Classifier(model, checkpoint).predict_each(paths, **options):
        told.append(Prediction(found.name, found.classes, found.probabilities, found.reason))  # without its map
        file = _written(found, folder)
        entries.append(_entry(found, file))
        if not arguments.json:
            print(f"{found}  -> {file}" if file else found, flush=True)
    predictions = Predictions(tuple(told))
    if arguments.json:
        print(json.dumps(entries, indent=1))
    elif predictions.summary:
        print(predictions.summary)
    return 0 if len(predictions.skipped) < len(told) else 1


def _written(found: Prediction, folder: Path | None) -> Path | None:
    """The file of a map, if there is one to write; no file is written over."""
    from evalib.data.sources import stem_of
    from evalib.image_prediction import ImagePrediction

    if folder is None or not isinstance(found, ImagePrediction):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = f"{stem_of(found.name)}_cam", 1
    while (path := folder / (f"{stem}-{number}.png" if number > 1 else f"{stem}.png")).exists():
        number += 1
    return found.save_overlay(path)


def _entry(found: Prediction, file: Path | None) -> dict[str, Any]:
    """A prediction as JSON has it."""
    from evalib.image_prediction import ImagePrediction

    if found.reason:
        return {"name": found.name, "reason": found.reason}
    pairs = zip(found.classes, found.probabilities, strict=True)
    entry: dict[str, Any] = {"name": found.name, "classes": [{"name": n, "probability": p} for n, p in pairs]}
    if file and isinstance(found, ImagePrediction):
        about = {"class": found.explained, "layer": found.layer, "method": found.method, "flat": found.is_flat}
        entry["cam"] = {"file": str(file), **about}
    return entry
