"""Where a dataset came from, as plain values: what a run has to remember to find its images again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("cifar10", "sample", "cars", "folder")


@dataclass(frozen=True)
class Origin:
    """Which function made a dataset, and how it was called.

    Attributes:
        kind: one of `KINDS`.
        root: the folder, as it was given; empty where there is none.
        options: other arguments, as values of JSON.
        take: how many training and test images were kept, as `ImageData.take` has it; None keeps all.
    """

    kind: str
    root: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    take: tuple[int | None, int | None] = (None, None)

    def taking(self, train: int | None, test: int | None) -> Origin:
        """The same origin with fewer images kept: the first of the first ones are the first ones."""
        pairs = zip(self.take, (train, test), strict=True)
        smaller = [min((count for count in pair if count is not None), default=None) for pair in pairs]
        return dataclasses.replace(self, take=(smaller[0], smaller[1]))

    def to_dict(self) -> dict[str, Any]:
        """The origin as plain values, which `Origin.from_dict` reads."""
        return {"kind": self.kind, "root": self.root, "options": json.loads(json.dumps(dict(self.options))),
                "take": list(self.take)}  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Origin:
        """Read what `to_dict` made.

        Raises:
            ValueError: if it is nothing of that kind.
        """
        try:
            kind, root, options, take = (values[name] for name in ("kind", "root", "options", "take"))
            train, test = take
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("its 'origin' must have kind, root, options and take") from error
        if kind not in KINDS or not isinstance(root, str) or not isinstance(options, dict):
            raise ValueError(f"its 'origin' must name one of {', '.join(KINDS)}, a folder and options")
        if not all(count is None or (type(count) is int and count > 0) for count in (train, test)):
            raise ValueError("its 'origin' must keep a positive number of images, or all")
        return cls(kind, root, options, (train, test))
