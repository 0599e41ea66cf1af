# SPDX-License-Identifier: Apache-2.0
"""Control groups that were removed since the dump are made again, as each mode of CRIU needs it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.conftest import Place

MODES = ["none", "props", "soft", "full", "strict"]


class Groups:
    """A control group within another, in every hierarchy that is mounted whole."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.place = place
        self.hierarchies: dict[str, Path] = {}
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split(" ")
            kind, options = fields[-3], set(fields[-1].split(","))
            if kind not in {"cgroup", "cgroup2"} or fields[3] != "/":
                continue
            for _, controllers, _ in memberships("self"):
                if set(controllers.split(",")) <= options if controllers else kind == "cgroup2":
                    self.hierarchies[controllers] = Path(fields[4])

    @property
    def inner(self) -> str:
        """The path of the inner group in its hierarchy."""
        return f"/{self.name}/inner"

    def make(self) -> None:
        """Make the groups; a cpuset of version 1 gets what its parent has."""
        for base in self.hierarchies.values():
            for group in (base / self.name, base / self.name / "inner"):
                group.mkdir(exist_ok=True)
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if (group / name).exists() and (group.parent / name).exists():
                        (group / name).write_text((group.parent / name).read_text())

    def enter(self, pid: int) -> None:
        """Put a process into the inner groups."""
        for base in self.hierarchies.values():
            (base / self.name / "inner" / "cgroup.procs").write_text(str(pid))

    def exist(self) -> bool:
        """Tell whether an outer group is there in any hierarchy."""
        return any((base / self.name).exists() for base in self.hierarchies.values())

    def remove(self) -> None:
        """Remove the groups, innermost first; one is busy until its processes are reaped."""
        for base in self.hierarchies.values():
            for name in (self.name, f"{self.name}-moved"):
                for directory, _, _ in os.walk(base / name, topdown=False):
                    self.place.wait(functools.partial(_remove, directory))


def _remove(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def memberships(pid: int | str) -> list[tuple[str, str, str]]:
    """Read the hierarchy, the controllers and the path of each membership of a process."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    split = [line.split(":", 2) for line in lines]
    return [(each[0], each[1], each[2]) for each in split]


def paths_of(groups: Groups, pid: int | str) -> set[str]:
    """Give the groups that a process is in, in the hierarchies that are mounted."""
    return {path for _, controllers, path in memberships(pid) if controllers in groups.hierarchies}


@pytest.fixture
def groups(place: Place) -> Iterator[Groups]:
    """Groups that are removed at the end, after what is in them has been killed."""
    found = Groups(f"mountcr-e2e-{os.getpid()}", place)
    if not found.hierarchies:
        pytest.skip("no control groups are mounted")
    try:
        found.make()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    yield found
    for pid in place.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    place.wait(lambda: not place.processes())
    found.remove()
    assert not found.exist()


@pytest.fixture
def pid(place: Place, groups: Groups) -> int:
    """A container in groups of its own."""
    place.mount_overlay()
    pid = place.start()
    groups.enter(pid)
    seen = place.count()
    place.wait(lambda: place.count() > seen + 2)  # its children are born there now
    return pid


def test_default(place: Place, groups: Groups, pid: int) -> None:
    """The mode follows from the groups of the container, and the plan says so."""
    plan = place.done("plan", pid)
    reasons = {each["option"]: each["because"] for each in plan["criu"]["reasons"]}
    assert "groups of its own" in reasons["--manage-cgroups=soft"]
    assert "--manage-cgroups=soft" in plan["criu"]["dump"]
    for base in groups.hierarchies.values():
        (base / "cgroup.procs").write_text(str(pid))
    for _, controllers, path in memberships("self"):
        if controllers in groups.hierarchies:
            base = groups.hierarchies[controllers]
            (base / path.lstrip("/") / "cgroup.procs").write_text(str(pid))
    seen = place.count()
    place.wait(lambda: place.count() > seen + 2)
    reasons = {
        each["option"]: each["because"] for each in place.done("plan", pid)["criu"]["reasons"]
    }
    assert "same control groups" in reasons["--manage-cgroups=ignore"]


@pytest.mark.parametrize("mode", MODES)
def test_made_again(place: Place, groups: Groups, pid: int, mode: str) -> None:
    """Tasks come back into the groups they were in, though the groups were gone."""
    images = place.dump(pid, "images", "--manage-cgroups-mode", mode)
    place.wait(lambda: not place.processes())
    groups.remove()
    assert not groups.exist()
    pid = place.restore(images)
    assert paths_of(groups, pid) == {groups.inner}
    place.goes_on()


@pytest.mark.parametrize("mode", ["none", "props", "soft", "full"])
def test_still_there(place: Place, groups: Groups, pid: int, mode: str) -> None:
    """Tasks come back into the groups they were in, which are still there."""
    images = place.dump(pid, "images", "--manage-cgroups-mode", mode)
    pid = place.restore(images)
    assert paths_of(groups, pid) == {groups.inner}


def test_ignore(place: Place, groups: Groups, pid: int) -> None:
    """Ignored groups are not made again; the tasks are where the command is that restores them."""
    images = place.dump(pid, "images", "--manage-cgroups-mode", "ignore")
    place.wait(lambda: not place.processes())
    groups.remove()
    pid = place.restore(images)
    assert not groups.exist()
    assert paths_of(groups, pid) == paths_of(groups, "self")


def test_other_root(place: Place, groups: Groups, pid: int) -> None:
    """The group of the root task can be another one than it was."""
    images = place.dump(pid)
    place.wait(lambda: not place.processes())
    groups.remove()
    moved = f"/{groups.name}-moved"
    pid = place.restore(images, "--cgroup-root", moved)
    assert paths_of(groups, pid) == {moved}
    assert not groups.exist()


def test_failure(place: Place, groups: Groups, pid: int) -> None:
    """A restore that fails removes the groups that it made."""
    images = place.dump(pid, "images", "--manage-cgroups-mode", "props")
    place.wait(lambda: not place.processes())
    groups.remove()
    (images / "core-1.img").write_bytes(b"")
    assert place.mountcr("restore", images).status == 1
    assert not groups.exist()


def test_ignore_at_the_restore(place: Place, groups: Groups, pid: int) -> None:
    """Groups that were dumped can be ignored: the tasks stay with the command, as in a pod."""
    images = place.dump(pid)
    place.wait(lambda: not place.processes())
    groups.remove()
    pid = place.restore(images, "--manage-cgroups-mode", "ignore")
    assert not groups.exist()
    assert paths_of(groups, pid) == paths_of(groups, "self")
    place.goes_on()
