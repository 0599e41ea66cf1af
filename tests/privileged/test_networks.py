# SPDX-License-Identifier: Apache-2.0
"""A network namespace is read as it is, made again as it was, and gone when it was not needed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from mountcr.errors import StepError
from mountcr.execute import applied
from mountcr.kernel import netns
from mountcr.kernel.links import link_kinds, read_addresses, read_network
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.network import announce
from mountcr.model import Host, OpenFile, Task
from mountcr.network import Address, Link, Network, Route
from mountcr.observation.network import observe_network
from mountcr.operations.network import ready
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.given import Given
from mountcr.planning.network import plan_network
from mountcr.planning.network_steps import NetworkAt, NetworkNamespace, Veth
from networkfacts import ETH0, LO, networked

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from mountcr.planning.network import NetworkPlan

pytestmark = pytest.mark.requires("bridge")

MAC = "02:00:00:00:00:01"
LINK_LOCAL = Address(link="eth0", address="fe80::ff:fe00:1", prefix=64, scope="link")
RECORDED = Network(
    id=1,
    links=(LO, ETH0),
    addresses=(
        Address(link="lo", address="10.7.7.7", prefix=32, scope="host"),
        Address(link="eth0", address="10.1.0.2", prefix=24, broadcast="10.1.0.255"),
        Address(link="eth0", address="10.2.0.2", prefix=24, label="eth0:1", metric=77),
        Address(link="eth0", address="10.3.0.2", prefix=32, remote="10.3.0.1"),
        Address(link="eth0", address="10.4.0.2", prefix=24, kernel_route=False),
        Address(link="eth0", address="fd00::2", prefix=64),
        LINK_LOCAL,
    ),
    routes=(
        Route(destination="0.0.0.0/0", link="eth0", gateway="10.1.0.1", source="10.1.0.2"),
        Route(destination="10.9.0.0/16", link="eth0", scope="link", protocol="static", mtu=1300),
        Route(destination="10.10.0.0/16", link="eth0", gateway="fd00::1"),
        Route(destination="10.11.0.0/16", link="eth0", gateway="172.16.0.1", onlink=True),
        Route(destination="10.12.0.0/16", type="blackhole", metric=5),
        Route(destination="::/0", link="eth0", gateway="fd00::1", metric=1024),
        Route(destination="2001:db8::/32", type="unreachable", protocol="186", metric=1024),
    ),
)


@contextlib.contextmanager
def a_host() -> Generator[int]:
    """Make a network namespace that stands for a host, with the bridge `br0`; give a descriptor."""
    fd = netns.make()
    with netns.entered(fd):
        subprocess.run(["ip", "link", "add", "br0", "type", "bridge"], check=True)
        subprocess.run(["ip", "link", "set", "br0", "up"], check=True)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def host() -> Iterator[int]:
    """A host that is gone afterwards."""
    with a_host() as fd:
        yield fd


def planned(network: Network = RECORDED, **choices: object) -> NetworkPlan:
    """Plan that a network comes back."""
    chosen = msgspec.structs.replace(Choices(), **choices)
    plan = plan_network(networked(network), chosen, given=Given())
    assert plan
    return plan


def sleeper(fd: int) -> subprocess.Popen[bytes]:
    """Start a process in a network namespace."""
    with netns.entered(fd):
        return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])


def read(fd: int) -> Network:
    """Read a network namespace through a process that is in it."""
    with sleeper(fd) as child:
        try:
            return read_network(child.pid, os.fstat(fd).st_ino, ())
        finally:
            child.kill()


def test_a_network_comes_back_as_it_was(host: int) -> None:
    """Links with their numbers, addresses and routes are those that were recorded, all of them."""
    with netns.entered(host), ready(planned()) as network:
        (fd,) = network.descriptors.values()
        assert link_kinds()["veth12"] == "veth"
        network.connect()
        found = read(fd)
    lo, eth0 = found.links
    assert (lo.name, lo.kind, lo.up) == ("lo", "loopback", True)
    assert (eth0.name, eth0.index, eth0.kind, eth0.mac, eth0.mtu, eth0.up) == (
        ETH0.name, ETH0.index, ETH0.kind, ETH0.mac, ETH0.mtu, True,
    )  # fmt: skip
    assert eth0.peer
    assert (eth0.peer.name, eth0.peer.bridge, eth0.peer.bridge_kind) == ("veth12", "br0", "bridge")
    assert set(found.addresses) == set(RECORDED.addresses)
    assert set(found.routes) == set(RECORDED.routes)
    assert found.others == ()


def test_what_comes_back_can_come_back_again(host: int) -> None:
    """A network that was put back is recorded as the one that it was made of."""
    with netns.entered(host):
        with ready(planned()) as first:
            first.connect()
            once = read(*first.descriptors.values())
            subprocess.run(["ip", "link", "del", "veth12"], check=True)
        with ready(planned(once)) as second:
            second.connect()
            twice = read(*second.descriptors.values())
    plain = [
        msgspec.structs.replace(
            each,
            id=0,
            addresses=tuple(sorted(each.addresses, key=str)),
            links=tuple(msgspec.structs.replace(link, peer=None) for link in each.links),
        )
        for each in (once, twice)
    ]
    assert plain[0] == plain[1]


def test_before_it_is_connected_no_packet_comes_in(host: int) -> None:
    """Until then the other end is down, and in no bridge."""
    with netns.entered(host), ready(planned()):
        said = subprocess.run(
            ["ip", "-o", "link", "show", "veth12"], capture_output=True, text=True, check=True
        ).stdout
        assert "master" not in said
        assert "state DOWN" in said


def _make(plan: NetworkPlan, error: Exception | None = None) -> None:
    """Make and connect a network, and fail then if that is wanted."""
    with ready(plan) as network:
        network.connect()
        if error:
            raise error


def test_a_failure_leaves_nothing(host: int) -> None:
    """A step that fails, and a block that does, take back what was made."""
    bad = Route(destination="10.20.0.0/16", link="eth0", gateway="192.0.2.1")
    unreachable = msgspec.structs.replace(RECORDED, routes=(bad,))
    with netns.entered(host):
        before = link_kinds()
        with pytest.raises(StepError, match=r"route to 10\.20\.0\.0/16 via 192\.0\.2\.1"):
            _make(planned(unreachable))
        assert link_kinds() == before
        with pytest.raises(KeyError):
            _make(planned(), KeyError())
        assert link_kinds() == before
        with (
            pytest.raises(StepError, match="veth12 up, in br1"),
            ready(planned(bridges={"": "br1"})) as network,
        ):
            network.connect()
        assert link_kinds() == before


@pytest.mark.parametrize(
    "network",
    [
        msgspec.structs.replace(RECORDED, routes=(Route(destination="x", link="eth0"),)),
        msgspec.structs.replace(RECORDED, routes=(Route(destination="10.1.1.0/24", type="x"),)),
        msgspec.structs.replace(
            RECORDED, addresses=(Address(link="eth0", address="x", prefix=24),)
        ),
        msgspec.structs.replace(
            RECORDED, addresses=(Address(link="eth0", address="10.1.0.2", prefix=2**70),)
        ),
        msgspec.structs.replace(RECORDED, links=(msgspec.structs.replace(ETH0, mac="x"),)),
        msgspec.structs.replace(RECORDED, links=(msgspec.structs.replace(ETH0, mtu=2**70),)),
        msgspec.structs.replace(RECORDED, links=(msgspec.structs.replace(ETH0, name="a/b"),)),
        msgspec.structs.replace(RECORDED, links=(msgspec.structs.replace(ETH0, name="a" * 99),)),
    ],
)
def test_a_record_that_makes_no_sense_fails(host: int, network: Network) -> None:
    """What somebody wrote into a manifest is refused by a step, and leaves nothing."""
    with netns.entered(host):
        before = link_kinds()
        with pytest.raises(StepError):
            _make(planned(network))
        assert link_kinds() == before


def test_a_name_that_is_taken_meanwhile_fails(host: int) -> None:
    """The link that has it stays."""
    with netns.entered(host):
        subprocess.run(["ip", "link", "add", "veth12", "type", "bridge"], check=True)
        with pytest.raises(StepError, match="veth eth0"), ready(planned()):
            pass
        assert link_kinds()["veth12"] == "bridge"


def test_the_neighbours_are_told() -> None:
    """
    They hear an ARP announcement and a neighbour advertisement with the hardware address.

    However late the bridge hears that it has a carrier, which is a matter of chance: 20 times.
    """
    hardware = bytes.fromhex(MAC.replace(":", ""))
    arp = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + hardware
    told = {
        arp + socket.inet_aton("10.1.0.2") + bytes(6) + socket.inet_aton("10.1.0.2"),
        socket.inet_pton(socket.AF_INET6, "fd00::2") + b"\x02\x01" + hardware,
    }
    for _ in range(20):
        with a_host() as host, netns.entered(host):
            heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            heard.bind(("br0", 0))
            heard.settimeout(15)
            with heard, ready(planned()) as network:
                network.connect()
                assert told - _seen(heard, told) == set()


def _seen(heard: socket.socket, wanted: set[bytes]) -> set[bytes]:
    """Give which of these were in a frame, within fifteen seconds."""
    seen: set[bytes] = set()
    until = time.monotonic() + 15
    with contextlib.suppress(TimeoutError):
        while seen != wanted and time.monotonic() < until:
            frame = heard.recv(2048)
            seen |= {each for each in wanted if each in frame}
    return seen


@pytest.mark.parametrize("words", ["link set br0 type bridge stp_state 1", "link set br0 down"])
def test_a_bridge_that_takes_its_time_is_not_waited_for_long(host: int, words: str) -> None:
    """One that listens and learns first, for half a minute, and one that is down."""
    with netns.entered(host), ready(planned()) as network:
        subprocess.run(["ip", *words.split()], check=True)
        began = time.monotonic()
        network.connect()
        assert time.monotonic() - began < 10


def test_a_link_without_the_other_end_up_is_not_waited_for_long(host: int) -> None:
    """Nobody hears it then, and the restore goes on."""
    with netns.entered(host), ready(planned()) as network:
        began = time.monotonic()
        (fd,) = network.descriptors.values()
        announce(fd, "eth0")
        assert time.monotonic() - began < 10


def test_the_other_end_is_only_what_points_back(host: int) -> None:
    """A veth to a third namespace has none here, although a link has the number of that end."""
    third, inside = netns.make(), netns.make()
    kernel = LiveKernel()
    try:
        with netns.entered(third):
            kernel.network = os.dup(inside)
            kernel.make_veth("eth0", "far", index=2, mac="", outer_mac="", mtu=0)
            kernel.leave_network()
            number = socket.if_nametoindex("far")
        with netns.entered(host):
            subprocess.run(["ip", "link", "del", "br0"], check=True)
            trap = ["ip", "link", "add", "trap", "index", str(number), "type", "veth"]
            subprocess.run([*trap, "peer", "name", "bait"], check=True)
            assert socket.if_nametoindex("trap") == number
            eth0 = next(each for each in read(inside).links if each.name == "eth0")
        assert (eth0.kind, eth0.peer) == ("veth", None)
    finally:
        os.close(third)
        os.close(inside)


def test_what_no_record_holds_is_named(host: int) -> None:
    """Rules, routes of other tables and those over several links."""
    fd = netns.make()
    try:
        with netns.entered(fd):
            for words in (
                "link add d0 type bridge", "addr add 10.0.0.1/24 dev d0", "link set d0 up",
                "rule add from 10.0.0.9 table 100", "route add 10.5.0.0/16 dev d0 table 100",
                "route add 10.6.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3",
            ):  # fmt: skip
                subprocess.run(["ip", *words.split()], check=True)
        with netns.entered(host):
            found = read(fd)
    finally:
        os.close(fd)
    assert found.routes == ()
    assert set(found.others) == {
        "routes of table 100",
        "a route to 10.6.0.0/16 that is not a plain one",
        "the rule 32765",
    }
    assert [(each.name, each.kind) for each in found.links if each.name == "d0"] == [
        ("d0", "bridge")
    ]


def test_loopback_alone_loads_nothing(host: int) -> None:
    """A namespace with nothing but `lo` is told from /proc, up or down."""
    for up in (False, True):
        fd = netns.make()
        with netns.entered(fd):
            if up:
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with sleeper(fd) as child:
            try:
                inside = {"net": os.fstat(fd).st_ino}
                task = Task(pid=child.pid, parent=1, start_time=1, command="", namespaces=inside)
                found, unseen = observe_network((task,), Host(namespaces={"net": 1}))
            finally:
                child.kill()
        os.close(fd)
        assert unseen == ()
        assert found == Network(
            id=inside["net"], links=(Link(name="lo", index=1, kind="loopback", up=up),)
        )
    assert host


def test_sockets_of_tasks_are_told(host: int) -> None:
    """A listening socket, a connection and one of UDP, of the tasks and no others."""
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind(("::1", 0))
    with server, client, datagrams:
        ours = os.stat("/proc/self/ns/net").st_ino
        files = tuple(
            msgspec.convert(
                {"kind": "fd", "shown": f"socket:[{os.fstat(each.fileno()).st_ino}]"}, type=OpenFile
            )
            for each in (server, client, datagrams)
        )
        task = Task(
            pid=os.getpid(), parent=1, start_time=1, command="", namespaces={"net": ours},
            files=files,
        )  # fmt: skip
        server_end = server.getsockname()
        found, unseen = observe_network((task,), Host(namespaces={"net": ours}))
    assert unseen == ()
    assert found
    assert found.is_host
    assert [(each.protocol, each.state) for each in found.sockets if each.protocol == "tcp"]
    states = {each.state for each in found.sockets if each.protocol == "tcp"}
    assert states == {"LISTEN", "ESTABLISHED"}
    assert [each.address for each in found.sockets if each.protocol == "udp6"] == ["::1"]
    (connection,) = found.connections
    assert (connection.peer, connection.peer_port) == server_end
    assert host


def test_paths_of_namespaces(host: int, tmp_path: Path) -> None:
    """A namespace of the network is known by its file; others, files and nothing are none."""
    with netns.entered(host):
        assert netns.identity_at(KPath("/proc/thread-self/ns/net")) == os.fstat(host).st_ino
    plain = tmp_path / "plain"
    plain.touch()
    for path in ("/proc/self/ns/mnt", "/proc/self/ns/uts", "/nowhere", "/dev/null", "/", plain):
        assert netns.identity_at(encode(str(path))) == 0
    assert netns.identity_at(KPath("/proc/self/ns/net")) == os.stat("/proc/self/ns/net").st_ino


def test_the_thread_comes_back(host: int) -> None:
    """Whatever happens in the block, and when the descriptor is of something else."""
    before = os.stat("/proc/thread-self/ns/net").st_ino
    seen: list[int] = []

    def work(fd: int) -> None:
        with netns.entered(fd):
            seen.append(os.stat("/proc/thread-self/ns/net").st_ino)
            raise KeyError

    with pytest.raises(KeyError):
        work(host)
    assert seen == [os.fstat(host).st_ino]
    with open("/proc/self/ns/uts", "rb") as other, pytest.raises(OSError, match="Invalid"):
        work(other.fileno())
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_steps_of_a_namespace_at_a_path(host: int) -> None:
    """It is held while the steps are done and no longer; it is not changed."""
    kernel = LiveKernel()
    with netns.entered(host):
        at = NetworkAt(path=KPath("/proc/thread-self/ns/net"), because="a test")
        with applied((at,), kernel) as undo:
            assert os.fstat(kernel.network).st_ino == os.fstat(host).st_ino
            assert "10.1.0.2" not in read_addresses(kernel.network)
            undo()
        assert kernel.network == -1
        veth = Veth(link="eth0", outer="out", because="a test")
        with applied((NetworkNamespace(because="a test"), veth), kernel) as undo:
            assert "out" in link_kinds()
            undo()
        assert "out" not in link_kinds()
