# SPDX-License-Identifier: Apache-2.0
"""
Which restore engine a plan takes, whether it can make the mounts, and what the other would lose.

The tables are those that CRIU 4.1.1 was seen to refuse, or not, with either engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import pytest

import builders
from mountcr.graph import MountGraph
from mountcr.graph.compat import older_engine_fails
from mountcr.model import Capabilities, Criu
from mountcr.paths import KPath
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.planning.steps import Propagation
from mountcr.target import Target

if TYPE_CHECKING:
    from mountcr.model import Facts
    from mountcr.planning.records import Engine, Plan

ROOT: Final = "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"
PROC: Final = "9 10 0:49 / /proc rw - proc proc rw"
HOST: Final = "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw"
OUTSIDE: Final = "{} 10 8:1 {} {} rw {} - ext4 /dev/a rw"
TMPFS: Final = "{} 10 0:60 {} {} rw {} - tmpfs t rw"


def outside(*mounts: tuple[str, str, str]) -> Facts:
    """A container with parts of the host's file system: root, mountpoint, propagation."""
    lines = [OUTSIDE.format(20 + number, *each) for number, each in enumerate(mounts)]
    return builders.facts("\n".join([ROOT, PROC, *lines]), HOST)


def own(*mounts: tuple[str, str, str]) -> Facts:
    """A container with parts of a tmpfs of its own."""
    lines = [TMPFS.format(20 + number, *each) for number, each in enumerate(mounts)]
    return builders.facts("\n".join([ROOT, PROC, *lines]), HOST)


def sharing(plan: Plan) -> set[tuple[str, str, bool]]:
    """Give what is found of R6 and R7, and whether it is cured."""
    found = {(each.rule, each.mount, each.cured) for each in plan.findings}
    return {each for each in found if each[0] in {"R6", "R7"}}


def engine(plan: Plan) -> Engine:
    """Give what a plan says of the engine."""
    assert plan.engine is not None
    return plan.engine


PEERS: Final = outside(("/a", "/x", "shared:1"), ("/b", "/y", "shared:1"))
NARROW: Final = own(("/", "/t", "master:2"), ("/sub", "/s", "shared:2"))


Refused: TypeAlias = "set[tuple[str, str, bool]]"
NONE: Final[Refused] = set()


@pytest.mark.parametrize(
    ("facts", "found", "name", "can"),
    [
        (outside(("/a", "/x", "master:1"), ("/b", "/y", "master:1")), NONE, "v2", True),
        (outside(("/a", "/x", "shared:1"), ("/a/b", "/y", "shared:1")), NONE, "v2", True),
        (PEERS, {("R7", "/y", True)}, "v1", True),
        (
            outside(("/a", "/x", "master:1"), ("/b", "/y", "shared:1")),
            {("R6", "/x", True)},
            "v1",
            True,
        ),
        (NARROW, {("R6", "/t", False)}, "v2", False),
        (
            own(("/", "/t", "shared:2"), ("/a", "/x", "master:2"), ("/b", "/y", "master:2")),
            {("R7", "/y", True)},
            "v1",
            True,
        ),
        (own(("/", "/t", "shared:2"), ("/a", "/x", "master:2")), NONE, "v2", True),
    ],
)
def test_propagation_that_cannot_be_passed_on(
    facts: Facts, found: set[tuple[str, str, bool]], name: str, *, can: bool
) -> None:
    """R6 and R7 name the receiver; the older engine is taken where it is known to do better."""
    plan = make_plan(facts)
    assert sharing(plan) == found
    assert (engine(plan).name, engine(plan).representable) == (name, can)
    assert plan.criu.restore_options.mntns_compat == (name == "v1")
    assert ("--mntns-compat-mode" in plan.criu.restore) == (name == "v1")
    assert "--mntns-compat-mode" not in plan.criu.dump


def test_the_root_receives_from_a_part_of_itself() -> None:
    """R6 without a cure: the older engine would lose the root's master."""
    facts = builders.facts(
        f"{ROOT.replace('rw -', 'rw master:2 -', 1)}\n{PROC}\n"
        "20 10 0:50 /f /f rw shared:2 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        HOST,
    )
    plan = make_plan(facts)
    assert sharing(plan) == {("R6", "/", False)}
    assert engine(plan).losses == (
        "it may refuse, or lose something: / would not receive from peer group 2",
    )


