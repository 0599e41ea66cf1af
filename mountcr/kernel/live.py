# SPDX-License-Identifier: Apache-2.0
"""The kernel of this machine, as the executor sees it."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from mountcr import journal, paths
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.aufs import mount_aufs
from mountcr.kernel.livenetwork import LiveNetwork
from mountcr.kernel.overlay import mount_overlay
from mountcr.kernel.removal import remove_tree
from mountcr.kernel.volatile import remove_marker
from mountcr.paths import ROOT, KPath, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.aufsopts import AufsOptions
    from mountcr.kernel.servers import Server
    from mountcr.overlayopts import OverlayOptions
    from mountcr.rootfs.tar import Findings
    from mountcr.rootfs.writer import Progress
    from mountcr.stack import StoredLayer

__all__ = ["LiveKernel"]


class LiveKernel(LiveNetwork):
    """
    Does what steps ask for, in the mount namespace of the calling thread.

    `progress` is told what is copied; `archives` is what was found in tars that were unpacked.
    """

    def __init__(self, *, progress: Progress | None = None) -> None:
        super().__init__()
        self._progress = progress
        self.archives: dict[KPath, Findings] = {}

    def make_directory(self, path: KPath) -> bool:
        """Make a directory with its parents, 0755; tell whether it had to be made."""
        return journal.make_directories(decode(path), tree=True)

    def remove_directory(self, path: KPath) -> None:
        """Remove a directory that is empty."""
        os.rmdir(decode(path))

    def mount_overlay(self, at: KPath, options: OverlayOptions) -> None:
        """Mount an overlay that is read back and found equal."""
        journal.mounting(at, "overlay")
        mount_overlay(at, options)

    def mount_aufs(self, at: KPath, options: AufsOptions) -> None:
        """Mount AUFS that is read back and found equal."""
        journal.mounting(at, "aufs")
        mount_aufs(at, options)

    def mount_fuse(
        self,
        at: KPath,
        programs: tuple[str, ...],
        package: str,
        layers: tuple[KPath, ...],
        arguments: tuple[KPath, ...],
    ) -> Server:
        """Start a FUSE server in a mount namespace of its own and attach what it mounts."""
        from mountcr.kernel.fuse import mount_fuse  # what most commands have no use for

        return mount_fuse(at, programs, package, layers, arguments)

    def unmount_fuse(self, at: KPath, server: Server) -> None:
        """Unmount what `mount_fuse` attached; its server has ended then."""
        from mountcr.kernel.fuse import unmount_fuse

        unmount_fuse(at, server)

    def bind(self, source: KPath, at: KPath) -> None:
        """Bind without what is mounted below the source."""
        journal.mounting(at, source=source)
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

    def copy_layers(
        self, layers: tuple[StoredLayer, ...], data: tuple[KPath, ...], into: KPath
    ) -> None:
        """Copy what layers show into a directory that is not there yet; on failure it is gone."""
        from mountcr.rootfs.conversion import write_merged  # what most commands have no use for

        write_merged(layers, data, into, progress=self._progress, archives=self.archives)

    def convert_layer(
        self,
        layers: tuple[StoredLayer, ...],
        data: tuple[KPath, ...],
        into: KPath,
        to: str,
        *,
        shared: bool,
    ) -> None:
        """
        Write what the topmost layer changes into a directory, in another dialect.

        On failure it is gone. A shared one that is there already is whole, because it gets its name
        when it is.
        """
        from mountcr.rootfs.conversion import write_changes

        if shared and os.path.isdir(decode(into)):
            return
        if shared:
            journal.note(journal.Kept(path=into))
        try:
            write_changes(
                layers,
                data,
                into,
                to,
                writable=not shared,
                progress=self._progress,
                archives=self.archives,
            )
        except FileExistsError:
            if not shared:
                raise

    def make_layer(self, layers: tuple[StoredLayer, ...], into: KPath, to: str) -> None:
        """Make a layer that changes nothing of what others show; on failure it is gone."""
        from mountcr.rootfs.conversion import write_nothing

        write_nothing(layers, into, to)

    def remove_tree(self, path: KPath) -> None:
        """Remove a directory with everything in it, unless something is mounted there."""
        remove_tree(path)

    def remove_marker(self, path: KPath, identity: str) -> bool:
        """Remove the marker of a volatile overlay, if it is the one of that identity."""
        return remove_marker(path, identity)

    def make_cgroup(self, path: KPath) -> bool:
        """
        Make a control group; a cpuset of version 1 gets the processors and memory of its parent.

        Without them no task can be put in (cpusets(7)).
        """
        directory = decode(path)
        if _goes_up(path):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        if os.path.isdir(directory):
            return False
        journal.note(journal.ControlGroup(path=path))
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

    def mount_scratch(self, at: KPath, options: str) -> None:
        """
        Mount an empty tmpfs over a directory that is made if it is not there.

        The directory stays: rmdir(2) would detach what others have mounted on it.
        """
        os.makedirs(decode(at), exist_ok=True)
        syscalls.mount(b"mountcr", decode(at), b"tmpfs", 0, options.encode())

    def fill_directory(self, source: KPath, at: KPath) -> None:
        """Copy what is in a directory into an empty one. On failure a part of it is there."""
        from mountcr.rootfs.conversion import fill

        fill(source, at, progress=self._progress)

    def make_mountpoint(self, root: KPath, path: KPath, *, directory: bool) -> list[KPath]:
        """
        Make an empty file or directory beneath a root; give what was made, parents first.

        No component may be a symbolic link or `..`, so that nothing is made outside the root.
        """
        made: list[KPath] = []
        parts = path.strip("/").split("/")
        if _goes_up(path):
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


def _goes_up(path: KPath) -> bool:
    """Tell whether a path has a `..`, or a name that has a slash when it is decoded."""
    return b".." in decode(path).split(b"/") or decode(path).count(b"/") != path.count("/")


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
