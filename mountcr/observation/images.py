# SPDX-License-Identifier: Apache-2.0
"""
Facts from CRIU's images alone: what a dump that another tool made says of a container.

Mounts, tasks and files are as CRIU recorded them, which is less than a look at the living tasks
gives. Ids of namespaces are CRIU's own; pids are those inside. Which mounts are external, and by
which keys, is decided already: a restore has to give a source for exactly these.

The layers of the root are in no image. An overlay is shown without its directories, which are paths
of another host, or of another time; the container's record says what it is made of.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import paths
from mountcr.criu import taskimages
from mountcr.criu.holders import descriptors, mappings
from mountcr.criu.images import ImageSet
from mountcr.kernel import syscalls
from mountcr.model import (
    CgroupMember,
    Facts,
    FileKind,
    Host,
    InodeType,
    Mount,
    MountId,
    MountNamespace,
    OpenFile,
    PathStat,
    Task,
)
from mountcr.observation.stats import inode_type
from mountcr.paths import ROOT, KPath

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mountcr.criu.images import FileImage, MountImage, TaskImage
    from mountcr.criu.taskimages import GroupMember, PipeImage
    from mountcr.model import Container

__all__ = ["observe_images"]

_OPTIONS: Final = (
    (syscalls.MS_NOSUID, "nosuid"),
    (syscalls.MS_NODEV, "nodev"),
    (syscalls.MS_NOEXEC, "noexec"),
    (syscalls.MS_NOATIME, "noatime"),
    (syscalls.MS_NODIRATIME, "nodiratime"),
    (syscalls.MS_RELATIME, "relatime"),
    (syscalls.MS_NOSYMFOLLOW, "nosymfollow"),
)
"""Attributes of a mount in the order of mountinfo (fs/proc_namespace.c, `show_mnt_opts()`)."""

_SUPER_OPTIONS: Final = (
    (syscalls.MS_SYNCHRONOUS, "sync"),
    (syscalls.MS_DIRSYNC, "dirsync"),
    (syscalls.MS_LAZYTIME, "lazytime"),
)
"""Flags of a superblock as mountinfo shows them (`show_sb_opts()`)."""

UNKNOWN: Final = "unknown"
"""What stands for a type that CRIU did not record, which is so for external mounts only."""

_LAYERS: Final = ("lowerdir=", "lowerdir+=", "datadir+=", "upperdir=", "workdir=")
_NOT_SHOWN: Final = ("newinstance",)
"""What CRIU adds to the options of a devpts (criu/filesystems.c, `devpts_parse()`)."""

_DELETED: Final = "//deleted"
_GONE: Final = "\\040(deleted)"


def observe_images(
    images: KPath, container: Container, *, types: Mapping[KPath, InodeType] | None = None
) -> Facts:
    """
    Give the facts of a container of which there are images in a directory.

    `types` are those of mountpoints, as far as somebody recorded them. Raises ImageError for what
    are no images, or damaged ones.
    """
    found = ImageSet(images)
    reader = _Reader(found, types or {})
    root = found.root_mount_namespace
    tables = found.mount_namespaces()  # in which the last line of mountinfo comes first
    numbers = sorted(tables, key=lambda number: (number != root, number))
    tasks = tuple(reader.tasks())
    namespaces = tuple(
        MountNamespace(
            id=number,
            pid=next((each.pid for each in tasks if each.mount_namespace == number), 0),
            mounts=tuple(reader.mount(each) for each in reversed(tables[number])),
        )
        for number in numbers
    )
    host = Host(namespaces=taskimages.host_namespaces(found))
    return Facts(container=container, tasks=tasks, namespaces=namespaces, host=host, of_images=True)


class _Reader:
    """One set of images, with what more than one task refers to."""

    def __init__(self, images: ImageSet, types: Mapping[KPath, InodeType]) -> None:
        self._images = images
        self._files = {each.id: each for each in images.regular_files()}
        self._pipes = taskimages.pipes(images)
        self._groups = taskimages.group_sets(images)
        self._locked = taskimages.locked(images)
        self._types = types
        self._devices = {
            each.id: each.dev for table in images.mount_namespaces().values() for each in table
        }

    # --- Mounts -----------------------------------------------------------------------------------

    def mount(self, image: MountImage) -> Mount:
        optional = [f"shared:{image.shared}"] if image.shared else []
        optional += [f"master:{image.master}"] if image.master else []
        optional += ["unbindable"] if image.flags & syscalls.MS_UNBINDABLE else []
        return Mount(
            id=MountId(image.id),
            parent=MountId(image.parent),
            dev=image.dev,
            root=KPath(f"{image.root}{_DELETED}") if image.deleted else image.root,
            mountpoint=image.mountpoint,
            options=_words(image.flags, _OPTIONS),
            optional=tuple(optional),
            fstype=image.fstype or UNKNOWN,
            source=image.source,
            super_options=_super_options(image),
            type=self._type(image),
            external=image.external,
        )

    def _type(self, image: MountImage) -> InodeType | None:
        """Say what a mountpoint is: as somebody recorded it, or as what was open there tells."""
        if image.mountpoint in self._types:
            return self._types[image.mountpoint]
        if image.external == "/dev/null":
            return InodeType.CHARACTER
        if image.root == ROOT:
            return InodeType.DIRECTORY
        for file in self._files.values():
            if file.mnt_id == image.id:
                at_it = file.path == image.mountpoint
                if not at_it:
                    return InodeType.DIRECTORY
                if file.mode is not None:
                    return inode_type(file.mode)
        return None

    # --- Tasks ------------------------------------------------------------------------------------

    def tasks(self) -> Iterator[Task]:
        for image in self._images.tasks():
            core = taskimages.core(self._images, image.pid)
            yield Task(
                pid=image.pid,
                parent=image.parent,
                start_time=0,
                command=core.command or self._program(image),
                namespaces=taskimages.namespaces(self._images, image.pid),
                inner_pid=image.pid,
                session=image.session,
                files=tuple(self._held(image)),
                cgroups=_members(self._groups.get(core.group_set, ())),
            )

    def _program(self, image: TaskImage) -> str:
        file = self._files.get(image.exe)
        return paths.name(file.path) if file else ""

    def _held(self, image: TaskImage) -> Iterator[OpenFile]:
        kinds = ((FileKind.EXE, image.exe), (FileKind.CWD, image.cwd), (FileKind.ROOT, image.root))
        for kind, number in kinds:
            if number in self._files:
                yield self._open(self._files[number], kind)
        for number, fd in descriptors(self._images, image.pid):
            if number in self._files:
                locked = (image.pid, fd) in self._locked
                yield self._open(self._files[number], FileKind.FD, fd=fd, locked=locked)
            elif number in self._pipes:
                yield _pipe(self._pipes[number], fd)
        for area in mappings(self._images, image.pid):
            if area.file in self._files:
                found = self._open(self._files[area.file], FileKind.MAP)
                yield msgspec.structs.replace(
                    found, start=area.start, end=area.end, offset=area.offset
                )

    def _open(
        self,
        file: FileImage,
        kind: FileKind,
        *,
        fd: int = -1,
        locked: bool = False,
    ) -> OpenFile:
        gone = bool(file.remap) and file.remap != "procfs"
        descriptor = kind is FileKind.FD
        return OpenFile(
            kind=kind,
            shown=KPath(f"{file.path}{_GONE}") if gone else file.path,
            fd=fd,
            mnt_id=file.mnt_id,
            flags=file.flags if descriptor else 0,
            position=file.position if descriptor else -1,
            locked=locked,
            stat=self._stat(file),
        )

    def _stat(self, file: FileImage) -> PathStat | None:
        """Give what CRIU recorded of a file; inode numbers it did not."""
        if file.mode is None:
            return None
        return PathStat(
            dev=self._devices.get(file.mnt_id, "0:0"),
            ino=0,
            mode=file.mode,
            nlink=0 if file.remap == "ghost" else 1,
            size=file.size or 0,
            type=inode_type(file.mode),
        )


def _pipe(pipe: PipeImage, fd: int) -> OpenFile:
    return OpenFile(
        kind=FileKind.FD,
        shown=KPath(f"pipe:[{pipe.inode}]"),
        fd=fd,
        flags=pipe.flags,
        position=0,
        stat=PathStat(
            dev="0:0",
            ino=pipe.inode,
            mode=stat.S_IFIFO | 0o600,
            nlink=1,
            size=0,
            type=InodeType.FIFO,
        ),
    )


def _members(groups: Sequence[GroupMember]) -> tuple[CgroupMember, ...]:
    return tuple(
        CgroupMember(
            hierarchy=number if each.controllers else 0,
            controllers=each.controllers,
            path=each.path,
        )
        for number, each in enumerate(groups, 1)
    )


def _words(flags: int, table: tuple[tuple[int, str], ...]) -> str:
    access = "ro" if flags & os.ST_RDONLY else "rw"
    return ",".join((access, *(word for flag, word in table if flags & flag)))


def _super_options(image: MountImage) -> str:
    """
    Give the options of a superblock without the layers of an overlay.

    CRIU keeps what mountinfo says there but for the flags (criu/proc_parse.c, `parse_sb_opt()`).
    """
    words = [_words(image.super_flags, _SUPER_OPTIONS), *image.options.split(",")]
    hidden = _LAYERS if image.fstype == "overlay" else _NOT_SHOWN
    return ",".join(each for each in words if each and not each.startswith(hidden))
