# SPDX-License-Identifier: Apache-2.0
"""
Control groups tell whose container a process is in: engines put the id into the path.

systemd's cgroup drivers write `docker-ID.scope`, `libpod-ID.scope`, `crio-ID.scope` and
`cri-containerd-ID.scope`; the others a directory with the id, below one of the engine's name, of
the namespace (containerd) or of the pod (`/kubepods/…`). LXC has `lxc.payload.NAME` since 4.0.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Member", "member_of", "members", "of_path"]

_HEX64: Final = "(?P<id>[0-9a-f]{64})"
_SHAPES: Final = tuple(
    (engine, re.compile(shape))
    for engine, shape in (
        ("docker", rf"^docker-{_HEX64}\.scope$"),
        ("podman", rf"^libpod-{_HEX64}(?:\.scope)?$"),
        ("crio", rf"^crio-{_HEX64}(?:\.scope)?$"),
        ("containerd", rf"^cri-containerd-{_HEX64}\.scope$"),
        ("lxc", r"^lxc\.payload\.(?P<id>.+)$"),
    )
)
_BELOW: Final = (("docker", "docker"), ("kubepods", "kubernetes"), ("lxc", "lxc"))


class Member(NamedTuple):
    """Whose a control group is: the engine, as far as the path tells, and the id."""

    engine: str
    id: str


def of_path(path: str) -> Member | None:
    """
    Tell whose control group a path is, None where it does not tell.

    >>> of_path("/system.slice/docker-" + "ab" * 32 + ".scope").engine
    'docker'
    >>> of_path("/user.slice") is None
    True
    """
    names = path.strip("/").split("/")
    for name in reversed(names):
        for engine, shape in _SHAPES:
            found = shape.match(name)
            if found:
                return Member(engine, found["id"])
    if len(names) > 1:
        for first, engine in _BELOW:
            whole = engine == "lxc" or re.fullmatch(_HEX64, names[-1])
            if names[0].startswith(first) and whole:
                return Member(engine, names[-1])
    return None


def member_of(pid: int) -> tuple[str, Member | None]:
    """
    Give the path of the control group of a process and whose it is.

    The first hierarchy whose path tells counts. Raises OSError.
    """
    with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
        lines = os.fsdecode(file.read()).splitlines()
    paths = [line.partition(":")[2].partition(":")[2] for line in lines]
    for path in paths:
        member = of_path(path)
        if member:
            return path, member
    return next((path for path in paths if path != "/"), ""), None


def members(beginning: str) -> Iterator[tuple[int, Member]]:
    """Give each process whose control group is of a container with an id that begins so."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            member = member_of(int(name))[1]
        except OSError:
            continue
        if member and member.id.startswith(beginning):
            yield int(name), member
