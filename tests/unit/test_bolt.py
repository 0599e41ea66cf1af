# SPDX-License-Identifier: Apache-2.0
"""Databases of bbolt: those of real daemons are read as the daemons read them."""

from __future__ import annotations

import fcntl
import gzip
import os
import re
from pathlib import Path

import msgspec
import pytest

import boltwriter
from mountcr import bolt
from mountcr.bolt import Bucket, read
from mountcr.errors import DocumentError
from mountcr.paths import KPath, encode

FIXTURES = Path(__file__).parent.parent / "fixtures/engines/bolt"
CONTAINERDS = ["containerd-1.6-overlayfs", "containerd-1.7-native"]
KINDS = {"Active": b"\x02", "Committed": b"\x03"}


class Runtime(msgspec.Struct, rename="pascal"):
    """The runtime of a container, as `ctr container info` says it."""

    name: str


class Info(msgspec.Struct, rename="pascal"):
    """What `ctr container info` says."""

    image: str
    snapshot_key: str
    snapshotter: str
    labels: dict[str, str]
    runtime: Runtime
    spec: dict[str, object]


def opened(directory: Path, name: str) -> KPath:
    target = directory / name.replace("/", "-")
    target.write_bytes(gzip.decompress((FIXTURES / f"{name}.gz").read_bytes()))
    return encode(str(target))


def stored(directory: Path, data: bytes | bytearray) -> KPath:
    target = directory / "x.db"
    target.write_bytes(data)
    return encode(str(target))


def plain(bucket: Bucket) -> boltwriter.Content:
    return {key: plain(item) if isinstance(item, Bucket) else item for key, item in bucket.items()}


def inside(content: boltwriter.Content, *keys: bytes) -> boltwriter.Content:
    for key in keys:
        item = content[key]
        assert isinstance(item, dict)
        content = item
    return content


# --- Real databases -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTAINERDS)
def test_a_container_of_containerd_is_what_ctr_says(name: str, tmp_path: Path) -> None:
    """`meta.db` gives the image, snapshot, labels, runtime and spec that ctr prints."""
    info = msgspec.json.decode((FIXTURES / name / "container-info.json").read_bytes(), type=Info)
    database = read(opened(tmp_path, f"{name}/meta.db"), plain)
    container = inside(database, b"v1", b"default", b"containers", b"lab")
    assert container[b"image"] == info.image.encode()
    assert container[b"snapshotKey"] == info.snapshot_key.encode()
    assert container[b"snapshotter"] == info.snapshotter.encode()
    assert inside(container, b"runtime")[b"name"] == info.runtime.name.encode()
    labels = inside(container, b"labels").items()
    assert labels == {key.encode(): value.encode() for key, value in info.labels.items()}.items()
    spec = container[b"spec"]
    assert isinstance(spec, bytes)
    assert msgspec.json.decode(spec[spec.index(b"{") :]) == info.spec


@pytest.mark.parametrize("name", CONTAINERDS)
def test_snapshots_of_containerd_are_those_that_ctr_lists(name: str, tmp_path: Path) -> None:
    """`meta.db` names each snapshot in `metadata.db`, which has its parent, kind and number."""
    snapshotter = name.rpartition("-")[2].encode()
    names = read(
        opened(tmp_path, f"{name}/meta.db"),
        lambda root: inside(plain(root), b"v1", b"default", b"snapshots", snapshotter),
    )
    metadata = read(opened(tmp_path, f"{name}/metadata.db"), plain)
    snapshots = inside(metadata, b"v1", b"snapshots")
    lines = (FIXTURES / name / "snapshots.txt").read_text().splitlines()[1:]
    assert len(lines) == len(names) == 4
    for line in lines:
        key, *parents, kind = line.split()
        backend = inside(names, key.encode())[b"name"]
        assert isinstance(backend, bytes)
        snapshot = inside(snapshots, backend)
        assert snapshot[b"kind"] == KINDS[kind]
        for parent in parents:
            assert snapshot[b"parent"] == inside(names, parent.encode())[b"name"]
    mounted = inside(names, b"lab")[b"name"]
    assert isinstance(mounted, bytes)
    number = inside(snapshots, mounted)[b"id"]
    assert isinstance(number, bytes)
    assert f"/snapshots/{number[0]}" in (FIXTURES / name / "snapshot-mounts.txt").read_text()


