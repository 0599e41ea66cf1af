# SPDX-License-Identifier: Apache-2.0
"""The root comes back from the very layers it had, or from a copy, and never is mounted twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.errors import UsageError
from mountcr.graph.tree import MountTree
from mountcr.model import Container
from mountcr.paths import KPath
from mountcr.planning.choices import CACHE, STATE, Choices
from mountcr.planning.rootfs import find_stack, holders, plan_rootfs
from mountcr.planning.steps import (
    Attributes,
    Bind,
    Convert,
    Copy,
    Directory,
    EmptyLayer,
    Overlay,
    Propagation,
)
from mountcr.stack import Stack, StoredLayer
from mountcr.target import Survey, SurveyedLayer

if TYPE_CHECKING:
    from mountcr.planning.records import Rootfs

AT = KPath("/at")
STACK = Stack(
    driver="overlay",
    lowers=(KPath("/l2"), KPath("/l1")),
    upper=KPath("/u"),
    work=KPath("/w"),
    options=("index=on",),
    provenance=("told",),
)
BARE = MountTree(builders.table("1 0 8:1 / / rw - ext4 /dev/sda1 rw"))
BUSY = MountTree(
    builders.table("""
        1 0 8:1 / / rw - ext4 /dev/sda1 rw
        2 1 0:60 / /merged rw - overlay overlay rw,lowerdir=/l2:/l1,upperdir=/u,workdir=/w,index=on
    """)
)
OVERLAY_ROOT = builders.mount(
    "10 5 0:50 / / rw,nosuid,relatime - overlay overlay rw,lowerdir=/l2:/l1,upperdir=/u,workdir=/w"
)


def planned(
    stack: Stack = STACK,
    host: MountTree = BARE,
    choices: Choices | None = None,
    root: str = "",
    survey: Survey | None = None,
) -> Rootfs:
    """The root file system of a container called web."""
    return plan_rootfs(
        stack,
        AT,
        host,
        choices or Choices(),
        container="web",
        root=builders.mount(root) if root else None,
        survey=survey,
    )


def test_the_stack_is_mounted_where_it_is_not() -> None:
    """With all its layers, options and the writable layer where it lies."""
    (step,) = planned().steps
    assert isinstance(step, Overlay)
    assert (step.at, step.lowers, step.upper, step.work) == (AT, STACK.lowers, "/u", "/w")
    assert step.options == ("index=on",)


def test_a_stack_that_is_mounted_is_bound() -> None:
    """Two mounts of one writable layer corrupt it."""
    (step,) = planned(host=BUSY).steps
    assert isinstance(step, Bind)
    assert (step.source, step.at) == ("/merged", AT)


def test_a_stack_that_is_mounted_out_of_sight_is_not_bound() -> None:
    """What another mount hides has no path to bind."""
    host = MountTree((*BUSY.mounts, builders.mount("3 2 0:61 / /merged rw - tmpfs t rw")))
    (step,) = planned(host=host).steps
    assert isinstance(step, Overlay)


def test_read_only_writes_into_no_layer() -> None:
    """The writable layer becomes the topmost of the others, and the mount is read-only."""
    overlay, attributes = planned(choices=Choices(readonly=True)).steps
    assert isinstance(overlay, Overlay)
    assert (overlay.lowers, overlay.upper, overlay.work) == (("/u", "/l2", "/l1"), None, None)
    assert isinstance(attributes, Attributes)
    assert attributes.attributes == ("ro",)


def stored(*directories: str, dialect: str = "overlay", index: str = "") -> tuple[StoredLayer, ...]:
    """Layers of one dialect, top first; that is the one with an index, if any."""
    top, *others = (StoredLayer(path=KPath(each), dialect=dialect) for each in directories)
    return (msgspec.structs.replace(top, index=KPath(index)) if index else top, *others)


def test_a_copy_on_another_driver() -> None:
    """Everything is copied to a directory of its own, and the origin is remembered."""
    rootfs = planned(choices=Choices(driver="vfs"))
    copy, bind = rootfs.steps
    assert isinstance(copy, Copy)
    assert isinstance(bind, Bind)
    assert copy.layers == stored("/u", "/l2", "/l1", index="/w/index")
    assert copy.into == bind.source == f"{STATE}/web.vfs"
    assert (rootfs.driver, rootfs.upper, rootfs.origin) == ("vfs", f"{STATE}/web.vfs", STACK)


def test_another_upper_gets_the_changes() -> None:
    """They are written into it, and the original is left alone."""
    upper, work, overlay = planned(choices=Choices(upper=KPath("/new"))).steps
    assert isinstance(upper, Convert)
    assert isinstance(work, Directory)
    assert isinstance(overlay, Overlay)
    assert upper.layers == stored("/u", "/l2", "/l1", index="/w/index")
    assert (upper.into, upper.to) == ("/new", "overlay")
    assert not upper.shared
    assert (overlay.upper, overlay.lowers) == ("/new", ("/l2", "/l1"))
    assert work.path == overlay.work != overlay.upper


def test_a_writable_layer_keeps_its_kind_of_attributes() -> None:
    """With `userxattr` the marks are in attributes that a user may have."""
    stack = msgspec.structs.replace(STACK, options=("userxattr",))
    rootfs = planned(stack, choices=Choices(upper=KPath("/new")))
    upper = rootfs.steps[0]
    assert isinstance(upper, Convert)
    assert upper.layers == stored("/u", "/l2", "/l1", dialect="overlay-user")
    assert upper.to == "overlay-user"
    assert rootfs.options == ("userxattr",)


PLAIN = Survey(layers={KPath("/dir"): SurveyedLayer()})
FOREIGN = Survey(layers={KPath("/dir"): SurveyedLayer(foreign=KPath("/.wh.x"), digest="d16e57")})


def test_a_plain_directory_as_an_overlay() -> None:
    """From vfs to overlay, the directory becomes the lower layer where it lies."""
    stack = Stack(driver="vfs", upper=KPath("/dir"))
    choices = Choices(driver="overlay", upper=KPath("/new"))
    rootfs = planned(stack, choices=choices, survey=PLAIN)
    assert (rootfs.driver, rootfs.layers, rootfs.upper) == ("overlay", ("/dir",), "/new")
    assert [type(step) for step in rootfs.steps] == [EmptyLayer, Directory, Overlay]


def test_a_lower_layer_that_would_be_misread_is_converted() -> None:
    """Into the cache, under the digest of what it changes; the step names what is misread."""
    stack = Stack(driver="vfs", upper=KPath("/dir"))
    choices = Choices(driver="overlay", upper=KPath("/new"))
    rootfs = planned(stack, choices=choices, survey=FOREIGN)
    lower = rootfs.steps[0]
    assert isinstance(lower, Convert)
    assert (lower.into, lower.to, lower.shared) == (f"{CACHE}/d16e57.overlay", "overlay", True)
    assert rootfs.layers == (lower.into,)
    assert "/dir/.wh.x" in lower.because


def test_layers_nobody_looked_at_count_as_foreign() -> None:
    """A plan that is only looked at does not promise what it does not know."""
    stack = Stack(driver="vfs", upper=KPath("/dir"))
    rootfs = planned(stack, choices=Choices(driver="overlay", upper=KPath("/new")))
    assert isinstance(rootfs.steps[0], Convert)


def test_an_unknown_driver_is_named() -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match="'zfs'") as caught:
        planned(choices=Choices(driver="zfs"))
    assert caught.value.hint
    assert "overlay" in caught.value.hint


def test_attributes_of_the_root_come_back() -> None:
    """Those that a mount can be given, but for read-only, which CRIU could not work in."""
    root = "10 5 0:50 / / ro,nosuid,nodev,relatime - overlay overlay rw,lowerdir=/l"
    _, attributes = planned(root=root).steps
    assert isinstance(attributes, Attributes)
    assert attributes.attributes == ("nosuid", "nodev")


@pytest.mark.parametrize("field", ["master:3", "shared:4"])
def test_a_root_with_peers_gets_a_peer_group(field: str) -> None:
    """CRIU copies the sharing of a root from a shared mount only."""
    step = planned(root=f"10 5 0:50 / / rw {field} - overlay overlay rw,lowerdir=/l").steps[-1]
    assert isinstance(step, Propagation)
    assert step.propagation == "shared"
    assert field in step.because


def test_stack_of_a_running_container() -> None:
    """Its root mount tells, not what the engine says."""
    container = Container(id="web", engine="runc", rootfs=KPath("/elsewhere"))
    stack = find_stack(container, OVERLAY_ROOT, BARE)
    assert stack is not None
    assert (stack.driver, stack.lowers, stack.upper) == ("overlay", ("/l2", "/l1"), "/u")
    assert stack.provenance


def test_stack_of_a_plain_root() -> None:
    """The directory on the host that the root mount shows."""
    root = builders.mount("10 5 8:1 /roots/web / rw - ext4 /dev/sda1 rw")
    stack = find_stack(Container(id="web", engine="runc"), root, BARE)
    assert stack is not None
    assert (stack.driver, stack.upper, stack.lowers) == ("vfs", "/roots/web", ())


@pytest.mark.parametrize(
    ("rootfs", "driver", "upper"),
    [("/merged", "overlay", "/u"), ("/dir", "vfs", "/dir"), ("/merged/sub", "vfs", "/merged/sub")],
)
def test_stack_of_a_container_that_does_not_run(rootfs: str, driver: str, upper: str) -> None:
    """What is mounted at its rootfs, or the directory there."""
    stack = find_stack(Container(id="web", engine="x", rootfs=KPath(rootfs)), None, BUSY)
    assert stack is not None
    assert (stack.driver, stack.upper) == (driver, upper)


def test_nobody_knows_the_stack() -> None:
    """A container without a root mount and without a rootfs, and a union of unknown kind."""
    container = Container(id="web", engine="x")
    assert find_stack(container, None, BARE) is None
    unknown = builders.mount("10 5 0:50 / / rw - fuse.unknown u rw")
    assert find_stack(container, unknown, BARE) is None


def test_holders_of_a_writable_layer() -> None:
    """Every mount that writes into it, also with other layers; plain directories have none."""
    other = builders.mount("3 1 0:61 / /other rw - overlay o rw,lowerdir=/q,upperdir=/u,workdir=/w")
    found = holders(STACK, (*BUSY.mounts, other))
    assert [mount.mountpoint for mount, _ in found] == ["/merged", "/other"]
    assert holders(Stack(driver="vfs", upper=KPath("/u")), BUSY.mounts) == []
    assert holders(Stack(driver="overlay", lowers=STACK.lowers), BUSY.mounts) == []


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("docker-overlay2", "overlay"),
        ("podman-overlay", "overlay"),
        ("runc-overlay", "overlay"),
        ("runc-vfs", "vfs"),
        ("docker-vfs", "vfs"),
        ("podman-btrfs", "vfs"),
        ("crun-vfs", "vfs"),
    ],
)
def test_recorded_stacks(name: str, driver: str) -> None:
    """Every engine's root is recognised, and its directories are absolute paths of the host."""
    root = builders.recorded(name)[0]
    host = MountTree(builders.recorded(f"{name}.host"))
    stack = find_stack(Container(id="x", engine="x"), root, host)
    assert stack is not None
    assert stack.driver == driver
    assert all(path.startswith("/srv/lab/") for path in stack.directories)
