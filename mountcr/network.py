# SPDX-License-Identifier: Apache-2.0
"""
The network namespace of a container: plain frozen records of links, addresses, routes, sockets.

They hold what is put back for a set-up of veths and bridges. Addresses are text as inet_ntop(3)
writes it, without their prefix length; a network is `address/length`. Nothing here reads, decides
or changes anything.
"""

from __future__ import annotations

from typing import Final

from mountcr.record import Record

__all__ = [
    "LOOPBACK",
    "VETH",
    "Address",
    "InetSocket",
    "Link",
    "Network",
    "Peer",
    "Route",
    "is_loopback",
]

LOOPBACK: Final = "loopback"
"""The kind of `lo`, which every namespace has."""

VETH: Final = "veth"


class Peer(Record, frozen=True, kw_only=True):
    """
    The other end of a veth, in the network namespace of the observer.

    `bridge` is the link that it is enslaved to, empty for none, and `bridge_kind` its kind.
    """

    name: str
    index: int
    mac: str = ""
    mtu: int = 0
    bridge: str = ""
    bridge_kind: str = ""


class Link(Record, frozen=True, kw_only=True):
    """
    A network interface.

    `kind` is `loopback`, what rtnetlink(7) says of a virtual one (IFLA_INFO_KIND), or `device`.
    `mtu` is in bytes. Of a veth, `peer` is the other end; None where the observer does not see it.
    """

    name: str
    index: int
    kind: str
    mac: str = ""
    mtu: int = 0
    up: bool = False
    peer: Peer | None = None


class Address(Record, frozen=True, kw_only=True):
    """
    An address of a link; `scope` is `global`, `site`, `link`, `host` or a number.

    `remote` is the other end of a point-to-point address, `label` the name that old programs call
    it by (`eth0:1`), empty where it is that of the link. `metric` is that of the route which the
    kernel makes for it, 0 for its default; `kernel_route` tells that it makes one.
    """

    link: str
    address: str
    prefix: int
    scope: str = "global"
    broadcast: str = ""
    remote: str = ""
    label: str = ""
    metric: int = 0
    kernel_route: bool = True


class Route(Record, frozen=True, kw_only=True):
    """
    A route of the main table that somebody made, as `ip route` says it; see rtnetlink(7).

    `destination` is a network, `0.0.0.0/0` and `::/0` for the default. `type` is `unicast`,
    `blackhole`, `unreachable` or `prohibit`; `scope` and `protocol` are words of iproute2 or
    numbers. `source` is the preferred source address.
    """

    destination: str
    link: str = ""
    gateway: str = ""
    source: str = ""
    type: str = "unicast"
    scope: str = "global"
    protocol: str = "boot"
    metric: int = 0
    mtu: int = 0
    onlink: bool = False


class InetSocket(Record, frozen=True, kw_only=True):
    """
    A socket of the Internet protocols that a task has open, as /proc/<pid>/net tells.

    `protocol` is `tcp`, `tcp6`, `udp`, …; `state` is one of tcp(7), `ESTABLISHED`, `LISTEN`, …
    Addresses are the unspecified one where a socket is bound to none, ports 0.
    """

    protocol: str
    inode: int
    address: str
    port: int
    peer: str = ""
    peer_port: int = 0
    state: str = ""

    @property
    def is_connection(self) -> bool:
        """Whether CRIU has to be told what becomes of it: a TCP socket with another end."""
        return self.protocol.startswith("tcp") and self.state not in {"LISTEN", "CLOSE"}

    def __str__(self) -> str:
        """Say it in one line."""
        ends = [_end(self.address, self.port)]
        if self.peer_port:
            ends.append(_end(self.peer, self.peer_port))
        return f"{self.protocol} {' to '.join(ends)}"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Network(Record, frozen=True, kw_only=True):
    """
    The network namespace of a root task and what is in it.

    `id` is its inode number. Of the observer's own, `is_host`, only the sockets are recorded, and
    of one that holds nothing but loopback only that link. `others` names what is there and has no
    record: routes of other tables, rules, multipath routes.
    """

    id: int
    is_host: bool = False
    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    sockets: tuple[InetSocket, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def beyond_loopback(self) -> tuple[Link, ...]:
        """The links that are not `lo`."""
        return tuple(each for each in self.links if each.kind != LOOPBACK)

    @property
    def connections(self) -> tuple[InetSocket, ...]:
        """The sockets with another end."""
        return tuple(each for each in self.sockets if each.is_connection)


def is_loopback(address: str) -> bool:
    """Tell whether a socket can have an address in every namespace with `lo` up."""
    bare = address.partition("%")[0].removeprefix("::ffff:")
    if ":" in bare:
        return bare in {"::", "::1"} or bare.startswith("ff")
    octet = bare.partition(".")[0]
    first = int(octet) if octet.isascii() and octet.isdigit() else 0
    return bare == "0.0.0.0" or first == 127 or 224 <= first < 240  # noqa: PLR2004, S104 - RFC 6890
