# SPDX-License-Identifier: Apache-2.0
"""
Steps: what a plan wants done to the machine, one small record each.

A step can say itself, do itself and give what undoes it; `because` names the fact that asked for
it. Steps decide nothing: everything they need is in their fields.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from mountcr.aufsopts import AufsOptions, Branch
from mountcr.model import InodeType
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import KPath
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mountcr.execute import Kernel

    Undo: TypeAlias = Callable[[], None] | None

__all__ = [
    "Attributes",
    "Aufs",
    "Bind",
    "CgroupDirectory",
    "Convert",
    "Copy",
    "Directory",
    "EmptyLayer",
    "Fill",
    "FuseUnion",
    "Mountpoint",
    "Overlay",
    "Propagation",
    "Scratch",
    "Step",
    "VolatileMarker",
    "split_preparation",
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


class Aufs(_Step, frozen=True, kw_only=True):
    """
    Mount AUFS and compare what the kernel made of it with what was asked.

    `permissions` are those of the branches, in their order, with attributes: `ro+wh`, …
    """

    at: KPath
    branches: tuple[KPath, ...]
    permissions: tuple[str, ...]
    options: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        writable = [each.path for each in self._branches() if each.writable]
        upper = f", upper {writable[0]}" if writable else ", read-only"
        return f"aufs of {len(self.branches)} branches at {self.at}{upper}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing unmounts."""
        kernel.mount_aufs(self.at, AufsOptions(branches=self._branches(), others=self.options))
        return lambda: kernel.unmount(self.at)

    def _branches(self) -> tuple[Branch, ...]:
        return tuple(map(Branch, self.branches, self.permissions))


class FuseUnion(_Step, frozen=True, kw_only=True):
    """
    Start a FUSE server and attach what it mounts.

    The first of `programs` that is there gets `arguments` and a mountpoint of its own as the last
    word; `package` is where it comes from. `layers` are the directories that it needs.
    """

    at: KPath
    programs: tuple[str, ...]
    package: str
    layers: tuple[KPath, ...]
    arguments: tuple[KPath, ...]

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"{self.programs[0]} of {len(self.layers)} directories at {self.at}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing unmounts and ends the server."""
        server = kernel.mount_fuse(
            self.at, self.programs, self.package, self.layers, self.arguments
        )
        return lambda: kernel.unmount_fuse(self.at, server)


class VolatileMarker(_Step, frozen=True, kw_only=True):
    """
    Remove what a volatile overlay left in its work directory, so that it can be mounted again.

    With an identity only that very marker (`mountcr.kernel.volatile`).
    """

    path: KPath
    identity: str = ""

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"removal of the marker {self.path}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing puts a marker back."""
        removed = kernel.remove_marker(self.path, self.identity)
        return (lambda: _put_back(kernel, self.path)) if removed else None


def _put_back(kernel: Kernel, marker: KPath) -> None:
    kernel.make_directory(marker)


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
    """Copy what some layers show, top first, into a new directory."""

    layers: tuple[StoredLayer, ...]
    data: tuple[KPath, ...] = ()
    into: KPath

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"copy of {len(self.layers)} merged layers in {self.into}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes the copy."""
        kernel.copy_layers(self.layers, self.data, self.into)
        return lambda: kernel.remove_tree(self.into)


class Convert(_Step, frozen=True, kw_only=True):
    """
    Write what the topmost of some layers changes into a new directory, in another dialect.

    What is `shared`, under a name that says what it holds, is used when it is there, and stays.
    """

    layers: tuple[StoredLayer, ...]
    data: tuple[KPath, ...] = ()
    into: KPath
    to: str
    shared: bool = False

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"layer {self.layers[0].path} as {self.to} in {self.into}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes what was written, unless it is shared."""
        kernel.convert_layer(self.layers, self.data, self.into, self.to, shared=self.shared)
        return None if self.shared else (lambda: kernel.remove_tree(self.into))


class EmptyLayer(_Step, frozen=True, kw_only=True):
    """Make a writable layer that changes nothing of what some layers show, top first."""

    layers: tuple[StoredLayer, ...]
    into: KPath
    to: str

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"empty layer as {self.to} in {self.into}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes it with everything that came into it."""
        kernel.make_layer(self.layers, self.into, self.to)
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
    """
    Mount an empty tmpfs over a directory, whose content ends with the mount namespace.

    `options` are those of tmpfs(5).
    """

    at: KPath
    options: str = "size=1m,mode=700"

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"scratch space at {self.at}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing unmounts."""
        kernel.mount_scratch(self.at, self.options)
        return lambda: kernel.unmount(self.at)


class Fill(_Step, frozen=True, kw_only=True):
    """Copy what is in a directory into an empty one, which gets its owner and mode too."""

    source: KPath
    at: KPath

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"content of {self.source} in {self.at}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; what was copied goes with what it was copied into."""
        kernel.fill_directory(self.source, self.at)
        return None


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
    | VolatileMarker
    | Overlay
    | FuseUnion
    | Aufs
    | Bind
    | Copy
    | Convert
    | EmptyLayer
    | CgroupDirectory
    | Scratch
    | Fill
    | Mountpoint
    | Attributes
    | Propagation
)


def split_preparation(steps: Sequence[Step]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """
    Tell the steps that come first and only write layers from those that mount, and what follows.

    The former last; they are done outside of the private mount namespace of the others, so that
    they are undone as well when what comes after it fails.
    """
    writing = Directory | Convert | Copy | EmptyLayer
    preparation = tuple(takewhile(lambda step: isinstance(step, writing), steps))
    return preparation, tuple(steps[len(preparation) :])