def test_the_state_of_podman_says_where_its_storage_is(tmp_path: Path) -> None:
    """`bolt_state.db` has empty buckets and one with the paths of the storage."""
    state = read(opened(tmp_path, "podman-4.3/bolt_state.db"), plain)
    config = inside(state, b"runtime-config")
    assert config[b"graph-driver-name"] == b"overlay"
    assert config[b"graph-root"] == b"/srv/lab/pod/overlay/root"
    assert state[b"ctr"] == {}
    assert len(state) == 14


def test_branches_overflow_and_nesting_of_bbolt_are_read(tmp_path: Path) -> None:
    """What bbolt wrote to many pages, and did not delete again, is there, and nothing else."""
    many: boltwriter.Content = {
        b"key-%05d" % number: b"%d" % number**2
        for number in range(4000)
        if number % 3 and not 1000 <= number < 1500
    }
    deep: boltwriter.Content = {b"bottom": b""}
    for number in reversed(range(20)):
        deep = {b"level-%d" % number: deep}
    expected: boltwriter.Content = {
        b"many": many,
        b"big": {b"value": b"0123456789" * 2000},
        b"deep": deep,
    }
    path = opened(tmp_path, "bbolt-1.3.6/made.db")
    assert read(path, plain) == expected

    def lookups(root: Bucket) -> list[bytes | None]:
        bucket = root.bucket(b"many")
        assert bucket is not None
        return [bucket.get(b"key-%05d" % number) for number in range(4001)]

    assert read(path, lookups) == [many.get(b"key-%05d" % number) for number in range(4001)]


# --- Buckets --------------------------------------------------------------------------------------

CONTENT: boltwriter.Content = {
    b"b": {b"inner": {b"leaf": b"2"}, b"x": b"1"},
    b"a": {},
    b"c": b"value",
    b"d": b"",
}


@pytest.fixture
def small(tmp_path: Path) -> KPath:
    """A database with CONTENT."""
    return stored(tmp_path, boltwriter.database(CONTENT))


def test_a_bucket_tells_values_from_buckets(small: KPath) -> None:
    """Keys come sorted; `get()` gives values only, `bucket()` buckets only, along a path too."""

    def work(root: Bucket) -> None:
        assert list(root) == [b"a", b"b", b"c", b"d"]
        assert list(root.pairs()) == [(b"c", b"value"), (b"d", b"")]
        assert [key for key, _ in root.buckets()] == [b"a", b"b"]
        assert b"a" in root
        assert b"c" in root
        assert b"aa" not in root
        assert root.get(b"c") == b"value"
        assert root.get(b"d") == b""
        assert root.get(b"b") is None
        assert root.get(b"") is None
        assert root.bucket(b"c") is None
        assert root.bucket(b"b", b"inner", b"none") is None
        inner = root.bucket(b"b", b"inner")
        assert inner is not None
        assert list(inner.pairs()) == [(b"leaf", b"2")]

    read(small, work)


def test_a_bucket_ends_with_the_reading(small: KPath) -> None:
    """A bucket that is kept does not read what the file holds by then: it is a ValueError."""
    kept = read(small, lambda root: root.bucket(b"b"))
    assert kept is not None
    with pytest.raises(ValueError, match="closed"):
        kept.get(b"x")


def test_nothing_is_locked_or_waited_for(small: KPath) -> None:
    """The exclusive lock of a daemon does not keep anybody from reading."""
    with Path(small).open("rb") as daemon:
        fcntl.flock(daemon, fcntl.LOCK_EX)
        assert read(small, plain) == CONTENT


