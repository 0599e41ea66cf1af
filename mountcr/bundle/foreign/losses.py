# SPDX-License-Identifier: Apache-2.0
"""
What an archive does not have of a container that is still on this host.

Podman and CRI-O leave a changed file out when nothing lies at its path on the host, and never store
mode or owner of a directory that was there before (pkg/checkpoint/crutils,
`CRCreateRootFsDiffTar()`). What a restore would show is compared with what the container has.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.bundle.foreign.checkpoint import DiffForm
from mountcr.driver import get_driver
from mountcr.errors import RefusedError
from mountcr.paths import decode, join
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.fingerprint import Change, Kind, classify
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tar import TarTree
from mountcr.rootfs.tree import shown
from mountcr.rootfs.verify import Difference, path_differences

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mountcr.bundle.foreign.checkpoint import ForeignCheckpoint, RootfsDiff
    from mountcr.bundle.foreign.unpacked import Unpacked
    from mountcr.paths import KPath
    from mountcr.rootfs.dialect import Layer
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tree import Content, Tree
    from mountcr.rootfs.view import View
    from mountcr.stack import Stack

__all__ = ["ENGINES", "find_losses"]

ENGINES: Final = frozenset(
    {
        "/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab", "/proc", "/run",
        "/run/notify", "/run/.containerenv", "/run/secrets", "/sys",
    }
)  # fmt: skip
"""What engines make anew in each container (libpod/container_internal_common.go, `initInodes`)."""

_SECOND: Final = 10**9
_CHUNK: Final = 1 << 20
_ROOT_MODE: Final = 0o555
"""Of the root of every writable layer that containers/storage makes."""


def find_losses(
    checkpoint: ForeignCheckpoint, archive: Unpacked, stack: Stack, *, contents: bool = True
) -> list[Difference]:
    """
    Compare an archive with the writable layer of its container, path by path.

    Without `contents` none is read: size and time of modification have to do. Raises OSError for
    what cannot be read, RefusedError for a stack of which nobody knows what was changed in it, and
    for a damaged tar.
    """
    layers = get_driver(stack.driver).layers(stack)
    if len(layers) == 1:
        msg = f"what was changed in {layers[0].path} is not known: {stack.driver} keeps no layers"
        raise RefusedError(msg, hint="compare with the image by hand")
    with (
        opened(layers, stack.data) as view,
        _archived(checkpoint.rootfs, archive, view.below()) as found,
    ):
        below = view.below()
        recorded = classify(changes(view.layers[0], below), below, contents=contents)
        kept = [each for each in recorded if not _is_engines(each)]
        return [*_compare(kept, found, below, contents=contents)]


def _is_engines(change: Change) -> bool:
    if change.path == "/":
        inode = change.inode
        return inode is not None and (inode.mode, inode.uid, inode.gid) == (_ROOT_MODE, 0, 0)
    same = change.kind is Kind.SAME and not change.opaque
    return same or change.path in ENGINES


class _Archived:
    """What an archive has of a root file system: a tree of files, and what is removed."""

    def __init__(self, layer: Layer | None, removed: frozenset[KPath]) -> None:
        self.layer = layer
        self.removed = removed

    def inode(self, path: bytes) -> Inode | None:
        marked = self.layer.inode(path) if self.layer else None
        return marked.inode if marked else None

    def removes(self, path: KPath) -> bool:
        """Tell whether a path, or a directory above it, is removed."""
        while path != "/":
            if path in self.removed:
                return True
            path = shown(os.path.dirname(decode(path)).lstrip(b"/"))
        return False


@contextlib.contextmanager
def _archived(diff: RootfsDiff | None, archive: Unpacked, below: View) -> Generator[_Archived]:
    if diff is None or not archive.has(diff.member):
        yield _Archived(None, frozenset(diff.removed if diff else ()))
        return
    with TarTree(join(archive.directory, diff.member), below) as tree:
        dialect = get_dialect("oci" if diff.form is DiffForm.LAYER else "vfs")
        layer = dialect.layer(tree)
        removed = {*diff.removed}
        if diff.form is DiffForm.LAYER:
            removed |= {shown(each.path) for each in changes(layer, None) if each.inode is None}
        yield _Archived(layer, frozenset(removed))


def _compare(
    recorded: list[Change], archived: _Archived, below: View, *, contents: bool
) -> Iterator[Difference]:
    digests = {each.path: each.digest for each in recorded}
    for change in recorded:
        path = decode(change.path).lstrip(b"/")
        if change.inode is None:
            if not archived.removes(change.path):
                yield Difference(path=change.path, what="not removed in the archive")
            continue
        if change.link is not None:
            digest = digests.get(change.link, "")
            change = msgspec.structs.replace(change, link=None, digest=digest)  # noqa: PLW2901
        inode = archived.inode(path)
        if inode is None:
            yield from _missing(change, below, path)
        else:
            now = _change(change, archived.layer.tree if archived.layer else below, path, inode)
            if not contents:
                now = msgspec.structs.replace(now, digest="")
            yield from path_differences([_comparable(change)], [_comparable(now)])
        if change.opaque:
            yield from _hidden(change, archived, below, path)


def _missing(change: Change, below: View, path: bytes) -> Iterator[Difference]:
    """Say what shows in the place of what is missing: what the image has there."""
    lower = below.inode(path)
    if lower is None:
        yield Difference(path=change.path, what="not in the archive")
        return
    if lower.type is not change.inode.type if change.inode else False:
        what = f"not in the archive, so a {lower.type} of the image shows"
        yield Difference(path=change.path, what=what)
        return
    now = _change(change, below, path, lower)
    found = [each.what for each in path_differences([_comparable(change)], [_comparable(now)])]
    if found:
        what = f"not in the archive, so the image's shows: {'; '.join(found)}"
        yield Difference(path=change.path, what=what)


def _hidden(change: Change, archived: _Archived, below: View, path: bytes) -> Iterator[Difference]:
    """Give what an opaque directory hides and the archive does not remove."""
    for name in below.entries(path):
        inside = join(change.path, shown(name).lstrip("/"))
        if archived.inode(decode(inside).lstrip(b"/")) is None and not archived.removes(inside):
            yield Difference(path=inside, what="not removed in the archive")


def _change(like: Change, tree: Tree, path: bytes, inode: Inode) -> Change:
    """Give the change that a tree has at a path, to be compared with another one."""
    digest = ""
    if inode.is_file and like.digest and like.inode and inode.size == like.inode.size:
        digest = _digest(tree.content(path))
    return Change(path=like.path, kind=like.kind, opaque=like.opaque, inode=inode, digest=digest)


def _comparable(change: Change) -> Change:
    """
    Leave out what no tar of these tools has: times of directories, and parts of seconds.

    Access, identity and number of links are compared nowhere.
    """
    inode = change.inode
    if inode is None:
        return change
    mtime = 0 if inode.is_directory else inode.mtime - inode.mtime % _SECOND
    inode = msgspec.structs.replace(inode, mtime=mtime)
    return msgspec.structs.replace(change, inode=inode)


def _digest(content: Content) -> str:
    """Give the SHA-256 of a content, and close it."""
    found = hashlib.sha256()
    try:
        at, end = content.offset, content.offset + content.size
        while at < end:
            piece = os.pread(content.fd, min(_CHUNK, end - at), at)
            if not piece:
                break
            found.update(piece)
            at += len(piece)
    finally:
        os.close(content.fd)
    return found.hexdigest()
