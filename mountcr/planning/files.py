# SPDX-License-Identifier: Apache-2.0
"""The files that CRIU's images name, as they were at the dump."""

from __future__ import annotations

from mountcr.model import Record
from mountcr.paths import KPath

__all__ = ["NamedFile"]


class NamedFile(Record, frozen=True, kw_only=True):
    """
    A regular file that a task had open or mapped.

    `path` is from the container's root, `mountpoint` that of the mount it lies on. `size` in bytes
    and `mode` are None where CRIU does not compare them. `digest` is SHA-256 in hexadecimal, empty
    where the content is free to change: a file that was open for writing, or one that CRIU itself
    brings back. `build_id` is that of an ELF file, in hexadecimal.
    """

    path: KPath
    mountpoint: KPath
    size: int | None = None
    mode: int | None = None
    digest: str = ""
    build_id: str = ""
