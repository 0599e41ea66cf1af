# SPDX-License-Identifier: Apache-2.0
r"""
What a directory of CRIU's images says, as plain records without protobuf.

Reads only; `mountcr.criu.imagefile`, whose names are here too, also writes. CRIU undoes `\040`,
`\011` and `\134` of the fields of mountinfo and leaves `\012` and `\043`; the records are in
mountinfo spelling again. Field meanings are those of CRIU 4.1.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from mountcr import devices, paths
from mountcr.criu.imagefile import DAMAGED, Entry, Image, another_kind, check, parse, read, write
from mountcr.errors import ImageError
from mountcr.paths import KPath

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

    from mountcr.criu import images_pb2

    M = TypeVar("M", bound=Message)

__all__ = [
    "CgroupImage",
    "Entry",
    "FileImage",
    "Image",
    "ImageSet",
    "MountImage",
    "TaskImage",
    "find_damage",
    "parse",
    "read",
    "spelled",
    "write",
]

_ENTRIES_ONLY: Final = re.compile(
    rb"(inventory|pstree|files|reg-files|cgroup|remap-fpath"
    rb"|(core|mm|fs|ids|fdinfo|pagemap|mountpoints|utsns)-\d+|ghost-file-[0-9a-f]+)\.img"
)
"""Images without raw data whose length only other images tell."""

_FSTYPES: Final = {
    1: "proc",
    2: "sysfs",
    3: "devtmpfs",
    4: "binfmt_misc",
    5: "tmpfs",
    6: "devpts",
    7: "simfs",
    8: "pstore",
    9: "securityfs",
    10: "fusectl",
    11: "debugfs",
    12: "cgroup",
    13: "aufs",
    14: "mqueue",
    15: "fuse",
    17: "overlay",
    18: "autofs",
    19: "tracefs",
    23: "cgroup2",
}
_REMAPS: Final = {0: "linked", 1: "ghost", 2: "procfs"}
_TYPE_REGULAR: Final = 1
_VMA_FILE: Final = 1 << 6 | 1 << 7  # private and shared mappings of files


class MountImage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A mount as CRIU recorded it.

    `fstype` is empty where CRIU does not know it, which is so for most external mounts. `flags`
    are the MS_* of mount(2), propagation included; `external` is the key that `--external
    mnt[KEY]:…` must give a source at restore, None for a mount that CRIU makes itself.
    """

    id: int
    parent: int
    fstype: str
    dev: str
    root: KPath
    mountpoint: KPath
    source: KPath
    options: str
    flags: int
    super_flags: int = 0
    shared: int = 0
    master: int = 0
    external: str | None = None
    deleted: bool = False


class FileImage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A regular file or directory that some task holds, as CRIU will open it.

    `path` is from the root of the mount namespace. CRIU refuses the restore if the file there has
    another `size` (bytes) or `mode` (type bits included); None where it does not look. `flags` are
    those of open(2). `external` files are given as descriptors. `remap` is `ghost` if the file
    was unlinked and its content is in the images, `linked` if CRIU linked it back into the root
    file system, `procfs` for a dead task's, else empty.
    """

    id: int
    path: KPath
    mnt_id: int = -1
    size: int | None = None
    mode: int | None = None
    flags: int = 0
    position: int = 0
    external: bool = False
    remap: str = ""


class TaskImage(msgspec.Struct, frozen=True, kw_only=True):
    """A task: its pid and parent inside, and the ids of its files; 0 for those of a dead task."""

    pid: int
    parent: int
    session: int
    cwd: int = 0
    root: int = 0
    exe: int = 0


class CgroupImage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A cgroup directory, by its path from the root of the hierarchy.

    `controllers` name the hierarchy: `("cpu", "cpuacct")`, `("name=systemd",)`, none for version
    2. `tasks` tells whether a task was in it. `mode` and the properties are None and empty where
    CRIU recorded none, which is so for `--manage-cgroups=ignore`.
    """

    controllers: tuple[str, ...]
    path: KPath
    tasks: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    properties: tuple[tuple[str, str], ...] = ()


