# SPDX-License-Identifier: Apache-2.0
"""
CRIU is the judge: what a rule predicts is what CRIU says when nobody helps it.

Each container here violates one rule. CRIU alone fails with the rule's message; the plan finds
that rule and no other refusal; with the cure that mountcr takes, it is dumped and restored.
"""

from __future__ import annotations

import os
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mountcr.demo.launch import BindMount, Tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.conftest import Place

RULES = tomllib.loads(resources.files("mountcr.rules").joinpath("table.toml").read_text())


def matches(rule: str, log: str) -> bool:
    """Tell whether the first error of a log is what a rule says; limits and noise apart."""
    errors = re.findall(r"Error \([^)]*\): (.*)", log)
    first = next((each for each in errors if "RLIMIT_NOFILE" not in each), "")
    assert first, log[-2000:]
    return bool(re.search(RULES[rule]["message"], first))


def refused_by_criu(place: Place, pid: int, rule: str) -> None:
    """Claim that CRIU alone refuses to dump, for the reason of the rule, and the task goes on."""
    images = place.directory("alone")
    done = place.run_criu("dump", "-t", pid, "-D", images, "-v4", "-o", "dump.log")
    assert done.status != 0
    assert matches(rule, (images / "dump.log").read_text(errors="replace"))
    assert place.runs(pid)


def refusals(plan: Any) -> set[tuple[str, str, bool]]:
    """Give the refusals of a plan: rule, where, and whether they are cured."""
    return {
        (each["rule"], each["mount"], each.get("cured", False))
        for each in plan["findings"]
        if each["severity"] == "refusal"
    }


def comes_back(place: Place, pid: int) -> None:
    """Claim that the container is dumped and restored."""
    before = place.count()
    place.restore(place.dump(pid))
    place.wait(lambda: place.count() > before)


def test_v4(place: Place) -> None:
    """V4: a file of the host without the file system that it is in."""
    place.mount_overlay()
    hosts = place.write(place.top / "hosts", "10.0.0.1 db\n")
    pid = place.start(binds=[BindMount(str(hosts), "/etc/hosts")])
    refused_by_criu(place, pid, "V4")
    assert refusals(place.done("plan", pid)) == {("V4", "/etc/hosts", True)}
    comes_back(place, pid)


def test_v3(place: Place) -> None:
    """V3: the whole of a file system that CRIU cannot mount."""
    place.mount_overlay()
    place.mount("ramfs", place.directory("whole"))
    pid = place.start(binds=[BindMount(str(place.top / "whole"), "/whole")])
    refused_by_criu(place, pid, "V3")
    assert refusals(place.done("plan", pid)) == {("V3", "/whole", True)}
    comes_back(place, pid)


def test_s1(place: Place) -> None:
    """S1: a slave of a peer group outside. Of a tmpfs, so that it is no V4 too."""
    place.mount_overlay()
    place.mount("tmpfs", place.directory("outside"))
    place.bind(place.top / "outside", place.top / "outside", "shared")
    slave = BindMount(str(place.top / "outside"), "/mnt", propagation="slave")
    pid = place.start(binds=[slave])
    refused_by_criu(place, pid, "S1")
    assert refusals(place.done("plan", pid)) == {("S1", "/mnt", True)}
    comes_back(place, pid)


def test_p1(place: Place) -> None:
    """P1: sixty layers with long names make a line that CRIU cannot read, and nothing cures it."""
    long = place.directory("n" * 60)
    layers = [*place.layers]
    for number in range(60):
        (long / f"layer{number}").mkdir()
        layers.append(long / f"layer{number}")
    place.mount_overlay(lowers=layers)
    pid = place.start()
    assert max(map(len, Path(f"/proc/{pid}/mountinfo").read_text().splitlines())) > 4096
    place.unmount()  # or CRIU fails on the line in its own table
    refused_by_criu(place, pid, "P1")
    done = place.mountcr("plan", pid, "--json")
    assert (done.status, done.err) == (4, "")
    assert refusals(done.document) == {("P1", "/", False)}
    done = place.mountcr("dump", pid, "--images", place.top / "images")
    assert (done.status, done.out) == (4, "")
    assert done.err.startswith("mountcr: the dump is refused: P1 /: ")
    assert not (place.top / "images").exists()
    assert place.runs(pid)


def test_l0(place: Place) -> None:
    """L0: a descriptor of a file that is on no mount of the container."""
    place.mount_overlay()
    output = os.open(place.top / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        pid = place.start(stdio=(output, output, output))
    finally:
        os.close(output)
    refused_by_criu(place, pid, "L0")
    assert refusals(place.done("plan", pid)) == {("L0", str(place.top / "output"), True)}
    comes_back(place, pid)


def sleeper(place: Place) -> Path:
    """Dump a container that has a file of a lower layer open."""
    place.mount_overlay()
    pid = place.start("/bin/sleeper", binds=[Tmpfs("/run")])
    place.wait(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return place.dump(pid)


CHANGES: dict[str, Callable[[Place], object]] = {
    "R4": lambda place: (place.upper / "run").rmdir(),
    "R8": lambda place: place.layers[2].joinpath("etc/lines").write_text("first\n"),
    "R9": lambda place: place.layers[2].joinpath("etc/lines").chmod(0o600),
    "M7": lambda place: place.layers[2].joinpath("etc/lines").unlink(),
}


@pytest.mark.parametrize("rule", CHANGES)
def test_restore(place: Place, rule: str) -> None:
    """R4, R8, R9, M7: what is missing or changed in the root makes CRIU fail as the rule says."""
    images = sleeper(place)
    CHANGES[rule](place)
    where = {"R4": "/run"}.get(rule, "/etc/lines")
    planned = place.mountcr("plan", images, "--for", "restore", "--json")
    assert refusals(planned.document) == {(rule, where, rule == "R4")}
    assert planned.status == (0 if rule == "R4" else 4)
    place.mount_overlay()
    words = ("-D", images, "--root", place.root, "-o", "alone.log", "-v4", "-d")
    done = place.run_criu("restore", *words)
    place.unmount()
    assert done.status != 0
    assert matches(rule, (images / "alone.log").read_text(errors="replace"))
    if rule == "R4":
        place.restore(images)
    else:
        assert place.mountcr("restore", images).status == 5
