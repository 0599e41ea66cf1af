# SPDX-License-Identifier: Apache-2.0
"""Files of a directory of images are replaced all at once, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

import pytest

from mountcr.criu.imageset import replace
from mountcr.errors import ImageError, LeftBehindError, RefusedError, StepError
from mountcr.kernel import removal, syscalls
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path

ONE = {"files.img": b"new files"}
TWO = {**ONE, "cgroup.img": b"new groups"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory of some files with modes of their own, and the link of an incremental dump."""
    directory = tmp_path / "set"
    directory.mkdir(mode=0o750)
    for number, name in enumerate(("files.img", "cgroup.img", "pages-1.img", "inventory.img")):
        (directory / name).write_bytes(name.encode())
        (directory / name).chmod(0o600 | number)
    (directory / "parent").symlink_to("../1")
    os.mkfifo(directory / "pipe")
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.name: os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in directory.iterdir()
        if path.is_symlink() or path.is_file()
    }


def modes(directory: Path) -> dict[str, int]:
    found = {path.name: path.lstat().st_mode for path in directory.iterdir()}
    return {**found, "": directory.stat().st_mode}


def beside(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory.parent) if name != directory.name]


@pytest.mark.parametrize("new", [{}, ONE, TWO], ids=len)
def test_files_are_replaced(images: Path, new: dict[str, bytes]) -> None:
    """The files have their new contents, all else is as it was, modes too, and nothing is left."""
    before, of_before, inode = contents(images), modes(images), images.stat().st_ino
    replace(encode(str(images)), new)
    assert contents(images) == {**before, **new}
    assert modes(images) == of_before
    assert stat.S_ISFIFO((images / "pipe").stat().st_mode)
    assert beside(images) == []
    assert (images.stat().st_ino == inode) == (len(new) < 2)


@pytest.mark.requires("root")
@pytest.mark.parametrize("new", [ONE, TWO], ids=len)
def test_owners_stay(images: Path, new: dict[str, bytes]) -> None:
    """Directory, files, what is linked and what is a link keep their owners."""
    for number, path in enumerate((images, *images.iterdir()), 1000):
        os.chown(path, number, number + 1, follow_symlinks=False)

    def owners() -> dict[str, tuple[int, int]]:
        found = {path.name: path.lstat() for path in (images, *images.iterdir())}
        return {name: (each.st_uid, each.st_gid) for name, each in found.items()}

    before = owners()
    replace(encode(str(images)), new)
    assert owners() == before


def test_what_stays_is_not_copied(images: Path) -> None:
    """Other files are the same inodes: pages of gigabytes take no time."""
    before = (images / "pages-1.img").stat().st_ino
    replace(encode(str(images)), TWO)
    assert (images / "pages-1.img").stat().st_ino == before
    assert (images / "pages-1.img").stat().st_nlink == 1


def test_a_link_to_the_directory_stays(images: Path) -> None:
    """A set that is named by a symbolic link is replaced where it lies."""
    link = images.parent / "link"
    link.symlink_to("set")
    replace(encode(str(link)), TWO)
    assert os.readlink(link) == "set"
    assert contents(images)["cgroup.img"] == TWO["cgroup.img"]


@pytest.mark.parametrize("new", [{}, ONE, TWO], ids=len)
def test_leftovers_go(images: Path, new: dict[str, bytes]) -> None:
    """What an earlier try left goes with the next one, whatever that does; no other name does."""
    left = images / ".files.img.mountcr-1234abcd"
    left.write_bytes(b"half")
    old = images.parent / ".set.mountcr-1234abcd"
    old.mkdir()
    (old / "files.img").write_bytes(b"half")
    other = images.parent / ".sets.mountcr-1234abcd"
    other.mkdir()
    replace(encode(str(images)), new)
    assert beside(images) == [other.name]
    assert left.name not in os.listdir(images)


def test_a_long_name(tmp_path: Path) -> None:
    """A directory whose name is as long as names can be is replaced too."""
    images = tmp_path / ("n" * 255)
    images.mkdir()
    for name in TWO:
        (images / name).touch()
    replace(encode(str(images)), TWO)
    assert contents(images) == TWO


def test_a_directory_inside(images: Path) -> None:
    """What holds another directory is refused, and nothing is changed."""
    (images / "sub").mkdir()
    before = contents(images)
    with pytest.raises(ImageError, match="sub is a directory") as caught:
        replace(encode(str(images)), TWO)
    assert caught.value.file == encode(str(images / "sub"))
    assert (contents(images), beside(images)) == (before, [])


def test_one_at_a_time(images: Path) -> None:
    """While another one replaces files there, it is refused."""
    fd = os.open(images, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    before = contents(images)
    for new in (ONE, TWO):
        with pytest.raises(RefusedError, match="another mountcr"):
            replace(encode(str(images)), new)
    os.close(fd)
    assert contents(images) == before
    replace(encode(str(images)), TWO)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_what_cannot_be_linked(images: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file that cannot get a second name is named, not copied; nothing is changed."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    before = contents(images)
    with pytest.raises(StepError, match="cannot be linked into a new set") as caught:
        replace(encode(str(images)), TWO)
    assert caught.value.errno == number
    assert (contents(images), beside(images)) == (before, [])


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EBUSY, "it is a mountpoint"),
        (errno.EINVAL, "this file system cannot exchange directories"),
        (errno.EXDEV, "this file system cannot exchange directories"),
        (errno.ENOSYS, "this file system cannot exchange directories"),
    ],
)
def test_what_cannot_be_exchanged(
    images: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    """Where directories cannot be exchanged it is said why, with a hint; nothing is changed."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(syscalls, "renameat2", fail)
    before = contents(images)
    with pytest.raises(StepError, match=why) as caught:
        replace(encode(str(images)), TWO)
    assert caught.value.hint
    assert (contents(images), beside(images)) == (before, [])


def test_an_old_directory_that_stays(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the old directory cannot be removed it is named; the new one is there."""

    def fail(_: int, name: bytes) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(name))

    monkeypatch.setattr("mountcr.criu.imageset.remove_beneath", fail)
    with pytest.raises(LeftBehindError, match="the new images are at") as caught:
        replace(encode(str(images)), TWO)
    assert [encode(str(images.parent / name)) for name in beside(images)] == list(caught.value.left)
    assert contents(images)["files.img"] == TWO["files.img"]
    monkeypatch.setattr("mountcr.criu.imageset.remove_beneath", removal.remove_beneath)
    replace(encode(str(images)), TWO)
    assert beside(images) == []


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    """A directory or file that is missing is an OSError that names it."""
    with pytest.raises(FileNotFoundError):
        replace(encode(str(tmp_path / "none")), ONE)
    with pytest.raises(FileNotFoundError):
        replace(encode(str(tmp_path)), ONE)
    assert os.listdir(tmp_path) == []
