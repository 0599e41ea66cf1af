# SPDX-License-Identifier: Apache-2.0
"""Predicates about the network: what CRIU does with sockets, what cannot be put back here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.model import Severity
from mountcr.network import LOOPBACK, VETH, is_loopback
from mountcr.planning.choices import Tcp
from mountcr.planning.network import (
    HOST,
    NONE,
    bridge_of,
    chosen_path,
    is_external,
    makes_links,
    needs_another,
    outer_names,
)
from mountcr.rules import Found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.network import InetSocket, Link, Network
    from mountcr.rules import Context

__all__ = ["PREDICATES"]


# --- Sockets --------------------------------------------------------------------------------------


def _connected(context: Context) -> Iterator[Found]:
    """I1: CRIU has to be told what becomes of one (criu/sk-inet.c, `can_dump_inet_sk()`)."""
    network, given = context.facts.network, context.given
    if network is None or _is_dumped(context):
        return
    told = bool(context.choices.tcp) or given.tcp_established or given.tcp_close
    yield from _of_all(network.connections, cured=told)


def _is_dumped(context: Context) -> bool:
    """Tell whether the dump, which a rule is about, was done."""
    return context.target is not None or context.facts.imported is not None


def _of_all(sockets: Sequence[InetSocket], *, cured: bool = False) -> Iterator[Found]:
    """Find something once of some sockets, which may be thousands."""
    if sockets:
        first, *others = sockets
        more = f" and {len(others)} more" if others else ""
        yield Found(str(first), f"{first.state or 'bound'}{more}", cured=cured)


def _undumpable(context: Context) -> Iterator[Found]:
    """
    I2: any socket of the Internet protocols.

    Linux commit 7d8d93fdde50 ("net: Restrict SO_PASS{CRED,PIDFD,SEC} to
    AF_{UNIX,NETLINK,BLUETOOTH}.") (in v6.16): CRIU asked them of every socket.
    """
    network = context.facts.network
    if network and not _is_dumped(context):
        yield from _of_all(network.sockets)


def _addresses_there(context: Context, network: Network) -> frozenset[str] | None:
    """Give the addresses that the tasks will have, None where nobody knows."""
    target = context.target
    if target is None or target.network is None:
        return None
    if target.network.addresses is not None:
        return frozenset(target.network.addresses)
    if makes_links(context.facts, context.choices, target, context.given):
        return frozenset(each.address for each in network.addresses)
    return frozenset() if context.choices.net == NONE else None


def _homeless(context: Context) -> Iterator[Found]:
    """I8: CRIU binds a socket to the address that it had, and the kernel has to have that."""
    network = context.facts.network
    if network is None:
        return
    there = _addresses_there(context, network)
    if there is None:
        return
    closed = context.choices.tcp is Tcp.CLOSE or context.given.tcp_close
    homeless = [
        each
        for each in network.sockets
        if not is_loopback(each.address)
        and _bare(each) not in there
        and not (closed and each.is_connection)
    ]
    yield from _of_all(homeless)


def _bare(each: InetSocket) -> str:
    """Give the address of a socket as that of a link; a socket of version 6 may have one of 4."""
    return each.address.removeprefix("::ffff:")


# --- Links ----------------------------------------------------------------------------------------


def _unmakable(context: Context) -> Iterator[Found]:
    """I3: found as a loss of a dump, because another network can be chosen for the restore."""
    for link in _made(context):
        if link.kind not in {VETH, LOOPBACK}:
            yield Found(link.name, f"a {link.kind}", severity=_severity(context))


def _made(context: Context) -> tuple[Link, ...]:
    """Give the links that a restore makes here, or one on another host would make."""
    facts = context.facts
    if facts.network is None or context.choices.net is not None:
        return ()
    if context.target is None:
        return facts.network.links if is_external(facts, context.given) else ()
    makes = makes_links(facts, context.choices, context.target, context.given)
    return facts.network.links if makes else ()


def _severity(context: Context) -> Severity:
    return Severity.REFUSAL if context.target is not None else Severity.LOSS


def _without_bridge(context: Context) -> Iterator[Found]:
    """
    I4: what the outer end of a veth was in is not here, or is no bridge, or nobody saw it.

    What a bundle says that it was is what it asks for: the user says whether that is given.
    """
    target = context.target.network if context.target else None
    for link in _made(context) if target else ():
        if link.kind != VETH or target is None:
            continue
        bridge = bridge_of(link, context.choices.bridges)
        if link.peer is None and not bridge:
            yield Found(link.name, "the other end was not seen")
        elif bridge and bridge not in target.links:
            yield Found(link.name, f"no {bridge} here")
        elif bridge and target.links[bridge] != "bridge":
            yield Found(link.name, f"{bridge} is a {target.links[bridge]}")
        elif _is_asked_for(context, bridge):
            wanted = bridge or "a link to this host, in no bridge,"
            yield Found(link.name, f"{wanted} is what the bundle asks for")


def _is_asked_for(context: Context, bridge: str) -> bool:
    """Tell whether a bundle alone says where the outer end of a veth goes."""
    return context.facts.imported is not None and bridge not in context.choices.bridges.values()


def _renamed(context: Context) -> Iterator[Found]:
    """I5."""
    network = context.facts.network
    if network is None or context.target is None:
        return
    outer = outer_names(network, context.target)
    for link in _made(context):
        peer = link.peer
        if peer and outer.get(link.name, peer.name) != peer.name:
            yield Found(link.name, f"{peer.name} is there, so it becomes {outer[link.name]}")


def _unrecorded(context: Context) -> Iterator[Found]:
    """I9."""
    network = context.facts.network
    if network and _made(context):
        for each in network.others:
            yield Found(each, "it is in the network namespace")


# --- The namespace --------------------------------------------------------------------------------


def _is_settled(context: Context) -> bool:
    """Tell whether the namespace is not in the images, so that another one can be chosen."""
    network = context.facts.network
    return bool(network and network.is_host) or is_external(context.facts, context.given)


def _nowhere(context: Context) -> Iterator[Found]:
    """I6."""
    target = context.target.network if context.target else None
    path = chosen_path(context.facts, context.choices)
    if target is None or path is None or context.choices.net in {None, HOST, NONE}:
        return
    if _is_settled(context) and not target.paths.get(path):
        yield Found(path, "no network namespace is there")


def _in_the_images(context: Context) -> Iterator[Found]:
    """I7: CRIU would give what the images hold to the namespace that the tasks come into."""
    network = context.facts.network
    if network is None or context.target is None or _is_settled(context):
        return
    if needs_another(context.facts, context.choices):
        yield Found(f"net:[{network.id}]", f"--net {context.choices.net}")


PREDICATES: Final = {
    "I1": _connected,
    "I2": _undumpable,
    "I3": _unmakable,
    "I4": _without_bridge,
    "I5": _renamed,
    "I6": _nowhere,
    "I7": _in_the_images,
    "I8": _homeless,
    "I9": _unrecorded,
}
