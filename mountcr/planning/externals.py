# SPDX-License-Identifier: Apache-2.0
"""
Which mounts come from outside: the smallest set that CRIU has to be told of.

They come from the mount table of the running task, never from a configuration file. Wide mounts
are looked at first, so that a mount inside an external one needs no option of its own. A key is
looked up for mounts of the root task's namespace only (criu/mount.c, `try_resolve_ext_mount()`),
so those are the only ones that can be external.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import paths
from mountcr.graph import Node
from mountcr.graph.coverage import Coverage
from mountcr.graph.superblock import bare_root, superblock
from mountcr.planning.given import Given, criu_bytes
from mountcr.planning.names import Names
from mountcr.planning.records import External
from mountcr.rules import conditions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mountcr.graph import MountGraph
    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, MountId
    from mountcr.paths import KPath

__all__ = ["CYCLE", "choose_externals", "external_nodes", "given_nodes"]

CYCLE: Final = "the external that shows the same lies on it"
"""Why a mount is external that CRIU could dump without: it could not make it before that one."""


def choose_externals(
    graph: MountGraph,
    host: MountTree,
    *,
    cgroup_namespace: bool = False,
    named_by_runtime: bool = False,
    own_pipes: Collection[str] = (),
    own_tmpfs: Collection[KPath] = (),
    given: Given | None = None,
) -> tuple[External, ...]:
    """
    Give the externals of a container, in the order of its mount table.

    `cgroup_namespace` tells that the container has a cgroup namespace of its own;
    `named_by_runtime` that an OCI runtime may restore it, which names every external by its
    mountpoint (runc, libcontainer/criu_linux.go; crun, src/libcrun/criu.c). `own_pipes` are the
    pipes that tasks of the container read from, `own_tmpfs` the mountpoints on the host of those
    that its engine has for it alone. What the user told CRIU with `given` is not told again.
    """
    chosen = _choose(
        graph,
        _Candidates(graph, host, cgroup_namespace, own_pipes, own_tmpfs, given or Given()),
    )
    names = Names()
    return tuple(
        _external(
            host,
            mount,
            mount.mountpoint if named_by_runtime else names.give(mount.mountpoint),
            chosen[mount.id],
        )
        for mount in graph.namespaces[0].mounts
        if mount.id in chosen
    )


def _choose(graph: MountGraph, candidates: _Candidates) -> dict[MountId, str]:
    """Give the fact that makes a mount external, by the id of the mount."""
    coverage = Coverage(graph, _keyed(graph, candidates.given))
    chosen: dict[MountId, str] = {}
    for each in sorted(candidates.all(), key=_wide_first):
        test = Coverage.reaches_master if each.of_master else Coverage.holds
        if not test(coverage, each.mount):
            chosen[each.mount.id] = each.because
            for mount in graph.tree.at(each.mount.mountpoint):  # one key names them all
                same = mount is each.mount
                coverage.add(each.node if same else Node(each.node.namespace, mount.id))
    _break_cycles(graph, coverage, chosen)
    return chosen


def _break_cycles(graph: MountGraph, coverage: Coverage, chosen: dict[MountId, str]) -> None:
    """
    Choose what would have to be bound from an external that lies on it, too.

    CRIU makes a mount before those on it, so nothing can be bound from below.
    """
    tree, ours = graph.tree, graph.namespaces[0].id
    seen: set[int] = set()
    for identity in list(chosen):
        below = tree.parent(tree.by_id[identity])
        while below and below.id not in seen:
            seen.add(below.id)
            node = Node(ours, below.id)
            if node not in coverage.externals and _served_from_above(graph, coverage, below):
                coverage.add(node)
                chosen[below.id] = CYCLE
            below = tree.parent(below)


def _served_from_above(graph: MountGraph, coverage: Coverage, mount: Mount) -> bool:
    """Tell whether all that could hold a mount are externals that lie on it."""
    ours = graph.namespaces[0].id
    sources = [
        other
        for node, other in graph.wider(mount)
        if (node in coverage.externals and node.namespace == ours) or other is graph.root
    ]
    return bool(sources) and all(_lies_on(graph.tree, each, mount) for each in sources)


def _lies_on(tree: MountTree, mount: Mount, ancestor: Mount) -> bool:
    below = tree.parent(mount)
    while below and below is not ancestor:
        below = tree.parent(below)
    return below is ancestor


def _wide_first(candidate: _Candidate) -> tuple[int, bool]:
    """Sort by root, and slaves before others with it, because they settle those too."""
    return len(bare_root(candidate.mount)), not candidate.of_master


class _Candidate(NamedTuple):
    """What may have to be external: the reason, and whether that is its master."""

    node: Node
    mount: Mount
    because: str
    of_master: bool = False


class _Candidates(NamedTuple):
    """What may have to be external in a container."""

    graph: MountGraph
    host: MountTree
    cgroup_namespace: bool
    own_pipes: Collection[str]
    own_tmpfs: Collection[KPath]
    given: Given

    def all(self) -> Iterator[_Candidate]:
        """Give those of the root task's namespace."""
        ours = self.graph.namespaces[0].id
        for each in (*self._parts(), *self._whole(), *self._of_host(), *self._slaves()):
            if each.node.namespace == ours:
                yield each

    def _parts(self) -> Iterator[_Candidate]:
        for node, mount in conditions.improper_roots(self.graph, own_cgroups=self.cgroup_namespace):
            part = f"{mount.root} of {mount.fstype} {mount.dev}"
            yield _Candidate(node, mount, f"{part} has no wider mount in the container")

    def _whole(self) -> Iterator[_Candidate]:
        graph = self.graph
        for node, mount in conditions.unsupported(graph):
            if not self.given.enables(mount):
                what = f"{mount.fstype} {mount.dev} is mounted whole"
                yield _Candidate(node, mount, f"{what}, which CRIU cannot do by itself")
        for node, mount in conditions.foreign_fuse(graph):
            yield _Candidate(node, mount, f"{mount.fstype} is served by a daemon outside")
        for node, mount in conditions.foreign_autofs(graph, self.own_pipes):
            yield _Candidate(node, mount, "no task of the container reads from the autofs's pipe")
        for node, mount in conditions.nested_overlays(graph):
            because = "CRIU would mount the overlay of paths as the host has them"
            yield _Candidate(node, mount, because)

    def _of_host(self) -> Iterator[_Candidate]:
        """
        Give each tmpfs of the host, unless one of its mounts shares its mountpoint with another.

        CRIU cannot be told of that one alone, and what is below it could not be made before it.
        """
        found = list(conditions.tmpfs_of_host(self.graph, self.host, own=self.own_tmpfs))
        stacked = {
            self.graph.superblock_of(mount)
            for node, mount in found
            if len(self.graph.trees[node.namespace].at(mount.mountpoint)) > 1
        }
        for node, mount in found:
            if self.graph.superblock_of(mount) not in stacked:
                what = f"tmpfs {mount.dev} is mounted on the host too"
                yield _Candidate(node, mount, f"{what}, its content is the host's")

    def _slaves(self) -> Iterator[_Candidate]:
        for node, mount in conditions.unreachable_masters(self.graph):
            group = f"peer group {mount.master}"
            because = f"it receives from {group}, which is outside the container"
            yield _Candidate(node, mount, because, of_master=True)


