# SPDX-License-Identifier: Apache-2.0
"""
The network namespace of a restore: looked at, ready before CRIU, connected when sockets are back.

Only descriptors hold it until tasks are in it, and a veth ends with either of its ends, so that
nothing is left when this process is killed.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec

from mountcr.execute import applied
from mountcr.kernel import netns, syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.network import is_loopback
from mountcr.planning.given import parse_given
from mountcr.planning.network import OWN, chosen_path, is_external, makes_links
from mountcr.target import Target, TargetNetwork

if TYPE_CHECKING:
    from collections.abc import Generator

    from mountcr.model import Facts, Host
    from mountcr.network import Network
    from mountcr.paths import KPath
    from mountcr.planning.choices import Choices
    from mountcr.planning.network import NetworkPlan

__all__ = ["ReadyNetwork", "observe_network_of_target", "ready"]


def observe_network_of_target(facts: Facts, choices: Choices, host: Host) -> TargetNetwork | None:
    """
    Look at what the network of a container would meet here; None where nothing of it decides.

    Raises PermissionError without CAP_SYS_ADMIN.
    """
    network = facts.network
    given = parse_given((*choices.dumped, *choices.extra))
    if network is None or not (network.is_host or is_external(facts, given)):
        return None
    path = OWN if network.is_host and choices.net is None else chosen_path(facts, choices)
    found = TargetNetwork(paths={path: netns.identity_at(path)} if path else {})
    if path and found.paths[path] and _is_bound(network):
        found = msgspec.structs.replace(found, addresses=_addresses_at(path))
    if makes_links(facts, choices, Target(host=host, network=found), given):
        from mountcr.kernel.links import link_kinds  # it loads pyroute2

        found = msgspec.structs.replace(found, links=link_kinds())
    return found


def _is_bound(network: Network) -> bool:
    """Tell whether a socket needs an address that not every namespace has."""
    return any(not is_loopback(each.address) for each in network.sockets)


def _addresses_at(path: KPath) -> tuple[str, ...]:
    from mountcr.kernel.links import read_addresses

    fd = netns.open_namespace(path)
    try:
        return read_addresses(fd)
    finally:
        os.close(fd)


class ReadyNetwork:
    """
    A namespace that is ready for the tasks of one restore.

    `descriptors` are what CRIU is given, by their numbers in the plan.
    """

    def __init__(self, plan: NetworkPlan | None, kernel: LiveKernel) -> None:
        self._plan = plan
        self._kernel = kernel

    @property
    def descriptors(self) -> dict[int, int]:
        """The namespace, where CRIU is given it."""
        if self._plan is None or not self._plan.external:
            return {}
        return {self._plan.number: self._kernel.network}

    def enter(self) -> None:
        """Bring the calling thread, and what it starts, where CRIU restores into its own."""
        if self._plan is not None and not self._plan.external:
            syscalls.setns(self._kernel.network, syscalls.CLONE_NEWNET)

    def connect(self) -> None:
        """
        Let packets in: the sockets are back. Raises StepError; it is disconnected then.

        What was connected is disconnected when `ready()` is left by an exception.
        """
        if self._plan is not None:
            with applied(self._plan.connecting, self._kernel):
                pass


@contextlib.contextmanager
def ready(plan: NetworkPlan | None) -> Generator[ReadyNetwork]:
    """
    Have the namespace of a plan ready for a block of code.

    When the block is left by an exception what was made is gone. Raises StepError.
    """
    kernel = LiveKernel()
    try:
        with applied(plan.making if plan else (), kernel):
            yield ReadyNetwork(plan, kernel)
    finally:
        kernel.leave_network()
