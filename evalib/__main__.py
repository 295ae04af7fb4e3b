"""`python -m evalib` is the command line of evalib.cli."""

from __future__ import annotations

import sys

from evalib.cli import main

if __name__ == "__main__":
    sys.exit(main())
