# SPDX-License-Identifier: Apache-2.0
"""Facts of containers with a network, for tests of plans. Nothing here looks at the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

import builders
from mountcr.model import Capabilities, Criu
from mountcr.network import Address, InetSocket, Link, Network, Peer, Route
from mountcr.paths import KPath
from mountcr.target import Target, TargetNetwork

if TYPE_CHECKING:
    from mountcr.model import Facts

__all__ = [
    "ETH0", "LISTENER", "LO", "NETWORK", "POD", "connection", "meeting", "networked", "other",
]  # fmt: skip

POD: Final = KPath("/run/netns/pod")
LO: Final = Link(name="lo", index=1, kind="loopback", up=True)
ETH0: Final = Link(
    name="eth0",
    index=7,
    kind="veth",
    mac="02:00:00:00:00:01",
    mtu=1400,
    up=True,
    peer=Peer(name="veth12", index=9, mac="02:00:00:00:00:02", bridge="br0", bridge_kind="bridge"),
)
LISTENER: Final = InetSocket(protocol="tcp", inode=11, address="10.1.0.2", port=80, state="LISTEN")
NETWORK: Final = Network(
    id=4026532500,
    links=(LO, ETH0),
    addresses=(
        Address(link="eth0", address="10.1.0.2", prefix=24, broadcast="10.1.0.255"),
        Address(link="eth0", address="fd00::2", prefix=64),
    ),
    routes=(
        Route(destination="0.0.0.0/0", link="eth0", gateway="10.1.0.1"),
        Route(destination="10.9.0.0/16", link="eth0", scope="link", protocol="static"),
    ),
    sockets=(LISTENER,),
)


def connection(address: str = "10.1.0.2") -> InetSocket:
    """Give a connection of the server."""
    return InetSocket(
        protocol="tcp",
        inode=12,
        address=address,
        port=80,
        peer="10.1.0.7",
        peer_port=4711,
        state="ESTABLISHED",
    )


def networked(
    network: Network | None = NETWORK,
    *,
    pod: bool = False,
    engine: str = "runc",
    criu: str = "4.2",
    kernel: str = "6.18",
) -> Facts:
    """Give facts of a container with a network; in a `pod` it was made before, at a path."""
    facts = builders.facts(
        "10 5 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n"
        "9 10 0:49 / /proc rw - proc proc rw",
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw",
    )
    container = msgspec.structs.replace(
        facts.container, engine=engine, namespace_paths={"net": POD} if pod else {}
    )
    host = msgspec.structs.replace(
        facts.host,
        criu=Criu(command=("criu",), version=criu),
        capabilities=Capabilities(kernel=kernel),
    )
    return msgspec.structs.replace(facts, container=container, host=host, network=network)


def other(**fields: object) -> Network:
    """Give the network with something else in it."""
    return msgspec.structs.replace(NETWORK, **fields)


def meeting(base: Target, **fields: object) -> Target:
    """Give a host of a restore whose network is sound but for what is given."""
    sound = TargetNetwork(links={"lo": "loopback", "br0": "bridge"}, paths={POD: 0})
    return msgspec.structs.replace(base, network=msgspec.structs.replace(sound, **fields))
