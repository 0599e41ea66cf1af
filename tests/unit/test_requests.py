# SPDX-License-Identifier: Apache-2.0
"""What mounts of a bundle may have for a source, from records alone."""

from __future__ import annotations

import msgspec
import pytest

import builders
import bundles
from mountcr.model import Facts, Imported, InodeType
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.records import External
from mountcr.planning.requests import answered, lying

AT = KPath("/containers/web")


def imported(**sources: str) -> Facts:
    facts = builders.facts("1 0 0:50 / / rw - overlay overlay rw,lowerdir=/l")
    brought = {KPath(f"/{at}"): KPath(source) for at, source in sources.items()}
    own = Imported(at=AT, stack=bundles.STACK, sources=brought)
    return msgspec.structs.replace(facts, imported=own)


def external(source: str, at: str = "/data", kind: InodeType = InodeType.DIRECTORY) -> External:
    return External(
        mountpoint=KPath(at), key=at, source=KPath(source), type=kind, fstype="ext4", because=""
    )


def source_of(facts: Facts, each: External, choices: Choices) -> str | None:
    (found,) = answered(facts, (each,), choices)
    return found.source


def test_what_nobody_allows_has_no_source() -> None:
    """It is remembered what was asked for."""
    (found,) = answered(imported(), (external("/etc"),), Choices())
    assert (found.source, found.requested) == (None, "/etc")


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("/srv/data", "/srv/data"),
        ("/srv", "/srv"),
        ("/srvs/data", None),
        ("/srv/../etc", None),
        ("/", None),
    ],
)
def test_a_source_below_an_allowed_directory_is_taken(source: str, answer: str | None) -> None:
    """Not one beside it, nor one that goes up."""
    allowed = Choices(allowed=(KPath("/srv"),))
    assert source_of(imported(), external(source), allowed) == answer


def test_what_came_along_is_taken() -> None:
    """Before what is allowed; what the user names for a mountpoint is nobody else's matter."""
    facts = imported(data=f"{AT}/mounts/1")
    allowed = Choices(allowed=(KPath("/srv"),))
    assert source_of(facts, external("/srv"), allowed) == f"{AT}/mounts/1"
    named = Choices(binds={KPath("/data"): KPath("/elsewhere")})
    assert source_of(facts, external("/elsewhere"), named) == "/elsewhere"


def test_something_empty_is_made_if_asked_for() -> None:
    """In the container's own directory, one for each mount."""
    externals = (external("/a", "/x/data"), external("/b", "/y/data"))
    found = answered(imported(), externals, Choices(create_missing=True))
    sources = [each.source for each in found]
    assert len(set(sources)) == 2
    assert all(each and each.startswith(f"{AT}/made/") for each in sources)


def test_devices_of_every_host_are_taken() -> None:
    """But not a directory that calls itself one, nor a disk."""
    device = external("/dev/null", "/dev/null", InodeType.CHARACTER)
    assert source_of(imported(), device, Choices()) == "/dev/null"
    assert source_of(imported(), external("/dev/null"), Choices()) is None
    disk = external("/dev/sda", "/dev/sda", InodeType.BLOCK)
    assert source_of(imported(), disk, Choices()) is None


def test_a_dump_of_this_host_has_its_own_sources() -> None:
    """Nothing is asked of them."""
    facts = msgspec.structs.replace(imported(), imported=None)
    assert source_of(facts, external("/etc"), Choices()) == "/etc"


def test_a_tmpfs_that_came_along_is_looked_at_where_it_lies() -> None:
    """It is made and filled later; what was open in it is looked for before."""
    facts = imported(data=f"{AT}/mounts/1")
    memory = msgspec.structs.replace(external("/dev/shm/x"), fstype="tmpfs")
    found = answered(facts, (memory, external("/y", "/other")), Choices(create_missing=True))
    assert [each.source for each in found] == [f"{AT}/made/data", f"{AT}/made/other"]
    seen = [each.source for each in lying(facts, found)]
    assert seen == [f"{AT}/mounts/1", f"{AT}/made/other"]
