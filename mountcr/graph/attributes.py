# SPDX-License-Identifier: Apache-2.0
"""What is said of a node of the mount graph: the facts of its line, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.graph.superblock import SUPPORTED, bare_root, short_type
from mountcr.model import InodeType, Mount, Record
from mountcr.paths import KPath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.graph import MountGraph, Node

__all__ = ["Attributes", "all_attributes", "parsed_options"]


class Attributes(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A mount as the graph knows it.

    `ordinal` is its line in its table, from 0. `root` is without the mark of an unlinked one,
    which `deleted` tells. `flags` are those of the mount, `super_flags` and `super_options`
    those of the superblock, the latter with what each is set to, None for a word alone;
    `raw_options` and `raw_super_options` are the texts. `fstype` is whole, with its subtype.
    `superblock` numbers what CRIU takes for one superblock. `root_bind` tells that the container's
    own root holds it, `supported` that CRIU can mount the type by itself.
    """

    namespace: int
    id: int
    parent: int
    ordinal: int
    dev: str
    root: KPath
    deleted: bool
    mountpoint: KPath
    type: InodeType | None
    mode: int | None
    flags: tuple[str, ...]
    super_flags: tuple[str, ...]
    super_options: dict[str, str | None]
    raw_options: str
    raw_super_options: str
    optional: tuple[str, ...]
    fstype: str
    source: KPath | None
    shared: int
    master: int
    propagate_from: int
    unbindable: bool
    superblock: int
    root_bind: bool
    supported: bool
    hidden: bool

    def as_data(self) -> dict[str, object]:
        """Give the fields by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


_SUPER_FLAGS = frozenset({"rw", "ro", "sync", "dirsync", "mand", "lazytime"})


def parsed_options(text: str) -> dict[str, str | None]:
    r"""
    Give options by name, a list joined again where one repeats.

    Values keep the spelling of mountinfo; `\054`, a comma that is none between options, too.

    >>> parsed_options("rw,size=64k")
    {'rw': None, 'size': '64k'}
    """
    found: dict[str, str | None] = {}
    for word in text.split(","):
        name, equals, value = word.partition("=")
        if not equals:
            found.setdefault(name, None)
        elif found.get(name) is None:
            found[name] = value
        else:
            found[name] = f"{found[name]},{value}"
    return found


def all_attributes(graph: MountGraph) -> Iterator[tuple[Node, Mount, Attributes]]:
    """Give every node with its mount and its attributes, the root task's namespace first."""
    ordinal = 0
    namespace = graph.namespaces[0].id
    held = _held_by_root(graph)
    for node, mount in graph.nodes():
        if node.namespace != namespace:
            namespace, ordinal = node.namespace, 0
        yield node, mount, _attributes(graph, node, mount, ordinal, root_bind=node in held)
        ordinal += 1


def _held_by_root(graph: MountGraph) -> frozenset[Node]:
    from mountcr.graph.coverage import Coverage

    coverage = Coverage(graph)
    return frozenset(node for node, mount in graph.nodes() if coverage.holds(mount))


def _attributes(
    graph: MountGraph, node: Node, mount: Mount, ordinal: int, *, root_bind: bool
) -> Attributes:
    options = parsed_options(mount.super_options)
    return Attributes(
        namespace=node.namespace,
        id=mount.id,
        parent=mount.parent,
        ordinal=ordinal,
        dev=mount.dev,
        root=bare_root(mount),
        deleted=mount.deleted,
        mountpoint=mount.mountpoint,
        type=mount.type,
        mode=mount.mode,
        flags=tuple(mount.options.split(",")),
        super_flags=tuple(each for each in options if each in _SUPER_FLAGS),
        super_options={key: options[key] for key in options if key not in _SUPER_FLAGS},
        raw_options=mount.options,
        raw_super_options=mount.super_options,
        optional=mount.optional,
        fstype=mount.fstype,
        source=mount.source,
        shared=mount.shared,
        master=mount.master,
        propagate_from=mount.propagate_from,
        unbindable=mount.unbindable,
        superblock=graph.superblock_of(mount),
        root_bind=root_bind,
        supported=short_type(mount) in SUPPORTED,
        hidden=graph.trees[node.namespace].hidden(mount),
    )
