# SPDX-License-Identifier: Apache-2.0
"""
Snapshots: from what a snapshotter has on record to the directories of a root file system.

The snapshotters overlayfs, native and btrfs keep a `metadata.db` (core/snapshots/storage/bolt.go of
containerd 2.0): `v1/snapshots/NAME` with `id`, a varint that names its directory, `kind`, and the
name of its `parent`. Mounts are computed from it (`mounts()` in plugins/snapshots/*), never stored.
overlayfs adds `index=off` and `userxattr` where the kernel asks for them, which is not on record.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from mountcr import bolt
from mountcr.container import Damage
from mountcr.engines.containerd.metadata import Flaw, complaint, snapshot_name, text
from mountcr.engines.containerd.places import Instance, named
from mountcr.engines.containerd.wire import varint
from mountcr.errors import DocumentError
from mountcr.paths import encode, fsdecode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mountcr.bolt import Bucket
    from mountcr.engines.roots import Place
    from mountcr.paths import KPath

__all__ = [
    "Committed",
    "Layers",
    "Snapshot",
    "Snapshots",
    "committed",
    "damage",
    "snapshot_stack",
]

_VIEW: Final = 1
_ACTIVE: Final = 2
_COMMITTED: Final = 3
_KINDS: Final = {_VIEW: "a view", _ACTIVE: "active", _COMMITTED: "committed"}

_MAPPINGS: Final = (
    b"containerd.io/snapshot/uidmapping",
    b"containerd.io/snapshot/gidmapping",
)
"""Labels of a snapshot that is mounted with other owners (core/snapshots/snapshotter.go)."""

_ALONE: Final = 3
"""So many snapshots are looked up alone; who asks for more is given them from all of them."""


class Layers(NamedTuple):
    """The stack of a snapshot, None where it cannot be told, which file told, and the damages."""

    stack: Stack | None
    told: tuple[str, ...] = ()
    damages: tuple[Damage, ...] = ()


class Snapshot(NamedTuple):
    """A snapshot on record: its directory, its kind, its parent, and how owners are mapped."""

    id: int
    kind: int
    parent: str
    mappings: tuple[str, ...] = ()


_Find: TypeAlias = "Callable[[str], Snapshot | Flaw | None]"
_Shape: TypeAlias = "Callable[[str, Snapshot, Iterator[Snapshot]], Stack]"


class _BrokenError(Exception):
    """A chain that ends where it must not."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field}: {what}")
        self.flaw = Flaw(field, what)