class ImageSet:
    """
    The images of one dump. Each question reads its files again; nothing is kept.

    Raises ImageError if the directory holds no images, and from every question whose files are
    damaged.
    """

    def __init__(self, directory: KPath) -> None:
        self.directory = directory
        if not os.path.exists(paths.decode(self.path("inventory.img"))):
            raise ImageError(
                f"{directory} is not a directory of CRIU images: it has no inventory.img",
                file=self.path("inventory.img"),
                hint="CRIU writes it last: without it the dump did not come to its end",
            )

    def path(self, name: str) -> KPath:
        """Give the path of a file of the set."""
        return paths.join(self.directory, name)

    def names(self) -> list[str]:
        """Give the names of all image files, sorted."""
        found = os.listdir(paths.decode(self.directory))
        return sorted(os.fsdecode(name) for name in found if name.endswith(b".img"))

    def messages(self, name: str, kind: type[M], *, missing_ok: bool = False) -> list[M]:
        """
        Give the messages of a file of the set; none if it is `missing_ok` and missing.

        Raises ImageError if it is damaged, missing or of another kind.
        """
        path = self.path(name)
        try:
            image = read(path)
        except FileNotFoundError as error:
            if missing_ok:
                return []
            raise ImageError(f"{path} is missing", file=path, hint=DAMAGED) from error
        entries = image.messages(kind)
        if len(entries) < len(image.entries):
            raise another_kind(path, image.magic)
        return entries

    @property
    def image_version(self) -> int:
        """The version of the image format; 2 since CRIU 2.0."""
        return self._inventory().img_version

    @property
    def dump_uptime(self) -> int | None:
        """How long the machine was up at the dump; None if CRIU did not record it."""
        inventory = self._inventory()
        return inventory.dump_uptime if inventory.HasField("dump_uptime") else None

    @property
    def frozen_seconds(self) -> float | None:
        """How long the tasks were frozen by the dump; None if CRIU left no statistics."""
        from mountcr.criu import images_pb2 as pb

        entries = self.messages("stats-dump", pb.Statistics, missing_ok=True)
        return entries[0].dump.frozen_time / 1e6 if entries else None

    @property
    def root_pid(self) -> int:
        """The pid of the root task, as the dumping CRIU saw it."""
        return self.tasks()[0].pid

    @property
    def root_mount_namespace(self) -> int:
        """CRIU's id of the root task's mount namespace, a key of `mount_namespaces()`."""
        from mountcr.criu import images_pb2 as pb

        return self._one(f"ids-{self.root_pid}.img", pb.NamespaceIds).mnt

    def mount_namespaces(self) -> dict[int, list[MountImage]]:
        """
        Give the mounts of each namespace that CRIU restores, in the order of the image.

        Empty if the tasks were in CRIU's own mount namespace. Keys are ids of CRIU, not inodes.
        """
        from mountcr.criu import images_pb2 as pb

        found: dict[int, list[MountImage]] = {}
        for name in self.names():
            match = re.fullmatch(r"mountpoints-(\d+)\.img", name)
            if match:
                found[int(match[1])] = [
                    _mount(entry) for entry in self.messages(name, pb.MountEntry)
                ]
        return found

    def regular_files(self) -> list[FileImage]:
        """
        Give every regular file, directory and device that a task holds.

        A CRIU before 3.x wrote them into reg-files.img alone.
        """
        from mountcr.criu import images_pb2 as pb

        remaps = self._remaps()
        regular = self.messages("reg-files.img", pb.RegularFile, missing_ok=True)
        regular += [
            entry.reg
            for entry in self.messages("files.img", pb.FileEntry, missing_ok=bool(regular))
            if entry.type == _TYPE_REGULAR and entry.HasField("reg")
        ]
        return [_file(entry, remaps.get(entry.id, "")) for entry in regular]

    def mapped_file_ids(self) -> frozenset[int]:
        """Give the ids of the files that are mapped or executed: of these CRIU checks build-ids."""
        from mountcr.criu import images_pb2 as pb

        ids: set[int] = set()
        for name in self.names():
            if not re.fullmatch(r"mm-\d+\.img", name):
                continue
            for memory in self.messages(name, pb.MmEntry):
                ids.add(memory.exe_file_id)
                ids.update(vma.shmid for vma in memory.vmas if vma.status & _VMA_FILE)
        return frozenset(ids)

    def tasks(self) -> list[TaskImage]:
        """Give the tasks, the root task first. Raises ImageError if there is none."""
        from mountcr.criu import images_pb2 as pb

        tasks: list[TaskImage] = []
        for entry in self.messages("pstree.img", pb.PstreeEntry):
            fs = self.messages(f"fs-{entry.pid}.img", pb.FsEntry, missing_ok=True)
            mm = self.messages(f"mm-{entry.pid}.img", pb.MmEntry, missing_ok=True)
            tasks.append(
                TaskImage(
                    pid=entry.pid,
                    parent=entry.ppid,
                    session=entry.sid,
                    cwd=fs[0].cwd_id if fs else 0,
                    root=fs[0].root_id if fs else 0,
                    exe=mm[0].exe_file_id if mm else 0,
                )
            )
        if not tasks:
            raise _empty(self.path("pstree.img"))
        return tasks

    def cgroups(self) -> list[CgroupImage]:
        """
        Give every cgroup directory that a task was in or that CRIU recorded, parents first.

        Empty if all tasks were in the cgroups of the dumping CRIU.
        """
        from mountcr.criu import images_pb2 as pb

        entries = self.messages("cgroup.img", pb.CgroupEntry, missing_ok=True)
        with_tasks = {
            (_controllers(member.name), _cgroup_path("", member.path))
            for entry in entries
            for group in entry.sets
            for member in group.members
        }
        found: dict[tuple[tuple[str, ...], KPath], CgroupImage] = {
            key: CgroupImage(controllers=key[0], path=key[1], tasks=True) for key in with_tasks
        }
        for entry in entries:
            for hierarchy in entry.controllers:
                controllers = _controllers(b",".join(hierarchy.names))
                for path, directory in _directories("", hierarchy.directories):
                    key = (controllers, path)
                    found[key] = _cgroup(controllers, path, directory, tasks=key in with_tasks)
        return [found[key] for key in sorted(found)]

    def _inventory(self) -> images_pb2.Inventory:
        from mountcr.criu import images_pb2 as pb

        return self._one("inventory.img", pb.Inventory)

    def _remaps(self) -> dict[int, str]:
        from mountcr.criu import images_pb2 as pb

        entries = self.messages("remap-fpath.img", pb.RemapEntry, missing_ok=True)
        return {entry.orig_id: _REMAPS.get(entry.remap_type, "linked") for entry in entries}

    def _one(self, name: str, kind: type[M]) -> M:
        entries = self.messages(name, kind)
        if not entries:
            raise _empty(self.path(name))
        return entries[0]


