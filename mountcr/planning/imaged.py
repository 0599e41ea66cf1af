# SPDX-License-Identifier: Apache-2.0
"""
The externals of a dump that is done, by its images: exactly those mounts, by the keys they have.

What they came from was a matter of whoever dumped. The engine's record tells it, or the kernel: a
control group is where its hierarchy is, a masked file is /dev/null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.paths import KPath
from mountcr.planning.cgroups import source_of
from mountcr.planning.records import External

if TYPE_CHECKING:
    from mountcr.graph import MountGraph
    from mountcr.graph.tree import MountTree
    from mountcr.model import Container, Facts, Mount

__all__ = ["imaged_externals"]

_CGROUPS: Final = frozenset({"cgroup", "cgroup2"})
_MASK: Final = "/dev/null"
"""What runc and crun call all masked files (libcontainer/criu_linux.go, `addMaskPaths()`)."""


def imaged_externals(
    graph: MountGraph, facts: Facts, host: MountTree, *, moved: KPath | None = None
) -> tuple[External, ...]:
    """
    Give the externals that images name, in the order of the mount table.

    `host` is the one of the restore, `moved` CRIU's `--cgroup-root` there. As long as no mounts of
    it are known, hierarchies are taken to be where the container had them.
    """
    recorded = _recorded(facts.container)
    found: list[External] = []
    for mount in graph.namespaces[0].mounts:
        if mount.external is None:
            continue
        if mount.fstype in _CGROUPS:
            source = source_of(mount, facts, host, moved)
            if not host.mounts:
                source = paths.join(mount.mountpoint, mount.root)
        elif mount.external == _MASK:
            source = KPath(_MASK)
        else:
            source = recorded.get(mount.mountpoint)
        found.append(_external(mount, mount.external, source))
    return tuple(found)


def _external(mount: Mount, key: str, source: KPath | None) -> External:
    return External(
        mountpoint=mount.mountpoint,
        key=key,
        source=source,
        type=mount.type,
        mode=mount.mode,
        fstype=mount.fstype,
        because=f"the images say that it is external and called {key}",
    )


def _recorded(container: Container) -> dict[KPath, KPath]:
    """Give the sources that the record of an engine tells, by mountpoint."""
    found = {each.destination: each.source for each in container.mounts if each.source}
    found |= {KPath(f"/etc/{name}"): path for name, path in container.files.items()}
    if container.shm:
        found[KPath("/dev/shm")] = container.shm  # noqa: S108 -- a path in the container
    return found
