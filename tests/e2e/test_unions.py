# SPDX-License-Identifier: Apache-2.0
"""An overlay inside of a container comes back, with what was open on it and what was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.demo.launch import BindMount, Tmpfs
from mountcr.kernel import syscalls
from mountcr.kernel.private import in_namespace_of

if TYPE_CHECKING:
    from e2e.conftest import Place

WRITER = b"""#!/bin/busybox sh
# waits for the overlay, then counts into a file of its upper layer
until [ -e /o/inner ]; do /bin/busybox sleep 0.02; done
exec 3>>/o/count 4</o/inner
i=0
while :; do
    i=$((i+1))
    echo $i >&3
    /bin/busybox sleep 0.02
done
"""

READER = b"""#!/bin/busybox sh
# waits for the overlay, then holds a file of it
until [ -e /o/inner ]; do /bin/busybox sleep 0.02; done
exec 4</o/inner
echo > /var/reads
exec /bin/busybox sleep 1000
"""


def fill(base: str) -> str:
    """Make two layers of a directory of the container; give them as overlay's list."""
    for name in ("above", "below"):
        os.makedirs(f"{base}/{name}")
        Path(f"{base}/{name}/inner").write_text(f"from {name}\n")
    return f"{base}/above:{base}/below"


def union(base: str, *, writable: bool = False) -> None:
    """Mount an overlay at /o of directories of the container."""
    options = f"lowerdir={fill(base)}"
    if writable:
        for name in ("upper", "work"):
            os.mkdir(f"{base}/{name}")
        options += f",upperdir={base}/upper,workdir={base}/work"
    os.mkdir("/o")
    syscalls.mount(b"overlay", b"/o", b"overlay", 0, os.fsencode(options))


def counts(file: Path) -> list[int]:
    """Give what was counted."""
    return list(map(int, file.read_text().split())) if file.exists() else []


def goes_on(place: Place, counted: Path) -> None:
    """Claim that somebody counts."""
    least = len(counts(counted)) + 2
    place.wait(lambda: len(counts(counted)) > least)


def test_writes_go_on_in_a_volume(place: Place) -> None:
    """
    An overlay of directories of a volume is assembled again, twice in a row.

    The file that a task writes into is the same, without a gap, and what an earlier restore
    assembled can be dumped again.
    """
    place.mount_overlay()
    place.script("writer", WRITER)
    volume = place.directory("volume")
    pid = place.start("/bin/writer", binds=[BindMount(str(volume), "/v")])
    in_namespace_of(pid, lambda: union("/v", writable=True))
    counted = volume / "upper/count"
    for turn in range(2):
        place.wait(lambda: counts(counted))
        plan = place.done("plan", pid)
        assert plan["verdict"] == "ok"
        (found,) = (each for each in plan["externals"] if each["mountpoint"] == "/o")
        assert found["stack"]["upper"] == f"{volume}/upper"
        pid = place.restore(place.dump(pid, f"images{turn}"))
        goes_on(place, counted)
        assert counts(counted) == [*range(1, len(counts(counted)) + 1)]
        assert Path(f"/proc/{pid}/root/o/inner").read_text() == "from above\n"


def test_layers_of_the_root(place: Place) -> None:
    """A read-only overlay of directories of the root file system, with a file of it open."""
    place.mount_overlay()
    place.script("reader", READER)
    pid = place.start("/bin/reader")
    in_namespace_of(pid, lambda: union("/var/my layers"))
    place.wait((place.upper / "var/reads").exists)
    pid = place.restore(place.dump(pid))
    assert os.readlink(f"/proc/{pid}/fd/4") == "/o/inner"
    assert Path(f"/proc/{pid}/fd/4").read_text() == "from above\n"
    again = place.restore(place.dump(pid, "again"))
    assert Path(f"/proc/{again}/fd/4").read_text() == "from above\n"


@pytest.mark.parametrize("base", ["/t", "/gone"])
def test_what_cannot_come_back_is_not_dumped(place: Place, base: str) -> None:
    """With layers on a tmpfs of the container, or under something: O1, and it goes on."""
    place.mount_overlay()
    pid = place.start(binds=[Tmpfs("/t")])

    def cover() -> None:
        os.makedirs(base, exist_ok=True)
        union(base)
        if base == "/gone":
            syscalls.mount(b"cover", b"/gone", b"tmpfs", 0, b"")

    in_namespace_of(pid, cover)
    done = place.mountcr("dump", pid, "--images", place.top / "images")
    assert done.status == 4
    assert "O1" in done.err
    assert "/o" in done.err
    assert place.runs(pid)
    place.goes_on()
