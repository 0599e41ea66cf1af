# SPDX-License-Identifier: Apache-2.0
"""The binding reads tables as libmount does, mounts, and says what went wrong."""

# What is private here cannot be seen from outside with every libmount.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr import libmount
from mountcr.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.requires("libmount")

HOSTILE = rb"""36 35 98:0 /mnt1 /mnt2 rw,sync shared:1 master:2 unbindable - ext3 /dev/r rw,e=c
37 35 0:4 / /a\040b\011c\012d rw - tmpfs  rw
38 35 0:4 / /a\134040b rw - tmpfs none rw
39 35 0:4 /.. /c rw unbindable - tmpfs LABEL=foo rw
40 35 0:4 net:[4026531840] /run/netns/x rw shared:5 - nsfs nsfs rw
41 35 0:44 /x//deleted /d\040(deleted) rw - overlay ov\043erlay ro,lowerdir=/c\134\054omma\134:x:/l2
42 35 259:1048575 / /NOT-UTF-8 rw - fuse.fuse-overlayfs a\040b rw,user_id=0
""".replace(b"NOT-UTF-8", b"\xff\xfe")


def entry(text: bytes) -> libmount.Entry:
    """The one entry of a table with one line."""
    (found,) = libmount.Table.from_text(text)
    return found


# --- Tables ---------------------------------------------------------------------------------------


def test_hostile_lines() -> None:
    """Escapes are undone once; names that look like something else are left alone."""
    table = {each.id: each for each in libmount.Table.from_text(HOSTILE)}
    assert list(table) == [36, 37, 38, 39, 40, 41, 42]
    assert table[36] == libmount.Entry(
        id=36,
        parent=35,
        dev="98:0",
        root=b"/mnt1",
        target=b"/mnt2",
        vfs_options=b"rw,sync",
        optional=b"shared:1 master:2 unbindable",
        fstype=b"ext3",
        source=b"/dev/r",
        fs_options=b"rw,e=c",
    )
    assert (table[37].source, table[37].target) == (b"", b"/a b\tc\nd")
    assert (table[38].source, table[38].target) == (b"none", rb"/a\040b")
    assert (table[39].root, table[39].source) == (b"/..", b"LABEL=foo")
    assert (table[39].optional, table[38].optional) == (b"unbindable", b"")
    assert table[40].root == b"net:[4026531840]"
    assert (table[41].root, table[41].target) == (b"/x//deleted", b"/d (deleted)")
    assert table[41].source == b"ov#erlay"
    assert table[41].fs_options == rb"ro,lowerdir=/c\,omma\:x:/l2"
    assert (table[42].target, table[42].dev) == (b"/\xff\xfe", "259:1048575")
    assert (table[42].fstype, table[42].source) == (b"fuse.fuse-overlayfs", b"a b")


def test_lines_that_are_none_are_dropped() -> None:
    """A line that libmount cannot read is missing from the table, the others are there."""
    first, second, *_ = HOSTILE.splitlines(keepends=True)
    for bad in (b"\n", b"garbage\n", b"37 35 0:4 / /cut rw\n", b"37 35 zero / / rw - a b rw\n"):
        ids = [each.id for each in libmount.Table.from_text(first + bad + second)]
        assert ids == [36, 37], bad
    assert list(libmount.Table.from_text(b"")) == []
    assert list(libmount.Table.from_text(b"garbage\n" + first)) == []


def test_a_last_line_without_newline() -> None:
    """The last line counts whether it ends or not."""
    assert entry(HOSTILE.splitlines()[0]).id == 36


def test_this_process() -> None:
    """A table of this machine has the ids, parents, devices and number of its lines."""
    text = Path("/proc/self/mountinfo").read_bytes()
    fields = [line.split(b" ") for line in text.splitlines()]
    wanted = [(int(each[0]), int(each[1]), each[2].decode()) for each in fields]
    for table in (libmount.Table.from_file(), libmount.Table.from_text(text)):
        assert [(each.id, each.parent, each.dev) for each in table] == wanted
        assert all(each.target.startswith(b"/") for each in table)


def test_a_table_can_be_read_twice() -> None:
    """Iterating gives the same entries again, and two iterations do not disturb each other."""
    table = libmount.Table.from_text(HOSTILE)
    assert [left == right for left, right in zip(table, table, strict=True)] == [True] * 7


