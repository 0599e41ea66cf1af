# SPDX-License-Identifier: Apache-2.0
"""
Evidence: what lies at the paths that files of tasks may have, in the merged view and in layers.

Which paths these are follows from what the kernel shows; which of them is true is not decided here.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import devices, paths
from mountcr.errors import MountcrError
from mountcr.graph.superblock import bare_root
from mountcr.graph.tree import MountTree
from mountcr.kernel.beneath import open_in_root
from mountcr.model import InodeType, LayerPart, MountId, PathStat, SeenPath, Unseen
from mountcr.observation.names import MOST, find_names
from mountcr.observation.stats import path_stat
from mountcr.paths import KPath, decode
from mountcr.resolution.layers import layer_paths
from mountcr.resolution.symptoms import is_foreign, is_suspicious, may_have_names, same_file
from mountcr.resolution.unions import unions_of, without_suffix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mountcr.model import Facts, Mount, MountNamespace, OpenFile, Task
    from mountcr.observation.places import Places
    from mountcr.resolution.unions import Union
    from mountcr.rootfs.view import View
    from mountcr.stack import StoredLayer

__all__ = ["with_evidence"]

_PATH: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def with_evidence(facts: Facts, places: Places, *, thorough: bool) -> Facts:
    """
    Give facts with what lies at the paths of files.

    That is of files that are not what lies at their path or whose mount is in no table; with
    `thorough` of all, and other names are searched for. `places` has entered the namespaces.
    """
    host = MountTree(facts.host.mounts)
    tasks = facts.tasks
    seen: list[SeenPath] = []
    unseen: list[Unseen] = []
    for namespace in facts.namespaces:
        with contextlib.ExitStack() as stack:
            search = _Search(namespace, host, places, stack, thorough=thorough)
            own = [task for task in tasks if task.mount_namespace == namespace.id]
            search.look_at(own)
            named = {task.pid: search.completed(task) for task in own}
            tasks = tuple(named.get(task.pid, task) for task in tasks)
            seen += search.seen.values()
            unseen += search.unseen
    return msgspec.structs.replace(
        facts, tasks=tasks, paths=tuple(seen), unseen=(*facts.unseen, *unseen)
    )


@dataclass
class _Layers:
    """The layers of a union, opened, and what they are called in its stack."""

    view: View
    names: tuple[KPath, ...]
    parts: dict[bytes, tuple[LayerPart, ...]] = field(
        default_factory=dict[bytes, tuple[LayerPart, ...]]
    )


class _Search:
    """Looks at the paths of one mount namespace, each once."""

    def __init__(
        self,
        namespace: MountNamespace,
        host: MountTree,
        places: Places,
        stack: contextlib.ExitStack,
        *,
        thorough: bool,
    ) -> None:
        self.seen: dict[KPath, SeenPath] = {}
        self.unseen: list[Unseen] = []
        self._namespace = namespace
        self._tree = MountTree(namespace.mounts)
        self._places = places
        self._stack = stack
        self._thorough = thorough
        self._unions = unions_of(self._tree, host, namespace.id)
        self._by_mount = {union.mount.id: union for union in self._unions}
        self._layers: dict[MountId, _Layers | None] = {}
        self._names: dict[MountId, dict[int, list[KPath]]] = {}
        self._cut: set[str] = set()

    def look_at(self, tasks: Sequence[Task]) -> None:
        """Look at the paths that files of the tasks may have, and search for other names."""
        files = [file for task in tasks for file in task.files]
        for file in files:
            if self._thorough or is_suspicious(file, self._tree.by_id):
                for path in self._candidates(file):
                    self._look(path)
        if self._thorough:
            self._find_names(files)

    def completed(self, task: Task) -> Task:
        """Give a task with other names of files whose own one is gone, and what is on no host."""
        files = tuple(
            self._with_place(self._with_marks(self._with_names(file))) for file in task.files
        )
        return msgspec.structs.replace(task, files=files) if files != task.files else task

    def _candidates(self, file: OpenFile) -> Iterator[KPath]:
        """Give the paths that a file may have, by what is shown of it."""
        if not file.shown.startswith("/"):
            return
        shown = [file.shown]
        if file.mapping is not None:
            shown.append(file.mapping.path)
        for path in shown:
            yield path
            yield without_suffix(path)
        if file.mnt_id < 0 or is_foreign(file, self._tree.by_id):
            for union in self._unions:
                yield from (path for path, _ in layer_paths(file, union))

    def _look(self, path: KPath) -> None:
        if path in self.seen:
            return
        place = self._places.look(self._namespace.id, path, InodeType.SYMLINK)
        mount = self._tree.lies_on(path)
        union = self._by_mount.get(mount.id) if mount else None
        self.seen[path] = SeenPath(
            namespace=self._namespace.id,
            path=path,
            mount=mount.id if mount else -1,
            stat=place.stat,
            missing=place.missing,
            parts=self._parts(union, path) if union else (),
        )

    # Layers

    def _parts(self, union: Union, path: KPath) -> tuple[LayerPart, ...] | None:
        """Give what the layers of a union have at a path; None where they cannot be read."""
        if union.driver.flat:
            return ()
        if union.mount.id not in self._layers:
            self._layers[union.mount.id] = self._open(union)
        layers = self._layers[union.mount.id]
        if layers is None:
            return None
        inside = decode(union.inside(path)).strip(b"/")
        try:
            if inside not in layers.parts:
                layers.parts[inside] = tuple(_parts(layers, inside))
        except (OSError, MountcrError) as error:
            self.unseen.append(Unseen(what=f"layers of {path}", why=_why(error)))
            return None
        return layers.parts[inside]

    def _open(self, union: Union) -> _Layers | None:
        from mountcr.rootfs.opened import opened  # what most plans have no use for

        layers = union.driver.layers(union.stack)
        try:
            reachable = tuple(self._reachable(union.mount, each) for each in layers)
            view = self._stack.enter_context(opened(reachable, union.stack.data))
        except (OSError, MountcrError) as error:
            what = f"layers of mount {union.mount.id} at {union.mount.mountpoint}"
            self.unseen.append(Unseen(what=what, why=_why(error)))
            return None
        return _Layers(view, tuple(each.path for each in layers))

    def _reachable(self, mount: Mount, layer: StoredLayer) -> StoredLayer:
        """Give a layer by a path of ours; one of a nested union is where the container has it."""
        root = self._places.root(self._namespace.id)
        if root is None or layer.path not in mount.layers_inside:
            return layer
        fd = open_in_root(root, decode(layer.path).lstrip(b"/") or b".", _PATH)
        self._stack.callback(os.close, fd)
        return msgspec.structs.replace(layer, path=KPath(f"/proc/self/fd/{fd}"), index=None)

    # Names

    def _find_names(self, files: Iterable[OpenFile]) -> None:
        """Search for the names that files may have, each mount once for all of them."""
        wanted: dict[MountId, set[int]] = {}
        for file in files:
            for mount, inode in self._wanted(file):
                wanted.setdefault(mount.id, set()).add(inode)
        for identity, inodes in wanted.items():
            self._names[identity] = self._find(self._tree.by_id[identity], inodes)
            for found in self._names[identity].values():
                for path in found:
                    self._look(path)

    def _wanted(self, file: OpenFile) -> Iterator[tuple[Mount, int]]:
        mount = self._tree.by_id.get(MountId(file.mnt_id))
        if mount is not None and file.stat is not None and may_have_names(file):
            yield mount, file.stat.ino
        for mark in file.marks:
            for each in self._widest(mark.dev) if mark.ino else ():
                yield each, mark.ino

    def _widest(self, dev: str) -> Iterator[Mount]:
        """Give mounts that together show all of a device that the namespace has, each part once."""
        shown: list[KPath] = []
        mounts = [each for each in self._tree.mounts if each.dev == dev]
        for mount in sorted(mounts, key=lambda each: len(bare_root(each))):
            if not any(paths.is_beneath(bare_root(mount), root) for root in shown):
                shown.append(bare_root(mount))
                yield mount

    def _find(self, mount: Mount, inodes: set[int]) -> dict[int, list[KPath]]:
        root = self._places.root(self._namespace.id)
        found: dict[int, list[KPath]] = {}
        why = "the root of the namespace is not known"
        if root is not None:
            try:
                found, whole = find_names(root, mount, inodes)
            except OSError as error:
                why = _why(error)
            else:
                if whole:
                    return found
                why = f"it has more than {MOST}"
        self._cut.add(mount.dev)
        what = f"all names on mount {mount.id} at {mount.mountpoint}"
        self.unseen.append(Unseen(what=what, why=why))
        return found

    def _with_names(self, file: OpenFile) -> OpenFile:
        """Give a file whose name is gone with the other names that it has."""
        if file.stat is None or not may_have_names(file):
            return file
        found = self._names.get(MountId(file.mnt_id), {}).get(file.stat.ino, ())
        names = tuple(each for each in found if _is_same(self.seen[each].stat, file.stat))
        return msgspec.structs.replace(file, names=names) if names else file

    def _with_marks(self, file: OpenFile) -> OpenFile:
        """Say of what is watched whether there may be names that nobody looked at."""
        if not any(mark.dev in self._cut for mark in file.marks):
            return file
        marks = tuple(
            msgspec.structs.replace(mark, cut=mark.dev in self._cut) for mark in file.marks
        )
        return msgspec.structs.replace(file, marks=marks)

    def _with_place(self, file: OpenFile) -> OpenFile:
        """Say of a file of a mount that no table has whether the host has it by its path."""
        if file.stat is None or not is_foreign(file, self._tree.by_id):
            return file
        try:
            there = path_stat(os.stat(decode(file.shown)))
        except OSError:
            there = None
        return (
            file if same_file(there, file.stat) else msgspec.structs.replace(file, not_on_host=True)
        )


def _parts(layers: _Layers, path: bytes) -> Iterator[LayerPart]:
    """Give what each layer has at a path: in the directories that merge, the name."""
    from mountcr.rootfs.inode import TYPE_BITS

    if not path:
        found: Iterable[tuple[int, bytes]] = ((each.layer, b"") for each in layers.view.parts(b""))
    else:
        parent, _, name = path.rpartition(b"/")
        found = (
            (each.layer, b"%s/%s" % (each.path, name) if each.path else name)
            for each in layers.view.parts(parent)
            if not each.borrowed
        )
    for number, where in found:
        marked = layers.view.layers[number].inode(where)
        if marked is None:
            continue
        inode = marked.inode
        yield LayerPart(
            layer=layers.names[number],
            stat=PathStat(
                dev=devices.of_stat(inode.identity[0]),
                ino=inode.identity[1],
                mode=inode.mode | TYPE_BITS[inode.type],
                nlink=inode.nlink,
                size=inode.size,
                rdev=inode.rdev,
                type=inode.type,
            ),
            opaque=marked.opaque,
            metacopy=marked.metacopy,
        )


def _is_same(stat: PathStat | None, other: PathStat) -> bool:
    """Tell the same inode; a FUSE server may number two files of its layers alike."""
    if stat is None:
        return False
    return (stat.dev, stat.ino, stat.mode, stat.size) == (
        other.dev,
        other.ino,
        other.mode,
        other.size,
    )


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
