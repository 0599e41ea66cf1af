# SPDX-License-Identifier: Apache-2.0
"""The plan says whose the network namespace is, and how it comes back."""

from __future__ import annotations

import argparse

import msgspec
import pytest

from mountcr.cli.inputs import choices_of
from mountcr.criu.options import Kind
from mountcr.errors import UsageError
from mountcr.execute import Recorder, applied
from mountcr.model import Imported
from mountcr.network import Link, Network, Peer, Route
from mountcr.paths import KPath
from mountcr.planning.choices import Choices, Tcp
from mountcr.planning.given import Given
from mountcr.planning.network import plan_network
from mountcr.planning.network_steps import NetworkNamespace
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Plan
from mountcr.render.plan import outline_plan, verdict_sentence
from mountcr.stack import Stack
from networkfacts import ETH0, LO, NETWORK, POD, meeting, networked, other
from unit.test_rules import target

ALONE = Network(id=4026532500, links=(LO,))
OF_HOST = Network(id=4026531840, is_host=True)


def calls(plan: Plan) -> list[tuple[str, ...]]:
    """Give what a kernel is asked for, with `then` where the tasks are restored."""
    assert plan.network
    recorder = Recorder()
    with applied(plan.network.making, recorder):
        recorder.calls.append(("then",))
        with applied(plan.network.connecting, recorder):
            pass
    return recorder.calls


def test_links_make_a_namespace_external() -> None:
    """CRIU is told its inode number at the dump, and given a descriptor of one at the restore."""
    plan = make_plan(networked())
    assert "net[4026532500]:extRootNetNS" in plan.criu.dump_options.externals
    assert plan.criu.restore_options.inherit_fds == ((3, "extRootNetNS"),)
    assert "--inherit-fd fd[3]:extRootNetNS" in " ".join(plan.criu.restore)
    assert verdict_sentence(plan).startswith("will dump with these options")


def test_a_namespace_is_made_and_connected_last() -> None:
    """Links, addresses, routes, those to gateways last; sockets are back before packets."""
    assert calls(make_plan(networked(), target=meeting(target()))) == [
        ("make_network",),
        ("set_link_up", "lo"),
        ("make_veth", "eth0", "veth12", "02:00:00:00:00:01", "1400"),
        ("set_link_up", "eth0"),
        ("add_address", "eth0", "10.1.0.2/24"),
        ("add_address", "eth0", "fd00::2/64"),
        ("add_route", "10.9.0.0/16", "", "eth0"),
        ("add_route", "0.0.0.0/0", "10.1.0.1", "eth0"),
        ("then",),
        ("connect", "veth12", "br0"),
        ("announce", "eth0"),
    ]


@pytest.mark.parametrize("engine", ["runc", "podman", "crio"])
def test_a_namespace_of_a_pod_is_taken_where_it_is(engine: str) -> None:
    """What was made before the container is external whatever is in it, and is not made twice."""
    facts = networked(ALONE, pod=True, engine=engine)
    for plan in (make_plan(facts), make_plan(facts, target=meeting(target(), paths={POD: 5}))):
        assert "net[4026532500]:extRootNetNS" in plan.criu.dump_options.externals
        assert calls(plan) == [("join_network", POD), ("then",)]
    gone = make_plan(networked(pod=True, engine=engine), target=meeting(target()))
    assert calls(gone)[:2] == [("make_network",), ("set_link_up", "lo")]
    assert gone.network
    assert f"{POD} is gone" in gone.network.because


def test_a_path_in_a_bundle_is_one_of_another_host() -> None:
    """What lies there here is not the container's, and nobody gets into it by that."""
    facts = networked(pod=True)
    imported = Imported(at=KPath("/i"), stack=Stack(driver="vfs", lowers=(KPath("/i/root"),)))
    plan = plan_network(
        msgspec.structs.replace(facts, imported=imported),
        Choices(),
        given=Given(),
        target=meeting(target(), paths={POD: 5}),
    )
    assert plan
    assert plan.making[0] == NetworkNamespace(
        because="it was made before the container, on another host"
    )


@pytest.mark.parametrize(
    ("network", "pod", "engine"),
    [
        (ALONE, False, "runc"),
        (ALONE, True, "docker"),
        (OF_HOST, False, "runc"),
        (None, True, "runc"),
    ],
)
def test_what_criu_sees_to(network: Network | None, pod: bool, engine: str) -> None:
    """Loopback of a runtime's own, Docker's among them, the host's, and facts that say nothing."""
    plan = make_plan(networked(network, pod=pod, engine=engine))
    assert plan.network is None
    assert not [each for each in plan.criu.dump_options.externals if each.startswith("net[")]
    assert plan.criu.restore_options.inherit_fds == ()


@pytest.mark.parametrize(
    ("words", "external"),
    [
        (("--external", "net[1]:mine"), False),
        (("--empty-ns", "net"), False),
        (("--join-ns", "net:/x"), False),
        (("--external", "veth[eth0]:veth12@br0"), False),
        (("--external", "mnt[/a]:b"), True),
    ],
)
def test_the_user_may_say_himself(words: tuple[str, ...], external: bool) -> None:
    """Who tells CRIU about the network namespace has nothing told beside."""
    assert (make_plan(networked(), Choices(extra=words)).network is not None) == external


def test_the_namespace_of_a_user_namespace_is_left_to_criu() -> None:
    """One that the user namespace of its tasks owns could not be configured by them any more."""
    facts = networked()
    task = msgspec.structs.replace(
        facts.tasks[0], namespaces={**facts.tasks[0].namespaces, "user": 8}, owners={"net": 8}
    )
    assert make_plan(msgspec.structs.replace(facts, tasks=(task,))).network is None


