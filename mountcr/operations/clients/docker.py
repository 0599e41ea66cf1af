# SPDX-License-Identifier: Apache-2.0
"""
Docker, which starts a container from a directory in `checkpoints` of its own.

It packs the files of that directory for its containerd (moby, libcontainerd/remote/client.go), so
the images are linked there one by one, or copied where they are on another file system.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import journal
from mountcr.errors import CapabilityError, RefusedError
from mountcr.kernel.removal import remove_tree
from mountcr.operations.clients.client import State, call, complaint, failed
from mountcr.paths import encode, fsdecode
from mountcr.programs import locate_program

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.model import Container
    from mountcr.planning.records import Plan

__all__ = ["Docker"]

_NAME: Final = "mountcr"
"""What Docker is told the checkpoint is called."""


class _Info(msgspec.Struct):
    root: str = msgspec.field(default="", name="DockerRootDir")
    is_experimental: bool = msgspec.field(default=False, name="ExperimentalBuild")


class _Status(msgspec.Struct):
    status: str = msgspec.field(default="", name="Status")
    pid: int = msgspec.field(default=0, name="Pid")


class Docker:
    """A container of the Docker that answers the command line, by $DOCKER_HOST or its usual way."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._program = locate_program("docker")
        self._root = fsdecode(container.state_root) if container.state_root else ""
        self._place = f"{self._root}/containers/{container.id}/checkpoints/{_NAME}"

    def ready(self) -> State:
        """Ask Docker, if it is the one that ran the container."""
        done = call([self._program, "info", "--format", "{{json .}}"])
        info = msgspec.json.decode(done.output or b"{}", type=_Info)
        if not info.root:
            msg = f"Docker does not answer: {complaint(done.complaint)}"
            hint = "start it, say where with $DOCKER_HOST, or restore without --via engine"
            raise CapabilityError(msg, probe="docker info", hint=hint)
        if os.path.realpath(info.root) != os.path.realpath(self._root):
            msg = f"the Docker that answers keeps its containers in {info.root}, not {self._root}"
            raise RefusedError(msg, hint="say where the other one is with $DOCKER_HOST")
        if not info.is_experimental:
            msg = "Docker restores nothing unless it is experimental"
            hint = 'set "experimental": true in its daemon.json, or restore without --via engine'
            raise CapabilityError(msg, probe="docker info", hint=hint)
        if os.path.lexists(self._place):
            msg = f"Docker has a checkpoint of {self._container.label}: {self._place}"
            raise RefusedError(msg, hint=f"docker checkpoint rm {self._container.id} {_NAME}")
        return self.running()

    def running(self) -> State:
        """Ask Docker for the state and the pid."""
        words = ["container", "inspect", "--format", "{{json .State}}", self._container.id]
        done = call([self._program, *words])
        if done.status:
            msg = f"Docker does not know {self._container.label}: {complaint(done.complaint)}"
            raise RefusedError(msg, hint="restore without --via engine")
        found = msgspec.json.decode(done.output, type=_Status)
        return State(found.status, found.pid, found.status in {"exited", "created"})

    @contextlib.contextmanager
    def offered(self, images: str) -> Generator[None]:
        """Link the images into a checkpoint, for a block."""
        journal.make_directories(os.fsencode(self._place), 0o700, tree=True)
        try:
            for name in os.listdir(images):
                if name.endswith(".img") or name == "descriptors.json":
                    _link(f"{images}/{name}", f"{self._place}/{name}")
            yield
        finally:
            remove_tree(encode(self._place))

    def restore(self, plan: Plan) -> None:  # noqa: ARG002 -- Docker can be told nothing
        """Start it from the checkpoint."""
        words = ["container", "start", "--checkpoint", _NAME, self._container.id]
        done = call([self._program, *words])
        if done.status:
            raise failed("Docker", complaint(done.complaint.partition(b"\n")[0]))

    def end(self) -> None:
        """Have Docker kill it and take its root apart."""
        call([self._program, "container", "stop", "--time", "0", self._container.id])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one that has no links
        shutil.copyfile(source, target)
