# SPDX-License-Identifier: Apache-2.0
"""
containerd, which makes a task from a directory of images when its options name one.

`ctr` has no word for it: its `containers restore` makes another container with another snapshot.
The daemon has (containerd, services/tasks/local.go, `getRestorePath()`), so it is asked itself. The
numbers of the fields are those of its api/services and api/types.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from mountcr.engines.containerd.wire import strings, unwrap
from mountcr.errors import CapabilityError, RefusedError
from mountcr.operations.clients.client import State, failed
from mountcr.operations.clients.grpc import Refused, Socket, number, pack, texts, unpack
from mountcr.paths import KPath, decode, fsdecode

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.errors import CriuError
    from mountcr.model import Container
    from mountcr.operations.clients.grpc import Field, Message
    from mountcr.planning.records import Plan

__all__ = ["Containerd"]

_SOCKET: Final = "/run/containerd/containerd.sock"
_RUNTIME: Final = b"io.containerd.runc.v2"
_OPTIONS: Final = "containerd.runc.v1.Options"
_NOT_FOUND: Final = 5
_STOPPED: Final = 3
_WORDS: Final = ("unknown", "created", "running", "stopped", "paused", "pausing")
_CRIU_IMAGE_PATH: Final = 10
_ENDING: Final = 10.0
"""Seconds that a killed container may take to end."""


class Containerd:
    """A container of the containerd that listens at $CONTAINERD_ADDRESS, or the usual socket."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._id = (1, container.id.encode())
        path = os.environ.get("CONTAINERD_ADDRESS", "").removeprefix("unix://") or _SOCKET
        self._socket = Socket(path, (f"containerd-namespace: {container.namespace}",))
        self._options = b""
        self._mounts: list[Field] = []
        self._images = b""

    def ready(self) -> State:
        """Ask containerd for the container, its snapshot and its task."""
        found = self._ask("containers.v1.Containers/Get")
        if found is None:
            msg = f"containerd at {self._socket.path} does not know {self._container.label}"
            hint = "say where the other one listens with $CONTAINERD_ADDRESS"
            raise RefusedError(msg, hint=f"{hint}, or restore without --via engine")
        record = strings(texts(found, 1)[0])
        self._options = _options(record.get(4, b""))
        key = ((1, record.get(6, b"")), (2, record.get(7, b"")))
        answer = self._call("snapshots.v1.Snapshots/Mounts", *key)
        self._mounts = [(3, mount) for mount in texts(answer, 1)]
        stack = self._container.stack
        upper = decode(stack.upper) if stack and stack.upper else b""
        if not any(upper in mount for _, mount in self._mounts if isinstance(mount, bytes)):
            msg = f"{self._container.label} of the containerd at {self._socket.path} is another one"
            hint = "say where the other containerd listens with $CONTAINERD_ADDRESS"
            raise RefusedError(msg, hint=hint)
        return self.running()

    @contextlib.contextmanager
    def offered(self, images: str) -> Generator[None]:
        """Remember where the images are; containerd reads them there."""
        self._images = os.fsencode(images)
        yield

    def restore(self, plan: Plan) -> None:  # noqa: ARG002 -- containerd can be told nothing
        """Forget the stopped task, and have one made and started from the images."""
        try:
            self._ask("tasks.v1.Tasks/Delete")
            options = self._options + pack([(_CRIU_IMAGE_PATH, self._images)])
            wrapped = pack([(1, _OPTIONS.encode()), (2, options)])
            made = self._call("tasks.v1.Tasks/Create", self._id, *self._mounts, (9, wrapped))
            if number(made, 2):
                # One that is not restored has a process, which waits for its start.
                raise _unable("containerd does not heed images in the options of a task")
            self._call("tasks.v1.Tasks/Start", self._id)
        except Refused as refused:
            # The log goes with the task.
            raise self._failed(refused.message) from refused
        except CapabilityError:
            self._discard()
            raise

    def _failed(self, why: str) -> CriuError:
        bundle = fsdecode(self._container.bundle or KPath("/"))
        error = failed("containerd", why, f"{bundle}/work/restore.log")
        error.log, error.hint = "", "restore without --via engine"
        self._discard()
        return error

    def _discard(self) -> None:
        """Remove the task that could not be started."""
        self.end()
        with contextlib.suppress(Refused, CapabilityError):
            self._ask("tasks.v1.Tasks/Delete")

    def running(self) -> State:
        """Ask containerd for the task."""
        found = self._ask("tasks.v1.Tasks/Get")
        if found is None:
            return State("without a task", 0, is_dead=True)
        process = unpack(texts(found, 1)[0])
        status = number(process, 4)
        word = _WORDS[status] if status < len(_WORDS) else str(status)
        return State(word, number(process, 3), status == _STOPPED)

    def end(self) -> None:
        """Kill every process of the task and wait until it has stopped."""
        with contextlib.suppress(Refused, CapabilityError):
            self._call("tasks.v1.Tasks/Kill", self._id, (3, signal.SIGKILL), (4, 1))
            until = time.monotonic() + _ENDING
            while not self.running().is_dead and time.monotonic() < until:
                time.sleep(0.02)

    def _ask(self, method: str) -> Message | None:
        """Call a method for the container; None where there is none."""
        try:
            return self._call(method, self._id)
        except Refused as refused:
            if refused.code == _NOT_FOUND:
                return None
            raise

    def _call(self, method: str, *fields: Field) -> Message:
        return self._socket.call(f"containerd.services.{method}", fields)


def _options(runtime: bytes) -> bytes:
    """Give the options of the container's runtime, if it is one that reads images."""
    found = strings(runtime)
    name = found.get(1, b"")
    wrapped = unwrap(found.get(2, b""))
    if name != _RUNTIME or wrapped.type_url not in {"", _OPTIONS}:
        raise _unable(f"containerd restores nothing through {name.decode(errors='replace')}")
    return wrapped.value


def _unable(message: str) -> CapabilityError:
    return CapabilityError(message, probe="Tasks/Create", hint="restore without --via engine")
