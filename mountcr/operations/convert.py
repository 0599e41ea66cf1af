# SPDX-License-Identifier: Apache-2.0
"""Convert: one layer, written anew in the marks of another union file system."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from mountcr.errors import NotFoundError, RefusedError, UsageError
from mountcr.model import Record
from mountcr.operations.leftovers import recorded
from mountcr.paths import KPath, decode, encode, is_beneath
from mountcr.rootfs.changes import changes, hiding_sockets
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.opened import OCI, is_tar, opened
from mountcr.rootfs.partial import Partial
from mountcr.rootfs.tree import shown
from mountcr.rootfs.writer import write
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mountcr.rootfs.batches import Progress
    from mountcr.rootfs.dialect import Dialect, Entry, Layer, Listing, Marked
    from mountcr.rootfs.tarwriter import Archived

__all__ = ["CONVERT_SCHEMA", "ConvertResult", "convert"]

CONVERT_SCHEMA: Final = "mountcr/convert/1"

_TAR: Final = b"layer.tar"


class ConvertResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    The layer that was written: how many names besides directories and bytes of content it has.

    `removed` are the paths that it removes from what lies below, `opaque` the directories that show
    nothing of it. `left_out` are sockets, which a tar cannot hold.
    """

    schema: str = CONVERT_SCHEMA
    output: KPath
    dialect: str
    files: int
    bytes: int
    removed: int
    opaque: int
    left_out: tuple[KPath, ...] = ()
    seconds: float


def convert(
    layer: KPath,
    output: KPath,
    *,
    source: str,
    target: str,
    lowers: Sequence[KPath] = (),
    data: Sequence[KPath] = (),
    progress: Progress | None = None,
) -> ConvertResult:
    """
    Read a layer in the dialect `source` and write it, in the dialect `target`, to `output`.

    That is a new directory, for `oci` a tar; a layer in `oci` may be a tar, compressed or not.
    `lowers`, top first, in the same dialect, and overlay's data-only layers `data` are what it lies
    on. Without them every mark is taken for one that changes something. Raises NotFoundError for a
    layer that is not there, UsageError for an unknown dialect or an output that is there,
    RefusedError naming the path that the target would mistake for a mark, cannot say, or that
    points to a layer that was not given, and OSError. The output is not there then; the layers are
    never changed.
    """
    began = time.monotonic()
    get_dialect(source)
    writer = get_dialect(target)
    for each in (layer, *lowers):
        _check_layer(each, source)
    for each in data:
        _check_layer(each)
    _check_output(output, (layer, *lowers, *data))
    stored = [StoredLayer(path=each, dialect=source) for each in (layer, *lowers)]
    with opened(stored, data) as view:
        top = view.layers[0]
        below = view.below()
        entries = changes(top, below) if lowers or data else changes(_Alone(top), None)
        if target == OCI:
            entries = hiding_sockets(entries, below)
        counted = _Counted(entries)
        with recorded("convert"):
            files, size, left_out = _write(counted, output, writer, progress)
    return ConvertResult(
        output=output,
        dialect=target,
        files=files,
        bytes=size,
        removed=counted.removed,
        opaque=counted.opaque,
        left_out=left_out,
        seconds=round(time.monotonic() - began, 4),
    )


class _Counted:
    """Entries, counted while they pass."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries
        self.removed = 0
        self.opaque = 0

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self.removed += entry.inode is None
            self.opaque += entry.opaque
            yield entry


class _Alone:
    """A layer of which nobody knows what it lies on: marks that point there are refused."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.tree = layer.tree

    def listing(self, path: bytes) -> Listing:
        """Say what the layer has and removes in a directory."""
        return self._layer.listing(path)

    def inode(self, path: bytes) -> Marked | None:
        """Give an inode. Raises RefusedError where part of it lies below."""
        marked = self._layer.inode(path)
        if marked is None:
            return None
        what = (
            "was renamed, and what is in it lies below"
            if marked.redirect is not None and not marked.metacopy
            else "has its content below"
            if marked.metacopy
            else "is a hard link of files below"
            if marked.linked
            else ""
        )
        if what:
            hint = "name the layers below, top first: --lower DIR"
            raise RefusedError(f"{shown(path)} {what}", hint=hint)
        return marked


def _check_layer(path: KPath, dialect: str = "") -> None:
    """Refuse what is no layer."""
    if not os.path.lexists(decode(path)):
        raise NotFoundError(f"no such layer: {path}", hint="name the directory of a layer")
    if not os.path.isdir(decode(path)) and not is_tar(StoredLayer(path=path, dialect=dialect)):
        msg = f"layer {path} is not a directory"
        raise UsageError(msg, hint=f"only a layer in {OCI} may be a tar file")


def _check_output(output: KPath, layers: Iterable[KPath]) -> None:
    """Refuse a place where nothing can be made, before anything is."""
    if os.path.lexists(decode(output)):
        msg = f"{output} is there already"
        raise UsageError(msg, hint="name one that is not there yet; its parent must be")
    parent = os.path.dirname(decode(output))
    if not os.path.isdir(parent):
        msg = f"{output} cannot be made: {encode(parent)} is no directory"
        raise UsageError(msg, hint="make the parent first")
    real = encode(os.path.realpath(parent))
    for each in layers:
        if is_beneath(real, encode(os.path.realpath(decode(each)))):
            msg = f"{output} lies in layer {each}"
            raise UsageError(msg, hint="layers are not written into; name another place")


def _write(
    entries: Iterable[Entry], output: KPath, dialect: Dialect, progress: Progress | None
) -> tuple[int, int, tuple[KPath, ...]]:
    """Write entries, and give how many files and bytes, and what was left out."""
    if dialect.name != OCI:
        written = write(entries, output, dialect, progress=progress)
        return written.files, written.size, ()
    archived = _write_tar(entries, output, progress)
    return archived.files, archived.size, archived.left_out


def _write_tar(entries: Iterable[Entry], output: KPath, progress: Progress | None) -> Archived:
    """Write a tar in a directory of its own beside the output, and give it its name when whole."""
    from mountcr.rootfs.tarwriter import write_tar

    linked = False
    try:
        with Partial(output) as made:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(_TAR, flags, 0o600, dir_fd=made.fd), "wb") as file:
                archived = write_tar(entries, file, progress=progress)
            # unlike rename(2), this never replaces what came there meanwhile
            os.link(_TAR, decode(output), src_dir_fd=made.fd, follow_symlinks=False)
            linked = True
    except BaseException:
        if linked:
            os.unlink(decode(output))
        raise
    return archived
