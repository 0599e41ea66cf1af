# SPDX-License-Identifier: Apache-2.0
"""
How the network namespace of a container is dumped and comes back.

CRIU makes a namespace again that it dumped (criu/net.c), but it connects a veth before the sockets
are there, and knows no bridge unless it is told. So one that holds more than loopback, or that was
made before its container, is external to CRIU: `--external net[INO]:KEY` at the dump, and at the
restore a descriptor of one that is ready, `--inherit-fd fd[N]:KEY`. One that a runtime made and
that holds nothing but loopback CRIU dumps. Tasks in the namespace of the host are restored into
that of CRIU.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from mountcr.model import Record
from mountcr.network import LOOPBACK, VETH
from mountcr.paths import KPath
from mountcr.planning.network_steps import (
    Announcement,
    Connection,
    LinkAddress,
    LinkUp,
    NetworkAt,
    NetworkNamespace,
    NetworkRoute,
    NetworkStep,
    Veth,
)

if TYPE_CHECKING:
    from collections.abc import Container as Collection
    from collections.abc import Iterable, Iterator, Mapping

    from mountcr.model import Container, Facts
    from mountcr.network import Address, Link, Network
    from mountcr.planning.choices import Choices
    from mountcr.planning.given import Given
    from mountcr.target import Target

__all__ = [
    "HOST",
    "NETWORK_KEY",
    "NONE",
    "OWN",
    "NetworkPlan",
    "bridge_of",
    "chosen_path",
    "is_external",
    "made_before",
    "makes_links",
    "needs_another",
    "outer_names",
    "plan_network",
]

NETWORK_KEY: Final = "extRootNetNS"
"""What the namespace is called in the images: as runc and crun call one that they did not make."""

HOST: Final = "host"
NONE: Final = "none"

OWN: Final = KPath("/proc/thread-self/ns/net")
"""The network namespace of who restores."""

_LONGEST: Final = 15
"""Characters of the name of a link, IFNAMSIZ without its end."""


class NetworkPlan(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    How the network namespace comes back, where CRIU does not see to it alone.

    `key` is what it is called in the images, and `number` the descriptor that CRIU gets it as; of
    tasks that were in the namespace of their host, `key` is empty: CRIU is started in it. `making`
    is done before CRIU, `connecting` when the sockets are back.
    """

    key: str
    number: int
    making: tuple[NetworkStep, ...]
    connecting: tuple[NetworkStep, ...] = ()
    because: str

    @property
    def external(self) -> bool:
        """Whether CRIU is given it."""
        return bool(self.key)


# --- What it is -----------------------------------------------------------------------------------


def made_before(container: Container) -> KPath | None:
    """
    Give the path of a namespace that was made before the container.

    Docker records where it has mounted the one that the container made itself.
    """
    return None if container.engine == "docker" else container.namespace_paths.get("net")


def _pinned(facts: Facts) -> KPath | None:
    """
    Give the path of a namespace that was made before the container, on the host that it was on.

    In a bundle it is a path of another host, and what lies there here is not the container's.
    """
    return None if facts.imported else made_before(facts.container)


def is_external(facts: Facts, given: Given) -> bool:
    """Tell whether the namespace is external to CRIU, at the dump and so in the images."""
    network = facts.network
    if network is None or network.is_host or given.network:
        return False
    if made_before(facts.container):
        return True
    # one that a user namespace owns, its tasks may configure; CRIU makes it in there
    owner = facts.tasks[0].owners.get("net") if facts.tasks else None
    inside = facts.tasks[0].namespaces.get("user") if facts.tasks else None
    return bool(network.beyond_loopback) and (owner is None or owner != inside)


def needs_another(facts: Facts, choices: Choices) -> bool:
    """Tell whether the user wants the tasks in another namespace than they were in."""
    network = facts.network
    if choices.net is None or network is None:
        return False
    if network.is_host:
        return choices.net != HOST
    return choices.net != NONE or bool(network.beyond_loopback)


def chosen_path(facts: Facts, choices: Choices) -> KPath | None:
    """Give the path of the namespace that the tasks come into, None for one that is made."""
    if choices.net is None:
        return _pinned(facts)
    if choices.net == NONE:
        return None
    return OWN if choices.net == HOST else KPath(choices.net)


def makes_links(facts: Facts, choices: Choices, target: Target | None, given: Given) -> bool:
    """Tell whether a namespace is made and gets the links that were recorded."""
    if choices.net is not None or not is_external(facts, given):
        return False
    path = _pinned(facts)
    return not path or (target is not None and not _is_there(path, target))


def _is_there(path: KPath, target: Target | None) -> bool:
    """Tell whether a namespace is at a path; where nobody looked it is."""
    return target is None or target.network is None or bool(target.network.paths.get(path, 1))


# --- How it comes back ----------------------------------------------------------------------------


