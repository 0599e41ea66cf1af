# SPDX-License-Identifier: Apache-2.0
"""Containers of a real runtime, in a private root, are found as the runtime itself sees them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Roots, find, list_containers
from mountcr.engines.pid import ensure_running
from mountcr.errors import AmbiguousError, GoneError, NotFoundError
from mountcr.paths import encode
from mountcr.procstat import read_stat, read_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CGROUPS = Path("/sys/fs/cgroup")
CONTAINER = "mountcr-e2e"

# crun takes a host with cgroups of both versions for neither: give it one of version 2 only.
ONLY_CGROUP2 = (
    "umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup; "
    'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
)


class Runtime:
    """A runtime with a root of its own, and a bundle of a static busybox that sleeps."""

    def __init__(self, program: str, busybox: str, directory: Path) -> None:
        self.name = os.path.basename(program)
        self.root = directory / "root"
        self.bundle = directory / "bundle"
        self.cgroup = f"mountcr-test-{os.getpid()}-{self.name}"
        self._command = [program, "--root", str(self.root)]
        if self.name == "crun" and (CGROUPS / "unified").is_dir():
            view = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ONLY_CGROUP2]
            self._command = [*view, "sh", *self._command]
        programs = self.bundle / "rootfs" / "bin"
        programs.mkdir(parents=True)
        shutil.copy(busybox, programs / "busybox")
        self.root.mkdir()
        for mountpoint in ("proc", "dev"):
            (self.bundle / "rootfs" / mountpoint).mkdir()
        (self.bundle / "config.json").write_text(json.dumps(self._spec()))

    @property
    def roots(self) -> Roots:
        """Where mountcr is to look: nowhere else on this host."""
        return Roots(runtime=(encode(str(self.root)),))

    def __call__(self, *arguments: str) -> str:
        """Run the runtime; what it says on failure is the failure of the test."""
        log = self.root.parent / "log"
        with log.open("wb") as output:
            done = subprocess.run(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
                check=False,
            )
        said = log.read_text(errors="replace")
        if done.returncode:
            pytest.fail(f"{self.name} {' '.join(arguments)}: {said}")
        return said

    def state(self) -> dict[str, object]:
        """Ask the runtime itself."""
        found: dict[str, object] = json.loads(self("state", CONTAINER))
        return found

    def start(self) -> None:
        """Start the container."""
        self("run", "--detach", "--bundle", str(self.bundle), CONTAINER)

    def clean(self) -> None:
        """End the container and remove what it leaves, cgroups included."""
        for found in list_containers(self.roots):
            if found.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found.pid, 9)
                _wait_until(functools.partial(_has_ended, found.pid))
        subprocess.run(
            [*self._command, "delete", "--force", CONTAINER],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        for directory in (*CGROUPS.glob(f"*/{self.cgroup}"), CGROUPS / self.cgroup):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()

    def _spec(self) -> dict[str, object]:
        """Give the least that a runtime starts without further capabilities."""
        kinds = ("pid", "mount", "ipc", "uts", "network")
        return {
            "ociVersion": "1.0.2",
            "hostname": "box",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/busybox", "sleep", "600"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": []},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in kinds],
                "cgroupsPath": f"/{self.cgroup}",
            },
        }


@pytest.fixture(params=["runc", "crun"])
def runtime(
    request: pytest.FixtureRequest, require: Callable[[str], str], tmp_path: Path
) -> Iterator[Runtime]:
    """Each runtime that is installed, cleaned up after."""
    require("root")
    made = Runtime(require(request.param), require("busybox"), tmp_path)
    try:
        yield made
    finally:
        made.clean()


def _has_ended(pid: int) -> bool:
    """Tell whether nothing but an exit status is left of a process."""
    try:
        return read_stat(pid).ended
    except ProcessLookupError:
        return True


def _wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that the kernel does soon."""
    deadline = time.monotonic() + 10
    while not true():
        if time.monotonic() > deadline:
            pytest.fail("waited 10 seconds in vain")
        time.sleep(0.01)


