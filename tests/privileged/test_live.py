# SPDX-License-Identifier: Apache-2.0
"""What steps ask of the kernel is done completely, undone completely, and stays in its place."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr import mountinfo
from mountcr.errors import StepError
from mountcr.execute import applied
from mountcr.kernel import syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.model import InodeType
from mountcr.paths import KPath, decode, encode, join
from mountcr.planning.steps import Attributes, Bind, Copy, Directory, Mountpoint, Overlay, Step
from mountcr.stack import StoredLayer
from scratch import LADDER, directories, lack, mounted, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = LiveKernel()
LADDERS = pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)


# --- Copies ---------------------------------------------------------------------------------------


def stored(*directories: KPath, dialect: str = "overlay") -> tuple[StoredLayer, ...]:
    """Layers of one dialect, top first."""
    return tuple(StoredLayer(path=each, dialect=dialect) for each in directories)


def layers(base: KPath) -> tuple[Path, Path, tuple[StoredLayer, ...]]:
    """Two layers; the top one comes first."""
    top, bottom = directories(base, "top", "bottom")
    return path(top), path(bottom), stored(top, bottom)


def path(kpath: KPath) -> Path:
    """A path for pathlib."""
    return Path(os.fsdecode(decode(kpath)))


def copied(base: KPath, found: tuple[StoredLayer, ...]) -> Path:
    """Copy the merged layers."""
    into = join(base, "copy/here")
    with_nothing_mounted = mountinfo.read()
    KERNEL.copy_layers(found, (), into)
    assert mountinfo.read() == with_nothing_mounted
    return path(into)


@pytest.mark.requires("overlay")
@LADDERS
def test_a_copy_is_the_merged_tree(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Whiteouts and opaque directories are applied, upper files win, directories are merged."""
    base = tmpfs(tmp_path)
    top, bottom, stack = layers(base)
    for name in ("kept", "gone", "changed", "dir/below", "opaque/below"):
        (bottom / name).parent.mkdir(exist_ok=True)
        (bottom / name).write_text("bottom")
    (top / "changed").write_text("top")
    (top / "dir").mkdir()
    (top / "dir/above").write_text("top")
    os.mknod(top / "gone", stat.S_IFCHR, 0)
    (top / "opaque").mkdir()
    os.setxattr(top / "opaque", "trusted.overlay.opaque", b"y")
    lack(*lacking)
    copy = copied(base, stack)
    found = {str(each.relative_to(copy)) for each in copy.rglob("*")}
    assert found == {"kept", "changed", "dir", "dir/below", "dir/above", "opaque"}
    assert (copy / "changed").read_text() == "top"
    assert "trusted.overlay.opaque" not in os.listxattr(copy / "opaque")


