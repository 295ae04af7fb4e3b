"""`evalib report`: one HTML file about a run, or that compares several."""

from __future__ import annotations

import argparse


def report(arguments: argparse.Namespace) -> int:
    """`evalib report`."""
    from evalib.html_report import write_report

    path = write_report(
        arguments.run_dirs,
        arguments.output,
        data_dir=arguments.data_dir,
        device=arguments.device,
        mistakes=arguments.mistakes,
        maps=not arguments.no_maps,
        scores=arguments.scores,
    )
    print(f"{path}  {path.stat().st_size / 1e6:.2f} MB, one file: open it in a browser")
    return 0
