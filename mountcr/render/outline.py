# SPDX-License-Identifier: Apache-2.0
"""An outline: lines with lines below them, as plain text, or as a tree on a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.tree import Tree

__all__ = ["Outline"]


@dataclass
class Outline:
    """A line, a style in rich's words for terminals, and the outlines below it."""

    text: str
    style: str = ""
    below: list[Outline] = field(default_factory=list["Outline"])

    def add(self, text: str, style: str = "") -> Outline:
        """Put a line below and give it."""
        child = Outline(text, style)
        self.below.append(child)
        return child

    def extend(self, lines: Iterable[str]) -> None:
        """Put lines below."""
        for line in lines:
            self.add(line)

    def plain(self) -> str:
        """Give the outline as text with a newline at its end."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield self.text
        for number, child in enumerate(self.below, 1):
            last = number == len(self.below)
            first, *rest = child._lines()  # noqa: SLF001  # of its own kind
            yield f"{'└─' if last else '├─'} {first}"
            for line in rest:
                yield f"{'  ' if last else '│ '} {line}"

    def tree(self) -> Tree:
        """Give the outline as a tree of rich."""
        from rich.text import Text
        from rich.tree import Tree

        tree = Tree(Text(self.text, style=self.style))
        for child in self.below:
            tree.children.append(child.tree())
        return tree
