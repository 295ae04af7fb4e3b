"""What became of the trials of one part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Trials:
    """Counts of one part.

    Attributes:
        name: of the part.
        trials: how many there were.
        finished: those that came to their end.
        identical: those whose end was looked at, and was the expected one to the last bit.
        lost: what went wrong, a line each.
        seconds: that they took.
        seen: other counts, by what was counted.
    """

    name: str
    trials: int = 0
    finished: int = 0
    identical: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seen: dict[str, Any] = field(default_factory=dict)

    def count(self, what: str, more: int = 1) -> None:
        """Count one more of something."""
        if more:
            self.seen[what] = self.seen.get(what, 0) + int(more)
