# SPDX-License-Identifier: Apache-2.0
"""Files whose mount CRIU could not find are declared external, and put right in its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.criu.rewriting import FileMount, OrdinaryFile
from mountcr.model import FileKind, InodeType, OpenFile, PathStat, Severity
from mountcr.observation.capture import read_capture
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Verdict
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    from mountcr.model import Facts

HOST_MOUNT = 23
"""The id that map_files of a kernel with AUFS and its fault leads to: a mount of the host."""


def leaking(name: str) -> Facts:
    """A recorded container whose mappings are shown by branches, with the mount of these."""
    facts = read_capture(str(builders.KERNELS / name))
    (task,) = facts.tasks
    files = tuple(
        msgspec.structs.replace(each, mnt_id=HOST_MOUNT)
        if each.kind is FileKind.MAP and "/layers/" in each.shown
        else each
        for each in task.files
    )
    return msgspec.structs.replace(facts, tasks=(msgspec.structs.replace(task, files=files),))


@pytest.mark.parametrize("name", ["aufs-5.10-mapfiles-aufs", "aufs-5.10-nommap-aufs"])
def test_mappings_of_aufs(name: str) -> None:
    """
    A mapping that is shown by a branch gets both keys that CRIU may ask for, and its path back.

    The one is by what map_files leads to, the other by what CRIU's own correction makes of it.
    """
    plan = make_plan(leaking(name))
    ordinary = {
        (each.path, each.key): each for each in plan.rewrites if isinstance(each, OrdinaryFile)
    }
    paths = {path for path, _ in ordinary}
    assert {"/bin/holder", "/data/maplower.bin", "/data/mapcopy.bin"} <= paths
    assert not {"/data/mapstale.bin", "/data/mapdel.bin", "/data/mapdellower.bin"} & paths
    keys = {key for path, key in ordinary if path == "/data/maplower.bin"}
    assert keys == {"file[17:2f]", "file[ffffffff:2d]"}
    assert keys <= set(plan.criu.dump_options.externals)
    operation = ordinary[KPath("/data/maplower.bin"), "file[17:2f]"]
    assert (operation.mnt_id, operation.size) == (43, 8192)
    assert "branch" in operation.because
    assert "AUFS" in operation.because


def test_mappings_below_a_copy_are_opened_in_the_branch() -> None:
    """A stale mapping, and one of a file that a whiteout hides, come back from their layer."""
    plan = make_plan(leaking("aufs-5.10-mapfiles-aufs"))
    sources = {each.source: each for each in plan.inherited if each.source}
    layer = "/run/lab-aufs/fs/layers/data/data"
    assert sources.keys() == {f"{layer}/mapstale.bin", f"{layer}/mapdellower.bin"}
    numbers = [each.number for each in plan.inherited]
    assert len(set(numbers)) == len(numbers)


def test_what_nobody_can_open_again_is_refused() -> None:
    """A file that was unlinked in its layer is refused before the dump, and nothing else is."""
    plan = make_plan(leaking("aufs-5.10-mapfiles-aufs"))
    refused = {each.mount for each in plan.findings if each.rule == "L0" and not each.cured}
    assert refused == {r"/run/lab-aufs/fs/layers/upper/data/mapdel.bin\040(deleted)"}
    cured = [each for each in plan.findings if each.rule == "L0" and each.cured]
    assert len(cured) > 5


def test_the_plan_says_it() -> None:
    """The outline names what is put right, and with the reason if it is asked for."""
    plan = make_plan(leaking("aufs-5.10-mapfiles-aufs"))
    text = outline_plan(plan, explain=True).plain()
    assert "put right in the images" in text
    assert "file[17:2f] as the file /data/maplower.bin of mount 43" in text
    assert "is a branch of the AUFS at /" in text


def nested(device: str) -> Facts:
    """A file on an overlay inside of a container on an overlay."""
    stat = PathStat(
        dev=device, ino=7, mode=0o100644, nlink=1, size=3, blocks=8, type=InodeType.FILE
    )
    file = OpenFile(kind=FileKind.FD, shown=KPath("/o/f"), fd=3, mnt_id=12, stat=stat, at_path=stat)
    return builders.facts(
        """
        10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
        11 10 8:1 /v /v rw - ext4 /dev/sda1 rw
        12 10 0:51 / /o rw - overlay overlay rw,lowerdir=/v/a:/v/b
        """,
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
        files=(file,),
    )


def test_the_mount_of_a_file_on_a_nested_overlay() -> None:
    """Where its device is none of a mount, CRIU takes the root for its mount: that is undone."""
    assert make_plan(nested("0:52")).rewrites == (
        FileMount(
            path=KPath("/o/f"),
            mnt_id=10,
            to=12,
            because="device 0:52 of the file is not 0:51 of its mount",
        ),
    )
    assert make_plan(nested("0:51")).rewrites == ()


def test_a_container_without_any_is_left_alone() -> None:
    """Where the kernel shows what is, nothing is declared and nothing rewritten."""
    plan = make_plan(read_capture(str(builders.KERNELS / "deb-6.12-overlay")))
    assert plan.rewrites == ()
    assert not any(each.startswith("file[") for each in plan.criu.dump_options.externals)
    assert plan.verdict is not Verdict.REFUSED or all(
        each.rule != "L0" for each in plan.findings if each.severity is Severity.REFUSAL
    )
