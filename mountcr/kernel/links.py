# SPDX-License-Identifier: Apache-2.0
"""
Links, addresses and routes of a network namespace, asked of the kernel with pyroute2.

Loading pyroute2 takes longer than a plan, so this module is loaded where it is needed only.
Numbers and their meanings: rtnetlink(7), include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from pyroute2 import IPRoute  # pyright: ignore[reportMissingTypeStubs]
from pyroute2.netlink.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    NetlinkError,
)

from mountcr.errors import GoneError
from mountcr.kernel.netns import entered
from mountcr.network import LOOPBACK, VETH, Address, Link, Network, Peer, Route

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from mountcr.network import InetSocket

__all__ = ["NetlinkError", "link_kinds", "netlink", "number_of", "read_addresses", "read_network"]

IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
IFA_F_NOPREFIXROUTE: Final = 0x200
RTNH_F_ONLINK: Final = 0x4

AF_INET: Final = 2
AF_INET6: Final = 10

MAIN: Final = 254
LOCAL: Final = 255
_USUAL_RULES: Final = frozenset({(0, LOCAL), (32766, MAIN), (32767, 253)})
"""Priority and table of those that every namespace has (net/ipv4/fib_rules.c)."""

SCOPES: Final = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
PROTOCOLS: Final = {
    0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp",
}  # fmt: skip
TYPES: Final = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}

_BY_THE_KERNEL: Final = frozenset({"redirect", "kernel", "ra"})
"""Routes that come back by themselves, with an address or from the network."""
_ADDRESSES_OF_LOOPBACK: Final = frozenset({("127.0.0.1", 8), ("::1", 128)})


@contextlib.contextmanager
def netlink(fd: int = -1) -> Generator[Any]:
    """
    Speak to the kernel of a network namespace, that of the calling thread by default.

    Requests raise NetlinkError with the number of the error as `code`.
    """
    with entered(fd) if fd >= 0 else contextlib.nullcontext():
        route = IPRoute()
    try:
        yield route
    finally:
        route.close()


def number_of(error: Any) -> int:
    """Give the errno of a NetlinkError."""
    return int(error.code)


def read_network(pid: int, identity: int, sockets: tuple[InetSocket, ...]) -> Network:
    """
    Read what is in the network namespace of a process, and the other ends of its veths in ours.

    Raises OSError: EPERM without CAP_SYS_ADMIN. Raises GoneError when the process is in another
    namespace by now, or what is read changes meanwhile.
    """
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_ino != identity:
            raise GoneError(f"pid {pid} has left its network namespace", hint="try again")
        with netlink(fd) as inside:
            return _read(fd, identity, inside, sockets)
    except NetlinkError as error:
        msg = f"the network of pid {pid} cannot be read: {os.strerror(number_of(error))}"
        raise GoneError(msg, hint="try again") from error
    finally:
        os.close(fd)


def _read(fd: int, identity: int, inside: Any, sockets: tuple[InetSocket, ...]) -> Network:
    messages = list(inside.get_links())
    names = {each["index"]: str(each.get_attr("IFLA_IFNAME")) for each in messages}
    with netlink() as outside:
        peers = _Peers(outside, fd)
        links = tuple(_link(each, peers) for each in messages)
    routes = list(inside.get_routes())
    return Network(
        id=identity,
        links=links,
        addresses=tuple(_addresses(inside.get_addr(), names)),
        routes=tuple(_routes(routes, names)),
        sockets=sockets,
        others=tuple(dict.fromkeys((*_other_routes(routes), *_other_rules(inside.get_rules())))),
    )


def link_kinds() -> dict[str, str]:
    """Give the kind of every link in the network namespace of the calling thread, by its name."""
    with netlink() as route:
        return {str(each.get_attr("IFLA_IFNAME")): _kind(each) for each in route.get_links()}


def read_addresses(fd: int) -> tuple[str, ...]:
    """Give the addresses in the network namespace of a descriptor. Raises OSError."""
    with netlink(fd) as route:
        return tuple(_own_address(each) for each in route.get_addr())


# --- Links ----------------------------------------------------------------------------------------


def _kind(message: Any) -> str:
    """Give the kind of a link."""
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    if kind:
        return str(kind)
    return LOOPBACK if message["flags"] & IFF_LOOPBACK else "device"


def _link(message: Any, peers: _Peers) -> Link:
    kind = _kind(message)
    return Link(
        name=str(message.get_attr("IFLA_IFNAME")),
        index=message["index"],
        kind=kind,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & IFF_UP),
        peer=peers.of(message) if kind == VETH else None,
    )


class _Peers:
    """
    The other ends of veths of a namespace, looked for in ours.

    IFLA_LINK is the number of the other end in its namespace, IFLA_LINK_NETNSID what the namespace
    of this end calls that one. The same number can be that of another link with us, so it is
    believed where the link of ours points back, to the namespace that the descriptor is of.
    """

    def __init__(self, outside: Any, fd: int) -> None:
        self._outside = outside
        self._nsid = outside.get_netnsid(fd=fd)["nsid"]

    def of(self, message: Any) -> Peer | None:
        """Give the other end of a veth, None where it is not in our namespace."""
        index = message.get_attr("IFLA_LINK")
        if not index or message.get_attr("IFLA_LINK_NETNSID") is None:
            return None
        found = self._get(index)
        if found is None or _kind(found) != VETH:
            return None
        back = found.get_attr("IFLA_LINK"), found.get_attr("IFLA_LINK_NETNSID")
        if back != (message["index"], self._nsid):
            return None
        master = self._get(found.get_attr("IFLA_MASTER") or 0)
        return Peer(
            name=str(found.get_attr("IFLA_IFNAME")),
            index=index,
            mac=found.get_attr("IFLA_ADDRESS") or "",
            mtu=found.get_attr("IFLA_MTU") or 0,
            bridge=str(master.get_attr("IFLA_IFNAME")) if master else "",
            bridge_kind=_kind(master) if master else "",
        )

    def _get(self, index: int) -> Any:
        if not index:
            return None
        with contextlib.suppress(NetlinkError):
            return next(iter(self._outside.get_links(index)), None)
        return None


# --- Addresses and routes -------------------------------------------------------------------------


def _own_address(message: Any) -> str:
    """Give the near end of an address: IFA_LOCAL, which version 6 has only with a far end."""
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def _addresses(messages: Iterable[Any], names: dict[int, str]) -> Iterator[Address]:
    for each in messages:
        link = names.get(each["index"], "")
        address, other = _own_address(each), str(each.get_attr("IFA_ADDRESS"))
        if link == "lo" and (address, each["prefixlen"]) in _ADDRESSES_OF_LOOPBACK:
            continue
        label = each.get_attr("IFA_LABEL") or ""
        flags = each.get_attr("IFA_FLAGS") or each["flags"]
        yield Address(
            link=link,
            address=address,
            prefix=each["prefixlen"],
            scope=SCOPES.get(each["scope"], str(each["scope"])),
            broadcast=each.get_attr("IFA_BROADCAST") or "",
            remote="" if other == address else other,
            label="" if label == link else str(label),
            metric=each.get_attr("IFA_RT_PRIORITY") or 0,
            kernel_route=not flags & IFA_F_NOPREFIXROUTE,
        )


def _table(message: Any) -> int:
    return int(message.get_attr("RTA_TABLE") or message["table"])


def _is_ours(message: Any) -> bool:
    """Tell whether somebody made a route."""
    return PROTOCOLS.get(message["proto"], "") not in _BY_THE_KERNEL


def _destination(message: Any) -> str:
    anywhere = "0.0.0.0" if message["family"] == AF_INET else "::"  # noqa: S104 - no socket's
    return f"{message.get_attr('RTA_DST') or anywhere}/{message['dst_len']}"


def _gateway(message: Any) -> str:
    """Give the next hop; that of version 4 may have an address of version 6."""
    via = message.get_attr("RTA_VIA")
    return str(message.get_attr("RTA_GATEWAY") or (via["addr"] if via else ""))


def _is_known(message: Any) -> bool:
    """Tell whether a record holds the whole of a route."""
    if message["family"] not in {AF_INET, AF_INET6} or message["type"] not in TYPES:
        return False
    return not (message.get_attr("RTA_MULTIPATH") or message.get_attr("RTA_ENCAP"))


def _routes(messages: Iterable[Any], names: dict[int, str]) -> Iterator[Route]:
    for each in messages:
        if _table(each) != MAIN or not _is_ours(each) or not _is_known(each):
            continue
        metrics = each.get_attr("RTA_METRICS")
        kind = TYPES[each["type"]]
        yield Route(
            destination=_destination(each),
            # the kernel shows `lo` of what goes nowhere
            link=names.get(each.get_attr("RTA_OIF") or 0, "") if kind == "unicast" else "",
            gateway=_gateway(each),
            source=each.get_attr("RTA_PREFSRC") or "",
            type=kind,
            scope=SCOPES.get(each["scope"], str(each["scope"])),
            protocol=PROTOCOLS.get(each["proto"], str(each["proto"])),
            metric=each.get_attr("RTA_PRIORITY") or 0,
            mtu=(metrics.get_attr("RTAX_MTU") or 0) if metrics else 0,
            onlink=bool(each["flags"] & RTNH_F_ONLINK),
        )


def _other_routes(messages: Iterable[Any]) -> Iterator[str]:
    """Name what the namespace routes by and no record holds."""
    for each in messages:
        table = _table(each)
        if table == LOCAL or not _is_ours(each):
            continue
        if table != MAIN:
            yield f"routes of table {table}"
        elif not _is_known(each):
            yield f"a route to {_destination(each)} that is not a plain one"


def _other_rules(messages: Iterable[Any]) -> Iterator[str]:
    for each in messages:
        priority = each.get_attr("FRA_PRIORITY") or 0
        usual = (priority, each.get_attr("FRA_TABLE") or each["table"]) in _USUAL_RULES
        if each["family"] in {AF_INET, AF_INET6} and not usual:
            yield f"the rule {priority}"
