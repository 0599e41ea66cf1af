# SPDX-License-Identifier: Apache-2.0
"""The parts of a bundle: what each member holds, written anew each time that it is asked for."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Final

from mountcr import paths
from mountcr.bundle.names import IMAGES, UPPER, holds_contents
from mountcr.bundle.writer import Part
from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import decode
from mountcr.rootfs.changes import changes, everything, hiding_sockets
from mountcr.rootfs.difference import difference
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tarpieces import Pieces, state
from mountcr.rootfs.tarwriter import record_tar
from mountcr.rootfs.tree import DirectoryTree, shown
from mountcr.rootfs.view import View

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mountcr.compression import Output
    from mountcr.paths import KPath
    from mountcr.planning.bundling import Contents
    from mountcr.rootfs.batches import Progress
    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tarpieces import Recording
    from mountcr.rootfs.tarwriter import Archived
    from mountcr.rootfs.tree import Tree

__all__ = ["image_parts", "parts_of"]

_PIECE: Final = 1 << 20


def parts_of(
    contents: Contents,
    images: KPath,
    changed: Mapping[str, bytes],
    *,
    left_out: list[KPath],
    held: contextlib.ExitStack,
    progress: Progress | None,
) -> Iterator[Part]:
    """
    Give the parts of a bundle in their order: what is small and says much first.

    `changed` are images, by name, that hold something else than their files. What a tar cannot hold
    is added to `left_out`. What is opened for the parts is open until `held` is closed; `progress`
    hears of what is written, not of what is measured before. Raises OSError, RefusedError.
    """
    yield from image_parts(images, changed, contents=False)
    yield from _mount_parts(contents, left_out, held, progress)
    yield from image_parts(images, changed, contents=True)
    yield from _layer_parts(contents, left_out, held, progress)


def image_parts(images: KPath, changed: Mapping[str, bytes], *, contents: bool) -> Iterator[Part]:
    """Give CRIU's images: those that hold contents of memory and files, or the others."""
    directory = decode(images)
    for name in sorted(os.listdir(os.fsdecode(directory))):
        member = f"{IMAGES}/{name}"
        if not name.endswith(".img") or holds_contents(member) is not contents:
            continue
        if name in changed:
            yield Part(member, partial(_write_bytes, changed[name]))
        else:
            yield Part(member, _File(os.path.join(directory, os.fsencode(name))).write)


def _mount_parts(
    contents: Contents,
    left_out: list[KPath],
    held: contextlib.ExitStack,
    progress: Progress | None,
) -> Iterator[Part]:
    """Give what lies on mounts."""
    for carried, source in contents.mounts:
        if carried.type is InodeType.DIRECTORY:
            tree = held.enter_context(DirectoryTree(source))
            entries = partial(everything, tree)
            lost = partial(_lost_there, left_out, carried.mountpoint)
            yield Part(carried.member, _Tar(entries, lost, [tree], held, progress).write)
        else:
            yield Part(carried.member, _File(decode(source)).write)


def _layer_parts(
    contents: Contents,
    left_out: list[KPath],
    held: contextlib.ExitStack,
    progress: Progress | None,
) -> Iterator[Part]:
    """Give the layers, the writable one last."""
    view = held.enter_context(opened(contents.stored, contents.data))
    if contents.compared:
        yield from _compared_parts(contents, view, left_out, held, progress)
        return
    trees = [*(layer.tree for layer in view.layers), *view.data]
    for number, layer in enumerate(contents.layers, 1):
        if layer.member:
            entries = partial(_changes, view, number)
            lost = partial(_lost_below, left_out, view)
            yield Part(layer.member, _Tar(entries, lost, trees, held, progress).write)
    entries = partial(_changes, view, 0)
    yield Part(UPPER, _Tar(entries, left_out.extend, trees, held, progress).write)


def _compared_parts(
    contents: Contents,
    view: View,
    left_out: list[KPath],
    held: contextlib.ExitStack,
    progress: Progress | None,
) -> Iterator[Part]:
    """Give what differs of a whole root file system from that of its image, and the image."""
    tree, base = (layer.tree for layer in view.layers)
    for layer in contents.layers:
        if layer.member:
            lost = partial(_lost_below, left_out, view)
            whole = _Tar(partial(everything, base), lost, [base], held, progress)
            yield Part(layer.member, whole.write)
    entries = partial(_difference, tree, base)
    yield Part(UPPER, _Tar(entries, left_out.extend, [tree], held, progress).write)


def _lost_there(left_out: list[KPath], mountpoint: KPath, lost: Iterable[KPath]) -> None:
    left_out += [paths.join(mountpoint, each) for each in lost]


def _lost_below(left_out: list[KPath], view: View, lost: Iterable[KPath]) -> None:
    """Add what a lower layer loses, if it shows."""
    for each in lost:
        inode = view.inode(decode(each).lstrip(b"/"))
        if inode is not None and inode.type is InodeType.SOCKET:
            left_out.append(each)


def _changes(view: View, number: int) -> Iterator[Entry]:
    """Give what one layer changes of those below it."""
    below = View(view.layers[number + 1 :], view.data)
    return hiding_sockets(changes(view.layers[number], below, writable=number == 0), below)


def _difference(tree: Tree, base: Tree) -> Iterator[Entry]:
    return hiding_sockets(difference(tree, base), base)


def _write_bytes(data: bytes, file: Output) -> None:
    file.write(data)


class _File:
    """The content of a regular file, which must not change."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._was: tuple[int, int, int] | None = None

    def write(self, file: Output) -> None:
        """Write it. Raises OSError naming the file, EIO where somebody wrote into it."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._path, flags), "rb", buffering=0) as source:
            was = state(source.fileno())
            if self._was not in {None, was}:
                text = "the file was written into while it was read"
                raise OSError(errno.EIO, text, os.fsdecode(self._path))
            self._was = was
            while data := source.read(_PIECE):
                file.write(data)


def _importable(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Pass entries on. Raises RefusedError at a device that no bundle may bring to a host."""
    for entry in entries:
        inode = entry.inode
        if inode is not None and inode.is_own_device:
            msg = f"{shown(entry.path)} is the {inode.type} device {inode.rdev}: no import takes it"
            hint = "remove it from the container, whose own /dev is a mount"
            raise RefusedError(msg, hint=hint)
        yield entry


class _Tar:
    """
    The tar of some entries, which is written again without looking for them again.

    `lost` is told once what it cannot hold.
    """

    def __init__(
        self,
        entries: Callable[[], Iterator[Entry]],
        lost: Callable[[Iterable[KPath]], None],
        trees: Sequence[Tree],
        held: contextlib.ExitStack,
        progress: Progress | None,
    ) -> None:
        self._entries = entries
        self._lost = lost
        self._pieces = held.enter_context(Pieces(trees))
        self._complete = False
        self._progress = progress

    def write(self, file: Output) -> None:
        """Write it. Raises OSError naming the path, RefusedError."""
        if self._complete:
            self._pieces.replay(file, self._progress)
            return
        self._lost(self._pieces.record(self._find, file).left_out)
        self._complete = True

    def _find(self, recording: Recording) -> Archived:
        return record_tar(_importable(self._entries()), recording)