@pytest.mark.requires("overlay")
def test_a_copy_keeps_what_files_are(tmp_path: Path) -> None:
    """Owner, mode with its special bits, times to the nanosecond, attributes, of any type."""
    base = tmpfs(tmp_path)
    top, bottom, stack = layers(base)
    (bottom / "file").write_text("x")
    (bottom / "dir").mkdir()
    (bottom / "link").symlink_to("/nowhere")
    os.mkfifo(bottom / "fifo")
    os.mknod(bottom / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(bottom / "block", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    modes = {"file": 0o6711, "dir": 0o1770, "fifo": 0o640, "null": 0o666, "block": 0o600}
    names = [*modes, "link"]
    for number, name in enumerate(names):
        os.chown(bottom / name, 1000 + number, 2000 + number, follow_symlinks=False)
    for name, mode in modes.items():
        os.chmod(bottom / name, mode)
    with_attributes = True
    try:
        os.setxattr(bottom / "file", "user.colour", b"red\0\xff")
    except OSError:
        with_attributes = False  # tmpfs takes them since Linux 6.6
    for number, name in enumerate(names):
        times = (1_000_000_000_000_000_001 + number, 1_100_000_000_123_456_789 + number)
        os.utime(bottom / name, ns=times, follow_symlinks=False)
    copy = copied(base, stack)
    for name in names:
        was, now = os.lstat(bottom / name), os.lstat(copy / name)
        for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_rdev"):
            assert getattr(now, field) == getattr(was, field), (name, field)
    assert os.readlink(copy / "link") == "/nowhere"
    if with_attributes:
        assert os.getxattr(copy / "file", "user.colour") == b"red\0\xff"
    assert list(top.iterdir()) == []


@pytest.mark.requires("overlay")
def test_a_copy_keeps_capabilities(tmp_path: Path) -> None:
    """A program that was given capabilities has them in the copy."""
    base = tmpfs(tmp_path)
    _, bottom, stack = layers(base)
    (bottom / "ping").write_text("x")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # vfs_cap_data, cap_net_raw
    os.setxattr(bottom / "ping", "security.capability", capability)
    assert os.getxattr(copied(base, stack) / "ping", "security.capability") == capability


@pytest.mark.requires("overlay")
def test_a_copy_keeps_links_and_holes(tmp_path: Path) -> None:
    """Two names of a file stay one file, and what was not written takes no room."""
    base = tmpfs(tmp_path)
    _, bottom, stack = layers(base)
    (bottom / "one").write_text("x")
    (bottom / "two").hardlink_to(bottom / "one")
    with (bottom / "sparse").open("wb") as file:
        file.seek(64 * 2**20)
        file.write(b"end")
    copy = copied(base, stack)
    assert (copy / "one").samefile(copy / "two")
    assert (copy / "sparse").stat().st_size == 64 * 2**20 + 3
    assert (copy / "sparse").stat().st_blocks * 512 < 2**20


@pytest.mark.requires("overlay")
def test_a_copy_of_any_names(tmp_path: Path) -> None:
    """Names of any bytes, also ones that look like options."""
    base = tmpfs(tmp_path)
    _, bottom, stack = layers(base)
    names = sorted([b"-rf", b"a\nb", b"\xff", b"a b", b"--", b"\\040"])
    for name in names:
        (path(encode(bytes(bottom) + b"/" + name))).write_text("x")
    assert sorted(os.listdir(bytes(copied(base, stack)))) == names


@pytest.mark.requires("overlay")
def test_a_copy_of_the_top_directory(tmp_path: Path) -> None:
    """The directory itself is as the merged one is."""
    base = tmpfs(tmp_path)
    top, _, stack = layers(base)
    os.chown(top, 5, 6)
    top.chmod(0o711)
    os.utime(top, ns=(1, 10**18))
    found = copied(base, stack).stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (5, 6, 0o711)
    assert found.st_mtime_ns == 10**18


def test_a_copy_of_one_directory(tmp_path: Path) -> None:
    """One layer is no union; it is copied as it is, without the mounts in it."""
    base = tmpfs(tmp_path)
    (only,) = directories(base, "only")
    (path(only) / "mount").mkdir()
    tmpfs(decode(only) + b"/mount")
    (path(only) / "mount/file").write_text("x")
    (path(only) / "file").write_text("x")
    copy = copied(base, stored(only, dialect="vfs"))
    assert sorted(os.listdir(copy)) == ["file", "mount"]
    assert os.listdir(copy / "mount") == []


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    """What is there already is an error, and stays as it is; so does a link that leads nowhere."""
    base = tmpfs(tmp_path)
    only, into = directories(base, "only", "into")
    (path(into) / "mine").write_text("x")
    os.symlink("/nowhere", decode(base) + b"/link")
    for place in (into, join(base, "link")):
        with pytest.raises(FileExistsError):
            KERNEL.copy_layers(stored(only, dialect="vfs"), (), place)
    assert os.listdir(decode(into)) == [b"mine"]


@pytest.mark.requires("overlay")
def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither a half copy nor a mount."""
    base = tmpfs(tmp_path)
    _, bottom, stack = layers(base)
    (bottom / "big").write_bytes(b"x" * 2**20)
    (small,) = directories(base, "small")
    syscalls.mount(b"tmpfs", decode(small), b"tmpfs", 0, b"size=64k")
    before = mountinfo.read()
    with pytest.raises(OSError, match="No space left on device"):
        KERNEL.copy_layers(stack, (), join(small, "copy"))
    assert os.listdir(decode(small)) == []
    assert mountinfo.read() == before


def test_a_copy_of_a_missing_layer(tmp_path: Path) -> None:
    """Is not begun."""
    base = tmpfs(tmp_path)
    (one,) = directories(base, "one")
    into = join(base, "copy")
    with pytest.raises(FileNotFoundError, match="gone"):
        KERNEL.copy_layers(stored(one, join(base, "gone")), (), into)
    assert not os.path.lexists(decode(into))


# --- Mountpoints ----------------------------------------------------------------------------------


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> KPath:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    return encode(str(tmp_path / "root"))


def test_a_mountpoint_is_made_with_its_parents(root: KPath) -> None:
    """What was made is told, parents first, and can be removed again."""
    made = KERNEL.make_mountpoint(root, KPath("/etc/a/b/hosts"), directory=False)
    assert made == ["/etc/a", "/etc/a/b", "/etc/a/b/hosts"]
    assert (path(root) / "etc/a/b/hosts").is_file()
    KERNEL.remove_mountpoint(root, made)
    assert os.listdir(decode(root) + b"/etc") == []


@pytest.mark.parametrize("name", [b"a b", b"\xff", b"n\nl", b"a\\040b"])
def test_a_mountpoint_of_any_name(name: bytes, root: KPath) -> None:
    """The bytes of the name are those of the path."""
    made = KERNEL.make_mountpoint(root, encode(b"/" + name), directory=True)
    assert sorted(os.listdir(decode(root))) == sorted([b"etc", name])
    KERNEL.remove_mountpoint(root, made)
    assert os.listdir(decode(root)) == [b"etc"]


@pytest.mark.parametrize("directory", [True, False])
def test_a_mountpoint_that_is_there(directory: bool, root: KPath) -> None:
    """Nothing is made, and its content is left alone."""
    (path(root) / "etc/conf").write_text("mine")
    assert KERNEL.make_mountpoint(root, KPath("/etc/conf"), directory=directory) == []
    assert (path(root) / "etc/conf").read_text() == "mine"


@pytest.mark.parametrize("target", ["../outside", "/etc", "{outside}", "nowhere", "."])
@pytest.mark.parametrize("directory", [True, False])
def test_no_mountpoint_behind_a_link(target: str, directory: bool, root: KPath) -> None:
    """A link in the root leads nothing out of it; not even one that would lead back."""
    outside = path(root).parent / "outside"
    (path(root) / "link").symlink_to(target.format(outside=outside))
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at below
        KERNEL.make_mountpoint(root, KPath("/link/made"), directory=directory)
    assert caught.value.errno in {errno.ELOOP, errno.ENOTDIR}
    assert os.listdir(outside) == []
    assert os.listdir(decode(root) + b"/etc") == []


@pytest.mark.parametrize("directory", [True, False])
def test_a_link_in_the_last_place_is_not_followed(directory: bool, root: KPath) -> None:
    """Something is there, so that nothing is made, here or where it leads."""
    outside = path(root).parent / "outside"
    (path(root) / "link").symlink_to(outside / "made")
    assert KERNEL.make_mountpoint(root, KPath("/link"), directory=directory) == []
    assert os.listdir(outside) == []


@pytest.mark.parametrize("place", ["/../outside/made", "/etc/../../outside/made", "/.."])
def test_no_mountpoint_above_the_root(place: str, root: KPath) -> None:
    """`..` is refused before anything is made."""
    with pytest.raises(OSError, match=r"\.\.") as caught:
        KERNEL.make_mountpoint(root, KPath(place), directory=True)
    assert caught.value.errno == errno.EXDEV
    assert os.listdir(path(root).parent / "outside") == []


def test_a_file_in_the_way_of_a_mountpoint(root: KPath) -> None:
    """A component that is no directory is an error."""
    (path(root) / "file").write_text("mine")
    with pytest.raises(NotADirectoryError):
        KERNEL.make_mountpoint(root, KPath("/file/made"), directory=True)


def test_what_came_into_a_mountpoint_is_not_removed(root: KPath) -> None:
    """A directory that is not empty, a file that has content."""
    made = KERNEL.make_mountpoint(root, KPath("/new/dir"), directory=True)
    (path(root) / "new/dir/mine").write_text("x")
    KERNEL.remove_mountpoint(root, made)
    assert (path(root) / "new/dir/mine").exists()
    made = KERNEL.make_mountpoint(root, KPath("/file"), directory=False)
    (path(root) / "file").write_text("x")
    KERNEL.remove_mountpoint(root, made)
    assert (path(root) / "file").read_text() == "x"


# --- The rest -------------------------------------------------------------------------------------


def test_directories(tmp_path: Path) -> None:
    """Made with their parents and told apart from those that were there."""
    place = encode(str(tmp_path / "a/b"))
    assert KERNEL.make_directory(place)
    assert not KERNEL.make_directory(place)
    KERNEL.remove_directory(place)
    (tmp_path / "a/x").touch()
    with pytest.raises(OSError, match="not empty"):
        KERNEL.remove_directory(encode(str(tmp_path / "a")))


def test_unmounting_what_is_in_use(tmp_path: Path) -> None:
    """It is gone from the table at once; who uses it may go on."""
    at = tmpfs(tmp_path)
    with (tmp_path / "held").open("w") as file:
        KERNEL.unmount(at)
        assert mounted(at) == []
        file.write("x")
        file.flush()
    with pytest.raises(OSError, match="Invalid argument"):
        KERNEL.unmount(at)


def test_unmounting_does_not_follow_a_link(tmp_path: Path) -> None:
    """A link in the place of a mountpoint leads to nothing being unmounted."""
    at = tmpfs(tmp_path)
    link, place = decode(at) + b"/link", decode(directories(at, "place")[0])
    tmpfs(place)
    os.symlink(place, link)
    with pytest.raises(OSError, match="Invalid argument"):
        KERNEL.unmount(encode(link))
    assert len(mounted(encode(place))) == 1


def test_a_tree_with_a_mount_in_it_is_not_removed(tmp_path: Path) -> None:
    """Nothing at all of it, because what is mounted inside is not what is to be removed."""
    base = tmpfs(tmp_path)
    (inside,) = directories(base, "tree/inside")
    tmpfs(decode(inside))
    with open(decode(inside) + b"/precious", "wb"):
        pass
    os.symlink(decode(base), decode(base) + b"/link")
    for place in ("tree", "link/tree", "tree/inside"):
        with pytest.raises(OSError, match="busy") as caught:
            KERNEL.remove_tree(join(base, place))
        assert caught.value.errno == errno.EBUSY
    assert os.listdir(decode(inside)) == [b"precious"]
    KERNEL.unmount(inside)
    KERNEL.remove_tree(join(base, "tree"))
    assert not os.path.lexists(decode(base) + b"/tree")


def steps_at(base: KPath) -> tuple[Step, ...]:
    """One step of many kinds, the last of which cannot be done."""
    lower, other, at, at2 = directories(base, "lower", "other", "at", "at2")
    why = "a test"
    return (
        Directory(path=join(base, "up"), because=why),
        Directory(path=join(base, "wk"), because=why),
        Overlay(
            at=at,
            lowers=(lower, other),
            upper=join(base, "up"),
            work=join(base, "wk"),
            because=why,
        ),
        Mountpoint(root=at, path=KPath("/data/x"), type=InodeType.DIRECTORY, because=why),
        Attributes(at=at, attributes=("nosuid",), because=why),
        Copy(layers=stored(lower, other), into=join(base, "copy"), because=why),
        Bind(source=join(base, "copy"), at=at2, because=why),
        Bind(source=join(base, "gone"), at=at2, because=why),
    )


@pytest.mark.requires("overlay")
@LADDERS
def test_steps_that_fail_leave_the_machine_as_it_was(
    lacking: tuple[str, ...], tmp_path: Path
) -> None:
    """Mounts, directories, copies and mountpoints, all of them, in the mount table and on disk."""
    base = tmpfs(tmp_path)
    steps = steps_at(base)
    lack(*lacking)
    mounts_before, names_before = mountinfo.read(), sorted(os.listdir(decode(base)))
    with pytest.raises(StepError, match=r"bind of .*/gone") as caught, applied(steps, KERNEL):
        pytest.fail("the block was entered")
    assert caught.value.errno == errno.ENOENT
    assert mountinfo.read() == mounts_before
    assert sorted(os.listdir(decode(base))) == names_before


@pytest.mark.requires("overlay")
@LADDERS
def test_steps_that_are_done_stay(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Until they are undone by the function that the block gives."""
    base = tmpfs(tmp_path)
    *steps, _ = steps_at(base)
    lack(*lacking)
    before = mountinfo.read()
    with applied(steps, KERNEL) as undo:
        pass
    (root,) = mounted(join(base, "at"))
    assert "nosuid" in root.options
    assert os.path.isdir(decode(base) + b"/at/data/x")
    assert len(mounted(join(base, "at2"))) == 1
    undo()
    assert mountinfo.read() == before


def test_a_control_group_is_made_once(tmp_path: Path) -> None:
    """A directory that was there is not told as made; one that was can be removed again."""
    place = encode(str(tmp_path / "group"))
    assert KERNEL.make_cgroup(place)
    assert not KERNEL.make_cgroup(place)
    KERNEL.remove_directory(place)
    assert not (tmp_path / "group").exists()


def cpuset(at: Path) -> Path:
    """The directory of a cpuset hierarchy of version 1, mounted if it can be; skips otherwise."""
    for mount in mountinfo.read():
        if mount.fstype == "cgroup" and "cpuset" in mount.super_options.split(","):
            return path(mount.mountpoint)
    try:
        syscalls.mount(b"none", bytes(at), b"cgroup", 0, b"cpuset")
    except OSError as error:
        pytest.skip(f"this kernel gives no cpuset hierarchy of version 1: {error.strerror}")
    return at


def test_a_cpuset_gets_the_processors_of_its_parent(tmp_path: Path) -> None:
    """Without them no task can be put in."""
    group = cpuset(tmp_path) / f"mountcr-test-{os.getpid()}"
    place = encode(str(group))
    remove: Callable[[], None] = group.rmdir
    assert KERNEL.make_cgroup(place)
    try:
        for name in ("cpuset.cpus", "cpuset.mems"):
            assert (group / name).read_text() == (group.parent / name).read_text()
            assert (group / name).read_text().strip()
    finally:
        remove()
