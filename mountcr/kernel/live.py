# SPDX-License-Identifier: Apache-2.0
"""The kernel of this machine, as the executor sees it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

import msgspec

from mountcr import mountinfo, paths
from mountcr.errors import StepError
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.overlay import mount_overlay
from mountcr.kernel.private import in_private_namespace
from mountcr.paths import ROOT, KPath, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.overlayopts import OverlayOptions

__all__ = ["LiveKernel"]


class LiveKernel:
    """Does what steps ask for, in the mount namespace of the calling thread."""

    def make_directory(self, path: KPath) -> bool:
        """Make a directory with its parents, 0755; tell whether it had to be made."""
        if os.path.isdir(decode(path)):
            return False
        os.makedirs(decode(path), mode=0o755)
        return True

    def remove_directory(self, path: KPath) -> None:
        """Remove a directory that is empty."""
        os.rmdir(decode(path))

    def mount_overlay(self, at: KPath, options: OverlayOptions) -> None:
        """Mount an overlay that is read back and found equal."""
        mount_overlay(at, options)

    def bind(self, source: KPath, at: KPath) -> None:
        """Bind without what is mounted below the source."""
        mounts.bind(source, at)

    def set_attributes(self, at: KPath, attributes: Iterable[str]) -> None:
        """Set attributes of a mount."""
        mounts.set_attributes(at, attributes)

    def set_propagation(self, at: KPath, propagation: str) -> None:
        """Set the propagation of a mount."""
        mounts.set_propagation(at, propagation)

    def unmount(self, at: KPath) -> None:
        """Unmount what lies topmost at a path; lazily when it is in use."""
        try:
            syscalls.umount2(decode(at), syscalls.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            syscalls.umount2(decode(at), syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)

    def copy_layers(self, options: OverlayOptions, into: KPath) -> None:
        """
        Copy the merged tree of layers into a directory that is not there yet.

        The layers are merged by a read-only overlay in a private mount namespace, so that the
        kernel decides about whiteouts; cp(1) keeps owners, times, xattrs, links, holes and
        devices, and shares blocks where the file system can. On failure nothing is left.
        """
        if os.path.lexists(decode(into)):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), into)
        os.makedirs(decode(into))
        try:
            in_private_namespace(lambda: _copy_merged(options, into))
        except BaseException:
            self.remove_tree(into)
            raise

    def remove_tree(self, path: KPath) -> None:
        """
        Remove a directory with everything in it.

        With a mount inside it fails with EBUSY, and nothing was removed.
        """
        parent, name = os.path.split(decode(path))
        real = encode(os.path.join(os.path.realpath(parent), name))
        for mount in mountinfo.read():
            if paths.is_beneath(mount.mountpoint, real):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mount.mountpoint)
        shutil.rmtree(decode(path))

    def make_cgroup(self, path: KPath) -> bool:
        """
        Make a control group; a cpuset of version 1 gets the processors and memory of its parent.

        Without them no task can be put in (cpusets(7)).
        """
        directory = decode(path)
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return False
        for name in (b"cpuset.cpus", b"cpuset.mems"):
            value = os.path.join(os.path.dirname(directory), name)
            if os.path.exists(value) and os.path.exists(os.path.join(directory, name)):
                with open(value, "rb") as source, open(os.path.join(directory, name), "wb") as own:
                    own.write(source.read())
        return True

    def mount_scratch(self, at: KPath) -> None:
        """
        Mount an empty tmpfs of 1 MiB over a directory that is made if it is not there.

        The directory stays: rmdir(2) would detach what others have mounted on it.
        """
        os.makedirs(decode(at), exist_ok=True)
        syscalls.mount(b"mountcr", decode(at), b"tmpfs", 0, b"size=1m,mode=700")

    def make_mountpoint(self, root: KPath, path: KPath, *, directory: bool) -> list[KPath]:
        """
        Make an empty file or directory beneath a root; give what was made, parents first.

        No component may be a symbolic link or `..`, so that nothing is made outside the root.
        """
        made: list[KPath] = []
        parts = path.strip("/").split("/")
        if ".." in parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        current = ROOT
        with contextlib.ExitStack() as stack:
            fd = _open_directory(decode(root), None)
            stack.callback(os.close, fd)
            for number, part in enumerate(parts, 1):
                current = paths.join(current, part)
                last = number == len(parts)
                if _make(fd, decode(KPath(part)), directory=directory or not last):
                    made.append(current)
                if not last:
                    fd = _open_directory(decode(KPath(part)), fd)
                    stack.callback(os.close, fd)
        return made

    def remove_mountpoint(self, root: KPath, made: list[KPath]) -> None:
        """Remove what `make_mountpoint` made, where it is still empty."""
        for path in reversed(made):
            target = decode(paths.join(root, path))
            if os.path.isdir(target):
                with contextlib.suppress(OSError):
                    os.rmdir(target)
            elif os.path.getsize(target) == 0:
                os.unlink(target)


def _open_directory(path: bytes, parent: int | None) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=parent)


def _make(parent: int, part: bytes, *, directory: bool) -> bool:
    """Make one component; tell whether it was missing."""
    try:
        if directory:
            os.mkdir(part, 0o755, dir_fd=parent)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(part, flags, 0o644, dir_fd=parent))
    except FileExistsError:
        return False
    return True


def _copy_merged(options: OverlayOptions, into: KPath) -> None:
    """Merge layers read-only on a directory that only this namespace sees, and copy them."""
    with tempfile.TemporaryDirectory(prefix="mountcr-") as scratch:
        merged = encode(scratch)
        if len(options.lowers) == 1 and not options.data:
            mounts.bind(options.lowers[0], merged)
        else:
            mount_overlay(merged, msgspec.structs.replace(options, upper=None, work=None))
        try:
            _copy(decode(merged), decode(into))
        finally:
            syscalls.umount2(decode(merged), syscalls.MNT_DETACH)


def _copy(source: bytes, into: bytes) -> None:
    command = [b"cp", b"-a", b"--reflink=auto", b"-T", b"--", source, into]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        complaint = os.fsdecode(done.stderr).strip().partition("\n")[0]
        raise StepError(f"copying the merged layers failed: {complaint}")
