# SPDX-License-Identifier: Apache-2.0
"""OverlayFS: lower directories, an upper one and a work directory, merged by the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mountcr import paths
from mountcr.model import Stack
from mountcr.overlayopts import parse_options
from mountcr.planning.steps import Directory, Overlay, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount
    from mountcr.paths import KPath

__all__ = ["OverlayFS"]

_NOT_OURS: Final = frozenset({"rw", "ro", "uuid=on", "seclabel"})
"""Options that are flags, or that a fresh upper turns on by itself and a later mount does not."""


class OverlayFS:
    """The driver of `overlay` mounts, whoever made them and in whatever spelling."""

    name: ClassVar[str] = "overlay"

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:  # noqa: ARG002
        """Read the layers from the mount's own options; relative ones stay relative."""
        if mount.fstype != "overlay":
            return None
        options = parse_options(mount.super_options)
        kept = tuple(each for each in options.others if each not in _NOT_OURS)
        return Stack(
            driver=self.name,
            lowers=options.lowers,
            data=options.data,
            upper=options.upper,
            work=options.work,
            options=kept,
            provenance=(f"mountinfo: super options of mount {mount.id} at {mount.mountpoint}",),
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

    def convert(self, stack: Stack, *, upper: KPath) -> tuple[Stack, Sequence[Step]]:
        """
        Put an empty upper on what was, so that nothing is written into the original.

        What an overlay had in its upper is read from there as its topmost lower.
        """
        work = paths.KPath(f"{upper.rstrip('/')}.work")
        converted = Stack(
            driver=self.name,
            lowers=stack.directories,
            data=stack.data,
            upper=upper,
            work=work,
            options=stack.options if stack.driver == self.name else (),
            provenance=stack.provenance,
        )
        because = f"changes go to {upper}, the original is left alone"
        return converted, [
            Directory(path=upper, because=because),
            Directory(path=work, because="overlay wants a work directory beside its upper"),
        ]
