# SPDX-License-Identifier: Apache-2.0
"""
Steps: what a plan wants done to the machine, one small record each.

A step can say itself, do itself and give what undoes it; `because` names the fact that asked for
it. Steps decide nothing: everything they need is in their fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from mountcr.model import InodeType
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import KPath

if TYPE_CHECKING:
    from collections.abc import Callable

    from mountcr.execute import Kernel

    Undo: TypeAlias = Callable[[], None] | None

__all__ = [
    "Attributes",
    "Bind",
    "CgroupDirectory",
    "Copy",
    "Directory",
    "Mountpoint",
    "Overlay",
    "Propagation",
    "Scratch",
    "Step",
]


class _Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag=str.lower):
    because: str


class Directory(_Step, frozen=True, kw_only=True):
    """Make a directory for a layer, and its parents, unless it is there."""

    path: KPath

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"directory {self.path}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes what was made with everything that came into it."""
        made = kernel.make_directory(self.path)
        return (lambda: kernel.remove_tree(self.path)) if made else None


class Overlay(_Step, frozen=True, kw_only=True):
    """Mount an overlay and compare what the kernel made of it with what was asked."""

    at: KPath
    lowers: tuple[KPath, ...]
    data: tuple[KPath, ...] = ()
    upper: KPath | None = None
    work: KPath | None = None
    options: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        upper = f", upper {self.upper}" if self.upper else ", read-only"
        return f"overlay of {len(self.lowers)} lower at {self.at}{upper}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing unmounts."""
        kernel.mount_overlay(
            self.at,
            OverlayOptions(
                lowers=self.lowers,
                data=self.data,
                upper=self.upper,
                work=self.work,
                others=self.options,
            ),
        )
        return lambda: kernel.unmount(self.at)


class Bind(_Step, frozen=True, kw_only=True):
    """Make a directory or file visible at another place, without the mounts below it."""

    source: KPath
    at: KPath

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"bind of {self.source} at {self.at}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing unmounts."""
        kernel.bind(self.source, self.at)
        return lambda: kernel.unmount(self.at)


class Copy(_Step, frozen=True, kw_only=True):
    """Copy the merged tree of some layers, top first, into a new directory."""

    layers: tuple[KPath, ...]
    data: tuple[KPath, ...] = ()
    into: KPath
    options: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"copy of {len(self.layers)} merged layers in {self.into}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes the copy."""
        merged = OverlayOptions(lowers=self.layers, data=self.data, others=self.options)
        kernel.copy_layers(merged, self.into)
        return lambda: kernel.remove_tree(self.into)


class CgroupDirectory(_Step, frozen=True, kw_only=True):
    """Make a control group, a cpuset with the processors of its parent, unless it is there."""

    path: KPath

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"control group {self.path}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes what was made."""
        made = kernel.make_cgroup(self.path)
        return (lambda: kernel.remove_directory(self.path)) if made else None


class Scratch(_Step, frozen=True, kw_only=True):
    """Mount an empty tmpfs over a directory, whose content ends with the mount namespace."""

    at: KPath

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"scratch space at {self.at}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing unmounts."""
        kernel.mount_scratch(self.at)
        return lambda: kernel.unmount(self.at)


class Mountpoint(_Step, frozen=True, kw_only=True):
    """Make what a mount needs to lie on, unless it is there: an empty file or directory."""

    root: KPath
    path: KPath
    type: InodeType

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"mountpoint {self.path} ({self.type}) in {self.root}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes what was made if it is still empty."""
        made = kernel.make_mountpoint(self.root, self.path, directory=self.is_directory)
        return (lambda: kernel.remove_mountpoint(self.root, made)) if made else None

    @property
    def is_directory(self) -> bool:
        """Whether a directory is wanted."""
        return self.type is InodeType.DIRECTORY


class Attributes(_Step, frozen=True, kw_only=True):
    """Set attributes of a mount, in the words of mountinfo: ro, nosuid, nodev, …"""

    at: KPath
    attributes: tuple[str, ...]

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"attributes {','.join(self.attributes)} of {self.at}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; goes with the mount, nothing to undo."""
        kernel.set_attributes(self.at, self.attributes)
        return None


class Propagation(_Step, frozen=True, kw_only=True):
    """Set the propagation of a mount: private, shared, slave or unbindable."""

    at: KPath
    propagation: str

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"propagation {self.propagation} of {self.at}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; goes with the mount, nothing to undo."""
        kernel.set_propagation(self.at, self.propagation)
        return None


Step: TypeAlias = (
    Directory
    | Overlay
    | Bind
    | Copy
    | CgroupDirectory
    | Scratch
    | Mountpoint
    | Attributes
    | Propagation
)
