# SPDX-License-Identifier: Apache-2.0
"""Operations on images that CRIU 4.1.1 wrote: what each changes, and what it leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import pytest

from mountcr.criu import images_pb2 as pb
from mountcr.criu.imagefile import CGROUP, REG_FILES, Entry, Image, parse
from mountcr.criu.images import ImageSet, read, write
from mountcr.criu.prefixes import moved
from mountcr.criu.rewriting import (
    CgroupMap,
    Change,
    ExternalOverlay,
    ExternalTmpfs,
    FileMount,
    NamedExternal,
    Operation,
    OrdinaryFile,
    PathMap,
    Thaw,
    Unchecked,
    rewrite,
)
from mountcr.errors import ImageError, UsageError
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

HELD = Path(__file__).parent.parent / "fixtures/images/held-files-criu-4.1.1"
WHY = "a test"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(HELD, tmp_path / "copy")
    return tmp_path / "copy"


def images_of(directory: Path = HELD) -> ImageSet:
    return ImageSet(encode(str(directory)))


def path_map(old: str, new: str) -> PathMap:
    return PathMap(because=WHY, old=KPath(old), new=KPath(new))


def cgroup_map(old: str, new: str, controller: str | None = None) -> CgroupMap:
    return CgroupMap(because=WHY, old=KPath(old), new=KPath(new), controller=controller)


def done(directory: Path, *operations: Operation) -> list[tuple[tuple[str, ...], int]]:
    """Apply operations to a set, claim that a second time changes nothing, and give the counts."""
    changes, images = rewrite(images_of(directory), operations)
    for name, image in images.items():
        write(encode(str(directory / name)), image)
    if len(operations) == 1:
        again = rewrite(images_of(directory), operations)
        assert again.images == {}
        assert again.changes == (Change(operation=operations[0]),)
    return [(change.files, change.entries) for change in changes]


def files_of(directory: Path) -> dict[int, str]:
    return {each.id: str(each.path) for each in images_of(directory).regular_files()}


# --- Files ----------------------------------------------------------------------------------------


def test_a_path_prefix(copy: Path) -> None:
    """Every file below a prefix is below another one, unlinked ones and remaps too; no other is."""
    before = files_of(copy)
    assert done(copy, path_map("/tmp", "/var/tmp")) == [(("files.img",), 4)]
    after = files_of(copy)
    assert {after[number] for number in before if after[number] != before[number]} == {
        "/var/tmp/small",
        "/var/tmp/pieces",
        "/var/tmp/first",
        "/var/tmp/link_remap.7",
    }


@pytest.mark.parametrize(("old", "new"), [("/etc/app", "/x"), ("/etc/app.conf/x", "/y")])
def test_a_prefix_counts_by_components(copy: Path, old: str, new: str) -> None:
    """What only begins with the same letters stays."""
    assert done(copy, path_map(old, new)) == [((), 0)]


@pytest.mark.parametrize(
    ("path", "old", "new", "result"),
    [
        ("/a", "/a", "/b", "/b"),
        ("/a/x", "/a", "/b", "/b/x"),
        ("/ab", "/a", "/b", "/ab"),
        ("/", "/", "/b", "/b"),
        ("/x", "/", "/b", "/b/x"),
        ("/b/x", "/", "/b", "/b/x"),
        ("/a/x", "/a", "/", "/x"),
        ("/a", "/a", "/", "/"),
        ("/a/x", "/a", "/a/b", "/a/b/x"),
        ("/a/b/x", "/a", "/a/b", "/a/b/x"),
        ("/a/b/x", "/a/b", "/a", "/a/x"),
        ("/a/x", "/a", "/a", "/a/x"),
        ("/a\xff/x y", r"/a\xff", r"/c\040d", "/c d/x y"),
    ],
)
def test_prefixes(path: str, old: str, new: str, result: str) -> None:
    """A prefix is replaced at whole components, once, whichever way the two are nested."""
    raw = path.encode("latin-1")
    found = moved(raw, KPath(old), KPath(new))
    assert found == result.encode("latin-1")
    assert moved(found, KPath(old), KPath(new)) == found


def test_a_prefix_that_would_be_replaced_again() -> None:
    """A path that would still have the prefix is refused, because doing it again would move it."""
    with pytest.raises(UsageError, match=r"/a/b/b would become /a/b, which is below /a/b as well"):
        moved(b"/a/b/b", KPath("/a/b"), KPath("/a"))


@pytest.mark.parametrize("path", ["", "a", "/a/", "//a", "/a/../b", "/a/./b"])
def test_a_prefix_is_an_absolute_path(path: str) -> None:
    """What is not the shortest form of an absolute path is refused."""
    for make in (path_map, cgroup_map):
        with pytest.raises(UsageError, match="no absolute path"):
            make(path, "/b")
        with pytest.raises(UsageError, match="no absolute path"):
            make("/b", path)


def test_files_of_an_old_criu(copy: Path) -> None:
    """The image with nothing but regular files is rewritten as the one with all files is."""
    entries = read(encode(str(copy / "files.img"))).messages(pb.FileEntry)
    image = Image(REG_FILES, [Entry(each.reg) for each in entries])
    write(encode(str(copy / "reg-files.img")), image)
    (copy / "files.img").unlink()
    assert done(copy, path_map("/etc", "/new")) == [(("reg-files.img",), 1)]
    assert "/new/app.conf" in files_of(copy).values()


def test_the_mount_of_a_file(copy: Path) -> None:
    """Only the file with that path and that mount is put on another one."""
    path = KPath("/mnt/of-lower")
    wrong = FileMount(because=WHY, path=path, mnt_id=93, to=98)
    assert done(copy, wrong) == [((), 0)]
    assert done(copy, FileMount(because=WHY, path=path, mnt_id=98, to=93)) == [(("files.img",), 1)]
    assert {str(each.path): each.mnt_id for each in images_of(copy).regular_files()}[path] == 93
    none = FileMount(because=WHY, path=KPath("/tmp/link_remap.7"), mnt_id=-1, to=93)
    assert done(copy, none) == [(("files.img",), 1)]


@pytest.mark.parametrize(("size", "mode"), [(None, None), (5, 0o100644)])
def test_an_external_file_becomes_an_ordinary_one(
    copy: Path, size: int | None, mode: int | None
) -> None:
    """A file that was given as a descriptor is opened by its path; its id stays."""
    place = encode(str(copy / "files.img"))
    image = read(place)
    (entry,) = (each for each in image.messages(pb.FileEntry) if each.reg.name == b"/etc/app.conf")
    entry.reg.name = b"file[7f:264]"
    entry.reg.ext = True
    entry.reg.ClearField("mnt_id")
    write(place, image)
    operation = OrdinaryFile(
        because=WHY,
        key="file[7f:264]",
        path=KPath("/etc/app.conf"),
        mnt_id=93,
        size=size,
        mode=mode,
    )
    assert done(copy, path_map("/", "/x"))[0][1] == len(image.entries) - 1
    assert done(copy, operation) == [(("files.img",), 1)]
    (file,) = (each for each in images_of(copy).regular_files() if each.id == entry.id)
    assert (file.path, file.mnt_id, file.external) == ("/etc/app.conf", 93, False)
    assert (file.size, file.mode) == (size, mode)


def test_a_file_that_is_not_checked(copy: Path) -> None:
    """Nothing of what CRIU compares is left for one file; its other fields are, the owner too."""
    place = encode(str(copy / "files.img"))
    assert done(copy, Unchecked(because=WHY, path=KPath("/bin/busybox"))) == [(("files.img",), 1)]
    entry = read(place).entries[0]
    message = entry.message
    assert isinstance(message, pb.FileEntry)
    left = {field.name for field, _ in message.reg.ListFields()}
    assert left == {"id", "flags", "pos", "name", "mnt_id"}
    assert b"\x2a\x0a\x08\x00\x10\x00\x18\x00\x20\x00\x28\x00" in entry.raw
    others = [each for each in images_of(copy).regular_files() if each.size is not None]
    assert len(others) == 5


# --- Mounts ---------------------------------------------------------------------------------------


def keys_of(directory: Path) -> dict[str, str | None]:
    (mounts,) = images_of(directory).mount_namespaces().values()
    return {str(mount.mountpoint): mount.external for mount in mounts}


def test_a_detected_mount_gets_a_name(copy: Path) -> None:
    """The mount at a mountpoint has the key that was given; the others are still detected ones."""
    before = keys_of(copy)
    operation = NamedExternal(because=WHY, mountpoint=KPath("/data"), key=r"a\040name")
    assert done(copy, operation) == [(("mountpoints-12.img",), 1)]
    assert keys_of(copy) == {**before, "/data": r"a\040name"}
    for other in ("/dev", "/nowhere"):
        operation = NamedExternal(because=WHY, mountpoint=KPath(other), key="x")
        assert done(copy, operation) == [((), 0)]


def test_one_of_several_mounts(copy: Path) -> None:
    """An id chooses among mounts at one place."""
    for number, count in ((96, 0), (97, 1)):
        operation = NamedExternal(because=WHY, mountpoint=KPath("/data"), key="x", mnt_id=number)
        assert done(copy, operation)[0][1] == count


def test_an_overlay_inside_becomes_external(copy: Path) -> None:
    """An overlay without a key gets one; its root stays, and no other mount does get one."""
    place = encode(str(copy / "mountpoints-12.img"))
    image = read(place)
    (inner,) = (each for each in image.messages(pb.MountEntry) if each.mountpoint == b"/mnt")
    inner.ClearField("ext_key")
    write(place, image)
    operation = ExternalOverlay(because=WHY, mountpoint=KPath("/mnt"), key="merged")
    assert done(copy, operation) == [(("mountpoints-12.img",), 1)]
    (mounts,) = images_of(copy).mount_namespaces().values()
    (found,) = (each for each in mounts if each.mountpoint == "/mnt")
    assert (found.external, found.root, found.fstype) == ("merged", "/", "overlay")
    for other in ("/", "/dev", "/data"):
        operation = ExternalOverlay(because=WHY, mountpoint=KPath(other), key="x")
        assert done(copy, operation) == [((), 0)]


@pytest.mark.parametrize("key", ["", "CRIU:AUTOGENERATED", "CRIU:x", r"a\000b"])
def test_keys_that_are_none(key: str) -> None:
    """A key that cannot be given, or that CRIU takes for its own, is refused."""
    for kind in (NamedExternal, ExternalOverlay):
        with pytest.raises(UsageError, match="is no key"):
            kind(because=WHY, mountpoint=KPath("/a"), key=key)


# --- Control groups -------------------------------------------------------------------------------


def groups_of(directory: Path) -> set[tuple[tuple[str, ...], str]]:
    return {(each.controllers, str(each.path)) for each in images_of(directory).cgroups()}


def test_groups_of_all_hierarchies(copy: Path) -> None:
    """Members and directories of every hierarchy are below the new prefix."""
    before = groups_of(copy)
    assert done(copy, cgroup_map("/web", "/other/web")) == [(("cgroup.img",), 1)]
    assert groups_of(copy) == {(names, f"/other{path}") for names, path in before}


@pytest.mark.parametrize(("controller", "moved_ones"), [("pids", {("pids",)}), ("", {()})])
def test_groups_of_one_hierarchy(
    copy: Path, controller: str, moved_ones: set[tuple[str, ...]]
) -> None:
    """A controller chooses its hierarchy, the empty one version 2."""
    assert done(copy, cgroup_map("/web/init", "/x", controller)) == [(("cgroup.img",), 1)]
    assert {names for names, path in groups_of(copy) if path == "/x"} == moved_ones


def test_controllers_that_are_mounted_together(copy: Path) -> None:
    """One of them moves the groups of all."""
    entry = pb.CgroupEntry()
    group = entry.sets.add(id=1)
    for name in (b"cpu", b"cpuacct", b"pids"):
        group.members.add(name=name, path=b"/a")
        group.members.add(name=b"perf_event,net_cls", path=b"/a")
    entry.controllers.add(names=[b"cpu", b"cpuacct"]).directories.add(name=b"a")
    entry.controllers.add(names=[b"pids"]).directories.add(name=b"a")
    write(encode(str(copy / "cgroup.img")), Image(CGROUP, [Entry(entry)]))
    done(copy, cgroup_map("/a", "/b", "cpuacct"), cgroup_map("/a", "/c", "net_cls"))
    assert groups_of(copy) == {
        (("cpu",), "/b"),
        (("cpuacct",), "/b"),
        (("cpu", "cpuacct"), "/b"),
        (("pids",), "/a"),
        (("net_cls", "perf_event"), "/c"),
    }


Tree: TypeAlias = "dict[str, Tree]"


def directories(tree: Tree) -> list[pb.CgroupDirectory]:
    return [
        pb.CgroupDirectory(
            name=name.encode(),
            children=directories(below),
            permissions=pb.CgroupPermissions(mode=0o40755, uid=0, gid=0),
        )
        for name, below in tree.items()
    ]


def nested(entries: Iterable[pb.CgroupDirectory]) -> Tree:
    return {each.name.decode(): nested(each.children) for each in entries}


TREE: Tree = {"a": {"b": {"c": {}}, "d": {}}}


@pytest.mark.parametrize(
    ("old", "new", "tree"),
    [
        ("/a", "/x/y", {"x/y": {"b": {"c": {}}, "d": {}}}),
        ("/a/b", "/a/e", {"a": {"e": {"c": {}}, "d": {}}}),
        ("/a/b", "/a/e/f", {"a": {"e/f": {"c": {}}, "d": {}}}),
        ("/a/b", "/x", {"a": {"d": {}}, "x": {"c": {}}}),
        ("/a/b/c", "/x", {"a": {"b": {}, "d": {}}, "x": {}}),
        ("/a", "/a/z", {"a/z": {"b": {"c": {}}, "d": {}}}),
        ("/", "/r", {"r/a": {"b": {"c": {}}, "d": {}}}),
        ("/a", "/", {"": {"b": {"c": {}}, "d": {}}}),
        ("/b", "/x", TREE),
    ],
)
def test_a_tree_of_groups(copy: Path, old: str, new: str, tree: Tree) -> None:
    """A directory that leaves the one above it stands at the top, with what is below it."""
    entry = pb.CgroupEntry()
    entry.sets.add(id=1).members.add(name=b"pids", path=b"/a/b/c")
    entry.controllers.add(names=[b"pids"], directories=directories(TREE))
    place = encode(str(copy / "cgroup.img"))
    write(place, Image(CGROUP, [Entry(entry)]))
    done(copy, cgroup_map(old, new))
    (found,) = read(place).messages(pb.CgroupEntry)
    assert nested(found.controllers[0].directories) == tree
    (member,) = found.sets[0].members
    assert (("pids",), encode(member.path)) in groups_of(copy)
    assert len([path for _, path in groups_of(copy)]) == 4


@pytest.mark.parametrize(
    ("old", "new", "path", "prefix"),
    [
        ("/ns", "/other", b"/other/in", len("/other")),
        ("/ns/in", "/ns/out", b"/ns/out", len("/ns")),
        ("/", "/deep", b"/deep/ns/in", len("/deep/ns")),
    ],
)
def test_the_root_of_a_cgroup_namespace(
    copy: Path, old: str, new: str, path: bytes, prefix: int
) -> None:
    """What the task sees of its group stays: the root of the namespace moves with it, or not."""
    entry = pb.CgroupEntry()
    entry.sets.add(id=1).members.add(name=b"", path=b"/ns/in", namespace_prefix=len("/ns"))
    place = encode(str(copy / "cgroup.img"))
    write(place, Image(CGROUP, [Entry(entry)]))
    assert done(copy, cgroup_map(old, new))[0][1] == 1
    (member,) = read(place).messages(pb.CgroupEntry)[0].sets[0].members
    assert (member.path, member.namespace_prefix) == (path, prefix)
    with pytest.raises(UsageError, match="is not below the root of its cgroup namespace"):
        rewrite(images_of(copy), [cgroup_map(path.decode(), "/elsewhere")])


# --- Sequences ------------------------------------------------------------------------------------

OPERATIONS: list[Operation] = [
    path_map("/tmp", "/t"),
    FileMount(because=WHY, path=KPath("/etc/app.conf"), mnt_id=93, to=95),
    OrdinaryFile(because=WHY, key="file[1:2]", path=KPath("/a"), mnt_id=1),
    Unchecked(because=WHY, path=KPath("/bin/busybox")),
    NamedExternal(because=WHY, mountpoint=KPath("/data"), key="data"),
    ExternalOverlay(because=WHY, mountpoint=KPath("/mnt"), key="merged"),
    cgroup_map("/web", "/x", "pids"),
]


def test_nothing_gives_nothing(copy: Path) -> None:
    """Without an operation, or one that has nothing to do, no file is another."""
    assert rewrite(images_of(copy), []) == ((), {})
    changes, images = rewrite(images_of(copy), [path_map("/nowhere", "/x")])
    assert [change.entries for change in changes] == [0]
    assert images == {}


def test_there_and_back_gives_the_same_bytes(copy: Path) -> None:
    """Operations go one after the other; what is in the end as it was is not another file."""
    changes, images = rewrite(images_of(copy), [path_map("/tmp", "/t"), path_map("/t", "/tmp")])
    assert [change.entries for change in changes] == [4, 4]
    assert images == {}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: type(each).__name__)
def test_what_is_not_concerned_stays(operation: Operation) -> None:
    """An operation gives back messages of other kinds themselves, and changes none in place."""
    for path in HELD.glob("*.img"):
        if ".tar." in path.name:
            continue
        image = parse(path.read_bytes(), path.name)
        for entry in image.entries:
            found = operation.rewritten(entry.message)
            assert (found is entry.message) == (found == entry.message)
            assert found is entry.message or operation.images.fullmatch(path.name)
        assert image.to_bytes() == path.read_bytes()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: type(each).__name__)
def test_an_operation_says_itself(operation: Operation) -> None:
    """It is one line, and goes through JSON."""
    assert "\n" not in operation.describe()
    text = msgspec.json.encode(operation)
    assert msgspec.json.decode(text, type=Operation) == operation
    assert f'"op":"{type(operation).__name__.lower()}"'.encode() in text


def test_a_damaged_image(copy: Path) -> None:
    """What cannot be read is not rewritten; files that no operation is about are not read."""
    (copy / "files.img").write_bytes(b"nothing")
    assert rewrite(images_of(copy), [cgroup_map("/web", "/x")]).changes[0].entries == 1
    with pytest.raises(ImageError, match=r"files\.img"):
        rewrite(images_of(copy), [path_map("/tmp", "/t")])


# --- What an engine did for its checkpoint --------------------------------------------------------


def frozen(copy: Path, state: bytes = b"FROZEN") -> None:
    """Have the groups of the images frozen, in both versions."""
    path = encode(str(copy / "cgroup.img"))
    image = read(path)
    (entry,) = image.messages(pb.CgroupEntry)
    for hierarchy in entry.controllers:
        for directory in hierarchy.directories:
            names = {each.name: each for each in directory.properties}
            for name, value in ((b"freezer.state", state), (b"cgroup.freeze", b"1")):
                each = names.get(name) or directory.properties.add(name=name)
                each.value = value
    write(path, Image(CGROUP, [Entry(entry)]))


@pytest.mark.parametrize("state", [b"FROZEN", b"FREEZING\n"])
def test_what_was_paused_runs(copy: Path, state: bytes) -> None:
    """Groups that were frozen are not, in version 1 and 2; others stay as they are."""
    frozen(copy, state)
    assert done(copy, Thaw(because=WHY)) == [(("cgroup.img",), 1)]
    for group in images_of(copy).cgroups():
        found = dict(group.properties)
        assert found.get("freezer.state", "THAWED") == "THAWED"
        assert found.get("cgroup.freeze", "0") == "0"


def test_a_tmpfs_becomes_external(copy: Path) -> None:
    """A tmpfs gets a key; what is none, or has one, does not."""
    mounts = [mount for table in images_of().mount_namespaces().values() for mount in table]
    tmpfs = next(each for each in mounts if each.fstype == "tmpfs" and each.external is None)
    operation = ExternalTmpfs(mountpoint=tmpfs.mountpoint, key="/dev/shm", because=WHY)
    ((files, count),) = done(copy, operation)
    assert (len(files), count) == (1, 1)
    found = [
        each.external
        for table in images_of(copy).mount_namespaces().values()
        for each in table
        if each.id == tmpfs.id
    ]
    assert found == ["/dev/shm"]
    other = next(each for each in mounts if each.fstype not in {"tmpfs", ""})
    nothing = ExternalTmpfs(mountpoint=other.mountpoint, key="x", because=WHY)
    assert done(copy, nothing) == [((), 0)]
