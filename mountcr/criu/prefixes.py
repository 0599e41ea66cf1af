# SPDX-License-Identifier: Apache-2.0
"""Paths in images, as bytes, of which a prefix becomes another, by whole components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr import paths
from mountcr.errors import UsageError

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = ["checked_path", "is_beneath", "moved"]


def checked_path(path: KPath) -> None:
    """Raise UsageError for a path that is not absolute, or not in its shortest form."""
    if not paths.is_normal(path):
        msg = f"{path or 'an empty path'} is no absolute path without `.`, `..` and double slashes"
        raise UsageError(msg, hint="give it as the mount table would: /srv/data")


def is_beneath(path: bytes, ancestor: bytes) -> bool:
    """Tell whether a path is another one or lies below it."""
    return path == ancestor or path.startswith(ancestor.rstrip(b"/") + b"/")


def moved(path: bytes, old: KPath, new: KPath) -> bytes:
    """
    Give a path with the prefix `old` replaced by `new`; one without it as it is.

    Doing it twice is doing it once: with `new` below `old`, what lies below `new` stays. Raises
    UsageError where that cannot be told: for a result below `old`, with `old` below `new`.
    """
    before, after = paths.decode(old), paths.decode(new)
    inwards = is_beneath(after, before)
    if not is_beneath(path, before) or (inwards and is_beneath(path, after)):
        return path
    rest = path[len(before.rstrip(b"/")) :]
    result = (after.rstrip(b"/") + (rest if rest != b"/" else b"")) or b"/"
    if is_beneath(result, before) and not inwards:
        shown = paths.encode(path)
        msg = f"{shown} would become {paths.encode(result)}, which is below {old} as well"
        raise UsageError(msg, hint=f"go by way of another name: {old} to it, then it to {new}")
    return result
