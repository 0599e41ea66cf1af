# SPDX-License-Identifier: Apache-2.0
"""
A writer of bbolt databases for tests: from nested dicts to pages, a transaction at a time.

Like bbolt it writes pages that neither the last state nor the new one uses, and the meta page
last; the pages of the state before the last one are overwritten. Run as a program, it commits two
states in turn to a file until its standard input ends.
"""

from __future__ import annotations

import os
import random
import select
import struct
import sys
from dataclasses import dataclass, field
from typing import TypeAlias

Content: TypeAlias = "dict[bytes, bytes | Content]"
Element: TypeAlias = tuple[int, bytes, bytes]  # flags or child, key, value
Write: TypeAlias = tuple[int, bytes]  # offset, data

BRANCH, LEAF, META, FREELIST = 1, 2, 4, 16


def _header(page: int, flags: int, count: int, overflow: int = 0) -> bytes:
    return struct.pack("=QHHI", page, flags, count, overflow)


def _fnv(data: bytes) -> int:
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


def meta(page_size: int, root: int, freelist: int, pages: int, txid: int) -> bytes:
    """Give a meta page."""
    words = struct.pack("=IIIIQQQQQ", 0xED0CDAED, 2, page_size, 0, root, 0, freelist, pages, txid)
    page = _header(txid % 2, META, 0) + words + struct.pack("=Q", _fnv(words))
    return page.ljust(page_size, b"\0")


