# SPDX-License-Identifier: Apache-2.0
"""The wrappers of mountcr.kernel.syscalls do what the man pages say, on the running kernel."""

from __future__ import annotations

import errno
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mountcr.kernel import statmount, syscalls
from mountcr.kernel._libc_ffi import ffi
from mountcr.overlayopts import OverlayOptions, format_options
from mountcr.paths import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ENOSYS = Path(__file__).parent.parent / "enosys.py"

# A call of each wrapper that came after Linux 5.1, with arguments that can do no harm.
NEW_CALLS: dict[str, Callable[[], object]] = {
    "open_tree": lambda: syscalls.open_tree(-1, b"none", 0),
    "move_mount": lambda: syscalls.move_mount(-1, b"none", -1, b"none", 0),
    "fsopen": lambda: syscalls.fsopen(b"no-such-filesystem"),
    "fsconfig": lambda: syscalls.fsconfig_flag(-1, b"ro"),
    "fsmount": lambda: syscalls.fsmount(-1),
    "mount_setattr": lambda: syscalls.mount_setattr(-1, b"none", 0, syscalls.MOUNT_ATTR_RDONLY),
    "statmount": lambda: statmount.statmount(1, statmount.STATMOUNT_MNT_BASIC),
    "listmount": lambda: statmount.listmount(1),
    "openat2": lambda: syscalls.openat2(-1, b"none", os.O_RDONLY),
}
NEW_MOUNT = ("fsopen", "fsconfig", "fsmount", "move_mount", "open_tree")


def needs(*names: str) -> None:
    """Skip where the kernel lacks one of these calls."""
    for name in names:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at below
            NEW_CALLS[name]()
        if caught.value.errno == errno.ENOSYS:
            pytest.skip(f"this kernel has no {name}(2)")


class Line(NamedTuple):
    """Fields of a line of mountinfo, escapes undone."""

    id: int
    parent: int
    dev: str
    root: bytes
    point: bytes
    options: str
    optional: str
    fstype: str
    super_options: str


def unescape(text: str) -> bytes:
    return os.fsencode(text).decode("unicode_escape").encode("latin-1")


def mountinfo() -> list[Line]:
    table = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    lines: list[Line] = []
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        id_, parent, dev, root, point, options, *optional = left.split(" ")
        fstype, _, super_options = right.split(" ")
        words = (options, " ".join(optional), fstype, super_options)
        lines.append(Line(int(id_), int(parent), dev, unescape(root), unescape(point), *words))
    return lines


def on_top(path: bytes) -> Line:
    """The mount that was last put at `path`."""
    return [line for line in mountinfo() if line.point == path][-1]


def is_mounted(path: bytes) -> bool:
    return any(line.point == path for line in mountinfo())


def fds() -> set[str]:
    names = os.listdir("/proc/self/fd")  # with the descriptor that reads the directory
    return {name for name in names if os.path.lexists(f"/proc/self/fd/{name}")}


@pytest.fixture
def place(tmp_path: Path) -> bytes:
    """A directory whose name is not UTF-8 and holds what mountinfo escapes."""
    path = os.fsencode(tmp_path) + b"/a b\\040\xff"
    os.mkdir(path)
    return path


# --- Structures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [("mount_attr", 32), ("open_how", 24), ("mnt_id_req", 32), ("statmount", 512)]
)
def test_structures_have_the_size_of_a_version(name: str, size: int) -> None:
    """The kernel tells versions of a structure apart by size: *_SIZE_VER0, VER1 in the headers."""
    assert ffi.sizeof(f"struct {name}") == size


# --- Calls that every kernel has ------------------------------------------------------------------


def test_mount_and_umount(place: bytes) -> None:
    """A tmpfs is there with its flags and options, and gone after umount2."""
    syscalls.mount(b"some source", place, b"tmpfs", syscalls.MS_NOSUID, b"size=64k,mode=750")
    line = on_top(place)
    assert line.fstype == "tmpfs"
    assert "nosuid" in line.options.split(",")
    assert {"size=64k", "mode=750"} <= set(line.super_options.split(","))
    syscalls.umount2(place, syscalls.UMOUNT_NOFOLLOW)
    assert not is_mounted(place)


