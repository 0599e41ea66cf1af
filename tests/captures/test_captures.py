# SPDX-License-Identifier: Apache-2.0
"""Files that processes held on real kernels are what their manifests say, all of them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from captures.judge import holds, wrong_inside, wrong_outside
from mountcr.cli import main
from mountcr.errors import DocumentError
from mountcr.model import Facts, FileKind
from mountcr.observation.capture import read_capture
from mountcr.resolution.files import resolve
from mountcr.resolution.state import FileState

if TYPE_CHECKING:
    from pathlib import Path

CAPTURES = sorted(builders.KERNELS.glob("*/manifest.json"))
EVERY = pytest.mark.parametrize(
    "capture", [each.parent for each in CAPTURES], ids=lambda each: each.name
)
LEAKING = builders.KERNELS / "aufs-5.10-mapfiles-aufs"


@EVERY
def test_every_file_is_what_it_is(capture: Path) -> None:
    """Path and state of each descriptor and mapping are those of the manifest."""
    assert len(list(holds(capture))) > 30
    assert list(wrong_inside(capture)) == []


@EVERY
def test_a_process_outside(capture: Path) -> None:
    """A union that is mounted somewhere in the tree is told from there, not from `/`."""
    assert list(wrong_outside(capture)) == []


@EVERY
def test_what_is_read_from_inside_is_the_same(capture: Path, tmp_path: Path) -> None:
    """What a reader in the mount namespace sees resolves to the same files."""
    copy = tmp_path / "copy"
    shutil.copytree(capture, copy)
    for name in ("fd", "links", "maps", "mountinfo"):
        shutil.copy(copy / "inside" / name, copy / "proc" / name)
    mapped = (copy / "inside/map_files").read_text(errors="surrogateescape")
    if mapped:  # a reader inside a pid namespace of its own sees none
        shutil.copy(copy / "inside/map_files", copy / "proc/map_files")
    assert list(wrong_inside(copy)) == []


@EVERY
def test_without_map_files(capture: Path, tmp_path: Path) -> None:
    """Where map_files may not be read, maps stands in, and says which way a file was reached."""
    copy = tmp_path / "copy"
    shutil.copytree(capture, copy)
    (copy / "proc/map_files").write_text("ERROR [Errno 1] Operation not permitted\n")
    facts = read_capture(str(copy))
    assert {each.mapping.through for each in facts.tasks[0].files if each.mapping is not None} == {
        "maps"
    }
    assert [each for each in wrong_inside(copy) if not each.startswith("map_")] == []
    paths = {each.path for each in holds(copy) if each.kind is FileKind.MAP}
    for each in resolve(facts):
        if each.kind is FileKind.MAP and each.state is not FileState.UNRESOLVED:
            assert each.path in paths or "/data/" not in (each.path or "")


@EVERY
def test_facts_go_through_json(capture: Path) -> None:
    """What was read of a capture resolves the same after it was written down."""
    facts = read_capture(str(capture))
    again = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    assert again == facts
    assert resolve(again) == resolve(facts)


@EVERY
def test_which_kernel_it_was(capture: Path) -> None:
    """A recording tells its kernel by itself, and is called after the series of it."""
    told = (capture / "outside/uname").read_text().rstrip("\n")
    assert told == " ".join(json.loads((capture / "manifest.json").read_text())["uname"])
    release = told.split()[2]
    assert (capture / "outside/version").read_text().startswith(f"Linux version {release} ")
    named = capture.name.split("-")[1]
    assert f"{release}.".startswith((f"{named}.", f"{named}-"))
    if (capture / "sysfs-aufs").exists():
        assert (capture / "outside/module-aufs").read_text().startswith(f"version: {named}")


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`files CAPTURE` has the keys that other tools read; `--quirks` gives what was wrong."""
    assert main(["files", str(LEAKING), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "mountcr/files/1"
    keys = {"pid", "kind", "fd", "start", "shown", "path", "mnt_id", "state", "quirks", "how"}
    assert all(keys <= each.keys() for each in document["files"])
    assert main(["files", str(LEAKING), "--quirks", "--json"]) == 0
    quirks = json.loads(capsys.readouterr().out)["files"]
    assert quirks == [each for each in document["files"] if each["quirks"]]
    assert main(["files", str(LEAKING), "--quirks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["PID", "HELD"]
    assert len(lines) == len(quirks) + 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", '{"pid": "x"}'),
        ("stat", "one\tfield\n"),
        ("proc/mountinfo", "1 2 0:3 / / rw"),
        ("proc/fd", "10\t/data\n"),
        ("proc/fdinfo/10", "flags:\tx\n"),
        ("proc/maps", "what is this\n"),
        ("proc/fd", "x\t/data\t0:1 2 mode=1 nlink=1 size=0\n"),
    ],
)
def test_a_damaged_capture_is_named(tmp_path: Path, name: str, content: str) -> None:
    """What cannot be read is one line that names the file."""
    copy = tmp_path / "copy"
    shutil.copytree(LEAKING, copy)
    (copy / name).write_text(content)
    with pytest.raises(DocumentError, match=name):
        read_capture(str(copy))


@pytest.mark.parametrize("name", ["stat", "proc/mountinfo", "proc/maps", "outside/mountinfo"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """So is what is not there."""
    copy = tmp_path / "copy"
    shutil.copytree(LEAKING, copy)
    (copy / name).unlink()
    with pytest.raises(DocumentError, match=name):
        read_capture(str(copy))
