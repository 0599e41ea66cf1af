# SPDX-License-Identifier: Apache-2.0
"""Images that CRIU 4.1.1 wrote: what they say, and what is said of damaged ones."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.criu import images_pb2 as pb
from mountcr.criu.imagefile import (
    LARGEST,
    LARGEST_ENTRY,
    MOUNTS,
    REG_FILES,
    Entry,
    Image,
    check,
    first,
)
from mountcr.criu.images import (
    CgroupImage,
    FileImage,
    ImageSet,
    MountImage,
    TaskImage,
    find_damage,
    parse,
    read,
    write,
)
from mountcr.errors import ImageError
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Callable

FIXTURES = Path(__file__).parent.parent / "fixtures/images"
FIXTURE = FIXTURES / "raw-overlay-criu-4.1.1"
HELD = FIXTURES / "held-files-criu-4.1.1"
FILES = sorted(
    str(path.relative_to(FIXTURES))
    for path in FIXTURES.glob("*/*")
    if path.name != "README.md" and ".tar." not in path.name
)
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_NOSUID = 2
S_IFREG = 0o100000
O_LARGEFILE = 0o100000


@pytest.fixture
def images() -> ImageSet:
    return ImageSet(encode(str(FIXTURE)))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "copy")
    return tmp_path / "copy"


def test_inventory(images: ImageSet) -> None:
    """The root task, its mount namespace, the version and the frozen time are known."""
    assert images.root_pid == 13553
    assert images.root_mount_namespace == 9
    assert images.image_version == 2
    assert images.dump_uptime is None
    assert images.frozen_seconds is not None
    assert 0.001 < images.frozen_seconds < 1


def test_tasks(images: ImageSet) -> None:
    """Both tasks and the ids of their files, the root task first."""
    assert images.tasks() == [
        TaskImage(pid=13553, parent=0, session=13553, cwd=9, root=10, exe=1),
        TaskImage(pid=13567, parent=13553, session=13553, cwd=12, root=13, exe=1),
    ]


def test_mounts(images: ImageSet) -> None:
    """Each mount, in mountinfo spelling; only those from outside have a key."""
    (mounts,) = images.mount_namespaces().values()
    assert [(str(mount.mountpoint), mount.fstype, mount.external) for mount in mounts] == [
        ("/run", "tmpfs", None),
        ("/dev", "tmpfs", None),
        ("/proc", "proc", None),
        (r"/my\040data", "", "volume"),
        ("/etc/hosts", "", "hosts"),
        ("/", "overlay", None),
    ]
    assert mounts[0].flags == MS_RELATIME | MS_NOSUID
    assert mounts[3] == MountImage(
        id=73,
        parent=71,
        fstype="",
        dev="254:0",
        root=KPath("/srv/web/volume"),
        mountpoint=KPath(r"/my\040data"),
        source=KPath("/dev/vda"),
        options="discard,resv_strict,resuid=65534,resgid=65534",
        flags=MS_RELATIME | MS_SHARED,
        shared=1,
        external="volume",
    )
    assert mounts[5].options.startswith("lowerdir=/srv/web/l1:/srv/web/l0,upperdir=/srv/web/upper,")


def test_files(images: ImageSet) -> None:
    """Open files with what CRIU will check; an unlinked one is known as a ghost."""
    files = {str(file.path): file for file in images.regular_files()}
    assert set(files) == {
        "/bin/busybox",
        "/dev/null",
        "/etc/app.conf",
        "/run/state",
        r"/my\040data/log",
        "/tmp/gone",
        "/",
    }
    assert files["/etc/app.conf"] == FileImage(
        id=4,
        path=KPath("/etc/app.conf"),
        mnt_id=71,
        size=5,
        mode=S_IFREG | 0o644,
        flags=O_LARGEFILE,
    )
    appended = files[r"/my\040data/log"]
    assert appended.flags == os.O_WRONLY | os.O_APPEND | O_LARGEFILE
    assert appended.size is None
    assert {path: file.remap for path, file in files.items() if file.remap} == {
        "/tmp/gone": "ghost"
    }


def test_what_is_left_of_files() -> None:
    """Unlinked files, the name that CRIU gave one, and files on mounts from outside are known."""
    files = {str(file.path): file for file in ImageSet(encode(str(HELD))).regular_files()}
    assert {path: file.remap for path, file in files.items() if file.remap} == {
        "/tmp/small": "ghost",
        "/tmp/pieces": "ghost",
        "/tmp/first": "linked",
    }
    assert files["/tmp/link_remap.7"].mnt_id == -1
    assert files["/data/log"].mnt_id == 97


def test_files_of_an_old_criu(copy: Path) -> None:
    """Regular files in an image of their own are read as those among all others."""
    directory = encode(str(copy))
    wanted = ImageSet(directory).regular_files()
    entries = read(encode(str(copy / "files.img"))).messages(pb.FileEntry)
    regular = [entry.reg for entry in entries if entry.HasField("reg")]
    write(encode(str(copy / "reg-files.img")), Image(REG_FILES, [Entry(each) for each in regular]))
    (copy / "files.img").unlink()
    assert ImageSet(directory).regular_files() == wanted


def test_mapped_files(images: ImageSet) -> None:
    """Of the files only the program is mapped."""
    files = {file.id: file.path for file in images.regular_files()}
    assert {files[number] for number in images.mapped_file_ids()} == {"/bin/busybox"}


def test_cgroups(images: ImageSet) -> None:
    """Every hierarchy with the directory the tasks were in, version 2 without a controller."""
    cgroups = images.cgroups()
    assert {group.path for group in cgroups} == {"/web/init"}
    assert all(group.tasks and group.mode == 0o40755 for group in cgroups)
    assert [group.controllers for group in cgroups][:2] == [(), ("blkio",)]
    assert ("name=systemd",) in [group.controllers for group in cgroups]
    (pids,) = (group for group in cgroups if group.controllers == ("pids",))
    assert ("pids.max", "max") in pids.properties


def test_cgroups_of_an_ignoring_dump(copy: Path) -> None:
    """Where CRIU recorded no directories the paths of the tasks are still there; or nothing."""
    path = encode(str(copy / "cgroup.img"))
    image = read(path)
    (message,) = image.messages(pb.CgroupEntry)
    del message.controllers[:]
    message.sets[0].members.add(name=b"cpu,cpuacct", path=b"/a b")
    write(path, image)
    cgroups = ImageSet(encode(str(copy))).cgroups()
    assert CgroupImage(controllers=(), path=KPath("/web/init"), tasks=True) in cgroups
    both = CgroupImage(controllers=("cpu", "cpuacct"), path=KPath(r"/a\040b"), tasks=True)
    assert both in cgroups
    (copy / "cgroup.img").unlink()
    assert ImageSet(encode(str(copy))).cgroups() == []


@pytest.mark.parametrize("name", FILES)
def test_reading_and_writing_keeps_each_byte(name: str) -> None:
    """A file that was read and not changed is written as it was."""
    data = (FIXTURES / name).read_bytes()
    assert parse(data, name).to_bytes() == data
    assert read(encode(str(FIXTURES / name))).to_bytes() == data
    check(encode(str(FIXTURES / name)))


def test_rewriting(copy: Path) -> None:
    """A changed entry keeps its unknown fields, the others each byte, the file its mode."""
    path = encode(str(copy / "files.img"))
    (copy / "files.img").chmod(0o640)
    before = read(path)
    after = read(path)
    changed = after.messages(pb.FileEntry)[3]
    assert changed.reg.name == b"/etc/app.conf"
    changed.reg.ClearField("size")
    write(path, after)
    assert not [name for name in os.listdir(copy) if name.endswith(".mountcr")]
    assert (copy / "files.img").stat().st_mode & 0o777 == 0o640
    again = read(path)
    assert [entry.raw for entry in again.entries[:3]] == [entry.raw for entry in before.entries[:3]]
    assert [entry.raw for entry in again.entries[4:]] == [entry.raw for entry in before.entries[4:]]
    # The owner of the descriptor is field 5 of the file and none of ours.
    owner = b"\x2a\x0a\x08\x00\x10\x00\x18\x00\x20\x00\x28\x00"
    assert owner in before.entries[3].raw
    assert owner in again.entries[3].raw
    assert {file.path: file.size for file in ImageSet(encode(str(copy))).regular_files()}[
        KPath("/etc/app.conf")
    ] is None


def test_a_failed_write_leaves_the_old_file(copy: Path) -> None:
    """If writing fails, the file is what it was and nothing lies beside it."""
    path = encode(str(copy / "pstree.img"))
    data = (copy / "pstree.img").read_bytes()
    names = sorted(os.listdir(copy))
    with pytest.raises(Exception, match="missing required fields"):
        write(path, Image(read(path).magic, [Entry(pb.PstreeEntry())]))
    assert (copy / "pstree.img").read_bytes() == data
    assert sorted(os.listdir(copy)) == names


# --- Damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_found(name: str) -> None:
    """
    A file that ends anywhere but between two entries is an error that says where.

    Of an unlinked file that is not in pieces, only another image tells the length.
    """
    data = (FIXTURES / name).read_bytes()
    image = parse(data, name)
    start = len(data) - len(image.content)
    ends = {start, len(data)}
    if name.endswith("ghost-file-1.img"):
        ends |= set(range(start, len(data)))
    elif image.content:
        ends.add(start + 4 + image.content[0] + 4096)  # behind the first of two pieces
    image.content = b""
    while image.entries:
        image.entries.pop()
        ends.add(len(image.to_bytes()))
    for size in range(len(data)):
        if size in ends:
            continue
        with pytest.raises(ImageError, match="ends within the entry at byte") as caught:
            parse(data[:size], name)
        assert caught.value.file == name
        assert caught.value.offset <= size


def test_an_empty_message_is_kept(tmp_path: Path) -> None:
    """The last message of an image may have no bytes, as seccomp.img without a filter has it."""
    groups = b"\x19\x43\x56\x54\x30\x33\x38\x59" + bytes(4)
    assert parse(groups, "cgroup.img").to_bytes() == groups
    (tmp_path / "seccomp.img").write_bytes(b"\x19\x43\x56\x54\x46\x20\x51\x64" + bytes(4))
    check(encode(str(tmp_path / "seccomp.img")))


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (b"", "ends within the entry at byte 0", 0),
        (b"\x7fELF\x02\x01\x01\0", "is not a CRIU image: it begins with 0x464c457f", 0),
        (b"\x19\x43\x56\x54\x01\x02\x03\x04", "0x4030201 is the magic number of no image", 4),
        (b"\x40\x59\x10\x55\x38\x31\x30\x56", "does not go with", 4),
        (b"\x16\x31\x31\x58\x02\0\0\0\xff\xff", "at byte 4 is not a Inventory", 4),
        (b"\x16\x31\x31\x58\0\0\0\0", "at byte 4 lacks a field", 4),
        (b"\x16\x31\x31\x58\xff\xff\xff\xff", "ends within the entry at byte 4", 4),
        (b"\x19\x43\x56\x54\x30\x33\x38\x59" + bytes(8), "at byte 8 lacks a field", 8),
    ],
)
def test_damage(data: bytes, message: str, offset: int) -> None:
    """What is wrong is said with the file and the byte."""
    with pytest.raises(ImageError, match=message) as caught:
        parse(data, "/images/x.img")
    assert caught.value.message.startswith(("/images/x.img", "0x"))
    assert (caught.value.file, caught.value.offset) == ("/images/x.img", offset)
    assert caught.value.hint


def sparse(path: Path, head: bytes, size: int) -> KPath:
    """Make a file of some bytes and a hole behind them."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return encode(str(path))


