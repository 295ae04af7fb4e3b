"""`evalib app`: the page of a run, until Ctrl-C."""

from __future__ import annotations

import argparse


def app(arguments: argparse.Namespace) -> int:
    """`evalib app`."""
    from evalib.app import open_app

    page = open_app(
        arguments.run_dir,
        data_dir=arguments.data_dir,
        device=arguments.device,
        port=arguments.port,
        share=arguments.share,
        browser=not arguments.no_browser,
    )
    try:
        print(f"{page.local_url}  the page; Ctrl-C ends it", flush=True)
        if arguments.share:
            print(page.share_url or "No public link could be had: the page is for this machine only.", flush=True)
        page.block_thread()
    finally:
        page.close(verbose=False)
    return 0
