# SPDX-License-Identifier: Apache-2.0
"""
The unions that are mounted in other mount namespaces of this host.

A writable layer in use by a container is in no mount table but that container's.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo
from mountcr.model import MountNamespace
from mountcr.observation.aufs import with_branches_of_all
from mountcr.observation.fuse import FUSE_UNIONS, FuseServers
from mountcr.observation.layers import with_layers_of_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.model import Mount

__all__ = ["unions_elsewhere"]

_UNIONS: Final = frozenset({"overlay", "aufs", "unionfs"}) | FUSE_UNIONS

_LINE: Final = re.compile(b" - (?:%s) " % "|".join(map(re.escape, sorted(_UNIONS))).encode())


def unions_elsewhere() -> tuple[MountNamespace, ...]:
    """
    Give every other mount namespace that some process is in, with its unions only.

    Namespaces that may not be looked at, or that no process is in, are left out.
    """
    seen = {_namespace("thread-self")}
    found: list[MountNamespace] = []
    servers = FuseServers()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            identity = _namespace(entry)
            if identity in seen:
                continue
            found_here = _unions(entry)
            seen.add(identity)
            unions = servers.of(with_branches_of_all(with_layers_of_all(found_here)))
            if unions:
                found.append(MountNamespace(id=identity, pid=int(entry), mounts=unions))
    return tuple(found)


def _unions(pid: str) -> Iterator[Mount]:
    """Give the unions of a mount table; other lines, which are many, are not even parsed."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        lines = file.read().split(b"\n")
    for line in lines:
        if _LINE.search(line):
            mount = mountinfo.parse_line(line)
            if mount.fstype in _UNIONS:
                yield mount


def _namespace(pid: str) -> int:
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino
