# SPDX-License-Identifier: Apache-2.0
"""The processes of containers of LXC are found by control groups as LXC makes them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.engines.lxc import Running, inits
from mountcr.procstat import read_stat

if TYPE_CHECKING:
    from collections.abc import Generator

HIERARCHIES = [Path("/sys/fs/cgroup") / below for below in ("", "unified", "freezer")]


@contextlib.contextmanager
def control_group(name: str) -> Generator[Path]:
    """Make a control group, in whichever hierarchy is writable; skip where none is."""
    for hierarchy in HIERARCHIES:
        if not (hierarchy / "cgroup.procs").exists():
            continue
        with contextlib.suppress(OSError):
            (hierarchy / name).mkdir()
            break
    else:
        pytest.skip("no control group can be made here")
    try:
        yield hierarchy / name
    finally:
        (hierarchy / name).rmdir()


@contextlib.contextmanager
def monitored(title: str, group: Path) -> Generator[int]:
    """Run an init below a monitor with a title; only the init is in the control group."""
    words = [title, "--pid", "--fork", "--kill-child", "sleep", "60"]
    monitor = subprocess.Popen(words, executable="/usr/bin/unshare")
    try:
        children = Path(f"/proc/{monitor.pid}/task/{monitor.pid}/children")
        while not (told := children.read_text().split()):
            time.sleep(0.01)
        (group / "cgroup.procs").write_text(told[0])
        yield int(told[0])
    finally:
        monitor.kill()
        monitor.wait()
        while (group / "cgroup.procs").read_text():
            time.sleep(0.01)


def test_the_monitor_says_which_container_an_init_is_of() -> None:
    """The title of a monitor counts more than the control group; without one that counts."""
    name = f"mountcr-{os.getpid()}"
    with control_group(f"lxc.payload.{name}-1") as group:
        with monitored(f"[lxc monitor] /srv/my lxc {name}", group) as pid:
            cgroup = f"/lxc.payload.{name}-1"
            (found,) = inits()[name]
            assert found.cgroup.endswith(cgroup)
            told = Running(pid, read_stat(pid).start_time, found.cgroup, "/srv/my lxc")
            assert found == told
        assert name not in inits()
        with monitored("lxc-start", group) as pid:
            (found,) = inits()[f"{name}-1"]
            assert (found.pid, found.lxcpath) == (pid, "")
