# SPDX-License-Identifier: Apache-2.0
"""A layer that is written is the layer that was read, in every field, or is not there at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountcr.errors import RefusedError
from mountcr.kernel import syscalls
from mountcr.model import InodeType
from mountcr.paths import encode
from mountcr.rootfs.changes import changes, everything
from mountcr.rootfs.conversion import write_changes
from mountcr.rootfs.dialect import Entry
from mountcr.rootfs.dialects.vfs import Vfs
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tree import DirectoryTree
from mountcr.rootfs.writer import SUFFIX, write, write_all
from mountcr.stack import StoredLayer
from scratch import filesystem, tmpfs
from snapshots import DEFAULT_ACL, NAMES, fill, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("root")


class Counted:
    """Somebody who counts."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0

    def add(self, files: int, bytes: int) -> None:  # noqa: A002
        """Count."""
        self.files += files
        self.bytes += bytes


def copy(source: Path, into: Path, **options: object) -> None:
    """Write all of a tree."""
    with DirectoryTree(encode(os.fspath(source))) as tree:
        write_all(tree, encode(os.fspath(into)), **options)  # type: ignore[arg-type]


def layer(source: Path) -> Iterator[Entry]:
    """Give the entries of a plain tree; it is closed with the process of the test."""
    return everything(DirectoryTree(encode(os.fspath(source))))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that has one of everything."""
    top = tmp_path / "tree"
    top.mkdir()
    fill(top)
    return top


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("there", ["the same file system", "another file system"])
def test_every_field_arrives(tree: Path, tmp_path: Path, there: str, workers: int) -> None:
    """Mode, owner, times, content, devices, links, ACLs, capabilities, attributes, odd names."""
    target = tmp_path / "target"
    target.mkdir()
    if there == "another file system":
        filesystem(target)
    before = snapshot(os.fspath(tree))
    copy(tree, target / "new", workers=workers)
    assert snapshot(os.fspath(target / "new")) == before
    assert snapshot(os.fspath(tree)) == before
    assert os.listdir(target) == ["new"]


def test_times_of_access_arrive(tree: Path, tmp_path: Path) -> None:
    """To the nanosecond, and reading leaves them as they were."""
    paths = [os.path.join(os.fsencode(tree), path) for path in snapshot(os.fspath(tree))]
    for number, path in enumerate(paths):
        os.utime(path, ns=(10**18 + number, 10**18), follow_symlinks=False)
    before = [os.lstat(path).st_atime_ns for path in paths]
    copy(tree, tmp_path / "new")
    made = [path.replace(b"/tree", b"/new", 1) for path in paths]
    assert [os.lstat(path).st_atime_ns for path in made] == before
    assert [os.lstat(path).st_atime_ns for path in paths] == before


def test_what_stays_is_on_the_disk_first(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer for the next who needs it has its name when it is synced, and not if that fails."""
    into = tmp_path / "new"
    synced: list[bool] = []

    def fail(fd: int) -> None:
        synced.append(into.exists())
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(syscalls, "syncfs", fail)
    stored = (StoredLayer(path=encode(os.fspath(tree)), dialect="vfs"),)
    with pytest.raises(OSError, match="Input/output error"):
        write_changes(stored, (), encode(os.fspath(into)), "overlay", writable=False)
    assert synced == [False]
    assert not os.listdir(tmp_path).count("new")
    write_changes(stored, (), encode(os.fspath(into)), "overlay")
    assert into.is_dir()


@pytest.mark.any_kernel
def test_many_files_by_many_processes(tmp_path: Path) -> None:
    """What several processes make together is the same; files, bytes and digests are counted."""
    top = tmp_path / "tree"
    for number in range(3000):
        path = top / f"d{number % 7}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 100)
    for number in range(50):
        os.link(top / "d0" / "0", top / f"link{number}")
    counted = Counted()
    with DirectoryTree(encode(os.fspath(top))) as tree:
        into = encode(os.fspath(tmp_path / "new"))
        written = write_all(tree, into, progress=counted, workers=3, digests=True)
    seen = snapshot(os.fspath(tmp_path / "new"))
    assert seen == snapshot(os.fspath(top))
    files = {path: each.content for path, each in seen.items() if stat.S_ISREG(each.mode)}
    assert {path: digest.hex() for path, digest in written.digests.items()} == files
    size = sum(len(b"%d" % number) * 100 for number in range(3000))
    assert (written.files, written.size) == (3050, size)
    assert (counted.files, counted.bytes) == (3050, size)


