# SPDX-License-Identifier: Apache-2.0
"""Layers that real file systems have written show, without them, what they showed mounted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr.kernel import syscalls
from mountcr.paths import decode, encode
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.tree import DirectoryTree
from mountcr.rootfs.view import View
from scratch import filesystem
from trees_in_memory import MemoryTree, everything_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mountcr.rootfs.inode import Inode

    Shown = dict[bytes, tuple[Inode, bytes]]

LONG_AGO = 1_000_000_000_123_456_789

META = (b".unionfs", b".unionfs-fuse")


def write(path: Path, text: str, **xattrs: bytes) -> None:
    """Make a file with attributes `user.*`, last changed long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for name, value in xattrs.items():
        os.setxattr(path, f"user.{name}", value)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def prepare(at: Path) -> Path:
    """Make, on a file system of its own, lower layers with all that is about to be changed."""
    base = Path(os.fsdecode(decode(filesystem(at))))
    for name in ("upper", "middle", "bottom", "work", "at"):
        (base / name).mkdir()
    middle, bottom = base / "middle", base / "bottom"
    for number in range(3):
        write(bottom / f"dir/sub/{number}", f"bottom {number}")
        write(middle / f"dir/sub/{number + 1}", f"middle {number + 1}")
        write(bottom / f"moved/in/{number}", f"{number}")
        write(bottom / f"redone/{number}", "old")
        write(bottom / f"kept/{number}", "kept")
        write(middle / f"kept/deep/{number}", "kept")
        write(bottom / f"gone/{number}", "gone")
    write(middle / "moved/in/9", "nine")
    for name in ("file", "attributes", "renamed", "removed", "becomes-dir", "over", "touched"):
        write(bottom / name, f"old {name}", old=b"1")
    write(bottom / "becomes-file/x", "x")
    write(bottom / "odd \n\\,:name", "odd")
    (bottom / "link").symlink_to("file")
    os.mkfifo(bottom / "fifo")
    os.mknod(bottom / "null", 0o20666, os.makedev(1, 3))
    os.chown(bottom / "kept", 5, 6)
    return base


def change(at: Path) -> None:
    """Do to a mounted union what its layers have to tell of."""
    with (at / "file").open("a") as file:
        file.write(" and more")
    os.truncate(at / "over", 3)
    os.utime(at / "over", ns=(LONG_AGO, LONG_AGO + 3))  # FUSE has one of its own for a truncation
    (at / "removed").unlink()
    (at / "kept/1").unlink()
    (at / "kept/deep/2").unlink()
    shutil.rmtree(at / "gone")
    shutil.rmtree(at / "redone")
    (at / "redone").mkdir(0o711)
    write(at / "redone/new", "new")
    (at / "renamed").rename(at / "new-name")
    (at / "dir/sub/2").rename(at / "dir/two")
    (at / "becomes-dir").unlink()
    write(at / "becomes-dir/inside", "inside")
    shutil.rmtree(at / "becomes-file")
    write(at / "becomes-file", "a file")
    (at / "odd \n\\,:name").unlink()
    write(at / "odd \n\\,:name", "odder")
    (at / "link").unlink()
    (at / "link").symlink_to("elsewhere")
    os.mkfifo(at / "another-fifo")
    os.mknod(at / "zero", 0o20666, os.makedev(1, 5))
    write(at / "made", "made")
    os.link(at / "made", at / "made-too")
    os.utime(at / "touched", ns=(LONG_AGO, LONG_AGO + 5))
    os.chown(at / "touched", 7, 8)
    os.chmod(at / "touched", 0o4711)  # noqa: S103 -- the bit is what matters
    (at / "x").mkdir()
    (at / "x").rmdir()


def change_again(at: Path) -> None:
    """Do some more to what was changed before, as far as it is there."""
    for name in ("file", "new-name", "over", "touched", "kept/in-here/9"):
        if (at / name).exists():
            os.chmod(at / name, 0o600)
    write(at / "removed", "is back")
    write(at / "gone/0", "is back")
    if (at / "new-name").exists():
        (at / "new-name").rename(at / "newer-name")
    if (at / "redone").exists():
        shutil.rmtree(at / "redone")
    (at / "redone").mkdir()
    if (at / "moved-away").exists():
        shutil.move(at / "moved-away", at / "moved-further")
        write(at / "moved-further/last", "last")
    shutil.rmtree(at / "kept/deep")


def change_devices(at: Path) -> None:
    """Change the owner of what fuse-overlayfs cannot open."""
    os.chown(at / "fifo", 7, 8)
    os.chown(at / "null", 7, 8)
    os.chown(at / "link", 7, 8, follow_symlinks=False)


def change_attributes(at: Path) -> None:
    """Give and take extended attributes."""
    os.setxattr(at / "attributes", "user.new", b"\0\xff")
    os.removexattr(at / "attributes", "user.old")
    os.setxattr(at / "kept", "user.dir", b"1")
    os.setxattr(at / "made", "user.made", b"1")
    os.setxattr(at / "attributes", "trusted.mine", b"1")


