# SPDX-License-Identifier: Apache-2.0
"""A container's network comes back: a server moves between two hosts under its clients."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from mountcr.observation import observe_host
from mountcr.rules.table import table
from networks import BRIDGE, Hosts, ip
from runtimes import CONTAINER, Runtime, has_ended, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ADDRESS: Final = "10.123.0.10"
PORT: Final = 6379
RETRANSMISSION: Final = 60.0
"""Seconds: the timer of a client doubles while nobody answers."""
SERVER: Final = (
    "/bin/redis-server", "--bind", "*", "--port", str(PORT), "--protected-mode", "no",
    "--save", "", "--appendonly", "no", "--logfile", "/dev/null",
)  # fmt: skip


def libraries(program: str) -> list[str]:
    """Give what a program is linked with, the loader included."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    words = (word for line in said.splitlines() for word in line.split())
    return [word for word in words if word.startswith("/")]


class Server:
    """A container of runc that serves, in a network namespace at a path, on host `a`."""

    def __init__(self, hosts: Hosts, require: Callable[[str], str], directory: Path) -> None:
        self.hosts = hosts
        self.images = directory / "images"
        self.criu = require("criu-inet")
        self.runtime = Runtime(
            require("runc"),
            require("busybox"),
            directory,
            command=SERVER,
            network=hosts.make("box"),
        )
        rootfs = self.runtime.bundle / "rootfs"
        redis = require("redis")
        shutil.copy(redis, rootfs / "bin/redis-server")
        for library in libraries(redis):
            place = rootfs / library.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
        hosts.wire("box", "eth0", "a", "box0", bridge=BRIDGE)
        ip("-n", hosts.name("box"), "addr", "add", f"{ADDRESS}/24", "dev", "eth0")
        ip("-n", hosts.name("box"), "route", "add", "default", "via", "10.123.0.1")
        self.restored: list[int] = []

    def start(self) -> None:
        """Start it without a stream to this process, which a runtime could not give back."""
        words = ["--root", self.runtime.root, "run", "--detach", "--bundle", self.runtime.bundle]
        null = subprocess.DEVNULL
        subprocess.run(
            [self.runtime.program, *map(str, words), CONTAINER],
            check=True,
            stdin=null,
            stdout=null,
            stderr=null,
        )

    def mountcr(self, host: str, *words: object, status: int = 0) -> tuple[Any, str]:
        """Run a command of mountcr on a host; give its document and its talk."""
        done = subprocess.run(
            self.hosts.inside(host, sys.executable, "-m", "mountcr", *map(str, words), "--json"),
            env={**os.environ, "MOUNTCR_CRIU": self.criu},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if done.stdout else None, done.stderr

    def leave(self) -> None:
        """Have the namespace gone from host `a`, which the kernel does in its own time."""
        self.hosts.remove("box")
        wait_until(lambda: "box0" not in self.hosts.links("a"))

    def dump(self, *words: str, status: int = 0) -> str:
        """Dump the container on host `a`; give what was said."""
        where = ("--runtime-root", self.runtime.root, "--images", self.images)
        return self.mountcr("a", "dump", CONTAINER, *where, *words, status=status)[1]

    def restore(self, host: str, *words: object) -> int:
        """Restore on a host, without a difference; give the pid."""
        found, _ = self.mountcr(host, "restore", self.images, *words)
        assert found["differences"] == []
        self.restored.append(found["pid"])
        return int(found["pid"])

    def refused(self, host: str, *words: object, status: int = 4) -> str:
        """Have a restore refused; give what was said."""
        return self.mountcr(host, "restore", self.images, *words, status=status)[1]

    def clean(self) -> None:
        """End everything."""
        for pid in self.restored:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            wait_until(functools.partial(has_ended, pid))
        self.runtime.clean()


@pytest.fixture
def hosts(require: Callable[[str], str]) -> Iterator[Hosts]:
    """Two hosts and a client."""
    require("root")
    made = Hosts()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def server(hosts: Hosts, require: Callable[[str], str], tmp_path: Path) -> Iterator[Server]:
    """A server that runs on host `a` and can be reached from the client."""
    made = Server(hosts, require, tmp_path)
    try:
        made.start()
        wait_until(lambda: answers(hosts))
        yield made
    finally:
        made.clean()


def answers(hosts: Hosts) -> bool:
    """Tell whether the server can be reached."""
    try:
        return hosts.ask(ADDRESS, PORT, ["PING"]) == "+PONG"
    except subprocess.CalledProcessError:
        return False


def count(log: Path) -> int:
    """Read how many requests were answered."""
    lines = log.read_text().split() if log.exists() else []
    return int(lines[-1]) if lines else 0


def test_a_connection_moves_to_another_host(hosts: Hosts, server: Server, tmp_path: Path) -> None:
    """A server moves with its address under a client, which loses no request and no connection."""
    log = tmp_path / "requests"
    client = hosts.client(ADDRESS, PORT, log, idle=300)
    wait_until(lambda: count(log) > 50)
    server.dump("--tcp-established")
    server.leave()
    before = count(log)
    client.send_signal(signal.SIGUSR1)
    server.restore("b")
    wait_until(lambda: count(log) > before + 200, seconds=RETRANSMISSION)
    assert client.poll() is None
    client.terminate()
    assert (client.wait(10), client.stderr and client.stderr.read()) == (0, b"")
    assert hosts.ask(ADDRESS, PORT, ["INCR", "requests"]) == f":{count(log) + 1}"
    assert "box0" in hosts.links("b")


def test_a_bundle_takes_a_connection_along(hosts: Hosts, server: Server, tmp_path: Path) -> None:
    """So does one that is exported on one host, and restored from the bundle on the other."""
    log = tmp_path / "requests"
    client = hosts.client(ADDRESS, PORT, log, idle=300)
    wait_until(lambda: count(log) > 50)
    bundle, place = tmp_path / "moved.tar.zst", tmp_path / "place"
    words = ("--runtime-root", server.runtime.root, "--tcp-established", "--layers", "all")
    server.mountcr("a", "export", CONTAINER, "-o", bundle, *words)
    server.leave()
    before = count(log)
    client.send_signal(signal.SIGUSR1)
    _, said = server.mountcr("b", "restore", bundle, "--into", place, status=4)
    assert f"I4 eth0: {BRIDGE} is what the bundle asks for" in said
    planned, _ = server.mountcr("b", "plan", bundle, "--for", "restore", "--bridge", BRIDGE)
    assert [each for each in planned["findings"] if each["rule"] == "I4"] == []
    found, _ = server.mountcr("b", "restore", bundle, "--into", place, "--bridge", BRIDGE)
    server.restored.append(found["pid"])
    wait_until(lambda: count(log) > before + 200, seconds=RETRANSMISSION)
    client.terminate()
    assert (client.wait(10), client.stderr and client.stderr.read()) == (0, b"")
    assert hosts.ask(ADDRESS, PORT, ["INCR", "requests"]) == f":{count(log) + 1}"


def test_a_server_comes_back_where_it_was(hosts: Hosts, server: Server) -> None:
    """A namespace that is still at its path is taken again, through CRIU and through runc."""
    before = os.stat(hosts.path("box")).st_ino
    for words in (("--via", "runtime"), ()):
        server.dump()
        assert not answers(hosts), "CRIU leaves it locked, so that no packet is refused"
        pid = server.restore("a", *words)
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == before
        assert answers(hosts)
        shutil.rmtree(server.images)
        if words:
            assert (server.runtime.state()["status"], server.runtime.state()["pid"]) == (
                "running",
                pid,
            )


def test_another_namespace_is_chosen(hosts: Hosts, server: Server) -> None:
    """`--net` puts the tasks into one with loopback only, into that of the host, or at a path."""
    server.dump()
    server.leave()
    links = {host: hosts.links(host) for host in ("a", "b")}
    elsewhere = hosts.make("elsewhere")
    for choice, inside in (("none", {"lo"}), ("host", links["b"]), (elsewhere, {"lo"})):
        pid = server.restore("b", "--net", choice)
        said = subprocess.run(
            ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-o", "link"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert {line.split(": ")[1].partition("@")[0] for line in said.splitlines()} == inside
        same = os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(hosts.path("b")).st_ino
        assert same == (choice == "host")
        os.kill(pid, signal.SIGKILL)
        wait_until(functools.partial(has_ended, pid))
    assert {host: hosts.links(host) for host in ("a", "b")} == links


def test_what_cannot_be_put_back_is_refused_before(hosts: Hosts, server: Server) -> None:
    """A bridge or a namespace that is not there refuses, and nothing is made."""
    server.dump()
    server.leave()
    ip("-n", hosts.name("b"), "link", "set", BRIDGE, "down")
    ip("-n", hosts.name("b"), "link", "set", BRIDGE, "name", "lan1")
    before = hosts.links("b")
    said = server.refused("b")
    assert f"I4 eth0: no {BRIDGE} here" in said
    assert "--bridge NAME" in said
    assert "I6 /nowhere" in server.refused("b", "--net", "/nowhere")
    assert "uplink is a veth" in server.refused("b", "--bridge", "uplink")
    assert hosts.links("b") == before
    ip("-n", hosts.name("b"), "link", "set", "lan1", "up")
    server.restore("b", "--bridge", f"{BRIDGE}=lan1")
    assert answers(hosts)


def test_a_restore_that_fails_leaves_no_link(hosts: Hosts, server: Server) -> None:
    """When CRIU fails, the veth and the namespace that were made for it are gone."""
    server.dump()
    server.leave()
    before = hosts.links("b")
    for image in server.images.glob("core-*.img"):
        image.write_bytes(image.read_bytes()[:-8])
    server.refused("b", status=1)
    assert hosts.links("b") == before


def test_a_restore_that_is_killed_leaves_no_link(hosts: Hosts, server: Server) -> None:
    """Killed when the veth is there, a restore leaves no link and no process."""
    server.dump()
    server.leave()
    before = hosts.links("b")
    words = hosts.inside("b", sys.executable, "-m", "mountcr", "restore", str(server.images))
    restore = subprocess.Popen(
        words,
        env={**os.environ, "MOUNTCR_CRIU": server.criu},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: hosts.links("b") != before)
    restore.kill()
    restore.wait()
    wait_until(lambda: hosts.links("b") == before)


def test_a_connection_needs_a_word_and_its_address(
    hosts: Hosts, server: Server, tmp_path: Path
) -> None:
    """A dump with a connection asks what becomes of it; one without its address is refused."""
    log = tmp_path / "requests"
    hosts.client(ADDRESS, PORT, log)
    wait_until(lambda: count(log) > 5)
    said = server.dump(status=4)
    assert f"I1 tcp {ADDRESS}:{PORT} to 10.123.0.2:" in said
    server.dump("--tcp-established")
    server.leave()
    said = server.refused("b", "--net", "none")
    assert f"I8 tcp {ADDRESS}:{PORT} to 10.123.0.2:" in said
    server.restore("b", "--net", "none", "--tcp-close")


def test_an_old_criu_and_a_new_kernel(require: Callable[[str], str], tmp_path: Path) -> None:
    """A CRIU that the rule says cannot dump an Internet socket here cannot, with that message."""
    criu = require("criu")
    rule = table()["I2"]
    program = (
        "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as listener:
        try:
            assert listener.stdout
            listener.stdout.readline()
            words = ["dump", "-t", str(listener.pid), "-D", str(tmp_path), "-o", "log"]
            done = subprocess.run([criu, *words], check=False)
            assert (done.returncode != 0) == rule.applies(observe_host())
            if done.returncode:
                assert re.search(rule.message, (tmp_path / "log").read_text())
        finally:
            listener.kill()
