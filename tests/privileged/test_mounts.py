# SPDX-License-Identifier: Apache-2.0
"""Binding, attributes and propagation are the same on a kernel with the new calls and without."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mountcr.kernel import mounts, syscalls
from mountcr.kernel.mounts import ATTRIBUTES
from mountcr.paths import KPath, decode, join
from scratch import HOSTILE, LADDER, directories, lack, mounted, needs, tmpfs

if TYPE_CHECKING:
    from pathlib import Path

LADDERS = pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)


@LADDERS
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_bind_shows_the_directory(name: bytes, lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever it is called; the table shows which part of the file system it is."""
    source, at = directories(tmpfs(tmp_path), name + b"/src", name + b"/at")
    os.mkdir(decode(source) + b"/inside")
    lack(*lacking)
    mounts.bind(source, at)
    assert os.listdir(decode(at)) == [b"inside"]
    (mount,) = mounted(at)
    assert decode(mount.root) == b"/" + name + b"/src"
    assert mount.optional == ()


@LADDERS
def test_bind_of_a_file(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """A file is bound on a file."""
    base = tmpfs(tmp_path)
    for name, text in ((b"/a", b"bound"), (b"/b", b"")):
        with open(decode(base) + name, "wb") as file:
            file.write(text)
    lack(*lacking)
    mounts.bind(join(base, "a"), join(base, "b"))
    with open(decode(base) + b"/b", "rb") as file:
        assert file.read() == b"bound"


@LADDERS
def test_bind_leaves_the_mounts_below_and_the_peers_out(
    lacking: tuple[str, ...], tmp_path: Path
) -> None:
    """Only the mount itself, and private although its source is shared."""
    base = tmpfs(tmp_path)
    source, at = directories(base, "src/sub", "at")
    source = join(base, "src")
    mounts.set_propagation(base, "shared")
    tmpfs(decode(source) + b"/sub")
    lack(*lacking)
    mounts.bind(source, at)
    assert mounted(join(at, "sub")) == []
    (mount,) = mounted(at)
    assert mount.shared == 0


@LADDERS
def test_bind_of_nothing(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """The kernel's own error, and no descriptor stays open."""
    (at,) = directories(tmpfs(tmp_path), "at")
    lack(*lacking)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        mounts.bind(join(at, "gone"), at)
    assert os.listdir("/proc/self/fd") == before


@LADDERS
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_is_set(attribute: str, lacking: tuple[str, ...], tmp_path: Path) -> None:
    """And shows in the table by the word that asked for it."""
    at = tmpfs(tmp_path)
    lack(*lacking)
    try:
        mounts.set_attributes(at, [attribute])
    except OSError as error:
        if attribute == "nosymfollow" and error.errno == errno.EINVAL:
            pytest.skip("this kernel has no nosymfollow")
        raise
    (mount,) = mounted(at)
    words = mount.options.split(",")
    if attribute != "nosymfollow" or "nosymfollow" in words:
        assert attribute in words


@LADDERS
def test_other_attributes_stay(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Setting some takes none away, and leaves the superblock alone."""
    at = tmpfs(tmp_path)
    lack(*lacking)
    mounts.set_attributes(at, ["nosuid", "noatime"])
    mounts.set_attributes(at, ["nodev"])
    mounts.set_attributes(at, ["ro"])
    (mount,) = mounted(at)
    assert set(mount.options.split(",")) == {"ro", "nosuid", "nodev", "noatime"}
    assert mount.super_options.split(",")[0] == "rw"


@LADDERS
def test_attributes_are_cleared(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Those that are named go, relatime takes the place of noatime, the others stay."""
    at = tmpfs(tmp_path)
    mounts.set_attributes(at, ["ro", "nosuid", "nodev", "noatime"])
    lack(*lacking)
    mounts.clear_attributes(at, ["nodev", "noexec", "noatime"])
    (mount,) = mounted(at)
    assert set(mount.options.split(",")) == {"ro", "nosuid", "relatime"}
    assert mount.super_options.split(",")[0] == "rw"


@LADDERS
def test_attributes_of_the_mount_on_top(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Of two mounts at a path the one that is to be seen is meant."""
    at = tmpfs(tmp_path)
    mounts.set_attributes(at, ["noexec"])
    tmpfs(tmp_path)
    lack(*lacking)
    mounts.set_attributes(at, ["nosuid"])
    below, top = mounted(at)
    assert "nosuid" not in below.options
    assert "noexec" not in top.options
    assert "nosuid" in top.options


def test_a_word_that_is_no_attribute(tmp_path: Path) -> None:
    """EINVAL that names the word, before anything is set."""
    at = tmpfs(tmp_path)
    with pytest.raises(OSError, match="no mount attribute: bogus, shiny") as caught:
        mounts.set_attributes(at, ["shiny", "ro", "bogus"])
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="no mount attribute: relatime"):
        mounts.clear_attributes(at, ["relatime"])
    assert "ro" not in mounted(at)[0].options.split(",")


@pytest.mark.parametrize("propagation", ["private", "shared", "slave", "unbindable"])
def test_propagation(propagation: str, tmp_path: Path) -> None:
    """Each kind is what the table shows afterwards."""
    base = tmpfs(tmp_path)
    (at,) = directories(base, "at")
    mounts.set_propagation(base, "shared")
    mounts.rebind(base, at)
    mounts.set_propagation(at, propagation)
    (mount,) = mounted(at)
    assert (bool(mount.shared), bool(mount.master), mount.unbindable) == (
        propagation == "shared",
        propagation == "slave",
        propagation == "unbindable",
    )


def test_rebind_stays_in_the_peer_group(tmp_path: Path) -> None:
    """Unlike a bind, it is a peer of its source."""
    base = tmpfs(tmp_path)
    (at,) = directories(base, "at")
    mounts.set_propagation(base, "shared")
    mounts.rebind(base, at)
    assert mounted(at)[0].shared == mounted(base)[0].shared != 0


def test_a_clone_goes_with_its_descriptor(tmp_path: Path) -> None:
    """Until it is attached it is in no table; attached it stays."""
    source, at = directories(tmpfs(tmp_path), "src", "at")
    needs("open_tree", "move_mount")
    fd = mounts.clone(source)
    assert mounted(at) == []
    mounts.attach(fd, at)
    os.close(fd)
    assert len(mounted(at)) == 1
    os.close(mounts.clone(source))
    assert len(mounted(at)) == 1


def test_a_recursive_clone_has_the_mounts_below(tmp_path: Path) -> None:
    """A plain one has not."""
    base = tmpfs(tmp_path)
    _, at = directories(base, "src/sub", "at")
    tmpfs(decode(base) + b"/src/sub")
    needs("open_tree", "move_mount")
    fd = mounts.clone(join(base, "src"), recursive=True)
    mounts.attach(fd, at)
    os.close(fd)
    assert len(mounted(join(at, "sub"))) == 1


@LADDERS
def test_errors_name_the_path(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """What is not there is not found; what is no mountpoint has no attributes."""
    lack(*lacking)
    gone = KPath("/no/such/place")
    with pytest.raises(FileNotFoundError) as caught:
        mounts.set_propagation(gone, "private")
    assert os.fsencode(caught.value.filename) == decode(gone)
    with pytest.raises(FileNotFoundError) as caught:
        mounts.set_attributes(gone, ["ro"])
    assert os.fsencode(caught.value.filename) == decode(gone)
    with pytest.raises(OSError, match=str(tmp_path)) as other:
        mounts.set_attributes(KPath(str(tmp_path)), ["ro"])
    assert other.value.errno == errno.EINVAL


def test_unmounting_is_of_what_is_on_top(tmp_path: Path) -> None:
    """One call takes one mount away."""
    at = tmpfs(tmp_path)
    tmpfs(tmp_path)
    syscalls.umount2(decode(at))
    assert len(mounted(at)) == 1
