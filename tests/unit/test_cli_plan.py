# SPDX-License-Identifier: Apache-2.0
"""`mountcr plan` on a file of facts: what goes to standard output, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

import builders
from mountcr.cli import main
from mountcr.criu import dialects
from mountcr.model import FileKind, InodeType, OpenFile, PathStat
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.render.plan import outline_plan, verdict_sentence

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mountcr.model import Facts

ROOT = "10 5 0:50 / / rw - overlay o rw,lowerdir=/l1:/l0,upperdir=/u,workdir=/w"
MOUNTS = rf"""
{ROOT}
11 10 8:1 /srv/my\040data /my\040data rw - ext4 /dev/a rw
"""
HOST = "1 0 8:1 / / rw - ext4 /dev/a rw"
OUTPUT = OpenFile(
    kind=FileKind.FD,
    fd=1,
    shown=KPath("/var/log/output"),
    mnt_id=77,
    stat=PathStat(dev="8:1", ino=99, mode=0o100644, nlink=1, size=0, type=InodeType.FILE),
)
LONG = f"10 5 0:50 / / rw - overlay o rw,lowerdir={':/lower' * 700}"
"""A line that CRIU cannot read, rule P1, which nothing cures."""


class Finished(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: bytes
    err: bytes


@pytest.fixture
def plan(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Finished]:
    """Give a function that runs `mountcr plan` on facts."""

    def run(facts: Facts, *words: str) -> Finished:
        path = tmp_path / "facts.json"
        path.write_bytes(msgspec.json.encode(facts))
        try:
            status = main(["plan", str(path), *words])
        except SystemExit as stop:
            status = int(str(stop.code))
        out, err = capfdbinary.readouterr()
        return Finished(status, out, err)

    return run


FACTS = builders.facts(MOUNTS, HOST)


@pytest.mark.parametrize("purpose", ["dump", "restore"])
def test_a_dialect_is_all_that_is_printed(plan: Callable[..., Finished], purpose: str) -> None:
    """Each dialect is that of the direction asked for, and nothing stands around it."""
    criu = make_plan(FACTS).criu
    options = criu.dump_options if purpose == "dump" else criu.restore_options
    argv = criu.dump if purpose == "dump" else criu.restore
    expected = {
        "argv": dialects.shell_line(argv) + "\n",
        "legacy": dialects.shell_line(dialects.legacy_argv(options)) + "\n",
        "conf": dialects.configuration(options),
        "rpc-json": dialects.rpc_json(options),
    }
    for dialect, text in expected.items():
        assert plan(FACTS, "--for", purpose, "--as", dialect) == (0, text.encode(), b"")
    assert ("mnt[/my data]:" in expected["argv"]) == (purpose == "dump")
    assert json.loads(expected["rpc-json"])["external"]


def test_bytes_are_printed_as_they_are(plan: Callable[..., Finished]) -> None:
    """A configuration file holds the bytes of a path, UTF-8 or not; JSON says that it cannot."""
    mounts = builders.parse(ROOT.encode() + b"\n11 10 8:1 /srv/\xff /\xff rw - ext4 /dev/a rw\n")
    facts = builders.facts(mounts, HOST)
    done = plan(facts, "--as", "conf")
    assert (done.status, done.err) == (0, b"")
    assert b"external mnt[/\xff]:" in done.out
    done = plan(facts, "--as", "rpc-json")
    assert (done.status, done.out) == (6, b"")
    assert done.err.startswith(b"mountcr: JSON for CRIU's RPC cannot hold mnt[/\\xff]:")


def test_the_mode_for_control_groups_is_in_the_file_when_asked_for(
    plan: Callable[..., Finished],
) -> None:
    """The runtime has a mode of its own, which wins unless the user chose one here."""
    assert b"cgroups" not in plan(FACTS, "--as", "conf").out
    chosen = plan(FACTS, "--as", "conf", "--manage-cgroups-mode", "soft")
    assert chosen.out.startswith(b"manage-cgroups=soft\n")


def test_what_a_dialect_cannot_say_is_an_error(plan: Callable[..., Finished]) -> None:
    """One line that names the option, a hint, exit status 6, and nothing on standard output."""
    done = plan(builders.facts(MOUNTS, HOST, files=(OUTPUT,)), "--as", "legacy")
    assert (done.status, done.out) == (6, b"")
    message, hint = done.err.decode().splitlines()
    assert message == "mountcr: --external file[4d:63] cannot be said to a CRIU of 1.3 to 2"
    assert hint.startswith("  hint: ")


def test_an_old_criu_may_be_too_old(plan: Callable[..., Finished]) -> None:
    """Which release has what the command line needs is said beside it."""
    pipe = OpenFile(kind=FileKind.FD, fd=1, shown=KPath("pipe:[9]"), flags=1)
    facts = builders.facts(MOUNTS, HOST, files=(pipe,))
    done = plan(facts, "--for", "restore", "--as", "legacy")
    assert done.status == 0
    assert b"--inherit-fd 'fd[1]:pipe:[9]'" in done.out
    assert done.err == b"--inherit-fd needs CRIU 1.6 or newer\n"


@pytest.mark.parametrize("dialect", ["argv", "legacy", "conf", "rpc-json"])
def test_a_refused_plan_has_no_dialect(plan: Callable[..., Finished], dialect: str) -> None:
    """Nothing is printed that could be run; the reasons are said, exit status 4."""
    done = plan(builders.facts(LONG), "--as", dialect)
    assert (done.status, done.out) == (4, b"")
    assert done.err.startswith(b"mountcr: the dump is refused: P1 /: ")


@pytest.mark.parametrize("other", ["--json", "--explain"])
def test_one_form_at_a_time(plan: Callable[..., Finished], other: str) -> None:
    """A dialect and another form of the plan exclude each other."""
    done = plan(FACTS, "--as", "argv", other)
    assert (done.status, done.out) == (2, b"")
    assert f"--as argv and {other}".encode() in done.err
    assert plan(FACTS, "--as", "yaml").status == 2


def test_the_verdict_comes_first(plan: Callable[..., Finished]) -> None:
    """The first line ends in the verdict, in the direction asked for; 4 when it is refused."""
    assert plan(FACTS) == (0, outline_plan(make_plan(FACTS)).plain().encode(), b"")
    first = plan(FACTS, "--for", "restore").out.decode().splitlines()[0]
    assert first == f"runc:web, pid {builders.ROOT_PID}: will restore with these options"
    done = plan(builders.facts(LONG))
    lines = done.out.decode().splitlines()
    assert done.status == 4
    assert lines[0].endswith(f": {verdict_sentence(make_plan(builders.facts(LONG)))}")
    assert lines[1] == "├─ refusals"


def test_the_document_is_as_its_schema_says(
    plan: Callable[..., Finished], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`--json` has the keys that `mountcr schema plan` names, its verdict one of three words."""
    document = json.loads(plan(FACTS, "--json").out)
    assert main(["schema", "plan"]) == 0
    schema = json.loads(capfdbinary.readouterr().out)
    assert set(document) == set(schema["$defs"]["Plan"]["properties"])
    assert document["verdict"] == "ok"
    assert schema["$defs"]["Verdict"]["enum"] == ["ok", "ok-with-losses", "refused"]