def plan_network(
    facts: Facts,
    choices: Choices,
    *,
    given: Given,
    target: Target | None = None,
    taken: Iterable[int] = (),
) -> NetworkPlan | None:
    """
    Plan how the network namespace comes back, None where CRIU sees to it.

    `taken` are numbers of descriptors that CRIU gets for other things.
    """
    network = facts.network
    external = is_external(facts, given)
    if network is None or not (external or (network.is_host and needs_another(facts, choices))):
        return None
    path = chosen_path(facts, choices)
    making: tuple[NetworkStep, ...]
    connecting: tuple[NetworkStep, ...] = ()
    if path and (choices.net is not None or _is_there(path, target)):
        because = _why_at(path, choices)
        making = (NetworkAt(path=path, because=because),)
    else:
        because = "--net none" if choices.net else _why_made(facts, network)
        making = (NetworkNamespace(because=because), *_filled(network, choices, target, because))
        connecting = tuple(_connected(network, choices, target))
    return NetworkPlan(
        key=NETWORK_KEY if external else "",
        number=_free(taken) if external else -1,
        making=making,
        connecting=connecting,
        because=because,
    )


def _free(taken: Iterable[int]) -> int:
    """Give a number above the standard streams that nothing has yet."""
    used = frozenset(taken)
    return next(number for number in itertools.count(3) if number not in used)


def _why_at(path: KPath, choices: Choices) -> str:
    if choices.net is None:
        return f"it was made before the container, at {path}"
    return f"--net {choices.net}"


def _why_made(facts: Facts, network: Network) -> str:
    if path := made_before(facts.container):
        gone = "on another host" if facts.imported else f"and {path} is gone"
        return f"it was made before the container, {gone}"
    return f"it held {', '.join(each.name for each in network.beyond_loopback)}"


def _filled(
    network: Network, choices: Choices, target: Target | None, because: str
) -> Iterator[NetworkStep]:
    """Give the steps that fill a namespace that was made: with loopback only for `--net none`."""
    if choices.net:
        yield LinkUp(link="lo", because=because)
        return
    outer = outer_names(network, target)
    for link in network.links:
        if link.kind == VETH:
            yield _veth(link, outer[link.name], choices)
        if link.up and link.kind in {VETH, LOOPBACK}:
            yield LinkUp(link=link.name, because=f"{link.name} was up")
    made = {link.name for link in network.links if link.kind in {VETH, LOOPBACK}}
    for address in sorted(network.addresses, key=_order):
        if address.link in made:
            yield LinkAddress(address=address, because=f"{address.link} had it")
    # a gateway must be reachable when it is named
    for route in sorted(network.routes, key=lambda route: bool(route.gateway)):
        if not route.link or route.link in made:
            yield NetworkRoute(route=route, because="the main table had it")


def _order(address: Address) -> bool:
    """Put addresses first that make room for others: those that are alone in their network."""
    return bool(address.remote)


def _veth(link: Link, outer: str, choices: Choices) -> Veth:
    """
    Make a veth as it was.

    The hardware address of the other end only matters where there is no bridge, and is a neighbour.
    """
    peer = link.peer
    alone = peer is not None and not bridge_of(link, choices.bridges)
    return Veth(
        link=link.name,
        outer=outer,
        index=link.index,
        mac=link.mac,
        outer_mac=peer.mac if peer and alone else "",
        mtu=link.mtu,
        because=f"{link.name} was a veth" + (f" with {peer.name} outside" if peer else ""),
    )


def _connected(network: Network, choices: Choices, target: Target | None) -> Iterator[NetworkStep]:
    """Give the steps that connect what was made, when the sockets are there."""
    if choices.net:
        return
    outer = outer_names(network, target)
    for link in network.links:
        if link.kind != VETH:
            continue
        bridge = bridge_of(link, choices.bridges)
        because = _why_connected(link, bridge)
        yield Connection(outer=outer[link.name], bridge=bridge, because=because)
        if link.up and any(each.link == link.name for each in network.addresses):
            because = "its neighbours may remember another place"
            yield Announcement(link=link.name, because=because)


def _why_connected(link: Link, bridge: str) -> str:
    peer = link.peer
    if peer is None or peer.bridge != bridge:
        return f"--bridge {bridge}"
    return f"{peer.name} was in {bridge}" if bridge else f"{peer.name} was in no bridge"


def bridge_of(link: Link, bridges: Mapping[str, str]) -> str:
    """
    Give the bridge that the outer end of a veth goes into, empty for none.

    `bridges` maps recorded ones to others; the empty name stands for all that it does not name.
    """
    recorded = link.peer.bridge if link.peer else ""
    return bridges.get(recorded, bridges.get("", recorded)) if recorded else bridges.get("", "")


def outer_names(network: Network, target: Target | None) -> dict[str, str]:
    """Give the names of outer ends by those of the inner: recorded ones, where these are free."""
    known = target.network.links if target and target.network else {}
    used = set(known)
    found: dict[str, str] = {}
    for link in network.links:
        if link.kind == VETH:
            wanted = link.peer.name if link.peer else f"mcr-{link.name}"[:_LONGEST]
            found[link.name] = _free_name(wanted, used)
            used.add(found[link.name])
    return found


def _free_name(wanted: str, used: Collection[str]) -> str:
    if wanted not in used:
        return wanted
    for number in itertools.count(1):
        suffix = f"-{number}"
        name = wanted[: _LONGEST - len(suffix)] + suffix
        if name not in used:
            return name
    raise AssertionError  # numbers do not end
