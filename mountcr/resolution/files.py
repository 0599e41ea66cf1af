# SPDX-License-Identifier: Apache-2.0
"""
Files as they are: for each that a task holds its path from the root of the container, its mount,
and what of its union it is.

Pure: all it goes by is in the facts. Each answer says how it was found; what cannot be known is
`unresolved`, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import paths
from mountcr.graph.superblock import short_type
from mountcr.graph.tree import MountTree
from mountcr.model import FileKind, InodeType, MountId, Record
from mountcr.paths import KPath
from mountcr.planning.remaps import DELETED
from mountcr.resolution import layers
from mountcr.resolution.nameless import name_of
from mountcr.resolution.quirks import Quirk
from mountcr.resolution.state import FileState, Judgement, state_in_union
from mountcr.resolution.symptoms import (
    NET_UNIX,
    foreign_files,
    has_path,
    is_foreign,
    is_misreported,
    same_file,
)
from mountcr.resolution.unions import UNIONS, Seen, Union, unions_of, without_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import Facts, Mount, OpenFile, SeenPath, Task
    from mountcr.resolution.layers import PathFix
    from mountcr.resolution.unions import Private

__all__ = [
    "FILES_SCHEMA",
    "FilesDocument",
    "ResolvedFile",
    "misreported",
    "resolve",
]

FILES_SCHEMA: Final = "mountcr/files/1"

_PSEUDO: Final = frozenset(
    {
        "tmpfs", "proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "debugfs",
        "tracefs", "securityfs", "fusectl", "configfs", "pstore", "binfmt_misc", "bpf", "nsfs",
        "hugetlbfs", "ramfs", "selinuxfs", "efivarfs",
    }
)  # fmt: skip
"""File systems without a disk below them."""

_DEVICES: Final = frozenset({InodeType.CHARACTER, InodeType.BLOCK})


class ResolvedFile(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A file of a task as the kernel shows it, and as it is.

    `fd` is None but for descriptors, `start` and `end` are the addresses of a mapping. `path` is
    from the root of the container, None where it cannot be known. `mnt_id` is that of the mount
    that the path lies on, -1 if none is. `quirks` are the names of `kernel-notes` of what had to be
    undone, `how` the method, `evidence` what it went by. `layer` is the one, on the host, that was
    told to have the file, where it was shown by that, and `inside` the path there.
    """

    pid: int
    kind: FileKind
    fd: int | None = None
    start: int | None = None
    end: int | None = None
    shown: KPath
    path: KPath | None
    mnt_id: int = -1
    mountpoint: KPath | None = None
    state: FileState
    quirks: tuple[Quirk, ...] = ()
    how: str
    evidence: tuple[str, ...] = ()
    layer: KPath | None = None
    inside: KPath | None = None


class FilesDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """What `mountcr files` says of a container."""

    schema: str = FILES_SCHEMA
    container: str
    files: tuple[ResolvedFile, ...]


def resolve(facts: Facts) -> tuple[ResolvedFile, ...]:
    """Resolve every file of every task, in the order of the facts."""
    resolver = _Resolver(facts)
    return tuple(resolver.resolve(task, file) for task in facts.tasks for file in task.files)


def misreported(facts: Facts) -> Iterator[tuple[int, OpenFile, ResolvedFile]]:
    """Give each file on a mount that is in no table of its task, with the pid, resolved."""
    resolver = _Resolver(facts)
    for task, file in foreign_files(facts):
        yield task.pid, file, resolver.resolve(task, file)


class _Answer(NamedTuple):
    """What was found out of a file; see `ResolvedFile`."""

    path: KPath | None
    state: FileState
    how: str
    mount: Mount | None = None
    quirks: tuple[Quirk, ...] = ()
    evidence: tuple[str, ...] = ()
    layer: KPath | None = None
    inside: KPath | None = None


class _Name(NamedTuple):
    """The path of a file, the quirks that were undone for it, and why it is gone if it is."""

    path: KPath
    quirks: tuple[Quirk, ...] = ()
    gone: str = ""


