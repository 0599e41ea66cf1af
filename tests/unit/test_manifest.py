# SPDX-License-Identifier: Apache-2.0
"""A manifest holds a dump: it is written whole, and read whole or refused by name."""

# What a dump records of the streams is seen in its manifest only.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr import manifest as manifests
from mountcr.criu.options import CgroupMode
from mountcr.errors import DocumentError, NotFoundError
from mountcr.manifest import Manifest
from mountcr.model import FileKind, OpenFile
from mountcr.operations.dump import _standard_streams
from mountcr.paths import KPath, encode
from mountcr.planning.files import NamedFile
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from pathlib import Path


def example(name: str = "docker-overlay2") -> Manifest:
    """The manifest of a recorded container."""
    facts = builders.facts(builders.recorded(name), builders.recorded(f"{name}.host"))
    plan = make_plan(facts)
    return Manifest(
        created="2020-01-01T00:00:00+00:00",
        facts=facts,
        rootfs=plan.rootfs,
        externals=plan.externals,
        inherited=plan.inherited,
        cgroups=CgroupMode.SOFT,
        files=(NamedFile(path=KPath(r"/a\xff"), mountpoint=KPath("/"), size=1, digest="a"),),
        losses=plan.losses,
        standard_streams=("/dev/null", "pipe:[1]", "/log"),
        extra=("--ghost-limit", "2M"),
    )


@pytest.mark.parametrize("name", ["docker-overlay2", "runc-vfs", "podman-fuse"])
def test_what_was_written_is_read(name: str, tmp_path: Path) -> None:
    """Facts, plan and files come back as they were; nothing else is left in the directory."""
    images = encode(bytes(tmp_path))
    manifests.write(example(name), images)
    assert manifests.read(images) == example(name)
    assert sorted(os.listdir(tmp_path)) == ["descriptors.json", "mountcr.json"]


def test_standard_streams_are_where_runtimes_look(tmp_path: Path) -> None:
    """Runc and crun read the links of descriptors 0 to 2 from a file of their own."""
    manifests.write(example(), encode(bytes(tmp_path)))
    text = (tmp_path / "descriptors.json").read_text("utf-8")
    assert json.loads(text) == ["/dev/null", "pipe:[1]", "/log"]


def test_standard_streams_of_any_bytes_can_be_written(tmp_path: Path) -> None:
    """A stream that led to a file whose name is not UTF-8 does not spoil the dump."""
    stream = OpenFile(kind=FileKind.FD, shown=KPath(r"/log\xff"), fd=1)
    facts = builders.facts("10 5 0:50 / / rw - tmpfs t rw", files=(stream,))
    streams = _standard_streams(facts)
    assert streams == ("/dev/null", "/log\ufffd", "/dev/null")
    manifest = msgspec.structs.replace(example(), standard_streams=streams)
    manifests.write(manifest, encode(bytes(tmp_path)))
    assert manifests.read(encode(bytes(tmp_path))) == manifest


def test_an_old_manifest_is_replaced(tmp_path: Path) -> None:
    """Writing again leaves the newer one."""
    images = encode(bytes(tmp_path))
    manifests.write(example("runc-vfs"), images)
    manifests.write(example(), images)
    assert manifests.read(images) == example()


def test_no_directory(tmp_path: Path) -> None:
    """A directory that is not there is not found, and named."""
    with pytest.raises(NotFoundError, match=r"no such directory: .*/gone"):
        manifests.read(encode(str(tmp_path / "gone")))


def test_a_directory_without_a_manifest(tmp_path: Path) -> None:
    """Images of another tool are no images of ours."""
    with pytest.raises(DocumentError, match=r"has no mountcr\.json") as caught:
        manifests.read(encode(bytes(tmp_path)))
    assert caught.value.hint


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    """It is said that it is no directory."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(DocumentError, match="is not a directory"):
        manifests.read(encode(str(tmp_path / "file")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is damaged"),
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b"\xff", "is damaged"),
        (b'{"schema": "mountcr/manifest/1"}', "is damaged: .*created"),
        (b'{"schema": "mountcr/manifest/2"}', "version 2, newer than mountcr/manifest/1"),
        (b'{"schema": "mountcr/facts/1"}', "no manifest of mountcr: schema 'mountcr/facts/1'"),
        (b"{}", "no manifest of mountcr"),
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    """Damaged, newer or of something else: the error names the file and says which."""
    (tmp_path / "mountcr.json").write_bytes(text)
    with pytest.raises(DocumentError, match=message) as caught:
        manifests.read(encode(bytes(tmp_path)))
    assert "mountcr.json" in caught.value.message
    assert caught.value.hint


def test_a_manifest_that_was_cut_is_refused(tmp_path: Path) -> None:
    """However much of it is there."""
    images = encode(bytes(tmp_path))
    manifests.write(example(), images)
    whole = (tmp_path / "mountcr.json").read_bytes()
    for length in range(1, len(whole) - 1, len(whole) // 40):
        (tmp_path / "mountcr.json").write_bytes(whole[:length])
        with pytest.raises(DocumentError):
            manifests.read(images)
