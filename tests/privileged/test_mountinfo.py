# SPDX-License-Identifier: Apache-2.0
"""What we make of the mount table is what the kernel does with paths."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from mountcr import libmount, mountinfo
from mountcr.graph import MountGraph
from mountcr.graph.tree import MountTree
from mountcr.kernel import mounts, syscalls
from mountcr.model import Mount, MountNamespace
from mountcr.observation.fdinfo import mount_id
from mountcr.paths import KPath, decode, encode, is_beneath, join
from scratch import HOSTILE, directories, mounted, tmpfs

if TYPE_CHECKING:
    from pathlib import Path


def kernels_mount(path: KPath) -> int:
    """The id of the mount that the kernel finds at a path."""
    fd = os.open(decode(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return mount_id(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_mountpoints_and_sources_of_any_name(name: bytes, tmp_path: Path) -> None:
    """A mount is found under the bytes that it was made with, and its source has them too."""
    (at,) = directories(tmpfs(tmp_path), name)
    syscalls.mount(name, decode(at), b"tmpfs", 0, None)
    (mount,) = mounted(at)
    assert decode(mount.mountpoint).endswith(b"/" + name)
    assert mount.source is not None
    assert decode(mount.source) == name
    assert MountTree(mountinfo.read()).lies_on(join(at, "x")) == mount


def test_an_empty_source(tmp_path: Path) -> None:
    """mount(2) may be given none; the field is empty and the others stay where they are."""
    at = encode(bytes(tmp_path))
    syscalls.mount(b"", bytes(tmp_path), b"tmpfs", 0, b"size=64k")
    (mount,) = mounted(at)
    assert mount.source in {"", "none"}
    assert mount.fstype == "tmpfs"
    assert "size=64k" in mount.super_options


@pytest.mark.requires("libmount")
def test_libmount_reads_the_same(tmp_path: Path) -> None:
    """Of a table with every hostile name libmount and we make the same bytes."""
    base = tmpfs(tmp_path)
    for name in HOSTILE.values():
        (at,) = directories(base, name)
        syscalls.mount(name, decode(at), b"tmpfs", 0, None)
    ours = [(m.id, decode(m.mountpoint), decode(m.source or KPath(""))) for m in mountinfo.read()]
    assert ours == [(each.id, each.target, each.source) for each in libmount.Table.from_file()]


def test_a_table_is_written_back(tmp_path: Path) -> None:
    """The table of a live namespace, byte by byte."""
    base = tmpfs(tmp_path)
    for name in HOSTILE.values():
        tmpfs(decode(directories(base, name)[0]))
    with open("/proc/thread-self/mountinfo", "rb") as file:
        text = file.read()
    assert mountinfo.format_table(mountinfo.parse_table(text)) == text


PLACES = [f"{one}/{two}/{three}".encode() for one in "ab" for two in "ab" for three in "ab"]


def mount_at_random(base: KPath, chance: random.Random) -> None:
    """Mount, bind, move, unmount and share beneath a tmpfs, as long as it goes."""
    choices = [base, *(join(base, os.fsdecode(place)) for place in PLACES)]
    choices += [join(base, each) for each in ("a", "b", "a/a", "a/b", "b/a", "b/b")]
    for _ in range(40):
        at, other = chance.choice(choices), chance.choice(choices)
        try:
            match chance.choice(["tmpfs", "tmpfs", "bind", "bind", "move", "share", "umount"]):
                case "tmpfs":
                    tmpfs(decode(at))
                    for place in PLACES:
                        os.makedirs(os.path.join(decode(at), place), exist_ok=True)
                case "bind":
                    syscalls.mount(decode(other), decode(at), b"", syscalls.MS_BIND, None)
                case "move":
                    syscalls.mount(decode(other), decode(at), b"", syscalls.MS_MOVE, None)
                case "share":
                    kind = chance.choice(["shared", "slave", "private"])
                    mounts.set_propagation(at, kind)
                case _ if at != base:
                    syscalls.umount2(decode(at))
                case _:
                    pass
        except OSError:
            continue  # not a mountpoint, into itself, moved from a shared one: all fine


@pytest.mark.parametrize("seed", range(12))
def test_paths_lie_where_the_kernel_says(seed: int, tmp_path: Path) -> None:
    """After any mounts, every path lies on the mount that the kernel opens it on."""
    base = tmpfs(tmp_path)
    for place in PLACES:
        os.makedirs(os.path.join(decode(base), place))
    mount_at_random(base, random.Random(seed))  # noqa: S311 - the same again
    tree = MountTree(mountinfo.read())
    paths = {each.mountpoint for each in tree.mounts if is_beneath(each.mountpoint, base)}
    paths |= {join(base, os.fsdecode(place)) for place in PLACES}
    paths |= {join(path, "a/b") for path in list(paths)}
    looked = 0
    for path in sorted(paths):
        lies = tree.lies_on(path)
        assert lies is not None
        try:
            expected = kernels_mount(path)
        except FileNotFoundError:
            continue
        assert lies.id == expected, path
        looked += 1
    assert looked


@pytest.mark.parametrize("seed", range(12))
def test_a_path_leads_to_what_a_mount_shows(seed: int, tmp_path: Path) -> None:
    """A path that is given for a mount opens the same inode as the mount itself shows."""
    base = tmpfs(tmp_path)
    for place in PLACES:
        os.makedirs(os.path.join(decode(base), place))
    mount_at_random(base, random.Random(seed))  # noqa: S311 - the same again
    tree = MountTree(mountinfo.read())
    looked = 0
    for mount in tree.mounts:
        if not is_beneath(mount.mountpoint, base):
            continue
        path = tree.path_of(mount)
        if tree.hidden(mount):
            if path is not None:
                os.stat(decode(path))
            continue
        assert path is not None
        assert os.path.samestat(os.stat(decode(path)), os.stat(decode(mount.mountpoint)))
        looked += 1
    assert looked


def test_a_bind_of_what_was_deleted(tmp_path: Path) -> None:
    """Its root is marked; no path leads to it but one where it is bound."""
    base = tmpfs(tmp_path)
    file, at, other = (decode(base) + name for name in (b"/file", b"/at", b"/other"))
    for path in (file, at, other):
        with open(path, "wb"):
            pass
    mounts.bind(encode(file), encode(at))
    mounts.bind(encode(file), encode(other))
    before = MountTree(mountinfo.read())
    (mount,) = mounted(encode(at))
    assert before.path_of(mount) in {encode(file), encode(at), encode(other)}
    os.unlink(file)
    (mount,) = mounted(encode(at))
    assert mount.deleted
    assert MountTree(mountinfo.read()).path_of(mount) in {encode(at), encode(other)}
    syscalls.umount2(at)
    syscalls.umount2(other)
    assert MountTree(mountinfo.read()).path_of(mount) is None


def test_a_bound_namespace(tmp_path: Path) -> None:
    """A namespace that is kept by a file shows as its kind and number."""
    path = bytes(tmp_path / "ns")
    with open(path, "wb"):
        pass
    mounts.bind(KPath("/proc/self/ns/uts"), encode(path))
    (mount,) = mounted(encode(path))
    assert mount.root == os.readlink("/proc/self/ns/uts")
    assert mount.fstype == "nsfs"


def namespace(table: tuple[Mount, ...]) -> MountNamespace:
    """A namespace of these mounts."""
    return MountNamespace(id=1, pid=os.getpid(), mounts=table)


def test_propagation_edges(tmp_path: Path) -> None:
    """Peers and slaves that the kernel makes are peers and slaves in the graph."""
    base = tmpfs(tmp_path)
    shared, peer, slave = directories(base, "shared", "peer", "slave")
    tmpfs(decode(shared))
    mounts.set_propagation(shared, "shared")
    mounts.rebind(shared, peer)
    mounts.rebind(shared, slave)
    mounts.set_propagation(slave, "slave")
    graph = MountGraph([namespace(mountinfo.read())])
    ids = {each.mountpoint: each.id for each in graph.tree.mounts}
    edges = {(each.kind, each.source.id, each.target.id) for each in graph.edges()}
    assert ("peer", ids[peer], ids[shared]) in edges
    assert ("master", ids[slave], ids[shared]) in edges
    assert {("bind", ids[peer], ids[shared]), ("bind", ids[slave], ids[shared])} <= edges
    assert ("parent", ids[slave], ids[base]) in edges


def test_a_long_line(tmp_path: Path) -> None:
    """A line that is longer than a page is read whole."""
    path = bytes(tmp_path)
    tmpfs(path)
    for _ in range(19):
        path += b"/" + b"\n" * 60
        os.mkdir(path)
    syscalls.mount(b"long", path, b"tmpfs", 0, None)
    (mount,) = mounted(encode(path))
    assert len(mountinfo.format_line(mount)) > 4096
    assert decode(mount.mountpoint) == path
