# SPDX-License-Identifier: Apache-2.0
"""
What is done to a network namespace: links, addresses and routes by pyroute2, neighbours told.

The namespace is a descriptor; ours is that of the calling thread. Everything raises OSError with
the link, address or route in `filename`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from mountcr.kernel import netns
from mountcr.kernel.links import IFF_UP, PROTOCOLS, SCOPES, TYPES, NetlinkError, netlink, number_of
from mountcr.network import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from mountcr.network import Address, Route

__all__ = [
    "add_address",
    "add_route",
    "announce",
    "attach",
    "detach",
    "make_veth",
    "remove_link",
    "set_up",
]

_NODAD: Final = 0x02
"""IFA_F_NODAD: an address of version 6 can be used at once, as it could when it was recorded."""
_NOPREFIXROUTE: Final = 0x200
_ONLINK: Final = 0x4

_SCOPE_NUMBERS: Final = {word: number for number, word in SCOPES.items()}
_PROTOCOL_NUMBERS: Final = {word: number for number, word in PROTOCOLS.items()}
_TYPE_NUMBERS: Final = {word: number for number, word in TYPES.items()}

_CARRIER: Final = 2.0
"""Seconds that a veth or its bridge may take to notice that it carries; it takes milliseconds."""

_LOWER_UP: Final = 0x10000
"""IFF_LOWER_UP of if_link.h: the other end of a veth is up too, known or not to who listens."""
_DISABLED: Final = 0
"""BR_STATE_DISABLED of if_bridge.h: the bridge drops what comes from the port."""


@contextlib.contextmanager
def _naming(what: str) -> Generator[None]:
    """Turn an error of netlink into one of the system that names what it is about."""
    try:
        yield
    except NetlinkError as error:
        number = number_of(error)
        raise OSError(number, os.strerror(number), what) from error
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        # what pyroute2 says of a text that is no address, or a number that does not fit
        raise OSError(errno.EINVAL, str(error) or os.strerror(errno.EINVAL), what) from error


def _index(route: Any, name: str) -> int:
    """Give the number of a link. Raises OSError where there is none."""
    with _naming(name):
        found: list[int] = list(route.link_lookup(ifname=name))
    if not found:
        raise OSError(errno.ENODEV, "no such link", name)
    return found[0]


def set_up(fd: int, name: str) -> None:
    """Bring a link of a namespace up."""
    with netlink(fd) as inside, _naming(name):
        inside.link("set", index=_index(inside, name), state="up")


def make_veth(
    fd: int, name: str, outer: str, *, index: int, mac: str, outer_mac: str, mtu: int
) -> None:
    """
    Make a veth: one end in a namespace, under a number if there is one, the other in ours.

    Both are down. An empty `mac` is one that the kernel makes up. `mtu` is in bytes, 0 for the
    default.
    """
    ours = netns.own()
    try:
        more: dict[str, object] = {"mtu": mtu} if mtu else {}
        peer = {"ifname": outer, "net_ns_fd": ours, **more}
        if outer_mac:
            peer["address"] = outer_mac
        if mac:
            more["address"] = mac
        if index:
            more["index"] = index
        with netlink(fd) as inside, _naming(f"{name} to {outer}"):
            inside.link("add", ifname=name, kind="veth", peer=peer, **more)
    finally:
        os.close(ours)


def remove_link(name: str) -> None:
    """Remove a link of ours, a veth with its other end; one that is gone is removed."""
    with netlink() as ours:
        with _naming(name):
            found: list[int] = list(ours.link_lookup(ifname=name))
        for index in found:
            with _naming(name):
                ours.link("del", index=index)


def add_address(fd: int, address: Address) -> None:
    """Give a link of a namespace an address; one that it has already is no error."""
    flags = _NODAD if ":" in address.address else 0
    if not address.kernel_route:
        flags |= _NOPREFIXROUTE
    words: dict[str, object] = {
        "local": address.address,
        "address": address.remote or address.address,
        "prefixlen": address.prefix,
        "scope": _SCOPE_NUMBERS.get(address.scope) or int(_number(address.scope)),
    }
    if flags:
        words["flags"] = flags
    if address.broadcast:
        words["broadcast"] = address.broadcast
    if address.label:
        words["label"] = address.label
    if address.metric:
        words["rt_priority"] = address.metric
    with netlink(fd) as inside, _naming(f"{address.address}/{address.prefix}"):
        try:
            inside.addr("add", index=_index(inside, address.link), **words)
        except NetlinkError as error:
            if number_of(error) != errno.EEXIST:
                raise


def _number(word: str) -> str:
    return word if word.isdecimal() else "0"


def add_route(fd: int, route: Route) -> None:
    """Make a route in the main table of a namespace."""
    version = socket.AF_INET6 if ":" in route.destination else socket.AF_INET
    words: dict[str, object] = {
        "family": version,
        "dst": route.destination,
        "type": _TYPE_NUMBERS.get(route.type, 255),  # which the kernel refuses
        "proto": _PROTOCOL_NUMBERS.get(route.protocol) or int(_number(route.protocol)),
    }
    if version == socket.AF_INET:
        words["scope"] = _SCOPE_NUMBERS.get(route.scope) or int(_number(route.scope))
    if route.gateway and (":" in route.gateway) == (version == socket.AF_INET6):
        words["gateway"] = route.gateway
    elif route.gateway:
        words["via"] = {"family": socket.AF_INET6, "addr": route.gateway}
    if route.source:
        words["prefsrc"] = route.source
    if route.metric:
        words["priority"] = route.metric
    if route.mtu:
        words["metrics"] = {"mtu": route.mtu}
    if route.onlink:
        words["flags"] = _ONLINK
    with netlink(fd) as inside, _naming(route.destination):
        if route.link:
            words["oif"] = _index(inside, route.link)
        inside.route("add", **words)


# --- The connection to the others -----------------------------------------------------------------


def attach(outer: str, bridge: str) -> None:
    """
    Put a link of ours into a bridge, unless that is empty, and bring it up.

    Waits until the bridge takes what comes from it, if the other end is up. Each end and the bridge
    hear of the carrier on their own (net/core/link_watch.c): what is sent before is lost.
    """
    with netlink() as ours, _naming(f"{outer} to {bridge}" if bridge else outer):
        index = _index(ours, outer)
        if bridge:
            ours.link("set", index=index, master=_index(ours, bridge))
        ours.link("set", index=index, state="up")
        _wait(lambda: not _is_dropped(ours.get_links(index)[0]))


def _is_dropped(link: Any) -> bool:
    """Tell whether a link has a carrier and is in a bridge that has not heard of it yet."""
    info = link.get_attr("IFLA_LINKINFO")
    port = info and info.get_attr("IFLA_INFO_SLAVE_DATA")
    state = port and port.get_attr("IFLA_BRPORT_STATE")
    return bool(link["flags"] & _LOWER_UP) and state == _DISABLED


def _wait(ready: Callable[[], bool]) -> None:
    """Wait until it is so, but not for long."""
    until = time.monotonic() + _CARRIER
    while not ready() and time.monotonic() < until:
        time.sleep(0.002)


def detach(outer: str) -> None:
    """Bring a link of ours down, if it is there."""
    with netlink() as ours:
        found: list[int] = list(ours.link_lookup(ifname=outer))
        for index in found:
            with _naming(outer):
                ours.link("set", index=index, state="down")


def announce(fd: int, name: str) -> None:
    """
    Tell the neighbours of a link of a namespace where its addresses are now.

    Waits until the link can send. Switches learn the port from the frames, neighbours a hardware
    address that may be another one: ARP of RFC 5227, and for version 6 the neighbour advertisement
    of RFC 4861. Nobody answers, so nobody knows whether it was heard.
    """
    mac, addresses = _carrier(fd, name)
    with netns.entered(fd):
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ARP))
    with packets:
        for address in addresses:
            with contextlib.suppress(OSError):  # it was no more than a courtesy
                if ":" in address:
                    _advertise(fd, name, mac, address)
                else:
                    everybody = (name, _ARP, 0, 0, b"\xff" * 6)
                    packets.sendto(_arp(mac, address), everybody)


_ARP: Final = 0x0806
"""ETH_P_ARP."""


def _arp(mac: bytes, address: str) -> bytes:
    """Give the body of an ARP announcement: a request of an address for itself."""
    own = socket.inet_aton(address)
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return head + mac + own + bytes(6) + own


def _advertise(fd: int, name: str, mac: bytes, address: str) -> None:
    """Send an unsolicited neighbour advertisement, whose checksum the kernel writes."""
    # type, code, checksum, flags (override), target, then the option with the hardware address
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000)
    body += socket.inet_pton(socket.AF_INET6, address) + b"\x02\x01" + mac
    with netns.entered(fd):
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        index = socket.if_nametoindex(name)
    with raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.bind((address, 0, 0, index))
        raw.sendto(body, ("ff02::1", 0, 0, index))


def _carrier(fd: int, name: str) -> tuple[bytes, tuple[str, ...]]:
    """Wait until a link can send; give its hardware address and the addresses to announce."""
    with netlink(fd) as inside:
        index = _index(inside, name)
        _wait(lambda: _is_settled(inside.get_links(index)[0]))
        link = inside.get_links(index)[0]
        mac = bytes.fromhex(str(link.get_attr("IFLA_ADDRESS") or "").replace(":", ""))
        return mac, tuple(_announced(inside.get_addr(index=index)))


def _is_settled(link: Any) -> bool:
    """Tell whether a link can send, or is down and never will."""
    return not link["flags"] & IFF_UP or link.get_attr("IFLA_OPERSTATE") == "UP"


def _announced(messages: Any) -> Iterator[str]:
    for each in messages:
        address = str(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS"))
        if not is_loopback(address):
            yield address
