# SPDX-License-Identifier: Apache-2.0
"""Findings as a section of an outline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.render.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Finding
    from mountcr.render.outline import Outline

__all__ = ["add_findings"]


def add_findings(top: Outline, title: str, findings: Iterable[Finding], style: str = "") -> None:
    """Add a section with a line for each finding and its cure below; none if nothing was found."""
    shown = list(findings)
    if not shown:
        return
    section = top.add(title, style)
    for each in shown:
        line = section.add(printable(f"{each.rule} {each.mount}: {each.message}"), style)
        if each.cure:
            line.add(printable(f"cure: {each.cure}"))
