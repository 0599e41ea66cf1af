# SPDX-License-Identifier: Apache-2.0
"""
Names that begin with `.wh.`: the marks that AUFS, the old unionfs, fuse-overlayfs and OCI share.

A whiteout of NAME is `.wh.NAME` beside it; a directory is opaque by a file of a certain name in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.errors import RefusedError
from mountcr.rootfs.tree import MOST, join, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mountcr.model import InodeType

__all__ = ["OPAQUE", "PREFIX", "Names", "refuse_mark", "split", "whiteout"]

PREFIX: Final = b".wh."
"""What whiteouts begin with: `AUFS_WH_PFX` in linux/aufs_type.h, OCI image-spec layer.md."""

OPAQUE: Final = b".wh..wh..opq"
"""What makes a directory opaque for AUFS and OCI."""

_NOTHING: Final = frozenset({b"", b".", b".."})


class Names(NamedTuple):
    """What is in a directory, by what it means; a name can be both there and removed."""

    names: dict[bytes, InodeType]
    removed: frozenset[bytes]
    opaque: bool


def split(
    directory: bytes,
    entries: Mapping[bytes, InodeType],
    opaque: bytes = OPAQUE,
    *,
    ignored: Callable[[bytes], bool] = lambda _: False,
) -> Names:
    """
    Tell names from marks in a directory; `ignored` names are neither.

    Raises RefusedError, naming the path, for the whiteout of nothing, of `.` or of `..`.
    """
    names: dict[bytes, InodeType] = {}
    removed: set[bytes] = set()
    is_opaque = False
    for name, kind in entries.items():
        if not name.startswith(PREFIX):
            names[name] = kind
        elif name == opaque:
            is_opaque = True
        elif not ignored(name):
            removed.add(_whited_out(directory, name))
    return Names(names, frozenset(removed), is_opaque)


def _whited_out(directory: bytes, mark: bytes) -> bytes:
    name = mark[len(PREFIX) :]
    if name in _NOTHING:
        msg = f"{shown(join(directory, mark))} is the whiteout of no name (rule: whiteouts)"
        raise RefusedError(msg, hint="remove it: nobody but a broken program writes such names")
    return name


def whiteout(path: bytes, dialect: str) -> bytes:
    """Give the path of the whiteout of a path. Raises RefusedError where the name is too long."""
    directory, _, name = path.rpartition(b"/")
    if len(PREFIX + name) > MOST:
        msg = f"{shown(path)} is removed, and its name is too long for a whiteout of {dialect}"
        raise RefusedError(msg, hint=f"names of more than {MOST - len(PREFIX)} bytes have none")
    return join(directory, PREFIX + name)


def refuse_mark(path: bytes, dialect: str) -> None:
    """Raise RefusedError for a path whose name would be taken for a mark."""
    if path.rpartition(b"/")[2].startswith(PREFIX):
        msg = f"{shown(path)} would be a mark of {dialect}: its name begins with .wh."
        raise RefusedError(msg, hint="choose a driver without such marks, as overlay or vfs")
