# SPDX-License-Identifier: Apache-2.0
"""
The mount namespaces of a container, each mount with what its mountpoint is.

Whether a mountpoint is a directory or a file is in no mount table; it is asked of the mount that
lies on top there, and only believed when that is the mount in question.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import mountinfo
from mountcr.model import Mount, MountNamespace, Task
from mountcr.observation.aufs import with_branches_of_all
from mountcr.observation.fdinfo import mount_id
from mountcr.observation.fuse import with_servers_of_all
from mountcr.observation.stats import inode_type
from mountcr.overlayopts import parse_options
from mountcr.paths import ROOT, KPath, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["observe_namespace", "observe_namespaces"]

_MUST_BE_EMPTY: Final = frozenset({"mqueue", "pstore"})
"""What CRIU mounts anew without content (criu/filesystems.c, `dump_empty_fs()`)."""


def _inspect(root: bytes, mount: Mount) -> Mount:
    """Look at the mountpoint through a task's root; as it is where another mount hides it."""
    if mount.fstype == "overlay" and mount.mountpoint != ROOT:
        layers = _layers(mount)
        mount = msgspec.structs.replace(
            mount, layers_inside=_there(root, layers), layers_outside=_there(b"", layers)
        )
    try:
        fd = os.open(root + decode(mount.mountpoint), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return mount
    try:
        if mount_id(fd) != mount.id:
            return mount
        mode = os.fstat(fd).st_mode
        entries = _entries(fd) if _is_counted(mount) else None
    except OSError:
        return mount  # a file system that does not answer, FUSE without its daemon
    finally:
        os.close(fd)
    return msgspec.structs.replace(mount, type=inode_type(mode), mode=mode, entries=entries)


def _layers(mount: Mount) -> list[KPath]:
    """Give the directories of an overlay that are told by an absolute path."""
    options = parse_options(mount.super_options)
    others = filter(None, (options.upper, options.work))
    given = (*options.lowers, *options.data, *others)
    return [path for path in given if path.startswith("/")]


def _there(root: bytes, layers: Iterable[KPath]) -> tuple[KPath, ...]:
    """Give the directories that are there, seen from a root directory."""
    return tuple(path for path in layers if _is_directory(root + decode(path)))


def _is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_counted(mount: Mount) -> bool:
    """Tell whether it matters if there is anything; a control group that was removed is empty."""
    part = mount.root != ROOT and mount.fstype in {"cgroup", "cgroup2"}
    return part or mount.fstype in _MUST_BE_EMPTY


def _entries(fd: int) -> int | None:
    """Count the names in a directory that is open as a path only."""
    try:
        return len(os.listdir(f"/proc/thread-self/fd/{fd}"))
    except OSError:
        return None


def observe_namespace(pid: int, identity: int) -> MountNamespace:
    """Read the mount table of a task and look at every mountpoint. Raises OSError."""
    root = b"/proc/%d/root" % pid
    told = with_branches_of_all(with_servers_of_all(mountinfo.read(pid)))
    mounts = tuple(_inspect(root, each) for each in told)
    return MountNamespace(id=identity, pid=pid, mounts=mounts)


def observe_namespaces(tasks: tuple[Task, ...]) -> tuple[MountNamespace, ...]:
    """
    Observe each mount namespace once, the root task's first.

    A task that has ended meanwhile, or that is a zombie, shows none; it must not be the root task.
    Raises OSError.
    """
    found: dict[int, MountNamespace] = {}
    for each in tasks:
        identity = each.namespaces.get("mnt", 0)
        if identity in found:
            continue
        try:
            found[identity] = observe_namespace(each.pid, identity)
        except PermissionError:
            raise
        except OSError:
            # EINVAL of a zombie, ENOENT and ESRCH of one that is gone
            if each is tasks[0]:
                raise
    return tuple(found.values())