@pytest.mark.parametrize("length", [0, 1 << 20, (1 << 30) - 1, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [LARGEST, 10 << 30])
def test_a_large_hole_is_not_read(tmp_path: Path, size: int, length: int) -> None:
    """A file that is mostly a hole is an error, and nothing of its size is allocated."""
    head = (FIXTURE / "files.img").read_bytes()[:8] + length.to_bytes(4, "little")
    path = sparse(tmp_path / "files.img", head, size)
    looks: list[Callable[[KPath], object]] = [read, check, lambda path: first(path, pb.FileEntry)]
    for look in looks:
        tracemalloc.start()
        with pytest.raises(ImageError, match=r"files\.img") as caught:
            look(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.file == path
        assert peak < (4 << 20)


@pytest.mark.parametrize(
    ("size", "message"),
    [(LARGEST + 1, "has 268435457 bytes"), (LARGEST, "the entry at byte 8 has 67108865 bytes")],
)
def test_limits(tmp_path: Path, size: int, message: str) -> None:
    """What is larger than any image with entries, or any entry, is not read, and said to be so."""
    head = (FIXTURE / "files.img").read_bytes()[:8] + (LARGEST_ENTRY + 1).to_bytes(4, "little")
    path = sparse(tmp_path / "files.img", head, size)
    with pytest.raises(ImageError, match=message) as caught:
        read(path)
    assert "at most" in (caught.value.hint or "")


def test_the_first_entry_of_a_large_file(tmp_path: Path) -> None:
    """What an unlinked file is can be read without its content, however large that is."""
    head = (HELD / "ghost-file-1.img").read_bytes()
    path = sparse(tmp_path / "ghost-file-1.img", head, 10 << 30)
    assert first(path, pb.GhostFile).mode == S_IFREG | 0o644
    check(path)
    with pytest.raises(ImageError, match="messages of another kind"):
        first(path, pb.FileEntry)
    (tmp_path / "empty.img").write_bytes(head[:8])
    with pytest.raises(ImageError, match="has no entry"):
        first(encode(str(tmp_path / "empty.img")), pb.GhostFile)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A directory or a pipe under the name of an image is an error and not waited for."""
    os.mkfifo(tmp_path / "pstree.img")
    for path in (tmp_path, tmp_path / "pstree.img"):
        with pytest.raises(ImageError, match="it is no regular file"):
            read(encode(str(path)))


def test_damage_of_a_set_is_found(tmp_path: Path) -> None:
    """A set that is whole has no damage; of one that is cut off, the file and the byte."""
    shutil.copytree(HELD, tmp_path / "copy")
    directory = encode(str(tmp_path / "copy"))
    assert find_damage(directory) is None
    pieces = tmp_path / "copy/ghost-file-2.img"
    pieces.write_bytes(pieces.read_bytes()[:-1])
    found = find_damage(directory)
    assert found is not None
    assert found.file == encode(str(pieces))
    assert "ends within the entry at byte" in found.message


def test_a_directory_without_images(tmp_path: Path) -> None:
    """A directory that holds no images, or is not there, is named."""
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ImageError, match="is not a directory of CRIU images") as caught:
            ImageSet(encode(str(place)))
        assert caught.value.file == f"{place}/inventory.img"


def test_a_file_that_is_missing_or_another(copy: Path) -> None:
    """A set without files.img, or with another image under its name, names it."""
    images = ImageSet(encode(str(copy)))
    shutil.copy(copy / "pstree.img", copy / "files.img")
    with pytest.raises(ImageError, match=r"files\.img holds messages of another kind"):
        images.regular_files()
    (copy / "files.img").unlink()
    with pytest.raises(ImageError, match=r"files\.img is missing"):
        images.regular_files()


def test_an_empty_tree(copy: Path) -> None:
    """A tree without a task is damaged."""
    data = (copy / "pstree.img").read_bytes()
    (copy / "pstree.img").write_bytes(data[:8])
    with pytest.raises(ImageError, match=r"pstree\.img has no entry"):
        _ = ImageSet(encode(str(copy))).root_pid


def test_escapes_that_criu_leaves(copy: Path) -> None:
    """CRIU turns three escapes of mountinfo into bytes and keeps the others; both are read."""
    entry = pb.MountEntry(
        fstype=16,
        fsname=b"ext4",
        mnt_id=2,
        root_dev=8 << 20 | 1,
        parent_mnt_id=1,
        flags=0,
        root=b"/",
        mountpoint=b"/a b\tc\\d\\012e\xff",
        source=b"x\\043y",
        options=b"lowerdir=/l\\040l",
    )
    write(encode(str(copy / "mountpoints-12.img")), Image(MOUNTS, [Entry(entry)]))
    (mount,) = ImageSet(encode(str(copy))).mount_namespaces()[12]
    assert mount.mountpoint == r"/a\040b\011c\134d\012e\xff"
    assert mount.source == r"x\043y"
    assert mount.options == r"lowerdir=/l\040l"
    assert (mount.fstype, mount.dev) == ("ext4", "8:1")
