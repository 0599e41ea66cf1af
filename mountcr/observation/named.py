# SPDX-License-Identifier: Apache-2.0
"""
The files that images name: within reach while the tasks are frozen, read when they are gone.

Reading takes time for which the container need not be frozen.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr.errors import StepError
from mountcr.kernel.beneath import open_in_root
from mountcr.observation.elf import build_id
from mountcr.paths import ROOT, KPath, decode, is_beneath
from mountcr.planning.files import NamedFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.criu.images import FileImage
    from mountcr.graph.tree import MountTree
    from mountcr.planning.records import External

__all__ = ["NamedFiles", "digest", "named_in_images", "open_file"]

_APPENDED: Final = os.O_WRONLY | os.O_APPEND


def open_file(root: int, path: KPath) -> int:
    """
    Open a file for reading as a process sees it whose root directory is the descriptor `root`.

    The file itself may be no symbolic link. The caller owns the descriptor. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return open_in_root(root, decode(path).lstrip(b"/") or b".", flags)


def digest(fd: int) -> str:
    """Give the SHA-256 of an open file from its start, in hexadecimal."""
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


class NamedFiles:
    """
    The way to a container's files that outlives its tasks, until `close()`.

    It holds the root directory and the mount namespace of a task by descriptor, so that the
    mounts stay when the task has ended.
    """

    def __init__(self) -> None:
        self._root = -1
        self._stack = contextlib.ExitStack()

    def hold(self, pid: int) -> None:
        """Take hold of the mounts of a task; that costs it no time."""
        self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, self._root)
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, namespace)

    def close(self) -> None:
        """Let go."""
        self._stack.close()
        self._root = -1

    def read(
        self, files: Iterable[FileImage], tree: MountTree, externals: Iterable[External]
    ) -> tuple[NamedFile, ...]:
        """
        Read the regular files on the root file system and on externals, with their digests.

        What lies on other mounts CRIU brings back itself. Nothing is read when nothing is held.
        """
        if self._root < 0:
            return ()
        places = _Places(tree, externals)
        once = {each.path: each for each in files if not each.external}
        read = (self._read(file, places) for file in once.values())
        return tuple(each for each in read if each)

    def _read(self, file: FileImage, places: _Places) -> NamedFile | None:
        mountpoint = places.of(file.path)
        if mountpoint is None or (file.mode is not None and not stat.S_ISREG(file.mode)):
            return None
        try:
            fd = open_file(self._root, file.path)
        except FileNotFoundError:
            return None  # unlinked: CRIU keeps the content itself
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                return None
            msg = f"{file.path} cannot be opened to be recorded: {error.strerror}"
            raise StepError(msg, errno=error.errno or 0) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            free = mountpoint != ROOT and file.flags & os.O_ACCMODE != os.O_RDONLY
            return NamedFile(
                path=file.path,
                mountpoint=mountpoint,
                size=None if _may_grow(file) else file.size,
                mode=file.mode,
                digest="" if free or _may_grow(file) else digest(fd),
                build_id="" if _may_grow(file) else build_id(fd),
            )
        finally:
            os.close(fd)


def named_in_images(
    files: Iterable[FileImage], tree: MountTree, externals: Iterable[External]
) -> tuple[NamedFile, ...]:
    """
    Give the regular files that `NamedFiles.read` would, by what the images say alone.

    Nobody read what is in them, so that size and mode have to do.
    """
    places = _Places(tree, externals)
    found: dict[KPath, NamedFile] = {}
    for file in files:
        mountpoint = places.of(file.path)
        regular = file.mode is not None and stat.S_ISREG(file.mode)
        if mountpoint is None or not regular or file.external or file.remap:
            continue
        size = None if _may_grow(file) else file.size
        found[file.path] = NamedFile(
            path=file.path, mountpoint=mountpoint, size=size, mode=file.mode
        )
    return tuple(found.values())


class _Places:
    """Which mounts' files count: the root's and those of externals."""

    def __init__(self, tree: MountTree, externals: Iterable[External]) -> None:
        self._tree = tree
        found = (tree.lies_on(each.mountpoint) for each in externals)
        self._external = [mount for mount in found if mount]

    def of(self, path: KPath) -> KPath | None:
        """Give the mountpoint that a path lies on, None where it does not count."""
        mount = self._tree.lies_on(path)
        if mount is None or mount is self._tree.root:
            return ROOT if mount else None
        for outer in self._external:
            if outer.dev == mount.dev and is_beneath(mount.root, outer.root):
                return mount.mountpoint
        return None


def _may_grow(file: FileImage) -> bool:
    """Tell whether CRIU does not compare the size: a log that is only appended to."""
    return file.flags & (os.O_ACCMODE | os.O_APPEND) == _APPENDED
