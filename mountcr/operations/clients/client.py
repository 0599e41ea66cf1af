# SPDX-License-Identifier: Apache-2.0
"""What every engine that takes a container over can be asked, and how its program is called."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mountcr.errors import CriuError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mountcr.planning.records import Plan

__all__ = ["Client", "Done", "State", "call", "complaint", "failed"]


class State(NamedTuple):
    """What an engine says of a container, and whether it could be restored like that."""

    word: str
    pid: int
    is_dead: bool


class Client(Protocol):
    """
    An engine and one container of it.

    Making one asks nothing; it raises CapabilityError where the program is missing.
    """

    def ready(self) -> State:
        """
        Ask whether it could restore, and what has become of the container; change nothing.

        Raises CapabilityError when the engine does not answer or cannot restore, RefusedError when
        it does not know the container or has a checkpoint of it already.
        """
        ...

    def offered(self, images: str) -> contextlib.AbstractContextManager[None]:
        """Have the images where the engine looks for them, for a block."""
        ...

    def restore(self, plan: Plan) -> None:
        """Have the engine restore what is offered. Raises CriuError with what it says."""
        ...

    def running(self) -> State:
        """Ask for the container that it has just restored."""
        ...

    def end(self) -> None:
        """Have the engine end the container again, at once; raises nothing."""
        ...


class Done(NamedTuple):
    """What came of a program: its exit status and what it wrote."""

    status: int
    output: bytes
    complaint: bytes


def call(
    command: Sequence[str], environment: Mapping[str, str] | None = None, given: bytes = b""
) -> Done:
    """
    Run a program to its end, whatever signals come or are held back here.

    It writes into files, because it may leave what it writes to to a daemon that it starts, and it
    has a session and signals of its own, because what it leaves half-done nobody could undo.
    """
    with contextlib.ExitStack() as stack:
        put, out, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        put.write(given)
        put.seek(0)
        pid = os.posix_spawn(
            command[0],
            [*command],
            {**os.environ, **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, file.fileno(), number)
                for number, file in enumerate((put, out, errors))
            ],
            setsid=True,
            setsigmask=(),
        )
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        errors.seek(0)
        return Done(os.waitstatus_to_exitcode(status), out.read(), errors.read())


def complaint(said: bytes) -> str:
    """Give the last line of what a program complains of."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it gave no reason"


def failed(engine: str, why: str, log_file: str = "") -> CriuError:
    """Say why an engine did not restore: by the first error of CRIU, if its log tells one."""
    from mountcr.criu import log

    first = ""
    context: tuple[str, ...] = ()
    if os.path.exists(log_file):
        with open(log_file, encoding="utf-8", errors="replace") as file:
            first, context = log.first_error(file.read())
    return CriuError(
        f"{engine} did not restore: {first or why}",
        first_error=first,
        context=context,
        log=log_file,
        hint=f"the log is {log_file}" if first else "restore without --via engine",
    )
