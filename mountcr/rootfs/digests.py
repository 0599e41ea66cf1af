# SPDX-License-Identifier: Apache-2.0
"""
Digests: of the contents of files, and of all that a layer changes.

The digest of a layer is SHA-256 over its entries in the normal form and their order, so it is the
same in every dialect that says the same. Each entry is one MessagePack array: its path, and, of
what is not removed, type, mode, owner, group, time of modification in nanoseconds, size, `rdev`,
target, pairs of name and value of the extended attributes sorted by name, the path of the entry
that it is a hard link of, whether it is opaque. Paths, targets, names and values are binary, what
is not there is nil. Where contents count, a binary follows each entry: the SHA-256 of the content
of a regular file, of which an earlier entry is no hard link; of all else nothing. The time of
access, the inode number, and which parts of a file are holes, are not in it.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from typing import TYPE_CHECKING, Final, Self, TypeAlias, TypeVar

import msgspec

from mountcr.paths import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from mountcr.rootfs.dialect import Entry
    from mountcr.rootfs.tree import Content

__all__ = ["Digest", "Digester", "LayerDigest", "encode_entry"]

T = TypeVar("T")
Digest: TypeAlias = "str | Future[str]"
"""SHA-256 in hexadecimal, empty where there is no content, or what will be that."""

_BLOCK: Final = 1 << 18
_SMALL: Final = 1 << 16
"""Bytes that are hashed in less time than another thread takes to begin."""

_AHEAD: Final = 32
"""Files that are open at the same time, waiting for their digests."""


class Digester:
    """
    Threads that hash; hashlib lets others run meanwhile.

    At the end of a `with` block no thread is left and every descriptor is closed.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let what has begun come to its end soon."""
        self._stopped = True
        if self._pool is not None:
            self._pool.shutdown()

    def start(self, content: Content) -> Digest:
        """Begin to hash a content, whose descriptor is closed when that is done."""
        if content.size <= _SMALL:
            return self._digest(content)
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # costs 10 ms

            self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        return self._pool.submit(self._digest, content)

    def _digest(self, content: Content) -> str:
        """Hash as many bytes as there were when it was opened; a file may grow or shrink."""
        state = hashlib.sha256()
        try:
            position, end = content.offset, content.offset + content.size
            while position < end and not self._stopped:
                block = os.pread(content.fd, min(_BLOCK, end - position), position)
                if not block:
                    break
                state.update(block)
                position += len(block)
        finally:
            os.close(content.fd)
        return state.hexdigest()

    @staticmethod
    def in_order(
        begun: Iterable[tuple[T, tuple[Digest, Digest]]],
    ) -> Iterator[tuple[T, tuple[str, str]]]:
        """Give each thing with its digests, while those of the next ones are under way."""
        waiting: deque[tuple[T, tuple[Digest, Digest]]] = deque()
        for each in begun:
            waiting.append(each)
            if len(waiting) > _AHEAD:
                item, (one, other) = waiting.popleft()
                yield item, (_result(one), _result(other))
        for item, (one, other) in waiting:
            yield item, (_result(one), _result(other))


def _result(digest: Digest) -> str:
    return digest if isinstance(digest, str) else digest.result()


class LayerDigest:
    """The digest of a layer, entry by entry."""

    def __init__(self) -> None:
        self._metadata = hashlib.sha256()
        self._whole = hashlib.sha256()

    def add(self, entry: Entry, content: str) -> None:
        """Take the next entry; `content` is its digest in hexadecimal, if it has one."""
        encoded = encode_entry(entry)
        self._metadata.update(encoded)
        self._whole.update(encoded + msgspec.msgpack.encode(bytes.fromhex(content)))

    def metadata(self) -> str:
        """Give the digest without contents, in hexadecimal."""
        return self._metadata.hexdigest()

    def whole(self) -> str:
        """Give the digest with contents, in hexadecimal."""
        return self._whole.hexdigest()


def encode_entry(entry: Entry) -> bytes:
    """Spell an entry in one way only, without its content."""
    inode = entry.inode
    if inode is None:
        return msgspec.msgpack.encode((entry.path,))
    return msgspec.msgpack.encode(
        (
            entry.path,
            inode.type,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.size,
            inode.rdev,
            None if inode.target is None else decode(inode.target),
            sorted((decode(name), value) for name, value in inode.xattrs.items()),
            entry.link,
            entry.opaque,
        )
    )
