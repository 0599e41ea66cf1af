# SPDX-License-Identifier: Apache-2.0
"""A container comes back as it was: its processes, descriptors and mounts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.demo.launch import BindMount, Devpts, Tmpfs
from mountcr.graph.diff import diff
from mountcr.observation import mountinfo

if TYPE_CHECKING:
    from tests.e2e.conftest import Place

LARGEFILE = 0o100000
"""O_LARGEFILE, which some calls set and which means nothing on 64 bits."""

HOLDER = b"""#!/bin/busybox sh
# holds one descriptor of each kind, counts, and answers when it is asked
cd /srv/deep/er
exec 3</etc/lines
read -r first <&3
exec 4>/srv/written
echo one >&4
exec 5>>/srv/count
exec 6<>/srv/unlinked
echo kept >&6
/bin/busybox rm /srv/unlinked
exec 7<>/run/inner/scratch
echo in memory >&7
exec 8<<EOF
through
the pipe
EOF
exec 9>/proc/self/fd/8
echo later >&9
i=0
while :; do
    i=$((i+1))
    echo $i >&5
    if [ -e /data/ask ]; then
        /bin/busybox rm /data/ask
        read -r line <&3
        read -r piped <&8
        echo two >&4
        echo "$line, $piped, $(pwd)" > /data/answer
    fi
    /bin/busybox sleep 0.02
done
"""


def holder(place: Place, *, readonly: bool) -> int:
    """Start a container with a mount of every kind, whose root may be read-only."""
    place.script("holder", HOLDER)
    (place.layers[2] / "srv/deep/er").mkdir(parents=True)
    (place.layers[2] / "tmp").mkdir()
    shared = place.directory("shared", "seen")
    place.bind(shared, shared, "shared")
    place.mount_overlay()
    pid = place.start(
        "/bin/holder",
        readonly=readonly,
        binds=[
            Devpts(),
            # a part of the root itself, where a read-only one can be written
            *([BindMount(f"{place.root}/srv", "/srv")] if readonly else []),
            BindMount(str(place.write(place.top / "hosts", "10.0.0.1 db\n")), "/etc/hosts"),
            BindMount(str(place.write(place.top / "names", "x\n")), "/etc/names", readonly=True),
            BindMount(str(place.directory("data", "file")), "/data"),
            BindMount(str(place.directory("inner", "deep")), "/data/inner"),
            BindMount(str(place.directory("fixed", "file")), "/fixed", readonly=True),
            BindMount(str(shared), "/mnt/slave", propagation="slave"),
            Tmpfs("/run"),
            Tmpfs("/run/inner"),
            BindMount(str(place.directory("volume", "file")), "/run/volume"),
        ],
    )
    place.wait(lambda: descriptor(pid, 9))
    return pid


def descriptor(pid: int, number: int) -> tuple[int, int, str]:
    """Give position, flags and link of a descriptor, the link without what CRIU calls a ghost."""
    info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
    fields = dict(line.split(":\t", 1) for line in info.splitlines() if ":\t" in line)
    return int(fields["pos"]), int(fields["flags"], 8) & ~LARGEFILE, os.readlink(f"/proc/{pid}/fd/{number}")


def held(pid: int) -> dict[int, object]:
    """Give what must not change: positions, flags, names and contents."""
    found: dict[int, object] = {}
    for number in (0, 1, 2, 3, 4, 6, 7, 8, 9):
        position, flags, link = descriptor(pid, number)
        content = Path(f"/proc/{pid}/fd/{number}").read_bytes() if link.startswith("/s") else b""
        found[number] = (position, flags, link.partition(":[")[0], content)
    found[-1] = os.readlink(f"/proc/{pid}/cwd")
    return found


def places_of(pid: int) -> list[tuple[str, ...]]:
    """Give each mount by what may never change, read without mountcr."""
    lines = [line.split(" ") for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return sorted((each[4], each[5], each[each.index("-") + 1]) for each in lines)


@pytest.mark.parametrize("readonly", [False, True])
def test_ten_times(place: Place, readonly: bool) -> None:
    """A container with a mount of every kind is planned, dumped and restored ten times in a row."""
    pid = first = holder(place, readonly=readonly)
    table, before, seen = mountinfo.read(pid), held(pid), places_of(pid)
    assert len(table) > 10
    for turn in range(10):
        plan = place.done("plan", pid)
        assert plan["verdict"] == "ok"
        images = place.dump(pid, f"images{turn}")
        assert not place.runs(pid)
        counted = len((place.upper / "srv/count").read_text().split())
        pid = place.restore(images)
        assert held(pid) == before
        assert places_of(pid) == seen
        assert diff(table, mountinfo.read(pid)) == []
        place.wait(lambda: len((place.upper / "srv/count").read_text().split()) > counted)
    numbers = (place.upper / "srv/count").read_text().split()
    assert numbers == [str(each) for each in range(1, len(numbers) + 1)]
    assert pid != first
