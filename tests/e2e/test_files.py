# SPDX-License-Identifier: Apache-2.0
"""`mountcr files` of a running container says of each file what it is, on every storage driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.roots import UNIONS, mount_root
from mountcr.demo.launch import BindMount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.conftest import Place

HOLDER = b"""#!/bin/busybox sh
# holds files of every kind
cd /data
exec 20<plain 21<>changed 22<stale 23<removed 24<>/new 25<>/gone 26<>/linked 27</data 28</vol/f
exec 29</dev/shm/t
echo more >> changed
echo more >> stale
/bin/busybox rm removed /gone
/bin/busybox ln /linked /other
/bin/busybox rm /linked
: > /ready
exec /bin/busybox sleep 1000
"""

EXPECTED = {
    20: ("/data/plain", "lower"),
    21: ("/data/changed", "upper"),
    22: ("/data/stale", "stale"),
    23: ("/data/removed", "deleted"),
    24: ("/new", "upper"),
    25: ("/gone", "deleted"),
    26: ("/other", "upper"),
    27: ("/data", "merged"),
    28: ("/vol/f", "external"),
}


@pytest.fixture(params=["overlay", "vfs", *UNIONS])
def driver(request: pytest.FixtureRequest, require: Callable[[str], str]) -> str:
    """Each driver that is here."""
    if request.param in UNIONS:
        require(request.param)
    name: str = request.param
    return name


@pytest.fixture
def container(place: Place, driver: str) -> Iterator[int]:
    """A container on a root of the driver that holds files."""
    for name in ("plain", "changed", "stale", "removed"):
        place.write(place.layers[1] / "data" / name, f"{name}\n")
    place.script("holder", HOLDER)
    (place.upper / "data").mkdir()
    mount_root(place, driver)
    volume = place.directory("volume", "f")
    shared = place.directory("shm", "t")
    pid = place.start(
        "/bin/holder",
        binds=[BindMount(str(volume), "/vol"), BindMount(str(shared), "/dev/shm")],
    )
    place.wait((place.upper / "ready").exists)
    place.wait(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    yield pid
    place.close()


def test_what_a_container_holds(place: Place, driver: str, container: int) -> None:
    """Path and state of each descriptor; of a plain directory everything is in the upper."""
    rows = {each["fd"]: each for each in place.done("files", container)["files"] if each["fd"]}
    found = {fd: (rows[fd]["path"], rows[fd]["state"]) for fd in EXPECTED}
    expected = dict(EXPECTED)
    if driver == "vfs":
        for fd in (20, 22, 27):
            expected[fd] = (expected[fd][0], "upper")
    if driver == "unionfs":  # which numbers inodes by path, so that no other name is known
        expected[26] = ("/linked", "deleted")
    assert found == expected
    assert rows[29]["path"] == "/dev/shm/t"
    quirks = {fd for fd in EXPECTED if rows[fd]["quirks"]}
    assert quirks == (set() if driver == "unionfs" else {26})


def test_facts_say_the_same(place: Place, container: int) -> None:
    """A facts file resolves as the container did when it was written."""
    facts = place.top / "facts.json"
    facts.write_text(place.mountcr("facts", container).out)
    assert place.done("files", facts)["files"] == place.done("files", container)["files"]


def test_a_container_that_does_not_run(place: Place) -> None:
    """Nothing is open then: exit status 3, one line and a hint."""
    bundle = place.directory("bundle")
    (bundle / "rootfs").mkdir()
    place.write(bundle / "config.json", '{"ociVersion": "1.0.0", "root": {"path": "rootfs"}}')
    done = place.mountcr("files", bundle)
    assert done.status == 3
    assert "nothing is open" in done.err
    assert done.out == ""