class Snapshots:
    """The snapshots of one containerd, remembered as far as they were read."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._databases: dict[str, _Database] = {}

    def layers(self, snapshotter: str, name: str) -> Layers:
        """Give the layers of a snapshot by the name that its snapshotter has for it."""
        directory = self._instance.snapshotter(snapshotter)
        file = f"{directory}/metadata.db"
        shape = _SHAPES.get(snapshotter)
        if shape is None:
            what = f"mountcr reads no snapshots of {snapshotter}, only of {', '.join(_SHAPES)}"
            return _broken(directory, Flaw("", what))
        database = self._databases.get(file) or self._databases.setdefault(
            file, _Database(directory)
        )
        try:
            own, stack = database.shaped(name, shape)
        except _BrokenError as error:
            return _broken(file, error.flaw)
        except (DocumentError, OSError) as error:
            return _broken(file, Flaw("", complaint(error, file)))
        where = f"{encode(file)}: v1/snapshots/{encode(name)}"
        absent = tuple(_absent(stack, f"{where}/id"))
        if any(os.path.lexists(fsdecode(each.file)) for each in absent):
            return Layers(None, damages=absent)
        told = tuple(_told(where, own, stack))
        return Layers(msgspec.structs.replace(stack, provenance=told), told, absent)


def snapshot_stack(places: Iterable[Place], namespace: str, snapshotter: str, key: str) -> Layers:
    """
    Give the layers of a snapshot by its key in a namespace, of the first containerd that has it.

    Docker keeps its containers so where it uses the image store of containerd: in the namespace
    `moby`, and the key is the id of the container.
    """
    asked = list(places)
    found = named(asked)
    damages: list[Damage] = []
    field = f"v1/{namespace}/snapshots/{snapshotter}/{key}"
    for instance in found:
        file = instance.database
        try:
            name = snapshot_name(file, namespace, snapshotter, key)
        except (DocumentError, OSError) as error:
            damages.append(damage(file, Flaw(field, complaint(error, file))))
            continue
        if name is not None:
            layers = Snapshots(instance).layers(snapshotter, name)
            told = (f"snapshot: {encode(file)}: {field}/name", *layers.told)
            return layers._replace(told=told)
        damages.append(damage(file, Flaw(field, "is missing")))
    if not found:
        damages.extend(Damage(file=place.data, what="is no root of containerd") for place in asked)
    return Layers(None, damages=tuple(damages))


class Committed(NamedTuple):
    """
    What a snapshotter has committed, by name: the directory and, if any is, how owners are mapped.

    `flat` tells that each has all that is below it too.
    """

    directories: dict[str, tuple[str, tuple[str, ...]]]
    flat: bool
    flaws: tuple[Flaw, ...] = ()


def committed(instance: Instance, snapshotter: str) -> Committed | None:
    """
    Give the committed snapshots, whether their directories are there or not.

    None for a snapshotter that is not read. Raises DocumentError and OSError.
    """
    place = _COMMITTED_AT.get(snapshotter)
    if place is None:
        return None
    root = os.path.realpath(instance.snapshotter(snapshotter))
    found = bolt.read(encode(f"{root}/metadata.db"), _all)
    return Committed(
        {
            name: (f"{root}/{place.format(each.id)}", each.mappings)
            for name, each in found.items()
            if isinstance(each, Snapshot) and each.kind == _COMMITTED
        },
        snapshotter != "overlayfs",
        tuple(each for each in found.values() if isinstance(each, Flaw)),
    )


class _Database:
    """The database of a snapshotter; a few chains are looked up, then all of it is read."""

    def __init__(self, directory: str) -> None:
        self._root = os.path.realpath(directory)
        self._file = f"{directory}/metadata.db"
        self._known: dict[str, Snapshot | Flaw] = {}
        self._asked = 0

    def shaped(self, name: str, shape: _Shape) -> tuple[Snapshot, Stack]:
        """
        Give a snapshot, and its stack; of its parents are read as many as the shape needs.

        Raises _BrokenError where one of them is missing or damaged, DocumentError and OSError.
        """

        def stacked(find: _Find) -> tuple[Snapshot, Stack]:
            chain = _walk(name, find)
            own = next(chain)
            if own.kind == _COMMITTED:
                what = "the snapshot is committed, and nothing runs in such a one"
                raise _BrokenError(f"v1/snapshots/{name}/kind", what)
            return own, shape(self._root, own, chain)

        self._asked += 1
        if self._asked == _ALONE + 1:
            self._known = bolt.read(encode(self._file), _all)
        if self._asked > _ALONE:
            return stacked(self._known.get)
        return bolt.read(encode(self._file), lambda bucket: stacked(_finder(bucket)))


def _walk(name: str, find: _Find) -> Iterator[Snapshot]:
    """Give a snapshot and its parents, the nearest first."""
    seen: set[str] = set()
    field = "v1/snapshots"
    while name:
        found = find(name)
        if found is None:
            raise _BrokenError(field, f"leads to {name}, which is missing")
        if isinstance(found, Flaw):
            raise _BrokenError(*found)
        if name in seen:
            raise _BrokenError(field, f"leads to {name}, which leads back to it")
        if seen and found.kind != _COMMITTED:
            raise _BrokenError(f"v1/snapshots/{name}/kind", f"a parent is {_kind(found.kind)}")
        seen.add(name)
        field = f"v1/snapshots/{name}/parent"
        yield found
        name = found.parent


def _finder(bucket: Bucket) -> _Find:
    snapshots = bucket.bucket(b"v1", b"snapshots")

    def find(name: str) -> Snapshot | Flaw | None:
        found = snapshots.bucket(name.encode()) if snapshots else None
        return None if found is None else _snapshot(name, found)

    return find


def _all(bucket: Bucket) -> dict[str, Snapshot | Flaw]:
    """Read every snapshot; behind a page of names that is damaged there are none."""
    found: dict[str, Snapshot | Flaw] = {}
    snapshots = bucket.bucket(b"v1", b"snapshots")
    for key, item in snapshots.buckets() if snapshots else ():
        name = key.decode(errors="backslashreplace")
        try:
            found[name] = _snapshot(name, item)
        except DocumentError as error:
            found[name] = Flaw(f"v1/snapshots/{name}", str(error).partition(": ")[2])
    return found


def _snapshot(name: str, bucket: Bucket) -> Snapshot | Flaw:
    """Read a snapshot."""
    values = dict(bucket.pairs())
    kind = values.get(b"kind", b"")
    if len(kind) != 1 or kind[0] not in _KINDS:
        return Flaw(f"v1/snapshots/{name}/kind", f"is {kind!r}, no kind of a snapshot")
    try:
        number = varint(values.get(b"id", b""))[0]
    except ValueError as error:
        return Flaw(f"v1/snapshots/{name}/id", f"is no number: {error}")
    labels = bucket.bucket(b"labels")
    mappings = tuple(text(labels, key) for key in _MAPPINGS) if labels else ()
    parent = values.get(b"parent", b"").decode(errors="backslashreplace")
    return Snapshot(number, kind[0], parent, mappings if any(mappings) else ())


def _kind(kind: int) -> str:
    return _KINDS.get(kind, "of no known kind")


def _overlayfs(root: str, own: Snapshot, parents: Iterator[Snapshot]) -> Stack:
    """Stack the directories `fs`; one alone is bound, since an overlay needs two."""
    upper = encode(f"{root}/snapshots/{own.id}/fs")
    lowers = tuple(encode(f"{root}/snapshots/{each.id}/fs") for each in parents)
    if own.kind == _VIEW:
        return Stack(driver="overlay" if len(lowers) > 1 else "vfs", lowers=lowers or (upper,))
    if not lowers:
        return Stack(driver="vfs", upper=upper)
    work = encode(f"{root}/snapshots/{own.id}/work")
    return Stack(driver="overlay", lowers=lowers, upper=upper, work=work)


def _native(root: str, own: Snapshot, parents: Iterator[Snapshot]) -> Stack:
    """Give a copy of everything; a view is that of its parent."""
    shown = next(parents, own) if own.kind == _VIEW else own
    return _directory(own, f"{root}/snapshots/{shown.id}")


def _btrfs(root: str, own: Snapshot, parents: Iterator[Snapshot]) -> Stack:  # noqa: ARG001 -- a shape's
    """Give a subvolume, by its directory in the file system of the snapshotter."""
    return _directory(own, f"{root}/{'view' if own.kind == _VIEW else 'active'}/{own.id}")


_SHAPES: Final[dict[str, _Shape]] = {"overlayfs": _overlayfs, "native": _native, "btrfs": _btrfs}


_COMMITTED_AT: Final = {
    "overlayfs": "snapshots/{}/fs",
    "native": "snapshots/{}",
    "btrfs": "snapshots/{}",
}
"""Where a committed snapshot is, by its id."""


def _directory(own: Snapshot, path: str) -> Stack:
    """Give one directory, which a view does not change."""
    directory = encode(path)
    if own.kind == _VIEW:
        return Stack(driver="vfs", lowers=(directory,))
    return Stack(driver="vfs", upper=directory)


def _absent(stack: Stack, told: str) -> Iterator[Damage]:
    """Give a damage for each directory that is not there; a symbolic link is none."""
    for path in (*stack.directories, *((stack.work,) if stack.work else ())):
        if not _is_directory(path):
            yield Damage(file=path, what=f"is no directory; {told} leads to it")


def _is_directory(path: KPath) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(fsdecode(path)).st_mode)
    except OSError:
        return False


def _told(where: str, own: Snapshot, stack: Stack) -> Iterator[str]:
    yield f"layers: {where}/id"
    if stack.driver == "overlay":
        yield f"lowers: {where}/parent"
    if own.mappings:
        yield f"owners: {where}/labels: {' and '.join(own.mappings)}"


def damage(file: str, flaw: Flaw) -> Damage:
    """Say what is wrong with a field of a database."""
    return Damage(file=encode(file), field=encode(flaw.field), what=flaw.what)


def _broken(file: str, flaw: Flaw) -> Layers:
    return Layers(None, damages=(damage(file, flaw),))
