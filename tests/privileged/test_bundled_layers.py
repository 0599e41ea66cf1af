# SPDX-License-Identifier: Apache-2.0
"""Layers that went through a bundle are the layers that they were: the same tars, on any driver."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from fidelity import unions
from fidelity.generator import generate
from fidelity.recipe import Node, SetXattr
from mountcr.driver import get_driver
from mountcr.paths import decode, encode
from mountcr.rootfs.changes import changes
from mountcr.rootfs.conversion import write_changes
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tarwriter import write_tar
from mountcr.rootfs.view import View
from mountcr.stack import StoredLayer
from scratch import filesystem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fidelity.recipe import Operation, Recipe

pytestmark = [pytest.mark.requires("overlay"), pytest.mark.any_kernel]

SEEDS = range(20)


def importable(recipe: Recipe) -> Recipe:
    """Leave out what no import takes over: nodes of devices and sockets, attributes of root's."""

    def kept(operations: Sequence[Operation]) -> tuple[Operation, ...]:
        return tuple(
            each
            for each in operations
            if not (isinstance(each, Node) and each.kind != "fifo")
            and not (isinstance(each, SetXattr) and each.name.startswith(b"trusted."))
        )

    layers = tuple(
        msgspec.structs.replace(each, operations=kept(each.operations)) for each in recipe.layers
    )
    return msgspec.structs.replace(recipe, layers=layers, changes=kept(recipe.changes))


def tars(layers: Sequence[StoredLayer]) -> list[bytes]:
    """Give each layer as a bundle has it, top first."""
    found: list[bytes] = []
    with opened(layers) as view:
        for number, layer in enumerate(view.layers):
            file = io.BytesIO()
            below = View(view.layers[number + 1 :], view.data)
            write_tar(changes(layer, below, writable=number == 0), file)
            found.append(file.getvalue())
    return found


def members(tar: bytes) -> list[tuple[object, ...]]:
    """Give the members of a tar by their names, with all that is said of each and its content."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return sorted(
            (
                *(each.name, each.type, each.mode, each.uid, each.gid, each.mtime, each.linkname),
                sorted(each.pax_headers.items()),
                _content(archive, each),
            )
            for each in archive
        )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() else None
    return file.read() if file else b""


@pytest.mark.parametrize("target", ["overlay", "unionfs", "fuse-overlayfs"])
def test_the_second_bundle_has_the_tars_of_the_first(tmp_path: Path, target: str) -> None:
    """
    Export, import, export: every layer has the same members, and is the same to the byte.

    Names that an index of overlayfs says are of a file come last, as nothing is there; in what was
    imported they are files as all others.
    """
    filesystem(tmp_path, 256 << 20)
    for seed in SEEDS:
        top = tmp_path / str(seed)
        top.mkdir()
        source = unions.variant("overlay", seed)
        made = unions.build(importable(generate(seed, layers=3)), source, bytes(top))
        first = tars(get_driver("overlay").layers(made.stack))
        packed: list[StoredLayer] = []
        for number, tar in enumerate(first):
            path = top / f"{number}.tar"
            path.write_bytes(tar)
            packed.append(StoredLayer(path=encode(bytes(path)), dialect="oci"))
        dialect = get_driver(target).dialect
        placed = [
            StoredLayer(path=encode(bytes(top / f"imported-{number}")), dialect=dialect)
            for number in range(len(packed))
        ]
        for number, layer in enumerate(placed):
            write_changes(packed[number:], (), layer.path, dialect, writable=number == 0)
        second = tars(placed)
        assert list(map(members, second)) == list(map(members, first)), f"seed {seed}"
        assert second == first or source == "overlay-index", f"seed {seed}"
        assert os.path.isdir(decode(placed[0].path))
        shutil.rmtree(top)
