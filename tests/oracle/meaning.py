# SPDX-License-Identifier: Apache-2.0
"""What findings, differences and words of CRIU mean to the judge."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import mountinfo
from mountcr.graph.diff import Difference
from mountcr.model import Severity
from mountcr.operations import restored
from mountcr.paths import KPath
from mountcr.rules.table import table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Finding, Mount
    from mountcr.planning.records import Plan

__all__ = [
    "cured_later", "in_dump", "only", "shape", "show_tables", "visible", "what_differs", "who_says",
]  # fmt: skip

_DUMP_STAGES: Final = frozenset({"parse", "tree", "external", "sharing", "content", "file"})
"""Stages in which CRIU refuses while it dumps."""

_WHATS: Final = (
    *("mount", "root", "deleted", "fstype", "source", "options", "super options"),
    *("shared", "master", "unbindable", "superblock", "peer group", "bound namespace"),
    "host peers",
)
"""What can differ, in the words of `graph.diff`."""

_PATHS: Final = re.compile(r"\.?/.*")


def shape(said: str) -> str:
    """Give what CRIU said without the numbers and paths in it."""
    words = (_PATHS.sub("PATH", re.sub(r"[0-9]+", "N", word)) for word in said.split())
    return " ".join(words)


def what_differs(line: str) -> str:
    """Give what differs from a line of a VerificationError: path, what, before and after."""
    found = re.search(r": ([a-z ]+): .* -> ", line)
    return found[1] if found else line


def only(plan: Plan, loss: Finding) -> Plan:
    return msgspec.structs.replace(plan, findings=(loss,))


def visible(plan: Plan, loss: Finding) -> bool:
    """Tell whether a loss announces differences that mount tables show."""
    return any(
        restored.is_announced(
            only(plan, loss), Difference(path=KPath(loss.mount), what=what, before="x", after="")
        )
        for what in _WHATS
    )


def in_dump(finding: Finding) -> bool:
    """Tell whether CRIU says it in a dump, in words that are known."""
    rule = table()[finding.rule]
    refusal = finding.severity is Severity.REFUSAL
    return refusal and rule.stage in _DUMP_STAGES and bool(rule.message)


def cured_later(finding: Finding) -> bool:
    """Tell whether it is cured, and CRIU would say it in a restore, in words that are known."""
    rule = table()[finding.rule]
    return finding.cured and rule.stage == "restore" and bool(rule.message)


def who_says(said: str, findings: Iterable[Finding]) -> set[str]:
    """Give the rules whose message this is."""
    rules = {each.rule for each in findings}
    messages = {rule: table()[rule].message for rule in rules}
    return {rule for rule, message in messages.items() if message and re.search(message, said)}


def show_tables(tables: dict[int, tuple[Mount, ...]]) -> str:
    """Give mount tables for people."""
    lines: list[str] = []
    for inner, mounts in tables.items():
        lines.append(f"mount namespace of pid {inner}:")
        lines += [
            "  " + mountinfo.format_line(each).decode("utf-8", "backslashreplace")
            for each in mounts
        ]
    return "\n".join(lines)
