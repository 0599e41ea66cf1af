# SPDX-License-Identifier: Apache-2.0
"""CRIU's log: the line that says why, whatever stands around it."""

from __future__ import annotations

import pytest

from mountcr.criu.log import CONTEXT_LINES, first_error, is_noise, message

RLIMIT = (
    "(00.024802) Error (criu/util.c:1533): rlimit: "
    "Can't setup RLIMIT_NOFILE for self: Operation not permitted"
)
ROOT_MOUNT = (
    "(00.026172) Error (criu/mount.c:753): mnt: 64:./etc/hosts doesn't have a proper root mount"
)
FAILED = "(00.026196) Error (criu/cr-dump.c:2111): Dumping FAILED."


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (ROOT_MOUNT, "mnt: 64:./etc/hosts doesn't have a proper root mount"),
        ("(00.1)   1909: Error (criu/mount.c:48): mnt: BUG at criu/mount.c:48", "mnt: BUG at"),
        ("  1909: Error (criu/mount.c:48): mnt: BUG at criu/mount.c:48", "mnt: BUG at"),
        ("Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds", "vdso: Unexpected"),
        ("(12.000001) Error (compel/src/lib/infect.c:418): Unable to detach from 1", "Unable to"),
    ],
)
def test_error_line(line: str, text: str) -> None:
    """With and without seconds and pid, and from a log or a terminal, the message is found."""
    found = message(line)
    assert found is not None
    assert found.startswith(text)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "(00.000001) Warn  (criu/kerndat.c:1): something",
        "(00.000001) mnt: Error in a path: /Error (x)",
        "criu: unrecognized option '--nosuch'",
    ],
)
def test_other_lines_are_no_errors(line: str) -> None:
    """A warning, and a line that only mentions an error, is none."""
    assert message(line) is None


def test_first_error_skips_what_is_harmless() -> None:
    """The complaint about a limit that CRIU can live without explains nothing."""
    before = [f"(00.0{number}) mnt: step {number}" for number in range(20, 29)]
    text = "\n".join([RLIMIT, *before, ROOT_MOUNT, FAILED]) + "\n"
    found, context = first_error(text)
    assert found == "mnt: 64:./etc/hosts doesn't have a proper root mount"
    assert context == (*before[-CONTEXT_LINES:], ROOT_MOUNT, FAILED)


def test_noise_is_better_than_nothing() -> None:
    """Where nothing else is said the harmless line is given, and known as such."""
    found, context = first_error(f"(00.01) begin\n{RLIMIT}\n")
    assert is_noise(found)
    assert context == ("(00.01) begin", RLIMIT)


def test_a_log_without_an_error_gives_its_end() -> None:
    """CRIU that was killed leaves a log that simply ends."""
    lines = [f"(00.01) line {number}" for number in range(20)]
    assert first_error("\n".join(lines)) == ("", tuple(lines[-CONTEXT_LINES:]))
    assert first_error("") == ("", ())


def test_a_path_cannot_end_a_line() -> None:
    """Only a newline ends a line of the log; other line ends of Unicode may stand in a path."""
    line = "(00.01) Error (criu/files-reg.c:1): Can't open /a\u2028b\x0bc"
    assert first_error(f"{line}\n") == ("Can't open /a\u2028b\x0bc", (line,))
