# SPDX-License-Identifier: Apache-2.0
"""
AUFS is mounted by the calls it wants, and read back, on a kernel that only pretends to have it.

A kernel with AUFS runs nowhere tests do; the calls are those of fs/aufs/super.c.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

import builders
from mountcr import mountinfo
from mountcr.aufsopts import AufsOptions, Branch
from mountcr.errors import StepError
from mountcr.kernel import syscalls
from mountcr.kernel.aufs import mount_aufs
from mountcr.paths import KPath, encode, from_line

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.model import Mount

AT: Final = KPath("/at")


class Pretended:
    """What mount(2) was called with, and the mount table that comes of it."""

    def __init__(self, *, fails: int = 0, lost: int = 0) -> None:
        self.calls: list[tuple[int, bytes]] = []
        self.unmounted = 0
        self._fails = fails
        self._lost = lost

    def mount(self, source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes) -> None:
        """Take it, or fail from some call on."""
        assert (source, target, fstype) == (b"none", b"/at", b"aufs")
        self.calls.append((flags, data))
        if len(self.calls) == self._fails:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), "/at")

    def umount2(self, target: bytes, flags: int) -> None:
        """Count."""
        assert (target, flags) == (b"/at", syscalls.MNT_DETACH)
        self.unmounted += 1

    def read(self) -> tuple[Mount, ...]:
        """Show all branches as a kernel with brs=0 does, or less."""
        text = b",".join(data for _, data in self.calls)
        words = [each for each in text.split(b",") if each.startswith((b"br:", b"append:"))]
        branches = b":".join(each.partition(b":")[2] for each in words).split(b":")
        listed = b":".join(branches[: len(branches) - self._lost])
        line = builders.mount("10 5 0:50 / /at rw - aufs none rw")
        return (msgspec.structs.replace(line, super_options=from_line(b"rw,si=1,br:" + listed)),)


def pretend(monkeypatch: pytest.MonkeyPatch, *, fails: int = 0, lost: int = 0) -> Pretended:
    """Put it in the place of the kernel."""
    kernel = Pretended(fails=fails, lost=lost)
    monkeypatch.setattr(syscalls, "mount", kernel.mount)
    monkeypatch.setattr(syscalls, "umount2", kernel.umount2)
    monkeypatch.setattr(mountinfo, "read", kernel.read)
    return kernel


def options(top: Path, count: int, *, upper: str = "rw") -> AufsOptions:
    """So many layers that are there, and a writable one, with Docker's options."""
    paths = [top / f"layer-{number:060}" for number in range(count)]
    for path in paths:
        path.mkdir()
    words = [upper, *["ro+wh"] * (count - 1)]
    branches = tuple(map(Branch, (encode(str(path)) for path in paths), words))
    return AufsOptions(branches=branches, others=("dio",))


@pytest.mark.parametrize(("count", "upper"), [(12, "rw"), (200, "rw"), (200, "ro+wh")])
def test_the_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, upper: str) -> None:
    """One mount, then remounts of the same; read-only where nothing is writable."""
    kernel = pretend(monkeypatch)
    mount_aufs(AT, options(tmp_path, count, upper=upper))
    frozen = 0 if upper == "rw" else syscalls.MS_RDONLY
    (first, *more) = kernel.calls
    assert first[0] == frozen
    assert first[1].endswith(b",dio")
    assert bool(more) is (count > 12)
    assert {flags for flags, _ in more} <= {frozen | syscalls.MS_REMOUNT}
    assert sum(data.count(b"=ro+wh") for _, data in kernel.calls) == count - (upper == "rw")
    assert kernel.unmounted == 0


@pytest.mark.parametrize("fails", [2, 3])
def test_a_remount_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    """A union that lacks layers does not stay."""
    kernel = pretend(monkeypatch, fails=fails)
    with pytest.raises(OSError, match="Invalid argument"):
        mount_aufs(AT, options(tmp_path, 200))
    assert (len(kernel.calls), kernel.unmounted) == (fails, 1)


def test_a_mount_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not mounted is not unmounted: something else may be there."""
    kernel = pretend(monkeypatch, fails=1)
    with pytest.raises(OSError, match="Invalid argument"):
        mount_aufs(AT, options(tmp_path, 2))
    assert kernel.unmounted == 0


@pytest.mark.parametrize("count", [2, 200])
def test_another_mount_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """A layer that got lost is found when the mount is read back, which then goes."""
    kernel = pretend(monkeypatch, lost=1)
    with pytest.raises(StepError, match="other branches than asked"):
        mount_aufs(AT, options(tmp_path, count))
    assert kernel.unmounted == 1


def test_another_permission_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUFS takes a permission it does not know for `ro`, and only warns."""
    kernel = pretend(monkeypatch)
    monkeypatch.setattr(
        mountinfo,
        "read",
        lambda: tuple(
            msgspec.structs.replace(each, super_options=each.super_options.replace("ro+wh", "ro"))
            for each in kernel.read()
        ),
    )
    with pytest.raises(StepError, match=r"=ro, not .*=ro\+wh"):
        mount_aufs(AT, options(tmp_path, 2))
    assert kernel.unmounted == 1


def test_nobody_tells_what_was_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read back is not believed."""
    kernel = pretend(monkeypatch)
    bare = builders.mount("10 5 0:50 / /at rw - aufs none rw,si=fffffffffffffffe")
    monkeypatch.setattr(mountinfo, "read", lambda: (bare,))
    with pytest.raises(StepError, match="nobody tells") as caught:
        mount_aufs(AT, options(tmp_path, 2))
    assert "sysfs" in str(caught.value.hint)
    assert kernel.unmounted == 1