def test_renameat2_exchanges(place: bytes) -> None:
    """Two directories change places, contents and all; what is missing is named, both of them."""
    one, two = place + b"/one", place + b"/two"
    for path in (one, two):
        os.makedirs(path + b"/" + os.path.basename(path))
    syscalls.renameat2(syscalls.AT_FDCWD, one, syscalls.AT_FDCWD, two, syscalls.RENAME_EXCHANGE)
    assert (os.listdir(one), os.listdir(two)) == ([b"two"], [b"one"])
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.renameat2(
            syscalls.AT_FDCWD, one, syscalls.AT_FDCWD, place + b"/none", syscalls.RENAME_EXCHANGE
        )
    assert caught.value.filename == os.fsdecode(one)
    assert caught.value.filename2 == os.fsdecode(place + b"/none")


def test_renameat2_of_a_mountpoint(place: bytes) -> None:
    """What something is mounted on stays where it is."""
    one, two = place + b"/one", place + b"/two"
    os.mkdir(one)
    os.mkdir(two)
    syscalls.mount(b"tmpfs", one, b"tmpfs", 0)
    with pytest.raises(OSError, match="busy") as caught:
        syscalls.renameat2(syscalls.AT_FDCWD, one, syscalls.AT_FDCWD, two, syscalls.RENAME_EXCHANGE)
    assert caught.value.errno == errno.EBUSY
    syscalls.umount2(one)


def test_an_error_names_the_path(place: bytes) -> None:
    """The name in the error is the path as Python's os shows it, whatever its bytes."""
    with pytest.raises(OSError, match="Invalid argument") as caught:
        syscalls.umount2(place)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == os.fsdecode(place)
    with pytest.raises(FileNotFoundError) as missing:
        syscalls.mount(b"none", place + b"/none", b"tmpfs", 0)
    assert missing.value.filename == os.fsdecode(place + b"/none")


def test_mount_data_that_the_kernel_would_cut_is_refused(place: bytes) -> None:
    """A page less one byte is taken; a page is not, and nothing is mounted then."""
    page = os.sysconf("SC_PAGE_SIZE")
    with pytest.raises(OSError, match="longer than a page") as caught:
        syscalls.mount(b"none", place, b"tmpfs", 0, b"size=64k," + b"," * (page - 9))
    assert caught.value.errno == errno.E2BIG
    assert not is_mounted(place)
    syscalls.mount(b"none", place, b"tmpfs", 0, b"size=64k," + b"," * (page - 10))
    assert "size=64k" in on_top(place).super_options.split(",")


@pytest.mark.parametrize(
    "call",
    [
        lambda: syscalls.mount(b"none", b"/\0", b"tmpfs", 0),
        lambda: syscalls.umount2(b"/proc\0/none"),
        lambda: syscalls.pivot_root(b"/\0", b"/"),
        lambda: syscalls.open_tree(syscalls.AT_FDCWD, b"/\0", 0),
        lambda: syscalls.fsopen(b"tmpfs\0"),
        lambda: syscalls.openat2(syscalls.AT_FDCWD, b"/\0", os.O_RDONLY),
    ],
)
def test_a_nul_byte_is_refused(call: Callable[[], object]) -> None:
    """What C would read as a shorter path never reaches the kernel."""
    with pytest.raises(ValueError, match="NUL"):
        call()


def test_unshare_and_setns() -> None:
    """A process gets a mount namespace of its own and can go back to the one it had."""

    def current() -> int:
        return os.stat("/proc/self/ns/mnt").st_ino

    before = current()
    old = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        assert current() != before
        with pytest.raises(OSError, match="Invalid argument") as caught:
            syscalls.setns(old, syscalls.CLONE_NEWNET)
        assert caught.value.filename == old
        syscalls.setns(old, syscalls.CLONE_NEWNS)
        assert current() == before
    finally:
        os.close(old)


