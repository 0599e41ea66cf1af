# SPDX-License-Identifier: Apache-2.0
"""
CRIU is the judge of propagation: what its v2 engine cannot pass on, and what the older one can.

By hand, with what the plan says but its choice of the engine, CRIU dumps and then fails with the
message of the rule. Where the plan takes the older engine, the container comes back.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from e2e.test_rules_judged import comes_back, matches, refusals
from mountcr.demo.launch import BindMount
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.private import in_namespace_of
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from e2e.conftest import Place


def parts(*propagation: str, first: str) -> None:
    """
    Mount a tmpfs in the container, shared, and its `a` at /a and `b` at /b.

    `propagation` are theirs, and `first` is what that of the tmpfs is at the end.
    """
    os.makedirs("/t")
    syscalls.mount(b"t", b"/t", b"tmpfs", 0, b"")
    mounts.set_propagation(encode("/t"), "shared")
    for name, kind in zip("ab", propagation, strict=False):
        os.makedirs(f"/t/{name}")
        os.makedirs(f"/{name}")
        syscalls.mount(f"/t/{name}".encode(), f"/{name}".encode(), b"", syscalls.MS_BIND, b"")
        mounts.set_propagation(encode(f"/{name}"), kind)
    mounts.set_propagation(encode("/t"), first)


def join(clone: int, at: str, propagation: str) -> None:
    """Attach a clone of a mount of the host, which is one of its peers, or a slave of them."""
    os.makedirs(at)
    mounts.attach(clone, encode(at))
    if propagation != "shared":
        mounts.set_propagation(encode(at), propagation)


def part_of_root() -> None:
    """Make the root a slave of the group in which only a directory of it is left."""
    mounts.set_propagation(encode("/"), "shared")
    os.makedirs("/b")
    syscalls.mount(b"/etc", b"/b", b"", syscalls.MS_BIND, b"")
    mounts.set_propagation(encode("/"), "slave")


def without_proc() -> None:
    """Have a peer group and no proc."""
    parts(first="shared")
    syscalls.umount2(b"/proc", syscalls.MNT_DETACH)


class Shape(NamedTuple):
    """A rule, where it is found, whether the older engine cures it, and what breaks it."""

    rule: str
    where: str
    cured: bool
    work: Callable[[], object] | None = None
    binds: Sequence[tuple[str, str]] = ()


SHAPES = {
    "slaves of one group of the container": Shape(
        "R7", "/b", cured=True, work=partial(parts, "slave", "slave", first="shared")
    ),
    "peers without what holds both": Shape(
        "R7", "/b", cured=False, work=partial(parts, "shared", "shared", first="private")
    ),
    "peers on the host": Shape("R7", "/b", cured=True, binds=(("a", "shared"), ("b", "shared"))),
    "a slave of a peer beside it": Shape(
        "R6", "/a", cured=True, binds=(("a", "slave"), ("b", "shared"))
    ),
    "a slave of a part of itself": Shape(
        "R6", "/t", cured=False, work=partial(parts, "shared", first="slave")
    ),
    "a root that is a slave of a part of it": Shape("R6", "/", cured=False, work=part_of_root),
    "no proc": Shape("R15", "/proc", cured=True, work=without_proc),
}


def start(place: Place, shape: Shape) -> int:
    """Start a container of a shape; parts of the host come from one shared mount."""
    place.mount_overlay()
    place.directory("source")
    place.directory("source/a")
    place.directory("source/b")
    place.bind(place.top / "source", place.top / "source", "shared")
    pid = place.start()
    for name, kind in shape.binds:
        clone = mounts.clone(encode(str(place.top / "source" / name)))
        in_namespace_of(pid, partial(join, clone, f"/{name}", kind))
        os.close(clone)
    if shape.work:
        in_namespace_of(pid, shape.work)
    return pid


def dump_alone(place: Place, pid: int, plan: Any) -> Path:
    """Have CRIU dump by hand with the externals of a plan; give where the images are."""
    images = place.directory("alone")
    named = [f"mnt[{each['mountpoint']}]:{each['key']}" for each in plan["externals"]]
    words = [word for each in named for word in ("--external", each)]
    done = place.run_criu("dump", "-t", pid, "-R", "-D", images, "-v4", "-o", "dump.log", *words)
    assert done.status == 0, (images / "dump.log").read_text(errors="replace")[-2000:]
    return images


def restore_alone(place: Place, plan: Any, images: Path) -> str:
    """Claim that CRIU cannot restore by hand with the sources of a plan; give its log."""
    named = [f"mnt[{each['key']}]:{each['source']}" for each in plan["externals"]]
    words = [word for each in named for word in ("--external", each)]
    given = ("-D", images, "--root", place.root, "-v4", "-o", "restore.log", "-d", *words)
    done = place.run_criu("restore", *given)
    assert done.status != 0
    return (images / "restore.log").read_text(errors="replace")


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_not_passed_on(place: Place, name: str) -> None:
    """
    CRIU dumps, and its v2 engine cannot restore, with the message of the rule.

    The plan says so before the dump. With the older engine, where the plan takes it, the container
    comes back, and where not, `dump` does nothing.
    """
    shape = SHAPES[name]
    pid = start(place, shape)
    done = place.mountcr("plan", pid, "--json")
    plan = done.document
    assert (shape.rule, shape.where, shape.cured) in refusals(plan)
    assert done.status == (0 if shape.cured else 4)
    assert plan["engine"]["name"] == ("v1" if shape.cured else "v2")
    assert plan["engine"]["representable"] == shape.cured
    assert ("--mntns-compat-mode" in plan["criu"]["restore"]) == shape.cured
    images = dump_alone(place, pid, plan)
    assert matches(shape.rule, restore_alone(place, plan, images))
    if shape.cured and not plan["verdict"].startswith("ok-with"):
        comes_back(place, pid)
    elif not shape.cured:
        assert place.mountcr("dump", pid, "--images", place.top / "images").status == 4
        assert place.runs(pid)


def test_peers_of_the_host_are_peers_again(place: Place) -> None:
    """By the older engine, cut off from the host as F1 says; nothing else differs."""
    pid = start(place, SHAPES["peers on the host"])
    losses = {
        (each["rule"], each["mount"])
        for each in place.done("plan", pid)["findings"]
        if each["severity"] == "loss"
    }
    assert losses == {("F1", "/a"), ("F1", "/b")}
    document = place.done("restore", place.dump(pid))
    assert {each["path"] for each in document["differences"]} == {"/a", "/b"}
    table = Path(f"/proc/{document['pid']}/mountinfo").read_text().splitlines()
    tags = {line.split()[4]: line.split()[6:8] for line in table}
    assert tags["/a"] == tags["/b"]
    assert tags["/a"][0].startswith("shared:")


def test_sources_on_mounts_that_show_different_parts(place: Place) -> None:
    """R6: slaves of one group outside, of which each member shows a part only."""
    whole = place.directory("whole")
    place.mount("tmpfs", whole)
    mounts.set_propagation(encode(str(whole)), "shared")
    for name in "ab":
        place.directory(f"whole/{name}")
        at = place.directory(f"part-{name}")
        syscalls.mount(os.fsencode(whole / name), os.fsencode(at), b"", syscalls.MS_BIND, b"")
    place.unmount(whole)
    place.mount_overlay()
    pid = place.start(
        binds=[
            BindMount(str(place.top / f"part-{name}"), f"/{name}", propagation="slave")
            for name in "ab"
        ]
    )
    plan = place.done("plan", pid)
    found = [each for each in plan["findings"] if each["rule"] == "R6"]
    assert [each["cured"] for each in found] == [True]
    assert plan["engine"]["name"] == "v1"
    assert matches("R6", restore_alone(place, plan, dump_alone(place, pid, plan)))
    comes_back(place, pid)
