# SPDX-License-Identifier: Apache-2.0
"""
The servers of FUSE mounts: only their command lines tell what such a mount is made of.

A server is found by the device of the mount, else by the mountpoint that its command line ends
with. Where it daemonized, which makes `/` its working directory, $PWD tells where it was started.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import mountinfo, paths
from mountcr.kernel.programs import unionfs_dialect
from mountcr.kernel.servers import Server, all_servers
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Mount

__all__ = ["FUSE_UNIONS", "FuseServers", "server_of", "with_servers_of_all"]

FUSE_UNIONS: Final = frozenset({"fuse.unionfs", "fuse.unionfs-fuse", "fuse.fuse-overlayfs"})
"""The types of unions, which come from the names of the programs."""


_UNIONFS: Final = FUSE_UNIONS - {"fuse.fuse-overlayfs"}


class FuseServers:
    """The FUSE servers of this host, looked for once, when a mount first asks for one."""

    def __init__(self) -> None:
        self._found: dict[str, Server] | None = None

    def of(self, mounts: Iterable[Mount]) -> tuple[Mount, ...]:
        """Give mounts with the command lines of their servers; others as they are."""
        return tuple(self._with_server(each) if _is_fuse(each) else each for each in mounts)

    def _with_server(self, mount: Mount) -> Mount:
        server = self.find(mount.dev)
        if server is None:
            return mount
        return msgspec.structs.replace(
            mount,
            server=server.words,
            server_cwd=_cwd(server.pid),
            dialect=unionfs_dialect() if mount.fstype in _UNIONFS else "",
        )

    def find(self, dev: str) -> Server | None:
        """Give the server of a superblock by its device; None where it is not to be found."""
        if self._found is None:
            self._found = _by_device()
        return self._found.get(dev)


def with_servers_of_all(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Give mounts with the servers of those that are FUSE; others as they are."""
    return FuseServers().of(mounts)


def server_of(mount: Mount) -> Server | None:
    """Give the server of a mount; None for what is no FUSE and where it is not to be found."""
    return FuseServers().find(mount.dev) if _is_fuse(mount) else None


def _is_fuse(mount: Mount) -> bool:
    return mount.fstype.partition(".")[0] == "fuse"


def _by_device() -> dict[str, Server]:
    found: dict[str, Server] = {}
    unknown: dict[KPath, Server] = {}
    for server in all_servers():
        if server.dev:
            found.setdefault(server.dev, server)
        elif server.words:
            base = _cwd(server.pid) or paths.ROOT
            word = server.mountpoint
            unknown[word if word.startswith("/") else paths.join(base, word)] = server
    if unknown:
        for mount in mountinfo.read():
            if _is_fuse(mount) and mount.mountpoint in unknown:
                found.setdefault(mount.dev, unknown[mount.mountpoint])
    return found


def _cwd(pid: int) -> KPath | None:
    """Give where the relative paths of a command line begin; None where nothing but `/` tells."""
    with contextlib.suppress(OSError):
        cwd = os.readlink(f"/proc/{pid}/cwd")
        if cwd != "/":
            return encode(cwd)
        with open(f"/proc/{pid}/environ", "rb") as file:
            for each in file.read().split(b"\0"):
                if each.startswith(b"PWD=/"):
                    return encode(each[4:])
    return None
