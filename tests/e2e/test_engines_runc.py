# SPDX-License-Identifier: Apache-2.0
"""Containers of a real runtime, in a private root, are found as the runtime itself sees them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Roots, find, list_containers
from mountcr.engines.pid import ensure_running
from mountcr.errors import AmbiguousError, GoneError, NotFoundError
from mountcr.paths import encode
from mountcr.procstat import read_stat, read_status
from runtimes import CONTAINER, Runtime, has_ended, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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
    wait_until(lambda: not find(CONTAINER, roots=runtime.roots).pid)
    assert status() == "stopped"


def test_a_container_that_ends_is_gone(runtime: Runtime) -> None:
    """The record that was found before is refused, the record found after has no process."""
    runtime.start()
    found = find(CONTAINER, roots=runtime.roots)
    os.kill(found.pid, 9)
    wait_until(lambda: has_ended(found.pid))
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
