# SPDX-License-Identifier: Apache-2.0
"""
VFS: one directory that holds everything; no union at all.

The btrfs and zfs graph drivers of engines give such directories too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mountcr.graph.superblock import short_type
from mountcr.model import Stack
from mountcr.planning.steps import Bind, Copy, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount
    from mountcr.paths import KPath

__all__ = ["VFS"]

_UNIONS: Final = frozenset({"overlay", "aufs", "unionfs", "fuse"})


class VFS:
    """The driver of root file systems that are a plain directory."""

    name: ClassVar[str] = "vfs"

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

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Bind the directory, because CRIU wants its root to be a mount."""
        source = stack.directories[0]
        return [Bind(source=source, at=at, because=f"the root file system is {source}")]

    def convert(self, stack: Stack, *, upper: KPath) -> tuple[Stack, Sequence[Step]]:
        """Copy what the stack shows into a new directory."""
        converted = Stack(driver=self.name, upper=upper, provenance=stack.provenance)
        because = f"a copy of the {stack.driver} stack, which is left alone"
        options = stack.options if stack.driver == "overlay" else ()
        return converted, [
            Copy(
                layers=stack.directories,
                data=stack.data,
                into=upper,
                options=options,
                because=because,
            )
        ]
