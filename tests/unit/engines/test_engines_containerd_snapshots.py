# SPDX-License-Identifier: Apache-2.0
"""Snapshots of containerd are directories, or what is wrong with their records."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import boltwriter
from containerds import SPEC_TYPE, Daemon, said, wrapped
from mountcr.engines.containerd import Containerd
from mountcr.engines.containerd.places import instances
from mountcr.engines.containerd.snapshots import Snapshots, snapshot_stack
from mountcr.engines.containerd.wire import strings, unwrap


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """A containerd without containers."""
    return Daemon(tmp_path)


def test_a_view_is_read_only(daemon: Daemon) -> None:
    """A view has no upper; one layer alone is a directory, as overlay needs two."""
    daemon.snapshot("base", 1, 3)
    daemon.snapshot("top", 2, 3, "base")
    daemon.snapshot("one", 3, 1, "base")
    daemon.snapshot("two", 4, 1, "top")
    daemon.snapshot("fresh", 5, 2)
    daemon.snapshot("empty", 6, 1)
    daemon.write()
    place = [daemon.place]
    shapes = {
        key: (stack.driver, stack.lowers, stack.upper)
        for key in ("one", "two", "fresh", "empty")
        if (stack := snapshot_stack(place, "default", "overlayfs", key).stack)
    }
    assert shapes == {
        "one": ("vfs", (daemon.fs(1),), None),
        "two": ("overlay", (daemon.fs(2), daemon.fs(1)), None),
        "fresh": ("vfs", (), daemon.fs(5)),
        "empty": ("vfs", (daemon.fs(6),), None),
    }


def test_a_native_view_is_its_parent(daemon: Daemon) -> None:
    """What is written to is a copy of its parent, and a view is the parent itself."""
    daemon.snapshot("base", 1, 3, snapshotter="native")
    daemon.snapshot("view", 2, 1, "base", snapshotter="native")
    daemon.snapshot("rw", 3, 2, "base", snapshotter="native")
    daemon.write()
    root = daemon.directory("native").resolve() / "snapshots"
    view, written = (
        snapshot_stack([daemon.place], "default", "native", key).stack for key in ("view", "rw")
    )
    assert view
    assert (view.lowers, view.upper) == ((f"{root}/1",), None)
    assert written
    assert (written.lowers, written.upper) == ((), f"{root}/3")


def test_mapped_owners_are_told(daemon: Daemon) -> None:
    """A snapshot whose layers are mounted with other owners says so."""
    mapping = {
        b"containerd.io/snapshot/uidmapping": b"0:1000:65536",
        b"containerd.io/snapshot/gidmapping": b"0:2000:65536",
    }
    daemon.snapshot("base", 1, 3)
    daemon.snapshot("web", 2, 2, "base", labels=mapping)
    daemon.write()
    told = snapshot_stack([daemon.place], "default", "overlayfs", "web").told
    assert told[-1].endswith("v1/snapshots/default/2/web/labels: 0:1000:65536 and 0:2000:65536")


def test_many_snapshots_are_read_at_once(daemon: Daemon) -> None:
    """Whether a snapshot is looked up alone or found among all makes no difference."""
    daemon.snapshot("base", 1, 3)
    for number in range(2, 12):
        daemon.snapshot(f"c{number}", number, 2, "base")
    damaged = daemon.snapshot("bad", 12, 2, "base")
    damaged[b"kind"] = b"\x09"
    daemon.write()
    (instance,) = instances(daemon.roots, daemon.usual)
    once_each = [Snapshots(instance).layers("overlayfs", f"default/{n}/c{n}") for n in range(2, 12)]
    snapshots = Snapshots(instance)
    together = [snapshots.layers("overlayfs", f"default/{n}/c{n}") for n in range(2, 12)]
    assert together == once_each
    assert snapshots.layers("overlayfs", "default/12/bad").damages[0].field.endswith("bad/kind")
    assert snapshots.layers("overlayfs", "x").damages[0].what == "leads to x, which is missing"


def test_other_snapshotters_are_said_not_to_be_read(daemon: Daemon) -> None:
    """devmapper, erofs and those of plug-ins are no directories; all else of it is told."""
    daemon.snapshot("web", 1, 2, snapshotter="devmapper")
    daemon.container("web", snapshotter=b"devmapper", snapshotKey=b"web")
    daemon.write()
    found = daemon.described("web")
    assert (found.stack, found.storage) == (None, "devmapper")
    assert [each.what for each in found.damages] == [
        "mountcr reads no snapshots of devmapper, only of overlayfs, native, btrfs"
    ]
    assert found.mounts


def broken(daemon: Daemon, what: str) -> None:
    """Break the chain of the container `web`."""
    name = b"default/2/sha256:top"
    chain = daemon.snapshots["overlayfs"]
    layer = chain[name]
    assert isinstance(layer, dict)
    if what == "kind":
        layer[b"kind"] = b"\x02"
    elif what == "unknown kind":
        layer[b"kind"] = b"\x07"
    elif what == "id":
        layer[b"id"] = b"\xff"
    elif what == "loop":
        layer[b"parent"] = name
    elif what == "parent":
        del chain[b"default/1/sha256:base"]
    elif what == "committed":
        own = chain[b"default/3/web"]
        assert isinstance(own, dict)
        own[b"kind"] = b"\x03"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kind", "v1/snapshots/default/2/sha256:top/kind: a parent is active"),
        ("unknown kind", "v1/snapshots/default/2/sha256:top/kind: is b'\\x07', no kind"),
        ("id", "v1/snapshots/default/2/sha256:top/id: is no number"),
        ("loop", "v1/snapshots/default/2/sha256:top/parent: leads to default/2/sha256:top, which"),
        ("parent", "sha256:top/parent: leads to default/1/sha256:base, which is missing"),
        ("committed", "v1/snapshots/default/3/web/kind: the snapshot is committed"),
    ],
)
def test_a_broken_chain_is_no_stack(daemon: Daemon, what: str, message: str) -> None:
    """A snapshot that is not what it must be is named, and nothing is guessed."""
    daemon.layered("web")
    daemon.container("other")
    broken(daemon, what)
    daemon.write()
    found = daemon.described("web")
    assert found.stack is None
    (damage,) = said(found)
    assert damage.startswith(f"{daemon.directory('overlayfs')}/metadata.db: v1/snapshots/")
    assert message in damage
    assert daemon.described("other").damages == ()


def test_a_layer_that_is_not_there_is_named(daemon: Daemon) -> None:
    """A directory that is gone is named; a symbolic link in its place leaves no stack."""
    daemon.layered("web")
    daemon.write()
    Path(daemon.fs(1)).rmdir()
    found = daemon.described("web")
    assert found.stack
    assert daemon.fs(1) in found.stack.lowers
    assert [each.file for each in found.damages] == [daemon.fs(1)]
    Path(daemon.fs(2)).rmdir()
    Path(daemon.fs(2)).symlink_to("/etc")
    found = daemon.described("web")
    assert found.stack is None
    assert [each.file for each in found.damages] == [daemon.fs(2), daemon.fs(1)]
    assert "metadata.db: v1/snapshots/default/3/web/id leads to it" in found.damages[0].what


def test_a_snapshot_without_record_is_named(daemon: Daemon) -> None:
    """A container whose snapshot was removed, or has no name, has no stack."""
    daemon.container("gone", snapshotKey=b"gone")
    daemon.layered("web")
    keys = daemon.space("default", b"snapshots")[b"overlayfs"]
    assert isinstance(keys, dict)
    keys[b"web"] = {b"parent": b"sha256:top"}
    daemon.write()
    field = "v1/default/snapshots/overlayfs"
    assert said(daemon.described("gone")) == [
        f"{daemon.meta}: {field}/gone: is missing; v1/default/containers/gone names it"
    ]
    assert said(daemon.described("web")) == [f"{daemon.meta}: {field}/web/name: is missing"]


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (b"", "is missing"),
        (b"\n\xff", "no OCI configuration: byte 1: a number does not end"),
        (wrapped(SPEC_TYPE, b"{}")[:-1], "no OCI configuration: byte 58: field 2 does not end"),
        (wrapped(SPEC_TYPE, b'{"root":'), "no OCI configuration: Input data was truncated"),
        (wrapped(SPEC_TYPE, b"{}"), "no OCI configuration: Object missing required field `root`"),
        (wrapped(SPEC_TYPE, b"[" * 100000), "no OCI configuration: "),
    ],
)
def test_a_damaged_configuration_is_named(daemon: Daemon, spec: bytes, what: str) -> None:
    """A configuration that makes no sense is a damage with its field; the layers are told."""
    daemon.layered("web")[b"spec"] = spec
    daemon.container("other")
    daemon.write()
    found = daemon.described("web")
    (damage,) = said(found)
    assert damage.startswith(f"{daemon.meta}: v1/default/containers/web/spec: {what}")
    assert found.stack
    assert daemon.described("other").damages == ()


def test_damaged_options_of_the_runtime_are_named(daemon: Daemon) -> None:
    """Options that are no message are a damage; runc is looked for where it is by default."""
    daemon.container("web")[b"runtime"] = {b"options": b"\x0b"}
    daemon.write()
    (damage,) = said(daemon.described("web"))
    assert damage.startswith(f"{daemon.meta}: v1/default/containers/web/runtime/options: byte 1")


def test_an_id_that_leads_elsewhere_is_no_path(daemon: Daemon) -> None:
    """An id that no directory can have is a damage, and no file is looked for by it."""
    daemon.container("../../etc")
    daemon.container("web")
    daemon.write()
    found = {each.id: each for each in Containerd(daemon.usual).containers(daemon.roots)}
    assert [each.what for each in found["../../etc"].damages] == [
        "is no name that a directory can have"
    ]
    assert found["web"].damages == ()


@pytest.mark.parametrize("content", [b"", bytes(32768), b"not a database" * 1000])
def test_without_a_database_tasks_are_still_listed(daemon: Daemon, content: bytes) -> None:
    """A database of zeros is a damage of every container that has a bundle."""
    daemon.bundle("web")
    daemon.meta.write_bytes(content)
    found = daemon.described("web")
    assert [mount.destination for mount in found.mounts] == ["/data/vol"]
    (damage,) = said(found)
    assert damage.startswith(f"{daemon.meta}: is no bbolt database")


def test_a_database_that_is_missing_is_named(daemon: Daemon) -> None:
    """So is one that is not there, and one without the bucket that containerd 1.0 made."""
    daemon.bundle("web")
    assert said(daemon.described("web")) == [f"{daemon.meta}: No such file or directory"]
    daemon.meta.write_bytes(boltwriter.database({b"v0": {}}))
    assert said(daemon.described("web"))[0].startswith(f"{daemon.meta}: v1: is missing")
    daemon.container("web", snapshotKey=b"web")
    daemon.snapshot("web", 1, 2)
    daemon.write()
    (daemon.directory("overlayfs") / "metadata.db").unlink()
    assert said(daemon.described("web")) == [
        f"{daemon.directory('overlayfs')}/metadata.db: No such file or directory"
    ]


def test_a_damaged_page_spoils_only_what_is_on_it(daemon: Daemon) -> None:
    """Whatever page is damaged, it is named, all tasks are listed, and nothing is raised."""
    names = [f"c{number}" for number in range(6)]
    for number, name in enumerate(names):
        daemon.layered(name, first=10 * number + 1)
        daemon.bundle(name)
    daemon.write(page_size=1024)
    whole = daemon.meta.read_bytes()
    pages = len(whole) // 1024
    spared = 0
    for page in range(2, pages):
        data = bytearray(whole)
        data[page * 1024 + 8 : page * 1024 + 12] = b"\xff\xff\xff\xff"
        daemon.meta.write_bytes(data)
        engine = Containerd(daemon.usual)
        found = [engine.describe(each, daemon.roots) for each in engine.containers(daemon.roots)]
        assert [each.id for each in found] == names
        told = [text for each in found for text in said(each)]
        if told:
            assert any(f"page {page} at byte" in text for text in told)
        spared += 0 < len([each for each in found if each.damages]) < len(names)
    assert spared


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_byte_raises_nothing(daemon: Daemon, seed: int) -> None:
    """A byte that is another in both databases is never more than a damage."""
    daemon.layered("web")
    daemon.bundle("web")
    daemon.write(page_size=1024)
    chance = random.Random(seed)  # noqa: S311 -- bytes to damage, no secrets
    for file in (daemon.meta, daemon.directory("overlayfs") / "metadata.db"):
        data = bytearray(file.read_bytes())
        for _ in range(1 + seed % 5):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(data)
    engine = Containerd(daemon.usual)
    for each in engine.containers(daemon.roots):
        engine.describe(each, daemon.roots)


def test_a_message_is_read_strictly() -> None:
    """Fields of every kind are skipped or read; what is no message is an error."""
    message = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02ab" + b"\x25" + bytes(4)
    assert strings(message) == {3: b"ab"}
    assert unwrap(b"\n\x01T\x12\x02{}") == ("T", b"{}")
    for wrong in (b"\x1a", b"\x1a\x02a", b"\x11\x00", b"\x02\x00", b"\x0b", b"\x08" + b"\xff" * 11):
        with pytest.raises(ValueError, match="byte"):
            strings(wrong)