def find_damage(directory: KPath) -> ImageError | None:
    """
    Look for an image that is cut off or no image, among those that hold nothing but entries.

    Types that mountcr does not read are looked at as far as their lengths go.
    """
    for name in sorted(os.listdir(paths.decode(directory))):
        if not _ENTRIES_ONLY.fullmatch(name):
            continue
        try:
            check(paths.join(directory, paths.encode(name)))
        except ImageError as error:
            return error
    return None


def _empty(path: KPath) -> ImageError:
    return ImageError(f"{path} has no entry", file=path, hint=DAMAGED)


def _mount(entry: images_pb2.MountEntry) -> MountImage:
    fstype = _FSTYPES.get(entry.fstype, "") or _text(entry.fsname)
    return MountImage(
        id=entry.mnt_id,
        parent=entry.parent_mnt_id,
        fstype=fstype,
        dev=devices.of_kernel(entry.root_dev),
        root=spelled(entry.root),
        mountpoint=spelled(entry.mountpoint),
        source=spelled(entry.source),
        options=paths.from_line(entry.options),
        flags=entry.flags,
        super_flags=entry.sb_flags,
        shared=entry.shared_id,
        master=entry.master_id,
        external=spelled(entry.ext_key) if entry.HasField("ext_key") else None,
        deleted=entry.deleted,
    )


def _file(entry: images_pb2.RegularFile, remap: str) -> FileImage:
    return FileImage(
        id=entry.id,
        path=paths.encode(entry.name),
        mnt_id=entry.mnt_id if entry.HasField("mnt_id") else -1,
        size=entry.size if entry.HasField("size") else None,
        mode=entry.mode if entry.HasField("mode") else None,
        flags=entry.flags,
        position=entry.pos,
        external=entry.ext,
        remap=remap,
    )


def _cgroup(
    controllers: tuple[str, ...], path: KPath, entry: images_pb2.CgroupDirectory, *, tasks: bool
) -> CgroupImage:
    known = entry.HasField("permissions")
    return CgroupImage(
        controllers=controllers,
        path=path,
        tasks=tasks,
        mode=entry.permissions.mode if known else None,
        uid=entry.permissions.uid,
        gid=entry.permissions.gid,
        properties=tuple((_text(item.name), _text(item.value)) for item in entry.properties),
    )


def _directories(
    above: str, entries: Iterable[images_pb2.CgroupDirectory]
) -> Iterator[tuple[KPath, images_pb2.CgroupDirectory]]:
    for entry in entries:
        path = _cgroup_path(above, entry.name)
        yield path, entry
        yield from _directories(path, entry.children)


def _cgroup_path(above: str, name: bytes) -> KPath:
    return paths.join(KPath(above or "/"), paths.encode(name))


def _controllers(names: bytes) -> tuple[str, ...]:
    return tuple(sorted(name for name in _text(names).split(",") if name))


def _text(raw: bytes) -> str:
    return paths.from_line(raw)


def spelled(raw: bytes) -> KPath:
    r"""Give back the spelling of mountinfo, of which CRIU undid all but `\012` and `\043`."""
    return KPath(re.sub(r"\\134(012|043)", r"\\\1", paths.encode(raw)))
