# SPDX-License-Identifier: Apache-2.0
"""The parts of a bundle: what each member holds, written anew each time that it is asked for."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final

from mountcr.bundle.document import IMAGES, UPPER, holds_contents
from mountcr.bundle.writer import Part
from mountcr.model import InodeType
from mountcr.paths import decode
from mountcr.rootfs.changes import changes, everything
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tarwriter import write_tar
from mountcr.rootfs.tree import DirectoryTree
from mountcr.rootfs.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mountcr.compression import Output
    from mountcr.paths import KPath
    from mountcr.planning.bundling import Contents
    from mountcr.rootfs.batches import Progress

__all__ = ["parts_of"]

_PIECE: Final = 1 << 20


def parts_of(
    contents: Contents,
    images: KPath,
    changed: Mapping[str, bytes],
    left_out: list[KPath],
    progress: Progress | None,
) -> Iterator[Part]:
    """
    Give the parts of a bundle in their order: what is small and says much first.

    `changed` are images, by name, that hold something else than their files. What a tar cannot hold
    is added to `left_out`.
    """
    yield from _image_parts(images, changed, contents=False)
    yield from _mount_parts(contents, progress)
    yield from _image_parts(images, changed, contents=True)
    yield from _layer_parts(contents, left_out, progress)


def _image_parts(images: KPath, changed: Mapping[str, bytes], *, contents: bool) -> Iterator[Part]:
    """Give CRIU's images: those that hold contents of memory and files, or the others."""
    directory = decode(images)
    for name in sorted(os.listdir(os.fsdecode(directory))):
        member = f"{IMAGES}/{name}"
        if not name.endswith(".img") or holds_contents(member) is not contents:
            continue
        if name in changed:
            yield Part(member, partial(_write_bytes, changed[name]))
        else:
            yield Part(member, partial(_write_file, os.path.join(directory, os.fsencode(name))))


def _write_bytes(data: bytes, file: Output) -> None:
    file.write(data)


def _write_file(path: bytes, file: Output) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags), "rb", buffering=0) as source:
        while data := source.read(_PIECE):
            file.write(data)


def _mount_parts(contents: Contents, progress: Progress | None) -> Iterator[Part]:
    """Give what lies on mounts."""
    for carried, source in contents.mounts:
        if carried.type is InodeType.DIRECTORY:
            yield Part(carried.member, partial(_write_directory, source, progress))
        else:
            yield Part(carried.member, partial(_write_file, decode(source)))


def _write_directory(source: KPath, progress: Progress | None, file: Output) -> None:
    with DirectoryTree(source) as tree:
        write_tar(everything(tree), file, progress=progress)


def _layer_parts(
    contents: Contents, left_out: list[KPath], progress: Progress | None
) -> Iterator[Part]:
    """Give the layers, the writable one last."""
    for number, layer in enumerate(contents.layers, 1):
        if layer.member:
            yield Part(layer.member, partial(_write_layer, contents, number, [], progress))
    yield Part(UPPER, partial(_write_layer, contents, 0, left_out, progress))


def _write_layer(
    contents: Contents,
    number: int,
    left_out: list[KPath],
    progress: Progress | None,
    file: Output,
) -> None:
    """Write what one layer changes of those below it."""
    with opened(contents.stored, contents.data) as view:
        layer = view.layers[number]
        below = View(view.layers[number + 1 :], view.data)
        entries = changes(layer, below, writable=number == 0)
        left_out += write_tar(entries, file, progress=progress).left_out
