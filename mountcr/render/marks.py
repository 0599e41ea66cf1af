# SPDX-License-Identifier: Apache-2.0
"""What a picture of a mount graph tells of a mount at a glance."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mountcr.graph import Node
from mountcr.graph.superblock import bare_root, short_type
from mountcr.model import InodeType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mountcr.graph import MountGraph
    from mountcr.model import Facts, Mount
    from mountcr.planning.records import External

__all__ = ["Kind", "Marks", "kind_of", "marks_of", "propagation", "shown_root"]


class Kind(StrEnum):
    """What a mount shows, as far as its type and that of its mountpoint say."""

    UNION = "union"
    MEMORY = "memory"
    KERNEL = "kernel"
    DEVICE = "device"
    FILE = "file"
    DIRECTORY = "directory"


_UNIONS: Final = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs", "fuse.unionfs"})
_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
_KERNEL: Final = frozenset(
    {
        "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts",
        "efivarfs", "fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs",
        "selinuxfs", "sysfs", "tracefs",
    }
)  # fmt: skip


def kind_of(mount: Mount) -> Kind:
    """Give the kind of a mount."""
    if mount.type in {InodeType.CHARACTER, InodeType.BLOCK}:
        return Kind.DEVICE
    if mount.type and mount.type is not InodeType.DIRECTORY:
        return Kind.FILE
    if mount.fstype in _UNIONS:
        return Kind.UNION
    if short_type(mount) in _MEMORY:
        return Kind.MEMORY
    return Kind.KERNEL if short_type(mount) in _KERNEL else Kind.DIRECTORY


@dataclass(frozen=True)
class Marks:
    """
    What is known of mounts beyond their own table.

    `externals` are the names of those that come from outside; `host` are the peer groups that have
    members on the host.
    """

    externals: Mapping[Node, str] = field(default_factory=dict[Node, str])
    host: frozenset[int] = frozenset()


def marks_of(graph: MountGraph, facts: Facts, externals: Iterable[External]) -> Marks:
    """Gather the marks of a graph from the facts that it is made of and what the plan chose."""
    named = {
        Node(graph.namespaces[0].id, mount.id): each.key
        for each in externals
        for mount in graph.tree.at(each.mountpoint)
    }
    host = () if facts.shares_mounts else facts.host.mounts
    groups = {mount.shared for mount in host if mount.optional} - {0}
    return Marks(externals=named, host=frozenset(groups))


def shown_root(mount: Mount) -> str:
    """Give the root of a mount, with a word when it was unlinked; empty for a whole one."""
    root = "" if bare_root(mount) == "/" else bare_root(mount)
    return f"{root} deleted".lstrip() if mount.deleted else root


def propagation(mount: Mount, marks: Marks) -> Iterator[str]:
    """Give the optional fields of a mount, with a word for groups that reach to the host."""
    for word in mount.optional:
        name, _, number = word.partition(":")
        outside = name in {"shared", "master"} and number.isdigit() and int(number) in marks.host
        yield f"{word} (host)" if outside else word
