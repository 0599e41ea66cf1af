# SPDX-License-Identifier: Apache-2.0
"""
CRIU, tried: a small container with a program of this host is dumped and restored.

The program is `sleep` with the libraries that it loads, so that it is an ordinary task of this
host's libc: one of glibc 2.35 or newer registers restartable sequences, of which a kernel before
Linux 5.13 does not tell CRIU (criu/cr-dump.c, `check_thread_rseq()`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Final

from mountcr import procstat
from mountcr.criu import binary, log
from mountcr.demo.launch import Recipe, launch, stop
from mountcr.driver import get_driver
from mountcr.errors import MountcrError
from mountcr.execute import applied
from mountcr.hosts.records import Attempt, CriuTrial
from mountcr.interrupts import held_back
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.scratch import SCRATCH, in_scratch
from mountcr.paths import KPath, decode
from mountcr.programs import which
from mountcr.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["try_criu"]

_SECONDS: Final = "60"
"""How long the program lives if nobody ends it, because this process was killed."""

_LOADING: Final = 5.0
"""Seconds that it may take to begin."""

_LIBRARY: Final = re.compile(rb"^\s+(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)
_LOADER: Final = re.compile(r"/ld(?:64)?[-.][^/]*$")

_WITHOUT_RSEQ: Final = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}


def try_criu(command: Sequence[str], *, root: str, rseq: bool) -> CriuTrial:
    """
    Dump and restore a container whose root is on a storage driver, `overlay` or `vfs`.

    Without `rseq` glibc is told to register no restartable sequences. Nothing is left, unless this
    process is killed: then the program ends by itself.
    """
    try:
        return in_scratch(lambda: _trial(command, root=root, rseq=rseq))
    except MountcrError as error:
        return CriuTrial(root=root, rseq=rseq, failed=error.message)
    except OSError as error:
        failed = f"{error.filename or 'a container for a trial'}: {error.strerror}"
        return CriuTrial(root=root, rseq=rseq, failed=failed)


def _trial(command: Sequence[str], *, root: str, rseq: bool) -> CriuTrial:
    lower, upper, at, images = (KPath(f"{SCRATCH}/{each}") for each in ("l", "u", "at", "images"))
    driver = get_driver(root)
    stack = driver.stack((lower,), upper, origin=Stack(driver="vfs"), together=True)
    for each in (lower, upper, at, images, *((stack.work,) if stack.work else ())):
        os.makedirs(decode(each))
    words = _install(decode(upper if driver.flat else lower))
    recipe = Recipe(root=at, command=words, environment={} if rseq else _WITHOUT_RSEQ)
    with applied(driver.assemble(stack, at), LiveKernel()), contextlib.ExitStack() as running:
        with held_back():
            pid = launch(recipe)
            running.callback(stop, pid)
        dumped = _dump(command, pid, images)
        restored = _restore(command, at, images) if dumped.works else None
        return CriuTrial(root=root, rseq=rseq, dump=dumped, restore=restored)


def _await_sleep(pid: int) -> None:
    """Wait until the program has loaded and sleeps: before it may not have registered all."""
    until = time.monotonic() + _LOADING
    while procstat.read_stat(pid).state != "S" and time.monotonic() < until:
        time.sleep(0.001)


def _dump(command: Sequence[str], pid: int, images: KPath) -> Attempt:
    """Dump the container, which ends by that if it is done."""
    _await_sleep(pid)
    return _attempt([*command, "dump", "-v1", "--tree", str(pid), "--images-dir", images])


def _restore(command: Sequence[str], root: KPath, images: KPath) -> Attempt:
    """Restore the container and see that it lives; it has ended afterwards."""
    noted = f"{images}/pid"
    words = [*command, "restore", "-v1", "--restore-detached", "--images-dir", images]
    try:
        attempt = _attempt([*words, "--root", root, "--pidfile", noted])
        if attempt.works and not _lives(_noted(noted)):
            return Attempt(works=False, said="what CRIU restored ended at once")
        return attempt
    finally:
        if pid := _noted(noted):
            stop(pid)


def _noted(path: str) -> int:
    """Read the pid that CRIU noted; 0 if it did not come to that."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return int(file.read())
    return 0


def _lives(pid: int) -> bool:
    try:
        return not procstat.read_stat(pid).ended
    except ProcessLookupError:
        return False


def _attempt(words: Sequence[str]) -> Attempt:
    """Run CRIU to its end: one that is interrupted leaves tasks that are neither here nor there."""
    with held_back():
        status, out = binary.ask(words)
    if status == 0:
        return Attempt(works=True)
    said = log.first_error(out)[0] or (out.strip().splitlines() or [""])[0]
    return Attempt(works=False, said=said or f"CRIU ended with status {status}")


def _install(root: bytes) -> list[str]:
    """Copy the program and its libraries into a root; give the command line that starts it."""
    found = which("sleep")
    if found is None:
        raise MountcrError("there is no program called sleep for a trial")
    program = os.path.realpath(found)
    traced = subprocess.run(
        [found, "0"],
        env={"LD_TRACE_LOADED_OBJECTS": "1", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    ).stdout
    libraries = [_in_real_directory(os.fsdecode(each)) for each in _LIBRARY.findall(traced)]
    for each in (program, *libraries):
        copy = os.path.join(root, os.fsencode(each[1:]))
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copy(os.fsencode(each), copy)
    own = [] if os.path.basename(program) == "sleep" else ["sleep"]  # busybox and its like
    loader = [each for each in libraries if _LOADER.search(each)]
    if not loader:
        return [program, *own, _SECONDS]
    path = ":".join(dict.fromkeys(os.path.dirname(each) for each in libraries))
    # the path that the program has for its loader may go through links, which are not there
    return [loader[0], "--library-path", path, program, *own, _SECONDS]


def _in_real_directory(path: str) -> str:
    """Resolve links on the way to a library, which is asked for by its own name."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)
