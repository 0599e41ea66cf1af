# SPDX-License-Identifier: Apache-2.0
"""
Images: what a directory that CRIU wrote says of mounts, files and tasks, and changes of it.

Works on the images of any CRIU, with or without a manifest of mountcr.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

from mountcr.criu.holders import (
    Holder,
    TmpfsImage,
    holders,
    mount_namespace_of,
    tmpfs_contents,
)
from mountcr.criu.images import ImageSet
from mountcr.criu.imageset import replace
from mountcr.criu.rewriting import Operation, PathMap, rewrite
from mountcr.errors import ImageError, NotFoundError
from mountcr.kernel.syscalls import MS_UNBINDABLE
from mountcr.manifest import MANIFEST
from mountcr.model import Record
from mountcr.paths import ROOT, KPath, decode, encode, is_beneath

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from mountcr.criu.imagefile import Image
    from mountcr.criu.images import FileImage, MountImage, TaskImage

    M = TypeVar("M", bound=Message)

__all__ = [
    "IMAGES_SCHEMA",
    "ImageChange",
    "ImagesResult",
    "ShownFile",
    "ShownMount",
    "ShownTask",
    "change_images",
    "show_images",
]

IMAGES_SCHEMA: Final = "mountcr/images/1"


class ShownMount(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A mount. `namespace` is CRIU's id of the mount namespace, `fstype` empty where CRIU knows none.

    `external` is the key that a restore has to give a source for, None for a mount that CRIU makes
    itself; `propagation` is `private`, or the words of mountinfo.
    """

    namespace: int
    id: int
    parent: int
    mountpoint: KPath
    fstype: str
    dev: str
    root: KPath
    source: KPath
    options: str
    propagation: str
    external: str | None
    deleted: bool


