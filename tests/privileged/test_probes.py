# SPDX-License-Identifier: Apache-2.0
"""Probes tell what the kernel does, by calling, and leave nothing behind."""

from __future__ import annotations

import os
import tempfile

import pytest

from mountcr import mountinfo
from mountcr.kernel import mounttable
from mountcr.kernel.probes import probe, probe_criu_engine, probe_mount_tables
from scratch import lack

CALLS = {
    "open_tree",
    "move_mount",
    "mount_setattr",
    "openat2",
    "statmount",
    "listmount",
    "pidfd_open",
}
OTHERS = {
    "fsopen overlay",
    "move_mount set group",
    "aufs",
    "fuse",
    "map_files",
    "time namespaces",
    "user namespaces",
    "cgroup namespaces",
}
TABLES = {"statmount options", "statmount source", "listmount of another namespace"}


def test_every_probe_has_an_answer() -> None:
    """Yes or no, under the release that runs."""
    found = probe()
    assert found.kernel == os.uname().release
    assert set(found.features) == CALLS | OTHERS | TABLES


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_call_that_the_kernel_lacks(call: str) -> None:
    """Only that one is told as missing, whatever the release says."""
    before = probe().features
    lack(call)
    after = probe().features
    assert not after[call]
    assert {name: after[name] for name in CALLS - {call}} == {
        name: before[name] for name in CALLS - {call}
    }


def test_what_the_restore_engine_needs() -> None:
    """It is known to root whether there is MOVE_MOUNT_SET_GROUP, and lacks where its call does."""
    assert set(probe_criu_engine()) == {"openat2", "move_mount set group"}
    lack("move_mount")
    assert probe_criu_engine()["move_mount set group"] is False


def test_the_mount_api() -> None:
    """Without fsopen(2) overlay is not opened by it."""
    lack("fsopen")
    assert not probe().features["fsopen overlay"]


def test_what_is_told_of_mounts() -> None:
    """Whole tables are told where they can be read; without the calls nothing is."""
    found = probe_mount_tables()
    assert set(found) == TABLES
    try:
        mounttable.read()
    except OSError:
        assert not all(found.values())
    else:
        assert found["statmount options"]
        assert found["statmount source"]
    lack("statmount")
    assert not found["statmount source"] or not probe_mount_tables()["statmount source"]
    lack("listmount")
    assert not any(probe_mount_tables().values())


def test_nothing_is_left() -> None:
    """No mount, no descriptor, no directory, no process."""
    before = (mountinfo.read(), os.listdir("/proc/self/fd"), os.listdir(tempfile.gettempdir()))
    probe()
    after = (mountinfo.read(), os.listdir("/proc/self/fd"), os.listdir(tempfile.gettempdir()))
    assert [name for name in after[2] if name not in before[2] and "mountcr" in name] == []
    assert after[:2] == before[:2]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_without_privilege_what_mounts_is_told_as_missing() -> None:
    """Nobody may ask, and gets an answer."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writer, b"yes" if probe().features["fsopen overlay"] else b"no")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    said = os.read(reader, 10)
    os.close(reader)
    assert said == b"no"