def test_no_descriptor_is_left_open(tmp_path: Path, small: KPath) -> None:
    """Neither success nor any error leaves a descriptor open."""
    before = os.listdir("/proc/self/fd")
    read(small, plain)
    for path in (stored(tmp_path, bytes(9000)), encode(str(tmp_path))):
        with pytest.raises(DocumentError):
            read(path, plain)
    assert os.listdir("/proc/self/fd") == before


# --- Files that are no database -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (bytes(1 << 16), "it has no meta page"),
        (b"SQLite format 3\0" * 1000, "it has no meta page"),
        (boltwriter.database({}).replace(b"\xed\xda\x0c\xed\2", b"\xed\xda\x0c\xed\3"), "version"),
        (
            boltwriter.database({}).replace(b"\xed\xda\x0c\xed", b"\xed\x0c\xda\xed"),
            "another byte order",
        ),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, data: bytes, why: str) -> None:
    """A file that is no database of bbolt is a DocumentError that names it and says so."""
    path = stored(tmp_path, data)
    with pytest.raises(DocumentError, match=why) as caught:
        read(path, plain)
    assert caught.value.message.startswith(f"{path} is no bbolt database")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO in its place is not waited for, and a directory is the same error."""
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(DocumentError, match="no regular file"):
            read(encode(str(tmp_path / name)), plain)


def test_a_missing_file_is_the_error_of_the_system_call(tmp_path: Path) -> None:
    """What cannot be opened is an OSError with the path in it."""
    with pytest.raises(FileNotFoundError, match="none"):
        read(encode(str(tmp_path / "none")), plain)


# --- Damage ---------------------------------------------------------------------------------------

LEAVES: boltwriter.Content = {b"%02d" % number: b"v" * 300 for number in range(8)}


def damaged(offset: int, piece: bytes, content: boltwriter.Content = LEAVES) -> bytes:
    data = bytearray(boltwriter.database(content))
    data[offset : offset + len(piece)] = piece
    return bytes(data)


def number_at(content: boltwriter.Content, flags: int) -> int:
    """The page of a database of `content` that has some flags, the last one of them."""
    data = boltwriter.database(content)
    pages = range(2, len(data) // 1024)
    return max(page for page in pages if data[page * 1024 + 8] == flags)


BRANCH_PAGE = number_at(LEAVES, boltwriter.BRANCH)
CYCLE = BRANCH_PAGE.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("offset", "piece", "page", "why"),
    [
        (2048, b"\x09", 2, "says that it is page 9"),
        (2048 + 8, b"\x10", 2, "flags are 0x10"),
        (2048 + 10, b"\xff\xff", 2, "65535 elements"),
        (2048 + 10, b"\0\0", 2, "has no elements"),
        (2048 + 12, b"\xff\xff\xff\x7f", 2, "goes on for 2147483647 pages"),
        (2048 + 12, b"\1", 2, "goes on for 1 pages"),
        (2048 + 16, b"\2", 2, "flags of element 0 are 0x2"),
        (2048 + 20, b"\xff", 2, "element 0 is not behind"),
        (2048 + 24, b"\0", 2, "key of element 0 is not in order"),
        (2048 + 24, b"\xff\xff\xff\xff", 2, "element 0 does not end within it"),
        (2048 + 16 + 3 * 16, b"99", 2, "key of element 1 is not in order"),
        (
            BRANCH_PAGE * 1024 + 24,
            CYCLE,
            BRANCH_PAGE,
            f"page 1 leads to it, and page {BRANCH_PAGE} too",
        ),
        (BRANCH_PAGE * 1024 + 24, b"\xff" * 8, BRANCH_PAGE, "leads to page 18446744073709551615"),
        (BRANCH_PAGE * 1024 + 24, b"\3", 3, f"keys that page {BRANCH_PAGE} has elsewhere"),
        (BRANCH_PAGE * 1024 + 24, b"\1", BRANCH_PAGE, "leads to page 1 of"),
        (BRANCH_PAGE * 1024 + 10, b"\0", BRANCH_PAGE, "is a branch without elements"),
    ],
)
def test_damage_is_named(tmp_path: Path, offset: int, piece: bytes, page: int, why: str) -> None:
    """An error of a damaged page names the file, the page, the byte, and what is wrong there."""
    path = stored(tmp_path, damaged(offset, piece))
    with pytest.raises(DocumentError, match=why) as caught:
        read(path, plain)
    found = re.fullmatch(r"(.*): page (\d+) at byte (\d+): .+", caught.value.message)
    assert found
    assert found[1] == path
    assert int(found[2]) == page
    assert page * 1024 <= int(found[3]) < (page + 1) * 1024
    assert caught.value.hint


INLINE: boltwriter.Content = {b"in": {b"k": b"v" * 20, b"l": b"w"}}


@pytest.mark.parametrize(
    ("offset", "piece", "why"),
    [
        (2076, b"\x0a", "a bucket has 10 bytes"),
        (2076, b"\x14", "an inline bucket has 4 bytes"),
        (2082, b"\x09", "root at page 9 has content of its own"),
        (2098, b"\x01", "an inline bucket begins with"),
        (2106, b"\x01", "an inline bucket begins with"),
        (2110, b"\x01", "an inline bucket begins with"),
        (2114, b"\x01", "an inline bucket has a bucket in it"),
        (2142, b"\x00", "an inline bucket with 70 bytes has 71"),
    ],
)
def test_damage_of_an_inline_bucket_is_named(
    tmp_path: Path, offset: int, piece: bytes, why: str
) -> None:
    """A bucket that is inline in a value is checked too; the page is the one that it lies in."""
    with pytest.raises(DocumentError, match=f"page 2 at byte 2[01][0-9]{{2}}: .*{why}"):
        read(stored(tmp_path, damaged(offset, piece, INLINE)), plain)


def test_a_page_within_another_is_damage(tmp_path: Path) -> None:
    """A tree whose page lies in the overflow of another page is refused, whatever it holds."""
    content: boltwriter.Content = {b"a": {b"k": b"v" * 3000}, b"b": {b"k": b"v" * 300}}
    data = bytearray(boltwriter.database(content))
    root = data.index(b"b" + (5).to_bytes(8, "little")) + 1
    data[root] = 3
    data[3 * 1024 : 3 * 1024 + 16] = bytes([3, 0, 0, 0, 0, 0, 0, 0, boltwriter.LEAF, *[0] * 7])
    with pytest.raises(DocumentError, match="page 3 at byte 3072: page 6 leads to it, and page 6"):
        read(stored(tmp_path, data), plain)


def test_a_page_behind_the_end_of_the_file_is_named(tmp_path: Path) -> None:
    """A file that was cut off says which page is not there, and where it ends."""
    data = boltwriter.database(LEAVES)[: BRANCH_PAGE * 1024 + 500]
    where = f"page {BRANCH_PAGE} at byte {BRANCH_PAGE * 1024}: .* the file ends at {len(data)}"
    with pytest.raises(DocumentError, match=where):
        read(stored(tmp_path, data), plain)


def test_two_damaged_meta_pages_are_damage(tmp_path: Path) -> None:
    """With neither checksum right, or cut off, it is a damaged database, not another file."""
    data = bytearray(boltwriter.database(LEAVES))
    data[16 + 40] ^= 1
    data[1024 + 16 + 40] ^= 1
    for size in (60, len(data)):
        with pytest.raises(DocumentError, match="page 0 at byte 0: neither this meta page nor"):
            read(stored(tmp_path, data[:size]), plain)


@pytest.mark.parametrize("page_size", [1024, 4096, 16384, 65536])
def test_the_second_meta_page_is_found_without_the_first(tmp_path: Path, page_size: int) -> None:
    """Whatever the size of pages is, one meta page is enough."""
    data = bytearray(boltwriter.database(CONTENT, page_size))
    data[:80] = bytes(80)
    assert read(stored(tmp_path, data), plain) == CONTENT


def test_buckets_nested_too_deep_are_refused(tmp_path: Path) -> None:
    """Work that follows each bucket does not run out of stack."""
    content: boltwriter.Content = {b"x": {}}
    for _ in range(bolt.LEVELS - 1):
        content = {b"x": content}
    assert read(stored(tmp_path, boltwriter.database(content)), plain) == content
    with pytest.raises(DocumentError, match="nested deeper than 64 levels"):
        read(stored(tmp_path, boltwriter.database({b"x": content})), plain)


def test_a_huge_page_of_a_sparse_file_is_not_allocated(tmp_path: Path) -> None:
    """A page that goes on for gigabytes, in a file that has them, is refused and not read."""
    data = bytearray(boltwriter.database(LEAVES))
    pages = 1 << 30
    for txid in (0, 1):
        root = int.from_bytes(data[32:40], "little")
        data[txid * 1024 : txid * 1024 + 1024] = boltwriter.meta(1024, root, 2, pages, txid)
    data[2048 + 12 : 2048 + 16] = (1 << 29).to_bytes(4, "little")
    path = stored(tmp_path, data)
    os.truncate(path, pages * 1024)
    with pytest.raises(DocumentError, match="reads pages of at most"):
        read(path, plain)


# --- A daemon that writes meanwhile ---------------------------------------------------------------


class Daemon:
    """A writer of a file, that commits while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = bytearray()
        self.writer = boltwriter.Writer()
        self.states = boltwriter.two_states()
        self.write(self.writer.create())
        self.write(self.writer.commit(self.states[0]))

    def write(self, writes: list[boltwriter.Write]) -> None:
        """Make writes to the file."""
        boltwriter.apply(self.data, writes)
        self.path.write_bytes(self.data)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """A daemon that has committed the first of two states."""
    return Daemon(tmp_path / "live.db")


