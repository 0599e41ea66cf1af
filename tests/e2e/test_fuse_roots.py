# SPDX-License-Identifier: Apache-2.0
"""
Containers whose root is a FUSE union: dumped, rebuilt by mountcr, restored, and nothing is left.

The server of such a root is no task of the container. A new one serves the rebuilt root.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from e2e.roots import UNIONS, mount_root
from mountcr.kernel import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from e2e.conftest import Place
    from e2e.roots import Union
    from mountcr.kernel.servers import Server


@pytest.fixture(params=UNIONS)
def union(request: pytest.FixtureRequest, require: Callable[[str], str]) -> Union:
    """Each union whose program is here."""
    require(request.param)
    return UNIONS[request.param]


@pytest.fixture
def container(place: Place, union: Union) -> int:
    """A container that counts, on a root that somebody mounted with the program."""
    mount_root(place, union.driver)
    pid = place.start()
    place.wait(lambda: place.count() > 2)
    return pid


@pytest.fixture(autouse=True)
def _nothing_left(place: Place) -> Iterator[None]:
    yield
    place.close()
    place.wait(lambda: not _ours(place))


def _ours(place: Place) -> list[Server]:
    """Give the servers of the place, whoever started them."""
    return [each for each in servers.all_servers() if str(place.top) in " ".join(each.words)]


def _words(found: list[Server]) -> list[str]:
    return [word for each in found for word in each.words[:-1]]


def test_a_plan_tells_the_layers_of_a_fuse_root(place: Place, union: Union, container: int) -> None:
    """The layers come from the command line of the server, for mountinfo does not have them."""
    rootfs = place.done("plan", container)["rootfs"]
    assert rootfs["driver"] == union.driver
    assert rootfs["layers"] == [str(layer) for layer in place.layers]
    assert rootfs["upper"] == str(place.upper)
    assert "command line" in rootfs["provenance"][0]


def test_a_fuse_root_is_rebuilt_and_its_container_goes_on(
    place: Place, union: Union, container: int
) -> None:
    """A new server has the old layers, serves the container, and ends with it."""
    images = place.dump(container)
    place.wait(lambda: not _ours(place))
    before = place.count()
    pid = place.restore(images)
    [server] = _ours(place)
    assert server.token
    assert union.driver in server.words[0]
    place.wait(lambda: place.count() > before)
    place.goes_on()
    place.kill(pid)
    place.wait(lambda: not _ours(place))
    assert place.table() == [line for line in place.table() if "/root" not in line]


def test_a_rebuilt_fuse_root_ends_with_its_umount(
    place: Place, union: Union, container: int
) -> None:
    """`umount` leaves neither a mount nor a server, and the layers as they are."""
    images = place.dump(container)
    place.wait(lambda: not _ours(place))
    rebuilt = place.mountcr("rebuild", images, "--at", place.root, "--json")
    assert rebuilt.document["driver"] == union.driver
    assert (place.root / "etc/motd").read_text() == "from the middle\n"
    (place.root / "etc/new").write_text("new\n")
    place.done("umount", place.root)
    assert _ours(place) == []
    assert str(place.root) not in place.mounted()
    assert (place.upper / "etc/new").read_text() == "new\n"


def test_a_container_outlives_the_umount_of_its_rebuilt_root(
    place: Place, union: Union, container: int
) -> None:
    """A server that serves a restored container too does not end with the mount on the host."""
    images = place.dump(container)
    pid = place.restore(images, "--root", place.root)
    place.done("umount", place.root)
    [server] = _ours(place)
    assert server.token
    assert union.driver in server.words[0]
    place.goes_on()
    place.kill(pid)
    place.wait(lambda: not _ours(place))


def test_a_dumped_fuse_root_can_be_dumped_again(place: Place, container: int) -> None:
    """A root that mountcr rebuilt is recognised as the one that it was."""
    images = place.dump(container)
    pid = place.restore(images)
    place.goes_on()
    again = place.restore(place.dump(pid, "again"))
    place.goes_on()
    place.kill(again)


def test_a_fuse_root_in_use_is_not_served_twice(
    place: Place, union: Union, container: int, tmp_path: Path
) -> None:
    """A second server on the same writable layer would corrupt it."""
    del union
    other = tmp_path / "other"
    other.mkdir()
    images = place.dump(container, "images", "--leave-running")
    before = _words(_ours(place))
    refused = place.mountcr("rebuild", images, "--at", other)
    assert refused.status == 4, refused
    assert "is in use" in refused.err
    assert _words(_ours(place)) == before


def test_a_readonly_rebuild_writes_nothing(place: Place, union: Union, container: int) -> None:
    """The writable layer is shown and not written into."""
    images = place.dump(container)
    rebuilt = place.mountcr("rebuild", images, "--at", place.root, "--ro", "--json")
    assert rebuilt.document["driver"] == union.driver
    before = place.count()
    assert (place.root / "var/count").read_text() == (place.upper / "var/count").read_text()
    with pytest.raises(OSError, match="Read-only"):
        (place.root / "new").mkdir()
    place.done("umount", place.root)
    assert _ours(place) == []
    assert place.count() == before


@pytest.mark.parametrize("other", ["overlay", "vfs", "unionfs", "fuse-overlayfs"])
def test_a_fuse_root_becomes_another_one(place: Place, container: int, other: str) -> None:
    """A container goes on with what it wrote, on any driver, and the original is left alone."""
    (place.root / "etc/lines").unlink()
    images = place.dump(container)
    upper = place.top / "converted"
    pid = place.restore(images, "--driver", other, "--upper", upper)
    shown = f"/proc/{pid}/root"
    assert sorted(os.listdir(shown)) == ["bin", "dev", "etc", "proc", "var"]
    assert os.listdir(f"{shown}/etc") == ["motd"]
    before = place.count()
    place.goes_on(upper)
    assert place.count() == before
    place.kill(pid)
    place.wait(lambda: not _ours(place))