def rename_directory(at: Path) -> None:
    """Rename directories, as mv(1) does where rename(2) gives EXDEV, and make one in place."""
    shutil.move(at / "moved", at / "moved-away")
    shutil.move(at / "moved-away/in", at / "kept/in-here")
    (at / "moved").mkdir()
    write(at / "moved/fresh", "fresh")
    write(at / "kept/in-here/more", "more")


def of_directory(path: Path) -> Shown:
    """All that a directory shows."""
    with DirectoryTree(encode(bytes(path))) as tree:
        return everything_in(tree)


def without_marks(found: Shown) -> Shown:
    """Leave out the marks that unionfs-fuse shows, and the attributes that it does not show."""
    return {
        path: (msgspec.structs.replace(inode, xattrs={}), content)
        for path, (inode, content) in found.items()
        if path.partition(b"/")[0] not in META
    }


def without_override(found: Shown) -> Shown:
    """Leave out the mark that fuse-overlayfs 1.14 shows: owner and mode, which are shown too."""
    hidden = "user.containers.override_stat"
    return {
        path: (
            msgspec.structs.replace(
                inode, xattrs={name: each for name, each in inode.xattrs.items() if name != hidden}
            ),
            content,
        )
        for path, (inode, content) in found.items()
    }


def layered(upper: Path, lowers: Sequence[Path]) -> str:
    """Give the options of an overlay."""
    below = ":".join(map(str, lowers))
    return f"lowerdir={below},upperdir={upper},workdir={upper.parent}/work"


def overlay(at: Path, upper: Path, lowers: Sequence[Path], options: str = "") -> None:
    """Mount layers with the kernel's overlay."""
    data = layered(upper, lowers) + options
    syscalls.mount(b"overlay", bytes(at), b"overlay", 0, data.encode())


def unionfs(at: Path, upper: Path, lowers: Sequence[Path]) -> None:
    """Mount layers with unionfs-fuse."""
    program = shutil.which("unionfs") or "unionfs-fuse"
    dirs = ":".join([f"{upper}=RW", *(f"{each}=RO" for each in lowers)])
    command = [
        program,
        "-o",
        "cow,use_ino,allow_other,suid,dev,attr_timeout=0,entry_timeout=0",
        dirs,
        str(at),
    ]
    subprocess.run(command, check=True, timeout=10)


def fuse_overlayfs(at: Path, upper: Path, lowers: Sequence[Path], options: str = "") -> None:
    """Mount layers with fuse-overlayfs."""
    data = f"{layered(upper, lowers)},allow_other,suid,dev{options}"
    command = ["fuse-overlayfs", "-o", data, str(at)]
    subprocess.run(command, check=True, timeout=10, stderr=subprocess.DEVNULL)


def compare(
    base: Path,
    dialect: str,
    mount: Callable[[Path, Path, Sequence[Path]], None],
    *changers: Callable[[Path], None],
    seen: Callable[[Shown], Shown] = dict,
) -> None:
    """
    Change a union while it is mounted; hold its layers against what it showed.

    They are looked at as they lie, and as the normal form applied to what lies below. All this
    twice: the second time, what was written becomes the topmost of the lower layers.
    """
    layers = [base / name for name in ("upper", "middle", "bottom")]
    for changers_now in (changers, (change_again,)):
        mount(base / "at", layers[0], layers[1:])
        for each in changers_now:
            each(base / "at")
        before = seen(of_directory(base / "at"))
        syscalls.umount2(bytes(base / "at"))
        check(layers, dialect, before, seen)
        layers.insert(0, base / f"{len(layers)}/upper")
        layers[0].mkdir(parents=True)
        layers[0].with_name("work").mkdir()


def check(
    layers: Sequence[Path], dialect: str, wanted: Shown, seen: Callable[[Shown], Shown]
) -> None:
    """Read layers, and apply what the topmost has changed to what the others show."""
    with ExitStack() as stack:
        trees = [stack.enter_context(DirectoryTree(encode(bytes(each)))) for each in layers]
        upper, *lowers = (get_dialect(dialect).layer(each) for each in trees)
        assert seen(everything_in(View([upper, *lowers]))) == wanted
        below = View(lowers, writable=False)
        again = MemoryTree()
        for path, (inode, content) in everything_in(below).items():
            again.store(path, inode, content)
        again.change(changes(upper, below))
        assert seen(everything_in(again)) == wanted


OVERLAYS = {
    "plain": ",redirect_dir=off,metacopy=off,index=off",
    "redirects": ",redirect_dir=on,metacopy=off,index=off",
    "metacopy": ",redirect_dir=on,metacopy=on,index=off",
    "index": ",redirect_dir=on,metacopy=on,index=on",
    "exported": ",redirect_dir=on,index=on,nfs_export=on,metacopy=off",
}


