"""`python -m tests.torture [PART ...] [--trials N] [--seed N] [--output FILE]`: a table of trials and losses."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.torture.damage import damage, hostile, images
from tests.torture.fits import fits
from tests.torture.kills import interrupts, kills
from tests.torture.trials import Trials

PARTS = {
    "kills": (kills, 50),
    "interrupts": (interrupts, 30),
    "damage": (damage, 200),
    "hostile": (hostile, 30),
    "images": (images, 10_000),
    "fits": (fits, 50),
}


def line(result: Trials) -> str:
    """One row of the table."""
    counts = ", ".join(f"{count} {what}" for what, count in sorted(result.seen.items()))
    row = f"{result.name:12s} {result.trials:7d} {result.finished:9d} {len(result.lost):5d} {result.seconds:8.0f}"
    return f"{row}  {counts}"


def main(words: list[str] | None = None) -> int:
    """Run the parts; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    counts = ", ".join(f"{name} {count}" for name, (_, count) in PARTS.items())
    parser.add_argument("--trials", type=int, help=f"of each part (default: {counts})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the table as JSON to this file")
    arguments = parser.parse_args(words)
    results = []
    print(f"{'part':12s} {'trials':>7s} {'finished':>9s} {'lost':>5s} {'seconds':>8s}")
    for name in arguments.parts or PARTS:
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