SPLIT: Final = f"""
{HOST.replace(" shared:1", "")}
2 1 0:70 /a /h/a rw shared:3 - tmpfs t rw
3 1 0:70 /b /h/b rw shared:3 - tmpfs t rw
"""
WIDE: Final = f"{SPLIT}4 1 0:70 / /h/t rw shared:3 - tmpfs t rw\n"


HERE: Final[dict[str, str]] = {}


def slaves(first: str, second: str) -> Facts:
    """A container with slaves of a tmpfs of the host at /x and /y."""
    line = "{} 10 0:70 {} {} rw master:3 - tmpfs t rw"
    mounts = (line.format(20, first, "/x"), line.format(21, second, "/y"))
    return builders.facts("\n".join([ROOT, PROC, *mounts]), SPLIT)


@pytest.mark.parametrize(
    ("facts", "host", "binds", "found"),
    [
        (slaves("/a", "/b"), SPLIT, HERE, {("R6", "/x", True)}),
        (slaves("/a", "/b"), WIDE, {"/x": "/h/t/a", "/y": "/h/t/b"}, NONE),
        (slaves("/a", "/b"), WIDE, {"/y": "/h/t/b"}, NONE),
        (slaves("/a", "/b"), WIDE, {"/x": "/h/t/a"}, {("R6", "/x", True)}),
        (slaves("/a", "/b"), SPLIT, {"/x": "/elsewhere"}, {("R6", "/x", True)}),
    ],
)
def test_sources_of_one_master(
    facts: Facts, host: str, binds: dict[str, str], found: set[tuple[str, str, bool]]
) -> None:
    """R6: what receives from one group needs sources that one mount of the target shows."""
    choices = Choices(binds={KPath(key): KPath(value) for key, value in binds.items()})
    there = builders.facts(ROOT, host).host
    plan = make_plan(facts, choices, target=Target(host=there))
    assert sharing(plan) == found


def test_the_peers_on_the_host() -> None:
    """By the older engine they are peers again, which receive from the host's; by the other not."""
    there = Target(host=PEERS.host)
    plan = make_plan(PEERS, target=there)
    assert [each.mount for each in plan.losses if each.rule == "F1"] == ["/x", "/y"]
    assert plan.rootfs
    steps = [each for each in plan.rootfs.steps if isinstance(each, Propagation)]
    assert [(each.at, each.propagation) for each in steps] == [("/", "shared")]
    assert engine(plan).losses == (
        "it would refuse /y, R7: /b has the peers or the master of /a at /x",
        "/x would not receive from its peers on the host, shared:1",
        "/y would not receive from its peers on the host, shared:1",
    )


def test_peers_that_come_from_different_mounts() -> None:
    """They would not be peers again, so that neither engine makes them."""
    line = "{} 10 0:70 {} {} rw shared:3 - tmpfs t rw"
    mounts = (line.format(20, "/a", "/x"), line.format(21, "/b", "/y"))
    plan = make_plan(builders.facts("\n".join([ROOT, PROC, *mounts]), SPLIT))
    assert sharing(plan) == {("R7", "/y", False)}
    assert engine(plan).losses == (
        "it may refuse, or lose something: /y would not be in peer group 3 again",
    )


def test_a_group_that_would_receive_from_the_host() -> None:
    """An own group is bound from a source in one: the older engine makes it a slave of that."""
    line = "20 10 8:1 /a /x rw shared:4 - ext4 /dev/a rw"
    plan = make_plan(builders.facts(f"{ROOT}\n{line}", HOST))
    assert {each.rule for each in plan.refusals} == {"R15"}
    assert engine(plan).losses == (
        "it may refuse, or lose something: /x would receive from / of the host",
    )


