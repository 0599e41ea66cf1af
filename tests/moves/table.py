# SPDX-License-Identifier: Apache-2.0
"""
Containers of every driver, exported on one host and restored on another one with every driver.

What a container's merged view shows there is compared with what it showed here, by plain system
calls (`fidelity.ground`), and so is the content of its volume. Only what the witness writes is left
out, and sockets, which a bundle does not hold and names.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from fidelity import ground
from fidelity.judge import ALLOWED
from mountcr.paths import KPath, decode
from moves.container import Started
from moves.machine import BrokenError, Machine, wait
from moves.witness import HOME, VOLUME, Running

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from fidelity.ground import Entry, Snapshot

__all__ = [
    "DRIVERS", "Row", "branches_of", "container", "differences_of", "judge", "remove", "taken",
]  # fmt: skip

DRIVERS: Final = ("overlay", "vfs", "unionfs", "fuse-overlayfs")

_WRITTEN: Final = f"{HOME}/state".encode()
_COUNTED: Final = b"count"
"""What the witness writes below its root, and on its volume."""


class Row(NamedTuple):
    """What became of a container of a source on a target; `refused` by a reason that is right."""

    source: str
    target: str
    seed: int
    paths: int
    differences: tuple[str, ...] = ()
    refused: str = ""
    broken: str = ""
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether nothing differs and nothing went wrong."""
        return not (self.differences or self.broken)


@contextlib.contextmanager
def container(
    machine: Machine, source: str, seed: int, name: str, *more: str
) -> Generator[Started]:
    """Have a container on a host for a block; its files stay."""
    words = (sys.executable, "-P", "-m", "moves.container", source, seed, machine.own / name)
    keeper = machine.start(*words, *more, stdout=subprocess.PIPE, stderr=None)
    try:
        assert keeper.stdout
        line = keeper.stdout.readline()
        if not line:
            raise BrokenError(f"no container of {source} and seed {seed}")
        started = msgspec.json.decode(line, type=Started)
        wait(Running(machine.root_of(started.pid)).reached, f"a container of {source} to count")
        yield started
        machine.run("kill", "-9", started.pid)
    finally:
        machine.kill(keeper)


def judge(
    here: Machine, there: Machine, source: str, seed: int, targets: Sequence[str] = DRIVERS
) -> Iterator[Row]:
    """Move a container of one source to every target."""
    name = f"{source}-{seed}"
    bundle = here.passed / f"{name}.tar.zst"
    with container(here, source, seed, name) as started:
        running = Running(here.root_of(started.pid))
        running.goes_on()
        wanted = taken(here, started.merged, source, started.branches)
        volume, bound = _volume(here, started.pid)
        exported = here.done("export", started.pid, "-o", bundle, "--volume", "all")
        reached = Running(here.seen(started.merged)).reached()
    lost = {decode(KPath(each)).lstrip(b"/") for each in exported["left_out"]}
    sockets = _sockets(wanted)
    for path in lost ^ (sockets | bound):
        told = "is left out" if path in lost else "was a socket, and nobody told of it"
        yield Row(source, "export", seed, len(wanted), broken=f"{path!r} {told}")
    wanted = {path: each for path, each in wanted.items() if path not in sockets}
    moving = _Moving(bundle, name, wanted, volume, reached)
    for target in targets:
        began = time.monotonic()
        try:
            row = _moved(there, moving, target)
        except BrokenError as error:
            row = Row(source, target, seed, len(wanted), broken=str(error))
        yield row._replace(source=source, seed=seed, seconds=time.monotonic() - began)
    bundle.unlink()


class _Moving(NamedTuple):
    """A bundle, and what the container was when it was made."""

    bundle: Path
    name: str
    wanted: Snapshot
    volume: Snapshot
    reached: int


def _moved(there: Machine, moving: _Moving, target: str) -> Row:
    """Restore on a target and compare; nothing of it is left then."""
    bundle, name, wanted, volume, reached = moving
    identity = f"{name}-{target}"
    at = there.own / f"seen-{identity}"
    there.seen(at).mkdir()
    words = ("--id", identity, "--driver", target, "--root", at)
    finished = there.mountcr("restore", bundle, *words, "--json")
    if finished.status:
        reason = _reason(target, name, finished.err, wanted)
        left = there.left()
        if not reason or left:
            raise BrokenError(f"{finished.err} left: {left}")
        return Row("", target, 0, len(wanted), refused=reason)
    document = finished.document
    try:
        running = Running(there.root_of(document["pid"]))
        branches = branches_of(there, identity)
        found = taken(there, str(at), target, branches)
        differences = differences_of(wanted, found)
        arrived, _ = _volume(there, document["pid"])
        differences += differences_of(volume, arrived)
        running.goes_on(reached)
        if document["differences"]:
            raise BrokenError(f"the mounts differ: {document['differences']}")
    finally:
        remove(there, identity, document["pid"], at)
    if left := there.left():
        raise BrokenError(f"left: {left}")
    return Row("", target, 0, len(wanted), differences=tuple(differences))


