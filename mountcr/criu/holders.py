# SPDX-License-Identifier: Apache-2.0
"""Who holds the files of a set of images, and what is in it of file systems in memory."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import devices
from mountcr.model import FileKind, Record
from mountcr.paths import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.criu.images import ImageSet, TaskImage

__all__ = [
    "Holder",
    "MappedImage",
    "TmpfsImage",
    "descriptors",
    "holders",
    "mappings",
    "mount_namespace_of",
    "tmpfs_contents",
]

_VMA_FILE: Final = 1 << 6 | 1 << 7
"""Private and shared mappings of files (criu/include/image.h)."""

_TMPFS: Final = re.compile(r"tmpfs-dev-(\d+)\.tar\.gz\.img")


class Holder(Record, frozen=True, kw_only=True):
    """A task that holds a file, by its pid inside, and how; `fd` is -1 unless by a descriptor."""

    pid: int
    kind: FileKind
    fd: int = -1


class TmpfsImage(Record, frozen=True, kw_only=True):
    """The content of a tmpfs: `dev` is `major:minor`, `bytes` the size of the compressed tar."""

    dev: str
    file: str
    bytes: int


class MappedImage(NamedTuple):
    """A mapping: the id of its file, from where to where, and where in the file, in bytes."""

    file: int
    start: int
    end: int
    offset: int


def holders(images: ImageSet) -> dict[int, tuple[Holder, ...]]:
    """
    Give who holds each file, by its id, in the order of the tasks.

    Raises ImageError for a damaged image. A task that had ended holds nothing.
    """
    found: dict[int, list[Holder]] = {}
    for task in images.tasks():
        for file, holder in _held(images, task):
            found.setdefault(file, []).append(holder)
    return {file: tuple(dict.fromkeys(each)) for file, each in found.items()}


def _held(images: ImageSet, task: TaskImage) -> Iterator[tuple[int, Holder]]:
    single = {FileKind.EXE: task.exe, FileKind.CWD: task.cwd, FileKind.ROOT: task.root}
    for kind, file in single.items():
        if file:
            yield file, Holder(pid=task.pid, kind=kind)
    for file, fd in descriptors(images, task.pid):
        yield file, Holder(pid=task.pid, kind=FileKind.FD, fd=fd)
    for area in mappings(images, task.pid):
        yield area.file, Holder(pid=task.pid, kind=FileKind.MAP)


def descriptors(images: ImageSet, pid: int) -> Iterator[tuple[int, int]]:
    """Give the ids of the files that a task has open, each with the number of its descriptor."""
    from mountcr.criu import images_pb2 as pb

    name = f"fdinfo-{_descriptors_of(images, pid)}.img"
    for entry in images.messages(name, pb.DescriptorEntry, missing_ok=True):
        yield entry.id, entry.fd


def mappings(images: ImageSet, pid: int) -> Iterator[MappedImage]:
    """Give the mappings of files of a task, by their addresses."""
    from mountcr.criu import images_pb2 as pb

    for memory in images.messages(f"mm-{pid}.img", pb.MmEntry, missing_ok=True):
        for area in memory.vmas:
            if area.status & _VMA_FILE:
                yield MappedImage(area.shmid, area.start, area.end, area.pgoff)


def _descriptors_of(images: ImageSet, pid: int) -> int:
    """Give the number of the image with a task's descriptors: that of the table, or the pid."""
    from mountcr.criu import images_pb2 as pb

    if not any(each.fdinfo_per_id for each in images.messages("inventory.img", pb.Inventory)):
        return pid
    ids = images.messages(f"ids-{pid}.img", pb.NamespaceIds, missing_ok=True)
    return ids[0].files if ids else 0


def mount_namespace_of(images: ImageSet, pid: int) -> int:
    """Give the key of a task's mount namespace in `mount_namespaces()`; 0 if it had ended."""
    from mountcr.criu import images_pb2 as pb

    ids = images.messages(f"ids-{pid}.img", pb.NamespaceIds, missing_ok=True)
    return ids[0].mnt if ids else 0


def tmpfs_contents(images: ImageSet) -> tuple[TmpfsImage, ...]:
    """Give which file systems in memory have their content in the set; CRIU makes tars of them."""
    found: list[TmpfsImage] = []
    for name in images.names():
        if match := _TMPFS.fullmatch(name):
            dev = devices.of_kernel(int(match[1]))
            size = os.stat(decode(images.path(name))).st_size
            found.append(TmpfsImage(dev=dev, file=name, bytes=size))
    return tuple(found)