class _Resolver:
    """Resolves files of one container."""

    def __init__(self, facts: Facts) -> None:
        self._host = MountTree(facts.host.mounts)
        self._seen = Seen(facts)
        self._unread = any(each.what.endswith(NET_UNIX) for each in facts.unseen)
        self._trees = {each.id: MountTree(each.mounts) for each in facts.namespaces}
        self._unions = {
            identity: tuple(
                Union(identity, union.mount, union.stack, dict(self._private(facts, union)))
                for union in unions_of(tree, self._host, identity)
            )
            for identity, tree in self._trees.items()
        }

    def _private(self, facts: Facts, union: Union) -> Iterator[tuple[int, Private]]:
        """Learn what mounts show that are in no table, before anything is told by them."""
        tree = self._trees[union.namespace]
        for task in facts.tasks:
            for file in task.files if task.mount_namespace == union.namespace else ():
                foreign = is_foreign(file, tree.by_id)
                found = layers.learn(file, union, self._seen) if foreign else None
                if found:
                    yield file.mnt_id, found

    def resolve(self, task: Task, file: OpenFile) -> ResolvedFile:
        """Resolve one file."""
        namespace = task.mount_namespace
        tree = self._trees.get(namespace)
        if not self._has_path(file, tree):
            named = name_of(file, self._seen.of(namespace), tree, told=not self._unread)
            answer = _Answer(named.path, FileState.ANON, named.how, quirks=named.quirks)
        elif tree is None:
            answer = _unknown("the mount namespace of the task was not seen")
        else:
            answer = self._named(task, file, tree)
        return _row(task, file, answer)

    def _has_path(self, file: OpenFile, tree: MountTree | None) -> bool:
        """Tell a file with a path; one that is on a mount has it, whatever it is called."""
        mounted = tree is not None and MountId(file.mnt_id) in tree.by_id
        return has_path(file) or (mounted and file.shown.startswith("/"))

    def _named(self, task: Task, file: OpenFile, tree: MountTree) -> _Answer:
        fixes = self._fixes(task, file, tree)
        if len({fix.path for _, fix in fixes}) > 1:
            places = " and ".join(sorted({fix.path for _, fix in fixes}))
            return _unknown(f"what is shown may be {places}")
        if fixes:
            return self._in_union(file, *fixes[0])
        branch = self._branch(task, file)
        if branch:
            return _unknown(branch)
        if is_foreign(file, tree.by_id):
            return self._foreign(file)
        return self._as_shown(task, file, tree)

    def _foreign(self, file: OpenFile) -> _Answer:
        """Say of a file of a mount that the container does not have whether the host has it."""
        mount = self._host.by_id.get(MountId(file.mnt_id))
        if mount is not None:
            how = f"on mount {mount.id} of the host, at {mount.mountpoint}"
            return _Answer(None, FileState.EXTERNAL, how)
        what = f"inode {file.stat.dev} {file.stat.ino}" if file.stat else "its inode"
        return _unknown(f"mount {file.mnt_id} is in no table, and no layer has {what}")

    def _fixes(self, task: Task, file: OpenFile, tree: MountTree) -> list[tuple[Union, PathFix]]:
        """Ask the drivers of the unions of a namespace where a file is that is shown otherwise."""
        namespace = task.mount_namespace
        found = self._seen.at(namespace, file.shown)
        if not is_misreported(file, tree.by_id, found.stat if found else None):
            return []
        fixes = [
            (union, fix)
            for union in self._unions[namespace]
            if (fix := union.driver.logical_path(file, union, self._seen))
        ]
        told = without_suffix(file.mapping.path) if file.mapping else None
        return [each for each in fixes if each[1].path == told] or fixes

    def _branch(self, task: Task, file: OpenFile) -> str:
        """
        Say why a mapping of a file in a branch of AUFS may be one of the union.

        Where both accounts of a kernel show the branch, a mapping of the branch looks the same.
        """
        for union in self._unions[task.mount_namespace] if file.mapping else ():
            found = layers.beneath_branch(file.shown, union)
            if union.stack.driver == "aufs" and found:
                where = f"the AUFS at {union.mount.mountpoint}"
                return f"a file of branch {found[0]}, or of {where}, which may be shown by it"
        return ""

    def _as_shown(self, task: Task, file: OpenFile, tree: MountTree) -> _Answer:
        """Take a file for what is at its path, on the mount that the kernel names."""
        named = tree.by_id.get(MountId(file.mnt_id))
        mount = named or tree.lies_on(without_suffix(file.shown))
        if mount is None:
            return _unknown("the mount table has no root")
        for union in self._unions[task.mount_namespace]:
            if union.mount is mount:
                return self._in_union(file, union, None)
        return self._plain(task, file, mount)

    def _plain(self, task: Task, file: OpenFile, mount: Mount) -> _Answer:
        """Resolve a file of a mount that is no union."""
        name = self._name(file, task.mount_namespace, mount, None)
        judged = self._judge_plain(file, mount, self._trees[task.mount_namespace].root)
        if name.gone:
            judged = Judgement(FileState.DELETED, name.gone)
        path = _of_itself(name.path, mount, task) if short_type(mount) == "proc" else name.path
        how = "as shown" if path == file.shown else judged.because
        return _Answer(path, judged.state, how, mount, name.quirks, (judged.because,))

    def _judge_plain(self, file: OpenFile, mount: Mount, root: Mount | None) -> Judgement:
        kind = short_type(mount)
        if mount is root:
            if kind in UNIONS:
                return Judgement(FileState.UNRESOLVED, f"nobody tells the layers of the {kind}")
            return Judgement(
                FileState.UPPER, f"the root is a plain {kind}, which takes all changes"
            )
        device = file.stat is not None and file.stat.type in _DEVICES
        of_host = kind == "tmpfs" and mount.dev in self._host.devices
        if device or (kind in _PSEUDO and not of_host):
            return Judgement(FileState.PSEUDO, f"on {kind} at {mount.mountpoint}")
        return Judgement(FileState.EXTERNAL, f"on {kind} {mount.dev} at {mount.mountpoint}")

    def _in_union(self, file: OpenFile, union: Union, fix: PathFix | None) -> _Answer:
        """Resolve a file of a union: its name, then what of the union it is."""
        name = self._name(file, union.namespace, union.mount, fix)
        found = self._seen.at(union.namespace, name.path)
        cover = self._cover(union.namespace, union.mount, name.path)
        if name.gone:
            judged = Judgement(FileState.DELETED, name.gone)
        elif cover:
            judged = Judgement(FileState.UNRESOLVED, cover)
        else:
            judged = state_in_union(file, union, found, fix.layer if fix else None)
        quirks = name.quirks + _quirks(file, union, found, judged)
        shown = "as shown" if name.path == file.shown else judged.because
        evidence = (*(fix.evidence if fix else ()), judged.because)
        how = fix.how if fix else shown
        answer = _Answer(name.path, judged.state, how, union.mount, quirks, evidence)
        if fix is None or fix.layer is None or not union.on_host(fix.layer):
            return answer
        return answer._replace(layer=fix.layer, inside=union.inside(fix.path))

    def _cover(self, namespace: int, mount: Mount, path: KPath) -> str:
        """Say which mount lies over a path of another one, so that nobody saw what is there."""
        cover = self._trees[namespace].lies_on(path)
        if cover is None or cover is mount:
            return ""
        return f"mount {cover.id} at {cover.mountpoint} lies over it"

    def _name(self, file: OpenFile, namespace: int, mount: Mount, fix: PathFix | None) -> _Name:
        """
        Give the path of a file, which a driver may have told.

        A name may end as that of a file that is gone and be there, and a file may be gone of which
        the kernel does not say so.
        """
        name = _Name(fix.path, fix.quirks) if fix else _Name(file.shown)
        found = self._seen.at(namespace, name.path)
        if fix is None and file.shown.endswith(DELETED):
            if found and same_file(found.stat, file.stat):
                return name._replace(quirks=(Quirk.NAME_LIKE_DELETED,))
            name = _Name(without_suffix(file.shown))
        if name.path != file.shown and (fix.gone if fix else True):
            return _another(file, name, f"the kernel says that {name.path} is gone")
        if found is None or not found.missing or self._cover(namespace, mount, name.path):
            return name
        marked = file.shown.endswith(DELETED) and not name.path.endswith(DELETED)
        if fix is not None and not marked:
            name = name._replace(quirks=(*name.quirks, Quirk.DELETED_WITHOUT_MARK))
        return _another(file, name, f"nothing is at {name.path} any more")


