"""`evalib app`: the page of a run, until Ctrl-C."""

from __future__ import annotations

import argparse
import time


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
        print(f"{page.local_url}  the page of {arguments.run_dir}; Ctrl-C ends it", flush=True)
        if arguments.share:
            print(page.share_url or "No public link could be had: the page is for this machine only.", flush=True)
        while page.is_running:  # `page.block_thread()` does the same, and has its own word for Ctrl-C
            time.sleep(0.2)
    except KeyboardInterrupt:
        print()
    finally:
        page.close(verbose=False)
    return 0