@pytest.mark.requires("overlay")
@pytest.mark.parametrize("options", OVERLAYS.values(), ids=OVERLAYS)
def test_overlay(options: str, tmp_path: Path) -> None:
    """Whiteouts, opaque directories, renamed ones, and files of which the content is below."""
    base = prepare(tmp_path)
    changers = [change, change_devices, change_attributes]
    if "redirect_dir=on" in options:
        changers.append(rename_directory)
    compare(base, "overlay", partial(overlay, options=options), *changers)


@pytest.mark.requires("overlay")
def test_overlay_with_user_attributes(tmp_path: Path) -> None:
    """The marks of `userxattr` are others, and those of a plain overlay the user's own."""
    base = prepare(tmp_path)
    needs_userxattr(base)

    def mark(at: Path) -> None:
        os.setxattr(at / "attributes", "trusted.overlay.opaque", b"y")

    compare(base, "overlay-user", partial(overlay, options=",userxattr"), change, mark)


def needs_userxattr(base: Path) -> None:
    """Skip where overlay does not know that option."""
    try:
        overlay(base / "at", base / "upper", [base / "bottom"], ",userxattr")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("overlay of this kernel does not know userxattr")
    syscalls.umount2(bytes(base / "at"))


@pytest.mark.requires("overlay")
@pytest.mark.parametrize("space", ["trusted", "user"])
def test_attributes_that_look_like_marks(space: str, tmp_path: Path) -> None:
    """What the user has set through the overlay is the user's, on a directory too."""
    base = prepare(tmp_path)
    dialect, options = {"trusted": ("overlay", ""), "user": ("overlay-user", ",userxattr")}[space]
    if options:
        needs_userxattr(base)

    def mark(at: Path) -> None:
        try:
            os.setxattr(at / "attributes", f"{space}.overlay.metacopy", b"")
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("overlay of this kernel takes no attributes that are called as its marks")
        os.setxattr(at / "kept", f"{space}.overlay.opaque", b"y")
        os.setxattr(at / "kept", f"{space}.overlay.overlay.redirect", b"/a")

    compare(base, dialect, partial(overlay, options=options), mark)


@pytest.mark.requires("overlay")
@pytest.mark.parametrize("index", ["off", "on"])
def test_hard_links_below_an_overlay(index: str, tmp_path: Path) -> None:
    """With index=on a change of one name of a file below is one of all its names."""
    base = prepare(tmp_path)
    write(base / "bottom/first", "first")
    os.link(base / "bottom/first", base / "bottom/kept/second")
    os.link(base / "bottom/first", base / "bottom/third")
    texts: list[str] = []

    def change_one(at: Path) -> None:
        with (at / "kept/second").open("a") as file:
            file.write(" changed")
        (at / "third").unlink()
        texts.append((at / "first").read_text())

    compare(base, "overlay", partial(overlay, options=f",index={index}"), change_one)
    assert texts == ["first changed" if index == "on" else "first"]


@pytest.mark.any_kernel
@pytest.mark.requires("unionfs")
def test_unionfs(tmp_path: Path) -> None:
    """Whiteouts of files and directories, beside directories that are in no upper branch."""
    base = prepare(tmp_path)
    changers = (change, change_devices, rename_directory)
    compare(base, "unionfs-1.0", unionfs, *changers, seen=without_marks)


@pytest.mark.any_kernel
@pytest.mark.requires("unionfs")
def test_a_directory_below_what_is_none(tmp_path: Path) -> None:
    """Directories merge past a file in the branch between them."""
    base = prepare(tmp_path)
    write(base / "upper/dir-file-dir/top", "top")
    write(base / "middle/dir-file-dir", "between")
    write(base / "bottom/dir-file-dir/bottom", "bottom")
    compare(base, "unionfs-1.0", unionfs, seen=without_marks)


@pytest.mark.any_kernel
@pytest.mark.requires("fuse-overlayfs")
@pytest.mark.parametrize("options", ["", ",xattr_permissions=2"], ids=["plain", "permissions"])
def test_fuse_overlayfs(options: str, tmp_path: Path) -> None:
    """Its marks, and owners and modes that are in attributes."""
    base = prepare(tmp_path)
    changers = (change, change_attributes, rename_directory)
    mount = partial(fuse_overlayfs, options=options)
    compare(base, "fuse-overlayfs", mount, *changers, seen=without_override)


@pytest.mark.any_kernel
@pytest.mark.requires("fuse-overlayfs")
def test_fuse_overlayfs_without_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it may make no devices, whiteouts are files."""
    base = prepare(tmp_path)
    monkeypatch.setenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "1")
    compare(base, "fuse-overlayfs", fuse_overlayfs, change, rename_directory)
    assert (base / "upper/.wh.removed").exists()
