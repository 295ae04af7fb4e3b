"""`evalib export`: a trained network as a file for other programs."""

from __future__ import annotations

import argparse


def export(arguments: argparse.Namespace) -> int:
    """`evalib export`."""
    from evalib.export import export

    if (arguments.run_dir is None) == (arguments.checkpoint is None):
        raise ValueError("Name either a run directory or --checkpoint FILE.")
    exported = export(
        arguments.checkpoint or arguments.run_dir,
        arguments.output,
        format=arguments.format,
        image_size=arguments.image_size,
        dynamic_batch=not arguments.one_image,
        include_preprocessing=arguments.include_preprocessing,
    )
    print(exported)
    return 0
