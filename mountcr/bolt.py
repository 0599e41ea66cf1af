# SPDX-License-Identifier: Apache-2.0
"""
Databases of bbolt, read beside the daemon that has them open; never locked, never written.

containerd (`meta.db`, `metadata.db`), Docker (`volumes/metadata.db`) and podman before 5
(`bolt_state.db`) keep them. The daemon holds an exclusive flock as long as it runs. It writes a
transaction to pages that nothing uses, and then one of the two meta pages (`Tx.Commit()` in tx.go),
so the pages that the newest meta page leads to stay as they are until the one after the next
transaction: what was read is whole if the meta pages are the same after it as before. `read()`
sees to that.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import time
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from mountcr import paths
from mountcr.boltpages import (
    META_SIZE,
    PAGE_SIZES,
    Entry,
    Meta,
    Node,
    Place,
    decode_bucket,
    decode_meta,
    decode_node,
    decode_overflow,
    newest,
)
from mountcr.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from mountcr.paths import KPath

__all__ = ["LARGEST", "Bucket", "read"]

T = TypeVar("T")

LARGEST: Final = 64 << 20
"""Bytes of a page with its overflow, and of a file that is copied before it is read."""

LEVELS: Final = 64
"""How deep branches, and how deep buckets, are followed."""

_FIRST: Final = 2
"""The page behind the meta pages."""

ATTEMPTS: Final = 10
"""How often a database is read that changes meanwhile."""

_WAIT_SECONDS: Final = 0.001
_CACHE: Final = 16 << 20


class _Reference(NamedTuple):
    """A page, and the element of another page that leads to it."""

    page: int
    owner: int
    element: int = 0


class Bucket:
    """
    Keys in the order of their bytes, with values and buckets; valid while `work` of `read()` runs.

    Each method raises DocumentError where the database is damaged.
    """

    def __init__(self, pages: _Pages, root: _Reference | Node, level: int = 0) -> None:
        self._pages = pages
        self._root = root
        self._level = level

    def __iter__(self) -> Iterator[bytes]:
        for leaf, _ in self._leaves():
            yield from leaf.keys

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) is not None

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Give each key with its value or bucket."""
        for leaf, page in self._leaves():
            for number, (key, entry) in enumerate(zip(leaf.keys, leaf.entries, strict=True)):
                yield key, self._nested(entry, page, number) if entry.is_bucket else entry.value

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Give each key that has a value, with it."""
        for leaf, _ in self._leaves():
            for key, entry in zip(leaf.keys, leaf.entries, strict=True):
                if not entry.is_bucket:
                    yield key, entry.value

    def buckets(self) -> Iterator[tuple[bytes, Bucket]]:
        """Give each key that has a bucket, with it."""
        for key, item in self.items():
            if isinstance(item, Bucket):
                yield key, item

    def get(self, key: bytes) -> bytes | None:
        """Give the value of a key; None if it has none or a bucket."""
        found = self._find(key)
        return found if isinstance(found, bytes) else None

    def bucket(self, *keys: bytes) -> Bucket | None:
        """Give the bucket of a key, of a key in that, and so on; None if one of them has none."""
        bucket = self
        for key in keys:
            found = bucket._find(key)
            if not isinstance(found, Bucket):
                return None
            bucket = found
        return bucket

    def _find(self, key: bytes) -> bytes | Bucket | None:
        if isinstance(self._root, Node):
            leaf, page = self._root, 0
        else:
            leaf, page = self._pages.leaf(self._root, key)
        number = bisect_left(leaf.keys, key)
        if leaf.keys[number : number + 1] != [key]:
            return None
        entry = leaf.entries[number]
        return self._nested(entry, page, number) if entry.is_bucket else entry.value

    def _leaves(self) -> Iterator[tuple[Node, int]]:
        if isinstance(self._root, Node):
            return iter([(self._root, 0)])
        return self._pages.leaves(self._root)

    def _nested(self, entry: Entry, page: int, number: int) -> Bucket:
        """Give the bucket that an entry holds; an inline one is not in pages of its own."""
        place = Place(self._pages.file, page, entry.offset)
        if self._level == LEVELS:
            raise place.damage(f"a bucket is nested deeper than {LEVELS} levels")
        root = decode_bucket(place, entry.value)
        where = root if isinstance(root, Node) else _Reference(root, page, number)
        return Bucket(self._pages, where, self._level + 1)


class _Pages:
    """
    The pages of one state of a database, read as they are needed.

    A page that two elements lead to is damage, so that what is followed is a tree without cycles.
    """

    def __init__(
        self, file: str, size: int, meta: Meta, pread: Callable[[int, int], bytes]
    ) -> None:
        self.file = file
        self._size = size
        self._meta = meta
        self._pread = pread
        self._owners: dict[int, _Reference] = {}
        self._nodes: dict[int, Node] = {}
        self._cached = 0

    def root(self) -> Bucket:
        """Give the bucket that holds all others."""
        return Bucket(self, _Reference(self._meta.root, self._meta.txid % 2))

    def leaves(
        self, reference: _Reference, low: bytes = b"", high: bytes | None = None, level: int = 0
    ) -> Iterator[tuple[Node, int]]:
        """Give the leaves of a tree in order, each with its page."""
        node = self._node(reference, low, high, level)
        if not node.children:
            yield node, reference.page
        for number, child in enumerate(node.children):
            below = _Reference(child, reference.page, number)
            yield from self.leaves(below, *node.bounds(number, high), level + 1)

    def leaf(self, reference: _Reference, key: bytes) -> tuple[Node, int]:
        """Give the leaf of a tree that has a key if any has, with its page."""
        node = self._node(reference)
        high, level = None, 0
        while node.children:
            number = max(bisect_right(node.keys, key) - 1, 0)
            low, high = node.bounds(number, high)
            reference = _Reference(node.children[number], reference.page, number)
            level += 1
            node = self._node(reference, low, high, level)
        return node, reference.page

    def _place(self, page: int) -> Place:
        return Place(self.file, page, page * self._meta.page_size)

    def _node(
        self, reference: _Reference, low: bytes = b"", high: bytes | None = None, level: int = 0
    ) -> Node:
        """Give the page of a tree whose keys are at least `low` and less than `high`."""
        place = self._place(reference.page)
        if not _FIRST <= reference.page < self._meta.pages:
            what = f"leads to page {reference.page} of {self._meta.pages}"
            raise self._place(reference.owner).damage(what)
        self._claim(reference.page, reference)
        node = self._nodes.get(reference.page)
        if node is None:
            node = self._load(place)
            last = (place.offset + node.size - 1) // self._meta.page_size
            for page in range(reference.page, last + 1):
                self._claim(page, reference)
            self._cached += node.size
            if self._cached > _CACHE:
                self._nodes.clear()
                self._cached = node.size
            self._nodes[reference.page] = node
        if level == LEVELS and node.children:
            raise place.damage(f"there are branches above it on {LEVELS} levels")
        if level and not node.keys:
            raise place.damage("has no elements")
        if node.keys and (node.keys[0] < low or (high is not None and node.keys[-1] >= high)):
            raise place.damage(f"has keys that page {reference.owner} has elsewhere")
        return node

    def _claim(self, page: int, reference: _Reference) -> None:
        owner = self._owners.setdefault(page, reference)
        if owner != reference:
            what = f"page {owner.owner} leads to it, and page {reference.owner} too"
            raise self._place(page).damage(what)

    def _load(self, place: Place) -> Node:
        page_size = self._meta.page_size
        data = self._read(place, 1)
        overflow = decode_overflow(place, data)
        if overflow:
            if place.page + overflow >= self._meta.pages:
                raise place.damage(f"goes on for {overflow} pages, more than there are", 12)
            data = self._read(place, 1 + overflow)
        node = decode_node(place, data)
        # bbolt takes the pages that are needed, boltdb one more where the last one would be full.
        if overflow not in {(node.size - 1) // page_size, node.size // page_size}:
            raise place.damage(f"goes on for {overflow} pages with {node.size} bytes", 12)
        return node

    def _read(self, place: Place, count: int) -> bytes:
        size = count * self._meta.page_size
        if place.offset + size > self._size:
            raise place.damage(f"it has {size} bytes, and the file ends at {self._size}")
        if size > LARGEST:
            raise place.damage(f"it has {size} bytes; mountcr reads pages of at most {LARGEST}", 12)
        data = self._pread(place.offset, size)
        if len(data) < size:
            raise place.damage("the file is being cut off")
        return data


class _ChangedError(Exception):
    """The meta pages are not those that were there before."""


def read(path: KPath, work: Callable[[Bucket], T]) -> T:
    """
    Give what `work` makes of a database: plain values, as the buckets are not valid after it.

    `work` is called again, on what is there then, if the database was changed before it returned
    or raised, so it must do nothing but read. What it raises while nothing changed comes through.
    From the second time on it is given a copy, unless the file has more than LARGEST bytes.

    Raises DocumentError if the file is no database, is damaged, or changed each of ATTEMPTS times,
    and OSError.
    """
    with _opened(path) as file:
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * _WAIT_SECONDS)
            with contextlib.suppress(_ChangedError):
                if attempt and os.fstat(file.fileno()).st_size <= LARGEST:
                    pages = _steady(file, lambda metas: _pages(file, path, metas, copied=True))
                    return work(pages.root())
                return _steady(
                    file, lambda metas: work(_pages(file, path, metas, copied=False).root())
                )
    raise DocumentError(
        f"{path} changed each of the {ATTEMPTS} times that it was read",
        hint="its daemon is busy; try again when it is not",
    )


@contextlib.contextmanager
def _opened(path: KPath) -> Generator[io.FileIO]:
    """Open a regular file; one that is none is not waited for."""
    fd = os.open(paths.decode(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DocumentError(f"{path} is no bbolt database: it is no regular file")
        yield stack.enter_context(io.FileIO(fd, closefd=False))


def _steady(file: io.FileIO, action: Callable[[dict[int, bytes]], T]) -> T:
    """Give what an action makes of the meta pages. Raises _ChangedError if they changed by then."""
    before = _metas(file)
    try:
        found = action(before)
    except Exception as error:
        if _metas(file) == before:
            raise
        raise _ChangedError from error
    if _metas(file) != before:
        raise _ChangedError
    return found


def _pages(file: io.FileIO, path: KPath, metas: dict[int, bytes], *, copied: bool) -> _Pages:
    """Give the pages of a file. If they are not copied, reading one ends as the file is closed."""
    size = os.fstat(file.fileno()).st_size
    data = os.pread(file.fileno(), size, 0) if copied else None

    def pread(offset: int, count: int) -> bytes:
        if data is None:
            return os.pread(file.fileno(), count, offset)
        return data[offset : offset + count]

    return _Pages(path, size, newest(path, size, metas), pread)


def _metas(file: io.FileIO) -> dict[int, bytes]:
    """Read the meta pages by their offsets; all that may be the second one if the first is none."""
    fd = file.fileno()
    first = os.pread(fd, META_SIZE, 0)
    meta = decode_meta(first, 0)
    seconds = PAGE_SIZES if meta is None else (meta.page_size,)
    return {0: first} | {offset: os.pread(fd, META_SIZE, offset) for offset in seconds}