def test_every_reference_leads_to_the_same_container(runtime: Runtime) -> None:
    """Id, prefix, engine and id, pid, bundle and state directory mean one container."""
    runtime.start()
    said = runtime.state()
    found = find(CONTAINER, roots=runtime.roots)
    assert found.pid == said["pid"]
    assert found.status == said["status"] == "running"
    assert found.bundle == encode(str(runtime.bundle)) == said["bundle"]
    assert found.rootfs == encode(f"{runtime.bundle}/rootfs")
    assert found.start_time == read_stat(found.pid).start_time
    assert (found.engine, found.state_root) == (runtime.name, encode(str(runtime.root)))
    ensure_running(found)
    for reference in (
        "mountcr-",
        f"{runtime.name}:{CONTAINER}",
        str(found.pid),
        f"pid:{found.pid}",
        str(runtime.bundle),
        f"{runtime.root}/{CONTAINER}",
    ):
        assert find(reference, roots=runtime.roots) == found


def test_a_process_that_was_executed_leads_to_its_container(runtime: Runtime) -> None:
    """A process started by `exec` has its parent outside, and means the container all the same."""
    runtime.start()
    file = runtime.root.parent / "pid"
    runtime("exec", "--detach", "--pid-file", str(file), CONTAINER, "/bin/busybox", "sleep", "599")
    inside = int(file.read_text())
    assert read_status(inside).inner_pids[-1] != 1
    assert find(str(inside), roots=runtime.roots) == find(CONTAINER, roots=runtime.roots)
    # Without the record of the runtime, the init is found all the same.
    alone = find(str(inside), roots=Roots())
    assert alone.pid == find(CONTAINER, roots=runtime.roots).pid
    assert str(inside) in alone.provenance[0]


def test_the_status_is_that_of_the_runtime(runtime: Runtime) -> None:
    """created, running, paused and stopped are told as the runtime tells them."""

    def status() -> str:
        found = find(CONTAINER, roots=runtime.roots).status
        assert found == runtime.state()["status"]
        return found

    runtime("create", "--bundle", str(runtime.bundle), CONTAINER)
    assert status() == "created"
    runtime("start", CONTAINER)
    assert status() == "running"
    runtime("pause", CONTAINER)
    assert status() == "paused"
    runtime("resume", CONTAINER)
    assert status() == "running"
    runtime("kill", CONTAINER, "KILL")
    _wait_until(lambda: not find(CONTAINER, roots=runtime.roots).pid)
    assert status() == "stopped"


def test_a_container_that_ends_is_gone(runtime: Runtime) -> None:
    """The record that was found before is refused, the record found after has no process."""
    runtime.start()
    found = find(CONTAINER, roots=runtime.roots)
    os.kill(found.pid, 9)
    _wait_until(lambda: _has_ended(found.pid))
    with pytest.raises(GoneError, match="has ended"):
        ensure_running(found)
    after = find(CONTAINER, roots=runtime.roots)
    assert (after.pid, after.status) == (0, "stopped")
    assert find(str(runtime.bundle), roots=runtime.roots).engine == "bundle"


def test_ambiguous_and_wrong_names_list_the_others(runtime: Runtime) -> None:
    """Two containers of one bundle are both named; a typing error names the one that is like it."""
    runtime.start()
    with pytest.raises(NotFoundError) as missing:
        find("mountrc-e2e", roots=runtime.roots)
    assert missing.value.similar == (CONTAINER,)
    state = json.loads((runtime.root / CONTAINER / _state_file(runtime)).read_bytes())
    other = runtime.root / f"{CONTAINER}-2"
    other.mkdir()
    (other / _state_file(runtime)).write_text(json.dumps(state | {"id": other.name}))
    try:
        # The copy names the same process: one container, which was there first.
        assert len(list_containers(runtime.roots)) == 1
        process = subprocess.Popen(["sleep", "60"])
        start = read_stat(process.pid).start_time
        state |= {"id": other.name, "init_process_pid": process.pid, "init_process_start": start}
        state |= {"pid": process.pid, "process-start-time": start}
        (other / _state_file(runtime)).write_text(json.dumps(state))
        with pytest.raises(AmbiguousError) as raised:
            find(str(runtime.bundle), roots=runtime.roots)
        expected = (f"{runtime.name}:{CONTAINER}", f"{runtime.name}:{other.name}")
        assert raised.value.candidates == expected
        process.kill()
        process.wait()
    finally:
        shutil.rmtree(other)


def _state_file(runtime: Runtime) -> str:
    """Give the name of the file in which a runtime records a container."""
    return "state.json" if runtime.name == "runc" else "status"
