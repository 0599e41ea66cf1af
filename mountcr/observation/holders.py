# SPDX-License-Identifier: Apache-2.0
"""
Who has a writable layer: mounts anywhere on the host whose upper or work directory is ours.

Paths do not tell, because every mount namespace has its own: directories are compared by device
and inode number, each path looked up from our root and from that of a process in the namespace of
the mount. A file system that is mounted in many namespaces is looked at once.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Final

from mountcr import procstat
from mountcr.driver import drivers
from mountcr.graph.tree import MountTree
from mountcr.paths import decode
from mountcr.target import Holder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.model import Mount, MountNamespace
    from mountcr.paths import KPath
    from mountcr.stack import Stack

__all__ = ["holders_of"]

_CONTAINER: Final = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?:/|$)", re.MULTILINE)
"""A container's id in a path of cgroups(7), as Docker, podman, CRI-O and containerd have it."""

_Inode = tuple[int, int]


def holders_of(
    stack: Stack, own: Iterable[Mount], elsewhere: Iterable[MountNamespace]
) -> tuple[Holder, ...]:
    """
    Give the mounts that have the stack's upper or work directory as theirs.

    `own` are the mounts of this namespace, `elsewhere` those of others. A plain directory, which
    any number of mounts may show, has none. Nothing is raised.
    """
    if stack.driver == "vfs":
        return ()
    wanted = {each for path in (stack.upper, stack.work) if (each := _inode(b"", path))}
    if not wanted:
        return ()
    seen: dict[str, bool] = {}
    found: list[Holder] = []
    for mount, namespace in _mounts(own, elsewhere):
        if mount.dev not in seen:
            seen[mount.dev] = _has(mount, namespace.pid if namespace else 0, wanted)
        if seen[mount.dev]:
            found.append(_holder(mount, namespace))
    return tuple(found)


def _mounts(
    own: Iterable[Mount], elsewhere: Iterable[MountNamespace]
) -> Iterator[tuple[Mount, MountNamespace | None]]:
    """Give mounts, each with its namespace, None for ours."""
    for mount in own:
        yield mount, None
    for namespace in elsewhere:
        for mount in namespace.mounts:
            yield mount, namespace


def _has(mount: Mount, pid: int, wanted: set[_Inode]) -> bool:
    """Tell whether a mount writes into one of these directories."""
    roots = (b"", b"/proc/%d/root" % pid) if pid else (b"",)
    return any(_inode(root, path) in wanted for path in _writes_into(mount) for root in roots)


def _writes_into(mount: Mount) -> Iterator[KPath]:
    """Ask the drivers of unions for the upper and work directory of a mount."""
    nowhere = MountTree(())
    for driver in drivers().values():
        if driver.flat:
            continue
        stack = driver.recognise(mount, nowhere)
        if stack:
            yield from filter(None, (stack.upper, stack.work))
            return


def _inode(root: bytes, path: KPath | None) -> _Inode | None:
    if path is None or not path.startswith("/"):
        return None
    with contextlib.suppress(OSError):
        found = os.stat(root + decode(path))
        return found.st_dev, found.st_ino
    return None


def _holder(mount: Mount, namespace: MountNamespace | None) -> Holder:
    pid = namespace.pid if namespace else 0
    command = container = ""
    if pid:
        with contextlib.suppress(OSError):
            command = procstat.read_stat(pid).command
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
                found = _CONTAINER.search(file.read())
            container = found[1] if found else ""
    return Holder(
        pid=pid,
        namespace=namespace.id if namespace else 0,
        command=command,
        container=container,
        mountpoint=mount.mountpoint,
        fstype=mount.fstype,
        dev=mount.dev,
    )
