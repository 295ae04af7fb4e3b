"""`evalib predict`: the classes of image files."""

from __future__ import annotations

import argparse

from evalib.commands.trained import load_trained


def predict(arguments: argparse.Namespace) -> int:
    """`evalib predict`: the exit code is 1 if no image could be decoded."""
    from evalib.prediction import predict_files

    arguments.run_dir, paths = None, arguments.paths
    if arguments.checkpoint is None:
        arguments.run_dir, *paths = paths
    if not paths:
        raise ValueError("Name image files or folders of them, after the run directory if there is no --checkpoint.")
    model, checkpoint, _, _ = load_trained(arguments)
    predictions = predict_files(model, checkpoint, paths, top=arguments.top)
    print(predictions)
    return 0 if len(predictions.skipped) < len(predictions.images) else 1
