# SPDX-License-Identifier: Apache-2.0
"""`mountcr ls`, `inspect` and `completion`: what is known here, and what shells are told of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mountcr.cli import main

if TYPE_CHECKING:
    from unit.engines.conftest import Host


@pytest.fixture(autouse=True)
def _only_this_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look nowhere but below the made-up host."""
    monkeypatch.setenv("MOUNTCR_RUNTIME_ROOT", str(host.root()))


def _listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["ls", "--json", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "mountcr/ls/1"
    found: list[dict[str, Any]] = document["containers"]
    return found


def test_ls_says_what_is_and_what_is_recorded(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container that has ended is stopped, whatever stands in its state."""
    process = host.process()
    host.runc("web", process)
    host.runc("old")
    rows = {each["id"]: each for each in _listed(capsys, "--engine", "runc")}
    assert (rows["web"]["status"], rows["web"]["pid"]) == ("running", process.pid)
    assert (rows["old"]["status"], rows["old"]["pid"]) == ("stopped", 0)


def test_ls_names_what_is_damaged_and_lists_the_others(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """The damage goes to standard error, with file; the table has every container."""
    host.runc("web", host.process())
    file = host.runc("bad") / "state.json"
    file.write_text('{"id": "bad", "init_pro')
    assert main(["ls"]) == 0
    printed = capsys.readouterr()
    (line,) = (line for line in printed.err.splitlines() if str(file) in line)
    assert line.startswith(f"runc:bad: {file}: no JSON")
    words = [line.split()[:2] for line in printed.out.splitlines()]
    assert ["web", "runc"] in words
    assert ["bad", "runc"] in words


def test_ls_of_an_engine_that_there_is_not(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown engine is a wrong word, with the names there are."""
    assert main(["ls", "--engine", "rocket"]) == 2
    assert "no engine is called rocket" in capsys.readouterr().err


def test_runroot_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A run root belongs to a data root."""
    assert main(["ls", "--runroot", "/run/x"]) == 2
    assert "--root" in capsys.readouterr().err


def test_inspect_says_who_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Every fact has file and field, and a process that does not run is no error."""
    directory = host.runc("old")
    assert main(["inspect", "old", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "mountcr/inspect/1"
    container = document["container"]
    assert (container["engine"], container["status"]) == ("runc", "stopped")
    assert any(f"{directory}/state.json: config.rootfs" in e for e in container["provenance"])
    assert main(["inspect", "old"]) == 0
    assert f"kept below {host.root()}" in capsys.readouterr().out


def test_inspect_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody knows is not found."""
    assert main(["inspect", "nobody-knows"]) == 3
    assert "no container is called nobody-knows" in capsys.readouterr().err


def _completed(line: str) -> list[str]:
    """Ask as bash does, by argcomplete's protocol: answers on descriptor 8."""
    read, write = os.pipe()
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "bash",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    program = f"exec {sys.executable} -m mountcr 8>&{write}"
    subprocess.run(["bash", "-c", program], env=environment, pass_fds=[write], check=True)
    os.close(write)
    with os.fdopen(read) as answers:
        return answers.read().split()


def test_a_shell_is_told_names(host: Host) -> None:
    """Commands, and the containers that a reference may mean."""
    host.runc("web-1", host.process())
    host.runc("web-2")
    assert _completed("mountcr insp") == ["inspect"]
    assert {"web-1", "web-2"} <= set(_completed("mountcr plan web"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell gets a script that names the program."""
    assert main(["completion", shell]) == 0
    assert "mountcr" in capsys.readouterr().out
