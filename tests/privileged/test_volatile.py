# SPDX-License-Identifier: Apache-2.0
"""A writable layer of a volatile overlay is mounted again when that is safe, and only then."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr.errors import StepError
from mountcr.execute import applied
from mountcr.kernel import syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.volatile import marker_identity, sync_upper
from mountcr.paths import KPath, decode, join
from mountcr.planning.steps import Overlay
from mountcr.planning.volatile import marker_of, marker_steps
from mountcr.stack import Stack, Volatile
from scratch import directories, mounted, tmpfs

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.planning.steps import Step

pytestmark = pytest.mark.requires("overlay")


def stack_on(base: KPath) -> tuple[KPath, Stack, KPath]:
    """Make a mountpoint, a stack that was mounted volatile once, and say where its marker is."""
    at, lower, upper, work = directories(base, "at", "lower", "upper", "work")
    options = ("volatile",)
    stack = Stack(driver="overlay", lowers=(lower,), upper=upper, work=work, options=options)
    overlay(stack, at).execute(LiveKernel())
    with open(decode(at) + b"/file", "wb") as file:
        file.write(b"written")
    syscalls.umount2(decode(at))
    marker = marker_of(stack)
    assert marker
    assert os.path.isdir(decode(marker))
    return at, stack, marker


def overlay(stack: Stack, at: KPath) -> Overlay:
    """The step that mounts a stack."""
    return Overlay(
        at=at,
        lowers=stack.lowers,
        upper=stack.upper,
        work=stack.work,
        options=stack.options,
        because="a test wants it",
    )


def steps(stack: Stack, at: KPath, *, seen: Volatile, boot: str) -> list[Step]:
    """The steps that mount a stack in some boot."""
    known = msgspec.structs.replace(stack, volatile=seen)
    return [*marker_steps(known, boot), overlay(stack, at)]


def test_in_the_same_boot(tmp_path: Path) -> None:
    """The marker is removed, the layer mounted, and what was written is there."""
    at, stack, _ = stack_on(tmpfs(tmp_path))
    with applied(steps(stack, at, seen=Volatile(boot="b"), boot="b"), LiveKernel()):
        assert os.listdir(decode(at)) == [b"file"]


def test_after_another_boot(tmp_path: Path) -> None:
    """The marker stays, and the error names it."""
    at, stack, marker = stack_on(tmpfs(tmp_path))
    with (
        pytest.raises(StepError, match=f"mounted volatile.*{marker}"),
        applied(steps(stack, at, seen=Volatile(boot="b"), boot="c"), LiveKernel()),
    ):
        pass
    assert os.path.isdir(decode(marker))


def test_after_a_sync(tmp_path: Path) -> None:
    """The very marker that was there when the layer was synced is removed in any boot."""
    at, stack, marker = stack_on(tmpfs(tmp_path))
    assert stack.upper
    seen = Volatile(boot="b", synced=sync_upper(stack.upper, marker))
    assert seen.synced == marker_identity(marker) != ""
    with applied(steps(stack, at, seen=seen, boot="c"), LiveKernel()):
        assert os.listdir(decode(at)) == [b"file"]
    syscalls.umount2(decode(at))
    time.sleep(0.02)  # a marker of another time; the clock of the kernel ticks every 10 ms
    with (
        pytest.raises(StepError, match="not of the mount that was dumped"),
        applied(steps(stack, at, seen=seen, boot="c"), LiveKernel()),
    ):
        pass
    assert os.path.isdir(decode(marker))
    assert mounted(at) == []


def test_what_fails_puts_the_marker_back(tmp_path: Path) -> None:
    """A mount that does not come about leaves the layer as it was: not to be mounted."""
    at, stack, marker = stack_on(tmpfs(tmp_path))
    broken = msgspec.structs.replace(stack, lowers=(join(stack.lowers[0], "gone"),))
    with (
        pytest.raises(StepError, match="lower layer 1 of 1 is gone"),
        applied(steps(broken, at, seen=Volatile(boot="b"), boot="b"), LiveKernel()),
    ):
        pass
    assert os.path.isdir(decode(marker))
    assert mounted(at) == []
