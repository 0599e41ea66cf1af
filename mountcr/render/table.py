# SPDX-License-Identifier: Apache-2.0
"""A table: a line of titles and rows of cells, as aligned text, or for a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Row", "Table"]


@dataclass(frozen=True)
class Row:
    """Cells, as many as there are titles, and a style in rich's words for terminals."""

    cells: tuple[str, ...]
    style: str = ""


@dataclass
class Table:
    """Titles and rows."""

    titles: tuple[str, ...]
    rows: list[Row] = field(default_factory=list[Row])

    def add(self, *cells: str, style: str = "") -> None:
        """Put a row at the end."""
        self.rows.append(Row(cells, style))

    def plain(self) -> str:
        """Give the table as text with a newline at its end; the last column is not padded."""
        lines = [self.titles, *(row.cells for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        widths[-1] = 0
        return "".join("  ".join(map(str.ljust, cells, widths)).rstrip() + "\n" for cells in lines)

    def rich(self) -> RichTable:
        """Give the table for rich."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for title in self.titles:
            table.add_column(title, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row.cells), style=row.style)
        return table
