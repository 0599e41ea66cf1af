# SPDX-License-Identifier: Apache-2.0
"""
Files of every kind, held by a process on a root of each driver, and what the kernel shows of them.

Which quirks are seen depends on the kernel; that each file is found to be what it is, must not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import shutil
import signal
import traceback
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from captures.judge import is_path
from e2e.roots import mount_root
from mountcr.kernel import mounts, syscalls
from mountcr.model import Container, FileKind
from mountcr.observation import observe
from mountcr.paths import ROOT
from mountcr.resolution.files import resolve
from mountcr.resolution.state import FileState
from vm.cells import Cell, quirk_cells
from vm.trips import DRIVERS, VARIANTS, mount_variant, open_place

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from e2e.conftest import Place
    from mountcr.resolution.files import ResolvedFile

__all__ = ["held_files"]

_LOWER: Final = ("plain", "copied", "stale", "removed", "renamed", "m-plain", "m-copied", "m-stale",
                 "m-removed")  # fmt: skip
"""Files that are in a lower layer before the process starts."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_IN_MODIFY: Final = 2

_COMMAND: Final = "mountcr files PID --json"


class Held(NamedTuple):
    """What the process holds: a descriptor, or a mapping by where it begins."""

    kind: str
    number: int
    path: str
    state: str


def held_files(scratch: Path) -> Iterator[Cell]:
    """Give which quirks a process of each driver shows, and whether its files are found."""
    roots: dict[str, Callable[[Place], None]] = {
        driver: partial(mount_root, driver=driver) for driver in DRIVERS
    }
    several = "several file systems"
    roots[f"overlay, {several}"] = partial(mount_variant, variant=VARIANTS[several])
    for name, mount in roots.items():
        top = scratch / "h"
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, top, ignore_errors=True)
            place = stack.enter_context(open_place(top))
            for each in _LOWER:
                place.write(place.layers[-1] / "data" / each, f"{each}\n" * 2000)
            mount(place)
            pid, held = stack.enter_context(_holder(place))
            container = Container(id="held", engine="pid", pid=pid)
            found = resolve(observe(container, thorough=True))
        yield _found(name, held, found)
        yield from quirk_cells(name, found, _COMMAND)


def _found(driver: str, held: Iterable[Held], found: Iterable[ResolvedFile]) -> Cell:
    """Compare what the process says it holds with what is said of it."""
    known = {
        (each.kind, each.fd if each.kind is FileKind.FD else each.start): each for each in found
    }
    wrong: list[str] = []
    for each in held:
        got = known.get((FileKind(each.kind), each.number))
        state, path = _expected(driver, each)
        if got is None or got.state is not state or not is_path(got.path, path):
            said = f"{got.path} {got.state}: {got.how}" if got else "not there"
            wrong.append(f"{each.kind} of {path} {state}, not {said}")
    result = "wrong" if wrong else "right"
    detail = "; ".join(wrong) or f"{len(list(held))} files"
    return Cell(
        group="files", subject=driver, check="found", result=result, detail=detail, command=_COMMAND
    )


def _expected(driver: str, held: Held) -> tuple[FileState, str]:
    """Give what a file is on a driver: a plain directory has one layer, which takes all changes."""
    state = FileState(held.state)
    if driver == "vfs" and state in {FileState.LOWER, FileState.STALE, FileState.MERGED}:
        state = FileState.UPPER
    if driver == "unionfs" and held.path == "/data/other":
        # which numbers inodes by path, so that no other name is known
        return FileState.DELETED, "/data/linked"
    return state, held.path


# --- The process ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _holder(place: Place) -> Generator[tuple[int, list[Held]]]:
    """Start a process on the root of a place that holds files; it ends with the block."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.write(writer, json.dumps(_hold(place.root)).encode())
            os.close(writer)
            signal.pause()
        except BaseException:  # noqa: BLE001 - there is no one above us
            traceback.print_exc()
        finally:
            os._exit(1)
    try:
        os.close(writer)
        with open(reader, "rb") as pipe:
            said = json.loads(pipe.read())
        yield pid, [Held(*each) for each in said]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _hold(root: Path) -> list[Held]:
    maps = os.open("/proc/self/maps", os.O_RDONLY)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.set_propagation(ROOT, "slave", recursive=True)
    os.chdir(root)
    syscalls.pivot_root(b".", b".")
    syscalls.umount2(b".", syscalls.MNT_DETACH)
    os.chdir("/data")
    return [*_descriptors(), *_mappings(maps), _watch()]


def _descriptors() -> Iterator[Held]:
    new = os.O_CREAT | os.O_RDWR
    opened = {
        "plain": (os.O_RDONLY, "/data/plain", FileState.LOWER),
        "copied": (os.O_RDWR, "/data/copied", FileState.UPPER),
        "stale": (os.O_RDONLY, "/data/stale", FileState.STALE),
        "removed": (os.O_RDONLY, "/data/removed", FileState.DELETED),
        "renamed": (os.O_RDWR, "/data/moved", FileState.UPPER),
        "new": (new, "/data/new", FileState.UPPER),
        "gone": (new, "/data/gone", FileState.DELETED),
        "linked": (new, "/data/other", FileState.UPPER),
        ".": (os.O_RDONLY | os.O_DIRECTORY, "/data", FileState.MERGED),
    }
    numbers = {name: os.open(name, flags) for name, (flags, _, _) in opened.items()}
    os.write(numbers["copied"], b"more")
    _append("stale")
    os.unlink("removed")
    os.unlink("gone")
    os.rename("renamed", "moved")
    os.link("linked", "other")
    os.unlink("linked")
    for name, (_, path, state) in opened.items():
        yield Held(FileKind.FD, numbers[name], path, state)


def _watch() -> Held:
    number = _LIBC.inotify_init1(0)
    if _LIBC.inotify_add_watch(number, b"/data/plain", _IN_MODIFY) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch", "/data/plain")
    return Held(FileKind.FD, number, "inotify:/data/plain", FileState.ANON)


_MAPPED: Final[list[mmap.mmap]] = []
"""What must not be collected."""


def _mappings(maps: int) -> Iterator[Held]:
    read, write = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
    private, shared = mmap.MAP_PRIVATE, mmap.MAP_SHARED
    for name, flags, access, state in (
        ("m-plain", private, read, FileState.LOWER),
        ("m-copied", shared, write, FileState.UPPER),
        ("m-stale", private, read, FileState.STALE),
        ("m-removed", private, read, FileState.DELETED),
        ("m-new", shared, write, FileState.UPPER),
        ("m-gone", shared, write, FileState.DELETED),
    ):
        number = os.open(name, (os.O_CREAT | os.O_RDWR) if access == write else os.O_RDONLY)
        if access == write:
            os.ftruncate(number, 8192)
        before = _starts(maps)
        _MAPPED.append(mmap.mmap(number, 8192, flags, access))
        os.close(number)
        if name == "m-stale":
            _append(name)
        if state is FileState.DELETED:
            os.unlink(name)
        for start in _starts(maps) - before:
            yield Held(FileKind.MAP, start, f"/data/{name}", state)


def _append(name: str) -> None:
    # in bytes: the modules of a codec are not in this root
    with open(name, "ab") as file:
        file.write(b"more")


def _starts(maps: int) -> set[int]:
    """Give where the mappings of files of this process begin."""
    os.lseek(maps, 0, os.SEEK_SET)
    text = b""
    while more := os.read(maps, 1 << 16):
        text += more
    return {int(line.split(b"-")[0], 16) for line in text.splitlines() if b"/data/m-" in line}
