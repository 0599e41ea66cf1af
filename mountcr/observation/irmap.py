# SPDX-License-Identifier: Apache-2.0
"""
Where CRIU finds a watched inode whose file handle cannot be opened.

It walks a few directories from the root of the root task, symbolic links as themselves, and takes
what has the device and inode number of the mark (criu/irmap.c, `hints[]`).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from mountcr import devices
from mountcr.kernel.beneath import open_in_root
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["scan"]

_WALKED: Final[tuple[bytes, ...]] = (
    b"etc",
    b"var/spool",
    b"var/log",
    b"usr/share/dbus-1/system-services",
    b"var/lib/polkit-1/localauthority",
    b"usr/share/polkit-1/actions",
    b"lib/udev",
)

_LIMIT: Final = 20_000
"""Names that are looked at; CRIU has no limit, but a container may be frozen meanwhile."""


def scan(root: int) -> dict[tuple[str, int], KPath]:
    """Give the path of each inode that CRIU's search finds, by device and number."""
    found: dict[tuple[str, int], KPath] = {}
    for path, result in _walk(root):
        dev = devices.of_stat(result.st_dev)
        found.setdefault((dev, result.st_ino), KPath("/" + encode(path)))
        if len(found) >= _LIMIT:
            break
    return found


def _walk(root: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Walk the directories; what cannot be looked at is left out, as CRIU does."""
    yield b"", os.fstat(root)
    waiting: list[bytes] = [*reversed(_WALKED)]
    while waiting:
        path = waiting.pop()
        with contextlib.suppress(OSError), _directory(root, path) as fd:
            if path in _WALKED:
                yield path, os.fstat(fd)
            for entry in os.scandir(fd):
                below = path + b"/" + os.fsencode(entry.name)
                yield below, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(below)


@contextlib.contextmanager
def _directory(root: int, path: bytes) -> Generator[int]:
    """Open a directory of the container, whatever its symbolic links say, for a block."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    fd = open_in_root(root, path, flags)
    try:
        yield fd
    finally:
        os.close(fd)