def able(features: dict[str, bool], version: str = "4.1.1") -> Facts:
    """A container on a host with a kernel and a CRIU."""
    facts = builders.facts(f"{ROOT}\n{PROC}", HOST)
    host = msgspec.structs.replace(
        facts.host,
        capabilities=Capabilities(kernel="6.0", features=features),
        criu=Criu(command=("criu",), version=version),
    )
    return msgspec.structs.replace(facts, host=host)


@pytest.mark.parametrize(
    ("facts", "words", "name", "because"),
    [
        (able({}), (), "v2", "CRIU takes it by itself, and it makes these mounts"),
        (able({"openat2": True, "move_mount set group": True}), (), "v2", "CRIU takes it"),
        (
            able({"openat2": True, "move_mount set group": False}),
            (),
            "v1",
            "the kernel has no MOVE_MOUNT_SET_GROUP (Linux 5.15)",
        ),
        (able({}), ("--mntns-compat-mode",), "v1", "--mntns-compat-mode was given"),
        (able({}, "3.16"), (), "v1", "this CRIU has no other"),
    ],
)
def test_who_decides(facts: Facts, words: tuple[str, ...], name: str, because: str) -> None:
    """The user, the kernel and CRIU's release; the option is not given where it has no use."""
    plan = make_plan(facts, Choices(extra=words))
    assert engine(plan).name == name
    assert engine(plan).because.startswith(because)
    assert not engine(plan).asked_for
    assert not plan.criu.restore_options.mntns_compat


def test_an_engine_that_is_asked_for_has_a_reason() -> None:
    """Among those of the other options."""
    reasons = {each.option: each.because for each in make_plan(PEERS).criu.reasons}
    assert reasons["--mntns-compat-mode"].startswith("the v2 engine refuses /y, R7")


FAILING: Final = {
    "20 10 0:60 / /t rw shared:2 - tmpfs t rw\n21 20 0:61 / /t/c rw - tmpfs u rw\n"
    "22 10 0:60 / /u rw shared:2 - tmpfs t rw": "/t/c lies on /t, which propagates it",
    "20 10 0:60 / /t rw master:7 unbindable - tmpfs t rw": (
        "/t would not be unbindable, because it is in a peer group"
    ),
    "20 10 0:60 /a /t rw shared:2 - tmpfs t rw\n21 10 0:60 /b /u rw shared:2 - tmpfs t rw\n"
    "22 10 0:60 / /v rw - tmpfs t rw": "/u and its peer /t show nothing that holds both",
    "20 10 0:60 / /t rw shared:2 master:7 - tmpfs t rw\n"
    "21 10 0:60 / /u rw shared:3 master:7 - tmpfs t rw": (
        "/t would receive from what it is bound from"
    ),
    "20 10 0:60 / /t rw - tmpfs t rw\n21 20 0:61 / /t/c rw - tmpfs u rw\n"
    "22 10 0:60 /c/d /u rw - tmpfs t rw": "/u would be bound from where another mount lies",
    "20 10 0:60 / /t rw - tmpfs t rw\n21 10 0:60 /c /u rw - tmpfs t rw": None,
}


@pytest.mark.parametrize("lines", FAILING)
def test_what_the_older_engine_may_not_make(lines: str) -> None:
    """What propagates while it is made, what is bound by a covered path, what would be lost."""
    graph = MountGraph(builders.facts(f"{ROOT}\n{PROC}\n{lines}", HOST).namespaces)
    assert older_engine_fails(graph, (), ()) == FAILING[lines]


@pytest.mark.parametrize(("inside", "lost"), [(False, ["/x"]), (True, [])])
def test_a_slave_of_the_container_loses_no_master(lost: list[str], *, inside: bool) -> None:
    """F2, and a source made shared, are about masters outside only."""
    mounts = (("/a", "/x", "master:4"), ("/b", "/y", "shared:4"))
    there = Target(host=builders.facts(ROOT, HOST.replace(" shared:1", "")).host)
    plan = make_plan(outside(*mounts[: 1 + inside]), target=there)
    assert [each.mount for each in plan.losses if each.rule == "F2"] == lost
    assert plan.rootfs
    steps = [each.at for each in plan.rootfs.steps if isinstance(each, Propagation)]
    assert steps == ["/"] * len(lost)
