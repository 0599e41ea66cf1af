# SPDX-License-Identifier: Apache-2.0
"""A kernel without AUFS says so, with what can be done instead, and nothing stays mounted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mountcr.aufsopts import AufsOptions, Branch
from mountcr.driver import get_driver
from mountcr.errors import CapabilityError, RefusedError, StepError
from mountcr.execute import applied
from mountcr.kernel.aufs import mount_aufs
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.probes import probe_aufs
from mountcr.observation.host import observe_host
from mountcr.paths import KPath, encode
from mountcr.stack import Stack
from scratch import NEW_CALLS, directories, lack, mounted, tmpfs


def without_aufs() -> None:
    """Skip where there is AUFS, asked in another way than mountcr asks."""
    if "\taufs\n" in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has AUFS, and these are claims on one that has not")


def layers(tmp_path: Path, *names: str) -> tuple[KPath, list[KPath]]:
    """A mountpoint and directories for layers."""
    base = tmpfs(tmp_path)
    at, *found = directories(base, "at", *names)
    return at, found


def options(*paths: KPath) -> AufsOptions:
    """The first is writable."""
    words = ["rw", *["ro+wh"] * (len(paths) - 1)]
    return AufsOptions(branches=tuple(map(Branch, paths, words)))


@pytest.mark.parametrize("missing", [(), NEW_CALLS], ids=["as it is", "without the new calls"])
def test_the_kernel_is_asked_for_aufs(missing: tuple[str, ...]) -> None:
    """By opening it, or by a mount that cannot succeed; every plan has the answer."""
    without_aufs()
    before = Path("/proc/self/mountinfo").read_bytes()
    lack(*missing)
    assert probe_aufs() == {"aufs": False}
    capabilities = observe_host().capabilities
    assert capabilities is not None
    assert capabilities.features["aufs"] is False
    assert Path("/proc/self/mountinfo").read_bytes() == before


def test_what_nobody_may_ask_is_not_known() -> None:
    """Without CAP_SYS_ADMIN there is no answer rather than a wrong one."""
    without_aufs()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        os.write(writer, repr(probe_aufs()).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"{}"
    os.close(reader)


@pytest.mark.parametrize("count", [2, 12, 200])
def test_no_aufs_in_the_kernel(tmp_path: Path, count: int) -> None:
    """The error names the probe and another driver; nothing is mounted."""
    without_aufs()
    at, found = layers(tmp_path, *(f"layer-{number}" for number in range(count)))
    with pytest.raises(CapabilityError) as caught:
        mount_aufs(at, options(*found))
    assert caught.value.probe == "aufs"
    assert caught.value.exit_status == 6
    assert str(at) in caught.value.message
    assert "--driver overlay" in str(caught.value.hint)
    assert mounted(at) == []


def test_the_steps_of_the_driver_end_so_too(tmp_path: Path) -> None:
    """The executor hands the error on as it is, and undoes what came before."""
    without_aufs()
    at, (upper, lower) = layers(tmp_path, "upper", "lower")
    stack = Stack(driver="aufs", upper=upper, lowers=(lower,))
    steps = get_driver("aufs").assemble(stack, at)
    with pytest.raises(CapabilityError), applied(steps, LiveKernel()):
        pytest.fail("there is no AUFS")
    assert mounted(at) == []


def test_a_branch_that_is_gone_is_named(tmp_path: Path) -> None:
    """AUFS answers EINVAL for whatever is wrong."""
    at, (upper, lower) = layers(tmp_path, "upper", "lower")
    gone = encode(str(tmp_path / "gone"))
    with pytest.raises(StepError, match=r"branch 2 of 3 \(ro\+wh\) is gone: .*/gone") as caught:
        mount_aufs(at, options(upper, lower, gone))
    assert caught.value.errno == errno.ENOENT


def test_what_cannot_be_said_is_refused_before(tmp_path: Path) -> None:
    """A path that AUFS would cut is never handed to it."""
    at, (upper, lower) = layers(tmp_path, "upper", "lo,wer")
    with pytest.raises(RefusedError, match="comma"):
        mount_aufs(at, options(upper, lower))
    assert mounted(at) == []
