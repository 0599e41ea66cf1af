# SPDX-License-Identifier: Apache-2.0
"""Storage drivers and options of overlay are tried by doing, and nothing of it is left."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

import pytest

from mountcr import mountinfo
from mountcr.kernel import overlay_options, syscalls
from mountcr.kernel.overlay_options import probe_overlay_options
from mountcr.kernel.scratch import SCRATCH, in_scratch
from mountcr.kernel.servers import find_servers
from mountcr.operations.driver_trials import DRIVERS, try_driver
from mountcr.paths import decode
from scratch import NEW_CALLS, has, lack, needs, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mountcr.hosts.records import Attempt
    from mountcr.kernel.servers import Server

BY_DESCRIPTOR: Final = {"lowerdir+", "datadir+", "layers by descriptor"}
UNIONS: Final = ("unionfs", "fuse-overlayfs")
WORD: Final = {"unionfs": "unionfs", "fuse-overlayfs": "fuse-overlayfs", "overlay": "overlay"}


def own_servers() -> list[Server]:
    """Give the FUSE servers of trials."""
    return [each for each in find_servers() if SCRATCH in " ".join(each.words)]


def tried(name: str) -> Attempt:
    """Try a driver in a place that is gone afterwards."""
    return in_scratch(lambda: try_driver(name, SCRATCH))


@pytest.mark.parametrize("name", ["overlay", "vfs", "unionfs", "fuse-overlayfs"])
def test_a_driver_that_this_machine_has(name: str, require: Callable[[str], str]) -> None:
    """It is assembled, changed and read back."""
    if name in WORD:
        require(WORD[name])
    if name in UNIONS:
        needs("open_tree")
    assert tried(name).works


def test_a_driver_that_this_kernel_lacks() -> None:
    """The reason is told, without the place where it was tried, and what helps."""
    with open("/proc/filesystems", encoding="ascii") as file:
        if "aufs" in file.read():
            pytest.skip("this kernel has AUFS")
    attempt = tried("aufs")
    assert not attempt.works
    assert "no AUFS" in attempt.said
    assert "/run/mountcr" not in attempt.said
    assert "--driver overlay" in attempt.hint


@pytest.mark.parametrize("name", UNIONS)
def test_a_union_whose_program_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the reason."""

    def nothing(_name: str) -> None:
        return None

    monkeypatch.setattr("mountcr.kernel.fuse.find_program", nothing)
    attempt = tried(name)
    assert not attempt.works
    assert f"there is no {name}" in attempt.said


def test_without_the_new_calls() -> None:
    """Plain directories work by the older ones; unions do not, for want of open_tree(2)."""
    lack(*NEW_CALLS)
    assert tried("vfs").works
    for name in ("unionfs", "fuse-overlayfs"):
        assert not tried(name).works


@pytest.mark.parametrize("name", UNIONS)
def test_a_server_that_cannot_be_watched(name: str, require: Callable[[str], str]) -> None:
    """Without pidfd_open(2) none is started, for it could not be ended; the reason is told."""
    require(name)
    needs("open_tree")
    lack("pidfd_open")
    attempt = tried(name)
    assert not attempt.works
    assert "pidfd_open" in attempt.said
    assert not own_servers()


@pytest.mark.requires("overlay")
def test_overlay_without_the_new_calls() -> None:
    """An overlay is mounted by mount(2)."""
    lack(*NEW_CALLS)
    assert tried("overlay").works


def test_nothing_of_a_driver_is_left() -> None:
    """No mount, no directory, no server."""
    before = mountinfo.read(), os.listdir("/run/mountcr") if os.path.isdir("/run/mountcr") else []
    for name in DRIVERS:
        tried(name)
    assert mountinfo.read() == before[0]
    if os.path.isdir("/run/mountcr"):
        assert sorted(os.listdir("/run/mountcr")) == sorted(before[1])
    until = time.monotonic() + 15
    while own_servers() and time.monotonic() < until:
        time.sleep(0.01)
    assert not own_servers()


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.requires("overlay")
def test_options_of_overlay(tmp_path: Path) -> None:
    """Every option has an answer, and one that no kernel has is not known."""
    base = decode(tmpfs(tmp_path))
    found = probe_overlay_options(base)
    assert found["redirect_dir"]  # since Linux 4.10
    if has("fsopen"):
        assert found["layers by descriptor"] <= found["lowerdir+"] <= found["data-only layers"]
    mounted = [each for each in mountinfo.read() if each.fstype == "overlay"]
    assert not [each for each in mounted if os.fsencode(each.mountpoint).startswith(base)]


@pytest.mark.requires("overlay")
def test_an_option_that_no_kernel_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not known, as no other is that is spelled wrong."""
    options = {"index": b"index=on", "colour": b"colour=blue", "wrong": b"metacopy=perhaps"}
    monkeypatch.setattr(overlay_options, "_BY_DATA", options)
    found = probe_overlay_options(decode(tmpfs(tmp_path)))
    assert (found["index"], found["colour"], found["wrong"]) == (True, False, False)


@pytest.mark.requires("overlay")
def test_options_without_the_mount_api(tmp_path: Path) -> None:
    """What only fsconfig(2) can say is not known; the others are as before."""
    base = decode(tmpfs(tmp_path))
    os.mkdir(base + b"/before")
    os.mkdir(base + b"/after")
    before = probe_overlay_options(base + b"/before")
    lack("fsopen")
    after = probe_overlay_options(base + b"/after")
    assert not any(after[name] for name in BY_DESCRIPTOR)
    assert {name: each for name, each in after.items() if name not in BY_DESCRIPTOR} == {
        name: each for name, each in before.items() if name not in BY_DESCRIPTOR
    }


# --- The place ------------------------------------------------------------------------------------


def test_the_place_is_empty_and_gone_afterwards() -> None:
    """A tmpfs that only the worker sees, over a directory that was not there before."""
    syscalls.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"size=1m")  # of this test alone
    assert in_scratch(lambda: os.listdir(decode(SCRATCH))) == []
    assert os.listdir("/run") == []


def test_the_place_is_gone_when_the_work_fails() -> None:
    """The error comes through."""
    syscalls.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"size=1m")

    def fail() -> None:
        raise OSError(5, "it failed", "/a")

    with pytest.raises(OSError, match="it failed"):
        in_scratch(fail)
    assert os.listdir("/run") == []


def test_the_place_stays_while_somebody_else_works_there() -> None:
    """Removing the directory would take away what is mounted there in another namespace."""
    syscalls.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"size=1m")
    parent = os.getpid()
    reader, writer = os.pipe()

    def work() -> None:
        if os.fork():
            os.read(reader, 1)
            return
        held = os.open(f"/proc/{parent}/root/run/mountcr", os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_SH)
        os.write(writer, b"!")
        time.sleep(0.5)
        os._exit(0)

    in_scratch(work)
    assert os.listdir("/run") == ["mountcr"]
