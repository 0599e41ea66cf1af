# SPDX-License-Identifier: Apache-2.0
"""
The unions that are mounted in other mount namespaces of this host.

A writable layer in use by a container is in no mount table but that container's.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from mountcr import mountinfo
from mountcr.model import MountNamespace

__all__ = ["unions_elsewhere"]

_UNIONS: Final = frozenset({"overlay", "aufs", "unionfs"})


def unions_elsewhere() -> tuple[MountNamespace, ...]:
    """
    Give every other mount namespace that some process is in, with its unions only.

    Namespaces that may not be looked at, or that no process is in, are left out.
    """
    seen = {_namespace("thread-self")}
    found: list[MountNamespace] = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            identity = _namespace(entry)
            if identity in seen:
                continue
            mounts = mountinfo.read(int(entry))
            seen.add(identity)
            unions = tuple(mount for mount in mounts if mount.fstype in _UNIONS)
            if unions:
                found.append(MountNamespace(id=identity, pid=int(entry), mounts=unions))
    return tuple(found)


def _namespace(pid: str) -> int:
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino
