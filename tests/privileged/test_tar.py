# SPDX-License-Identifier: Apache-2.0
"""Layer tars are read and written as other tools do, and nothing in a hostile one is believed."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import KPath, encode
from mountcr.rootfs.changes import changes, everything
from mountcr.rootfs.dialect import Entry
from mountcr.rootfs.dialects.oci import Oci
from mountcr.rootfs.dialects.vfs import Vfs
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.tar import Limits, TarTree
from mountcr.rootfs.tarwriter import write_tar
from mountcr.rootfs.tree import DirectoryTree
from mountcr.rootfs.view import View
from mountcr.rootfs.writer import write, write_all
from snapshots import CAPABILITY, Seen, fill, snapshot

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.requires("root"), pytest.mark.any_kernel]

ROOT = Inode(type=InodeType.DIRECTORY, mode=0o755)


def kpath(path: Path) -> KPath:
    """Spell a path."""
    return encode(os.fspath(path))


def filled(path: Path) -> Path:
    """A tree that has everything a tar can hold."""
    path.mkdir()
    fill(path)
    os.unlink(path / "socket")
    for name in ("symlink", "null"):  # trusted.* is nobody's business in a layer
        os.removexattr(path / name, "trusted.on", follow_symlinks=False)
    return path


def importable(path: Path) -> Path:
    """A tree that has everything a tar from elsewhere may hold."""
    filled(path)
    os.unlink(path / "disk")
    return path


def archive(source: Path, into: Path) -> None:
    """Write a tree as a tar."""
    with DirectoryTree(kpath(source)) as tree, into.open("wb") as file:
        write_tar(everything(tree), file)


def unpack(source: Path, into: Path) -> None:
    """Write a tar as a tree."""
    with TarTree(kpath(source)) as tree:
        write_all(tree, kpath(into))


def without(seen: dict[bytes, Seen], *xattrs: str) -> dict[bytes, Seen]:
    """What is to be seen without some attributes."""
    return {
        path: each._replace(
            xattrs={name: each.xattrs[name] for name in each.xattrs if name not in xattrs}
        )
        for path, each in seen.items()
    }


def test_there_and_back(tmp_path: Path) -> None:
    """Every field of every inode but the time of access; the same bytes each time."""
    tree = importable(tmp_path / "tree")
    archive(tree, tmp_path / "a.tar")
    archive(tree, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    unpack(tmp_path / "a.tar", tmp_path / "new")
    assert snapshot(os.fspath(tmp_path / "new")) == snapshot(os.fspath(tree))


def test_marks_there_and_back(tmp_path: Path) -> None:
    """What is removed or opaque is so after a tar, and what was not is not."""
    file = Inode(type=InodeType.FILE, mode=0o640, uid=1 << 22, gid=(1 << 32) - 2, mtime=-1)
    entries = [
        Entry(b"", ROOT),
        Entry(b"dir", ROOT, opaque=True),
        Entry(b"dir/file", file),
        Entry(b"dir/link", file, link=b"dir/file"),
        Entry(b"gone", None),
    ]
    with (tmp_path / "a.tar").open("wb") as out:
        write_tar(entries, out)
    with TarTree(kpath(tmp_path / "a.tar")) as tree:
        found = list(changes(Oci().layer(tree), None))
    assert [(each.path, each.opaque, each.link) for each in found] == [
        (each.path, each.opaque, each.link) for each in entries
    ]
    assert found[4].inode is None
    inode = found[2].inode
    assert inode is not None
    assert (inode.mode, inode.uid, inode.gid, inode.mtime, inode.nlink) == (
        0o640, 1 << 22, (1 << 32) - 2, -1, 2,
    )  # fmt: skip


def test_sockets_are_left_out_and_named(tmp_path: Path) -> None:
    """A tar cannot hold them."""
    entries = [Entry(b"", ROOT), Entry(b"s", Inode(type=InodeType.SOCKET, mode=0o600))]
    assert write_tar(entries, io.BytesIO()).left_out == ("/s",)


def test_holes_there_and_back(tmp_path: Path) -> None:
    """Holes take no room in the tar, and are holes again."""
    (tmp_path / "tree").mkdir()
    sparse, nothing = tmp_path / "tree" / "sparse", tmp_path / "tree" / ("nothing" * 30)
    with sparse.open("wb") as file:
        file.seek(9 << 20)
        file.write(b"x" * 5000)
        file.truncate(20 << 20)
    nothing.touch()
    os.truncate(nothing, 6 << 20)
    archive(tmp_path / "tree", tmp_path / "a.tar")
    assert os.stat(tmp_path / "a.tar").st_size < 100_000
    unpack(tmp_path / "a.tar", tmp_path / "new")
    assert snapshot(os.fspath(tmp_path / "new")) == snapshot(os.fspath(tmp_path / "tree"))
    assert os.stat(tmp_path / "new" / "sparse").st_blocks < 100
    (tmp_path / "theirs").mkdir()
    _tar("-C", tmp_path / "theirs", "-xpSf", tmp_path / "a.tar")
    assert snapshot(os.fspath(tmp_path / "theirs")) == snapshot(os.fspath(tmp_path / "tree"))


def _tar(*words: object) -> None:
    done = subprocess.run(["tar", *map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_gnu_tar_reads_ours(tmp_path: Path) -> None:
    """With every attribute, and without a word of warning."""
    tree = filled(tmp_path / "tree")
    os.setxattr(tree / "acl", "user.100%=x", b"y")
    archive(tree, tmp_path / "a.tar")
    (tmp_path / "new").mkdir()
    _tar("--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-C",
         tmp_path / "new", "-xpf", tmp_path / "a.tar")  # fmt: skip
    assert snapshot(os.fspath(tmp_path / "new")) == snapshot(os.fspath(tree))


@pytest.mark.parametrize("sparse", [(), ("-S",)], ids=["", "sparse"])
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_ours_reads_gnu_tar(tmp_path: Path, form: str, sparse: tuple[str, ...]) -> None:
    """GNU tar's own format, which has no attributes and whole seconds, and PAX, which has all."""
    tree = importable(tmp_path / "tree")
    os.truncate(tree / "dir" / "empty", 1 << 20)
    os.setxattr(tree / "acl", "user.100%=x", b"y")
    words = ["--xattrs", "--xattrs-include=*"] if form == "pax" else []
    _tar(*words, *sparse, f"--format={form}", "-C", tree, "-cf", tmp_path / "a.tar", ".")
    unpack(tmp_path / "a.tar", tmp_path / "new")
    expected = snapshot(os.fspath(tree))
    found = snapshot(os.fspath(tmp_path / "new"))
    if form == "gnu":
        expected = {
            path: each._replace(mtime=each.mtime // 10**9 * 10**9, xattrs={})
            for path, each in expected.items()
        }
    assert found == expected


@pytest.mark.parametrize("packing", ["gzip", "gzip in two", "zstd"])
def test_compressed(tmp_path: Path, packing: str) -> None:
    """By content, whatever the name says; members and frames that follow each other are one."""
    tree = importable(tmp_path / "tree")
    archive(tree, tmp_path / "plain")
    data = (tmp_path / "plain").read_bytes()
    if packing == "gzip":
        packed = gzip.compress(data)
    elif packing == "gzip in two":
        packed = gzip.compress(data[:5000]) + gzip.compress(data[5000:])
    else:
        zstd = pytest.importorskip("backports.zstd")
        packed = zstd.compress(data[:5000]) + zstd.compress(data[5000:])
    (tmp_path / "layer.tar").write_bytes(packed)
    unpack(tmp_path / "layer.tar", tmp_path / "new")
    assert snapshot(os.fspath(tmp_path / "new")) == snapshot(os.fspath(tree))
    for cut in (packed[: len(packed) // 2], packed[:-3]):
        (tmp_path / "cut").write_bytes(cut)
        with pytest.raises(RefusedError, match="damaged"):
            TarTree(kpath(tmp_path / "cut"))


def members(path: Path, *infos: tuple[str, dict[str, object]]) -> KPath:
    """Write a tar of members by hand."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for name, fields in infos:
            member = tarfile.TarInfo(name)
            data = fields.pop("data", b"")
            assert isinstance(data, bytes)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            out.addfile(member, io.BytesIO(data))
    return kpath(path)


DIR: dict[str, object] = {"type": tarfile.DIRTYPE}
HOSTILE: dict[str, tuple[list[tuple[str, dict[str, object]]], str]] = {
    "absolute": ([("/etc/passwd", {})], "leaves the root"),
    "absolute by PAX": ([("x", {"pax_headers": {"path": "/etc/passwd"}})], "leaves the root"),
    "dots": ([("a/../../etc", {})], "leaves the root"),
    "dots in a link": ([("a", {"type": tarfile.LNKTYPE, "linkname": "../x"})], "leaves the root"),
    "twice": ([("a", {}), ("a", {})], "/a is there twice"),
    "twice spelled otherwise": ([("a/b", {}), ("./a//b", {})], "/a/b is there twice"),
    "a link and a file": (
        [("b", {}), ("a", {"type": tarfile.LNKTYPE, "linkname": "b"}), ("a", {})],
        "/a is there twice",
    ),
    "below a file": ([("a", {}), ("a/b", {})], "/a, which is no directory"),
    "below a symbolic link": (
        [("a", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("a/passwd", {})],
        "/a, which is no directory",
    ),
    "below one that comes later": (
        [("a/passwd", {}), ("a", {"type": tarfile.SYMTYPE, "linkname": "/etc"})],
        "/a, which is no directory",
    ),
    "link to itself": ([("a", {"type": tarfile.LNKTYPE, "linkname": "a"})], "link to itself"),
    "link to a directory": (
        [("d", DIR), ("a", {"type": tarfile.LNKTYPE, "linkname": "d"})],
        "link to the directory",
    ),
    "link to nothing": ([("a", {"type": tarfile.LNKTYPE, "linkname": "b"})], "/b, which is not"),
    "device": ([("sda", {"type": tarfile.BLKTYPE, "devmajor": 8})], "/sda is the block device 8:0"),
    "unknown type": ([("a", {"type": b"Z"})], "/a is of a type"),
    "empty link": ([("a", {"type": tarfile.SYMTYPE, "linkname": ""})], "a symbolic link to no"),
    "time": ([("a", {"pax_headers": {"mtime": "1e99"}})], "/a has the mtime"),
    "time that is none": ([("a", {"pax_headers": {"atime": "soon"}})], "/a has the atime"),
    "root that is a file": ([(".", {})], "root is no directory"),
    "large attribute": (
        [("a", {"pax_headers": {"SCHILY.xattr.user.x": "x" * 70000}})],
        "attribute of 70000 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"),
    [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9), ("tty", 0)],
)
def test_devices_of_every_container(name: str, number: int, tmp_path: Path) -> None:
    """A chroot(2) of a server in its container has some; as block devices they would be others."""
    fields = {"devmajor": 5 if name == "tty" else 1, "devminor": number, "mode": 0o666}
    members(tmp_path / "a.tar", (name, {"type": tarfile.CHRTYPE, **fields}))
    unpack(tmp_path / "a.tar", tmp_path / "new")
    found = (tmp_path / "new" / name).stat()
    assert (found.st_mode, found.st_rdev) == (0o20666, os.stat(f"/dev/{name}").st_rdev)
    block = members(tmp_path / "b.tar", (name, {"type": tarfile.BLKTYPE, **fields}))
    with pytest.raises(RefusedError, match=rf"\/{name} is the block device"):
        TarTree(block)


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE)
def test_hostile(case: tuple[list[tuple[str, dict[str, object]]], str], tmp_path: Path) -> None:
    """Refused by name, before anything is unpacked."""
    infos, what = case
    path = members(tmp_path / "a.tar", *((name, dict(fields)) for name, fields in infos))
    with pytest.raises(RefusedError, match=what.replace("/", r"\/")) as caught:
        TarTree(path)
    assert "\n" not in caught.value.message


def test_whiteout_device_is_refused(tmp_path: Path) -> None:
    """A character device 0:0 would be a mark of overlay."""
    path = members(tmp_path / "a.tar", ("gone", {"type": tarfile.CHRTYPE}))
    with pytest.raises(RefusedError, match=r"/gone is the character device 0:0"):
        TarTree(path)


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_whiteout_of_nothing_is_refused(name: str, tmp_path: Path) -> None:
    """It is the whiteout of the directory itself, or of the one above."""
    path = members(tmp_path / "a.tar", (f"d/{name}", {}))
    with TarTree(path) as tree, pytest.raises(RefusedError, match="whiteout of no name"):
        list(changes(Oci().layer(tree), None))


def test_marks_of_others_are_stripped(tmp_path: Path) -> None:
    """What belongs to the user stays; what the next union would obey goes, and is counted."""
    names = (
        "trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque",
        "user.containers.override_stat", "system.nfs4_acl", "security.selinux", "user.mine",
        "security.capability",
    )  # fmt: skip
    headers = {
        f"SCHILY.xattr.{name}": CAPABILITY.decode("utf-8", "surrogateescape") for name in names
    }
    path = members(tmp_path / "a.tar", ("a", {"pax_headers": headers}))
    with TarTree(path) as tree:
        inode = tree.inode(b"a")
        assert inode is not None
        assert inode.xattrs == {"user.mine": CAPABILITY, "security.capability": CAPABILITY}
        assert tree.found.stripped == dict.fromkeys(names[:6], 1)


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (Limits(members=2), "more than 2 members"),
        (Limits(size=1000), "more than 1000 bytes"),
        (Limits(path=3), "has 4 bytes"),
    ],
    ids=["members", "size", "path"],
)
def test_limits(limits: Limits, what: str, tmp_path: Path) -> None:
    """An archive does not fill the disk."""
    path = members(tmp_path / "a.tar", ("a", {}), ("b", {"data": bytes(2000)}), ("long", {}))
    with pytest.raises(RefusedError, match=what):
        TarTree(path, limits=limits)


def test_bomb(tmp_path: Path) -> None:
    """What unpacks to far more than it is, is refused on the way."""
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(50 << 20), 9))
    with pytest.raises(RefusedError, match="unpacks to more than"):
        TarTree(kpath(tmp_path / "bomb"), limits=Limits(ratio=100))


@pytest.mark.parametrize("cut", [100, 700, 1500, 2100])
def test_cut_off(cut: int, tmp_path: Path) -> None:
    """An archive that ends in the middle of a member is damaged."""
    path = members(tmp_path / "a.tar", ("a", {"data": bytes(600)}), ("b", {"data": bytes(600)}))
    os.truncate(tmp_path / "a.tar", cut)
    with pytest.raises(RefusedError, match=r"damaged|no tar"):
        TarTree(path)


def test_garbage_after_a_member(tmp_path: Path) -> None:
    """What follows and is no member is damage, not the end."""
    path = members(tmp_path / "a.tar", ("a", {"data": bytes(512)}))
    with (tmp_path / "a.tar").open("r+b") as file:
        file.seek(1024)
        file.write(b"garbage" * 100)
    with pytest.raises(RefusedError, match="damaged at byte 1024"):
        TarTree(path)


@pytest.mark.parametrize("order", [1, -1])
def test_opaque_after_its_siblings(order: int, tmp_path: Path) -> None:
    """The mark counts wherever it is, and names of AUFS itself mean nothing."""
    names = ("d", "d/new", "d/.wh..wh..opq", "d/.wh.old", ".wh..wh.plnk", ".wh..wh.plnk/1.2")
    infos = [(name, DIR if name in {"d", ".wh..wh.plnk"} else {}) for name in names]
    path = members(tmp_path / "a.tar", *((name, dict(each)) for name, each in infos[::order]))
    with TarTree(path) as tree:
        found = [(each.path, each.opaque) for each in changes(Oci().layer(tree), None)]
    assert found == [(b"", False), (b"d", True), (b"d/new", False)]


def test_hard_link_to_a_file_below(tmp_path: Path) -> None:
    """The file comes up with both names; a directory that is only implied stays as it is below."""
    below = tmp_path / "below"
    (below / "dir").mkdir(parents=True)
    (below / "dir" / "file").write_bytes(b"content")
    os.chmod(below / "dir", 0o700)
    os.utime(below / "dir", ns=(5, 5))
    path = members(
        tmp_path / "a.tar", ("dir/link", {"type": tarfile.LNKTYPE, "linkname": "dir/file"})
    )
    with DirectoryTree(kpath(below)) as tree:
        view = View([Vfs().layer(tree)])
        with TarTree(path, view) as layer:
            write(changes(Oci().layer(layer), view), kpath(tmp_path / "new"), Vfs())
    seen = snapshot(os.fspath(tmp_path / "new"))
    assert seen[b"dir/link"].names == {b"dir/link", b"dir/file"}
    assert seen[b"dir/link"].content == snapshot(os.fspath(below))[b"dir/file"].content
    assert seen[b"dir"][:4] == snapshot(os.fspath(below))[b"dir"][:4]


def test_names_of_a_file_are_counted(tmp_path: Path) -> None:
    """By way of another link too, and with the name below unless that is hidden."""
    (tmp_path / "below").mkdir()
    for each in ("shown", "hidden"):
        (tmp_path / "below" / each).write_bytes(b"content")
    made: list[tuple[str, dict[str, object]]] = [("a", {}), ("alone", {}), (".wh.hidden", {})]
    for name, target in {"b": "a", "c": "b", "d": "shown", "e": "hidden"}.items():
        made.append((name, {"type": tarfile.LNKTYPE, "linkname": target}))
    path = members(tmp_path / "a.tar", *made)
    with DirectoryTree(kpath(tmp_path / "below")) as tree, TarTree(path, tree) as layer:
        found = [layer.inode(each) for each in (b"a", b"b", b"c", b"d", b"shown", b"e", b"alone")]
    assert [each and each.nlink for each in found] == [3, 3, 3, 2, 2, 1, 1]


def test_names_that_would_be_marks_are_refused(tmp_path: Path) -> None:
    """A real file called .wh.x cannot be in a layer tar."""
    with pytest.raises(RefusedError, match=r"/\.wh\.x would be a mark"):
        write_tar([Entry(b".wh.x", Inode(type=InodeType.FILE, mode=0o644))], io.BytesIO())
