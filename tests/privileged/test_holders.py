# SPDX-License-Identifier: Apache-2.0
"""A writable layer that is in use anywhere on the host is found, and its holder is named."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr import mountinfo
from mountcr.kernel import syscalls
from mountcr.kernel.overlay import mount_overlay
from mountcr.observation.elsewhere import unions_elsewhere
from mountcr.observation.fuse import with_servers_of_all
from mountcr.observation.holders import holders_of
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import KPath, decode, encode
from mountcr.stack import Stack
from scratch import directories, kept_namespace, sleeper, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mountcr.target import Holder

pytestmark = pytest.mark.requires("overlay")


def stack_on(base: KPath) -> tuple[KPath, Stack]:
    """Make a mountpoint and the directories of a stack."""
    at, lower, upper, work = directories(base, "at", "lower", "upper", "work")
    return at, Stack(driver="overlay", lowers=(lower,), upper=upper, work=work)


def mount(at: KPath, stack: Stack) -> None:
    """Mount a stack."""
    mount_overlay(at, OverlayOptions(lowers=stack.lowers, upper=stack.upper, work=stack.work))


def holders(stack: Stack) -> tuple[Holder, ...]:
    """Who has it."""
    return holders_of(stack, with_servers_of_all(mountinfo.read()), unions_elsewhere())


def test_a_layer_that_nobody_has(tmp_path: Path) -> None:
    """Nobody holds what is not mounted, nor what is mounted with another upper."""
    base = tmpfs(tmp_path)
    at, stack = stack_on(base)
    assert holders(stack) == ()
    upper, work = directories(base, "upper2", "work2")
    mount(at, msgspec.structs.replace(stack, upper=upper, work=work))
    assert holders(stack) == ()


def test_in_another_namespace(tmp_path: Path) -> None:
    """With the process that is there, its name and the mountpoint as it is there."""
    at, stack = stack_on(tmpfs(tmp_path))
    with sleeper(lambda: mount(at, stack)) as pid:
        (found,) = holders(stack)
        with open("/proc/self/comm", encoding="utf-8") as file:
            command = file.read().strip()
        assert (found.pid, found.command, found.mountpoint) == (pid, command, at)
        assert found.who.startswith(f"pid {pid} ({command}")


def test_by_another_path(tmp_path: Path) -> None:
    """Paths differ between mount namespaces; what is the same directory is found all the same."""
    at, stack = stack_on(tmpfs(tmp_path))
    other = tmp_path / "other"
    other.mkdir()

    def elsewhere() -> None:
        syscalls.mount(bytes(tmp_path), bytes(other), None, syscalls.MS_BIND)
        places = f"upperdir={other}/upper,workdir={other}/work"
        text = f"lowerdir={other}/lower,{places}"
        syscalls.mount(b"overlay", decode(at), b"overlay", 0, text.encode())

    with sleeper(elsewhere) as pid:
        assert [each.pid for each in holders(stack)] == [pid]


def test_where_no_process_is(tmp_path: Path) -> None:
    """A namespace that only a descriptor keeps has its mounts, and is named by its number."""
    at, stack = stack_on(tmpfs(tmp_path))
    with kept_namespace(lambda: mount(at, stack)) as fd:
        (found,) = holders(stack)
        number = os.fstat(fd).st_ino
        assert (found.pid, found.namespace, found.mountpoint) == (0, number, at)
        assert found.who == f"mnt:[{number}], which no process is in,"
    assert holders(stack) == ()


def test_in_our_own_namespace(tmp_path: Path) -> None:
    """By a link, the mount table has another path, and the layer is in use."""
    base = tmpfs(tmp_path)
    at, stack = stack_on(base)
    os.symlink(decode(base), decode(base) + b"/link")
    named = {name: encode(decode(base) + b"/link/" + name.encode()) for name in ("upper", "work")}
    text = f"lowerdir={stack.lowers[0]},upperdir={named['upper']},workdir={named['work']}"
    syscalls.mount(b"overlay", decode(at), b"overlay", 0, text.encode())
    (found,) = holders(stack)
    assert (found.pid, found.who, found.mountpoint) == (0, "", at)


def test_the_work_directory_counts(tmp_path: Path) -> None:
    """Two overlays in one work directory are as bad as two in one upper."""
    base = tmpfs(tmp_path)
    at, stack = stack_on(base)
    (upper,) = directories(base, "upper2")
    mount(at, stack)
    assert len(holders(msgspec.structs.replace(stack, upper=upper))) == 1


def test_a_fuse_server(tmp_path: Path, require: Callable[[str], str]) -> None:
    """A server that writes into the layer is found by its command line."""
    program = require("fuse-overlayfs")
    at, stack = stack_on(tmpfs(tmp_path))
    options = f"lowerdir={stack.lowers[0]},upperdir={stack.upper},workdir={stack.work}"
    subprocess.run([program, "-o", options, at], check=True)
    try:
        (found,) = holders(stack)
        assert (found.fstype, found.mountpoint) == ("fuse.fuse-overlayfs", at)
    finally:
        syscalls.umount2(decode(at))
