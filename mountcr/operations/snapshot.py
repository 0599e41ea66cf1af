# SPDX-License-Identifier: Apache-2.0
"""
A snapshot of what a container can change, taken while its tasks are frozen: clones, not copies.

Extents are shared with the originals (FICLONE, ioctl_ficlone(2)), so the tasks wait for as long as
it takes to make the names, and not for the contents.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import paths
from mountcr.model import InodeType
from mountcr.observation.sizes import count_of
from mountcr.paths import KPath, decode
from mountcr.rootfs.changes import changes, everything
from mountcr.rootfs.copying import clone
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.opened import OCI, opened
from mountcr.rootfs.tree import DirectoryTree
from mountcr.rootfs.writer import write, write_all
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.planning.bundling import Carrying, Contents

__all__ = ["can_share", "freeze_seconds", "sources_of", "take"]

_PER_NAME: Final = 120e-6
_PER_BYTE: Final = 1 / (400 << 20)
"""
Seconds for finding, and for reading, hashing and compressing, on two cores of 2026: one does the
one while the other does the other. The disk may be slower.
"""


def sources_of(contents: Contents) -> tuple[KPath, ...]:
    """Give what a container may write into, of what goes into its bundle."""
    return (contents.stored[0].path, *(each.source for each in contents.mounts))


def can_share(sources: Iterable[KPath], scratch: KPath) -> bool:
    """Tell whether files of all these places can be cloned into a directory. Raises OSError."""
    device = os.stat(decode(scratch)).st_dev
    if any(os.stat(decode(each)).st_dev != device for each in sources):
        return False
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    descriptors: list[int] = []
    try:
        descriptors += [os.open(decode(scratch), flags, 0o600) for _ in range(2)]
        os.write(descriptors[0], bytes(4096))
        clone(*descriptors)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS}:
            return False
        raise
    finally:
        for fd in descriptors:
            os.close(fd)
    return True


def freeze_seconds(sources: Iterable[KPath]) -> tuple[int, int, float]:
    """Give names, bytes, and about how many seconds reading them into a bundle takes."""
    names = size = 0
    for each in sources:
        more, length = count_of(each)
        names += more
        size += length
    return names, size, max(names * _PER_NAME, size * _PER_BYTE)


def take(contents: Contents, scratch: KPath) -> Contents:
    """
    Clone what a container may write into below a directory, and give the contents that are there.

    Raises OSError naming what cannot be cloned, RefusedError as reading layers does; what was made
    below `scratch` stays.
    """
    upper = paths.join(scratch, "upper")
    with opened(contents.stored, contents.data) as view:
        top = view.layers[0]
        entries = everything(top.tree) if contents.compared else changes(top, view.below())
        write(entries, upper, get_dialect(OCI))
    stored = (StoredLayer(path=upper, dialect=OCI), *contents.stored[1:])
    mounts = tuple(
        _clone(each, paths.join(scratch, f"mount-{number}"))
        for number, each in enumerate(contents.mounts, 1)
    )
    return msgspec.structs.replace(contents, stored=stored, mounts=mounts)


def _clone(carrying: Carrying, into: KPath) -> Carrying:
    source = carrying.source
    if carrying.carried.type is InodeType.DIRECTORY:
        with DirectoryTree(source) as tree:
            write_all(tree, into)
    else:
        found = os.stat(decode(source))
        with open(decode(source), "rb") as file, open(decode(into), "xb") as copy:
            clone(file.fileno(), copy.fileno())
            os.fchown(copy.fileno(), found.st_uid, found.st_gid)
            os.fchmod(copy.fileno(), found.st_mode & 0o7777)
    return carrying._replace(source=into)
