# SPDX-License-Identifier: Apache-2.0
"""
VFS: one directory that holds everything; no union at all.

The btrfs and zfs graph drivers of engines give such directories too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mountcr.graph.superblock import short_type
from mountcr.planning.steps import Bind, Step
from mountcr.resolution.layers import by_layer
from mountcr.stack import Stack, StoredLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, OpenFile
    from mountcr.paths import KPath
    from mountcr.resolution.layers import PathFix
    from mountcr.resolution.unions import Seen, Union

__all__ = ["VFS"]

_UNIONS: Final = frozenset({"overlay", "aufs", "unionfs", "fuse"})


class VFS:
    """The driver of root file systems that are a plain directory."""

    name: ClassVar[str] = "vfs"
    dialect: ClassVar[str] = "vfs"
    flat: ClassVar[bool] = True

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:
        """Find the directory on the host; None for a union, or where no path leads there."""
        if short_type(mount) in _UNIONS:
            return None
        directory = host.path_of(mount, widest=True)
        if directory is None:
            return None
        return Stack(
            driver=self.name,
            upper=directory,
            provenance=(f"mountinfo: {mount.root} of {mount.dev} is {directory} on the host",),
        )

    def layers(self, stack: Stack) -> tuple[StoredLayer, ...]:
        """Read the one directory as it is."""
        return tuple(StoredLayer(path=each, dialect=self.dialect) for each in stack.directories)

    def stack(
        self,
        lowers: tuple[KPath, ...],
        upper: KPath,
        *,
        origin: Stack,
        together: bool,  # noqa: ARG002
    ) -> Stack:
        """Give a directory; what lower layers show has to be copied into it."""
        del lowers
        return Stack(driver=self.name, upper=upper, provenance=origin.provenance)

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Bind the directory, because CRIU wants its root to be a mount."""
        source = stack.directories[0]
        return [Bind(source=source, at=at, because=f"the root file system is {source}")]

    def logical_path(self, file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
        """Find by its inode what was opened through a mount of the directory."""
        return by_layer(file, union, seen)