def remove(there: Machine, identity: str, pid: int, at: Path | None = None) -> None:
    """Take away a restored container, as a user would."""
    there.run("kill", "-9", pid)
    wait(lambda: there.state_of(pid) in "ZX", "the end of a container")
    if at is not None:
        there.done("umount", at)
    there.run("rm", "-rf", "--one-file-system", f"/var/lib/mountcr/containers/{identity}")
    there.run("sh", "-c", "rm -rf /var/lib/mountcr/layers/*")


def branches_of(there: Machine, identity: str) -> tuple[str, ...]:
    """Give the directories that a restored container is made of, top first."""
    origin = _manifest(there, identity)["rootfs"]["origin"]
    return (origin["upper"], *origin.get("lowers", ()))


def _manifest(there: Machine, identity: str) -> Any:
    images = there.seen(f"/var/lib/mountcr/containers/{identity}/images")
    return msgspec.json.decode((images / "mountcr.json").read_bytes())


def differences_of(wanted: Mapping[bytes, Entry], found: Mapping[bytes, Entry]) -> list[str]:
    """Give the differences of two merged views, without sockets."""
    kept = {path: each for path, each in wanted.items() if each.type != "socket"}
    return list(map(str, ground.compare(kept, found)))


def taken(machine: Machine, at: str, driver: str, branches: Sequence[str]) -> Snapshot:
    found = ground.take(os.fsencode(machine.seen(at)))
    if driver == "unionfs":
        found = ground.with_stored_xattrs(
            found, [os.fsencode(machine.seen(each)) for each in branches]
        )
    if driver == "fuse-overlayfs":
        found = _with_stored_links(found, [os.fsencode(machine.seen(each)) for each in branches])
    kept = {
        path: entry._replace(xattrs=tuple(filter(_is_taken_over, entry.xattrs)))
        for path, entry in found.items()
        if path != _WRITTEN and not path.startswith(_WRITTEN + b"/")
    }
    # fuse-overlayfs copies it up with another time when something below it is written
    above = HOME.encode()
    return {**kept, above: kept[above]._replace(mtime=0)}


def _with_stored_links(found: Snapshot, branches: Sequence[bytes]) -> Snapshot:
    """
    Take hard links from the topmost branch that has the path.

    fuse-overlayfs 1.10 gives some names of a file another count and inode than the others.
    """
    names: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
    inodes: dict[bytes, tuple[int, int]] = {}
    for path, entry in found.items():
        for branch in branches if entry.type != "directory" else ():
            with contextlib.suppress(OSError):
                status = os.lstat(branch + b"/" + path)
                inodes[path] = status.st_dev, status.st_ino
                names[inodes[path]].add(path)
                break
    return {
        path: entry._replace(links=frozenset(names[inodes[path]]))
        if path in inodes and len(names[inodes[path]]) > 1
        else entry
        for path, entry in found.items()
    }


def _volume(machine: Machine, pid: int) -> tuple[Snapshot, set[bytes]]:
    """Give what a volume has, without its sockets, and where those are in the container."""
    found = ground.take(os.fsencode(machine.root_of(pid)) + VOLUME.encode())
    sockets = _sockets(found)
    kept = {
        path: entry._replace(xattrs=tuple(filter(_is_taken_over, entry.xattrs)))
        for path, entry in found.items()
        if path not in {_COUNTED, *sockets}
    }
    return kept, {b"%s/%s" % (VOLUME.lstrip("/").encode(), path) for path in sockets}


def _is_taken_over(attribute: tuple[bytes, bytes]) -> bool:
    """Tell attributes that are as all others from those that no import takes over."""
    return not attribute[0].startswith((b"trusted.", b"user.overlay."))


def _sockets(found: Snapshot) -> set[bytes]:
    return {path for path, entry in found.items() if entry.type == "socket"}


def _reason(target: str, source: str, said: str, wanted: Snapshot) -> str:
    """Say why a refusal is right; empty where it is not."""
    import re

    for each in ALLOWED:
        if each.driver != target and not source.startswith(each.driver):
            continue
        names = (name for path in wanted for name in path.split(b"/"))
        if re.search(each.words, said) and any(map(each.cause, names)):
            return each.reason
    return ""
