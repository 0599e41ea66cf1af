# SPDX-License-Identifier: Apache-2.0
"""The CRIU program: which one is taken, and what is said of one that does not work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mountcr import programs
from mountcr.criu import binary
from mountcr.errors import CapabilityError, CriuError, PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION = 'case "$1" in --version) echo "Version: 3.17.1"; exit 0;; esac'
# What Debian 12's CRIU prints on Linux 6.18.
BROKEN = f"""{VERSION}
echo "Error (criu/util.c:642): exited, status=1" >&2
echo "Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds" >&2
echo "Error (criu/vdso.c:613): vdso: Failed to fill self vdso symtable" >&2
exit 1
"""
UNPRIVILEGED = f"""{VERSION}
echo "CRIU needs to have the CAP_SYS_ADMIN or the CAP_CHECKPOINT_RESTORE capability: "
echo "setcap cap_checkpoint_restore+eip criu"
exit 1
"""


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], tuple[str, ...]]:
    """Write a program below an otherwise empty world."""
    monkeypatch.delenv("MOUNTCR_CRIU", raising=False)
    monkeypatch.setenv("MOUNTCR_PREFIX", str(tmp_path / "prefix"))
    monkeypatch.setattr(programs, "DEFAULT_PREFIX", str(tmp_path / "default"))
    monkeypatch.setenv("PATH", f"{tmp_path}/path/bin")

    def write(place: str, text: str) -> tuple[str, ...]:
        path = tmp_path / place / "bin/criu"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
        path.chmod(0o755)
        return (str(path),)

    return write


def test_order(
    program: Callable[[str, str], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """$MOUNTCR_CRIU, then the prefix, the default prefix, PATH."""
    assert binary.identify().command == ()
    for place in ("path", "default", "prefix", "named"):
        command = program(place, VERSION)
        if place == "named":
            monkeypatch.setenv("MOUNTCR_CRIU", command[0])
        assert binary.identify().command == command


def test_one_that_does_not_run_is_passed_over(
    program: Callable[[str, str], tuple[str, ...]],
) -> None:
    """A candidate that cannot print its version is not taken, if another one can."""
    program("prefix", "exit 127")
    command = program("path", VERSION)
    assert binary.identify().command == command


def test_a_named_one_is_the_only_one(
    program: Callable[[str, str], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a CRIU that does not run hears of it, and does not get another one."""
    program("path", VERSION)
    monkeypatch.setenv("MOUNTCR_CRIU", "/nowhere/criu")
    with pytest.raises(CapabilityError, match="tried /nowhere/criu") as caught:
        binary.require()
    assert caught.value.exit_status == 6
    assert "tools/provision" in (caught.value.hint or "")
    assert "MOUNTCR_CRIU" in (caught.value.hint or "")


def test_a_broken_one_says_why(program: Callable[[str, str], tuple[str, ...]]) -> None:
    """The first line of CRIU's error that means something is the message."""
    command = program("path", BROKEN)
    criu = binary.probe()
    assert (criu.command, criu.version) == (command, "3.17.1")
    assert criu.problem == "vdso: Unexpected rt vDSO area bounds"
    with pytest.raises(CapabilityError, match="vdso: Unexpected rt vDSO area bounds") as caught:
        binary.check()
    assert caught.value.exit_status == 6
    assert caught.value.probe == "criu check"
    assert "\n" not in caught.value.message


def test_missing_privilege_is_not_a_broken_criu(
    program: Callable[[str, str], tuple[str, ...]],
) -> None:
    """Without root CRIU says what it lacks; that is exit status 7."""
    program("path", UNPRIVILEGED)
    with pytest.raises(PrivilegeError, match="CAP_SYS_ADMIN or the CAP_CHECKPOINT_RESTORE"):
        binary.check()


def test_a_failure_is_blamed_on_a_broken_criu(
    program: Callable[[str, str], tuple[str, ...]],
) -> None:
    """Whether CRIU works is asked when it failed; a broken one is the news, and not the failure."""
    program("path", BROKEN)
    assert binary.require().version == "3.17.1"
    with pytest.raises(CapabilityError, match="Unexpected rt vDSO"), binary.blamed():
        raise CriuError("dump failed")


def test_a_failure_of_a_criu_that_works_is_its_own(
    program: Callable[[str, str], tuple[str, ...]],
) -> None:
    """A CRIU that is content with this host failed for the reason that it gave."""
    program("path", VERSION)
    with pytest.raises(CriuError, match="dump failed"), binary.blamed():
        raise CriuError("dump failed")


def test_silence_is_a_problem_too(program: Callable[[str, str], tuple[str, ...]]) -> None:
    """A check that fails without a word has its status as the problem."""
    program("path", f"{VERSION}\nexit 3")
    assert binary.probe().problem == "`criu check` ended with status 3"


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("Version: 4.1.1\n", "4.1.1"),
        ("Version: 4.2\nGitID: v4.2-14-g2cf8f13ca\n", "4.2"),
        ("criu: command not found", ""),
        ("", ""),
    ],
)
def test_version(printed: str, version: str) -> None:
    """The version is the word after `Version:`."""
    assert binary.parse_version(printed) == version


@pytest.mark.requires("criu")
@pytest.mark.skipif(os.geteuid() != 0, reason="`criu check` needs root")
def test_the_real_one(require: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRIU that works has a version, no problem, and knows its features."""
    monkeypatch.setenv("MOUNTCR_CRIU", require("criu"))
    criu = binary.require()
    assert criu.problem == ""
    assert int(criu.version.partition(".")[0]) >= 3
    with binary.examining(criu, ("mnt_id", "no_such_feature")) as answers:
        features = answers().features
    assert features["mnt_id"]
    assert not features["no_such_feature"]
