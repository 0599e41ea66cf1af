# SPDX-License-Identifier: Apache-2.0
"""
Two hosts on one switch, as network namespaces, and a client: what a container moves between.

Each host has a bridge `lan0` with a way to the switch. Nothing of it is in the namespace that the
tests run in. Names begin with the pid, and everything goes when it is closed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BRIDGE: Final = "lan0"
CLIENT: Final = "10.123.0.2"

COUNTING = """
import signal, socket, sys, threading, time
going = True
def stop(*_):
    global going
    going = False
def connect():
    return socket.create_connection((host, port), timeout=60)
def expect(connection, answer):
    got = b""
    while len(got) < len(answer):
        part = connection.recv(64)
        if not part:
            sys.exit("the server hung up")
        got += part
    if got != answer:
        sys.exit(f"{got!r} instead of {answer!r}")
def disturb():
    disturbing.wait()
    for each in idle:
        each.sendall(b"PING\\r\\n")
        time.sleep(0.01)
host, port, log = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], "w")
disturbing = threading.Event()
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, lambda *_: disturbing.set())
idle = [connect() for _ in range(int(sys.argv[4]))]
thread = threading.Thread(target=disturb)
thread.start()
connection = connect()
count = 0
while going:
    connection.sendall(b"INCR requests\\r\\n")
    count += 1
    expect(connection, b":%d\\r\\n" % count)
    print(count, file=log, flush=True)
disturbing.set()
thread.join()
for each in idle:
    expect(each, b"+PONG\\r\\n")
"""
"""
A client that counts on a server of redis by one connection and takes no other answer.

Told by SIGUSR1, it says something on other connections, which were idle, every 10 ms another one:
that is sent at once, and not when a timer for what was lost runs out. At the end all must have
been answered.
"""


def ip(*words: str) -> str:
    """Run the program of iproute2; what it says on failure fails the test."""
    done = subprocess.run(
        ["ip", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Hosts:
    """The namespaces `a`, `b`, `switch` and `client`, and others that a test asks for."""

    def __init__(self) -> None:
        self._made: list[str] = []
        self._children: list[subprocess.Popen[bytes]] = []
        for name in ("switch", "a", "b", "client"):
            self.make(name)
        ip("-n", self.name("switch"), "link", "add", "wires", "type", "bridge")
        ip("-n", self.name("switch"), "link", "set", "wires", "up")
        for host in ("a", "b"):
            ip("-n", self.name(host), "link", "add", BRIDGE, "type", "bridge")
            ip("-n", self.name(host), "link", "set", BRIDGE, "up")
            self.wire(host, "uplink", "switch", f"to-{host}", bridge="wires")
            ip("-n", self.name(host), "link", "set", "uplink", "master", BRIDGE)
        self.wire("client", "eth0", "switch", "to-client", bridge="wires")
        ip("-n", self.name("client"), "addr", "add", f"{CLIENT}/24", "dev", "eth0")

    @staticmethod
    def name(short: str) -> str:
        """Give the name of a namespace as ip(8) knows it."""
        return f"mcr{os.getpid()}-{short}"

    def path(self, short: str) -> str:
        """Give the path of a namespace."""
        return f"/run/netns/{self.name(short)}"

    def make(self, short: str) -> str:
        """Make a namespace with loopback up; give its path."""
        ip("netns", "add", self.name(short))
        self._made.append(short)
        ip("-n", self.name(short), "link", "set", "lo", "up")
        return self.path(short)

    def remove(self, short: str) -> None:
        """Take the name from a namespace, which ends it unless a process is in it."""
        ip("netns", "delete", self.name(short))
        self._made.remove(short)

    def wire(self, one: str, link: str, other: str, outer: str, *, bridge: str) -> None:
        """Connect a namespace to a bridge of another one with a veth, both ends up."""
        ends = ("type", "veth", "peer", "name", outer, "netns", self.name(other))
        ip("-n", self.name(one), "link", "add", link, *ends)
        ip("-n", self.name(other), "link", "set", outer, "master", bridge, "up")
        ip("-n", self.name(one), "link", "set", link, "up")

    def inside(self, short: str, *words: str) -> list[str]:
        """Give the words that run a command in a namespace."""
        return ["nsenter", f"--net={self.path(short)}", *words]

    def links(self, short: str) -> set[str]:
        """Give the names of the links of a namespace."""
        lines = ip("-n", self.name(short), "-o", "link").splitlines()
        return {line.split(": ")[1].partition("@")[0] for line in lines}

    def client(
        self, address: str, port: int, log: Path, *, idle: int = 0
    ) -> subprocess.Popen[bytes]:
        """Start the client that counts, with some connections that are idle."""
        words = [sys.executable, "-c", COUNTING, address, str(port), str(log), str(idle)]
        child = subprocess.Popen(
            self.inside("client", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._children.append(child)
        return child

    def ask(self, address: str, port: int, words: Sequence[str]) -> str:
        """Ask a server of redis from the client's place, by a connection of its own."""
        program = (
            "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 1);"
            "s.sendall(' '.join(sys.argv[3:]).encode() + b'\\r\\n'); print(s.recv(99).decode())"
        )
        return subprocess.run(
            self.inside("client", sys.executable, "-c", program, address, str(port), *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def close(self) -> None:
        """End the clients and the namespaces."""
        for child in self._children:
            child.kill()
            child.wait()
            if child.stderr:
                child.stderr.close()
        for short in reversed(self._made):
            with contextlib.suppress(AssertionError):
                ip("netns", "delete", self.name(short))