def test_pivot_root(place: bytes) -> None:
    """The new root is `/` afterwards, and the old one lies where it was put."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # The call changes the root of every process in the namespace that has the old one.
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(b"none", place, b"tmpfs", 0)
            os.mkdir(place + b"/old")
            syscalls.pivot_root(place, place + b"/old")
            os.chdir("/")
            status = 0 if os.listdir("/") == ["old"] and os.path.isdir("/old/proc") else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(OSError, match=r"busy|argument") as caught:
        syscalls.pivot_root(place, place)
    assert caught.value.filename == os.fsdecode(place)


def test_a_subreaper_gets_the_child_that_dies_with_its_parent() -> None:
    """PR_SET_PDEATHSIG kills a process when its parent ends; the subreaper collects it."""
    syscalls.prctl_set_child_subreaper(enable=True)
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            syscalls.prctl_set_pdeathsig(signal.SIGKILL)
            os.write(writer, b"%d" % os.getpid())
        signal.pause()
        os._exit(0)
    child = int(os.read(reader, 32))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    os.close(reader)
    os.close(writer)


# --- The mount API of Linux 5.2 -------------------------------------------------------------------


def test_open_tree_and_move_mount(place: bytes) -> None:
    """A copy of a mount is attached elsewhere by descriptor and shows the same files."""
    needs("open_tree", "move_mount")
    for name in (b"/from", b"/to"):
        os.mkdir(place + name)
    syscalls.mount(b"none", place + b"/from", b"tmpfs", 0)
    Path(os.fsdecode(place + b"/from/file")).write_text("content", encoding="utf-8")
    tree = syscalls.open_tree(syscalls.AT_FDCWD, place + b"/from", syscalls.OPEN_TREE_CLONE)
    try:
        syscalls.umount2(place + b"/from")
        assert not is_mounted(place + b"/from")
        syscalls.move_mount(
            tree, b"", syscalls.AT_FDCWD, place + b"/to", syscalls.MOVE_MOUNT_F_EMPTY_PATH
        )
    finally:
        os.close(tree)
    assert Path(os.fsdecode(place + b"/to/file")).read_text(encoding="utf-8") == "content"


def test_an_unattached_copy_goes_with_its_descriptor(place: bytes) -> None:
    """A copy that nobody attached keeps nothing busy once its descriptor is closed."""
    needs("open_tree")
    syscalls.mount(b"none", place, b"tmpfs", 0)
    before = len(mountinfo())
    os.close(syscalls.open_tree(syscalls.AT_FDCWD, place, syscalls.OPEN_TREE_CLONE))
    assert len(mountinfo()) == before
    syscalls.umount2(place)


def test_move_mount_names_both_ends(place: bytes) -> None:
    """An error of a call with two paths shows both; an empty path is shown as its descriptor."""
    needs("move_mount", "open_tree")
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.move_mount(syscalls.AT_FDCWD, place + b"/none", syscalls.AT_FDCWD, place, 0)
    assert caught.value.filename == os.fsdecode(place + b"/none")
    assert caught.value.filename2 == os.fsdecode(place)
    tree = syscalls.open_tree(syscalls.AT_FDCWD, place, 0)
    try:
        with pytest.raises(OSError, match="argument") as empty:
            syscalls.move_mount(tree, b"", tree, b"", 1 << 30)
        assert empty.value.filename == tree
    finally:
        os.close(tree)


def test_a_file_system_is_made_by_descriptor(place: bytes) -> None:
    """fsopen, fsconfig, fsmount and move_mount mount a tmpfs with options and attributes."""
    needs(*NEW_MOUNT)
    context = syscalls.fsopen(b"tmpfs")
    try:
        syscalls.fsconfig_string(context, b"source", b"s" * 255)
        syscalls.fsconfig_string(context, b"size", b"64k")
        syscalls.fsconfig_flag(context, b"ro")
        syscalls.fsconfig_create(context)
        made = syscalls.fsmount(context, attributes=syscalls.MOUNT_ATTR_NOSUID)
    finally:
        os.close(context)
    try:
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        syscalls.move_mount(made, b"", syscalls.AT_FDCWD, place, flags)
    finally:
        os.close(made)
    line = on_top(place)
    assert {"ro", "size=64k"} <= set(line.super_options.split(","))
    assert "nosuid" in line.options.split(",")


def test_a_mount_goes_to_a_descriptor(place: bytes) -> None:
    """Both ends of move_mount may be descriptors with an empty path."""
    needs("open_tree", "move_mount")
    os.mkdir(place + b"/to")
    tree = syscalls.open_tree(syscalls.AT_FDCWD, place, syscalls.OPEN_TREE_CLONE)
    target = os.open(place + b"/to", os.O_PATH | os.O_CLOEXEC)
    try:
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
        syscalls.move_mount(tree, b"", target, b"", flags)
    finally:
        os.close(target)
        os.close(tree)
    assert is_mounted(place + b"/to")


def test_the_kernel_says_what_it_does_not_know() -> None:
    """An option that is not known is EINVAL, and the kernel's reason can be read once."""
    needs("fsopen", "fsconfig")
    context = syscalls.fsopen(b"tmpfs")
    try:
        assert syscalls.fscontext_messages(context) == []
        with pytest.raises(OSError, match="bogus") as caught:
            syscalls.fsconfig_string(context, b"bogus", b"1")
        assert caught.value.errno == errno.EINVAL
        assert syscalls.fscontext_messages(context) == ["e tmpfs: Unknown parameter 'bogus'"]
        assert syscalls.fscontext_messages(context) == []
    finally:
        os.close(context)


