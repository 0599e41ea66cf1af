# SPDX-License-Identifier: Apache-2.0
"""Predicates about descriptors whose other end lies outside of the container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.planning.descriptors import inherited, lonely_pipes
from mountcr.rules import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.rules import Context

__all__ = ["PREDICATES"]


def _lonely_pipes(context: Context) -> Iterator[Found]:
    """L7: pipes that are no standard stream, which are given back."""
    lonely = lonely_pipes(context.facts)
    given = {each.key for each in inherited(context.facts)}
    for task in context.facts.tasks:
        for file in task.files:
            if file.shown in lonely and file.shown not in given:
                yield Found(file.shown, f"descriptor {file.fd} of pid {task.pid}")


PREDICATES: Final = {
    "L7": _lonely_pipes,
}