@pytest.mark.parametrize("pod", [False, True])
def test_the_choices_of_a_restore(pod: bool) -> None:
    """None holds loopback only; the host's and one at a path are taken as they are."""
    made = {
        choice: calls(make_plan(networked(pod=pod), Choices(net=choice)))
        for choice in ("none", "host", "/run/netns/x")
    }
    assert made == {
        "none": [("make_network",), ("set_link_up", "lo"), ("then",)],
        "host": [("join_network", "/proc/thread-self/ns/net"), ("then",)],
        "/run/netns/x": [("join_network", "/run/netns/x"), ("then",)],
    }


def test_tasks_of_the_host_may_leave_it() -> None:
    """CRIU is started in the namespace, which the images do not name."""
    plan = make_plan(networked(OF_HOST), Choices(net="none"))
    assert plan.network
    assert not plan.network.external
    assert plan.criu.restore_options.inherit_fds == ()
    assert make_plan(networked(OF_HOST), Choices(net="host")).network is None


def test_other_bridges() -> None:
    """A bridge stands for the one that it is named for, or for all; its own is the default."""
    two = Link(name="eth1", index=8, kind="veth", peer=Peer(name="veth13", index=10, bridge="br1"))
    network = other(links=(LO, ETH0, two))
    for bridges, expected in (
        ({}, ["br0", "br1"]),
        ({"br1": "lan"}, ["br0", "lan"]),
        ({"": "lan"}, ["lan", "lan"]),
        ({"": "lan", "br1": "wan"}, ["lan", "wan"]),
    ):
        found = calls(make_plan(networked(network), Choices(bridges=bridges)))
        assert [each[2] for each in found if each[0] == "connect"] == expected


def test_a_veth_without_a_bridge_keeps_both_addresses() -> None:
    """There the other end is the neighbour, whose hardware address the container knows."""
    alone = msgspec.structs.replace(ETH0, peer=Peer(name="cali1", index=9, mac="ee:ee:ee:ee:ee:ee"))
    for network, expected in ((NETWORK, ""), (other(links=(LO, alone)), "ee:ee:ee:ee:ee:ee")):
        plan = make_plan(networked(network))
        assert plan.network
        assert [
            getattr(step, "outer_mac", None)
            for step in plan.network.making
            if hasattr(step, "outer_mac")
        ] == [expected]


def test_a_name_that_is_taken() -> None:
    """Another one is made of it, no longer than a name may be, and no two are the same."""
    long = Link(name="eth1", index=8, kind="veth", peer=Peer(name="a" * 15, index=10, bridge="br0"))
    network = other(links=(LO, ETH0, long))
    taken = {"br0": "bridge", "veth12": "veth", "a" * 15: "veth", "a" * 13 + "-1": "veth"}
    found = calls(make_plan(networked(network), target=meeting(target(), links=taken)))
    assert [each[2] for each in found if each[0] == "make_veth"] == ["veth12-1", "a" * 13 + "-2"]


def test_routes_of_links_that_are_not_made() -> None:
    """What leads through another link goes with it; what leads nowhere stays."""
    network = other(
        links=(LO, Link(name="wg0", index=3, kind="wireguard")),
        addresses=(),
        routes=(
            Route(destination="10.2.0.0/16", link="wg0", scope="link"),
            Route(destination="10.3.0.0/16", type="blackhole"),
        ),
    )
    assert calls(make_plan(networked(network))) == [
        ("make_network",),
        ("set_link_up", "lo"),
        ("add_route", "10.3.0.0/16", "", ""),
        ("then",),
    ]


@pytest.mark.parametrize("tcp", [None, *Tcp])
def test_what_becomes_of_connections(tcp: Tcp | None) -> None:
    """CRIU is told in both directions, in its own words."""
    plan = make_plan(networked(), Choices(tcp=tcp))
    for words in (plan.criu.dump, plan.criu.restore):
        found = [each for each in words if each.startswith("--tcp-")]
        assert found == ([f"--tcp-{tcp}"] if tcp else [])


def test_the_outline_names_the_steps() -> None:
    """In the order in which they are done, each with its reason where that is asked for."""
    plan = make_plan(networked(), target=meeting(target()))
    text = outline_plan(plan, explain=True, purpose=Kind.RESTORE).plain()
    for line in (
        "network namespace, put back by",
        "veth eth0, 02:00:00:00:00:01, with veth12 outside",
        "address 10.1.0.2/24 of eth0",
        "route to 0.0.0.0/0 via 10.1.0.1 through eth0",
        "veth12 up, in br0",
        "because veth12 was in br0",
        "announcement of the addresses of eth0",
    ):
        assert line in text


def test_a_plan_with_a_network_goes_to_json_and_back() -> None:
    """Steps come back as the steps that they were."""
    plan = make_plan(networked(), target=meeting(target()))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@pytest.mark.parametrize("word", ["", "=", "=new", "old="])
def test_a_bridge_that_is_none(word: str) -> None:
    """A word of `--bridge` is a name, or two."""
    arguments = argparse.Namespace(bridge=[word], criu_options=())
    with pytest.raises(UsageError, match="neither NAME nor OLD=NEW"):
        choices_of(arguments)


def test_words_of_the_command_line() -> None:
    """A path is absolute, `recorded` is the default, a bridge alone stands for all."""
    arguments = argparse.Namespace(
        net="recorded", bridge=["br0", "cni0=br1"], tcp="close", criu_options=()
    )
    found = choices_of(arguments)
    assert (found.net, found.bridges, found.tcp) == (None, {"": "br0", "cni0": "br1"}, Tcp.CLOSE)
    arguments.net = "/run/../run/netns/x"
    assert choices_of(arguments).net == "/run/netns/x"
