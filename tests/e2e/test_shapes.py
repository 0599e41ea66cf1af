# SPDX-License-Identifier: Apache-2.0
"""Mounts over, under and beside each other come back in the same tree, whoever can see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from mountcr import mountinfo
from mountcr.graph.diff import diff_namespaces
from mountcr.graph.tree import MountTree
from mountcr.observation.tasks import descendants

if TYPE_CHECKING:
    from collections.abc import Iterable

    from e2e.conftest import Place
    from mountcr.model import Mount

SHAPES: Final = {
    "stack": """
        mount -t tmpfs a m
        mount -t tmpfs b m
        mount -t tmpfs c m
    """,
    "hidden-by-a-child": """
        mount -t tmpfs a m
        mkdir m/x
        mount -t tmpfs b m/x
        mount -t tmpfs c m
    """,
    "hidden-by-a-sibling": """
        mkdir m/x
        mount -t tmpfs a m/x
        mount -t tmpfs b m
    """,
    "binds-in-a-stack": """
        mount -t tmpfs a m
        mkdir m/x m/y
        mount --bind m/x n
        mount --bind m/y n
        mount -t tmpfs b n
    """,
    "moved": """
        mount -t tmpfs a m
        mkdir m/x
        mount -t tmpfs b m/x
        mount --move m n
    """,
    "moved-over-another": """
        mkdir m/x
        mount -t tmpfs a m/x
        mount -t tmpfs b n
        mount --move n m
    """,
    # the kernel puts what propagates below what is there already (Linux 4.11)
    "tucked": """
        mount -t tmpfs a m
        mount --make-shared m
        mount --bind m n
        mount --make-slave n
        mkdir m/x
        mount -t tmpfs b n/x
        mount -t tmpfs c m/x
    """,
    "tucked-twice": """
        mount -t tmpfs a m
        mount --make-shared m
        mkdir m/x
        mount --bind m n
        mount --make-slave n
        mount --make-shared n
        mount --bind n o
        mount -t tmpfs b o/x
        mount -t tmpfs c m/x
    """,
    "bound-into-itself": """
        mount -t tmpfs a m
        mkdir m/x
        mount --make-shared m
        mount --bind m m/x
    """,
    "self-binds": """
        mount --bind m m
        mount --bind m m
    """,
    "tree-bound": """
        mount -t tmpfs a m
        mkdir m/x
        mount -t tmpfs b m/x
        mount --rbind m n
    """,
    "files": """
        touch m/one m/other
        mount --bind m/one m/other
        mount --bind m/other m/one
    """,
    "deleted-file": """
        mount -t tmpfs a m
        touch m/one m/other
        mount --bind m/one m/other
        rm m/one
    """,
    "deleted-directory": """
        mkdir m/gone
        mount --bind m/gone n
        rmdir m/gone
    """,
    "unbindable": """
        mount -t tmpfs a m
        mount --make-unbindable m
    """,
    "read-only-superblock": """
        mount -t tmpfs a m
        mount --bind m n
        mount -o remount,ro n
    """,
}
"""What is done in a directory with the directories m, n and o."""


def program(names: Iterable[str]) -> bytes:
    """Give a script that makes some shapes, each in its own directory, and stops at an error."""
    lines = ["#!/bin/busybox sh", "set -e"]
    for name in names:
        lines += [f"/bin/busybox mkdir -p /shapes/{name}", f"cd /shapes/{name}"]
        lines += ["/bin/busybox mkdir m n o"]
        lines += [f"/bin/busybox {each.strip()}" for each in SHAPES[name].strip().splitlines()]
    lines += ["cd /", "echo > /dev/ready", "exec /bin/busybox sleep 1000\n"]
    return "\n".join(lines).encode()


def started(place: Place, lines: str, names: Iterable[str]) -> int:
    """Start a container by some lines of shell; give its pid when the shapes are made."""
    place.script("shapes", program(names))
    place.script("start", f"#!/bin/busybox sh\n{lines}\n".encode())
    place.mount_overlay()
    pid = place.start("/bin/start")
    place.wait(Path(f"/proc/{pid}/root/dev/ready").read_text)
    return pid


def tables(pid: int) -> list[tuple[Mount, ...]]:
    """Give the mount table of a task and of each one below it."""
    return [mountinfo.read(each) for each in descendants(pid)]


@pytest.mark.parametrize(
    "lines",
    [
        "exec /bin/shapes",
        """
        /bin/busybox unshare -m --propagation private /bin/shapes &
        exec /bin/busybox sleep 1000
        """,
    ],
    ids=["root", "nested"],
)
def test_every_shape_comes_back(place: Place, lines: str) -> None:
    """
    Stacks, hidden, moved and tucked mounts, and binds of what is gone, are the same tree again.

    In the root task's namespace and in a nested one.
    """
    pid = started(place, lines, SHAPES)
    before = tables(pid)
    tree = MountTree(before[-1])
    for name in SHAPES:
        assert any(each.mountpoint.startswith(f"/shapes/{name}/") for each in tree.mounts)
    assert any(tree.hidden(mount) for mount in tree.mounts)
    after = tables(place.restore(place.dump(pid)))
    assert [str(each) for each in diff_namespaces(before, after)] == []


@pytest.mark.parametrize("propagation", ["slave", "shared"])
def test_what_propagated_between_namespaces_comes_back(place: Place, propagation: str) -> None:
    """What is mounted in the root task's namespace, and arrived in a nested one, is in both."""
    lines = f"""
        /bin/busybox mount --make-rshared /
        /bin/busybox unshare -m --propagation {propagation} /bin/busybox sleep 1000 &
        ours=$(/bin/busybox readlink /proc/$$/ns/mnt)
        while [ "$(/bin/busybox readlink /proc/$!/ns/mnt)" = "$ours" ]; do :; done
        exec /bin/shapes
    """
    # what hangs on a shared mount cannot be moved, and CRIU makes what is gone once only
    names = [name for name in SHAPES if not name.startswith(("moved", "deleted"))]
    pid = started(place, lines, names)
    before = tables(pid)
    assert [len(table) > len(names) for table in before] == [True, True]
    after = tables(place.restore(place.dump(pid)))
    assert [str(each) for each in diff_namespaces(before, after)] == []
