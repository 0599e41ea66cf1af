# SPDX-License-Identifier: Apache-2.0
"""What goes into a bundle, from the manifest of a dump alone."""

from __future__ import annotations

import msgspec
import pytest

import bundles
from mountcr.errors import RefusedError, UsageError
from mountcr.model import InodeType
from mountcr.paths import KPath
from mountcr.planning.bundling import Base, Known, LayerMode, plan_contents
from mountcr.planning.records import External
from mountcr.stack import Stack

KNOWN = {KPath("/l/2"): Known("sha256:d", "sha256:c")}


def external(
    at: str, source: str | None, kind: InodeType = InodeType.DIRECTORY, fstype: str = "ext4"
) -> External:
    return External(
        mountpoint=KPath(at),
        key=at,
        source=KPath(source) if source else None,
        type=kind,
        fstype=fstype,
        because="",
    )


@pytest.mark.parametrize(
    ("mode", "members"),
    [
        (LayerMode.NONE, ["", ""]),
        (LayerMode.MISSING, ["layers/1.tar", ""]),
        (LayerMode.ALL, ["layers/1.tar", "layers/2.tar"]),
    ],
)
def test_layers_go_along_by_choice(mode: LayerMode, members: list[str]) -> None:
    """None, those that no image has, or all; each has the digests that it is known by."""
    contents = plan_contents(bundles.manifest(), KNOWN, mode=mode)
    assert [each.member for each in contents.layers] == members
    assert [each.diff_id for each in contents.layers] == ["", "sha256:d"]
    assert [each.path for each in contents.stored] == ["/u", "/l/1", "/l/2"]


def test_contents_of_data_only_layers_go_along() -> None:
    """In another store the layers above are of no use without them."""
    stack = msgspec.structs.replace(bundles.STACK, data=(KPath("/d"),))
    contents = plan_contents(bundles.manifest(stack=stack), KNOWN, mode=LayerMode.NONE)
    assert [each.member for each in contents.layers] == ["layers/1.tar", "layers/2.tar"]
    assert not any(each.diff_id for each in contents.layers)


def test_a_copied_root_is_compared_with_its_image() -> None:
    """Of an image in one directory the layers are named, and go along in one tar or not."""
    stack = Stack(driver="vfs", upper=KPath("/all"))
    base = Base(KPath("/image"), (Known("sha256:1", "sha256:c1"), Known("sha256:2", "sha256:c2")))
    manifest = bundles.manifest(stack=stack)
    without = plan_contents(manifest, {}, base=base, mode=LayerMode.MISSING)
    assert without.compared
    assert [each.member for each in without.layers] == ["", ""]
    whole = plan_contents(manifest, {}, base=base, mode=LayerMode.ALL)
    assert [(each.member, each.flat) for each in whole.layers] == [
        ("layers/1.tar", True),
        ("", False),
    ]
    alone = plan_contents(manifest, {}, mode=LayerMode.ALL)
    assert (alone.layers, alone.compared) == ((), False)


@pytest.mark.parametrize(
    "stack", [None, Stack(driver="overlay", lowers=(KPath("/l/1"), KPath("/l/2")))]
)
def test_what_has_no_writable_layer_is_refused(stack: Stack | None) -> None:
    """So is what nobody knows the layers of."""
    with pytest.raises(RefusedError):
        plan_contents(bundles.manifest(stack=stack), {}, mode=LayerMode.ALL)


def test_volumes_go_along_by_choice() -> None:
    """Named ones, or all that are directories or files; not devices, nor what has no source."""
    externals = (
        external("/data", "/srv/data"),
        external("/name", "/srv/name", InodeType.FILE),
        external("/dev/null", "/dev/null", InodeType.CHARACTER, "devtmpfs"),
        external("/sys/fs/cgroup", "/sys/fs/cgroup", fstype="cgroup2"),
        external("/lost", None),
    )
    manifest = bundles.manifest(externals=externals)
    none = plan_contents(manifest, {}, mode=LayerMode.NONE)
    assert none.mounts == ()
    named = plan_contents(manifest, {}, mode=LayerMode.NONE, volumes=(KPath("/name"),))
    assert [(each.carried.member, each.source) for each in named.mounts] == [
        ("mounts/1", "/srv/name")
    ]
    every = plan_contents(manifest, {}, mode=LayerMode.NONE, all_volumes=True)
    assert [each.carried.member for each in every.mounts] == ["mounts/1.tar", "mounts/2"]


@pytest.mark.parametrize("name", ["/nothing", "/dev/null"])
def test_a_volume_that_cannot_go_along_is_named(name: str) -> None:
    """What is not mounted, or has no content."""
    externals = (external("/dev/null", "/dev/null", InodeType.CHARACTER, "devtmpfs"),)
    manifest = bundles.manifest(externals=externals)
    with pytest.raises(UsageError, match=f"--volume {name}"):
        plan_contents(manifest, {}, mode=LayerMode.NONE, volumes=(KPath(name),))
