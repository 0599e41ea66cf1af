# SPDX-License-Identifier: Apache-2.0
"""What statmount(2) tells of mounts is what mountinfo says of them, and more where it is."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr import mountinfo
from mountcr.kernel import mounts, mounttable, nsfs, statmount, syscalls
from mountcr.kernel.overlay import mount_overlay
from mountcr.kernel.private import in_namespace
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import decode, encode, is_beneath
from scratch import HOSTILE, directories, has, kept_namespace, mounted, needs, seen_inside, tmpfs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mountcr.model import Mount

FIELDS = {
    "super_options": statmount.STATMOUNT_MNT_OPTS,
    "source": statmount.STATMOUNT_SB_SOURCE,
    "fstype": statmount.STATMOUNT_FS_SUBTYPE,
}
"""Fields of a record that came later than statmount(2), with the group that tells them."""


def comparable(table: Iterable[Mount]) -> list[Mount]:
    """Mounts without what only one of both tells: the unique id, `mand`, what is too new here."""
    told = statmount.told_groups()
    unknown: dict[str, object] = {name: "" for name, group in FIELDS.items() if not told & group}
    found: list[Mount] = []
    for mount in table:
        words = [word for word in mount.super_options.split(",") if word != "mand"]
        alike = msgspec.structs.replace(mount, super_options=",".join(words), unique_id=0)
        found.append(msgspec.structs.replace(alike, **unknown))
    return found


def claim_the_same() -> tuple[Mount, ...]:
    """Claim that both tables have the same records in the same order; give that of statmount."""
    found = tuple(mounttable.told_mounts())
    assert comparable(found) == comparable(mountinfo.read())
    assert len({mount.unique_id for mount in found}) == len(found)
    return found


# --- Beside mountinfo -----------------------------------------------------------------------------

NAMES = list(HOSTILE.values())


def options(chance: random.Random) -> tuple[int, bytes]:
    """Flags and options of a tmpfs."""
    flags = 0
    for flag in (
        syscalls.MS_RDONLY,
        syscalls.MS_SYNCHRONOUS,
        syscalls.MS_DIRSYNC,
        syscalls.MS_LAZYTIME,
        syscalls.MS_NOSUID,
        syscalls.MS_STRICTATIME,
    ):
        flags |= flag * (chance.random() < 0.2)
    words = chance.sample([b"size=64k", b"mode=700", b"nr_inodes=99", b"uid=7"], 2)
    return flags, b",".join(words)


def overlay(base: bytes, at: bytes, chance: random.Random) -> None:
    """Mount an overlay of several lowers with hostile names, on a tmpfs of its own."""
    home = base + b"/%d" % chance.getrandbits(60)
    os.mkdir(home)
    tmpfs(home)
    names = chance.sample(NAMES, 3)
    layers = directories(encode(home), *(b"lower " + name for name in names), b"up", b"work")
    *lowers, upper, work = layers
    mount_overlay(encode(at), OverlayOptions(lowers=tuple(lowers), upper=upper, work=work))


def mount_at_random(base: bytes, chance: random.Random) -> None:
    """Do what changes a mount table beneath a tmpfs, as long as it goes."""
    places = [base + b"/" + one for one in NAMES]
    places += [base + b"/" + one + b"/" + two for one in NAMES[:4] for two in NAMES[4:]]
    files = [base + b"/file%d" % number for number in range(3)]

    def settle() -> None:
        for place in places:
            with contextlib.suppress(OSError):
                os.makedirs(place, exist_ok=True)
        for file in files:
            with open(file, "wb"):
                pass

    settle()
    for _ in range(60):
        at, other = chance.sample(places, 2)
        try:
            match chance.randrange(11):
                case 0 | 1:
                    flags, words = options(chance)
                    syscalls.mount(chance.choice([*NAMES, b""]), at, b"tmpfs", flags, words)
                    settle()
                case 2 | 3:
                    recursive = chance.choice([0, syscalls.MS_REC])
                    syscalls.mount(other, at, None, syscalls.MS_BIND | recursive)
                case 4:
                    file = chance.choice(files)
                    syscalls.mount(file, chance.choice(files), None, syscalls.MS_BIND)
                    os.unlink(file)
                case 5:
                    syscalls.mount(other, at, None, syscalls.MS_BIND)
                    os.rmdir(other)
                case 6:
                    kinds = ["shared", "slave", "private", "unbindable"]
                    mounts.set_propagation(encode(at), chance.choice(kinds))
                case 7:
                    attributes = chance.sample(sorted(mounts.ATTRIBUTES), 3)
                    mounts.set_attributes(encode(at), attributes)
                case 8:
                    syscalls.mount(other, at, None, syscalls.MS_MOVE)
                case 9:
                    overlay(base, at, chance)
                case _:
                    syscalls.umount2(at, syscalls.MNT_DETACH)
        except OSError:
            continue  # busy, not a mountpoint, into itself: all fine


@pytest.mark.requires("overlay")
@pytest.mark.parametrize("seed", range(16))
def test_the_same_records(seed: int, tmp_path: Path) -> None:
    """After any mounts, statmount(2) and mountinfo tell the same, record by record."""
    needs("statmount", "listmount")
    base = tmpfs(tmp_path)
    mount_at_random(decode(base), random.Random(seed))  # noqa: S311 - the same again
    found = claim_the_same()
    assert sum(is_beneath(mount.mountpoint, base) for mount in found) > 5


def test_a_table_is_whole_or_none(tmp_path: Path) -> None:
    """Where the kernel does not tell all fields, there is an error and no table."""
    tmpfs(tmp_path)
    if has("statmount", "listmount"):
        told = statmount.told_groups()
        if told & statmount.STATMOUNT_SB_SOURCE:
            found = mounttable.read()
            assert comparable(found) == comparable(mountinfo.read())
            assert all(mount.unique_id for mount in found)
            return
    with pytest.raises(OSError, match=r"statmount|not implemented") as caught:
        mounttable.read()
    assert caught.value.errno in {errno.ENOSYS, errno.EOPNOTSUPP}


def test_every_attribute(tmp_path: Path) -> None:
    """Each attribute alone has the word of mountinfo, and all of them the order of mountinfo."""
    needs("statmount", "listmount")
    for number, word in enumerate((*mounts.ATTRIBUTES, "")):
        (at,) = directories(encode(bytes(tmp_path)), str(number))
        syscalls.mount(b"x", decode(at), b"tmpfs", 0 if word else syscalls.MS_STRICTATIME, None)
        mounts.set_attributes(at, [word] if word else [])
    (at,) = directories(encode(bytes(tmp_path)), "all")
    tmpfs(decode(at))
    mounts.set_attributes(at, mounts.ATTRIBUTES)
    claim_the_same()


def test_a_subtype(tmp_path: Path) -> None:
    """The type of a FUSE mount has the name of its program, which may be any."""
    needs("statmount", "listmount")
    with open("/dev/fuse", "r+b", buffering=0) as server:
        words = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % server.fileno()
        syscalls.mount(b"a b#c", bytes(tmp_path), b"fuse.some program#2", 0, words)
        (mount,) = mounted(encode(bytes(tmp_path)))
        assert mount.fstype == r"fuse.some\040program\0432"
        claim_the_same()
        syscalls.umount2(bytes(tmp_path), syscalls.MNT_DETACH)


def test_a_nearest_group(tmp_path: Path) -> None:
    """A slave of a group with no member here is told where else its mounts come from."""
    needs("statmount", "listmount")
    base = tmpfs(tmp_path)
    first, middle, last = directories(base, "first", "middle", "last")
    tmpfs(decode(first))
    mounts.set_propagation(first, "shared")
    mounts.rebind(first, middle)
    for kind in ("slave", "shared"):
        mounts.set_propagation(middle, kind)
    mounts.rebind(middle, last)
    mounts.set_propagation(last, "slave")
    with kept_namespace(lambda: None) as other:
        syscalls.umount2(decode(middle))
        assert mounted(last)[0].propagate_from == mounted(first)[0].shared
        claim_the_same()
        if statmount.told_groups() & statmount.STATMOUNT_SB_SOURCE:
            (there,) = (each for each in mounttable.read(other) if each.mountpoint == last)
            assert there.master
            assert there.propagate_from == 0


@pytest.mark.requires("overlay")
def test_neither_is_cut(tmp_path: Path) -> None:
    """A path longer than PATH_MAX, and options longer than a page, are whole in both."""
    needs("statmount", "listmount", "fsconfig")
    base = tmpfs(tmp_path)
    layers = directories(base, *("layer" * 30 + str(number) for number in range(60)))
    (at,) = directories(base, "at")
    mount_overlay(at, OverlayOptions(lowers=tuple(layers)))
    os.chdir(decode(base))
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    syscalls.mount(b"deep", b".", b"tmpfs", 0, None)
    os.chdir("/")
    *_, merged, deep = claim_the_same()
    assert len(deep.mountpoint) > 6000
    if statmount.told_groups() & statmount.STATMOUNT_MNT_OPTS:
        assert len(merged.super_options) > 9000


# --- More than mountinfo --------------------------------------------------------------------------


def test_an_id_that_is_given_out_again(tmp_path: Path) -> None:
    """A mount that takes the place of another gets its id in mountinfo, but not its unique one."""
    (at,) = directories(tmpfs(tmp_path), "at")
    found: list[Mount] = []
    for _ in range(100):  # the lowest id that is free, unless another process was faster
        tmpfs(decode(at))
        found += mounttable.with_unique_ids(mounted(at))
        syscalls.umount2(decode(at))
        if len({(each.id, each.dev) for each in found[-2:]}) < len(found[-2:]):
            break
    before, after = found[-2:]
    assert (before.id, before.dev) == (after.id, after.dev)
    if has("statmount", "listmount"):
        assert 0 < before.unique_id < after.unique_id
    else:
        assert before.unique_id == after.unique_id == 0


def test_the_ids_of_some(tmp_path: Path) -> None:
    """What lies under another mount has its id too; what is gone has none."""
    needs("statmount", "listmount")
    at = encode(bytes(tmp_path))
    for _ in range(3):
        tmpfs(tmp_path)
    below, middle, top = mounted(at)
    syscalls.umount2(bytes(tmp_path))
    found = mounttable.with_unique_ids([below, top, middle])
    assert found[1] == top
    assert 0 < found[0].unique_id < found[2].unique_id
    assert mounttable.with_unique_ids([]) == ()


def told_whole(fd: int) -> tuple[Mount, ...]:
    """Read the table of a namespace, or skip where the kernel does not tell all of a mount."""
    if not statmount.told_groups() & statmount.STATMOUNT_SB_SOURCE:
        pytest.skip("this kernel does not tell all of a mount (Linux 6.13)")
    return mounttable.read(fd)


@pytest.mark.requires("overlay")
@pytest.mark.parametrize("seed", range(100, 104))
def test_another_namespace(seed: int, tmp_path: Path) -> None:
    """Its table has what mountinfo shows in it."""
    needs("statmount", "listmount")
    base = tmpfs(tmp_path)
    chance = random.Random(seed)  # noqa: S311 - the same again
    with kept_namespace(lambda: mount_at_random(decode(base), chance)) as fd:
        found = told_whole(fd)
        inside = in_namespace(fd, mountinfo.read)
        assert comparable(seen_inside(found)) == comparable(inside)
    assert sum(is_beneath(mount.mountpoint, base) for mount in found) > 5


def test_a_task_in_a_chroot(tmp_path: Path) -> None:
    """Its mountinfo shows what is below its root; the namespace has all mounts, from its own."""
    needs("statmount", "listmount")
    base = tmpfs(tmp_path)
    (at,) = directories(base, "at")

    def confine() -> None:
        tmpfs(decode(at))
        os.chroot(decode(base))

    with kept_namespace(confine) as fd:
        found = told_whole(fd)
    places = [mount.mountpoint for mount in found]
    assert places[-1] == at
    assert {mount.mountpoint for mount in mountinfo.read()} < set(places)


def test_a_part_of_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Mounts that are counted but not listed are an error: the kernel has begun at a wrong root.

    That takes a namespace as an initramfs leaves it, so the count is what is made up here.
    """
    needs("statmount", "listmount")
    with kept_namespace(lambda: None) as fd:
        number, count = nsfs.mount_namespace_info(fd)
        assert len(told_whole(fd)) == count
        more = (number, count + 1)
        monkeypatch.setattr(mounttable, "mount_namespace_info", {fd: more}.__getitem__)
        with pytest.raises(OSError, match=f"tells {count} of {count + 1} mounts"):
            mounttable.read(fd)


def test_what_is_no_mount_namespace() -> None:
    """A descriptor of something else, or of nothing, is an error."""
    needs("statmount", "listmount")
    with open("/proc/thread-self/ns/uts", "rb") as other, pytest.raises(OSError) as caught:  # noqa: PT011
        nsfs.mount_namespace_info(other.fileno())
    assert caught.value.errno in {errno.EINVAL, errno.ENOTTY}