def test_work_is_repeated_on_what_is_there_then(daemon: Daemon) -> None:
    """A commit during the work gives the state after it, whatever the first reading gave."""
    seen: list[boltwriter.Content] = []

    def work(root: Bucket) -> boltwriter.Content:
        seen.append(plain(root))
        if len(seen) == 1:
            daemon.write(daemon.writer.commit(daemon.states[1]))
        return seen[-1]

    assert read(encode(str(daemon.path)), work) == daemon.states[1]
    assert seen == list(daemon.states)


def test_an_error_of_work_counts_only_if_nothing_changed(daemon: Daemon) -> None:
    """What work raises on a state that is being overwritten is not raised, else it comes out."""
    calls = 0

    def work(root: Bucket) -> boltwriter.Content:
        nonlocal calls
        calls += 1
        if calls == 1:
            daemon.write(daemon.writer.commit(daemon.states[1]))
            raise KeyError
        return plain(root)

    assert read(encode(str(daemon.path)), work) == daemon.states[1]
    assert calls == 2

    def fail(root: Bucket) -> None:
        assert root.get(b"none") is None
        raise KeyError(b"none")

    with pytest.raises(KeyError, match="none"):
        read(encode(str(daemon.path)), fail)


def test_a_meta_page_that_is_half_written_does_not_count(daemon: Daemon) -> None:
    """Until the new meta page is whole, the state is the one before."""
    *pages, (offset, meta) = daemon.writer.commit(daemon.states[1])
    daemon.write([*pages, (offset, meta[:70])])
    assert read(encode(str(daemon.path)), plain) == daemon.states[0]
    daemon.write([(offset, meta)])
    assert read(encode(str(daemon.path)), plain) == daemon.states[1]


def test_a_large_file_that_never_rests_is_given_up(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no copy is made, a commit during each of the attempts ends in a DocumentError."""
    monkeypatch.setattr(bolt, "LARGEST", 2048)
    calls = 0

    def work(_: Bucket) -> None:
        nonlocal calls
        calls += 1
        daemon.write([daemon.writer.again()])

    with pytest.raises(DocumentError, match="changed each of the 10 times") as caught:
        read(encode(str(daemon.path)), work)
    assert calls == bolt.ATTEMPTS
    assert caught.value.hint
