# SPDX-License-Identifier: Apache-2.0
"""
Records for tests: mounts from lines of mountinfo, facts from mounts, tables of recorded hosts.

Nothing here looks at the machine.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mountcr.model import Container, Criu, Facts, Host, Mount, MountNamespace, Task
from mountcr.mountinfo import parse_table as parse
from mountcr.observation.capture import read_capture

if TYPE_CHECKING:
    from mountcr.model import OpenFile
    from mountcr.paths import KPath

__all__ = [
    "CONTAINER_NS",
    "HOST_NS",
    "KERNELS",
    "RECORDED",
    "ROOT_PID",
    "captured",
    "facts",
    "mount",
    "namespace",
    "parse",
    "recorded",
    "recorded_names",
    "table",
]

HOST_NS: Final = 4026531840
CONTAINER_NS: Final = 4026532000
ROOT_PID: Final = 100

KERNELS: Final = Path(__file__).parent / "fixtures" / "kernels"

RECORDED: Final = Path(__file__).parent / "fixtures" / "mountinfo"


def table(text: str) -> tuple[Mount, ...]:
    """Parse lines of mountinfo, as deep as a test indents them."""
    lines = filter(None, textwrap.dedent(text).split("\n"))
    return parse("".join(f"{line}\n" for line in lines).encode())


def mount(line: str) -> Mount:
    """Parse one line of mountinfo."""
    (found,) = table(line)
    return found


def recorded(name: str) -> tuple[Mount, ...]:
    """Give a recorded table: `docker-overlay2`, `docker-overlay2.host`, …"""
    return parse((RECORDED / f"{name}.txt").read_bytes())


def recorded_names(suffix: str = "") -> list[str]:
    """Give the names of the recorded tables, of one kind if there is a suffix."""
    return sorted(path.name.removesuffix(".txt") for path in RECORDED.glob(f"*{suffix}.txt"))


def captured(kernel: str) -> tuple[tuple[Mount, ...], tuple[Mount, ...]]:
    """Give the mounts of a process in a recorded union, and those of its host."""
    facts = read_capture(str(KERNELS / kernel))
    return facts.namespaces[0].mounts, facts.host.mounts


def namespace(
    mounts: tuple[Mount, ...] | str, *, identity: int = CONTAINER_NS, pid: int = ROOT_PID
) -> MountNamespace:
    """Give a mount namespace, by default that of the root task of `facts`."""
    found = table(mounts) if isinstance(mounts, str) else mounts
    return MountNamespace(id=identity, pid=pid, mounts=found)


def facts(
    mounts: tuple[Mount, ...] | str,
    host: tuple[Mount, ...] | str = (),
    *,
    nested: tuple[MountNamespace, ...] = (),
    files: tuple[OpenFile, ...] = (),
    cgroup_namespace: bool = False,
    rootfs: KPath | None = None,
) -> Facts:
    """Give the facts of a container of one task, with the mounts of its namespace and the host."""
    cgroup = 4026532100 if cgroup_namespace else 4026531835
    return Facts(
        container=Container(id="web", engine="runc", pid=ROOT_PID, rootfs=rootfs),
        tasks=(
            Task(
                pid=ROOT_PID,
                parent=1,
                start_time=1,
                command="sleep",
                namespaces={"mnt": CONTAINER_NS, "cgroup": cgroup},
                files=files,
            ),
        ),
        namespaces=(namespace(mounts), *nested),
        host=Host(
            mounts=table(host) if isinstance(host, str) else host,
            namespaces={"mnt": HOST_NS, "cgroup": 4026531835},
            criu=Criu(command=("criu",), version="4.1.1"),
        ),
    )
