# SPDX-License-Identifier: Apache-2.0
"""The graph has one edge for each way in which two mounts hang together."""

from __future__ import annotations

import msgspec
import networkx
import pytest

import builders
from mountcr.graph import Edge, MountGraph, Node
from mountcr.paths import KPath

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


LAYERED = MountGraph(
    [
        msgspec.structs.replace(
            space := builders.namespace("""
                10 5 0:1 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
                11 10 0:2 / /t rw - tmpfs t rw
                12 10 0:3 / /o rw - overlay o rw,lowerdir=/t/a:/b:/t/c:/host,upperdir=/t/u,workdir=/t/w
            """),  # noqa: E501  # a line of mountinfo
            mounts=tuple(
                msgspec.structs.replace(
                    mount, layers_inside=tuple(map(KPath, ("/t/a", "/b", "/t/c", "/t/u", "/t/w")))
                )
                for mount in space.mounts
            ),
        )
    ]
)


def test_layer_edges() -> None:
    """
    An overlay is linked once to each mount that a directory of it lies on.

    The root's own layers are paths of the host, and so is what is not there in the container.
    """
    found = [edge for edge in LAYERED.edges() if edge.kind == "layer"]
    assert [(edge.source.id, edge.target.id) for edge in found] == [(12, 11), (12, 10)]


def test_host_peers() -> None:
    """Of each group, the members that the host has; groups of the container's own have none."""
    host = builders.table("""
        1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
        2 1 8:1 /v /v rw shared:1 - ext4 /dev/sda1 rw
        3 1 0:9 / /x rw shared:7 - tmpfs t rw
    """)
    found = GRAPH.host_peers(host)
    assert {group: [mount.id for mount in mounts] for group, mounts in found.items()} == {1: [1, 2]}


def test_propagation_groups() -> None:
    """Mounts with the same peers and the same master, and whether the master is in the graph."""
    found = {
        (group.shared, group.master): ([node.id for node in group.members], group.inside)
        for group in GRAPH.propagation_groups()
    }
    assert found == {
        (1, 0): ([11, 13, 31], False),
        (0, 1): ([12], True),
        (0, 9): ([16], False),
    }


def test_hidden() -> None:
    """What lies under another mount, in any namespace."""
    assert [node.id for node in GRAPH.hidden()] == [14]


def test_build_order() -> None:
    """Parents first, deeper siblings first, and a bind after what it is bound from."""
    graph = MountGraph(
        [
            builders.namespace("""
                10 5 0:1 / / rw - overlay overlay rw
                11 10 0:2 /in /a/b/c rw - tmpfs t rw
                12 10 0:2 / /t rw - tmpfs t rw
                13 11 0:3 / /a/b/c/d rw - tmpfs u rw
                14 10 8:1 /x /v rw - ext4 /dev/sda1 rw
            """)
        ]
    )
    made, stuck = graph.build_order()
    assert [node.id for node in made] == [10, 12, 11, 13]
    assert [node.id for node in stuck] == [14]
    made, stuck = graph.build_order([Node(builders.CONTAINER_NS, 14)])
    assert [node.id for node in stuck] == []
    assert len(made) == 5


@pytest.mark.parametrize("name", builders.recorded_names())
def test_every_mount_is_built_once(name: str) -> None:
    """Made or stuck, each mount of a recorded table comes once, none before its parent."""
    graph = MountGraph([builders.namespace(builders.recorded(name))])
    made, stuck = graph.build_order()
    assert sorted(made + stuck) == sorted(node for node, _ in graph.nodes())
    seen: set[int] = set()
    for node in made:
        parent = graph.tree.parent(graph.mount(node))
        assert parent is None or parent.id in seen
        seen.add(node.id)


def test_attributes() -> None:
    """Networkx's nodes hold the line, raw and parsed, and what follows from it."""
    space = builders.namespace(r"""
        10 5 0:1 / / rw - overlay overlay rw
        11 10 0:2 /gone//deleted /a\040b ro,nosuid shared:3 master:4 propagate_from:5 unbindable - fuse.sshfs me@host:/#x rw,user_id=0,default_permissions
    """)  # noqa: E501  # a line of mountinfo
    data = MountGraph([space]).to_networkx().nodes[Node(builders.CONTAINER_NS, 11)]
    expected = {
        "namespace": builders.CONTAINER_NS,
        "ordinal": 1,
        "parent": 10,
        "dev": "0:2",
        "root": "/gone",
        "deleted": True,
        "mountpoint": r"/a\040b",
        "flags": ("ro", "nosuid"),
        "super_flags": ("rw",),
        "super_options": {"user_id": "0", "default_permissions": None},
        "raw_super_options": "rw,user_id=0,default_permissions",
        "fstype": "fuse.sshfs",
        "source": "me@host:/#x",
        "shared": 3,
        "master": 4,
        "propagate_from": 5,
        "unbindable": True,
        "supported": True,
        "root_bind": False,
        "hidden": False,
    }
    assert {key: data[key] for key in expected} == expected