def test_messages_of_something_else() -> None:
    """A descriptor that is not one of fsopen has no messages, or an error; it never hangs."""
    with open("/dev/null", "rb") as null:
        assert syscalls.fscontext_messages(null.fileno()) == []
    with pytest.raises(OSError, match="descriptor"):
        syscalls.fscontext_messages(-1)


def test_a_string_of_256_bytes_is_refused_by_the_kernel() -> None:
    """One fsconfig string ends at 255 bytes: EINVAL, never a shortened value."""
    needs("fsopen", "fsconfig")
    context = syscalls.fsopen(b"tmpfs")
    try:
        with pytest.raises(OSError, match="argument") as caught:
            syscalls.fsconfig_string(context, b"source", b"s" * 256)
        assert caught.value.errno == errno.EINVAL
    finally:
        os.close(context)


@pytest.mark.requires("overlay")
def test_overlay_layers_by_descriptor(place: bytes) -> None:
    """Layers whose paths are longer than any fsconfig string are handed over as descriptors."""
    needs(*NEW_MOUNT)
    long = place + b"/" + b"l" * 250 + b"/"
    for layer in (b"top", b"below"):
        os.makedirs(long + layer + b"/seen " + layer)
    context = syscalls.fsopen(b"overlay")
    try:
        for layer in (b"top", b"below"):
            _add_layer(context, long + layer)
        syscalls.fsconfig_create(context)
        made = syscalls.fsmount(context)
    finally:
        os.close(context)
    try:
        readable = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=made)  # `made` is O_PATH
        assert sorted(os.listdir(readable)) == ["seen below", "seen top"]
        os.close(readable)
    finally:
        os.close(made)


def _add_layer(context: int, layer: bytes) -> None:
    fd = os.open(layer, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.fsconfig_fd(context, b"lowerdir+", fd)
    except OSError as error:
        # a file system without a context of its own takes none; others took none with O_PATH
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF}:
            raise
        pytest.skip(f"overlay of this kernel takes no layer by descriptor: {error}")
    finally:
        os.close(fd)


def test_mount_setattr(place: bytes) -> None:
    """Attributes are set and cleared, propagation is changed, on one mount or a tree."""
    needs("mount_setattr")
    syscalls.mount(b"none", place, b"tmpfs", 0)
    os.mkdir(place + b"/below")
    syscalls.mount(b"none", place + b"/below", b"tmpfs", 0)
    at = syscalls.AT_FDCWD
    syscalls.mount_setattr(at, place, 0, syscalls.MOUNT_ATTR_RDONLY, 0, syscalls.MS_SHARED)
    assert "ro" in on_top(place).options.split(",")
    assert on_top(place).optional.startswith("shared:")
    assert "ro" not in on_top(place + b"/below").options.split(",")
    syscalls.mount_setattr(at, place, 0, 0, syscalls.MOUNT_ATTR_RDONLY)
    assert "ro" not in on_top(place).options.split(",")
    syscalls.mount_setattr(at, place, syscalls.AT_RECURSIVE, syscalls.MOUNT_ATTR_NOEXEC)
    for path in (place, place + b"/below"):
        assert "noexec" in on_top(path).options.split(",")
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.mount_setattr(descriptor, b"", syscalls.AT_EMPTY_PATH, 0, 0, syscalls.MS_PRIVATE)
    finally:
        os.close(descriptor)
    assert on_top(place).optional == ""