def test_entries_outlive_their_table() -> None:
    """An entry is a copy: it is whole after its table is gone."""
    kept = [next(iter(libmount.Table.from_text(HOSTILE))) for _ in range(1000)]
    assert set(kept) == {kept[0]}
    assert kept[0].source == b"/dev/r"


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    """OSError with the kernel's reason and the path."""
    with pytest.raises(FileNotFoundError) as caught:
        libmount.Table.from_file(os.fsencode(tmp_path / "none"))
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(ValueError, match="NUL"):
        libmount.Table.from_file(b"/proc/self/mountinfo\0x")


# --- The library ----------------------------------------------------------------------------------


def test_version_and_symbols() -> None:
    """`has` agrees with the dynamic linker, for old functions, new ones and none."""
    library = ctypes.CDLL("libmount.so.1")
    assert libmount.version().startswith("2.")
    for name in ("mnt_new_context", "mnt_context_get_excode", "mnt_table_fetch_listmount"):
        assert libmount.has(name) == hasattr(library, name)
    assert libmount.has("mnt_new_context")
    assert not libmount.has("mnt_no_such_function")


def test_a_machine_without_libmount(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing works; the first use says what is missing and how to get it."""
    monkeypatch.setattr(libmount, "_SONAME", "libmount-that-is-not-there.so.1")
    libmount._lib.cache_clear()
    try:
        with pytest.raises(CapabilityError, match="cannot be loaded") as caught:
            libmount.version()
    finally:
        libmount._lib.cache_clear()
    assert caught.value.probe == "libmount"
    assert caught.value.hint


def test_importing_loads_no_library() -> None:
    """libmount.so.1 is loaded by the first use, not by the import."""
    code = "import mountcr.libmount; print('libmount.so' in open('/proc/self/maps').read())"
    root = Path(libmount.__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout == "False\n"


def test_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `LIBMOUNT_*` reaches libmount, and all of them are there again afterwards."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    monkeypatch.setenv("LIBMOUNT_FORCE_MOUNT2", "always")
    monkeypatch.setenv("MOUNTCR_TEST", "kept")
    with libmount._clean_environment():
        assert libc.getenv(b"LIBMOUNT_FORCE_MOUNT2") is None
        assert libc.getenv(b"MOUNTCR_TEST") == b"kept"
    assert libc.getenv(b"LIBMOUNT_FORCE_MOUNT2") == b"always"
    assert os.environ["LIBMOUNT_FORCE_MOUNT2"] == "always"


def test_an_error_survives_pickling() -> None:
    """A MountError comes whole out of a helper process."""
    error = libmount.MountError(errno.EINVAL, "no", "/x", rc=-1, excode=32, syscall_called=True)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert str(copy) == str(error) == "[Errno 22] no: '/x'"
    assert (copy.rc, copy.excode, copy.syscall_called) == (-1, 32, True)


# --- Mounting -------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> bytes:
    """A directory whose name is not UTF-8."""
    path = os.fsencode(tmp_path) + b"/a b\xff"
    os.mkdir(path)
    return path


def on_top(path: bytes) -> libmount.Entry | None:
    """The mount that was last put at `path`."""
    found = [each for each in libmount.Table.from_file() if each.target == path]
    return found[-1] if found else None


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_mount_and_umount(place: bytes) -> None:
    """A tmpfs is there with both kinds of options, and gone after umount."""
    libmount.mount(b"some source", place, b"tmpfs", b"nosuid,size=64k,mode=750")
    line = on_top(place)
    assert line is not None
    assert (line.fstype, line.source) == (b"tmpfs", b"some source")
    assert b"nosuid" in line.vfs_options.split(b",")
    assert {b"size=64k", b"mode=750"} <= set(line.fs_options.split(b","))
    libmount.umount(place)
    assert on_top(place) is None


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_bind_and_read_only(place: bytes) -> None:
    """A bind has the root of what it shows, and a remount changes the bind alone."""
    os.makedirs(place + b"/from/below")
    os.mkdir(place + b"/to")
    libmount.mount(place + b"/from", place + b"/to", None, b"bind")
    libmount.mount(None, place + b"/to", None, b"remount,bind,ro")
    line = on_top(place + b"/to")
    assert line is not None
    assert line.root.endswith(b"/from")
    assert b"ro" in line.vfs_options.split(b",")
    assert os.listdir(place + b"/to") == [b"below"]


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_mount_without_options(place: bytes) -> None:
    """Options may be left out."""
    libmount.mount(b"none", place, b"tmpfs")
    assert on_top(place) is not None


def mount_tmpfs(target: bytes) -> None:
    libmount.mount(b"none", target, b"tmpfs")


@pytest.mark.requires("root")
@pytest.mark.private_mounts
@pytest.mark.parametrize("call", [mount_tmpfs, libmount.umount])
def test_a_missing_target(place: bytes, call: Callable[[bytes], None]) -> None:
    """ENOENT and a true message with every libmount; the kernel is not asked."""
    missing = place + b"/none"
    with pytest.raises(libmount.MountError, match="mount point does not exist") as caught:
        call(missing)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == os.fsdecode(missing)
    assert not caught.value.syscall_called


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_an_unknown_option(place: bytes) -> None:
    """EINVAL after asking the kernel, in one line, and nothing is mounted."""
    with pytest.raises(libmount.MountError) as caught:
        libmount.mount(b"none", place, b"tmpfs", b"size=64k,bogus=1")
    assert caught.value.errno == errno.EINVAL
    assert caught.value.syscall_called
    assert caught.value.excode == 32
    assert "\n" not in str(caught.value)
    assert caught.value.strerror
    assert on_top(place) is None


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_an_unknown_file_system(place: bytes) -> None:
    """ENODEV, and the message names the type."""
    with pytest.raises(libmount.MountError, match="no-such-filesystem") as caught:
        libmount.mount(b"none", place, b"no-such-filesystem")
    assert caught.value.errno == errno.ENODEV


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_a_missing_source(place: bytes) -> None:
    """ENOENT whatever sign libmount's return value has."""
    with pytest.raises(libmount.MountError) as caught:
        libmount.mount(place + b"/none", place, None, b"bind")
    assert caught.value.errno == errno.ENOENT
    assert "none" in str(caught.value)


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_options_that_the_kernel_would_cut(place: bytes) -> None:
    """A page of options is E2BIG and nothing is mounted."""
    with pytest.raises(libmount.MountError) as caught:
        libmount.mount(b"none", place, b"tmpfs", b"size=64k" + b"," * os.sysconf("SC_PAGE_SIZE"))
    assert caught.value.errno == errno.E2BIG
    assert on_top(place) is None


@pytest.mark.requires("root")
@pytest.mark.private_mounts
@pytest.mark.parametrize("argument", ["source", "target", "fstype", "options"])
def test_a_nul_byte_is_refused(argument: str, place: bytes) -> None:
    """What C would read as something shorter never reaches libmount."""
    words = {"source": b"none", "target": place, "fstype": b"tmpfs", "options": b"size=64k"}
    words[argument] += b"\0x"
    with pytest.raises(ValueError, match=r"NUL|null"):
        libmount.mount(**words)
    assert on_top(place) is None


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_umount_of_what_is_not_mounted(place: bytes) -> None:
    """EINVAL."""
    with pytest.raises(libmount.MountError, match="not mounted") as caught:
        libmount.umount(place)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_umount_of_what_is_in_use(place: bytes) -> None:
    """EBUSY; with `detach` it is gone from the table and the open file still works."""
    libmount.mount(b"none", place, b"tmpfs")
    with open(place + b"/file", "wb") as file:
        with pytest.raises(libmount.MountError) as caught:
            libmount.umount(place)
        assert caught.value.errno == errno.EBUSY
        libmount.umount(place, detach=True)
        assert on_top(place) is None
        assert file.write(b"still there") == 11


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_nothing_is_left_below_run(place: bytes) -> None:
    """An option for userspace does not make libmount write /run/mount/utab."""
    os.makedirs("/run", exist_ok=True)
    libmount.mount(b"none", b"/run", b"tmpfs")
    libmount.mount(b"none", place, b"tmpfs", b"x-mountcr.test=1,size=64k")
    libmount.umount(place)
    assert os.listdir("/run") == []


@pytest.mark.requires("root")
@pytest.mark.private_mounts
def test_no_helper_is_run(place: bytes) -> None:
    """A program /sbin/mount.TYPE is not run: the kernel alone decides about TYPE."""
    libmount.mount(b"none", os.path.realpath(b"/sbin"), b"tmpfs", b"size=64k")
    helper, ran = Path("/sbin/mount.mountcrtest"), place + b"/ran"
    helper.write_bytes(b"#!/bin/sh\n: > '" + ran + b"'\n")
    helper.chmod(0o755)
    with pytest.raises(libmount.MountError) as caught:
        libmount.mount(b"none", place, b"mountcrtest")
    assert caught.value.errno == errno.ENODEV
    assert not os.path.exists(ran)
