# SPDX-License-Identifier: Apache-2.0
"""
The network namespace that steps work on, as the executor sees it.

What speaks to the kernel, and loads pyroute2 for it, is only loaded by the first call.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mountcr.kernel import netns

if TYPE_CHECKING:
    from mountcr.network import Address, Route
    from mountcr.paths import KPath

__all__ = ["LiveNetwork"]


class LiveNetwork:
    """
    Does what steps ask for in one network namespace.

    `network` is a descriptor of it, valid until the steps are undone, or `leave_network()`; -1 for
    none. Of links outside, the methods mean those in the namespace of the calling thread.
    """

    def __init__(self) -> None:
        self.network = -1

    def make_network(self) -> None:
        """Make a network namespace that only a descriptor holds, and nobody's name."""
        self.leave_network()
        self.network = netns.make()

    def join_network(self, path: KPath) -> None:
        """Hold the network namespace whose file lies at a path."""
        self.leave_network()
        self.network = netns.open_namespace(path)

    def leave_network(self) -> None:
        """Let go of the network namespace."""
        if self.network >= 0:
            os.close(self.network)
            self.network = -1

    def make_veth(
        self, link: str, outer: str, *, index: int, mac: str, outer_mac: str, mtu: int
    ) -> None:
        """Make a veth, one end in the network namespace, the other in ours, both down."""
        from mountcr.kernel import network  # it loads pyroute2

        network.make_veth(
            self.network, link, outer, index=index, mac=mac, outer_mac=outer_mac, mtu=mtu
        )

    def remove_link(self, name: str) -> None:
        """Remove a link of ours, a veth with its other end; one that is gone is removed."""
        from mountcr.kernel import network

        network.remove_link(name)

    def set_link_up(self, link: str) -> None:
        """Bring a link of the network namespace up."""
        from mountcr.kernel import network

        network.set_up(self.network, link)

    def add_address(self, address: Address) -> None:
        """Give a link of the network namespace an address, unless it has it."""
        from mountcr.kernel import network

        network.add_address(self.network, address)

    def add_route(self, route: Route) -> None:
        """Make a route in the main table of the network namespace."""
        from mountcr.kernel import network

        network.add_route(self.network, route)

    def connect(self, outer: str, bridge: str) -> None:
        """Put a link of ours into a bridge, unless that is empty, and bring it up."""
        from mountcr.kernel import network

        network.attach(outer, bridge)

    def disconnect(self, outer: str) -> None:
        """Bring a link of ours down, if it is there."""
        from mountcr.kernel import network

        network.detach(outer)

    def announce(self, link: str) -> None:
        """Tell the neighbours of a link of the network namespace where its addresses are."""
        from mountcr.kernel import network

        network.announce(self.network, link)