# --- statmount and listmount ----------------------------------------------------------------------

EVERYTHING = (
    statmount.STATMOUNT_SB_BASIC
    | statmount.STATMOUNT_MNT_BASIC
    | statmount.STATMOUNT_MNT_ROOT
    | statmount.STATMOUNT_MNT_POINT
    | statmount.STATMOUNT_FS_TYPE
)


def test_statmount_and_mountinfo_agree(place: bytes) -> None:
    """Every mount that listmount names has the ids, paths, type and device of its line."""
    needs("statmount", "listmount")
    os.mkdir(place + b"/to")
    syscalls.mount(b"none", place, b"tmpfs", 0)
    os.makedirs(place + b"/sub dir/\xfe")
    os.mkdir(place + b"/to")
    syscalls.mount(place + b"/sub dir/\xfe", place + b"/to", None, syscalls.MS_BIND)
    lines = {line.id: line for line in mountinfo()}
    found = [statmount.statmount(id_, EVERYTHING) for id_ in statmount.listmount()]
    assert sorted(each.mnt_id_old for each in found) == sorted(lines)
    for each in found:
        line = lines[each.mnt_id_old]
        assert each.mnt_parent_id_old == line.parent
        assert f"{each.sb_dev_major}:{each.sb_dev_minor}" == line.dev
        assert (each.mnt_root, each.mnt_point) == (line.root, line.point)
        assert each.fs_type is not None
        assert line.fstype.startswith(each.fs_type.decode())  # without a subtype
    by_id = {each.mnt_id: each for each in found}
    bound = next(each for each in found if each.mnt_point == place + b"/to")
    assert bound.mnt_root == b"/sub dir/\xfe"
    assert by_id[bound.mnt_parent_id].mnt_point == place


def test_statmount_tells_what_was_asked(place: bytes) -> None:
    """A string that was not asked for is None; attributes and propagation are bits."""
    needs("statmount", "listmount")
    syscalls.mount(b"none", place, b"tmpfs", syscalls.MS_NOSUID)
    syscalls.mount(None, place, None, syscalls.MS_SHARED)
    newest = statmount.listmount()[-1]
    told = statmount.statmount(newest, statmount.STATMOUNT_MNT_BASIC | statmount.STATMOUNT_FS_TYPE)
    assert told.fs_type == b"tmpfs"
    assert told.mnt_root is None
    assert told.mnt_point is None
    assert told.mnt_attr & syscalls.MOUNT_ATTR_NOSUID
    assert told.mnt_propagation == syscalls.MS_SHARED
    assert told.mnt_peer_group > 0
    assert told.mnt_master == 0


def test_statmount_and_mountinfo_have_the_same_options(place: bytes) -> None:
    """Escapes included; only whether it may be written into is told elsewhere."""
    needs("statmount", "listmount")
    syscalls.mount(b"none", place, b"tmpfs", 0)
    names = [place + b"/" + name for name in (b"l,o\\w:e r", b"low\n\xfe", b"up", b"work", b"at")]
    for name in names:
        os.mkdir(name)
    above, below, upper, work, at = map(encode, names)
    options = OverlayOptions(lowers=(above, below), upper=upper, work=work)
    syscalls.mount(b"overlay", decode(at), b"overlay", 0, format_options(options))
    newest = statmount.listmount()[-1]
    wanted = statmount.STATMOUNT_MNT_BASIC | statmount.STATMOUNT_MNT_OPTS
    told = statmount.statmount(newest, wanted, 600)  # too few bytes at first
    if not told.mask & statmount.STATMOUNT_MNT_OPTS:
        pytest.skip("before Linux 6.11 there are no options in it")
    with open("/proc/self/mountinfo", "rb") as file:
        (line,) = (line for line in file if line.startswith(b"%d " % told.mnt_id_old))
    assert told.mnt_opts is not None
    assert line.split(b" - overlay overlay ")[1].rstrip(b"\n") == b"rw," + told.mnt_opts


