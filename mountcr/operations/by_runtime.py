# SPDX-License-Identifier: Apache-2.0
"""
Restore through the container's own runtime: mountcr brings the root back, runc or crun the rest.

The runtime knows the container afterwards, with its id, bundle and control groups. It runs in a
private mount namespace, where the root lies at the bundle's rootfs; the images need nothing but
what every dump of mountcr has: externals that are named by their mountpoints, as the runtimes
name them, and `descriptors.json`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import mountinfo, procstat
from mountcr.criu import binary, log
from mountcr.errors import CapabilityError, CriuError, MountcrError, RefusedError, UsageError
from mountcr.journal import HandingOver, note
from mountcr.kernel import mounts
from mountcr.operations.network import ready as ready_network
from mountcr.operations.refusal import refuse_imported
from mountcr.operations.restored import end_tasks, settle
from mountcr.operations.streams import standard_streams
from mountcr.paths import KPath, fsdecode
from mountcr.planning.cgroups import crun_restores, layout
from mountcr.planning.choices import RESTORE_ROOT, Tcp
from mountcr.planning.network_steps import NetworkAt
from mountcr.programs import locate_program

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.manifest import Manifest
    from mountcr.planning.records import Plan

__all__ = ["ByRuntime"]

_RUNTIMES: Final = frozenset({"runc", "crun"})


class _State(msgspec.Struct):
    """What `runc state` and `crun state` print."""

    status: str = ""


class ByRuntime:
    """
    One restore with `runc restore` or `crun restore`.

    Raises UsageError when the container was not run by one of them or options for CRIU were
    given, CapabilityError when the runtime or CRIU is missing or the runtime cannot.
    """

    assembles = True

    def __init__(self, manifest: Manifest, plan: Plan, stdio: str) -> None:
        self._manifest = manifest
        self._plan = plan
        self._stdio = stdio
        self._container = manifest.facts.container
        _check(manifest, plan)
        self._command = [locate_program(self._container.engine)]
        if self._container.state_root:
            self._command += ["--root", fsdecode(self._container.state_root)]
        criu = binary.require().command[0]
        path = f"{os.path.dirname(criu)}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = dict(os.environ, PATH=path)

    @contextlib.contextmanager
    def ready(self) -> Generator[None]:
        """
        Delete the runtime's record of the dead container, which stands in the way of its id.

        Raises RefusedError when the container still runs.
        """
        self._forget_stopped()
        with ready_network(self._plan.network):
            yield

    def restore(self) -> int:
        """Hand over with the root at the bundle's rootfs, settle, give the root task's pid."""
        if self._container.rootfs:
            mounts.rebind(RESTORE_ROOT, self._container.rootfs)
        note(HandingOver())
        pid = self._restore()
        try:
            settle(self._manifest, self._plan, pid)
        except BaseException:
            end_tasks(pid)
            raise
        return pid

    def end(self, pid: int) -> None:
        """Kill what was restored."""
        end_tasks(pid)

    def _forget_stopped(self) -> None:
        """Delete the runtime's record of the dead container, which stands in the way of its id."""
        done = self._call(["state", self._container.id])
        if done.returncode:
            return
        status = msgspec.json.decode(done.stdout, type=_State).status
        if status != "stopped":
            msg = f"{self._container.engine} has a container {self._container.id}, {status}"
            raise RefusedError(msg, hint="stop and delete it first, or restore without --via")
        deleted = self._call(["delete", self._container.id])
        if deleted.returncode:
            msg = f"the stopped container cannot be deleted: {_complaint(deleted.stderr)}"
            raise MountcrError(msg)

    def _restore(self) -> int:
        images = fsdecode(self._plan.choices.images)
        with tempfile.TemporaryDirectory(prefix="mountcr-") as scratch:
            pid_file = f"{scratch}/pid"
            words = [
                "restore",
                "--detach",
                f"--manage-cgroups-mode={self._plan.criu.restore_options.manage_cgroups}",
                *(["--tcp-established"] if self._plan.choices.tcp is Tcp.ESTABLISHED else []),
                *("--image-path", images),
                *("--work-path", images),
                *("--bundle", fsdecode(self._container.bundle or KPath("/"))),
                *("--pid-file", pid_file),
                self._container.id,
            ]
            done = self._call(words, scratch=scratch, stdio=self._stdio)
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
                [*self._command, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment,
                check=False,
            )
        log_file = f"{scratch}/log"
        with standard_streams(stdio) as (stdin, stdout, stderr):
            done = subprocess.run(
                [self._command[0], "--log", log_file, *self._command[1:], *words],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=self._environment,
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
            f"{self._container.engine} restore failed: {why}",
            first_error=first,
            context=context,
            log=path,
            hint=f"the log is {path}",
        )


def _check(manifest: Manifest, plan: Plan) -> None:
    container = manifest.facts.container
    refuse_imported(manifest, "runtime")
    if container.engine not in _RUNTIMES or container.bundle is None:
        msg = f"{container.engine}:{container.id} has no OCI runtime that could restore it"
        raise UsageError(msg, hint="leave --via out: CRIU restores it without one")
    if plan.choices.extra:
        msg = f"{container.engine} takes no options for CRIU"
        raise UsageError(msg, hint="leave out what follows --, or --via runtime")
    if plan.choices.tcp is Tcp.CLOSE:
        msg = f"{container.engine} closes no TCP connections"
        raise UsageError(msg, hint="leave out --tcp-close, or --via runtime")
    _check_network(plan)
    kind = layout(mountinfo.read())
    if not crun_restores(container.engine, manifest.cgroups, kind):
        msg = f"crun cannot restore control groups dumped with {manifest.cgroups} on {kind} layout"
        hint = "restore without --via runtime, or dump with --manage-cgroups-mode ignore"
        raise CapabilityError(msg, probe="crun restore", hint=hint)


def _check_network(plan: Plan) -> None:
    """Refuse a network namespace that the runtime would not find at the path in its bundle."""
    network = plan.network
    if plan.choices.net or (network is not None and not network.external):
        msg = "a runtime restores into the network namespace that its bundle names"
        raise UsageError(msg, hint="leave out --net, or --via runtime")
    if network is not None and not isinstance(network.making[0], NetworkAt):
        msg = f"its network namespace is not in the images: {network.because}"
        hint = "have one at the path in its bundle, or restore without --via runtime"
        raise RefusedError(msg, hint=hint)


def _complaint(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
