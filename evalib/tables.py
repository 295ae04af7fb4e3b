"""Tables as values: `print` one, or let a notebook show it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Tabular(ABC):
    """A value that shows itself as a table: printed, at a prompt and in notebooks."""

    @abstractmethod
    def table(self) -> Table:
        """The table."""

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return self.table()._repr_markdown_()


@dataclass(frozen=True, eq=False)
class Table:
    """Rows that share their columns.

    Attributes:
        rows: at least one dictionary, column to value, all with the same columns; None stands for a value that is not
            there and shows as "n/a".
        formats: how numbers are written, by column, as {"accuracy": "{:.2%}"}; every other column is words.
        notes: lines below the table.
    """

    rows: Sequence[Mapping[str, Any]]
    formats: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        columns, cells = list(self.rows[0]), self._cells()
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if name in self.formats else cell.ljust(width)
                for name, cell, width in zip(columns, line, widths, strict=True)
            ).rstrip()
            for line in (columns, ["-" * width for width in widths], *cells)
        ]
        return "\n".join([*lines, *self.notes])

    def _repr_markdown_(self) -> str:
        columns = list(self.rows[0])
        rule = ["---:" if name in self.formats else "---" for name in columns]
        lines = [
            " | ".join(["", *(cell.replace("|", r"\|") for cell in line), ""]).strip()
            for line in (columns, rule, *self._cells())
        ]
        return "\n".join([*lines, "", *self.notes])

    def _cells(self) -> list[list[str]]:
        return [[cell(value, self.formats.get(name, "{}")) for name, value in row.items()] for row in self.rows]


def cell(value: Any, form: str = "{}") -> str:
    """A value as a table shows it."""
    return "n/a" if value is None else form.format(value)
