# SPDX-License-Identifier: Apache-2.0
"""Laws of facts and plans: JSON loses nothing, and any table has a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

import builders
from mountcr import paths
from mountcr.graph import MountGraph
from mountcr.model import Facts, FileKind, Mount, OpenFile
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Plan
from mountcr.render.plan import outline_plan
from mountcr.rules import conditions
from strategies import tables

if TYPE_CHECKING:
    from mountcr.graph import Node

FILES = st.builds(
    OpenFile,
    kind=st.sampled_from(FileKind),
    shown=st.binary(max_size=20).map(paths.encode),
    fd=st.integers(-1, 2**31 - 1),
    start=st.integers(0, 2**64 - 1),
    mnt_id=st.integers(-1, 20),
    flags=st.integers(0, 2**31 - 1),
)


@given(tables(), tables(), st.lists(FILES, max_size=4))
def test_facts_and_plans_go_to_json_and_back(
    mounts: list[Mount], host: list[Mount], files: list[OpenFile]
) -> None:
    """Any facts give a plan; both are the same after a trip through JSON."""
    facts = builders.facts(tuple(mounts), tuple(host), files=tuple(files))
    copy = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    assert copy == facts
    plan = make_plan(facts)
    assert make_plan(copy) == plan
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert outline_plan(plan, explain=True).plain()


def told(mounts: list[Mount], host: list[Mount]) -> tuple[MountGraph, frozenset[Node], Plan]:
    """The graph, the mounts that are named external, and the plan."""
    plan = make_plan(builders.facts(tuple(mounts), tuple(host)))
    graph = MountGraph([builders.namespace(tuple(mounts))])
    named = {each.mountpoint for each in plan.externals}
    nodes = frozenset(node for node, mount in graph.nodes() if mount.mountpoint in named)
    return graph, nodes, plan


CONDITIONS = (
    conditions.unsupported,
    conditions.improper_root,
    conditions.foreign_fuse,
    conditions.unreachable_master,
)


@given(tables(), tables())
def test_the_externals_are_enough(mounts: list[Mount], host: list[Mount]) -> None:
    """With them, no mount of the container is left that CRIU refuses for its root or master."""
    graph, nodes, _ = told(mounts, host)
    for _, mount, _ in conditions.checked(graph):
        assert not any(each(graph, mount, nodes) for each in CONDITIONS)


@given(tables())
def test_no_external_is_too_many(mounts: list[Mount]) -> None:
    """Without any one of them, CRIU would refuse something (none is a tmpfs of the host here)."""
    graph, nodes, plan = told(mounts, [])
    for external in plan.externals:
        without = frozenset(
            node
            for node, mount in graph.nodes()
            if node in nodes and mount.mountpoint != external.mountpoint
        )
        assert any(
            each(graph, mount, without)
            for _, mount, _ in conditions.checked(graph)
            for each in CONDITIONS
        )
