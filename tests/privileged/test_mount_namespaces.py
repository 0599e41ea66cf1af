# SPDX-License-Identifier: Apache-2.0
"""Every mount namespace of the host is found, with its mounts, with a process in it or without."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mountcr import mountinfo
from mountcr.kernel import syscalls
from mountcr.kernel.namespaces import Namespace, mount_namespaces, own_namespace
from mountcr.kernel.private import in_namespace
from mountcr.paths import decode
from scratch import HOSTILE, directories, kept_namespace, lack, seen_inside, tmpfs

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = {"as it is": (), "without statmount": ("statmount", "listmount")}

EVERY_KERNEL = pytest.mark.parametrize("calls", KERNELS.values(), ids=KERNELS)


def found(fd: int) -> list[Namespace]:
    """What is found of the namespace of a descriptor."""
    identity = os.fstat(fd).st_ino
    return [each for each in mount_namespaces() if each.id == identity]


def test_each_is_given_once() -> None:
    """Ours among them, unless it is to be left out."""
    ids = [each.id for each in mount_namespaces()]
    assert len(ids) == len(set(ids))
    assert own_namespace() in ids
    others = [each.id for each in mount_namespaces(but={own_namespace()})]
    assert own_namespace() not in others
    assert others


def test_one_of_a_process() -> None:
    """It has the table that the process shows."""
    (ours,) = (each for each in mount_namespaces() if each.id == own_namespace())
    assert os.stat(f"/proc/{ours.pid}/ns/mnt").st_ino == ours.id
    assert mountinfo.parse_table(ours.table) == mountinfo.read()
    assert ours.name == f"the mount namespace of pid {ours.pid}"


@EVERY_KERNEL
def test_one_without_a_process(calls: tuple[str, ...], tmp_path: Path) -> None:
    """It has the mounts that are in it, as long as something keeps it."""
    base = tmpfs(tmp_path)
    places = directories(base, *HOSTILE.values())

    def prepare() -> None:
        for name, place in zip(HOSTILE.values(), places, strict=True):
            syscalls.mount(name, decode(place), b"tmpfs", 0, None)

    with kept_namespace(prepare) as fd:
        inside = in_namespace(fd, mountinfo.read)
        lack(*calls)
        (namespace,) = found(fd)
        assert namespace.pid == 0
        assert seen_inside(mountinfo.parse_table(namespace.table)) == inside
        assert {*places} <= {mount.mountpoint for mount in inside}
        assert namespace.name.endswith(f"mnt:[{namespace.id}], which no process is in")
    assert namespace.id not in {each.id for each in mount_namespaces()}


@EVERY_KERNEL
def test_one_without_a_proc(calls: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing need be mounted in it for its table to be read."""
    base = tmpfs(tmp_path)

    def alone() -> None:
        (old,) = directories(base, "old")
        syscalls.pivot_root(decode(base), decode(old))
        syscalls.umount2(b"/old", syscalls.MNT_DETACH)

    with kept_namespace(alone) as fd:
        lack(*calls)
        (namespace,) = found(fd)
        (mount,) = seen_inside(mountinfo.parse_table(namespace.table))
        assert (mount.mountpoint, mount.fstype, mount.source) == ("/", "tmpfs", "tmpfs")
