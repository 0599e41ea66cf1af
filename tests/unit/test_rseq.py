# SPDX-License-Identifier: Apache-2.0
"""What tells, without tracing a task, that its C library registers restartable sequences."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcr.model import FileKind, OpenFile
from mountcr.observation.files import task_files
from mountcr.observation.places import Places
from mountcr.observation.rseq import Programs, is_turned_off
from mountcr.observation.source import LiveSource
from mountcr.paths import KPath
from mountcr.rules import versions
from programs import ARCHITECTURE, program

if TYPE_CHECKING:
    from pathlib import Path

OFF: Final = b"glibc.pthread.rseq=0"
OTHERS: Final = st.lists(st.lists(st.integers(1, 255), max_size=12).map(bytes))
NAMES: Final = st.sampled_from([b"glibc.malloc.check=3", b"glibc.pthread.rseq_not=0", b"x", b""])


@pytest.mark.parametrize(
    ("tunables", "off"),
    [
        (OFF, True),
        (b"glibc.malloc.check=3:" + OFF, True),
        (OFF + b":glibc.pthread.rseq=1", False),
        (b"glibc.pthread.rseq=1", False),
        (b"glibc.pthread.rseq=", False),
        (b"glibc.pthread.rseq", False),
        (b"", False),
    ],
)
def test_a_tunable_turns_it_off(tunables: bytes, *, off: bool) -> None:
    """One value counts, the last."""
    assert is_turned_off(b"PATH=/bin\0GLIBC_TUNABLES=" + tunables + b"\0HOME=/\0") is off


@given(before=OTHERS, after=OTHERS, names=st.lists(NAMES), off=st.booleans())
def test_only_that_variable_counts(
    before: list[bytes], after: list[bytes], names: list[bytes], *, off: bool
) -> None:
    """Whatever stands beside it in the environment and in the variable."""
    tunables = b":".join([*names, OFF if off else b"y"])
    variables = [*(b"_" + each for each in before), b"GLIBC_TUNABLES=" + tunables]
    assert is_turned_off(b"\0".join([*variables, *(b"_" + each for each in after)])) is off


def test_an_environment_without_it() -> None:
    """A variable whose name ends so is another one."""
    assert not is_turned_off(b"")
    assert not is_turned_off(b"MY_GLIBC_TUNABLES=" + OFF + b"\0")


def registers(command: list[str], environment: dict[str, str]) -> bool:
    """Ask of a process that copies its standard input."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()  # its loader is mapped a moment after execve(2) is seen
        with Places() as places:
            files, _ = task_files(LiveSource(process.pid, places))
        return Programs().register(process.pid, files)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not versions.within(platform.libc_ver()[1], "2.35", ""),
    reason="no glibc that registers",
)
def test_a_dynamic_program() -> None:
    """Its loader is looked into."""
    assert registers(["/bin/cat"], {})
    assert not registers(["/bin/cat"], {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"})


@pytest.mark.skipif(os.uname().machine != ARCHITECTURE, reason=f"made for {ARCHITECTURE}")
def test_a_static_program(tmp_path: Path) -> None:
    """The program itself is looked into: here is one without any C library, and one that lies."""
    for content, found in ((program(), False), (program() + b"glibc.pthread.rseq\0", True)):
        path = tmp_path / f"program-{found}"
        path.write_bytes(content)
        path.chmod(0o755)
        process = subprocess.Popen([str(path)])
        try:
            assert Programs().register(process.pid, ()) is found
        finally:
            process.kill()
            process.wait()


def test_a_process_that_is_gone() -> None:
    """Nothing is told of it, and nothing raised."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    assert not Programs().register(process.pid, ())


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("ld-linux-x86-64.so.2", True),
        ("ld-2.31.so", True),
        ("ld64.so.2", True),
        ("ld.so.1", True),
        ("ld-musl-x86_64.so.1", True),
        (r"ld-2.36.so\040(deleted)", True),
        ("ldap.so", False),
        ("libld.so", False),
        ("libc.so.6", False),
    ],
)
def test_the_name_of_a_loader(name: str, *, loader: bool, opened: list[str]) -> None:
    """It is recognised by its file name among the mappings; else the program is looked into."""
    file = OpenFile(kind=FileKind.MAP, shown=KPath(f"/lib/{name}"), start=0x1000, end=0x2000)
    Programs().register(7, [file])
    assert opened == ["/proc/7/map_files/1000-2000" if loader else "/proc/7/exe"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are opened, none of which is there."""
    paths: list[str] = []

    def refuse(path: str, _flags: int) -> int:
        paths.append(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "open", refuse)
    return paths
