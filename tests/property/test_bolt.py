# SPDX-License-Identifier: Apache-2.0
"""Databases of bbolt: what was written is read, damage is an error, and states do not mix."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import boltwriter
from mountcr.bolt import Bucket, read
from mountcr.errors import DocumentError
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

KEYS = st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from([b"k" * 200, b"\xff" * 300]))
VALUES = st.one_of(
    st.binary(max_size=30), st.integers(0, 5000).map(lambda size: bytes([size % 256]) * size)
)
LEAVES: st.SearchStrategy[boltwriter.Content] = st.dictionaries(KEYS, VALUES, max_size=12)
CONTENTS: st.SearchStrategy[boltwriter.Content] = st.recursive(
    LEAVES, lambda inner: st.dictionaries(KEYS, VALUES | inner, max_size=8), max_leaves=8
)
PAGE_SIZES = st.sampled_from([1024, 1024, 4096])
FANOUTS = st.sampled_from([2, 3, 1000])

LITTLE = 1 << 20
"""Bytes that reading a database of some kilobytes may take."""


def plain(bucket: Bucket) -> boltwriter.Content:
    return {key: plain(item) if isinstance(item, Bucket) else item for key, item in bucket.items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> KPath:
    """The file of the examples; each writes it anew."""
    return encode(str(tmp_path_factory.mktemp("bolt") / "x.db"))


def read_or_error(path: KPath, data: bytes) -> boltwriter.Content | DocumentError:
    """Read some bytes; allocating much for them fails, and an error is one line that says where."""
    Path(path).write_bytes(data)
    tracemalloc.start()
    found = outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LITTLE
    if isinstance(found, DocumentError):
        assert found.message.startswith(path)
        assert found.message.isprintable()
    return found


def outcome(path: KPath) -> boltwriter.Content | DocumentError:
    try:
        return read(path, plain)
    except DocumentError as error:
        return error


# --- What was written is read ---------------------------------------------------------------------


@given(content=CONTENTS, page_size=PAGE_SIZES, fanout=FANOUTS)
@settings(max_examples=60, deadline=None)
def test_what_was_written_is_read(
    path: KPath, content: boltwriter.Content, page_size: int, fanout: int
) -> None:
    """Nested buckets, inline or not, in leaves, branches and overflow pages, are what they were."""
    Path(path).write_bytes(boltwriter.database(content, page_size, fanout))
    found = read(path, plain)
    assert found == content
    assert list(found) == sorted(content)


@given(content=CONTENTS, fanout=FANOUTS, keys=st.lists(KEYS, max_size=5))
@settings(max_examples=60, deadline=None)
def test_looking_up_is_the_same_as_walking(
    path: KPath, content: boltwriter.Content, fanout: int, keys: list[bytes]
) -> None:
    """`get()`, `bucket()` and `in` find each key that is there, and no other."""
    Path(path).write_bytes(boltwriter.database(content, 1024, fanout))

    def compare(bucket: Bucket, expected: boltwriter.Content) -> None:
        for key in [*expected, *keys, b"", *(key + b"\0" for key in expected)]:
            item = expected.get(key)
            assert (key in bucket) == (item is not None)
            assert bucket.get(key) == (item if isinstance(item, bytes) else None)
            nested = bucket.bucket(key)
            assert (nested is not None) == isinstance(item, dict)
            if nested is not None and isinstance(item, dict):
                compare(nested, item)

    read(path, lambda root: compare(root, content))


@given(contents=st.lists(CONTENTS, min_size=1, max_size=4), fanout=FANOUTS)
@settings(max_examples=30, deadline=None)
def test_the_last_of_many_transactions_is_read(
    path: KPath, contents: list[boltwriter.Content], fanout: int
) -> None:
    """Pages of former transactions, which lie between those in use, are not read."""
    writer = boltwriter.Writer(1024, fanout)
    data = boltwriter.apply(bytearray(), writer.create())
    for content in contents:
        boltwriter.apply(data, writer.commit(content))
        Path(path).write_bytes(data)
        assert read(path, plain) == content


# --- Damage ---------------------------------------------------------------------------------------


@given(content=CONTENTS, fanout=FANOUTS, draw=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_byte_is_noticed_or_does_not_matter(
    path: KPath, content: boltwriter.Content, fanout: int, draw: st.DataObject
) -> None:
    """
    However a byte is damaged, the content is the same or it is a DocumentError.

    A byte of a key or value, or one that nothing contradicts, may give another content; it never
    gives another exception. Either way nothing is allocated that the file does not have.
    """
    original, blind = boltwriter.with_blind(content, 1024, fanout)
    data = bytearray(original)
    pages = len(data) // 1024
    page = draw.draw(st.integers(0, pages - 1), label="page")
    within = draw.draw(st.one_of(st.integers(0, 100), st.integers(0, 1023)), label="within")
    position = page * 1024 + within
    data[position] ^= draw.draw(st.integers(1, 255), label="bits")
    found = read_or_error(path, bytes(data))
    if isinstance(found, DocumentError):
        assert ": page " in found.message
    elif position not in blind:
        assert found == content


@given(content=CONTENTS, draw=st.data())
@settings(max_examples=60, deadline=None)
def test_a_page_that_is_lost_is_noticed_or_not_needed(
    path: KPath, content: boltwriter.Content, draw: st.DataObject
) -> None:
    """A page of zeros, of noise, or with the bytes of another page is an error if it is needed."""
    data = bytearray(boltwriter.database(content, 1024, 2))
    pages = st.integers(0, len(data) // 1024 - 1)
    page, other = draw.draw(pages, label="page"), draw.draw(pages, label="other")
    noise = draw.draw(st.binary(max_size=1024), label="noise").ljust(1024, b"\xaa")
    pieces = [bytes(1024), bytes(data[other * 1024 :][:1024]), noise]
    data[page * 1024 : page * 1024 + 1024] = draw.draw(st.sampled_from(pieces), label="piece")
    found = read_or_error(path, bytes(data))
    if isinstance(found, DocumentError):
        assert ": page " in found.message
    elif not has_large_values(content):
        assert found == content


def has_large_values(content: boltwriter.Content) -> bool:
    """Tell whether a value may fill a page of its own, which nothing contradicts."""
    return any(
        has_large_values(item) if isinstance(item, dict) else len(item) > 300
        for item in content.values()
    )


@given(content=CONTENTS, draw=st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_that_was_cut_off_is_noticed_or_whole_enough(
    path: KPath, content: boltwriter.Content, draw: st.DataObject
) -> None:
    """A file that ends anywhere gives its content or a DocumentError."""
    data = boltwriter.database(content, 1024, 3)
    end = draw.draw(st.integers(0, len(data)), label="end")
    found = read_or_error(path, data[:end])
    assert isinstance(found, DocumentError) or found == content


@given(content=CONTENTS, garbage=st.binary(max_size=300), draw=st.data())
@settings(max_examples=60, deadline=None)
def test_garbage_in_any_place_is_refused_or_read(
    path: KPath, content: boltwriter.Content, garbage: bytes, draw: st.DataObject
) -> None:
    """Bytes that are put anywhere, or removed, give some content or a DocumentError."""
    data = bytearray(boltwriter.database(content, 1024, 2))
    for _ in range(draw.draw(st.integers(1, 4))):
        position = draw.draw(st.integers(2048, len(data)))
        data[position : position + draw.draw(st.integers(0, 300))] = garbage
    read_or_error(path, bytes(data))


@given(data=st.binary(max_size=3000))
def test_a_file_of_anything_is_refused(path: KPath, data: bytes) -> None:
    """Bytes that are no database are a DocumentError that says so."""
    assert isinstance(read_or_error(path, data), DocumentError)


# --- A daemon that writes meanwhile ---------------------------------------------------------------


class Meanwhile:
    """A daemon that makes some of its writes each time that it is asked to."""

    def __init__(self, path: KPath, first: boltwriter.Content) -> None:
        self._path = Path(path)
        self._writer = boltwriter.Writer(1024, 3)
        self._data = boltwriter.apply(bytearray(), self._writer.create())
        boltwriter.apply(self._data, self._writer.commit(first))
        self._path.write_bytes(self._data)
        self._writes: Iterator[boltwriter.Write] = iter(())

    def plan(self, states: list[boltwriter.Content]) -> None:
        """Set out to commit some states; meta pages come in pieces, as one may see them."""
        self._writes = (
            piece
            for state in states
            for offset, data in self._writer.commit(state)
            for piece in (
                [(offset, data)]
                if offset >= 2048
                else [(offset, data[:60]), (offset + 60, data[60:])]
            )
        )

    def go_on(self, count: int) -> None:
        """Make the next writes."""
        with self._path.open("r+b") as file:
            for _, (offset, data) in zip(range(count), self._writes, strict=False):
                file.seek(offset)
                file.write(data)


STEPS = st.lists(st.integers(0, 12), max_size=60)


@given(
    states=st.lists(CONTENTS, min_size=2, max_size=5),
    steps=STEPS,
    change=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_states_do_not_mix(
    path: KPath, states: list[boltwriter.Content], steps: list[int], *, change: bool
) -> None:
    """Whatever is written between which reads, what is read is a state that was committed."""
    if change:
        states = [*states, *boltwriter.two_states(), *boltwriter.two_states()]
    daemon = Meanwhile(path, states[0])
    daemon.plan(states[1:])
    pending = iter(steps)

    def slowly(bucket: Bucket) -> boltwriter.Content:
        found: boltwriter.Content = {}
        for key, item in bucket.items():
            daemon.go_on(next(pending, 0))
            found[key] = slowly(item) if isinstance(item, Bucket) else item
        return found

    assert read(path, slowly) in states
    daemon.go_on(10000)
    assert read(path, plain) == states[-1]


def test_a_database_is_read_while_another_process_commits(tmp_path: Path) -> None:
    """Beside a process that commits two states in turn, each reading gives one of them."""
    file = tmp_path / "live.db"
    states = boltwriter.two_states()
    command = [sys.executable, boltwriter.__file__, str(file)]
    calls = 0

    def counted(work: Callable[[Bucket], T]) -> Callable[[Bucket], T]:
        def call(root: Bucket) -> T:
            nonlocal calls
            calls += 1
            return work(root)

        return call

    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        found = [read(encode(str(file)), counted(plain)) for _ in range(300)]
        writer.communicate()
    assert writer.returncode == 0
    assert all(content in states for content in found)
    assert all(state in found for state in states)
    assert calls > len(found)  # it did write while it was read
