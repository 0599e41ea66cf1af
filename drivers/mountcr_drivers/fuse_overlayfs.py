# SPDX-License-Identifier: Apache-2.0
"""fuse-overlayfs: the layers of OverlayFS, merged by a server outside of the container."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mountcr.errors import CapabilityError
from mountcr.fuseopts import FuseCommand, format_options, parse_command
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

__all__ = ["FuseOverlayFS"]

_PROGRAM: Final = "fuse-overlayfs"

_ALWAYS: Final = (b"allow_other", b"dev", b"suid")
"""A root has devices, set-user-ID programs and other users."""

_NOT_OURS: Final = frozenset(
    {
        b"lowerdir", b"upperdir", b"workdir", b"allow_other", b"allow_root", b"auto_unmount",
        b"debug", b"default_permissions", b"dev", b"nodev", b"suid", b"nosuid", b"exec", b"noexec",
        b"fsname", b"lazytime", b"noatime", b"ro", b"rw", b"subtype",
    }
)  # fmt: skip
"""Options that are always given, that are layers, or that are the mount's."""


class FuseOverlayFS:
    """
    The driver of fuse-overlayfs mounts, whoever started the server.

    An upper wants a work directory beside it, on the same file system.
    """

    name: ClassVar[str] = "fuse-overlayfs"
    dialect: ClassVar[str] = "fuse-overlayfs"
    flat: ClassVar[bool] = False

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:
        """Read the layers from the command line of the server; None where it is not known."""
        del host
        command = parse_command(mount.server)
        if _PROGRAM not in {command.program, mount.fstype.removeprefix("fuse.")}:
            return None
        lowers = _lowers(command, mount.server_cwd)
        if not lowers:
            return None
        upper, work = (_path(command.value(each), mount) for each in (b"upperdir", b"workdir"))
        return Stack(
            driver=self.name,
            lowers=lowers,
            upper=upper,
            work=work,
            options=_kept(command),
            provenance=(f"command line of the server of mount {mount.id} at {mount.mountpoint}",),
        )

    def layers(self, stack: Stack) -> tuple[StoredLayer, ...]:
        """Read them as it does, by whiteouts of every kind that it knows."""
        return tuple(StoredLayer(path=each, dialect=self.dialect) for each in stack.directories)

    def stack(
        self,
        lowers: tuple[KPath, ...],
        upper: KPath,
        *,
        origin: Stack,
        together: bool,  # noqa: ARG002
    ) -> Stack:
        """Keep the options of a fuse-overlayfs; the work directory is beside the upper."""
        return Stack(
            driver=self.name,
            lowers=lowers,
            upper=upper,
            work=KPath(f"{upper.rstrip('/')}.work"),
            options=origin.options if origin.driver == self.name else (),
            provenance=origin.provenance,
        )

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Start a server; a stack without upper is read-only."""
        bad = [each for each in stack.lowers if b":" in decode(each)]
        if bad:
            msg = f"fuse-overlayfs takes no lower layer with a colon in its path: {bad[0]}"
            hint = "choose another --driver, or give the layer another path"
            raise CapabilityError(msg, probe=_PROGRAM, hint=hint)
        options = [b"lowerdir=" + b":".join(map(decode, stack.lowers))]
        if stack.upper and stack.work:
            options += [b"upperdir=" + decode(stack.upper), b"workdir=" + decode(stack.work)]
        options += [*_ALWAYS, *(decode(KPath(each)) for each in stack.options)]
        work = (stack.work,) if stack.work else ()
        return [
            FuseUnion(
                at=at,
                programs=(_PROGRAM,),
                package=_PROGRAM,
                layers=(*stack.directories, *work),
                arguments=(KPath("-f"), KPath("-o"), format_options(options)),
                because=stack.provenance[0] if stack.provenance else f"the stack is {_PROGRAM}'s",
            )
        ]

    def logical_path(self, file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
        """Find by its inode what was opened through a mount of a layer."""
        return by_layer(file, union, seen)


def _lowers(command: FuseCommand, cwd: KPath | None) -> tuple[KPath, ...]:
    text = command.value(b"lowerdir") or b""
    return tuple(_whole(each, cwd) for each in text.split(b":") if each)


def _path(path: bytes | None, mount: Mount) -> KPath | None:
    return _whole(path, mount.server_cwd) if path else None


def _whole(path: bytes, cwd: KPath | None) -> KPath:
    """Give a path of the host where that is known."""
    spelled = encode(path)
    return spelled if cwd is None or spelled.startswith("/") else join(cwd, spelled)


def _kept(command: FuseCommand) -> tuple[str, ...]:
    return tuple(
        encode(each) for each in command.options if each.partition(b"=")[0] not in _NOT_OURS
    )