@dataclass
class Writer:
    """A database of which some pages are used; `fanout` is how many children a branch has."""

    page_size: int = 1024
    fanout: int = 1000
    txid: int = 1
    pages: int = 2
    used: set[int] = field(default_factory=set[int])
    blind: set[int] = field(default_factory=set[int])
    """Bytes of the last state whose damage contradicts nothing: keys, values, and the like."""

    _writes: list[Write] = field(default_factory=list[Write])
    _now: set[int] = field(default_factory=set[int])
    _last: tuple[int, int] = (0, 0)

    def create(self) -> list[Write]:
        """Give the writes that make an empty database; both meta pages lead to it."""
        self.txid = 0
        return [*self.commit({}), self.again()]

    def commit(self, content: Content) -> list[Write]:
        """Give the writes that make a state, the meta page last."""
        self.txid += 1
        self._writes, self._now, self.blind = [], set(), set()
        root = self._tree(content)
        freelist = self._freelist()
        self.used = self._now
        self._last = (root, freelist)
        return [*self._writes, self.again(0)]

    def again(self, more: int = 1) -> Write:
        """Give the meta page of another transaction that changes nothing."""
        self.txid += more
        page = meta(self.page_size, *self._last, self.pages, self.txid)
        return self.txid % 2 * self.page_size, page

    def _allocate(self, count: int) -> int:
        start = 2
        run = range(start, start + count)
        while not (self.used.isdisjoint(run) and self._now.isdisjoint(run)):
            start += 1
            run = range(start, start + count)
        self._now.update(run)
        self.pages = max(self.pages, start + count)
        return start

    def _put(self, page: int, data: bytes, count: int) -> None:
        self._writes.append((page * self.page_size, data.ljust(count * self.page_size, b"\0")))

    def _freelist(self) -> int:
        count = (16 + 8 * self.pages) // self.page_size + 1
        page = self._allocate(count)
        free = sorted(set(range(2, self.pages)) - self._now)
        data = _header(page, FREELIST, len(free), count - 1)
        self._put(page, data + struct.pack(f"={len(free)}Q", *free), count)
        return page

    def _tree(self, content: Content) -> int:
        elements = [self._element(key, content[key]) for key in sorted(content)]
        groups = self._split(elements)
        level: list[tuple[bytes, int]] = [
            (group[0][1] if group else b"", self._node(LEAF, group, root=len(groups) == 1))
            for group in groups
        ]
        while len(level) > 1:
            level = [
                (level[at][0], self._branch(level[at : at + self.fanout]))
                for at in range(0, len(level), self.fanout)
            ]
        return level[0][1]

    def _branch(self, children: list[tuple[bytes, int]]) -> int:
        return self._node(BRANCH, [(page, key, b"") for key, page in children])

    def _element(self, key: bytes, item: bytes | Content) -> Element:
        if isinstance(item, bytes):
            return 0, key, item
        values = [
            (0, key, value) for key, value in sorted(item.items()) if isinstance(value, bytes)
        ]
        inline = struct.pack("=QQ", 0, 7) + _node(0, LEAF, values)
        if len(values) == len(item) and len(inline) <= self.page_size // 4:
            return 1, key, inline
        return 1, key, struct.pack("=QQ", self._tree(item), 7)

    def _split(self, elements: list[Element]) -> list[list[Element]]:
        """Give the elements of each leaf: one, or as many as fit into a page."""
        groups: list[list[Element]] = [[]]
        size = 16
        for element in elements:
            more = 16 + len(element[1]) + len(element[2])
            if groups[-1] and size + more > self.page_size:
                groups.append([])
                size = 16
            groups[-1].append(element)
            size += more
        return groups

    def _node(self, flags: int, elements: list[Element], *, root: bool = False) -> int:
        size = 16 + sum(16 + len(key) + len(value) for _, key, value in elements)
        count = -(-size // self.page_size)
        page = self._allocate(count)
        self._put(page, _node(page, flags, elements, count - 1), count)
        if flags == LEAF:
            self._note_blind(page * self.page_size, elements, root=root)
        return page

    def _note_blind(self, start: int, elements: list[Element], *, root: bool) -> None:
        low = 0 if sys.byteorder == "little" else 3
        if root:
            self.blind |= {start + 10, start + 11}  # an empty leaf is fine as the root of a tree
        at = start + 16 + 16 * len(elements)
        for number, (flags, key, value) in enumerate(elements):
            self.blind.add(start + 16 + 16 * number + low)  # a bucket, or a value like one
            inside = at + len(key)
            self.blind |= set(range(at, inside))
            if not flags:
                self.blind |= set(range(inside, inside + len(value)))
            elif len(value) > 16:
                self._note_blind_inline(inside + 16, value[16:])
            at = inside + len(value)
        if elements:
            last = start + 16 * len(elements)
            self.blind |= set(range(last + 8, last + 16))  # sizes of what ends within the page

    def _note_blind_inline(self, start: int, node: bytes) -> None:
        count = struct.unpack_from("=H", node, 10)[0]
        self.blind |= set(range(start + 16 + 16 * count, start + len(node)))
        for number in range(count):  # where the key ends
            self.blind |= set(range(start + 24 + 16 * number, start + 32 + 16 * number))


def _node(page: int, flags: int, elements: list[Element], overflow: int = 0) -> bytes:
    data = _header(page, flags, len(elements), overflow)
    content = b""
    for number, (word, key, value) in enumerate(elements):
        position = 16 * (len(elements) - number) + len(content)
        if flags == LEAF:
            data += struct.pack("=IIII", word, position, len(key), len(value))
        else:
            data += struct.pack("=IIQ", position, len(key), word)
        content += key + value
    return data + content


def apply(data: bytearray, writes: list[Write]) -> bytearray:
    """Make writes to the bytes of a file."""
    for offset, piece in writes:
        data.extend(bytes(max(0, offset + len(piece) - len(data))))
        data[offset : offset + len(piece)] = piece
    return data


def database(content: Content, page_size: int = 1024, fanout: int = 1000) -> bytes:
    """Give a database that has been in no other state."""
    return with_blind(content, page_size, fanout)[0]


def with_blind(
    content: Content, page_size: int = 1024, fanout: int = 1000
) -> tuple[bytes, set[int]]:
    """Give a database, and the bytes in it whose damage contradicts nothing."""
    writer = Writer(page_size, fanout)
    data = apply(bytearray(), [*writer.commit(content), writer.again()])
    return bytes(data), writer.blind


def two_states() -> tuple[Content, Content]:
    """Give two states that have no value in common."""
    first: Content = {b"one": _state(b"1"), b"sub": {b"x": b"1", b"y": _state(b"1")}}
    second: Content = {b"one": _state(b"2"), b"two": _state(b"2"), b"sub": {b"y": _state(b"2")}}
    return first, second


def _state(letter: bytes) -> Content:
    return {b"key%d" % number: letter * (100 + number * 7 % 300) for number in range(60)}


def main(path: str) -> None:
    """Commit the two states in turn, as fast as a daemon that has much to do."""
    writer = Writer()
    states = two_states()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for writes in (writer.create(), writer.commit(states[0])):
        for offset, piece in writes:
            os.pwrite(fd, piece, offset)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    chance = random.Random(1)  # noqa: S311  # pauses, no secrets
    turn = 0
    while not select.select([sys.stdin], [], [], chance.choice([0, 0, 0.0005, 0.002]))[0]:
        turn += 1
        for offset, piece in writer.commit(states[turn % 2]):
            os.pwrite(fd, piece, offset)
    os.close(fd)


if __name__ == "__main__":
    main(sys.argv[1])
