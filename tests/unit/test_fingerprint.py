# SPDX-License-Identifier: Apache-2.0
"""A fingerprint holds what a root file system was, and comparing two says what became of it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr.errors import DocumentError
from mountcr.paths import KPath, encode
from mountcr.rootfs import fingerprint as fingerprints
from mountcr.rootfs.changes import changes
from mountcr.rootfs.fingerprint import Extent, Fingerprint, Kind, layer_digest, take
from mountcr.rootfs.opened import opened
from mountcr.rootfs.verify import Difference, differences
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from pathlib import Path

LONG = b"x" * 100_000
"""Longer than what is hashed on the spot."""


def layer(path: Path, dialect: str = "aufs") -> StoredLayer:
    """A layer of a test."""
    return StoredLayer(path=encode(bytes(path)), dialect=dialect)


def put(path: Path, content: bytes = b"", mode: int = 0o644) -> Path:
    """Write a file of a fixed time, with its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(5, 5))
    return path


@pytest.fixture(name="layers")
def _layers(tmp_path: Path) -> list[StoredLayer]:
    """
    An upper and two lower layers of AUFS, whose marks are plain files.

    Every kind of change is in the upper.
    """
    upper, middle, base = (tmp_path / name for name in ("upper", "middle", "base"))
    for name in ("same", "mode", "content", "size", "gone", "type", "long"):
        put(base / "d" / name, LONG if name == "long" else name.encode())
    put(base / "hidden/one")
    put(middle / "d/middle", b"m")
    put(upper / "d/same", b"same")
    put(upper / "d/mode", b"mode", 0o600)
    put(upper / "d/content", b"CONTENT")
    put(upper / "d/size", b"other size")
    put(upper / "d/long", LONG)
    put(upper / "d/.wh.gone")
    put(upper / "d/.wh.middle")
    (upper / "d/type").mkdir()
    put(upper / "hidden/.wh..wh..opq")
    put(upper / "hidden/new", b"n")
    os.link(upper / "hidden/new", upper / "linked")
    return [layer(each) for each in (upper, middle, base)]


def kinds(taken: Fingerprint) -> dict[str, Kind]:
    """The kind of every path of the writable layer, but for directories."""
    found = taken.layers[0].changes
    assert found is not None
    return {
        each.path: each.kind
        for each in found
        if each.inode is None or not each.inode.is_directory or each.kind is Kind.REPLACED
    }


def said(before: Fingerprint, after: Fingerprint) -> list[tuple[str, str]]:
    """The differences without their record."""
    return [(each.path, each.what) for each in differences(before, after)]


def test_kinds(layers: list[StoredLayer]) -> None:
    """Each path is compared with what lies below, the content too where sizes are equal."""
    assert kinds(take(layers)) == {
        "/d/content": Kind.MODIFIED,
        "/d/gone": Kind.REMOVED,
        "/d/long": Kind.SAME,
        "/d/middle": Kind.REMOVED,
        "/d/mode": Kind.METADATA,
        "/d/same": Kind.SAME,
        "/d/size": Kind.MODIFIED,
        "/d/type": Kind.REPLACED,
        "/hidden/new": Kind.ADDED,
        "/linked": Kind.ADDED,
    }


def test_marks_are_recorded(layers: list[StoredLayer]) -> None:
    """An opaque directory, and hard links of each other, the content once."""
    found = {each.path: each for each in take(layers).layers[0].changes or ()}
    assert found[KPath("/hidden")].opaque
    assert found[KPath("/linked")].link == "/hidden/new"
    assert not found[KPath("/linked")].digest
    assert found[KPath("/hidden/new")].digest


def test_without_contents_the_time_tells(layers: list[StoredLayer], tmp_path: Path) -> None:
    """No content is read, and a file of the same time and size counts as the one below."""
    os.utime(tmp_path / "upper/d/same", ns=(5, 6))
    taken = take(layers, contents=False)
    assert kinds(taken)["/d/content"] is Kind.SAME
    assert kinds(taken)["/d/same"] is Kind.MODIFIED
    assert all(not each.digest for each in taken.layers[0].changes or ())
    assert taken.layers[0].metadata
    assert not taken.layers[0].digest


def test_what_is_below_by_default(layers: list[StoredLayer]) -> None:
    """Lower layers are known by which directory they are, and nothing in them is read."""
    taken = take(layers)
    assert all(each.identity for each in taken.layers)
    assert [bool(each.metadata) for each in taken.layers] == [True, False, False]
    assert [each.changes is None for each in taken.layers] == [False, True, True]


def test_everything_below(layers: list[StoredLayer], tmp_path: Path) -> None:
    """If all is asked for, each layer has a digest, and the data-only ones."""
    data = encode(bytes(put(tmp_path / "data/blob", b"b").parent))
    taken = take(layers, [data], extent=Extent.ALL)
    assert all(each.digest for each in (*taken.layers, *taken.data))
    assert taken == take(layers, [data], extent=Extent.ALL)


