# SPDX-License-Identifier: Apache-2.0
"""
Pages of a database of bbolt, decoded from their bytes; nothing here opens a file.

The format, of go.etcd.io/bbolt 1.3 and 1.4 and of boltdb before it, is that of the structures
`meta` in db.go, `bucket` in bucket.go, and `page`, `branchPageElement` and `leafPageElement` in
page.go; `node.write()` in node.go leaves no gaps between what elements hold. Numbers are in the
byte order of the machine. Only meta pages have a checksum: other damage is found where the
structure contradicts itself.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.errors import DocumentError

if TYPE_CHECKING:
    from mountcr.paths import KPath

__all__ = [
    "META_SIZE",
    "PAGE_SIZES",
    "Entry",
    "Meta",
    "Node",
    "Place",
    "decode_bucket",
    "decode_meta",
    "decode_node",
    "decode_overflow",
    "newest",
]

MAGIC: Final = 0xED0CDAED
VERSION: Final = 2

BRANCH: Final = 0x01
LEAF: Final = 0x02
META: Final = 0x04
"""Flags of a page; exactly one is set."""

IS_BUCKET: Final = 0x01
"""Flag of an element of a leaf: the value is a bucket."""

PAGE_SIZES: Final = tuple(1024 << shift for shift in range(15))
"""Where bbolt looks for the second meta page (`getPageSizeFromSecondMeta()` in db.go)."""

_PAGE: Final = struct.Struct("=QHHI")  # id, flags, count of elements, pages of overflow
_BRANCH_ELEMENT: Final = struct.Struct("=IIQ")  # position, size of key, page
_LEAF_ELEMENT: Final = struct.Struct("=IIII")  # flags, position, size of key, size of value
_ELEMENT_SIZE: Final = _LEAF_ELEMENT.size  # of a branch too
_BUCKET: Final = struct.Struct("=QQ")  # root page, sequence
_META: Final = struct.Struct("=III4xQ16xQQ")  # Meta; flags, sequence and freelist are not read
_CHECKSUM: Final = struct.Struct("=Q")

META_SIZE: Final = _PAGE.size + _META.size + _CHECKSUM.size
"""Bytes of a meta page that mean something."""

_DAMAGED: Final = "the database is damaged; `bbolt check` tells more while its daemon is stopped"
_ANOTHER: Final = "it is another file, or was cut off when it was copied"


class Place(NamedTuple):
    """A page of a file, for errors; `offset` is where it, or the inline bucket in it, begins."""

    file: str
    page: int
    offset: int

    def damage(self, what: str, at: int = 0) -> DocumentError:
        """Give the error for what is wrong `at` bytes behind the offset."""
        message = f"{self.file}: page {self.page} at byte {self.offset + at}: {what}"
        return DocumentError(message, hint=_DAMAGED)


class Meta(NamedTuple):
    """A meta page; `pages` is the first page that no transaction has used yet."""

    magic: int
    version: int
    page_size: int
    root: int
    pages: int
    txid: int


class Entry(NamedTuple):
    """A value of a leaf; `offset` is its place in the file."""

    value: bytes
    is_bucket: bool
    offset: int


class Node(NamedTuple):
    """A page of a tree: sorted keys with the children of a branch or the entries of a leaf."""

    keys: list[bytes]
    children: list[int]
    entries: list[Entry]
    size: int

    def bounds(self, number: int, high: bytes | None) -> tuple[bytes, bytes | None]:
        """Give the least key that a child may have, and the least that it may not, if any."""
        return self.keys[number], self.keys[number + 1] if number + 1 < len(self.keys) else high


def decode_meta(raw: bytes, offset: int) -> Meta | None:
    """Decode a meta page; None if it is none, is damaged, or is being written."""
    if len(raw) < META_SIZE:
        return None
    number, flags, _, _ = _PAGE.unpack_from(raw)
    meta = Meta(*_META.unpack_from(raw, _PAGE.size))
    checked = raw[_PAGE.size : _PAGE.size + _META.size]
    sound = (
        (number, flags) == (int(offset > 0), META)
        and (meta.magic, meta.version) == (MAGIC, VERSION)
        and meta.page_size in PAGE_SIZES
        and offset in {0, meta.page_size}
        and _CHECKSUM.unpack_from(raw, _PAGE.size + _META.size)[0] == _fnv(checked)
    )
    return meta if sound else None


def _fnv(data: bytes) -> int:
    """Give the hash FNV-1a of 64 bits."""
    result = 0xCBF29CE484222325
    for byte in data:
        result = (result ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return result


def newest(path: KPath, size: int, metas: dict[int, bytes]) -> Meta:
    """Give the meta page of the last transaction. Raises DocumentError if there is none."""
    found = [meta for offset, raw in metas.items() if (meta := decode_meta(raw, offset))]
    if found:
        return max(found, key=lambda meta: meta.txid)
    magics = {raw[_PAGE.size : _PAGE.size + 4] for raw in metas.values()}
    versions = {raw[_PAGE.size + 4 : _PAGE.size + 8] for raw in metas.values()}
    ours = MAGIC.to_bytes(4, sys.byteorder)
    if ours in magics and VERSION.to_bytes(4, sys.byteorder) in versions:
        raise Place(path, 0, 0).damage("neither this meta page nor the one of page 1 is valid")
    if ours in magics:
        what = f"its version is not {VERSION}"
    elif ours[::-1] in magics:
        what = "it is of a machine with another byte order"
    else:
        what = "it has no meta page" if size else "it is empty"
    raise DocumentError(f"{path} is no bbolt database that mountcr reads: {what}", hint=_ANOTHER)


def decode_overflow(place: Place, data: bytes) -> int:
    """Decode the beginning of a page of a tree: how many pages behind it belong to it."""
    number, flags, _, overflow = _PAGE.unpack_from(data)
    if number != place.page:
        raise place.damage(f"says that it is page {number}")
    if flags not in {BRANCH, LEAF}:
        raise place.damage(f"its flags are {flags:#x}, those of no branch or leaf", 8)
    return int(overflow)


def decode_node(place: Place, data: bytes) -> Node:
    """Decode a page of a tree with its overflow, or the inline bucket at a place."""
    _, flags, count, _ = _PAGE.unpack_from(data)
    end = _PAGE.size + count * _ELEMENT_SIZE
    if end > len(data):
        raise place.damage(f"has {count} elements in {len(data)} bytes", 10)
    if flags == BRANCH and not count:
        raise place.damage("is a branch without elements", 10)
    keys: list[bytes] = []
    children: list[int] = []
    entries: list[Entry] = []
    for at in range(_PAGE.size, end, _ELEMENT_SIZE):
        if flags == LEAF:
            kind, position, key_size, value_size = _LEAF_ELEMENT.unpack_from(data, at)
        else:
            position, key_size, child = _BRANCH_ELEMENT.unpack_from(data, at)
            kind = value_size = 0
            children.append(child)
        key_end = end + key_size
        value_end = key_end + value_size
        if at + position != end:
            raise place.damage(f"element {len(keys)} is not behind the one before it", at)
        if value_end > len(data):
            raise place.damage(f"element {len(keys)} does not end within it", at)
        if not key_size or (keys and data[end:key_end] <= keys[-1]):
            raise place.damage(f"the key of element {len(keys)} is not in order", at)
        if kind not in {0, IS_BUCKET}:
            raise place.damage(f"the flags of element {len(keys)} are {kind:#x}", at)
        keys.append(data[end:key_end])
        if flags == LEAF:
            offset = place.offset + key_end
            entries.append(Entry(data[key_end:value_end], kind == IS_BUCKET, offset))
        end = value_end
    return Node(keys, children, entries, end)


def decode_bucket(place: Place, value: bytes) -> Node | int:
    """Decode the bucket that is the value at a place: its root page, or what is inline in it."""
    if len(value) < _BUCKET.size:
        raise place.damage(f"a bucket has {len(value)} bytes")
    root: int = _BUCKET.unpack_from(value)[0]
    inside = value[_BUCKET.size :]
    if root == 0:
        return _inline(place._replace(offset=place.offset + _BUCKET.size), inside)
    if inside:
        raise place.damage(f"a bucket with its root at page {root} has content of its own")
    return root


def _inline(place: Place, data: bytes) -> Node:
    """Decode a leaf of that size without buckets (`Bucket.inlineable()` in bucket.go)."""
    if len(data) < _PAGE.size:
        raise place.damage(f"an inline bucket has {len(data)} bytes")
    header = number, flags, _, overflow = _PAGE.unpack_from(data)
    if (number, flags, overflow) != (0, LEAF, 0):
        raise place.damage(f"an inline bucket begins with {header}")
    node = decode_node(place, data)
    if node.size != len(data):
        raise place.damage(f"an inline bucket with {node.size} bytes has {len(data)}")
    if any(entry.is_bucket for entry in node.entries):
        raise place.damage("an inline bucket has a bucket in it")
    return node
