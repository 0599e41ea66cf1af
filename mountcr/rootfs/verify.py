# SPDX-License-Identifier: Apache-2.0
"""
Comparing fingerprints: which paths are not what they were, and how.

Only what both know is compared, by the strongest that both have: the record of every path, the
digest with contents, the one without, the identity of the directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.model import Record
from mountcr.paths import KPath

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.rootfs.fingerprint import Change, Fingerprint, LayerFingerprint
    from mountcr.rootfs.inode import Inode

__all__ = ["Difference", "differences", "path_differences"]


class Difference(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What is not as it was: a path from the root of the container, or the path of a layer.

    `what` says how it is and how it was.
    """

    path: KPath
    what: str


def differences(recorded: Fingerprint, now: Fingerprint) -> list[Difference]:
    """Give all differences, layers top first, in each the paths in their order."""
    return [
        *_stacks("layer", recorded.layers, now.layers),
        *_stacks("data-only layer", recorded.data, now.data),
    ]


def _stacks(
    noun: str, recorded: Sequence[LayerFingerprint], now: Sequence[LayerFingerprint]
) -> Iterator[Difference]:
    number = 0
    for number, (was, new) in enumerate(zip(recorded, now, strict=False), 1):
        yield from _layer(f"{noun} {number} of {len(recorded)}", was, new)
    for gone in recorded[number:]:
        yield Difference(path=gone.path, what=f"{noun} missing")
    for added in now[number:]:
        yield Difference(path=added.path, what=f"{noun} new")


def _layer(noun: str, was: LayerFingerprint, new: LayerFingerprint) -> Iterator[Difference]:
    if was.dialect != new.dialect:
        what = f"{noun}: in the dialect {new.dialect}, it was in {was.dialect}"
        yield Difference(path=new.path, what=what)
    if was.changes is not None and new.changes is not None:
        yield from path_differences(was.changes, new.changes)
    elif was.digest and new.digest:
        yield from _digest(noun, new.path, "digest", was.digest, new.digest)
    elif was.metadata and new.metadata:
        yield from _digest(noun, new.path, "digest without contents", was.metadata, new.metadata)
    elif was.identity != new.identity:
        what = (
            f"{noun} is another directory, or was changed; what is in it was not recorded: "
            "dump with --fingerprint all"
        )
        yield Difference(path=new.path, what=what)


def _digest(noun: str, path: KPath, name: str, was: str, new: str) -> Iterator[Difference]:
    if was != new:
        yield Difference(path=path, what=f"{noun} changed: {name} {new[:12]}…, it had {was[:12]}…")


def path_differences(recorded: Sequence[Change], now: Sequence[Change]) -> Iterator[Difference]:
    """Give what differs in two records of changes, by path."""
    before = {each.path: each for each in recorded}
    after = {each.path: each for each in now}
    # the order of components is that of a walk: what is in a directory follows it
    for path in sorted(before.keys() | after.keys(), key=lambda each: each.split("/")):
        for what in _path(before.get(path), after.get(path)):
            yield Difference(path=path, what=what)


def _path(was: Change | None, new: Change | None) -> Iterator[str]:
    if was is None:
        yield "new" if new and new.inode else "removed"
    elif new is None:
        yield "missing" if was.inode else "removed no longer"
    elif was.inode is None or new.inode is None:
        if was.inode != new.inode:
            yield "removed no longer" if new.inode else "removed"
    elif was.inode.type is not new.inode.type:
        yield f"a {new.inode.type}, it was a {was.inode.type}"
    else:
        yield from _inode(was.inode, new.inode)
        yield from _mark(was, new)


def _inode(was: Inode, new: Inode) -> Iterator[str]:
    values: tuple[tuple[str, object, object], ...] = (
        ("size", new.size, was.size),
        ("mode", f"0{new.mode:o}", f"0{was.mode:o}"),
        ("owner", f"{new.uid}:{new.gid}", f"{was.uid}:{was.gid}"),
        ("mtime", _seconds(new.mtime), _seconds(was.mtime)),
        ("device", new.rdev, was.rdev),
        ("target", new.target, was.target),
    )
    for name, value, before in values:
        if value != before:
            yield f"{name} {value}, it had {before}"
    for name in sorted(was.xattrs.keys() | new.xattrs.keys()):
        if name not in new.xattrs:
            yield f"xattr {name} missing"
        elif name not in was.xattrs:
            yield f"xattr {name} new"
        elif was.xattrs[name] != new.xattrs[name]:
            yield f"xattr {name} has another value"


def _seconds(nanoseconds: int) -> str:
    """Spell a time as `stat -c %.9Y` does."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{seconds}.{rest:09d}"


def _mark(was: Change, new: Change) -> Iterator[str]:
    """Say how content, hard links and opaqueness differ; another size says another content."""
    same_size = was.inode is None or new.inode is None or was.inode.size == new.inode.size
    if was.digest and new.digest and was.digest != new.digest and same_size:
        yield "content"
    if was.link != new.link:
        now = f"a hard link of {new.link}" if new.link else "no hard link of an earlier path"
        before = f"a hard link of {was.link}" if was.link else "none of an earlier path"
        yield f"{now}, it was {before}"
    if was.opaque != new.opaque:
        yield "opaque, it was not" if new.opaque else "opaque no longer"