def _another(file: OpenFile, name: _Name, why: str) -> _Name:
    """Give another name of a file whose own one is gone, if it has one."""
    if file.names:
        return _Name(file.names[0], (*name.quirks, Quirk.NAME_REMOVED))
    return name._replace(gone=why)


def _quirks(
    file: OpenFile, union: Union, found: SeenPath | None, judged: Judgement
) -> tuple[Quirk, ...]:
    """Name what else is shown otherwise than stat(2) says it of the path."""
    quirks: list[Quirk] = []
    mapping, stat = file.mapping, found.stat if found else None
    if mapping and stat and (mapping.dev, mapping.ino) != (stat.dev, stat.ino):
        quirks.append(Quirk.MAPPING_INODE)
    if judged.state is FileState.STALE and judged.proven:
        quirks.append(Quirk.STALE_BELOW_COPY)
    if judged.state is FileState.DELETED and file.stat is None and union.stack.driver == "aufs":
        quirks.append(Quirk.AUFS_STALE_HANDLE)
    return tuple(quirks)


def _of_itself(path: KPath, mount: Mount, task: Task) -> KPath:
    """Spell the directory of a task in proc as it does itself."""
    own = paths.join(mount.mountpoint, str(task.inner_pid or task.pid))
    if not paths.is_beneath(path, own):
        return path
    return paths.rebase(path, own, paths.join(mount.mountpoint, "self"))


def _unknown(reason: str) -> _Answer:
    return _Answer(None, FileState.UNRESOLVED, reason)


def _row(task: Task, file: OpenFile, answer: _Answer) -> ResolvedFile:
    mapped = file.kind is FileKind.MAP
    return ResolvedFile(
        pid=task.pid,
        kind=file.kind,
        fd=file.fd if file.kind is FileKind.FD else None,
        start=file.start if mapped else None,
        end=file.end if mapped else None,
        shown=file.shown,
        path=answer.path,
        mnt_id=answer.mount.id if answer.mount else file.mnt_id,
        mountpoint=answer.mount.mountpoint if answer.mount else None,
        state=answer.state,
        quirks=tuple(dict.fromkeys(answer.quirks)),
        how=answer.how,
        evidence=answer.evidence,
        layer=answer.layer,
        inside=answer.inside,
    )
