# SPDX-License-Identifier: Apache-2.0
"""
The network namespace of a container: what is in it, and where its veths lead to.

Sockets are those of /proc/<pid>/net. Links, addresses and routes are asked of the kernel with
pyroute2, in a namespace of its own that holds more than loopback only: for others, and to know
which it is, /proc tells enough.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from mountcr.errors import MountcrError
from mountcr.model import Unseen
from mountcr.network import LOOPBACK, InetSocket, Link, Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.model import Host, Task

__all__ = ["link_names", "observe_network", "parse_sockets"]

_TABLES: Final = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6")

# include/net/tcp_states.h
_STATES: Final = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
    "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip

_FIELDS: Final = 10
"""Of a line up to the inode number, net/ipv4/tcp_ipv4.c, `get_tcp4_sock()`."""

_IPV4: Final = 8
"""Digits of an address of version 4."""


def observe_network(
    tasks: tuple[Task, ...], host: Host
) -> tuple[Network | None, tuple[Unseen, ...]]:
    """
    Observe the network namespace of the root task; None where it is not known which it is.

    What may not be looked at is left out and said.
    """
    root = tasks[0]
    identity = root.namespaces.get("net", 0)
    if not identity:
        return None, ()
    try:
        sockets = tuple(_sockets(tasks, identity))
        if identity == host.namespaces.get("net"):
            return Network(id=identity, is_host=True, sockets=sockets), ()
        with open(f"/proc/{root.pid}/net/dev", "rb") as file:
            names = link_names(file.read())
        if set(names) <= {"lo"}:
            lo = Link(name="lo", index=1, kind=LOOPBACK, up=_loopback_is_up(root.pid))
            return Network(id=identity, links=(lo,), sockets=sockets), ()
        # its import takes longer than a plan, and many containers have no use for it
        from mountcr.kernel.links import read_network

        return read_network(root.pid, identity, sockets), ()
    except (OSError, MountcrError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        return None, (Unseen(what="network", why=why or str(error)),)


def link_names(text: bytes) -> list[str]:
    """Give the names in /proc/<pid>/net/dev; a name holds no colon (net/core/dev.c)."""
    lines = text.splitlines()[2:]
    return [os.fsdecode(line.partition(b":")[0].strip()) for line in lines if b":" in line]


def _loopback_is_up(pid: int) -> bool:
    """Tell whether `lo` has its address, which it gets when it is brought up."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/net/fib_trie", "rb") as file:
        return b"127.0.0.1" in file.read()
    return False


def _sockets(tasks: Iterable[Task], identity: int) -> Iterator[InetSocket]:
    """Give the sockets of the Internet protocols that tasks in a namespace have open."""
    held = {
        int(file.shown[len("socket:[") : -1])
        for task in tasks
        if task.namespaces.get("net") == identity
        for file in task.files
        if file.shown.startswith("socket:[")
    }
    pid = next(task.pid for task in tasks)
    for protocol in _TABLES if held else ():
        try:
            with open(f"/proc/{pid}/net/{protocol}", "rb") as file:
                text = file.read()
        except FileNotFoundError:
            continue  # a kernel without the protocol
        yield from (each for each in parse_sockets(text, protocol) if each.inode in held)


def parse_sockets(text: bytes, protocol: str) -> Iterator[InetSocket]:
    """Give the sockets of a table; lines that are none of it are passed over."""
    for line in text.splitlines()[1:]:
        fields = line.split(maxsplit=_FIELDS)
        if len(fields) < _FIELDS:
            continue
        try:
            address, port = _end(fields[1])
            peer, peer_port = _end(fields[2])
            state, inode = int(fields[3], 16), int(fields[9])
        except (ValueError, OSError, struct.error):
            continue
        yield InetSocket(
            protocol=protocol,
            inode=inode,
            address=address,
            port=port,
            peer=peer if peer_port else "",
            peer_port=peer_port,
            state=_STATES[state] if state < len(_STATES) else str(state),
        )


def _end(text: bytes) -> tuple[str, int]:
    """Read `0A4D000A:18EB`: words of 32 bits, each as the machine has it in memory."""
    address, _, port = text.partition(b":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(address) == _IPV4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)
