# SPDX-License-Identifier: Apache-2.0
"""Laws of what is recorded of a network: JSON loses nothing, tables of sockets are read whole."""

from __future__ import annotations

import ipaddress
import struct

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mountcr.execute import Recorder, applied
from mountcr.network import Address, InetSocket, Link, Network, Peer, Route, is_loopback
from mountcr.observation.network import link_names, parse_sockets
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from networkfacts import networked

NAMES = st.text("abcdefghijklmnop0123456789.-_", min_size=1, max_size=15)
ADDRESSES = st.ip_addresses().map(str)
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
NETWORKS = st.builds("{}/{}".format, ADDRESSES, st.integers(0, 32))
PORTS = st.integers(1, 65535)

PEERS = st.builds(Peer, name=NAMES, index=st.integers(1, 99), mac=MACS, bridge=st.just("") | NAMES)
LINKS = st.builds(
    Link,
    name=NAMES,
    index=st.integers(1, 99),
    kind=st.sampled_from(["loopback", "veth", "macvlan", "device"]),
    mac=MACS,
    mtu=st.integers(0, 65536),
    up=st.booleans(),
    peer=st.none() | PEERS,
)
SOCKETS = st.builds(
    InetSocket,
    protocol=st.sampled_from(["tcp", "tcp6", "udp"]),
    inode=st.integers(1, 2**32),
    address=ADDRESSES,
    port=PORTS,
    state=st.sampled_from(["LISTEN", "ESTABLISHED", "CLOSE_WAIT", "CLOSE"]),
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks whose addresses and routes are of their links."""
    links = draw(st.lists(LINKS, unique_by=lambda link: link.name, max_size=4))
    names = st.sampled_from([each.name for each in links] or ["lo"])
    addresses = st.builds(
        Address, link=names, address=ADDRESSES, prefix=st.integers(0, 32), remote=st.just("")
    )
    routes = st.builds(Route, destination=NETWORKS, link=names, gateway=st.just("") | ADDRESSES)
    return Network(
        id=draw(st.integers(1, 2**32)),
        links=tuple(links),
        addresses=tuple(draw(st.lists(addresses, max_size=4))),
        routes=tuple(draw(st.lists(routes, max_size=4))),
        sockets=tuple(draw(st.lists(SOCKETS, max_size=4))),
        others=tuple(draw(st.lists(st.text(max_size=9), max_size=2))),
    )


@given(networks())
def test_a_network_goes_to_json_and_back(network: Network) -> None:
    """Every field of every record is the same after a trip through JSON."""
    assert msgspec.json.decode(msgspec.json.encode(network), type=Network) == network


@given(networks(), st.booleans(), st.sampled_from([None, "none", "host", "/x"]))
def test_every_network_has_a_plan(network: Network, pod: bool, net: str | None) -> None:
    """Its steps name no link that was not made, and no two outer ends have one name."""
    plan = make_plan(networked(network, pod=pod), Choices(net=net)).network
    if plan is None:
        return
    recorder = Recorder()
    with applied(plan.making, recorder), applied(plan.connecting, recorder):
        pass
    assert recorder.calls[0][0] in {"make_network", "join_network"}
    made = [call[1] for call in recorder.calls if call[0] == "make_veth"]
    outer = [call[2] for call in recorder.calls if call[0] == "make_veth"]
    loops = [each.name for each in network.links if each.kind == "loopback"]
    assert len({*outer}) == len(outer)
    assert all(len(each) <= 15 for each in outer)
    for call in recorder.calls:
        if call[0] in {"set_link_up", "add_address", "announce"}:
            assert call[1] in {*made, *loops, "lo"}
        if call[0] == "connect":
            assert call[1] in outer


def hexadecimal(address: str) -> str:
    """Spell an address as the kernel does: words of 32 bits as they are in memory."""
    raw = ipaddress.ip_address(address).packed
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    return "".join(f"{word:08X}" for word in words)


ENDS = st.tuples(ADDRESSES, PORTS)


@given(ENDS, ENDS, st.integers(0, 2**40), st.integers(1, 12))
def test_a_line_of_sockets_is_read(
    end: tuple[str, int], other: tuple[str, int], inode: int, state: int
) -> None:
    """Addresses of both versions, ports, state and inode number are those that the kernel wrote."""
    (address, port), (peer, peer_port) = end, other
    line = (
        f"   0: {hexadecimal(address)}:{port:04X} {hexadecimal(peer)}:{peer_port:04X} {state:02X} "
        f"00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0"
    )
    (found,) = parse_sockets(f"header\n{line}\n".encode(), "tcp")
    assert (ipaddress.ip_address(found.address), found.port) == (
        ipaddress.ip_address(address),
        port,
    )
    assert ipaddress.ip_address(found.peer) == ipaddress.ip_address(peer)
    assert (found.peer_port, found.inode) == (peer_port, inode)
    assert found.state.isupper()


@given(st.binary(max_size=200))
def test_no_table_is_too_strange(text: bytes) -> None:
    """What is no table gives nothing, or what looks like it, and no error."""
    list(parse_sockets(b"header\n" + text, "tcp"))
    link_names(text)


@given(ADDRESSES)
def test_addresses_that_are_everywhere(address: str) -> None:
    """Those of loopback, the unspecified ones and those of groups, of both versions."""
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    everywhere = found.is_loopback or found.is_unspecified or found.is_multicast
    assert is_loopback(str(found)) == everywhere
