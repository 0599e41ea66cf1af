# SPDX-License-Identifier: Apache-2.0
"""
The rules: what CRIU will refuse and what will be lost, known before it is asked.

A predicate looks at facts and at what the plan does about them, and gives what it finds; the
words, the severity and the cure stand in the table under the same id. A refusal that is found
without the plan's externals and not with them is cured by them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from mountcr.graph.coverage import Coverage
from mountcr.model import Finding, Severity
from mountcr.planning.given import Given
from mountcr.record import Passing
from mountcr.rules.table import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mountcr.criu.rewriting import Operation
    from mountcr.graph import MountGraph, Node
    from mountcr.graph.tree import MountTree
    from mountcr.model import Facts, Host
    from mountcr.planning.choices import Choices
    from mountcr.planning.files import NamedFile
    from mountcr.planning.records import External, Inherited
    from mountcr.rules.table import Rule
    from mountcr.stack import Stack
    from mountcr.target import Target

__all__ = ["Context", "Found", "check", "predicates"]

_OF_RESTORES: Final = frozenset({"restore", "rootfs"})
"""Stages of rules that are about a restore, or the files of one."""


class Context(Passing, frozen=True, kw_only=True):
    """
    What predicates look at.

    `host` is the host of the restore, `origin` the one of the facts. `graph` is without what CRIU
    leaves out. `nodes` are the mounts that are declared external, `inherited` the descriptors that
    CRIU will be given, `rewrites` what is put right in its images, `given` what the user told
    CRIU. With `compat` the older engine restores, because the user, the plan or the kernel wants
    it. `target` and `files` are there for a restore only.
    """

    facts: Facts
    host: MountTree
    origin: MountTree
    choices: Choices
    graph: MountGraph | None = None
    stack: Stack | None = None
    externals: tuple[External, ...] = ()
    nodes: frozenset[Node] = frozenset()
    inherited: tuple[Inherited, ...] = ()
    rewrites: tuple[Operation, ...] = ()
    target: Target | None = None
    files: tuple[NamedFile, ...] = ()
    made: frozenset[str] = frozenset()
    given: Given = msgspec.field(default_factory=Given)
    compat: bool = False

    @functools.cached_property
    def coverage(self) -> Coverage:
        """
        What the root and the externals hold.

        Raises ValueError where there is no graph.
        """
        if self.graph is None:
            msg = "nothing is held where no mounts are"
            raise ValueError(msg)
        return Coverage(self.graph, self.nodes)


class Found(msgspec.Struct, frozen=True, gc=False):
    """
    What a predicate found: where, what exactly, and whether the plan has the cure.

    `cured` is for predicates that see it themselves; for the others it follows from the externals.
    """

    where: str
    detail: str
    cured: bool = False
    severity: Severity | None = None


if TYPE_CHECKING:
    Predicate: TypeAlias = Callable[[Context], Iterator[Found]]


def predicates() -> dict[str, Predicate]:
    """Give the predicate of every rule by its id."""
    from mountcr.rules import (
        content,
        descriptors,
        fidelity,
        files,
        limits,
        mounts,
        network,
        restore,
        rootfs,
        sharing,
        target,
        tasks,
        workload,
    )

    return {
        **limits.PREDICATES,
        **mounts.PREDICATES,
        **content.PREDICATES,
        **tasks.PREDICATES,
        **workload.PREDICATES,
        **network.PREDICATES,
        **files.PREDICATES,
        **descriptors.PREDICATES,
        **fidelity.PREDICATES,
        **rootfs.PREDICATES,
        **sharing.PREDICATES,
        **restore.PREDICATES,
        **target.PREDICATES,
    }


def _host(context: Context, rule: Rule) -> Host:
    """Give the host on which a rule is about what CRIU does."""
    if context.target is not None and rule.stage == "restore":
        return context.target.host
    return context.facts.host


def _is_settled(context: Context, rule: Rule) -> bool:
    """Tell whether a rule is about what CRIU does not dump, while images say that it did."""
    refuses = rule.severity is Severity.REFUSAL
    return context.facts.of_images and refuses and rule.stage not in _OF_RESTORES


def check(context: Context) -> tuple[Finding, ...]:
    """Ask every rule; findings come in the order of the table."""
    known = predicates()
    bare = msgspec.structs.replace(context, nodes=frozenset(), inherited=(), rewrites=())
    findings: list[Finding] = []
    for identity, rule in table().items():
        if _is_settled(context, rule) or not rule.applies(_host(context, rule)):
            continue
        wanted = list(known[identity](bare))
        if not wanted:
            continue
        remaining = {found.where for found in known[identity](context) if not found.cured}
        findings.extend(
            Finding(
                rule=identity,
                severity=found.severity or rule.severity,
                mount=found.where,
                message=f"{found.detail}: {rule.sentence}",
                cure=rule.cure.replace("MOUNTPOINT", found.where),
                cured=found.where not in remaining,
            )
            for found in wanted
        )
    return tuple(findings)