class ShownFile(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    A file. `path` is from the root of the mount namespace, `mountpoint` None if CRIU named none.

    `size` (bytes) and `mode` (with the type) are what CRIU compares, None where it does not; the
    others are as in `mountcr.criu.images.FileImage`.
    """

    id: int
    path: KPath
    mnt_id: int
    mountpoint: KPath | None
    size: int | None
    mode: int | None
    flags: int
    position: int
    external: bool
    remap: str
    held: tuple[Holder, ...]


class ShownTask(Record, frozen=True, kw_only=True, omit_defaults=False):
    """A task, by its pid inside. `namespace` is 0 and the paths are None for one that had ended."""

    pid: int
    parent: int
    session: int
    namespace: int
    cwd: KPath | None
    root: KPath | None
    exe: KPath | None


class ImageChange(Record, frozen=True, kw_only=True, omit_defaults=False):
    """What one operation changed: how many entries, of which files; `what` says it in words."""

    operation: Operation
    what: str
    files: tuple[str, ...]
    entries: int


class ImagesResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What the images say.

    `version` is that of CRIU's format; `uptime` how long the machine was up at the dump, and
    `frozen` how long the tasks stood still, both in seconds and None where that is not recorded.
    `parent` is where the images lead to that these are a difference to, None if they stand alone.
    `changes` is empty unless something was to be changed; then the others say what is there
    afterwards, or would be.
    """

    schema: str = IMAGES_SCHEMA
    images: KPath
    version: int
    root_pid: int
    uptime: float | None
    frozen: float | None
    parent: KPath | None
    mounts: tuple[ShownMount, ...]
    files: tuple[ShownFile, ...]
    tasks: tuple[ShownTask, ...]
    tmpfs: tuple[TmpfsImage, ...]
    changes: tuple[ImageChange, ...] = ()
    notes: tuple[str, ...] = ()


def show_images(directory: KPath) -> ImagesResult:
    """
    Read a set of images.

    Raises NotFoundError where there is no directory, ImageError for one without images or with
    damaged ones, OSError for what cannot be read.
    """
    return _show(_open(directory))


def _show(images: ImageSet) -> ImagesResult:
    mounts = {
        mount.id: _mount(namespace, mount)
        for namespace, found in sorted(images.mount_namespaces().items())
        for mount in found
    }
    held = holders(images)
    files = {each.id: each for each in images.regular_files()}
    uptime = images.dump_uptime
    return ImagesResult(
        images=images.directory,
        version=images.image_version,
        root_pid=images.root_pid,
        uptime=None if uptime is None else uptime / 1e6,
        frozen=images.frozen_seconds,
        parent=_parent(images),
        mounts=tuple(mounts.values()),
        files=tuple(
            _file(each, mounts.get(each.mnt_id), held.get(each.id, ())) for each in files.values()
        ),
        tasks=tuple(_task(images, each, files) for each in images.tasks()),
        tmpfs=tmpfs_contents(images),
    )


def change_images(
    directory: KPath, operations: Sequence[Operation], *, dry_run: bool = False
) -> ImagesResult:
    """
    Apply operations to a set, in their order.

    The files that are others are replaced all at once, as `mountcr.criu.imageset` does; with
    `dry_run` none is. Raises what `show_images` does, UsageError for what an operation cannot do,
    and what `replace` does. What is there then is found before, so nothing fails after it is done.
    """
    import msgspec

    images = _open(directory)
    rewriting = rewrite(images, operations)
    result = _show(_Rewritten(directory, rewriting.images))
    contents = {name: each.to_bytes() for name, each in rewriting.images.items()}
    notes = [
        f"{each.operation.describe()}: nothing to change"
        for each in rewriting.changes
        if not each.entries
    ]
    notes += _staying(result.mounts, operations)
    if rewriting.images and os.path.exists(decode(images.path(MANIFEST))):
        notes.append(f"{MANIFEST} still says what was dumped: restore such images with CRIU")
    changes = tuple(
        ImageChange(
            operation=each.operation,
            what=each.operation.describe(),
            files=each.files,
            entries=each.entries,
        )
        for each in rewriting.changes
    )
    if not dry_run:
        replace(directory, contents)
    return msgspec.structs.replace(result, changes=changes, notes=tuple(notes))


class _Rewritten(ImageSet):
    """A set as it is with some of its files rewritten."""

    def __init__(self, directory: KPath, others: Mapping[str, Image]) -> None:
        super().__init__(directory)
        self._others = others

    def messages(self, name: str, kind: type[M], *, missing_ok: bool = False) -> list[M]:
        """Give the messages of a file as they are afterwards."""
        if name in self._others:
            return self._others[name].messages(kind)
        return super().messages(name, kind, missing_ok=missing_ok)


def _staying(mounts: Sequence[ShownMount], operations: Sequence[Operation]) -> list[str]:
    """Say which mounts files were moved away from: they are still made where they were."""
    return [
        f"{each.describe()}: the mount at {mount.mountpoint} stays where it is"
        for each in operations
        if isinstance(each, PathMap)
        for mount in mounts
        if mount.mountpoint != ROOT and is_beneath(mount.mountpoint, each.old)
    ]


def _open(directory: KPath) -> ImageSet:
    place = decode(directory)
    if not os.path.lexists(place):
        raise NotFoundError(f"there is no {directory}", hint="name a directory of CRIU's images")
    if not os.path.isdir(place):
        raise ImageError(
            f"{directory} is no directory",
            file=directory,
            hint="name the directory with inventory.img",
        )
    return ImageSet(directory)


def _parent(images: ImageSet) -> KPath | None:
    """Give where the link `parent` of an incremental dump leads (criu/image.c)."""
    try:
        return encode(os.readlink(decode(images.path("parent"))))
    except OSError:
        return None


def _mount(namespace: int, mount: MountImage) -> ShownMount:
    words = [f"{name}:{peer}" for name, peer in _peers(mount) if peer]
    if mount.flags & MS_UNBINDABLE:
        words.append("unbindable")
    return ShownMount(
        namespace=namespace,
        id=mount.id,
        parent=mount.parent,
        mountpoint=mount.mountpoint,
        fstype=mount.fstype,
        dev=mount.dev,
        root=mount.root,
        source=mount.source,
        options=mount.options,
        propagation=" ".join(words) or "private",
        external=mount.external,
        deleted=mount.deleted,
    )


def _peers(mount: MountImage) -> tuple[tuple[str, int], ...]:
    return ("shared", mount.shared), ("master", mount.master)


def _file(file: FileImage, mount: ShownMount | None, held: tuple[Holder, ...]) -> ShownFile:
    return ShownFile(
        id=file.id,
        path=file.path,
        mnt_id=file.mnt_id,
        mountpoint=mount.mountpoint if mount else None,
        size=file.size,
        mode=file.mode,
        flags=file.flags,
        position=file.position,
        external=file.external,
        remap=file.remap,
        held=held,
    )


def _task(images: ImageSet, task: TaskImage, files: dict[int, FileImage]) -> ShownTask:
    cwd, root, exe = (
        files[number].path if number in files else None
        for number in (task.cwd, task.root, task.exe)
    )
    return ShownTask(
        pid=task.pid,
        parent=task.parent,
        session=task.session,
        namespace=mount_namespace_of(images, task.pid),
        cwd=cwd,
        root=root,
        exe=exe,
    )
