# SPDX-License-Identifier: Apache-2.0
"""
A plan in another dialect is a plan for CRIU: what is printed is run, and does what mountcr would.

The container has what CRIU alone refuses (rule V4), with names that need quotes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.demo.launch import BindMount

if TYPE_CHECKING:
    from e2e.conftest import Place

VOLUME = "/my 'data' and \"more\""


@pytest.fixture
def pid(place: Place) -> int:
    """A container with a file and a directory of the host."""
    place.mount_overlay()
    hosts = place.write(place.top / "hosts", "10.0.0.1 db\n")
    volume = place.directory("a volume", "kept")
    return place.start(binds=[BindMount(str(hosts), "/etc/hosts"), BindMount(str(volume), VOLUME)])


def planned(place: Place, pid: int, dialect: str) -> tuple[str, str]:
    """The plan in a dialect, for the dump and for the restore."""
    found: list[str] = []
    for purpose in ("dump", "restore"):
        done = place.mountcr("plan", pid, "--for", purpose, "--as", dialect)
        assert (done.status, done.err) == (0, "")
        found.append(done.out)
    return found[0], found[1]


def came_back(place: Place) -> None:
    """Claim that a container runs that has its volume, and that its counter goes on."""
    place.goes_on()
    pids = [each for each in place.processes() if Path(f"/proc/{each}/root/bin/counter").exists()]
    root = Path(f"/proc/{min(pids)}/root")
    assert Path(f"{root}{VOLUME}/kept").read_text() == "kept\n"
    assert (root / "etc/hosts").read_text() == "10.0.0.1 db\n"


def test_a_configuration_file(place: Place, pid: int) -> None:
    """`--as conf`: CRIU takes the file, and with nothing else it dumps and restores."""
    dump, restore = planned(place, pid, "conf")
    images = place.directory("images")
    files = [place.write(place.top / name, text) for name, text in (("d", dump), ("r", restore))]
    words = ("-t", pid, "-D", images, "-v4", "-o", "dump.log")
    alone = place.run_criu("dump", *words)
    assert alone.status != 0
    assert "doesn't have a proper root mount" in (images / "dump.log").read_text(errors="replace")
    done = place.run_criu("dump", *words, "--config", files[0])
    assert done.status == 0, (images / "dump.log").read_text(errors="replace")[-2000:]
    place.wait(lambda: not place.runs(pid))
    back = ("-d", "-D", images, "-v4", "-o", "restore.log", "--root", place.root)
    done = place.run_criu("restore", *back, "--config", files[1])
    assert done.status == 0, (images / "restore.log").read_text(errors="replace")[-2000:]
    came_back(place)


@pytest.mark.parametrize("dialect", ["argv", "legacy"])
def test_a_command_line(place: Place, pid: int, dialect: str) -> None:
    """`--as argv` and, with words that CRIU still knows, `--as legacy`: a shell can run them."""
    dump, restore = planned(place, pid, dialect)
    assert dump.count("\n") == restore.count("\n") == 1
    images = place.directory("IMAGES")  # as the plan calls what it does not know
    shell = ("bash", "-c", 'cd "$1" && PATH=${2%/*}:$PATH && eval "$3"', "-")
    done = place.run(*shell, place.top, place.criu, dump)
    assert done.status == 0, (done.out, (images / "dump.log").read_text(errors="replace")[-2000:])
    place.wait(lambda: not place.runs(pid))
    place.directory("assembled")
    place.bind(place.root, place.top / "assembled")
    restore = restore.replace("/run/mountcr/root", str(place.top / "assembled"))
    done = place.run(*shell, place.top, place.criu, restore)
    assert done.status == 0, (
        done.out,
        (images / "restore.log").read_text(errors="replace")[-2000:],
    )
    came_back(place)
