# SPDX-License-Identifier: Apache-2.0
"""The graph has one edge for each way in which two mounts hang together."""

from __future__ import annotations

import networkx
import pytest

import builders
from mountcr.graph import Edge, MountGraph, Node

NESTED = 4026532001

GRAPH = MountGraph(
    [
        builders.namespace("""
            10 5 0:1 / / rw - overlay overlay rw
            11 10 8:1 /v /data rw shared:1 - ext4 /dev/sda1 rw
            12 10 8:1 /v/sub /sub rw master:1 - ext4 /dev/sda1 rw
            13 10 8:1 /v /again rw shared:1 - ext4 /dev/sda1 rw
            14 10 0:3 / /tmp rw - tmpfs t rw
            15 14 0:4 / /tmp rw - tmpfs t rw
            16 10 0:1 /etc /etc2 rw master:9 - overlay overlay rw
        """),
        builders.namespace(
            """
            30 29 0:1 / / rw - overlay overlay rw
            31 30 8:1 /v /data rw shared:1 - ext4 /dev/sda1 rw
            """,
            identity=NESTED,
            pid=101,
        ),
    ]
)


def of_kind(kind: str) -> set[tuple[int, int]]:
    """The edges of a kind as pairs of mount ids."""
    return {(edge.source.id, edge.target.id) for edge in GRAPH.edges() if edge.kind == kind}


def test_parent_edges() -> None:
    """Every mount but the roots is attached to one."""
    assert of_kind("parent") == {
        (11, 10), (12, 10), (13, 10), (14, 10), (15, 14), (16, 10), (31, 30),
    }  # fmt: skip


def test_bind_edges() -> None:
    """A mount is linked to the widest of its superblock, in any namespace, the first of equals."""
    assert of_kind("bind") == {(12, 11), (13, 11), (31, 11), (16, 10), (30, 10)}


def test_binds_without_a_wider_mount() -> None:
    """Two parts of a file system that do not hold each other are no binds of each other."""
    graph = MountGraph(
        [
            builders.namespace("""
                10 5 0:1 / / rw - overlay overlay rw
                11 10 8:1 /a /a rw - ext4 /dev/sda1 rw
                12 10 8:1 /b /b rw - ext4 /dev/sda1 rw
            """)
        ]
    )
    assert [edge for edge in graph.edges() if edge.kind == "bind"] == []


def test_peer_edges() -> None:
    """The members of a group are linked to the first of it, across namespaces."""
    assert of_kind("peer") == {(13, 11), (31, 11)}
    first = builders.CONTAINER_NS
    assert GRAPH.groups() == {1: [Node(first, 11), Node(first, 13), Node(NESTED, 31)]}


def test_master_edges() -> None:
    """A slave is linked to a member of its master group, unless there is none in the container."""
    assert of_kind("master") == {(12, 11)}


def test_overmount_edges() -> None:
    """What is hidden is linked to what hides it."""
    assert of_kind("overmount") == {(14, 15)}


def test_the_root_is_that_of_the_first_namespace() -> None:
    """The root task's namespace comes first."""
    assert GRAPH.root is not None
    assert GRAPH.root.id == 10
    assert GRAPH.tree is GRAPH.trees[builders.CONTAINER_NS]


def test_wider_mounts() -> None:
    """Mounts of the same superblock that show at least as much, itself included."""
    sub = GRAPH.tree.mounts[2]
    assert [node.id for node, _ in GRAPH.wider(sub)] == [11, 12, 13, 31]
    assert [node.id for node, _ in GRAPH.wider(GRAPH.tree.mounts[1])] == [11, 13, 31]


def test_a_graph_needs_a_namespace() -> None:
    """A container that does not run has no graph."""
    with pytest.raises(ValueError, match="needs a mount namespace"):
        MountGraph([])


def test_networkx_has_the_same_graph() -> None:
    """Mounts are node data, kinds are keys."""
    graph = GRAPH.to_networkx()
    assert set(graph.edges(keys=True)) == {
        (edge.source, edge.target, edge.kind) for edge in GRAPH.edges()
    }
    node = Node(builders.CONTAINER_NS, 11)
    assert graph.nodes[node]["mount"].mountpoint == "/data"
    parents = [(a, b) for a, b, kind in graph.edges(keys=True) if kind == "parent"]
    assert networkx.is_directed_acyclic_graph(networkx.DiGraph(parents))


@pytest.mark.parametrize("name", builders.recorded_names())
def test_recorded_graphs(name: str) -> None:
    """In real tables no relation is told twice, and none leads out of the table."""
    graph = MountGraph([builders.namespace(builders.recorded(name))])
    edges = list(graph.edges())
    assert len(edges) == len(set(edges))
    nodes = {node for node, _ in graph.nodes()}
    assert {end for edge in edges for end in (edge.source, edge.target)} <= nodes
    assert sum(edge.kind == "parent" for edge in edges) == len(nodes) - 1


def test_stacked_slave_of_a_recorded_kernel() -> None:
    """`/slave` of the captures is a slave on top of its own master."""
    graph = MountGraph([builders.namespace(builders.recorded("kernel-deb-6.12-overlay"))])
    below, above = (m for m in graph.tree.mounts if m.mountpoint == "/slave")
    name = builders.CONTAINER_NS
    assert Edge("master", Node(name, above.id), Node(name, below.id)) in graph.edges()
    assert Edge("overmount", Node(name, below.id), Node(name, above.id)) in graph.edges()
