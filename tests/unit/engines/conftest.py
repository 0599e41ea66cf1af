# SPDX-License-Identifier: Apache-2.0
"""Runtime roots in temporary directories, holding recorded state files of live processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mountcr.engines import Roots
from mountcr.paths import encode
from mountcr.procstat import ProcessStat, read_stat

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path(__file__).parents[2] / "fixtures" / "engines"


class Host:
    """A made-up host: a directory for runtime roots and bundles, and processes that sleep."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self._stack = stack

    @property
    def roots(self) -> Roots:
        """Every directory made by `root`, in the order of their names."""
        found = sorted((self.directory / "roots").glob("*"))
        return Roots(runtime=tuple(encode(str(path)) for path in found))

    def root(self, name: str = "run") -> Path:
        """Make a runtime root."""
        path = self.directory / "roots" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def process(self) -> ProcessStat:
        """Start a process that sleeps until the test is over."""
        process = subprocess.Popen(["sleep", "60"])
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return read_stat(process.pid)

    def bundle(self, name: str = "bundle", **changes: Any) -> Path:
        """Make a bundle with the recorded config.json of a container of runc."""
        path = self.directory / name
        (path / "rootfs").mkdir(parents=True)
        spec = json.loads((RECORDED / "runc/runc-overlay/config.json").read_bytes())
        (path / "config.json").write_text(json.dumps(spec | changes))
        return path

    def runc(
        self,
        container: str,
        process: ProcessStat | None = None,
        *,
        root: str = "run",
        recorded: str = "runc-overlay",
        **changes: Any,
    ) -> Path:
        """Put a recorded state.json of runc into a root; without a process, of one that ended."""
        state = json.loads((RECORDED / "runc" / recorded / "state.json").read_bytes())
        config = state["config"] | changes.pop("config", {})
        state |= {"id": container, "config": config} | changes
        state |= _of_runc(process)
        directory = self.root(root) / container
        directory.mkdir()
        (directory / "state.json").write_text(json.dumps(state))
        return directory

    def crun(
        self,
        container: str,
        process: ProcessStat | None = None,
        *,
        root: str = "run",
        recorded: str = "crun-overlay",
        **changes: Any,
    ) -> Path:
        """Put a recorded status file of crun and its config.json into a root."""
        source = RECORDED / "crun" / recorded
        status = json.loads((source / "status").read_bytes()) | changes
        status["pid"] = process.pid if process else ended().pid
        status["process-start-time"] = process.start_time if process else ended().start_time
        directory = self.root(root) / container
        directory.mkdir()
        (directory / "status").write_text(json.dumps(status))
        if (source / "config.json").exists():
            (directory / "config.json").write_bytes((source / "config.json").read_bytes())
        return directory

    def youki(
        self, container: str, bundle: Path, process: ProcessStat | None = None, **changes: Any
    ) -> Path:
        """Write a state.json with the fields of youki's `State`."""
        state: dict[str, Any] = {
            "ociVersion": "v1.0.2",
            "id": container,
            "status": "running",
            "pid": process.pid if process else ended().pid,
            "bundle": str(bundle),
            "annotations": {},
            "created": "2026-01-01T00:00:00.000000000Z",
            "creator": 0,
            "useSystemd": False,
        }
        directory = self.root() / container
        directory.mkdir()
        (directory / "state.json").write_text(json.dumps(state | changes))
        (directory / "youki_config.json").write_text('{"hooks": null, "cgroup_path": "/x"}')
        return directory


def ended() -> ProcessStat:
    """Give a process that was there and has been reaped."""
    process = subprocess.Popen(["sleep", "60"])
    found = read_stat(process.pid)
    process.kill()
    process.wait()
    return found


def _of_runc(process: ProcessStat | None) -> dict[str, int]:
    """Give the fields in which runc names the init process."""
    found = process or ended()
    return {"init_process_pid": found.pid, "init_process_start": found.start_time}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A made-up host; its processes end with the test."""
    with contextlib.ExitStack() as stack:
        yield Host(tmp_path, stack)
