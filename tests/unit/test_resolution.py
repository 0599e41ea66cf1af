# SPDX-License-Identifier: Apache-2.0
"""What is said of files that no layer decides."""

from __future__ import annotations

import msgspec
import pytest

import builders
from mountcr.model import (
    FileKind,
    InodeType,
    LayerPart,
    Mark,
    OpenFile,
    PathStat,
    SeenPath,
)
from mountcr.paths import KPath
from mountcr.resolution.files import ResolvedFile, resolve
from mountcr.resolution.state import FileState

HOST = """
    1 0 8:1 / / rw - ext4 /dev/sda1 rw
    2 1 8:2 / /srv rw - ext4 /dev/sdb1 rw
    3 1 0:20 / /run rw - tmpfs tmpfs rw
"""
MOUNTS = """
    10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
    11 10 0:20 /web /run/web rw - tmpfs tmpfs rw
    12 10 0:21 / /tmp rw - tmpfs tmpfs rw
    13 10 0:22 / /proc rw - proc proc rw
"""


def stat(ino: int, dev: str = "0:50", kind: InodeType = InodeType.FILE) -> PathStat:
    """A stat of which only the identity matters."""
    return PathStat(dev=dev, ino=ino, mode=0o100644, nlink=1, size=1, type=kind)


def held(shown: str, mnt_id: int = 10, **more: object) -> OpenFile:
    """A descriptor that can only be read."""
    file = OpenFile(kind=FileKind.FD, fd=3, shown=KPath(shown), mnt_id=mnt_id, stat=stat(7))
    return msgspec.structs.replace(file, **more)


def resolved(file: OpenFile, *seen: SeenPath) -> ResolvedFile:
    """What a file of the container is."""
    facts = builders.facts(MOUNTS, HOST, files=(file,))
    (found,) = resolve(msgspec.structs.replace(facts, paths=seen))
    return found


def seen(path: str, *parts: LayerPart, dev: str = "0:50") -> SeenPath:
    """A path that is there, inode 7."""
    return SeenPath(
        namespace=builders.CONTAINER_NS, path=KPath(path), stat=stat(7, dev), parts=parts
    )


def part(layer: str, ino: int, *, metacopy: bool = False) -> LayerPart:
    """What a layer has."""
    return LayerPart(layer=KPath(layer), stat=stat(ino, "8:1"), metacopy=metacopy)


def test_a_file_of_the_host() -> None:
    """A file on a mount of the host has no path in the container, and is from outside."""
    found = resolved(held("/srv/log", 2))
    assert (found.path, found.state) == (None, FileState.EXTERNAL)
    assert "mount 2 of the host, at /srv" in found.how


def test_a_root_of_which_nothing_is_known() -> None:
    """A plain root takes every change; of a union nobody has to know the layers."""
    for fstype, state in (("ext4", FileState.UPPER), ("fuse.unionfs", FileState.UNRESOLVED)):
        facts = builders.facts(f"10 5 0:50 / / rw - {fstype} x rw", HOST, files=(held("/f"),))
        (found,) = resolve(facts)
        assert (found.path, found.state) == ("/f", state)


def test_a_tmpfs_of_the_host_and_one_of_the_container() -> None:
    """The content of the one is the host's, the other is the container's own."""
    assert resolved(held("/run/web/f", 11)).state is FileState.EXTERNAL
    assert resolved(held("/tmp/f", 12)).state is FileState.PSEUDO


def test_a_copy_of_metadata_has_the_content_below() -> None:
    """A reader beside a copy is stale, unless only the metadata was copied."""
    whole = seen("/f", part("/u", 8), part("/l", 9))
    assert resolved(held("/f"), whole).state is FileState.STALE
    metadata = seen("/f", part("/u", 8, metacopy=True), part("/l", 9))
    assert resolved(held("/f"), metadata).state is FileState.UPPER


@pytest.mark.parametrize(
    ("shown", "path"),
    [
        ("/proc/100/status", "/proc/self/status"),
        ("/proc/1001/status", "/proc/1001/status"),
        ("/proc/sys/kernel", "/proc/sys/kernel"),
    ],
)
def test_the_own_directory_in_proc(shown: str, path: str) -> None:
    """A task's own directory is `self`, that of another one has its pid."""
    assert resolved(held(shown, 13)).path == path


@pytest.mark.parametrize("shown", [r"/memfd:x\040(deleted)", "pipe:[7]", "anon_inode:[eventfd]"])
def test_what_has_no_path(shown: str) -> None:
    """It is shown as it is."""
    found = resolved(held(shown, 99))
    assert (found.path, found.state) == (shown, FileState.ANON)


@pytest.mark.parametrize("shown", ["/memfd:x", "/[aio]", r"/memfd:x\040(deleted)"])
def test_a_file_that_is_called_like_the_kernels(shown: str) -> None:
    """What is on a mount of the container is a file, whatever its name is."""
    assert resolved(held(shown, 10)).state is not FileState.ANON


def test_watches_that_cannot_be_told_apart() -> None:
    """Of two files with the number of a watch none is named, unless a handle has the inner one."""
    candidates = (seen("/a", part("/u", 70)), seen("/b", part("/u", 80), dev="0:51"))
    watch = Mark(kind="inotify", wd=1, dev="0:50", ino=7)
    file = held("anon_inode:inotify", marks=(watch,))
    assert resolved(file, *candidates).path == "inotify:inode 0:50 7"
    told = held("anon_inode:inotify", marks=(msgspec.structs.replace(watch, inner=80),))
    assert resolved(told, *candidates).path == "inotify:/b"


def test_a_watch_of_which_not_all_names_were_seen() -> None:
    """The one name that was seen need not be it, unless the handle says so."""
    watch = Mark(kind="inotify", wd=1, dev="0:50", ino=7, cut=True)
    file = held("anon_inode:inotify", marks=(watch,))
    assert resolved(file, seen("/a", part("/u", 70))).path == "inotify:inode 0:50 7"
    told = held("anon_inode:inotify", marks=(msgspec.structs.replace(watch, inner=70),))
    assert resolved(told, seen("/a", part("/u", 70))).path == "inotify:/a"


def test_a_watched_file_with_two_names() -> None:
    """Either name is one of the file."""
    watch = Mark(kind="inotify", wd=1, dev="0:50", ino=7)
    file = held("anon_inode:inotify", marks=(watch,))
    assert resolved(file, seen("/a"), seen("/b")).path == "inotify:/a"


def test_a_mark_on_a_mount() -> None:
    """What fanotify watches whole is named by its mountpoint, as far as that is known."""
    known = Mark(kind="fanotify", mnt_id=12)
    unknown = Mark(kind="fanotify", mnt_id=99)
    file = held("anon_inode:[fanotify]", marks=(known, unknown))
    assert resolved(file).path == "fanotify:/tmp,mount 99"


def test_a_namespace_that_was_not_seen() -> None:
    """Of a task of which no mount table is known nothing is said."""
    facts = builders.facts(MOUNTS, HOST, files=(held("/f"),))
    (found,) = resolve(msgspec.structs.replace(facts, namespaces=()))
    assert (found.path, found.state) == (None, FileState.UNRESOLVED)
