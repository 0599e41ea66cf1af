# SPDX-License-Identifier: Apache-2.0
"""
What may come out of reading something that comes from anywhere, and what may be touched meanwhile.

An input is taken or refused by an error of mountcr that names the rule, or the file and what is
wrong in it, in one line. Nothing outside of the directory of the run is opened, made or started.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from mountcr.errors import (
    DocumentError,
    ImageError,
    MountcrError,
    PlanError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FindingError", "Oracle"]

MOST_SECONDS: Final = 10.0
LONGEST: Final = 2000
"""Characters of a message."""

_STARTED: Final = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.")
_TOUCHED: Final = (
    "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.chmod",
    "os.chown", "os.truncate", "os.utime", "os.setxattr", "os.removexattr", "os.listdir",
    "os.scandir", "os.chdir", "shutil.",
)  # fmt: skip


class FindingError(AssertionError):
    """Something came out, or was touched, that must not."""


class Oracle:
    """
    Judges what a target does with an input; files of a run lie below `top`.

    Python keeps a hook forever, so one process has one oracle.
    """

    def __init__(self, top: str) -> None:
        self._top = os.path.join(os.path.realpath(top), "")
        self._code = tuple(os.path.join(os.path.realpath(path), "") for path in sys.path if path)
        self._armed = False
        self._touched: list[str] = []
        self.runs = 0
        sys.addaudithook(self._hear)

    def judge(self, target: Callable[[bytes], None], data: bytes) -> bool:
        """Tell whether an input is taken. Raises FindingError, and whatever is no error of ours."""
        self.runs += 1
        self._touched.clear()
        began = time.monotonic()
        self._armed = True
        try:
            target(data)
            taken = True
        except MountcrError as error:
            taken = False
            self._armed = False
            _judge(error)
        finally:
            self._armed = False
        if self._touched:
            raise FindingError(f"it touched {self._touched[0]}")
        if time.monotonic() - began > MOST_SECONDS:
            raise FindingError(f"it took {time.monotonic() - began:.0f} s")
        return taken

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        if event.startswith(_STARTED):
            self._touched.append(event)
        elif event == "open" or event.startswith(_TOUCHED):
            path = arguments[0] if arguments else None
            if isinstance(path, str | bytes) and not self._is_ours(event, path, arguments):
                self._touched.append(f"{event} {path!r}")

    def _is_ours(self, event: str, path: str | bytes, arguments: tuple[Any, ...]) -> bool:
        text = os.path.abspath(os.fsdecode(path))
        if f"{text}/".startswith(self._top):
            return True
        # modules are read when they are wanted first
        reads = event in {"os.listdir", "os.scandir"} or (
            event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        return reads and text.startswith(self._code)


def _judge(error: MountcrError) -> None:
    message = error.message
    if not message.isprintable() or len(message) > LONGEST:
        raise FindingError(f"not one line that can be shown: {message[:LONGEST]!a}")
    if not error.hint or not error.hint.isprintable():
        raise FindingError(f"no hint, or none that can be shown, with: {message}")
    named = isinstance(error, DocumentError | ImageError | PlanError | VerificationError)
    if "(rule: " not in message and not named:
        raise FindingError(f"no rule is named: {type(error).__name__}: {message}")
