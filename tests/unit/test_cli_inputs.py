# SPDX-License-Identifier: Apache-2.0
"""What the words of a command line mean, and how a wrong one is told."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.cli import build_parser, main
from mountcr.cli.inputs import absolute, choices_of, facts_of, is_images, read_facts
from mountcr.cli.schema import documents
from mountcr.criu.options import CgroupMode
from mountcr.errors import DocumentError, MountcrError, NotFoundError, UsageError
from mountcr.planning.choices import Choices

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from mountcr.model import Facts

COMMANDS = {
    "plan": ["web"],
    "graph": ["web"],
    "facts": ["web"],
    "dump": ["web", "--images", "/i"],
    "rebuild": ["web", "--at", "/a"],
    "umount": ["/a"],
    "restore": ["/i"],
    "verify": ["/i"],
    "images": ["/i"],
    "convert": ["/l", "--from", "overlay", "--to", "aufs", "-o", "/o"],
    "doctor": [],
    "compat": ["--from", "a", "--to", "b"],
    "demo": [],
    "schema": ["plan"],
}

FACTS = builders.facts(builders.recorded("runc-overlay"), builders.recorded("runc-overlay.host"))


def parsed(*words: str) -> argparse.Namespace:
    """What the parser makes of a command line without options for CRIU."""
    arguments = build_parser().parse_args(words)
    arguments.criu_options = ()
    return arguments


@pytest.fixture(name="facts_file")
def _facts_file(tmp_path: Path) -> str:
    path = tmp_path / "facts.json"
    path.write_bytes(msgspec.json.encode(FACTS))
    return str(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses_what_it_needs(command: str) -> None:
    """And takes `--json`."""
    arguments = parsed(command, *COMMANDS[command], "--json")
    assert arguments.json
    assert callable(arguments.run)


@pytest.mark.parametrize("words", [[], ["nothing"], ["plan"], ["dump", "web"], ["plan", "a", "b"]])
def test_a_command_line_that_makes_no_sense(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line and a hint on standard error, nothing on standard output."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mountcr: ")
    assert "  hint: see `mountcr" in err
    assert len(err.splitlines()) == 2


def test_choices_by_default() -> None:
    """A command without options chooses nothing."""
    assert choices_of(parsed("plan", "web")) == Choices()


def test_choices_of_a_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths become absolute against the working directory, without following links."""
    monkeypatch.chdir(tmp_path)
    arguments = parsed(
        "restore", "img", "--driver", "vfs", "--upper", "up per", "--root", "r/../root",
        "--bind", "/etc//hosts/=hosts", "--bind", "/a=/b=c", "--manage-cgroups-mode", "full",
        "--cgroup-root", "/x", "--allow-changed",
    )  # fmt: skip
    here = absolute(str(tmp_path))
    assert choices_of(arguments) == Choices(
        images=absolute("img"),
        driver="vfs",
        upper=absolute("up per"),
        root_at=absolute("root"),
        binds={absolute("/etc/hosts"): absolute("hosts"), absolute("/a"): absolute("/b=c")},
        cgroups=CgroupMode.FULL,
        cgroup_root=absolute("/x"),
        allow_changed=True,
    )
    assert absolute("up per") == f"{here}/up\\040per"


@pytest.mark.parametrize("word", ["/a", "a=b", "/a=", "=b", ""])
def test_a_bind_that_is_none(word: str) -> None:
    """The word is named, with an example of a good one."""
    with pytest.raises(UsageError, match="not DST=SRC") as caught:
        choices_of(parsed("restore", "img", "--bind", word))
    assert caught.value.hint


def test_a_facts_file_is_read(facts_file: str) -> None:
    """A file stands for the container it was written of."""
    assert read_facts(facts_file) == FACTS
    assert facts_of(parsed("plan", facts_file)) == FACTS


def test_what_facts_prints_is_a_facts_file(
    facts_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mountcr facts` of a facts file is the facts file again."""
    assert main(["facts", facts_file]) == 0
    again = tmp_path / "again.json"
    again.write_text(capsys.readouterr().out, encoding="utf-8")
    assert read_facts(str(again)) == FACTS


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema": "mountcr/facts/2"}',
        b'{"schema": "mountcr/manifest/1"}',
        b'{"schema": "mountcr/facts/1"}',
        b'{"schema": 7}',
        b'{"schema": "mountcr/facts/1", "container": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_facts_file(text: bytes, tmp_path: Path) -> None:
    """A DocumentError that names the file and says what to do."""
    path = tmp_path / "web.json"
    path.write_bytes(text)
    with pytest.raises(DocumentError, match=r"web\.json") as caught:
        read_facts(str(path))
    assert caught.value.hint


def test_images_are_known_by_their_manifest(tmp_path: Path) -> None:
    """A directory of another tool's images is none of ours."""
    assert not is_images(str(tmp_path))
    assert not is_images(str(tmp_path / "gone"))
    (tmp_path / "mountcr.json").write_text("{}")
    assert is_images(str(tmp_path))


def test_nothing_by_that_name() -> None:
    """A word that is no file and no container is not found."""
    with pytest.raises(NotFoundError):
        facts_of(parsed("plan", "no-such-container-anywhere"))


def test_words_for_criu(facts_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What follows `--` is CRIU's, and is refused by a command that has none to pass it to."""
    assert main(["plan", facts_file, "--", "--enable-fs", "ramfs"]) == 0
    assert "--enable-fs ramfs" in capsys.readouterr().out
    assert main(["graph", facts_file, "--", "--ghost-limit", "2M"]) == 2
    assert "takes no options for CRIU" in capsys.readouterr().err


def test_words_for_criu_that_cannot_be_written_down() -> None:
    """Plans and manifests are JSON, which holds text only."""
    arguments = parsed("dump", "web", "--images", "/i")
    arguments.criu_options = (os.fsdecode(b"--external=\xff"),)
    with pytest.raises(UsageError, match="UTF-8"):
        choices_of(arguments)


@pytest.mark.parametrize("command", ["plan", "graph", "facts"])
def test_data_goes_to_standard_output(
    command: str, facts_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document and nothing else, and nothing is said beside it."""
    assert main([command, facts_file, "--json"]) == 0
    out, err = capsys.readouterr()
    assert msgspec.json.decode(out, type=dict[str, object])["schema"] == f"mountcr/{command}/1"
    assert err == ""


def test_a_refused_plan_is_printed_and_has_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 4, and the plan says why."""
    path = tmp_path / "facts.json"
    path.write_bytes(msgspec.json.encode(builders.facts("10 5 0:50 / / rw - fuse.unknown u rw")))
    assert main(["plan", str(path)]) == 4
    assert "M6 /: fuse.unknown" in capsys.readouterr().out


def test_schemas_of_all_documents(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is JSON Schema; an unknown name lists those that there are."""
    for name in documents():
        assert main(["schema", name]) == 0
        assert "$defs" in capsys.readouterr().out
    assert main(["schema", "nothing"]) == 3
    assert "manifest" in capsys.readouterr().err


def test_an_error_is_one_line_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], facts_file: str
) -> None:
    """Whatever is in the message, with the exit status of its class."""

    def fail(_path: str) -> Facts:
        raise MountcrError("two\nlines  of it", hint="do\nthis")

    monkeypatch.setattr("mountcr.cli.inputs.read_facts", fail)
    assert main(["plan", facts_file]) == 1
    assert capsys.readouterr().err == "mountcr: two lines of it\n  hint: do this\n"


def test_a_reader_that_has_enough(facts_file: str) -> None:
    """A closed pipe is no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "mountcr", "facts", facts_file],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(writer)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1