def test_statmount_of_long_paths(place: bytes) -> None:
    """Paths that fill the first buffer several times come back whole."""
    needs("statmount", "listmount")
    syscalls.mount(b"none", place, b"tmpfs", 0)
    root = b""
    while len(root) < 3600:
        root += b"/" + b"d" * 200
    os.makedirs(place + root)
    syscalls.mount(place + root, place + root, None, syscalls.MS_BIND)
    told = statmount.statmount(statmount.listmount()[-1], EVERYTHING)
    assert told.mnt_point == place + root
    assert told.mnt_root == root


def test_listmount_of_many(place: bytes) -> None:
    """More mounts than one call returns are all listed, once each, in order of creation."""
    needs("statmount", "listmount")
    syscalls.mount(b"none", place, b"tmpfs", 0)
    top = statmount.listmount()[-1]
    assert statmount.listmount(top) == []
    for number in range(1100):
        os.mkdir(place + b"/%d" % number)
        syscalls.mount(place, place + b"/%d" % number, None, syscalls.MS_BIND)
    below = statmount.listmount(top)
    assert len(below) == len(set(below)) == 1100
    assert below == sorted(below)
    points = [
        statmount.statmount(id_, statmount.STATMOUNT_MNT_POINT).mnt_point for id_ in below[::100]
    ]
    assert points == [place + b"/%d" % number for number in range(0, 1100, 100)]


def test_statmount_of_nothing() -> None:
    """An id that no mount has is ENOENT, and the error shows the id."""
    needs("statmount", "listmount")
    nobody = 1 << 62
    for call in (lambda: statmount.statmount(nobody, 1), lambda: statmount.listmount(nobody)):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert caught.value.filename == nobody


# --- openat2 --------------------------------------------------------------------------------------


def test_openat2_stays_beneath(place: bytes) -> None:
    """RESOLVE_BENEATH refuses to leave; RESOLVE_IN_ROOT takes the directory for `/`."""
    needs("openat2")
    os.makedirs(place + b"/etc")
    Path(os.fsdecode(place + b"/etc/file")).write_text("inside", encoding="utf-8")
    os.symlink(b"/etc/file", place + b"/link")
    root = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        for path in (b"../x", b"/etc/passwd", b"link"):
            with pytest.raises(OSError, match="Invalid cross-device link") as caught:
                syscalls.openat2(root, path, os.O_RDONLY, resolve=syscalls.RESOLVE_BENEATH)
            assert caught.value.errno == errno.EXDEV
        with pytest.raises(OSError, match="symbolic") as loop:
            syscalls.openat2(root, b"link", os.O_RDONLY, resolve=syscalls.RESOLVE_NO_SYMLINKS)
        assert loop.value.errno == errno.ELOOP
        fd = syscalls.openat2(root, b"link", os.O_RDONLY, resolve=syscalls.RESOLVE_IN_ROOT)
        with open(fd, "rb") as file:
            assert file.read() == b"inside"
    finally:
        os.close(root)


def test_openat2_creates_with_a_mode(place: bytes) -> None:
    """`mode` counts where a file is made, and is refused where none is."""
    needs("openat2")
    os.umask(0)
    path = place + b"/made"
    os.close(syscalls.openat2(syscalls.AT_FDCWD, path, os.O_CREAT | os.O_WRONLY, 0o640))
    assert os.stat(path).st_mode & 0o7777 == 0o640
    with pytest.raises(OSError, match="argument"):
        syscalls.openat2(syscalls.AT_FDCWD, path, os.O_RDONLY, 0o640)


# --- Descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["open_tree", "fsopen", "openat2"])
def test_a_descriptor_is_not_inherited(name: str, place: bytes) -> None:
    """A wrapper gives one descriptor and it is close-on-exec though the flags do not say so."""
    needs(name)
    calls = {
        "open_tree": lambda: syscalls.open_tree(syscalls.AT_FDCWD, place, 0),
        "fsopen": lambda: syscalls.fsopen(b"tmpfs", 0),
        "openat2": lambda: syscalls.openat2(syscalls.AT_FDCWD, place, os.O_RDONLY),
    }
    before = fds()
    fd = calls[name]()
    assert fds() - before == {str(fd)}
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_the_descriptor_of_fsmount_is_not_inherited() -> None:
    """From fsmount comes one descriptor, close-on-exec, and leaves that of fsopen open."""
    needs("fsopen", "fsconfig", "fsmount")
    context = syscalls.fsopen(b"tmpfs")
    syscalls.fsconfig_create(context)
    before = fds()
    fd = syscalls.fsmount(context, 0)
    assert fds() - before == {str(fd)}
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert fds() == before
    os.close(context)


