# SPDX-License-Identifier: Apache-2.0
"""
UnionFS: branches merged by unionfs-fuse, a server outside of the container.

Its ancestor in the kernel, which no kernel of today has, is read and converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NoReturn

from mountcr.errors import CapabilityError
from mountcr.fuseopts import (
    Branch,
    FuseCommand,
    format_branches,
    format_options,
    parse_branches,
    parse_command,
)
from mountcr.paths import KPath, decode, encode, join
from mountcr.planning.steps import FuseUnion, Step
from mountcr.resolution.layers import by_layer
from mountcr.stack import Stack, StoredLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, OpenFile
    from mountcr.resolution.layers import PathFix
    from mountcr.resolution.unions import Seen, Union

__all__ = ["ClassicUnionFS", "UnionFS"]

_PROGRAMS: Final = ("unionfs", "unionfs-fuse")
_TYPES: Final = frozenset({"fuse.unionfs", "fuse.unionfs-fuse"})

_ALWAYS: Final = (b"cow", b"allow_other", b"dev", b"suid")
"""Whiteouts count with `cow` only; a root has devices, set-user-ID programs and other users."""

_NOT_OURS: Final = frozenset(
    {
        b"cow", b"dirs", b"chroot", b"allow_other", b"allow_root", b"auto_unmount", b"debug",
        b"debug_file", b"default_permissions", b"dev", b"nodev", b"suid", b"nosuid", b"exec",
        b"fsname", b"nonempty", b"ro", b"rw", b"subtype",
    }
)  # fmt: skip
"""Options that are always given, that tell where something is, or that are the mount's."""


class UnionFS:
    """The driver of unionfs-fuse mounts, whoever started the server."""

    name: ClassVar[str] = "unionfs"
    dialect: ClassVar[str] = "unionfs"
    flat: ClassVar[bool] = False

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:
        """
        Read the branches from the command line of the server.

        Only the topmost branch is an upper: what unionfs would write into another one is copied up
        instead. None where the server is not known, and where the first writable branch is not the
        topmost one, which no other driver can do.
        """
        del host
        command = parse_command(mount.server)
        if command.program not in _PROGRAMS and mount.fstype not in _TYPES:
            return None
        branches = _branches(command, mount.server_cwd)
        if not branches or any(each.writable for each in branches[1:]) > branches[0].writable:
            return None
        layers = tuple(encode(each.path) for each in branches)
        writable = branches[0].writable
        return Stack(
            driver=self.name,
            upper=layers[0] if writable else None,
            lowers=layers[1:] if writable else layers,
            options=_kept(command),
            dialect=mount.dialect,
            provenance=(f"command line of the server of mount {mount.id} at {mount.mountpoint}",),
        )

    def layers(self, stack: Stack) -> tuple[StoredLayer, ...]:
        """Read them by the marks of any version, and write them by those of the stack's."""
        dialect = stack.dialect or self.dialect
        return tuple(StoredLayer(path=each, dialect=dialect) for each in stack.directories)

    def stack(
        self,
        lowers: tuple[KPath, ...],
        upper: KPath,
        *,
        origin: Stack,
        together: bool,
    ) -> Stack:
        """
        Keep the options of a unionfs.

        Roots of others showed no directory of marks, and the numbers of their inodes tell hard
        links, which FUSE otherwise numbers by path (libfuse, `use_ino`). Inodes of several file
        systems can have the same number, so then they do not.
        """
        ours = origin.driver == self.name
        options = (KPath("hide_meta_files"), *((KPath("use_ino"),) if together else ()))
        return Stack(
            driver=self.name,
            lowers=lowers,
            upper=upper,
            options=origin.options if ours else options,
            provenance=origin.provenance,
        )

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Start a server; a stack without upper has no writable branch."""
        layers = stack.directories
        branches = [Branch(decode(each), each == stack.upper) for each in layers]
        try:
            word = format_branches(branches)
        except ValueError as error:
            msg = f"unionfs-fuse takes no branch with a colon or equals sign in its path: {error}"
            hint = "choose another --driver, or give the layer another path"
            raise CapabilityError(msg, probe="unionfs", hint=hint) from None
        options = (*_ALWAYS, *(decode(KPath(each)) for each in stack.options))
        return [
            FuseUnion(
                at=at,
                programs=_PROGRAMS,
                package="unionfs-fuse",
                layers=layers,
                arguments=(KPath("-f"), KPath("-o"), format_options(options), word),
                because=stack.provenance[0] if stack.provenance else "the stack is a unionfs",
            )
        ]

    def logical_path(self, file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
        """Find by its inode what was opened through a mount of a branch."""
        return by_layer(file, union, seen)


def _branches(command: FuseCommand, cwd: KPath | None) -> list[Branch]:
    """Give the branches, of the first word or of `dirs`, by absolute paths if it is known how."""
    text = command.value(b"dirs")
    if text is None:
        text = command.words[0] if len(command.words) > 1 else b""
    chroot = command.value(b"chroot")
    found: list[Branch] = []
    for path, writable in parse_branches(text):
        whole = encode(path)
        if chroot is not None:
            whole = join(encode(chroot), whole)
        if not whole.startswith("/") and cwd is not None:
            whole = join(cwd, whole)
        found.append(Branch(decode(KPath(whole.rstrip("/") or "/")), writable))
    return found


def _kept(command: FuseCommand) -> tuple[str, ...]:
    return tuple(
        encode(each) for each in command.options if each.partition(b"=")[0] not in _NOT_OURS
    )


class ClassicUnionFS:
    """
    The driver of the unionfs that was a kernel module, versions 1 and 2: read and never mounted.

    mountinfo shows its branches as `dirs=/upper=rw:/lower=ro`.
    """

    name: ClassVar[str] = "unionfs-classic"
    dialect: ClassVar[str] = "unionfs-classic"
    flat: ClassVar[bool] = False

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:
        """Read the branches from the mount's own options."""
        del host
        if mount.fstype != "unionfs":
            return None
        options = mount.super_options.split(",")
        told = [each for each in options if each.startswith("dirs=")]
        if not told:
            return None
        layers: list[KPath] = []
        writable: list[bool] = []
        for part in filter(None, told[0].removeprefix("dirs=").split(":")):
            path, equals, permission = part.rpartition("=")
            layers.append(KPath(path if equals else permission))
            writable.append(not equals or permission == "rw")
        if not layers or any(writable[1:]) > writable[0]:
            return None
        return Stack(
            driver=self.name,
            upper=layers[0] if writable[0] else None,
            lowers=tuple(layers[1:] if writable[0] else layers),
            options=tuple(each for each in options if each not in {"rw", "ro"} and each != told[0]),
            provenance=(f"mountinfo: super options of mount {mount.id} at {mount.mountpoint}",),
        )

    def layers(self, stack: Stack) -> tuple[StoredLayer, ...]:
        """Read them by its own marks."""
        return tuple(StoredLayer(path=each, dialect=self.dialect) for each in stack.directories)

    def stack(
        self,
        lowers: tuple[KPath, ...],
        upper: KPath,
        *,
        origin: Stack,
        together: bool,
    ) -> Stack:
        """Raise CapabilityError: nothing becomes one of these."""
        del lowers, upper, origin, together
        _refuse()

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Raise CapabilityError: no kernel that is in use mounts it."""
        del stack, at
        _refuse()

    def logical_path(self, file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
        """Find by its inode what was opened through a mount of a branch."""
        return by_layer(file, union, seen)


def _refuse() -> NoReturn:
    msg = "unionfs-classic cannot be mounted on this kernel"
    raise CapabilityError(msg, probe="unionfs", hint="convert it: --driver overlay")
