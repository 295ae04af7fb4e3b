"""`python -m tests.torture [PART ...] [--trials N] [--seed N] [--output FILE]`: a table of trials and losses."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.torture.damage import damage
from tests.torture.fits import fits
from tests.torture.hostile import hostile
from tests.torture.images import images
from tests.torture.interrupts import interrupts
from tests.torture.kills import kills
from tests.torture.trials import Trials
from tests.torture.workers import workers

PARTS = {
    "kills": (kills, 50),
    "interrupts": (interrupts, 30),
    "damage": (damage, 200),
    "hostile": (hostile, 150),
    "images": (images, 10_000),
    "fits": (fits, 50),
    "workers": (workers, 9),
}


HEAD = f"{'part':12s} {'trials':>7s} {'finished':>9s} {'identical':>10s} {'lost':>5s} {'seconds':>8s}"


def line(result: Trials) -> str:
    """One row of the table, and what was counted in rows below it."""
    identical = str(result.identical) if result.identical else "-"
    row = f"{result.name:12s} {result.trials:7,d} {result.finished:9,d} {identical:>10s}"
    row += f" {len(result.lost):5d} {result.seconds:8.0f}"
    return "\n".join([row, *(f"    {count:6,} {what}" for what, count in result.seen.items())])


def main(words: list[str] | None = None) -> int:
    """Run the parts; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    counts = ", ".join(f"{name} {count}" for name, (_, count) in PARTS.items())
    parser.add_argument("--trials", type=int, help=f"of each part (default: {counts})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the table as JSON to this file")
    arguments = parser.parse_args(words)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    results = []
    print(HEAD, flush=True)
    for name in arguments.parts or PARTS:
        if name not in PARTS:
            parser.error(f"There is no part {name!r}. Known: {', '.join(PARTS)}.")
        part, count = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            results.append(part(Path(folder), arguments.trials or count, arguments.seed))
        print(line(results[-1]), flush=True)
        for fault in results[-1].lost:
            print(f"  LOST {fault}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return int(any(result.lost for result in results))


if __name__ == "__main__":
    sys.exit(main())
