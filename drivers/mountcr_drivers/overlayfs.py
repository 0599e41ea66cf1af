# SPDX-License-Identifier: Apache-2.0
"""OverlayFS: lower directories, an upper one and a work directory, merged by the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mountcr import paths
from mountcr.overlayopts import known_longest, parse_options
from mountcr.planning.steps import Overlay, Step
from mountcr.resolution.layers import by_layer
from mountcr.stack import Stack, StoredLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, OpenFile
    from mountcr.paths import KPath
    from mountcr.resolution.layers import PathFix
    from mountcr.resolution.unions import Seen, Union

__all__ = ["OverlayFS"]

_NOT_OURS: Final = frozenset({"rw", "ro", "uuid=on", "seclabel"})
"""Options that are flags, or that a fresh upper turns on by itself and a later mount does not."""

_INDEXING: Final = frozenset({"index=on", "nfs_export=on"})
"""With either of them the kernel keeps an index in the work directory (overlayfs.rst)."""


class OverlayFS:
    """The driver of `overlay` mounts, whoever made them and in whatever spelling."""

    name: ClassVar[str] = "overlay"
    dialect: ClassVar[str] = "overlay"
    flat: ClassVar[bool] = False

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:  # noqa: ARG002
        """
        Read the layers from the mount's own options, or where they were found on the host.

        Relative ones that nobody has found stay relative.
        """
        if mount.fstype != "overlay":
            return None
        options = parse_options(mount.super_options)
        found = mount.layers or options
        told = mount.layers.told if mount.layers else ()
        kept = tuple(known_longest(each) for each in options.others if each not in _NOT_OURS)
        return Stack(
            driver=self.name,
            lowers=found.lowers,
            data=found.data,
            upper=found.upper,
            work=found.work,
            options=kept,
            provenance=(
                f"mountinfo: super options of mount {mount.id} at {mount.mountpoint}",
                *told,
            ),
        )

    def layers(self, stack: Stack) -> tuple[StoredLayer, ...]:
        """Read them by the attributes of `userxattr`, or by the trusted ones."""
        dialect = "overlay-user" if "userxattr" in stack.options else "overlay"
        index = None
        if stack.upper and stack.work and not _INDEXING.isdisjoint(stack.options):
            index = paths.join(stack.work, "index")
        return tuple(
            StoredLayer(path=each, dialect=dialect, index=index if each == stack.upper else None)
            for each in stack.directories
        )

    def stack(
        self,
        lowers: tuple[KPath, ...],
        upper: KPath,
        *,
        origin: Stack,
        together: bool,  # noqa: ARG002
    ) -> Stack:
        """Keep options and data-only layers of an overlay; the work directory is beside upper."""
        ours = origin.driver == self.name
        return Stack(
            driver=self.name,
            lowers=lowers,
            data=origin.data if ours else (),
            upper=upper,
            work=paths.KPath(f"{upper.rstrip('/')}.work"),
            options=origin.options if ours else (),
            provenance=origin.provenance,
        )

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Mount it; a stack without upper is read-only."""
        because = stack.provenance[0] if stack.provenance else "the stack is an overlay"
        return [
            Overlay(
                at=at,
                lowers=stack.lowers,
                data=stack.data,
                upper=stack.upper,
                work=stack.work,
                options=stack.options,
                because=because,
            )
        ]

    def logical_path(self, file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
        """Find files that are shown by a mount of a layer, which is in no table."""
        return by_layer(file, union, seen)
