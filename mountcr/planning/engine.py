# SPDX-License-Identifier: Apache-2.0
"""
Which of CRIU's two engines will restore the mounts.

The v2 engine (CRIU 3.17) makes each mount by itself, puts it into its place and then copies
propagation from mount to mount, for which it needs MOVE_MOUNT_SET_GROUP (Linux 5.15) and
openat2(2) (Linux 5.6). Where the kernel has not both, CRIU takes the older engine without a word
(criu/config.c, `check_options()`); `--mntns-compat-mode` asks for it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from mountcr.graph.compat import older_engine_fails
from mountcr.planning.records import Engine
from mountcr.planning.steps import Propagation
from mountcr.rules import fidelity, limits, sharing
from mountcr.rules.table import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import MountGraph
    from mountcr.model import Mount
    from mountcr.planning.records import External
    from mountcr.planning.steps import Step
    from mountcr.rules import Context

__all__ = ["NEEDED", "choose_engine", "joined_sources"]

NEEDED: Final = {
    "move_mount set group": "MOVE_MOUNT_SET_GROUP (Linux 5.15)",
    "openat2": "openat2 (Linux 5.6)",
}
"""What the v2 engine needs of a kernel, by the name of the probe."""

_REFUSING: Final = {
    **sharing.PREDICATES,
    "R15": limits.PREDICATES["R15"],
}
"""What the v2 engine refuses and the older one does not."""


def choose_engine(context: Context) -> Engine | None:
    """
    Choose the engine for what the predicates look at, `compat` left out; None without mounts.

    The older one is asked for only where the other is known to refuse, and this is known not to.
    """
    graph = context.graph
    if graph is None:
        return None
    refusals = tuple(_refusals(context))
    failure = older_engine_fails(graph, context.nodes, context.origin.mounts) or next(
        itertools.chain(_parted(graph, context), _receiving(graph, context)), None
    )
    forced = _forced(context)
    if forced or (refusals and failure is None):
        return Engine(
            name="v1",
            because=forced or f"the v2 engine refuses {refusals[0]}",
            asked_for=not forced,
            representable=failure is None,
            other="v2",
            losses=(*(f"it would refuse {each}" for each in refusals), *_cut_off(context)),
        )
    return Engine(
        name="v2",
        because="CRIU takes it by itself, and the other may not make these mounts either"
        if refusals
        else "CRIU takes it by itself, and it makes these mounts",
        representable=not refusals,
        other="v1",
        losses=(f"it may refuse, or lose something: {failure}",) if failure else (),
    )


def _forced(context: Context) -> str:
    """Say why CRIU takes the older engine whatever the plan wants, if it does."""
    if context.given.compat:
        return "--mntns-compat-mode was given"
    host = context.target.host if context.target else context.facts.host
    if not table()["R7"].applies(host):
        return "this CRIU has no other"
    features = host.capabilities.features if host.capabilities else {}
    missing = [name for probe, name in NEEDED.items() if features.get(probe) is False]
    return f"the kernel has no {' and no '.join(missing)}" if missing else ""


def _refusals(context: Context) -> Iterator[str]:
    """Say what the v2 engine refuses, and where."""
    for identity, predicate in _REFUSING.items():
        for found in predicate(context):
            yield f"{found.where}, {identity}: {found.detail}"


def _cut_off(context: Context) -> Iterator[str]:
    """Say which mounts the v2 engine cuts off from their peer groups on the host."""
    given = {each.mountpoint for each in context.externals}
    for found in fidelity.PREDICATES["F1"](context):
        if found.where in given:
            yield f"{found.where} would not receive from its peers on the host, {found.detail}"


# --- Peers on the host ----------------------------------------------------------------------------


def _by_group(graph: MountGraph, context: Context) -> dict[int, list[tuple[External, Mount]]]:
    """
    Give the mounts of the host that the externals of a peer group come from.

    Of each group that has peers on the host of the facts: its own and those that receive from it.
    """
    outside = graph.host_peers(context.origin.mounts)
    found: dict[int, list[tuple[External, Mount]]] = {}
    for external in context.externals if outside else ():
        source = context.host.lies_on(external.source) if external.source else None
        if source is None:
            continue
        for mount in graph.tree.at(external.mountpoint):
            for group in {mount.shared, mount.master} & outside.keys():
                found.setdefault(group, []).append((external, source))
    return found


def _parted(graph: MountGraph, context: Context) -> Iterator[str]:
    """Say which peers would not be peers again, because they are bound from different mounts."""
    for group, found in _by_group(graph, context).items():
        first = found[0][1]
        for external, source in found:
            if source is not first:
                yield f"{external.mountpoint} would not be in peer group {group} again"


def _receiving(graph: MountGraph, context: Context) -> Iterator[str]:
    """Say which peer groups of the container alone would receive from that of a source."""
    outside = graph.host_peers(context.origin.mounts)
    for external in context.externals:
        source = context.host.lies_on(external.source) if external.source else None
        for mount in graph.tree.at(external.mountpoint) if source else ():
            alone = mount.shared and not mount.master and mount.shared not in outside
            if source and alone and (source.shared or source.master):
                yield f"{mount.mountpoint} would receive from {source.mountpoint} of the host"


def joined_sources(graph: MountGraph, context: Context) -> Iterator[Step]:
    """
    Make the sources of peers shared, so that what the older engine binds from them are peers.

    In the namespace of the restore they receive from the host, and are in no group of their own.
    """
    for group, found in _by_group(graph, context).items():
        because = f"what is bound from it was in peer group {group}"
        yield Propagation(at=found[0][1].mountpoint, propagation="shared", because=because)
