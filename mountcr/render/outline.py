# SPDX-License-Identifier: Apache-2.0
"""An outline: lines with lines below them, as plain text, or as a tree on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.tree import Tree

__all__ = ["DEEPEST", "Outline"]

DEEPEST: Final = 60
"""Lines deeper than that are not moved further to the right, or the whole would grow squarely."""


class Outline:
    """
    A line, a style in rich's words for terminals, and the outlines below it.

    However deep it is, nothing here recurses. What lies deeper than `DEEPEST` levels is drawn at
    that level, with its own in brackets.
    """

    def __init__(self, text: str, style: str = "") -> None:
        self.text = text
        self.style = style
        self.below: list[Outline] = []

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
        waiting = [(_bounded(self), "", "")]
        while waiting:
            outline, first, rest = waiting.pop()
            yield f"{first}{outline.text}"
            last = len(outline.below) - 1
            waiting.extend(
                (child, f"{rest}└─ ", f"{rest}   ")
                if number == last
                else (child, f"{rest}├─ ", f"{rest}│  ")
                for number, child in reversed([*enumerate(outline.below)])
            )

    def tree(self) -> Tree:
        """Give the outline as a tree of rich."""
        from rich.text import Text
        from rich.tree import Tree

        bounded = _bounded(self)
        top = Tree(Text(bounded.text, style=bounded.style))
        waiting = [(bounded, top)]
        while waiting:
            outline, tree = waiting.pop()
            waiting.extend(
                (child, tree.add(Text(child.text, style=child.style))) for child in outline.below
            )
        return top


def _bounded(outline: Outline) -> Outline:
    """Give the outline with what is too deep put below the deepest level, in the same order."""
    top = Outline(outline.text, outline.style)
    waiting = [(child, top, 1) for child in reversed(outline.below)]
    while waiting:
        child, above, depth = waiting.pop()
        if depth <= DEEPEST:
            copy = above.add(child.text, child.style)
        else:
            copy = above
            above.add(f"[{depth}] {child.text}", child.style)
        waiting.extend((each, copy, depth + 1) for each in reversed(child.below))
    return top