BLOCK = 4096


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("there", ["the same file system", "a tmpfs"])
def test_holes_stay_holes(tmp_path: Path, there: str, digests: bool) -> None:
    """At the beginning, in the middle and at the end; the digest is that of the zeros too."""
    top, target = tmp_path / "tree", tmp_path / "target"
    top.mkdir()
    target.mkdir()
    if there == "a tmpfs":
        tmpfs(target)
    with open(top / "sparse", "wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * BLOCK)
        file.seek(3 << 20)
        file.write(b"y" * 10)
        file.truncate(8 << 20)
    (top / "nothing").touch()
    os.truncate(top / "nothing", 5 << 20)
    with DirectoryTree(encode(os.fspath(top))) as tree:
        written = write_all(tree, encode(os.fspath(target / "new")), digests=digests)
    for name in ("sparse", "nothing"):
        content = (top / name).read_bytes()
        assert (target / "new" / name).read_bytes() == content
        found = os.stat(target / "new" / name)
        assert found.st_blocks * 512 <= 4 * BLOCK
        if digests:
            assert written.digests[name.encode()] == hashlib.sha256(content).digest()


def test_every_file_may_be_of_another_owner(tmp_path: Path) -> None:
    """In a directory whose group goes to what is made in it, and with ACLs for what is made."""
    parent, top = tmp_path / "parent", tmp_path / "tree"
    parent.mkdir()
    os.chown(parent, 0, 4242)
    os.chmod(parent, 0o2775)  # noqa: S103
    os.setxattr(parent, "system.posix_acl_default", DEFAULT_ACL)
    top.mkdir()
    (top / "dir").mkdir()
    (top / "dir" / "file").write_bytes(b"x")
    copy(top, parent / "new")
    assert snapshot(os.fspath(parent / "new")) == snapshot(os.fspath(top))


@pytest.mark.any_kernel
def test_nothing_left_without_room(tree: Path, tmp_path: Path) -> None:
    """ENOSPC in the middle names the path; the target is gone, the source as it was."""
    for number in range(2000):
        (tree / "dir" / f"{number}").write_bytes(bytes(3000))
    small = tmp_path / "small"
    small.mkdir()
    filesystem(small, 2 << 20)
    before = snapshot(os.fspath(tree))
    for workers in (1, 2):
        with pytest.raises(OSError, match="No space left") as caught:
            copy(tree, small / "new", workers=workers)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename.startswith("/dir/")
        assert os.listdir(small) == []
    assert snapshot(os.fspath(tree)) == before


def test_nothing_left_on_a_read_only_file_system(tree: Path, tmp_path: Path) -> None:
    """EROFS is said, and nothing is there."""
    place = tmp_path / "place"
    place.mkdir()
    syscalls.mount(b"tmpfs", bytes(place), b"tmpfs", syscalls.MS_RDONLY, None)
    with pytest.raises(OSError, match="Read-only"):
        copy(tree, place / "new")
    assert os.listdir(place) == []


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_is_there_stays(tree: Path, tmp_path: Path, kind: str) -> None:
    """A target that exists, even empty, is refused and not touched."""
    target = tmp_path / "target"
    if kind == "directory":
        target.mkdir()
    elif kind == "file":
        target.write_bytes(b"mine")
    else:
        target.symlink_to("nowhere")
    before = os.lstat(target)
    with pytest.raises(FileExistsError):
        copy(tree, target)
    assert os.lstat(target) == before
    assert sorted(os.listdir(tmp_path)) == ["target", "tree"]


def test_interrupted(tree: Path, tmp_path: Path) -> None:
    """Ctrl-C while entries are still coming leaves nothing."""

    def entries() -> Iterator[Entry]:
        yield from layer(tree)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(entries(), encode(os.fspath(tmp_path / "new")), Vfs())
    assert os.listdir(tmp_path) == ["tree"]


def test_refused_in_the_middle(tree: Path, tmp_path: Path) -> None:
    """What the dialect cannot say passes through as it is, and leaves nothing."""

    def entries() -> Iterator[Entry]:
        yield from layer(tree)
        yield Entry(b"zzz", None)

    with pytest.raises(RefusedError, match="/zzz is removed"):
        write(entries(), encode(os.fspath(tmp_path / "new")), Vfs())
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.any_kernel
def test_killed(tree: Path, tmp_path: Path) -> None:
    """After kill -9 there is only what has the suffix, and its children end; the next run works."""
    for number in range(3000):
        (tree / "dir" / f"{number}").write_bytes(bytes(3000))

    def slowly() -> Iterator[Entry]:
        for number, entry in enumerate(layer(tree)):
            yield entry
            if number == 2500:
                ready.touch()
                time.sleep(60)

    ready = tmp_path / "ready"
    pid = os.fork()
    if pid == 0:
        write(slowly(), encode(os.fspath(tmp_path / "new")), Vfs(), workers=2)
        os._exit(0)
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(FileExistsError, match=SUFFIX):
        copy(tree, tmp_path / "new")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sorted(os.listdir(tmp_path)) == [f".new{SUFFIX}", "ready", "tree"]
    assert stat.S_IMODE(os.stat(tmp_path / f".new{SUFFIX}").st_mode) == 0o700
    time.sleep(0.2)  # for the children to hear of it
    copy(tree, tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["new", "ready", "tree"]
    assert snapshot(os.fspath(tmp_path / "new")) == snapshot(os.fspath(tree))


def test_what_a_file_system_cannot_hold_is_said(tmp_path: Path) -> None:
    """An attribute without support is an error with path and name; an SELinux label is not."""
    top, place = tmp_path / "tree", tmp_path / "place"
    top.mkdir()
    place.mkdir()
    syscalls.mount(b"ramfs", bytes(place), b"ramfs", 0, None)
    root = Inode(type=InodeType.DIRECTORY, mode=0o755)
    for name, fails in (("user.x", True), ("security.selinux", False)):
        inode = Inode(type=InodeType.FILE, mode=0o644, xattrs={encode(name): b"x"})
        entries = [Entry(b"", root), Entry(b"file", inode)]
        into = encode(os.fspath(place / f"new-{name}"))
        if fails:
            with pytest.raises(OSError, match=r"user\.x") as caught:
                write(entries, into, Vfs())
            assert (caught.value.errno, caught.value.filename) == (errno.EOPNOTSUPP, "/file")
        else:
            write(entries, into, Vfs())
    assert os.listdir(place) == ["new-security.selinux"]


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    """What was truncated after it was looked at is not filled up with zeros."""
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_bytes(bytes(10000))
    entries = list(layer(top))
    os.truncate(top / "file", 100)
    with pytest.raises(OSError, match="changed") as caught:
        write(entries, encode(os.fspath(tmp_path / "new")), Vfs())
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/file")
    assert os.listdir(tmp_path) == ["tree"]


def test_no_link_leads_out(tmp_path: Path) -> None:
    """Entries that go through a symbolic link, made by whoever, write nothing outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = Inode(type=InodeType.DIRECTORY, mode=0o755)
    link = Inode(type=InodeType.SYMLINK, mode=0o777, target=encode(os.fspath(outside)))
    for inode in (Inode(type=InodeType.FILE, mode=0o644), root):
        entries = [Entry(b"", root), Entry(b"a", link), Entry(b"a/b", inode)]
        with pytest.raises(OSError, match="File exists"):
            write(entries, encode(os.fspath(tmp_path / "new")), Vfs())
    assert os.listdir(outside) == []
    assert os.listdir(tmp_path) == ["outside"]


def test_extents_are_shared_where_they_can_be(tmp_path: Path) -> None:
    """On a file system with reflink the copy takes no room, and is right."""
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    image.touch()
    os.truncate(image, 512 << 20)
    mount = ["mount", "-o", "loop", str(image), str(place)]
    for words in (["mkfs.btrfs", "-q", str(image)], mount):
        if shutil.which(words[0]) and not subprocess.run(words, check=False).returncode:
            continue
        pytest.skip("no btrfs on a loop device here: mkfs.btrfs, the kernel or loop is missing")
    top = place / "tree"
    top.mkdir()
    (top / "file").write_bytes(os.urandom(8 << 20))
    os.sync()
    copy(top, place / "new", digests=True)
    assert snapshot(os.fspath(place / "new")) == snapshot(os.fspath(top))
    os.sync()
    assert _extents(top / "file") == _extents(place / "new" / "file")


def _extents(path: Path) -> list[tuple[int, int]]:
    """Where a file lies on its device: FS_IOC_FIEMAP of linux/fiemap.h."""
    request = bytearray(struct.pack("=QQIIII", 0, 1 << 63, 1, 64, 0, 0) + bytes(64 * 56))
    with open(path, "rb") as file:
        fcntl.ioctl(file, 0xC020660B, request)
    count = struct.unpack_from("=I", request, 20)[0]
    found = [struct.unpack_from("=QQQ", request, 32 + number * 56) for number in range(count)]
    return [(physical, length) for _, physical, length in found]


_MODES = st.integers(0, 0o7777)
_TIMES = st.integers(0, 2**33 * 10**9)
_OWNERS = st.integers(0, 70000)
_CONTENT = st.binary(max_size=300) | st.integers(0, 300).map(lambda size: bytes(size * 100))
_KINDS = st.sampled_from(["dir", "file", "link", "symlink", "fifo"])
_TREES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        _KINDS, _MODES, _OWNERS, _OWNERS, _TIMES, _CONTENT,
    ),
    max_size=12,
)  # fmt: skip


@pytest.mark.any_kernel
@settings(max_examples=60, deadline=None)
@given(made=_TREES)
def test_any_tree_arrives(made: list[tuple[list[bytes], str, int, int, int, int, bytes]]) -> None:
    """Random small trees, on an ext4 or whatever /tmp is, and onto a tmpfs."""
    with tempfile.TemporaryDirectory(prefix="mountcr-test-") as place:
        top = os.fsencode(place) + b"/tree"
        target = os.fsencode(place) + b"/target"
        os.mkdir(top)
        os.mkdir(target)
        _plant(top, made)
        syscalls.mount(b"tmpfs", target, b"tmpfs", 0, b"mode=755")
        try:
            before = snapshot(top)
            with DirectoryTree(encode(top)) as tree:
                write_all(tree, encode(target + b"/new"))
                entries = changes(Vfs().layer(tree), None)
                write(entries, encode(os.fsencode(place) + b"/new"), Vfs(), digests=True)
            assert snapshot(target + b"/new") == before
            assert snapshot(os.fsencode(place) + b"/new") == before
        finally:
            syscalls.umount2(target)


def _plant(top: bytes, made: list[tuple[list[bytes], str, int, int, int, int, bytes]]) -> None:
    """Make what can be made of it."""
    files: list[bytes] = []
    times: dict[bytes, int] = {}
    for names, kind, mode, uid, gid, at, content in made:
        path = os.path.join(top, *names)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if kind == "dir":
                os.mkdir(path)
            elif kind == "file":
                with open(path, "xb") as file:
                    file.write(content)
                files.append(path)
            elif kind == "link":
                os.link(files[mode % len(files)] if files else b"", path)
            elif kind == "symlink":
                os.symlink(content.replace(b"\0", b"0")[:200] or b"x", path)
            else:
                os.mkfifo(path)
        except OSError:
            continue
        os.chown(path, uid, gid, follow_symlinks=False)
        if kind != "symlink":
            os.chmod(path, mode)
        times[path] = at
    for path, at in times.items():
        os.utime(path, ns=(at, at), follow_symlinks=False)