def _external(host: MountTree, mount: Mount, key: str, because: str) -> External:
    groups = [group for group in (mount.master, mount.shared) if group] if mount.optional else ()
    return External(
        mountpoint=mount.mountpoint,
        key=key,
        source=host.path_of(mount, prefer=groups),
        type=mount.type,
        mode=mount.mode,
        fstype=mount.fstype,
        because=because,
    )


# --- The mounts behind the words ------------------------------------------------------------------


def external_nodes(graph: MountGraph, externals: tuple[External, ...]) -> frozenset[Node]:
    """Give the mounts that CRIU takes for external: all at the mountpoints that are named."""
    ours = graph.namespaces[0].id
    return frozenset(
        Node(ours, mount.id)
        for mountpoint in dict.fromkeys(each.mountpoint for each in externals)
        for mount in graph.tree.at(mountpoint)
    )


def given_nodes(graph: MountGraph, host: Sequence[Mount], given: Given) -> frozenset[Node]:
    """
    Give the mounts that CRIU takes for external because of what the user gave.

    `host` are the mounts of the namespace that CRIU would be in.
    """
    found = {*_keyed(graph, given)}
    if given.autodetect:
        found.update(_autodetected(graph, host, given))
    return frozenset(found)


def _keyed(graph: MountGraph, given: Given) -> Iterator[Node]:
    keys = given.keys()
    if keys:
        for mount in graph.namespaces[0].mounts:
            if criu_bytes(mount.mountpoint) in keys and mount is not graph.root:
                yield Node(graph.namespaces[0].id, mount.id)


def _autodetected(graph: MountGraph, host: Sequence[Mount], given: Given) -> Iterator[Node]:
    """
    Give the mounts of every namespace that CRIU finds a match for (criu/mount.c,
    `resolve_external_mounts()`).
    """
    by_superblock: dict[tuple[str, ...], list[Mount]] = {}
    for mount in host:
        by_superblock.setdefault(superblock(mount), []).append(mount)
    for _, roots in graph.superblocks():
        members = [each for found in roots.values() for each in found]
        matches = by_superblock.get(superblock(members[0][2]), [])
        for _, node, mount in members if matches else ():
            if mount.mountpoint != paths.ROOT and _matches(mount, matches, given):
                yield node


def _matches(mount: Mount, matches: Iterable[Mount], given: Given) -> bool:
    """Tell whether one of the mounts of CRIU's namespace stands for a mount."""
    root = bare_root(mount)
    wider = [each for each in matches if paths.is_beneath(root, bare_root(each))]
    if not wider or (mount.shared and not given.autodetect_sharing):
        return False
    if not mount.master:
        return True
    masters = {each.shared for each in wider} | {wider[-1].master}
    return given.autodetect_masters and mount.master in masters
