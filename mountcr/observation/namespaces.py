# SPDX-License-Identifier: Apache-2.0
"""
The mount namespaces of a container, each mount with what its mountpoint is.

Whether a mountpoint is a directory or a file is in no mount table; it is asked of the mount that
lies on top there, and only believed when that is the mount in question.
"""

from __future__ import annotations

import os

import msgspec

from mountcr import mountinfo
from mountcr.model import Mount, MountNamespace, Task
from mountcr.observation.files import inode_type, mount_id
from mountcr.paths import decode

__all__ = ["observe_namespace", "observe_namespaces"]


def _inspect(root: bytes, mount: Mount) -> Mount:
    """Look at the mountpoint through a task's root; as it is where another mount hides it."""
    try:
        fd = os.open(root + decode(mount.mountpoint), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return mount
    try:
        if mount_id(fd) != mount.id:
            return mount
        mode = os.fstat(fd).st_mode
    except OSError:
        return mount  # a file system that does not answer, FUSE without its daemon
    finally:
        os.close(fd)
    return msgspec.structs.replace(mount, type=inode_type(mode), mode=mode)


def observe_namespace(pid: int, identity: int) -> MountNamespace:
    """Read the mount table of a task and look at every mountpoint. Raises OSError."""
    root = b"/proc/%d/root" % pid
    mounts = tuple(_inspect(root, each) for each in mountinfo.read(pid))
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
