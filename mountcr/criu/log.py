# SPDX-License-Identifier: Apache-2.0
"""
CRIU's log: the line that says why it failed, and the lines around it.

A line is `(seconds) [pid:] Level (file:line): message`; `criu check` and a log that was not yet
opened leave the seconds out. Nothing here opens a file.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CONTEXT_LINES", "first_error", "is_noise", "message"]

CONTEXT_LINES: Final = 5
"""How many lines `first_error` gives before and after the line it found."""

_ERROR: Final = re.compile(r"^\s*(?:\(\s*\d+\.\d+\)\s*)?(?:\d+:\s*)?Error \([^)]*\): ?(.*)$")
_NOISE: Final = (
    # Without CAP_SYS_RESOURCE in the bounding set; CRIU goes on with the limits it has.
    "rlimit: Can't setup RLIMIT_NOFILE for self",
    # A helper program ended with this; CRIU says next what it wanted, or goes on without it.
    "exited, status=",
)


def message(line: str) -> str | None:
    """
    Give the message of an error line, None for any other line.

    >>> message("(00.012345)      1: Error (criu/mount.c:1074): mnt: 86:./a has no root mount")
    'mnt: 86:./a has no root mount'
    """
    match = _ERROR.match(line)
    return match[1].strip() if match else None


def is_noise(text: str) -> bool:
    """Tell whether an error message is one that CRIU also prints when all is well."""
    return text.startswith(_NOISE)


def first_error(text: str) -> tuple[str, tuple[str, ...]]:
    """
    Find the first error of a log that is not noise.

    Gives its message and the lines around it, `CONTEXT_LINES` each way; the first line of noise
    when there is nothing else, and an empty message with the last lines when there is no error.
    """
    # Not splitlines(): a path in the log may hold any character that Unicode calls a line end.
    lines = [line.rstrip("\r") for line in text.rstrip("\n").split("\n")] if text.strip() else []
    noise: tuple[int, str] | None = None
    for number, line in enumerate(lines):
        found = message(line)
        if found is None:
            continue
        if not is_noise(found):
            return found, _around(lines, number)
        noise = noise or (number, found)
    if noise:
        return noise[1], _around(lines, noise[0])
    return "", tuple(lines[-CONTEXT_LINES:])


def _around(lines: list[str], number: int) -> tuple[str, ...]:
    return tuple(lines[max(0, number - CONTEXT_LINES) : number + CONTEXT_LINES + 1])
