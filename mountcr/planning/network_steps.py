# SPDX-License-Identifier: Apache-2.0
"""
Steps that put a network namespace back, in the manner of `mountcr.planning.steps`.

They work on one namespace, which the kernel holds from the first step on. What connects it comes
last and on its own: as long as the sockets are not back, a packet that came in would be answered
with a reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from mountcr.network import Address, Route
from mountcr.paths import KPath

if TYPE_CHECKING:
    from mountcr.execute import Kernel
    from mountcr.planning.steps import Undo

__all__ = [
    "Announcement",
    "Connection",
    "LinkAddress",
    "LinkUp",
    "NetworkAt",
    "NetworkNamespace",
    "NetworkRoute",
    "NetworkStep",
    "Veth",
]


class _Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag=str.lower):
    because: str


class NetworkNamespace(_Step, frozen=True, kw_only=True):
    """Make a network namespace that has no name; it ends when nothing holds it any more."""

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return "network namespace"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing lets go of it."""
        kernel.make_network()
        return kernel.leave_network


class NetworkAt(_Step, frozen=True, kw_only=True):
    """Take the network namespace whose file lies at a path."""

    path: KPath

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"network namespace at {self.path}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing lets go of it."""
        kernel.join_network(self.path)
        return kernel.leave_network


class Veth(_Step, frozen=True, kw_only=True):
    """
    Make a veth, `link` in the namespace and `outer` in that of who restores, both down.

    `index` is the number of the link in the namespace, 0 for any; empty hardware addresses are
    made up by the kernel. `mtu` is in bytes, 0 for the default.
    """

    link: str
    outer: str
    index: int = 0
    mac: str = ""
    outer_mac: str = ""
    mtu: int = 0

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        mac = f", {self.mac}" if self.mac else ""
        return f"veth {self.link}{mac}, with {self.outer} outside"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing removes both ends."""
        kernel.make_veth(
            self.link,
            self.outer,
            index=self.index,
            mac=self.mac,
            outer_mac=self.outer_mac,
            mtu=self.mtu,
        )
        return lambda: kernel.remove_link(self.outer)


class LinkUp(_Step, frozen=True, kw_only=True):
    """Bring a link of the namespace up."""

    link: str

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"link {self.link} up"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; goes with the namespace, nothing to undo."""
        kernel.set_link_up(self.link)
        return None


class LinkAddress(_Step, frozen=True, kw_only=True):
    """Give a link of the namespace an address."""

    address: Address

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"address {self.address.address}/{self.address.prefix} of {self.address.link}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; goes with the namespace, nothing to undo."""
        kernel.add_address(self.address)
        return None


class NetworkRoute(_Step, frozen=True, kw_only=True):
    """Make a route in the namespace."""

    route: Route

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        route = self.route
        kind = "" if route.type == "unicast" else f"{route.type} "
        via = f" via {route.gateway}" if route.gateway else ""
        through = f" through {route.link}" if route.link else ""
        return f"{kind}route to {route.destination}{via}{through}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; goes with the namespace, nothing to undo."""
        kernel.add_route(self.route)
        return None


class Connection(_Step, frozen=True, kw_only=True):
    """Put the outer end of a veth into a bridge, unless that is empty, and bring it up."""

    outer: str
    bridge: str = ""

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"{self.outer} up, in {self.bridge}" if self.bridge else f"{self.outer} up"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; undoing brings it down."""
        kernel.connect(self.outer, self.bridge)
        return lambda: kernel.disconnect(self.outer)


class Announcement(_Step, frozen=True, kw_only=True):
    """Tell the neighbours of a link of the namespace where its addresses are now."""

    link: str

    def describe(self) -> str:
        """Say the step as a noun phrase."""
        return f"announcement of the addresses of {self.link}"

    def execute(self, kernel: Kernel) -> Undo:
        """Do the step; what was heard stays heard."""
        kernel.announce(self.link)
        return None


NetworkStep: TypeAlias = (
    NetworkNamespace
    | NetworkAt
    | Veth
    | LinkUp
    | LinkAddress
    | NetworkRoute
    | Connection
    | Announcement
)
