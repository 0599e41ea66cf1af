# SPDX-License-Identifier: Apache-2.0
"""
Storage drivers: what a root file system is made of, and the steps that put it back.

A driver is a plug-in of the entry-point group `mountcr.drivers`. It is pure: everything it needs
is in its arguments, everything it wants done is in the steps it gives.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, cast

from mountcr.errors import UsageError
from mountcr.plugins import offered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, OpenFile
    from mountcr.paths import KPath
    from mountcr.planning.steps import Step
    from mountcr.resolution.layers import PathFix
    from mountcr.resolution.unions import Seen, Union
    from mountcr.stack import Stack, StoredLayer

__all__ = ["Driver", "drivers", "get_driver", "recognise"]

GROUP: Final = "mountcr.drivers"


class Driver(Protocol):
    """
    A storage driver.

    A `flat` driver has no union: its root file system is one directory that holds everything.
    `dialect` is the one in which it writes layers, unless a stack says otherwise.
    """

    name: ClassVar[str]
    flat: ClassVar[bool]
    dialect: ClassVar[str]

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:
        """
        Say what a mount is made of, None when it is not this driver's.

        `host` are the mounts of the host's namespace, where layers have their paths.
        """
        ...

    def layers(self, stack: Stack) -> tuple[StoredLayer, ...]:
        """Give the directories of a stack of this driver, top first, and how each is read."""
        ...

    def stack(
        self, lowers: tuple[KPath, ...], upper: KPath, *, origin: Stack, together: bool
    ) -> Stack:
        """
        Give a stack of this driver with other layers, each of which it reads as it lies.

        `origin` is the one that it takes the place of, which may be of any driver; `together`
        tells that all layers are on one file system.
        """
        ...

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Give the steps that mount a stack of this driver at an existing directory."""
        ...

    def logical_path(self, file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
        """
        Say where in a union a file is that the kernel shows otherwise; None if it is not of it.

        Asked only of files that are not what lies at their path, or whose mount is in no table.
        """
        ...


def drivers() -> dict[str, Driver]:
    """
    Give every driver by name: the built-in ones, then what other distributions offer.

    Looked for once, so that planning opens no file.
    """
    return dict(_loaded())


@functools.cache
def _loaded() -> dict[str, Driver]:
    from mountcr_drivers.aufs import AUFS
    from mountcr_drivers.fuse_overlayfs import FuseOverlayFS
    from mountcr_drivers.overlayfs import OverlayFS
    from mountcr_drivers.unionfs import ClassicUnionFS, UnionFS
    from mountcr_drivers.vfs import VFS

    built_in: tuple[Driver, ...] = (
        OverlayFS(),
        AUFS(),
        UnionFS(),
        FuseOverlayFS(),
        ClassicUnionFS(),
        VFS(),
    )
    found: dict[str, Driver] = {each.name: each for each in built_in}
    for name, loaded in offered(GROUP):
        if callable(loaded):
            found[name] = cast("Driver", loaded())
    return found


def get_driver(name: str) -> Driver:
    """Give a driver by name. Raises UsageError listing the names there are."""
    known = drivers()
    if name not in known:
        msg = f"no storage driver is called {name!r}"
        raise UsageError(msg, hint=f"drivers: {', '.join(sorted(known))}")
    return known[name]


def recognise(mount: Mount, host: MountTree) -> Stack | None:
    """Ask the drivers what a mount is made of; vfs, which takes any directory, comes last."""
    known = drivers()
    fallback = known.pop("vfs")
    for driver in (*known.values(), fallback):
        stack = driver.recognise(mount, host)
        if stack:
            return stack
    return None
