# SPDX-License-Identifier: Apache-2.0
"""What a root file system is made of: the directories of a union, in the vocabulary of drivers."""

from __future__ import annotations

from mountcr.paths import KPath
from mountcr.record import Record

__all__ = ["Stack", "StoredLayer", "Volatile"]


class Volatile(Record, frozen=True, kw_only=True):
    """An overlay that was mounted volatile: when (`Host.boot`), and the marker (`Facts.synced`)."""

    boot: str = ""
    synced: str = ""


class Stack(Record, frozen=True, kw_only=True):
    """
    What a root file system is made of.

    `lowers` are read-only, top first. `upper` takes the changes, None for a read-only union; for
    vfs it is the one directory there is. `data` are overlay's data-only layers, below the lowers.
    `options` are the driver's own (overlay: index, xino, …). `permissions` are what AUFS does with
    each of the `directories`, in their order: `rw`, `ro+wh`, `ro` (whiteouts in it are ignored), …
    `dialect` is that of the layers, where the version of a program decides. `volatile` is known of
    an overlay that omitted syncs, and left a marker in its work directory.
    `provenance` says who told: a file and its field, or the mount.
    """

    driver: str
    lowers: tuple[KPath, ...] = ()
    data: tuple[KPath, ...] = ()
    upper: KPath | None = None
    work: KPath | None = None
    options: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    dialect: str = ""
    volatile: Volatile | None = None
    provenance: tuple[str, ...] = ()

    @property
    def directories(self) -> tuple[KPath, ...]:
        """Every directory the stack lies in, top first, without work."""
        return ((self.upper,) if self.upper else ()) + self.lowers


class StoredLayer(Record, frozen=True, kw_only=True):
    """
    A directory of a stack, and the dialect that its marks are in (`mountcr.rootfs.dialect`).

    `index` is where overlayfs keeps changed files of it that may have no name there, if it does.
    """

    path: KPath
    dialect: str
    index: KPath | None = None
