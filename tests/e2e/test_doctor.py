# SPDX-License-Identifier: Apache-2.0
"""What `mountcr doctor` says of this machine is so, it is quick, and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from mountcr import mountinfo
from mountcr.hosts.records import Answer, DoctorDocument
from mountcr.kernel.scratch import SCRATCH
from mountcr.kernel.servers import find_servers
from mountcr.operations.criu_trial import try_criu
from mountcr.operations.doctor import examine

if TYPE_CHECKING:
    from collections.abc import Callable

    from mountcr.kernel.servers import Server

ENOSYS: Final = Path(__file__).parents[1] / "enosys.py"
NOBODY: Final = 65534


def doctor(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run doctor as users do, or under another program."""
    return subprocess.run(
        [*words, sys.executable, "-m", "mountcr", "doctor", "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def document(done: subprocess.CompletedProcess[str]) -> DoctorDocument:
    """Give the document, and claim that nothing was said beside it."""
    assert done.stderr == ""
    return msgspec.json.decode(done.stdout, type=DoctorDocument)


def without(*calls: str) -> DoctorDocument:
    """Give what doctor says of a kernel that lacks some calls."""
    done = doctor(sys.executable, str(ENOSYS), MOUNTCR_ENOSYS=",".join(calls))
    return document(done)


def containers() -> list[int]:
    """Give the processes that are containers of a trial."""
    found: list[int] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if b"/sleep\x0060\x00" in Path("/proc", pid, "cmdline").read_bytes():
                found.append(int(pid))
        except OSError:
            continue
    return found


def own_servers() -> list[Server]:
    """Wait for the end of the FUSE servers of trials; give those that do not end."""
    until = time.monotonic() + 15
    while True:
        found = [each for each in find_servers() if SCRATCH in " ".join(each.words)]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.01)


def left() -> tuple[object, ...]:
    """Give the mounts and directories that doctor could leave."""
    run = Path("/run/mountcr")
    mounted = [each for each in mountinfo.read() if "mountcr" in each.mountpoint]
    return mounted, sorted(each.name for each in run.iterdir()) if run.is_dir() else None


@pytest.mark.requires("root", "criu", "overlay")
def test_a_machine_that_runs_the_other_tests() -> None:
    """A dump and a restore work here, as all those tests say; within two seconds or so."""
    before, began = left(), time.monotonic()
    done = doctor()
    seconds = time.monotonic() - began
    found = document(done)
    assert done.returncode == 0
    assert (found.dump.verdict, found.restore.verdict) == (Answer.YES, Answer.YES)
    assert found.kernel == os.uname().release
    assert found.criu.version
    assert found.cpu.features
    assert found.overlay.options["redirect_dir"]
    assert seconds < 10  # 0.8 where nothing else runs
    assert left() == before
    assert containers() == []
    assert own_servers() == []


@pytest.mark.requires("root", "criu", "overlay")
@pytest.mark.parametrize("driver", ["overlay", "vfs", "unionfs", "fuse-overlayfs"])
def test_a_driver_that_is_promised_is_rebuilt(driver: str, tmp_path: Path) -> None:
    """What doctor says yes of, the demonstration does: dump, rebuild on the driver, restore."""
    (report,) = (each for each in examine().drivers if each.driver == driver)
    command = [sys.executable, "-m", "mountcr", "demo", "--driver", driver]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (report.restore.verdict is Answer.YES) == (done.returncode == 0), done.stderr


@pytest.mark.requires("root", "criu", "overlay")
@pytest.mark.parametrize("root", ["overlay", "vfs"])
@pytest.mark.parametrize("rseq", [True, False])
def test_a_container_is_dumped_and_restored(root: str, rseq: bool) -> None:
    """By the CRIU of this machine, of each kind of root and of task."""
    command = tuple(examine().criu.command)
    trial = try_criu(command, root=root, rseq=rseq)
    assert trial.done, trial
    assert containers() == []


@pytest.mark.requires("root")
@pytest.mark.parametrize("command", ["/bin/false", "/nowhere/criu"])
def test_a_program_that_is_no_criu(command: str) -> None:
    """The dump fails with something said, and the container is gone."""
    trial = try_criu((command,), root="vfs", rseq=True)
    assert trial.dump
    assert not trial.dump.works
    assert trial.dump.said
    assert trial.restore is None
    assert containers() == []


@pytest.mark.requires("root", "criu")
def test_no_criu() -> None:
    """Both directions are no, with the reason; drivers are assembled all the same."""
    done = doctor(MOUNTCR_CRIU="/nowhere/criu")
    found = document(done)
    assert done.returncode == 6
    assert found.dump.verdict is found.restore.verdict is Answer.NO
    assert "/nowhere/criu" in found.dump.because
    assert {each.driver: each.assembled for each in found.drivers}["vfs"]


@pytest.mark.requires("root", "criu")
@pytest.mark.parametrize("delay", [0.3, 0.6, 0.9])
def test_an_interrupt_leaves_nothing(delay: float) -> None:
    """Whatever is tried just then."""
    before = left()
    command = [sys.executable, "-m", "mountcr", "doctor"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        time.sleep(delay)
        process.terminate()
        _, err = process.communicate()
    assert b"Traceback" not in err
    assert process.returncode in {0, 130}
    assert containers() == []
    assert own_servers() == []
    assert left() == before


@pytest.mark.requires("root", "criu")
def test_two_at_once() -> None:
    """Neither takes away what the other one works with."""
    command = [sys.executable, "-m", "mountcr", "doctor", "--json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    said = [each.communicate()[0] for each in both]
    verdicts = {msgspec.json.decode(each, type=DoctorDocument).restore.verdict for each in said}
    assert verdicts == {Answer.YES}


# --- Kernels that lack something ------------------------------------------------------------------


@pytest.mark.requires("root", "criu")
def test_under_a_filter_criu_cannot_dump() -> None:
    """It says so, in CRIU's words, with what helps: the filter is on CRIU too."""
    found = without("statmount", "listmount")
    checks = {each.name: each.works for each in found.checks}
    assert not checks["statmount"]
    assert not checks["listmount"]
    assert found.dump.verdict is Answer.NO
    assert "suspending seccomp failed" in found.dump.because
    assert "seccomp" in found.dump.hint
    assert containers() == []


@pytest.mark.requires("root", "criu", "overlay")
def test_a_kernel_without_the_mount_api() -> None:
    """Overlay and vfs are assembled by the older calls, FUSE unions are not, and why."""
    found = without("fsopen", "fsconfig", "fsmount", "open_tree", "move_mount", "mount_setattr")
    assembled = {each.driver: each.assembled for each in found.drivers}
    assert assembled["overlay"]
    assert assembled["vfs"]
    assert not assembled["unionfs"]
    (report,) = (each for each in found.drivers if each.driver == "fuse-overlayfs")
    assert "open_tree" in report.restore.because or "there is no" in report.restore.because
    assert not found.overlay.options["lowerdir+"]


@pytest.mark.requires("root", "criu")
@pytest.mark.parametrize("call", ["openat2", "pidfd_open", "clone3", "close_range"])
def test_a_kernel_without_a_call(call: str) -> None:
    """There is a document all the same, and neither container nor server is left."""
    found = without(call)
    for check in found.checks:
        if check.name == call:
            assert not check.works
            assert check.hint
    assert containers() == []
    assert own_servers() == []


# --- Without privilege ----------------------------------------------------------------------------


def as_nobody(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call `work` as a user who may do nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, json.dumps(work()).encode())
        except BaseException as error:  # noqa: BLE001
            os.write(writer, json.dumps({"error": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said: dict[str, Any] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return said


@pytest.mark.requires("root")
def test_nobody_gets_an_answer() -> None:
    """What can be told without root is told, and the rest is no for want of it."""

    def work() -> dict[str, Any]:
        found = examine()
        return {
            "dump": [found.dump.verdict, found.dump.because],
            "drivers": {each.driver: each.restore.because for each in found.drivers},
            "cgroups": found.cgroups.layout,
            "cpu": len(found.cpu.features),
            "euid": found.privileges.euid,
        }

    work()  # loads modules from where nobody may look
    said = as_nobody(work)
    assert "error" not in said, said
    assert said["dump"] == ["no", "it needs root"]
    assert set(said["drivers"].values()) == {"it needs root"}
    assert said["euid"] == NOBODY
    assert said["cpu"]


@pytest.mark.requires("root")
def test_without_the_privilege_the_exit_status_is_its_own() -> None:
    """7, for a root that may not mount."""
    done = doctor("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-all")
    if "setpriv" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 7
    assert document(done).dump.because == "it needs CAP_SYS_ADMIN"
