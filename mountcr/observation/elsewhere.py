# SPDX-License-Identifier: Apache-2.0
"""
The unions that are mounted in other mount namespaces of this host.

A writable layer in use by a container is in no mount table but that container's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo
from mountcr.kernel.namespaces import mount_namespaces, own_namespace
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
    Give every other mount namespace in which there are unions, with these only.

    `pid` is 0 for one that no process is in. Namespaces that may not be looked at are left out, and
    before Linux 6.12 those that no process is in.
    """
    found: list[MountNamespace] = []
    servers = FuseServers()
    for other in mount_namespaces(but={own_namespace()}):
        unions = servers.of(with_branches_of_all(with_layers_of_all(_unions(other.table))))
        if unions:
            found.append(MountNamespace(id=other.id, pid=other.pid, mounts=unions))
    return tuple(found)


def _unions(table: bytes) -> Iterator[Mount]:
    """Give the unions of a mount table; other lines, which are many, are not even parsed."""
    for line in table.split(b"\n"):
        if _LINE.search(line):
            mount = mountinfo.parse_line(line)
            if mount.fstype in _UNIONS:
                yield mount
