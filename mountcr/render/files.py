# SPDX-License-Identifier: Apache-2.0
"""The files of a container as a table: one row each, as it is and as the kernel shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.model import FileKind
from mountcr.render.table import Table
from mountcr.render.text import printable
from mountcr.resolution.state import FileState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.resolution.files import ResolvedFile

__all__ = ["table_of_files"]

_TITLES: Final = ("PID", "HELD AS", "STATE", "PATH", "SHOWN AS", "MOUNT", "QUIRKS")

_STYLES: Final = {
    FileState.STALE: "yellow",
    FileState.DELETED: "yellow",
    FileState.UNRESOLVED: "red",
}


def table_of_files(files: Iterable[ResolvedFile]) -> Table:
    """
    Give a row for each file.

    A file that is shown by its path has `=` for that; of one whose path cannot be known, the
    reason stands in its place.
    """
    table = Table(_TITLES)
    for each in files:
        path = f"({each.how})" if each.path is None else each.path
        mount = f"{each.mnt_id} {each.mountpoint}" if each.mountpoint else str(each.mnt_id)
        table.add(
            str(each.pid),
            _held_as(each),
            each.state,
            printable(path),
            "=" if each.path == each.shown else printable(each.shown),
            printable(mount),
            ",".join(each.quirks),
            style=_STYLES.get(each.state, ""),
        )
    return table


def _held_as(file: ResolvedFile) -> str:
    if file.kind is FileKind.FD:
        return f"fd {file.fd}"
    if file.kind is FileKind.MAP:
        return f"{file.start:x}-{file.end:x}"
    return file.kind
