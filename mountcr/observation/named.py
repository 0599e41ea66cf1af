# SPDX-License-Identifier: Apache-2.0
"""
The files that images name: held open while the tasks are frozen, read when they are gone.

Opening costs no time that the container is frozen for, and an open file outlives the container's
mount namespace.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

from mountcr.errors import StepError
from mountcr.kernel import syscalls
from mountcr.paths import ROOT, KPath, decode, is_beneath
from mountcr.planning.files import NamedFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.criu.images import FileImage
    from mountcr.graph.tree import MountTree
    from mountcr.planning.records import External

__all__ = ["NamedFiles", "digest", "open_beneath"]

_APPENDED: Final = os.O_WRONLY | os.O_APPEND


def open_beneath(root: int, path: KPath) -> int:
    """
    Open a file for reading as a process sees it whose root directory is the descriptor `root`.

    The caller owns the descriptor. Raises OSError; ELOOP where a component is a symbolic link
    before openat2(2), Linux 5.6.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    relative = decode(path).lstrip(b"/") or b"."
    try:
        return syscalls.openat2(root, relative, flags, 0, syscalls.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    return os.open(relative, flags, dir_fd=root)


def digest(fd: int) -> str:
    """Give the SHA-256 of an open file from its start, in hexadecimal."""
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


class NamedFiles:
    """
    The regular files of a set of images, held open until `close()`.

    Only files on the root file system and on externals count: what lies on other mounts CRIU
    brings back itself.
    """

    def __init__(self, tree: MountTree, externals: Iterable[External]) -> None:
        self._tree = tree
        self._external = {each.mountpoint for each in externals}
        self._held: list[tuple[NamedFile, int]] = []
        self._stack = contextlib.ExitStack()

    def close(self) -> None:
        """Close every file."""
        self._stack.close()

    def hold(self, pid: int, files: Iterable[FileImage]) -> None:
        """Open the files through the root directory of a task that is frozen."""
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for file in {each.path: each for each in files if not each.external}.values():
                self._hold(root, file)
        finally:
            os.close(root)

    def _hold(self, root: int, file: FileImage) -> None:
        mountpoint = self._place(file.path)
        if mountpoint is None or (file.mode is not None and not stat.S_ISREG(file.mode)):
            return
        try:
            fd = open_beneath(root, file.path)
        except FileNotFoundError:
            return  # unlinked: CRIU keeps the content itself
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                return
            msg = f"{file.path} cannot be opened to be recorded: {error.strerror}"
            raise StepError(msg, errno=error.errno or 0) from error
        self._stack.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        named = NamedFile(
            path=file.path,
            mountpoint=mountpoint,
            size=None if _may_grow(file) else file.size,
            mode=file.mode,
        )
        free = mountpoint != ROOT and file.flags & os.O_ACCMODE != os.O_RDONLY
        self._held.append((named, -1 if free or _may_grow(file) else fd))

    def _place(self, path: KPath) -> KPath | None:
        """Give the mountpoint a path lies on if it is the root's or an external's."""
        mount = self._tree.lies_on(path)
        if mount is None:
            return None
        if mount is self._tree.root:
            return ROOT
        for mountpoint in self._external:
            outer = self._tree.lies_on(mountpoint)
            if outer and outer.dev == mount.dev and is_beneath(mount.root, outer.root):
                return mount.mountpoint
        return None

    def digested(self) -> tuple[NamedFile, ...]:
        """Read what is held and give the files with their digests."""
        import msgspec

        return tuple(
            msgspec.structs.replace(file, digest=digest(fd)) if fd >= 0 else file
            for file, fd in self._held
        )


def _may_grow(file: FileImage) -> bool:
    """Tell whether CRIU does not compare the size: a log that is only appended to."""
    return file.flags & (os.O_ACCMODE | os.O_APPEND) == _APPENDED