def test_a_digest_is_that_of_what_the_marks_mean(layers: list[StoredLayer], tmp_path: Path) -> None:
    """Two dialects that say the same of the same inodes have the same digest."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two/.unionfs").mkdir(parents=True)
    put(tmp_path / "one/.wh.hidden")
    put(tmp_path / "two/.unionfs/hidden_HIDDEN~")
    for name in ("one", "two"):
        os.utime(tmp_path / name, ns=(7, 7))
    found: set[str] = set()
    for name, dialect in (("one", "aufs"), ("two", "unionfs")):
        lower = layer(tmp_path / "base", dialect)
        with opened((layer(tmp_path / name, dialect), lower)) as view:
            found.add(layer_digest(changes(view.layers[0], view.below())))
    assert len(found) == 1


def test_a_lower_layer_that_changed(layers: list[StoredLayer], tmp_path: Path) -> None:
    """Where everything was read, the layer is named whose content changed, by both digests."""
    before = take(layers, extent=Extent.ALL)
    (tmp_path / "base/d/size").write_bytes(b"SIZE")
    os.utime(tmp_path / "base/d/size", ns=(5, 5))
    ((path, what),) = said(before, take(layers, extent=Extent.ALL))
    assert path == str(tmp_path / "base")
    assert what.startswith("layer 3 of 3 changed: digest ")


def test_a_lower_layer_that_is_another(layers: list[StoredLayer], tmp_path: Path) -> None:
    """Where nothing of it was read, it is said that it is another directory, and what to do."""
    before = take(layers)
    os.rename(tmp_path / "middle", tmp_path / "old")
    put(tmp_path / "middle/d/middle", b"m")
    ((path, what),) = said(before, take(layers))
    assert path == str(tmp_path / "middle")
    assert "layer 2 of 3 is another directory" in what
    assert "--fingerprint all" in what


def test_what_was_not_read_is_not_compared(layers: list[StoredLayer], tmp_path: Path) -> None:
    """Contents that only one of two fingerprints has say nothing."""
    before = take(layers)
    assert said(before, take(layers, contents=False)) == []
    assert said(take(layers, contents=False), before) == []
    put(tmp_path / "upper/d/content", b"Content")
    assert said(before, take(layers, contents=False)) == []
    assert said(before, take(layers)) == [("/d/content", "content")]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """What is not UTF-8 is recorded, written and read."""
    name = os.fsdecode(b"a\n\xff\\040")
    put(tmp_path / "upper" / name, b"x")
    taken = take([layer(tmp_path / "upper", "vfs")])
    fingerprints.write(taken, encode(bytes(tmp_path)))
    assert fingerprints.read(encode(bytes(tmp_path))) == taken
    (tmp_path / "upper" / name).write_bytes(b"y")
    os.utime(tmp_path / "upper" / name, ns=(5, 5))
    assert said(taken, take([layer(tmp_path / "upper", "vfs")])) == [
        (r"/a\012\xff\134040", "content")
    ]


def test_differences_say_how(layers: list[StoredLayer]) -> None:
    """Each field by its name, with both values, where people can read them."""
    before = take(layers)
    text = msgspec.json.encode(before)
    after = msgspec.json.decode(
        text.replace(b'"/d/gone","kind":"removed"', b'"/d/there","kind":"removed"')
        .replace(b'"size":10}', b'"size":12}')
        .replace(b'"mode":384', b'"mode":2541')
        .replace(b'"opaque":true', b'"opaque":false')
        .replace(b'"link":"/hidden/new"', b'"link":null'),
        type=Fingerprint,
    )
    assert said(before, after) == [
        ("/d/gone", "removed no longer"),
        ("/d/mode", "mode 04755, it had 0600"),
        ("/d/size", "size 12, it had 10"),
        ("/d/there", "removed"),
        ("/d/type", "opaque no longer"),
        ("/hidden", "opaque no longer"),
        ("/linked", "no hard link of an earlier path, it was a hard link of /hidden/new"),
    ]


def test_layers_that_come_and_go(layers: list[StoredLayer]) -> None:
    """And one that is read in another dialect."""
    before = take(layers)
    after = take([msgspec.structs.replace(layers[0], dialect="unionfs-classic"), layers[1]])
    found = differences(before, after)
    assert Difference(path=layers[2].path, what="layer missing") in found
    dialect = "layer 1 of 3: in the dialect unionfs-classic, it was in aufs"
    assert Difference(path=layers[0].path, what=dialect) in found


# --- The document ---------------------------------------------------------------------------------


def test_only_its_owner_reads_it(layers: list[StoredLayer], tmp_path: Path) -> None:
    """It names files that others may not even know of; nothing else is left beside it."""
    (tmp_path / "images").mkdir()
    fingerprints.write(take(layers), encode(bytes(tmp_path / "images")))
    (found,) = (tmp_path / "images").iterdir()
    assert found.name == "fingerprint.json"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600


def test_no_fingerprint(tmp_path: Path) -> None:
    """Images from before have none, which is no error."""
    assert fingerprints.read(encode(bytes(tmp_path))) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is damaged"),
        (b"[]", "is damaged"),
        (b"\xff", "is damaged"),
        (b'{"schema": "mountcr/fingerprint/1"}', "is damaged: .*extent"),
        (b'{"schema": "mountcr/fingerprint/2"}', "version 2, newer than mountcr/fingerprint/1"),
        (b'{"schema": "mountcr/facts/1"}', "no fingerprint of mountcr: schema 'mountcr/facts/1'"),
    ],
)
def test_what_is_no_fingerprint_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    """Damaged, newer or of something else: the error names the file and says which."""
    (tmp_path / "fingerprint.json").write_bytes(text)
    with pytest.raises(DocumentError, match=message) as caught:
        fingerprints.read(encode(bytes(tmp_path)))
    assert "fingerprint.json" in caught.value.message


def test_a_fingerprint_that_was_cut_is_refused(layers: list[StoredLayer], tmp_path: Path) -> None:
    """However much of it is there."""
    images = encode(bytes(tmp_path))
    fingerprints.write(take(layers), images)
    whole = (tmp_path / "fingerprint.json").read_bytes()
    for length in range(1, len(whole) - 1, len(whole) // 40):
        (tmp_path / "fingerprint.json").write_bytes(whole[:length])
        with pytest.raises(DocumentError):
            fingerprints.read(images)