@pytest.mark.parametrize("name", ["open_tree", "fsopen", "fsmount", "openat2"])
def test_a_failure_leaves_no_descriptor(name: str, place: bytes) -> None:
    """Whatever makes a wrapper fail, the process has the descriptors that it had."""
    needs(name)
    missing = place + b"/none"
    with open("/dev/null", "rb") as null:
        failures: dict[str, list[Callable[[], object]]] = {
            "open_tree": [
                lambda: syscalls.open_tree(syscalls.AT_FDCWD, missing, 0),
                lambda: syscalls.open_tree(syscalls.AT_FDCWD, place, 1 << 30),
            ],
            "fsopen": [
                lambda: syscalls.fsopen(b"no-such-filesystem"),
                lambda: syscalls.fsopen(b"tmpfs", 1 << 30),
            ],
            "fsmount": [
                lambda: syscalls.fsmount(null.fileno()),
                lambda: syscalls.fsmount(null.fileno(), 1 << 30),
            ],
            "openat2": [
                lambda: syscalls.openat2(syscalls.AT_FDCWD, missing, os.O_RDONLY),
                lambda: syscalls.openat2(syscalls.AT_FDCWD, place, os.O_RDONLY, resolve=1 << 40),
            ],
        }
        before = fds()
        for fail in failures[name]:
            with pytest.raises(OSError):  # noqa: PT011 - which one is not the claim
                fail()
            assert fds() == before


# --- Kernels without a call -----------------------------------------------------------------------


def _lacking() -> set[str]:
    lacking: set[str] = set()
    for name, call in NEW_CALLS.items():
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at below
            call()
        if caught.value.errno == errno.ENOSYS:
            lacking.add(name)
    return lacking


@pytest.mark.parametrize("name", NEW_CALLS)
def test_a_call_that_the_kernel_lacks_is_enosys(name: str) -> None:
    """A wrapper whose call is not there raises OSError with ENOSYS; the others still work."""
    before = _lacking()
    enosys = runpy.run_path(str(ENOSYS))
    machine = os.uname().machine
    if machine not in enosys["AUDIT_ARCH"]:
        pytest.skip(f"no filter is known for {machine}")
    # This test has a process of its own, which the filter dies with.
    enosys["install"](enosys["program"]([enosys["NUMBERS"][name]], enosys["AUDIT_ARCH"][machine]))
    assert _lacking() == before | {name}


def _under_enosys(names: str, *command: str, before: Sequence[str] = ()) -> tuple[int, str]:
    environment = {**os.environ, "MOUNTCR_ENOSYS": names}
    words = [*before, sys.executable, str(ENOSYS), *command]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


def test_enosys_program_becomes_the_command() -> None:
    """The command runs under a filter, keeps its privileges as root, and its status is given."""
    status, said = _under_enosys(
        "openat2", "grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status"
    )
    assert status == 0
    assert said.split() == ["NoNewPrivs:", "0", "Seccomp:", "2"]
    assert _under_enosys("openat2,fsopen", "sh", "-c", "exit 7") == (7, "")


def test_enosys_program_without_privilege() -> None:
    """Without CAP_SYS_ADMIN the filter is installed with no_new_privs."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv of util-linux is missing")
    command = ("grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status")
    drop = (setpriv, "--bounding-set=-sys_admin")
    status, said = _under_enosys("openat2", *command, before=drop)
    assert (status, said.split()) == (0, ["NoNewPrivs:", "1", "Seccomp:", "2"])


@pytest.mark.parametrize("names", ["", "open_tree,bogus", "open_tree,"])
def test_enosys_program_refuses_unknown_names(names: str) -> None:
    """A misspelled name is exit 2: nothing runs as if the call were missing."""
    status, said = _under_enosys(names, "echo", "ran")
    assert status == 2
    assert "ran" not in said.split()
