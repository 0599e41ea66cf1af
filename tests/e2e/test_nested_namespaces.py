# SPDX-License-Identifier: Apache-2.0
"""A container whose tasks live in several mount namespaces comes back with all of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr import manifest, mountinfo
from mountcr.demo.launch import BindMount, Tmpfs
from mountcr.graph.diff import diff_namespaces
from mountcr.observation.tasks import descendants, namespaces
from mountcr.operations.restored import compare
from mountcr.paths import KPath, encode
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.conftest import Place
    from mountcr.model import Mount, MountNamespace, Task

OUTER = """#!/bin/busybox sh
# shares a tmpfs with the nested namespaces, and starts one of each propagation
/bin/busybox mount --make-shared /run
/bin/busybox mkdir /run/deep
/bin/busybox mount --bind /etc /mnt/outer
/bin/busybox unshare -m --propagation PROPAGATION /bin/inner &
exec /bin/busybox sleep 1000
"""

INNER = """#!/bin/busybox sh
# has mounts of its own, in a namespace of its own
/bin/busybox mount -t tmpfs -o size=64k own /mnt/own
/bin/busybox mkdir /mnt/own/part
/bin/busybox mount --bind /mnt/own/part /mnt/part
/bin/busybox mount --bind /etc /mnt/etc
/bin/busybox mount -o remount,bind,ro /mnt/etc
echo kept > /mnt/own/part/file
echo ready > /run/deep/ready
exec /bin/busybox sleep 1000
"""


def nested(place: Place, propagation: str, *, readonly: bool = False) -> int:
    """Start a container with a child in a mount namespace of its own."""
    place.script("outer", OUTER.replace("PROPAGATION", propagation).encode())
    place.script("inner", INNER.encode())
    for name in ("outer", "own", "part", "etc"):
        (place.layers[2] / "mnt" / name).mkdir(parents=True)
    place.mount_overlay()
    shared = place.directory("shared")
    place.bind(shared, shared, "shared")
    pid = place.start(
        "/bin/outer",
        readonly=readonly,
        binds=[
            BindMount(str(place.directory("volume", "file")), "/volume"),
            BindMount(str(shared), "/slave", propagation="slave"),
            Tmpfs("/run"),
        ],
    )
    place.wait(Path(f"/proc/{pid}/root/run/deep/ready").read_text)
    return pid


def tables(pid: int) -> list[tuple[Mount, ...]]:
    """Give the mount table of each namespace below a task, its own first."""
    found = {namespaces(each)["mnt"]: mountinfo.read(each) for each in descendants(pid)}
    return list(found.values())


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("propagation", ["private", "slave", "shared"])
def test_a_nested_namespace_comes_back(place: Place, propagation: str, readonly: bool) -> None:
    """
    A child in a mount namespace of its own has its mounts again, with their propagation.

    With a root that is read-only, that of the nested namespace and binds of it are so again too.
    """
    pid = nested(place, propagation, readonly=readonly)
    before = tables(pid)
    assert [len(table) for table in before] == [7, 10]
    assert place.done("plan", pid)["verdict"] == "ok"
    restored = place.restore(place.dump(pid))
    after = tables(restored)
    assert diff_namespaces(before, after) == []
    # read without what is tested
    (inner,) = (each for each in descendants(restored)[1:] if len(mountinfo.read(each)) == 10)
    assert Path(f"/proc/{inner}/root/mnt/part/file").read_text() == "kept\n"
    (run,) = (mount for mount in after[1] if mount.mountpoint == "/run")
    (outer,) = (mount for mount in after[0] if mount.mountpoint == "/run")
    assert {
        "private": run.optional == (),
        "slave": run.master == outer.shared,
        "shared": run.shared == outer.shared,
    }[propagation]


def doctor(images: Path, change: Callable[[MountNamespace], MountNamespace]) -> None:
    """Change what the manifest of a dump says of the nested namespace."""
    where = encode(str(images))
    found = manifest.read(where)
    outer, inner = found.facts.namespaces
    facts = msgspec.structs.replace(found.facts, namespaces=(outer, change(inner)))
    manifest.write(msgspec.structs.replace(found, facts=facts), where)


def test_a_difference_in_a_nested_namespace_fails_the_restore(place: Place) -> None:
    """What is not as it was there is named, and what was restored is gone again."""
    images = place.dump(nested(place, "slave"))

    def with_nodev(namespace: MountNamespace) -> MountNamespace:
        return msgspec.structs.replace(
            namespace,
            mounts=tuple(
                msgspec.structs.replace(mount, options=f"{mount.options},nodev")
                if mount.mountpoint == "/mnt/own"
                else mount
                for mount in namespace.mounts
            ),
        )

    doctor(images, with_nodev)
    failed = place.mountcr("restore", images)
    assert failed.status == 5
    assert "/mnt/own in nested namespace 1: options: nodev,relatime,rw -> relatime,rw" in failed.err
    assert place.processes() == []


def test_a_mount_that_a_nested_namespace_lacks_fails_the_restore(place: Place) -> None:
    """A mount that was in the nested namespace and is not is a difference of that namespace."""
    images = place.dump(nested(place, "private"))

    def with_another(namespace: MountNamespace) -> MountNamespace:
        (own,) = (mount for mount in namespace.mounts if mount.mountpoint == "/mnt/own")
        other = msgspec.structs.replace(own, id=own.id + 1000, mountpoint=KPath("/var"))
        return msgspec.structs.replace(namespace, mounts=(*namespace.mounts, other))

    doctor(images, with_another)
    failed = place.mountcr("restore", images)
    assert failed.status == 5
    assert "/var in nested namespace 1: mount: tmpfs / -> none" in failed.err


def test_who_shares_a_namespace_is_compared(place: Place) -> None:
    """A namespace that is not there, and one that was not, are differences until tasks go on."""
    images = place.dump(nested(place, "private"))
    restored = place.restore(images)
    found = manifest.read(encode(str(images)))
    plan = make_plan(found.facts)
    assert compare(found, plan, restored, settled=False) == []
    outer, inner = found.facts.namespaces

    def in_one(task: Task) -> Task:
        return msgspec.structs.replace(task, namespaces={**task.namespaces, "mnt": outer.id})

    tasks = tuple(in_one(task) for task in found.facts.tasks)
    alone = msgspec.structs.replace(found.facts, tasks=tasks, namespaces=(outer,))
    extra = msgspec.structs.replace(found, facts=alone)
    assert [(each.what, each.before, each.after, each.namespace)
            for each in compare(extra, plan, restored, settled=False)] == [
        ("namespace", "", "10 mounts", 1)
    ]  # fmt: skip
    assert compare(extra, plan, restored) == []
    nobody = msgspec.structs.replace(found.facts, tasks=tasks, namespaces=(outer, inner))
    missing = msgspec.structs.replace(found, facts=nobody)
    assert ("namespace", "10 mounts", "") in [
        (each.what, each.before, each.after)
        for each in compare(missing, plan, restored, settled=False)
    ]
    assert compare(missing, plan, restored) == []


def test_a_nested_namespace_may_end_after_the_restore(place: Place) -> None:
    """Tasks that have gone on may leave a namespace; that is no difference any more."""
    images = place.dump(nested(place, "private"))
    restored = place.restore(images)
    inner = descendants(restored)[-1]
    os.kill(inner, signal.SIGKILL)
    place.wait(lambda: not place.runs(inner))
    found = manifest.read(encode(str(images)))
    plan = make_plan(found.facts)
    assert [each.what for each in compare(found, plan, restored, settled=False)] == ["namespace"]
    assert compare(found, plan, restored) == []


@pytest.mark.parametrize("propagation", ["private", "slave"])
def test_a_volume_may_come_from_another_file_system(place: Place, propagation: str) -> None:
    """What was asked to come from elsewhere does so in all namespaces, and is no difference."""
    images = place.dump(nested(place, propagation))
    other = place.directory("other")
    place.mount("tmpfs", other)
    place.write(other / "file", "elsewhere\n")
    restored = place.restore(images, "--bind", f"/volume={other}")
    for task in descendants(restored):
        assert Path(f"/proc/{task}/root/volume/file").read_text() == "elsewhere\n"
