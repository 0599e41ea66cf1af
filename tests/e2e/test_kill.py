# SPDX-License-Identifier: Apache-2.0
"""Whenever mountcr is killed or interrupted, the host is as it was and nothing runs by half."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.demo.launch import BindMount, Tmpfs

if TYPE_CHECKING:
    from e2e.conftest import Place

INTERRUPTED = 130
GRACE = 20.0
"""Seconds in which CRIU finds out that nobody waits for it, and undoes what it did."""


def container(place: Place) -> int:
    """Start a counter with some mounts."""
    place.mount_overlay()
    pid = place.start(
        binds=[
            BindMount(str(place.write(place.top / "hosts", "10.0.0.1 db\n")), "/etc/hosts"),
            BindMount(str(place.directory("data")), "/data"),
            Tmpfs("/run"),
        ]
    )
    place.wait(lambda: place.count() > 0)
    return pid


def counts(place: Place) -> bool:
    """Tell whether the counter goes on."""
    before = place.count()
    time.sleep(0.3)
    return place.count() > before


def criu_works(place: Place) -> bool:
    """Tell whether a CRIU that mountcr has started still has the images open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"swrk" in (process / "cmdline").read_bytes() and any(
                os.readlink(each).startswith(str(place.top)) for each in process.glob("fd/*")
            ):
                return True
    return False


def settle(place: Place) -> bool:
    """Wait until nothing runs, or a whole container that counts; tell whether there is one."""
    until = time.monotonic() + GRACE
    while place.processes() or criu_works(place):
        if not criu_works(place) and counts(place):
            return True
        assert time.monotonic() < until, [
            Path(f"/proc/{pid}/cmdline").read_bytes() for pid in place.processes()
        ]
    return False


def recorded_pids() -> set[int]:
    """Give the pids of operations that have a record, of this one and of others."""
    return {int(each.name.partition("-")[0]) for each in Path("/run/mountcr/journal").iterdir()}


def begun(place: Place, process: subprocess.Popen[bytes]) -> None:
    """Wait until the command handles SIGTERM; before that it does nothing that could be undone."""

    def handles() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught & 1 << (signal.SIGTERM - 1))

    place.wait(handles)


def moments(seconds: float, number: int) -> list[float]:
    """Give random moments of a span, spread over all of it, in any order."""
    chosen = [seconds * (slot + random.random()) / number for slot in range(number)]  # noqa: S311
    random.shuffle(chosen)
    return chosen


def test_restore_is_killed(place: Place) -> None:
    """Kill -9 of a restore at any moment leaves no mount, and no container or a whole one."""
    images = place.dump(container(place))
    table = place.table()
    began = time.monotonic()
    place.kill(place.restore(images))
    pids: set[int] = set()
    for moment in moments(time.monotonic() - began, 25):
        process = place.popen("restore", images)
        time.sleep(moment)
        process.kill()
        process.wait()
        pids.add(process.pid)
        assert place.table() == table
        if settle(place):
            for pid in place.processes():
                place.kill(pid)
        assert place.table() == table
    place.mountcr("cleanup")
    assert pids.isdisjoint(recorded_pids())
    pid = place.restore(images)
    assert place.runs(pid)
    place.wait(lambda: counts(place))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_restore_is_interrupted(place: Place, number: signal.Signals) -> None:
    """An interrupted restore says so, ends with 130 and leaves nothing; or it was done already."""
    images = place.dump(container(place))
    table = place.table()
    began = time.monotonic()
    place.kill(place.restore(images))
    seconds = time.monotonic() - began
    for moment in moments(seconds * 0.8, 6):
        process = place.popen("restore", images, stderr=subprocess.PIPE)
        begun(place, process)
        time.sleep(moment)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        whole = settle(place)
        if process.returncode:
            assert process.returncode == INTERRUPTED, said
            assert said.startswith(b"mountcr: interrupted"), said
            assert said.count(b"\n") == 1, said
        assert whole == (process.returncode == 0), said
        for pid in place.processes():
            place.kill(pid)
        assert place.table() == table
    place.restore(images)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_dump_is_interrupted(place: Place, number: signal.Signals) -> None:
    """A container whose dump is interrupted or killed goes on, or is dumped whole."""
    pid = container(place)
    place.done("dump", pid, "--images", place.top / "first", "--leave-running")
    table = place.table()
    for turn, moment in enumerate(moments(0.4, 8)):
        images = place.top / f"images{turn}"
        process = place.popen("dump", pid, "--images", images)
        time.sleep(moment)
        process.send_signal(number)
        process.wait(timeout=30)
        assert place.table() == table
        if settle(place):
            assert place.runs(pid)
        else:
            pid = place.restore(images)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_start_is_interrupted(place: Place, number: signal.Signals) -> None:
    """A command that is interrupted while it loads its modules ends with one line."""
    for moment in moments(0.1, 20):
        process = place.popen("schema", "plan", stderr=subprocess.PIPE)
        begun(place, process)
        time.sleep(moment)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode in {0, INTERRUPTED}, said
        assert said.count(b"\n") <= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_is_interrupted(
    place: Place, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demonstration cleans up after itself when it is interrupted."""
    monkeypatch.setenv("TMPDIR", str(place.directory("tmp")))
    table = place.table()
    for moment in moments(0.6, 4):
        process = place.popen("demo", stderr=subprocess.PIPE)
        begun(place, process)
        time.sleep(moment)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode in {0, INTERRUPTED}, said
        assert b"Traceback" not in said
        assert place.table() == table
        assert os.listdir(place.top / "tmp") == []
        place.wait(lambda: not place.processes())
