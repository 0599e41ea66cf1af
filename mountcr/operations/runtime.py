# SPDX-License-Identifier: Apache-2.0
"""
Restore through the container's own runtime: mountcr brings the root back, runc or crun the rest.

The runtime knows the container afterwards, with its id, bundle and control groups. It runs in a
private mount namespace, where the root lies at the bundle's rootfs; the images need nothing but
what every dump of mountcr has: externals that are named by their mountpoints, as the runtimes
name them, and `descriptors.json`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import mountinfo, procstat
from mountcr.criu import binary, log
from mountcr.errors import CapabilityError, CriuError, MountcrError, RefusedError, UsageError
from mountcr.execute import applied
from mountcr.kernel import mounts
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_private_namespace
from mountcr.operations.restore import (
    RestoreResult,
    RestoreSeconds,
    alone,
    attach_root,
    check_plan,
    compare,
    end_tasks,
    is_announced,
    plan_restore,
    protect_root,
)
from mountcr.operations.streams import keep_appending, standard_streams
from mountcr.paths import KPath, decode
from mountcr.planning.cgroups import crun_restores, layout
from mountcr.planning.choices import RESTORE_ROOT
from mountcr.programs import locate_program

if TYPE_CHECKING:
    from mountcr.manifest import Manifest
    from mountcr.planning.choices import Choices
    from mountcr.planning.records import Plan

__all__ = ["restore_by_runtime"]

_RUNTIMES: Final = frozenset({"runc", "crun"})


def restore_by_runtime(images: KPath, choices: Choices, *, stdio: str = "null") -> RestoreResult:
    """
    Restore with `runc restore` or `crun restore`.

    Raises UsageError when the container was not run by one of them or options for CRIU were
    given, CapabilityError when the runtime or CRIU is missing, RefusedError when the runtime
    still has a running container of that id, CriuError when the runtime failed, and what
    `restore` raises. On failure nothing runs, and the host's mount table is as it was.
    """
    with alone(images, choices):
        return _restore_alone(images, choices, stdio)


def _restore_alone(images: KPath, choices: Choices, stdio: str) -> RestoreResult:
    started = time.monotonic()
    manifest, plan = plan_restore(images, choices)
    container = manifest.facts.container
    if container.engine not in _RUNTIMES or container.bundle is None:
        msg = f"{container.engine}:{container.id} has no OCI runtime that could restore it"
        raise UsageError(msg, hint="leave --via out: CRIU restores it without one")
    if choices.extra:
        msg = f"{container.engine} takes no options for CRIU"
        raise UsageError(msg, hint="leave out what follows --, or --via runtime")
    kind = layout(mountinfo.read())
    if not crun_restores(container.engine, manifest.cgroups, kind):
        msg = f"crun cannot restore control groups dumped with {manifest.cgroups} on {kind} layout"
        hint = "restore without --via runtime, or dump with --manage-cgroups-mode ignore"
        raise CapabilityError(msg, probe="crun restore", hint=hint)
    check_plan(plan)
    planned = time.monotonic()
    runtime = _Runtime(manifest, plan, choices, stdio)
    runtime.forget_stopped()
    fds: list[int] = []
    pid = in_private_namespace(lambda: runtime.run(fds), fds=fds, undo=end_tasks)
    protect_root(manifest, pid)
    keep_appending(pid, plan.inherited)
    attach_root(fds, choices.root_at)
    found = compare(manifest, pid)
    return RestoreResult(
        pid=pid,
        root=choices.root_at,
        differences=tuple(found),
        announced=all(is_announced(plan, each) for each in found),
        seconds=RestoreSeconds(
            plan=round(planned - started, 4), total=round(time.monotonic() - started, 4)
        ),
    )


class _State(msgspec.Struct):
    """What `runc state` and `crun state` print."""

    status: str = ""


class _Runtime:
    """One restore by a runtime."""

    def __init__(self, manifest: Manifest, plan: Plan, choices: Choices, stdio: str) -> None:
        self.container = manifest.facts.container
        self.plan = plan
        self.choices = choices
        self.stdio = stdio
        self.command = [locate_program(self.container.engine)]
        if self.container.state_root:
            self.command += ["--root", os.fsdecode(decode(self.container.state_root))]
        criu = binary.require().command[0]
        path = f"{os.path.dirname(criu)}{os.pathsep}{os.environ.get('PATH', '')}"
        self.environment = dict(os.environ, PATH=path)

    def forget_stopped(self) -> None:
        """Delete the runtime's record of the dead container, which stands in the way of its id."""
        done = self._call(["state", self.container.id])
        if done.returncode:
            return
        status = msgspec.json.decode(done.stdout, type=_State).status
        if status != "stopped":
            msg = f"{self.container.engine} has a container {self.container.id}, {status}"
            raise RefusedError(msg, hint="stop and delete it first, or restore without --via")
        deleted = self._call(["delete", self.container.id])
        if deleted.returncode:
            msg = f"the stopped container cannot be deleted: {_complaint(deleted.stderr)}"
            raise MountcrError(msg)

    def run(self, fds: list[int]) -> int:
        """Assemble the root at the bundle's rootfs and hand over; give the pid of the root task."""
        rootfs = self.plan.rootfs
        os.makedirs(decode(RESTORE_ROOT), exist_ok=True)
        with applied(rootfs.steps if rootfs else (), LiveKernel()):
            if self.container.rootfs:
                mounts.rebind(RESTORE_ROOT, self.container.rootfs)
            pid = self._restore()
            if self.choices.root_at:
                fds.append(mounts.clone(RESTORE_ROOT))
            return pid

    def _restore(self) -> int:
        images = os.fsdecode(decode(self.plan.choices.images))
        with tempfile.TemporaryDirectory(prefix="mountcr-") as scratch:
            pid_file = f"{scratch}/pid"
            words = [
                "restore",
                "--detach",
                f"--manage-cgroups-mode={self.plan.criu.restore_options.manage_cgroups}",
                *("--image-path", images),
                *("--work-path", images),
                *("--bundle", os.fsdecode(decode(self.container.bundle or KPath("/")))),
                *("--pid-file", pid_file),
                self.container.id,
            ]
            done = self._call(words, scratch=scratch, stdio=self.stdio)
            if done.returncode:
                raise self._failed(done.stderr, images)
            with open(pid_file, encoding="ascii") as file:
                pid = int(file.read())
        procstat.read_stat(pid)
        return pid

    def _call(
        self, words: list[str], *, scratch: str = "", stdio: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """
        Run the runtime. With `stdio` the container gets standard streams, so the runtime's own
        complaints go to a log file.
        """
        if not stdio:
            return subprocess.run(
                [*self.command, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self.environment,
                check=False,
            )
        log_file = f"{scratch}/log"
        with standard_streams(stdio) as (stdin, stdout, stderr):
            done = subprocess.run(
                [self.command[0], "--log", log_file, *self.command[1:], *words],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=self.environment,
                check=False,
            )
        said = b""
        if os.path.exists(log_file):
            with open(log_file, "rb") as file:
                said = file.read()
        return subprocess.CompletedProcess(done.args, done.returncode, b"", said)

    def _failed(self, said: bytes, images: str) -> CriuError:
        """Prefer CRIU's first error over what the runtime makes of it."""
        first, context = log.first_error("")
        path = f"{images}/restore.log"
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                first, context = log.first_error(file.read())
        why = first or _complaint(said)
        return CriuError(
            f"{self.container.engine} restore failed: {why}",
            first_error=first,
            context=context,
            log=path,
            hint=f"the log is {path}",
        )


def _complaint(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
