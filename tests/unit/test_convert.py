# SPDX-License-Identifier: Apache-2.0
"""A layer is written in the marks of another file system, or refused by the name that hinders."""

from __future__ import annotations

import errno
import os
import pty
import re
import socket
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr.cli import main
from mountcr.errors import NotFoundError, RefusedError, UsageError
from mountcr.operations.convert import ConvertResult, convert
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Counted:
    """Somebody who wants to know how far it is."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0

    def add(self, files: int, bytes: int) -> None:  # noqa: A002  # what it counts
        """Add up."""
        self.files += files
        self.bytes += bytes


@pytest.fixture(name="layer")
def _layer(tmp_path: Path) -> Path:
    """A layer of AUFS: a file, one that is removed, an opaque directory."""
    layer = tmp_path / "layer"
    (layer / "d").mkdir(parents=True)
    (layer / "d/f").write_bytes(b"12345")
    (layer / "d/.wh.gone").touch()
    (layer / "o").mkdir()
    (layer / "o/.wh..wh..opq").touch()
    return layer


@pytest.fixture(name="converted")
def _converted(tmp_path: Path, layer: Path) -> Callable[..., ConvertResult]:
    """A function that converts the layer to `out`."""

    def run(source: str = "aufs", target: str = "unionfs", **more: object) -> ConvertResult:
        words = {"layer": layer, "output": tmp_path / "out", **more}
        paths = [encode(os.fsencode(str(words.pop(each)))) for each in ("layer", "output")]
        return convert(paths[0], paths[1], source=source, target=target, **words)  # type: ignore[arg-type]

    return run


def listing(top: Path) -> list[str]:
    """Every name below a directory."""
    return sorted(str(each.relative_to(top)) for each in top.rglob("*"))


def test_marks_are_those_of_the_other(
    converted: Callable[..., ConvertResult], tmp_path: Path
) -> None:
    """What is removed and hidden stays so; what was counted is in the result."""
    counted = Counted()
    result = converted(target="unionfs-classic", progress=counted)
    assert listing(tmp_path / "out") == [
        "d", "d/.wh.gone", "d/f", "o", "o/.wh.__dir_opaque",
    ]  # fmt: skip
    assert (result.removed, result.opaque, result.bytes) == (1, 1, 5)
    assert result.files == counted.files
    assert counted.bytes == 5


def test_there_and_back(
    converted: Callable[..., ConvertResult], tmp_path: Path, layer: Path
) -> None:
    """Names, content and marks are those of the layer again."""
    converted(target="unionfs-classic")
    converted(
        source="unionfs-classic", target="aufs", layer=tmp_path / "out", output=tmp_path / "b"
    )
    aufs = {".wh..wh.aufs", ".wh..wh.orph", ".wh..wh.plnk"}
    assert sorted(set(listing(tmp_path / "b")) - aufs) == listing(layer)
    assert (tmp_path / "b/d/f").read_bytes() == b"12345"


def test_what_lies_below_decides(
    converted: Callable[..., ConvertResult], tmp_path: Path, layer: Path
) -> None:
    """Where the layers below are known, marks that change nothing are gone."""
    (tmp_path / "lower/o").mkdir(parents=True)
    lower = encode(bytes(tmp_path / "lower"))
    result = converted(target="unionfs-classic", lowers=(lower,))
    assert (result.removed, result.opaque) == (0, 1)


def test_an_unknown_dialect(converted: Callable[..., ConvertResult], tmp_path: Path) -> None:
    """Those that there are, are listed; nothing is made."""
    for words in ({"source": "zfs"}, {"target": "zfs"}):
        with pytest.raises(UsageError, match="'zfs'") as caught:
            converted(**words)
        assert "overlay" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_no_such_layer(converted: Callable[..., ConvertResult], tmp_path: Path) -> None:
    """Neither the layer nor what it lies on."""
    with pytest.raises(NotFoundError, match=r"no such layer: .*/nowhere"):
        converted(layer=tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match=r"no such layer: .*/nowhere"):
        converted(lowers=(encode(bytes(tmp_path / "nowhere")),))


def test_a_file_is_no_layer(converted: Callable[..., ConvertResult], layer: Path) -> None:
    """It is said that it is no directory."""
    with pytest.raises(UsageError, match="is not a directory"):
        converted(layer=layer / "d/f")


def test_nothing_is_overwritten(converted: Callable[..., ConvertResult], tmp_path: Path) -> None:
    """Whatever is there, a dangling link too."""
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(UsageError, match="is there already"):
        converted()
    assert os.readlink(tmp_path / "out") == "nowhere"


@pytest.mark.parametrize("place", ["layer/out", "layer/d/out", "link/out"])
def test_a_layer_is_not_written_into(
    place: str, converted: Callable[..., ConvertResult], tmp_path: Path, layer: Path
) -> None:
    """Nor through a symbolic link."""
    (tmp_path / "link").symlink_to(layer)
    before = listing(layer)
    with pytest.raises(UsageError, match="lies in layer"):
        converted(output=tmp_path / place)
    assert listing(layer) == before


def test_a_place_without_a_parent(converted: Callable[..., ConvertResult], tmp_path: Path) -> None:
    """The directory that is missing is named."""
    with pytest.raises(UsageError, match="/no is no directory"):
        converted(output=tmp_path / "no/out")


def test_a_name_that_would_be_a_mark(
    converted: Callable[..., ConvertResult], tmp_path: Path
) -> None:
    """It is refused by its name, and nothing is left."""
    (tmp_path / "plain/d").mkdir(parents=True)
    (tmp_path / "plain/d/.wh.really").touch()
    with pytest.raises(RefusedError, match=r"/d/\.wh\.really"):
        converted(source="vfs", target="aufs", layer=tmp_path / "plain")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["layer", "plain"]


def test_what_a_plain_tree_cannot_say(
    converted: Callable[..., ConvertResult], tmp_path: Path
) -> None:
    """The first path that is removed is named."""
    with pytest.raises(RefusedError, match="/d/gone"):
        converted(target="vfs")
    assert not (tmp_path / "out").exists()


# --- The command line -----------------------------------------------------------------------------


def test_the_command(layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One document on standard output, and no bar where nobody looks."""
    words = ["convert", str(layer), "--from", "aufs", "--to", "unionfs", "-o"]
    assert main([*words, str(tmp_path / "out"), "--json"]) == 0
    out, err = capsys.readouterr()
    document = msgspec.json.decode(out, type=dict[str, object])
    assert document["schema"] == "mountcr/convert/1"
    assert (document["removed"], document["opaque"], document["bytes"]) == (1, 1, 5)
    assert document.keys() >= {"files", "seconds", "output", "dialect"}
    assert err == ""
    assert main([*words, str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/again: ")


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"--to": "zfs"}, 2, "zfs"),
        ({"--from": "zfs"}, 2, "zfs"),
        ({"-o": "layer"}, 2, "there already"),
        ({"LAYER": "nowhere"}, 3, "nowhere"),
        ({"--to": "vfs"}, 4, "/d/gone"),
    ],
)
def test_bad_input(  # noqa: PLR0917
    change: dict[str, str],
    status: int,
    named: str,
    layer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line that names it, one hint, the status that it has everywhere."""
    monkeypatch.chdir(tmp_path)
    options = {"LAYER": layer.name, "--from": "aufs", "--to": "unionfs", "-o": "out"} | change
    words = [options.pop("LAYER"), *(word for pair in options.items() for word in pair)]
    assert main(["convert", *words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err.splitlines()[0]
    assert len(err.splitlines()) == 2


def test_marks_that_point_below(tmp_path: Path) -> None:
    """A directory that was renamed has its content below: without that it is refused by name."""
    layer = tmp_path / "layer"
    (layer / "moved").mkdir(parents=True)
    try:
        os.setxattr(layer / "moved", "user.overlay.redirect", b"/from")
    except OSError as error:
        pytest.skip(f"no user xattrs here: {error}")
    words = [encode(bytes(tmp_path / name)) for name in ("layer", "out")]
    with pytest.raises(RefusedError, match="/moved was renamed") as caught:
        convert(*words, source="overlay-user", target="aufs")
    assert "--lower" in (caught.value.hint or "")
    (tmp_path / "lower/from").mkdir(parents=True)
    (tmp_path / "lower/from/file").write_bytes(b"x")
    lower = KPath(str(tmp_path / "lower"))
    convert(*words, source="overlay-user", target="aufs", lowers=(lower,))
    assert (tmp_path / "out/moved/file").read_bytes() == b"x"


# --- Tars -----------------------------------------------------------------------------------------


def test_a_tar_and_back(converted: Callable[..., ConvertResult], tmp_path: Path) -> None:
    """For OCI the output is a tar file with the marks of one, which can be read again."""
    converted(target="oci", output=tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = set(archive.getnames())
    assert {"d/f", "d/.wh.gone", "o/.wh..wh..opq"} <= names
    converted(source="oci", target="unionfs-classic", layer=tmp_path / "out.tar")
    assert listing(tmp_path / "out") == [
        "d", "d/.wh.gone", "d/f", "o", "o/.wh.__dir_opaque",
    ]  # fmt: skip
    assert (tmp_path / "out/d/f").read_bytes() == b"12345"


def test_what_a_tar_cannot_hold(
    converted: Callable[..., ConvertResult], tmp_path: Path, layer: Path
) -> None:
    """Sockets are left out, and named."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(layer / "s"))
    assert converted(target="oci", output=tmp_path / "out.tar").left_out == ("/s",)


def test_a_tar_that_is_none(
    converted: Callable[..., ConvertResult], tmp_path: Path, layer: Path
) -> None:
    """It is refused, and nothing is made."""
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(RefusedError, match=r"x\.tar"):
        converted(source="oci", layer=tmp_path / "x.tar")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["layer", "x.tar"]


def test_a_tar_that_cannot_be_finished(
    converted: Callable[..., ConvertResult], tmp_path: Path, layer: Path
) -> None:
    """A name that would be a mark in it leaves no half of it."""
    (layer / "plain").mkdir()
    (layer / "plain/.wh.x").touch()
    with pytest.raises(RefusedError, match=r"^/\.wh\.x"):
        converted(source="vfs", target="oci", layer=layer / "plain", output=tmp_path / "out.tar")
    assert [each.name for each in tmp_path.iterdir()] == ["layer"]


# --- The bar --------------------------------------------------------------------------------------


def on_terminal(*words: str) -> tuple[int, str, str]:
    """Run the command line with standard error on a terminal; status, output, what was drawn."""
    master, terminal = pty.openpty()
    program = [sys.executable, "-m", "mountcr", *words]
    process = subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    drawn = b""
    try:
        while block := os.read(master, 4096):
            drawn += block
    except OSError as error:  # EIO: the last one on the other side is gone
        if error.errno != errno.EIO:
            raise
    os.close(master)
    out, _ = process.communicate()
    return process.returncode, out.decode(), drawn.decode()


def test_a_terminal_shows_how_far_it_is(layer: Path, tmp_path: Path) -> None:
    """Files and bytes are counted; the bar is gone at the end, and the output is the document."""
    (layer / "long").write_bytes(b"x" * 1_000_000)
    words = ("--from", "aufs", "--to", "unionfs", "-o", str(tmp_path / "out"), "--json")
    status, out, drawn = on_terminal("convert", str(layer), *words)
    assert status == 0
    assert msgspec.json.decode(out, type=dict[str, object])["bytes"] == 1_000_005
    assert re.search(r"converting .* \d+ files .*1\.0", drawn)
    assert drawn.rstrip().endswith("\x1b[2K")
