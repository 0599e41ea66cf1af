# SPDX-License-Identifier: Apache-2.0
"""Containers of real runtimes come back through CRIU and through the runtime."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mountcr import procstat
from runtimes import CGROUPS, CONTAINER, Runtime, has_ended, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COUNTER = "i=0; while :; do i=$((i+1)); echo $i >> /count; /bin/busybox sleep 0.02; done"
CYCLES = 10


class Case:
    """A counting container of a runtime on an overlay root, and mountcr beside it."""

    def __init__(self, name: str, require: Callable[[str], str], directory: Path) -> None:
        self.volume = directory / "volume"
        self.volume.mkdir()
        hosts = directory / "hosts"
        hosts.write_text("10.0.0.1 db\n")
        bind = {"type": "bind", "options": ["rbind", "rprivate"]}
        mounts: list[dict[str, object]] = [
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
            {"destination": "/etc/hosts", "source": str(hosts), **bind},
            {"destination": "/data", "source": str(self.volume), **bind},
        ]
        self.runtime = Runtime(
            require(name),
            require("busybox"),
            directory,
            command=("/bin/busybox", "sh", "-c", COUNTER),
            mounts=mounts,
        )
        self.rootfs = self.runtime.bundle / "rootfs"
        self.lower, self.upper = directory / "lower", directory / "upper"
        self.rootfs.rename(self.lower)
        for made in (self.upper, directory / "work", self.rootfs):
            made.mkdir()
        options = f"lowerdir={self.lower},upperdir={self.upper},workdir={directory / 'work'}"
        self._run("mount", "-t", "overlay", "overlay", "-o", options, str(self.rootfs))
        programs = directory / "prefix" / "bin"
        programs.mkdir(parents=True)
        (programs / "criu").symlink_to(require("criu"))
        self.runtime.wrapped(programs)
        self.environment = dict(os.environ, MOUNTCR_PREFIX=str(programs.parent))
        self.environment.pop("MOUNTCR_CRIU", None)
        self.restored: list[int] = []

    def _run(self, *words: str) -> None:
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True)

    def mountcr(self, *words: str, status: int = 0) -> tuple[Any, str]:
        """Run a command of mountcr that ends as expected; give its document and its talk."""
        done = subprocess.run(
            [sys.executable, "-m", "mountcr", *words, "--json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if done.stdout else None, done.stderr

    def dump(self, images: Path, *words: str, reference: str = CONTAINER) -> None:
        """Dump the container and take its root apart."""
        where = ("--runtime-root", str(self.runtime.root), "--images", str(images))
        self.mountcr("dump", reference, *where, *words)
        if os.path.ismount(self.rootfs):
            self._run("umount", str(self.rootfs))

    def restore(self, images: Path, *words: str) -> int:
        """Restore without a difference and see that the counter goes on; give the pid."""
        before = self.count()
        found, _ = self.mountcr("restore", str(images), *words)
        assert found["differences"] == []
        self.restored.append(found["pid"])
        wait_until(lambda: self.count() > before)
        return int(found["pid"])

    def count(self) -> int:
        """Read how far the counter is, from the layer that it writes into."""
        log = self.upper / "count"
        numbers = log.read_text().split() if log.exists() else []
        return int(numbers[-1]) if numbers else 0

    def start(self) -> None:
        """Start the container and wait until it counts."""
        words = ["--root", str(self.runtime.root), "run", "--detach"]
        program = f"{self.environment['MOUNTCR_PREFIX']}/bin/{self.runtime.name}"
        subprocess.run(
            [program, *words, "--bundle", str(self.runtime.bundle), CONTAINER],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: self.count() > 1)

    def clean(self) -> None:
        """End everything."""
        for pid in self.restored:
            try:
                if procstat.read_stat(pid).command == "busybox":
                    os.kill(pid, 9)
            except ProcessLookupError:
                continue
            wait_until(functools.partial(has_ended, pid))
        self.runtime.clean()
        if os.path.ismount(self.rootfs):
            self._run("umount", str(self.rootfs))


@pytest.fixture
def case_of(require: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[[str], Case]]:
    """Make a container of a runtime, cleaned up after."""
    require("root")
    require("overlay")
    made: list[Case] = []

    def make(name: str) -> Case:
        made.append(Case(name, require, tmp_path))
        made[-1].start()
        return made[-1]

    yield make
    for case in made:
        case.clean()


def test_runc_takes_its_container_back_ten_times(
    case_of: Callable[[str], Case], tmp_path: Path
) -> None:
    """Dump, umount, restore through runc in the mode soft, ten times; runc knows it each time."""
    case = case_of("runc")
    for cycle in range(CYCLES):
        images = tmp_path / f"images-{cycle}"
        case.dump(images, "--manage-cgroups-mode", "soft")
        pid = case.restore(images, "--via", "runtime")
        state = case.runtime.state()
        assert (state["status"], state["pid"]) == ("running", pid)
        assert not os.path.ismount(case.rootfs)


def test_runc_container_comes_back_through_criu_ten_times(
    case_of: Callable[[str], Case], tmp_path: Path
) -> None:
    """The same without runc, whose record and control groups are gone; they are made again."""
    case = case_of("runc")
    groups = sorted(CGROUPS.glob(f"*/{case.runtime.cgroup}"))
    assert groups
    reference = CONTAINER
    for cycle in range(CYCLES):
        images = tmp_path / f"images-{cycle}"
        case.dump(images, "--manage-cgroups-mode", "soft", reference=reference)
        if cycle == 0:
            case.runtime("delete", CONTAINER)
            assert not any(group.exists() for group in groups)
        pid = case.restore(images)
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            assert file.read().count(case.runtime.cgroup) == len(groups)
        reference = str(pid)


@pytest.mark.parametrize(("mode", "via"), [("ignore", "runtime"), ("ignore", "criu")])
def test_crun_container_comes_back(
    case_of: Callable[[str], Case], tmp_path: Path, mode: str, via: str
) -> None:
    """A container of crun goes on, through crun, which then knows it, or through CRIU."""
    case = case_of("crun")
    for cycle in range(3):
        images = tmp_path / f"images-{cycle}"
        reference = str(case.restored[-1]) if case.restored and via == "criu" else CONTAINER
        case.dump(images, "--manage-cgroups-mode", mode, reference=reference)
        pid = case.restore(images, "--via", via)
        if via == "runtime":
            state = case.runtime.state()
            assert (state["status"], state["pid"]) == ("running", pid)


def test_the_plan_names_what_the_runtime_names(
    case_of: Callable[[str], Case],
) -> None:
    """Externals are the binds of the bundle, named by their destination; nothing else is."""
    case = case_of("runc")
    plan, _ = case.mountcr("plan", CONTAINER, "--runtime-root", str(case.runtime.root))
    assert plan["verdict"] == "ok"
    named = {each["mountpoint"]: (each["key"], each["source"]) for each in plan["externals"]}
    assert named.keys() == {"/etc/hosts", "/data"}
    assert named["/data"] == ("/data", str(case.volume))
    assert plan["rootfs"]["layers"] == [str(case.lower)]
    assert plan["rootfs"]["upper"] == str(case.upper)
    assert "--manage-cgroups=soft" in plan["criu"]["dump"]


def test_a_container_that_still_runs_is_not_replaced(
    case_of: Callable[[str], Case], tmp_path: Path
) -> None:
    """While the runtime runs the container, a restore of the same one is refused: exit status 4."""
    case = case_of("runc")
    case.dump(tmp_path / "images", "--leave-running")
    nothing, said = case.mountcr("restore", str(tmp_path / "images"), "--via", "runtime", status=4)
    assert nothing is None
    assert said.startswith("mountcr: ")
    assert "hint: " in said
    assert case.runtime.state()["status"] == "running"
