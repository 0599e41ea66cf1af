# SPDX-License-Identifier: Apache-2.0
"""
Files that this kernel shows otherwise than they are, resolved.

A file that is opened through a detached mount of a layer shows both faults of overlays of Linux
3.18 to 4.1 on every kernel since 5.2: a mount that is in no table, and a path without the
mountpoint of the union.
"""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from mountcr.kernel import mounts, syscalls
from mountcr.model import Container, FileKind
from mountcr.observation import observe
from mountcr.paths import encode
from mountcr.resolution.files import ResolvedFile, resolve
from mountcr.resolution.state import FileState
from scratch import needs, sleeper, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mountcr.model import Facts

HELD: list[object] = []
"""What a process that prepares must not let go of."""


def fill(top: Path) -> None:
    """Two lower layers and an upper, `merged` at `m`."""
    tmpfs(top)
    for layer in ("base", "data", "upper", "work", "m"):
        (top / layer / "d").mkdir(parents=True)
    (top / "work/d").rmdir()
    for name in ("plain", "copied", "changed", "removed", "name (deleted)", "a\nb", "both"):
        (top / "data/d" / name).write_text(f"{name} of data\n" * 300)
    (top / "base/d/both").write_text("below\n")
    (top / "upper/d/own").write_text("own\n")
    (top / "base/only").mkdir()
    overlay(top)


def overlay(top: Path, at: str = "m", *, redirect: bool = False) -> None:
    """Mount the layers."""
    options = f"lowerdir={top}/data:{top}/base,upperdir={top}/upper,workdir={top}/work"
    options += ",redirect_dir=on" if redirect else ""
    syscalls.mount(b"overlay", os.fsencode(top / at), b"overlay", 0, os.fsencode(options))


def detached(directory: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a file beneath a directory by a clone of its mount that is attached nowhere."""
    tree = mounts.clone(encode(bytes(directory)))
    try:
        return os.open(name, flags, dir_fd=tree)
    finally:
        os.close(tree)


def observed(prepare: Callable[[], object]) -> Facts:
    """The facts of a process that prepared something."""
    with sleeper(prepare) as pid:
        return observe(Container(id="sleeper", engine="pid", pid=pid), thorough=True)


def descriptor(facts: Facts, fd: int) -> ResolvedFile:
    """What a descriptor of the process is."""
    (found,) = (each for each in resolve(facts) if each.fd == fd)
    return found


def numbered(prepare: Callable[[], dict[int, int]]) -> Callable[[], None]:
    """Put descriptors at the numbers that they are asked about by."""

    def run() -> None:
        for number, fd in prepare().items():
            os.dup2(fd, number)
            os.close(fd)

    return run


def test_layers_through_detached_mounts(tmp_path: Path) -> None:
    """A file of a lower, an upper and of the merged view is found at its path of the union."""
    needs("open_tree")

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        return {
            50: detached(tmp_path / "data", "d/plain"),
            51: detached(tmp_path / "upper", "d/own", os.O_RDWR),
            52: detached(tmp_path / "m", "d/plain"),
            53: detached(tmp_path / "base", "d/both"),
            54: detached(tmp_path, "data/d/plain"),
            55: detached(tmp_path / "data", "d"),
        }

    facts = observed(numbered(prepare))
    plain, own, merged, below, above, directory = (descriptor(facts, fd) for fd in range(50, 56))
    assert (plain.shown, plain.path, plain.state) == (
        "/d/plain",
        f"{tmp_path}/m/d/plain",
        FileState.LOWER,
    )
    assert set(plain.quirks) == {"private-mount", "rootless-path"}
    assert plain.mountpoint == f"{tmp_path}/m"
    assert (own.path, own.state) == (f"{tmp_path}/m/d/own", FileState.UPPER)
    assert (merged.path, merged.state) == (f"{tmp_path}/m/d/plain", FileState.LOWER)
    assert (below.path, below.state) == (f"{tmp_path}/m/d/both", FileState.STALE)
    assert (above.shown, above.path) == ("/data/d/plain", f"{tmp_path}/m/d/plain")
    assert (directory.path, directory.state) == (f"{tmp_path}/m/d", FileState.MERGED)


def test_names_that_are_gone_on_a_detached_mount(tmp_path: Path) -> None:
    """
    A file that a whiteout hides is deleted although the kernel does not say so.

    One that was unlinked itself is told by another file of the same mount; alone it is not known.
    """
    needs("open_tree")

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        (tmp_path / "upper/d/gone").touch()
        (tmp_path / "upper/d/alone").touch()
        tree = mounts.clone(encode(bytes(tmp_path / "upper")))
        found = {
            50: detached(tmp_path / "data", "d/removed"),
            51: os.open("d/own", os.O_RDONLY, dir_fd=tree),
            52: os.open("d/gone", os.O_RDONLY, dir_fd=tree),
            53: detached(tmp_path / "upper", "d/alone"),
        }
        os.close(tree)
        (tmp_path / "m/d/removed").unlink()
        (tmp_path / "upper/d/gone").unlink()
        (tmp_path / "upper/d/alone").unlink()
        return found

    facts = observed(numbered(prepare))
    removed, own, gone, alone = (descriptor(facts, fd) for fd in range(50, 54))
    assert (removed.path, removed.state) == (f"{tmp_path}/m/d/removed", FileState.DELETED)
    assert "deleted-without-mark" in removed.quirks
    assert own.state is FileState.UPPER
    assert (gone.path, gone.state) == (f"{tmp_path}/m/d/gone", FileState.DELETED)
    assert (alone.path, alone.state) == (None, FileState.UNRESOLVED)
    assert "in no table" in alone.how


def test_what_no_layer_has_is_unresolved(tmp_path: Path) -> None:
    """A file of a detached mount of something else is not mapped onto a file of that path."""
    needs("open_tree")

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        (tmp_path / "other/d").mkdir(parents=True)
        (tmp_path / "other/d/plain").write_text("another one\n")
        return {50: detached(tmp_path / "other", "d/plain")}

    facts = observed(numbered(prepare))
    found = descriptor(facts, 50)
    assert (found.path, found.state) == (None, FileState.UNRESOLVED)
    (file,) = (each for each in facts.tasks[0].files if each.fd == 50)
    assert file.not_on_host


def test_copies_and_names(tmp_path: Path) -> None:
    """Copied, renamed, unlinked and hard-linked files, and names that only look unlinked."""

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        inside = tmp_path / "m/d"
        found = {
            50: os.open(inside / "plain", os.O_RDONLY),
            51: os.open(inside / "copied", os.O_RDONLY),
            52: os.open(inside / "changed", os.O_RDWR),
            53: os.open(inside / "removed", os.O_RDONLY),
            54: os.open(inside / "name (deleted)", os.O_RDONLY),
            55: os.open(inside / "a\nb", os.O_RDONLY),
            56: os.open(inside / "linked", os.O_CREAT | os.O_RDWR),
            57: os.open(inside, os.O_RDONLY | os.O_DIRECTORY),
            58: os.open(tmp_path / "m/only", os.O_RDONLY | os.O_DIRECTORY),
            59: os.open(inside / "both", os.O_RDONLY),
            60: os.open(inside / "copied", os.O_PATH),
        }
        with (inside / "copied").open("a") as file:
            file.write("more")
        (inside / "removed").unlink()
        os.link(inside / "linked", inside / "other")
        (inside / "linked").unlink()
        (inside / "changed").rename(inside / "renamed")
        return found

    facts = observed(numbered(prepare))
    found = {fd: descriptor(facts, fd) for fd in range(50, 61)}
    inside = f"{tmp_path}/m/d"
    assert {fd: (each.path, each.state.value) for fd, each in found.items()} == {
        50: (f"{inside}/plain", "lower"),
        51: (f"{inside}/copied", "stale"),
        52: (f"{inside}/renamed", "upper"),
        53: (f"{inside}/removed", "deleted"),
        54: (rf"{inside}/name\040(deleted)", "lower"),
        55: (rf"{inside}/a\012b", "lower"),
        56: (f"{inside}/other", "upper"),
        57: (inside, "merged"),
        58: (f"{tmp_path}/m/only", "lower"),
        59: (f"{inside}/both", "lower"),
        60: (f"{inside}/copied", "upper"),
    }
    assert found[54].quirks == ("name-like-deleted",)
    assert found[56].quirks == ("name-removed",)
    assert found[50].quirks == ()


def test_names_of_files_of_several_tasks(tmp_path: Path) -> None:
    """Each task's file whose name is gone is found by its other one, on one mount as well."""
    children: list[int] = []

    def hold(name: str) -> dict[int, int]:
        inside = tmp_path / "m/d"
        found = {50: os.open(inside / name, os.O_CREAT | os.O_RDWR)}
        os.link(inside / name, inside / f"other {name}")
        (inside / name).unlink()
        return found

    def prepare() -> None:
        fill(tmp_path)
        reader, writer = os.pipe()
        children.append(os.fork())
        if not children[0]:
            numbered(lambda: hold("second"))()
            os.write(writer, b"x")
            signal.pause()
        assert os.read(reader, 1) == b"x"
        numbered(lambda: hold("first"))()

    facts = observed(prepare)
    for task in facts.tasks[1:]:
        os.kill(task.pid, signal.SIGKILL)
    found = sorted(str(each.path) for each in resolve(facts) if each.fd == 50)
    inside = f"{tmp_path}/m/d"
    assert found == [rf"{inside}/other\040first", rf"{inside}/other\040second"]


def test_mappings(tmp_path: Path) -> None:
    """A mapping below a copy is stale, one that writes is on the copy."""

    def prepare() -> None:
        fill(tmp_path)
        inside = tmp_path / "m/d"
        for name, flags, access in (
            ("plain", os.O_RDONLY, mmap.PROT_READ),
            ("copied", os.O_RDONLY, mmap.PROT_READ),
            ("changed", os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE),
        ):
            fd = os.open(inside / name, flags)
            HELD.append(mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, access))
            os.close(fd)
        with (inside / "copied").open("a") as file:
            file.write("more")

    found = {
        each.path: each.state.value
        for each in resolve(observed(prepare))
        if each.kind is FileKind.MAP and str(tmp_path) in each.shown
    }
    inside = f"{tmp_path}/m/d"
    assert found == {
        f"{inside}/plain": "lower",
        f"{inside}/copied": "stale",
        f"{inside}/changed": "upper",
    }


def test_a_directory_that_was_moved(tmp_path: Path) -> None:
    """What lies in a directory that overlay redirects is found in the layer under its old name."""

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        syscalls.umount2(os.fsencode(tmp_path / "m"), 0)
        overlay(tmp_path, redirect=True)
        (tmp_path / "m/d").rename(tmp_path / "m/moved")
        return {50: os.open(tmp_path / "m/moved/plain", os.O_RDONLY)}

    found = descriptor(observed(numbered(prepare)), 50)
    assert (found.path, found.state) == (f"{tmp_path}/m/moved/plain", FileState.LOWER)
    assert f"{tmp_path}/data" in found.evidence[-1]


def test_opaque_directories_do_not_merge(tmp_path: Path) -> None:
    """A directory of the upper that hides those below is in the upper."""

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        shutil.rmtree(tmp_path / "m/d")
        (tmp_path / "m/d").mkdir()
        return {50: os.open(tmp_path / "m/d", os.O_RDONLY | os.O_DIRECTORY)}

    found = descriptor(observed(numbered(prepare)), 50)
    assert (found.path, found.state) == (f"{tmp_path}/m/d", FileState.UPPER)


def test_a_part_of_a_union_bound_elsewhere(tmp_path: Path) -> None:
    """A bind of a directory of the union is of the union, and has paths of its own."""

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        (tmp_path / "bound").mkdir()
        mounts.bind(encode(bytes(tmp_path / "m/d")), encode(bytes(tmp_path / "bound")))
        return {50: os.open(tmp_path / "bound/plain", os.O_RDONLY)}

    found = descriptor(observed(numbered(prepare)), 50)
    assert (found.path, found.state) == (f"{tmp_path}/bound/plain", FileState.LOWER)


def test_a_union_in_a_union(tmp_path: Path) -> None:
    """A nested overlay of directories of the outer one: each file is told of its own union."""
    needs("open_tree")

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        inner = tmp_path / "m/inner"
        for name in ("low", "up", "work", "at"):
            (inner / name).mkdir(parents=True)
        (inner / "low/f").write_text("nested\n")
        options = f"lowerdir={inner}/low,upperdir={tmp_path}/up2,workdir={tmp_path}/work2"
        (tmp_path / "up2").mkdir()
        (tmp_path / "work2").mkdir()
        syscalls.mount(b"overlay", os.fsencode(inner / "at"), b"overlay", 0, os.fsencode(options))
        return {
            50: os.open(inner / "at/f", os.O_RDONLY),
            51: detached(inner / "low", "f"),
            52: os.open(inner / "low/f", os.O_RDONLY),
        }

    facts = observed(numbered(prepare))
    inner = f"{tmp_path}/m/inner"
    nested, private, outer = (descriptor(facts, fd) for fd in range(50, 53))
    assert (nested.path, nested.state) == (f"{inner}/at/f", FileState.LOWER)
    assert (outer.path, outer.state) == (f"{inner}/low/f", FileState.UPPER)
    assert (private.path, private.state) == (f"{inner}/at/f", FileState.LOWER)


def test_sockets_and_watches(tmp_path: Path) -> None:
    """A bound socket is named by its path; a file elsewhere is external or pseudo."""

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(tmp_path / "m/sock et"))
        unbound = socket.socket(socket.AF_UNIX)
        return {
            50: bound.detach(),
            51: unbound.detach(),
            52: os.open("/proc/self/status", os.O_RDONLY),
            53: os.open("/dev/null", os.O_RDONLY),
        }

    facts = observed(numbered(prepare))
    bound, unbound, status, null = (descriptor(facts, fd) for fd in range(50, 54))
    assert (bound.path, bound.state) == (rf"{tmp_path}/m/sock\040et", FileState.ANON)
    assert unbound.path == unbound.shown
    assert (status.path, status.state) == ("/proc/self/status", FileState.PSEUDO)
    assert (null.path, null.state) == ("/dev/null", FileState.PSEUDO)


def test_less_is_looked_at_for_a_plan(tmp_path: Path) -> None:
    """Unless everything is asked for, layers are read for misreported files only."""

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        return {50: os.open(tmp_path / "m/d/plain", os.O_RDONLY)}

    with sleeper(numbered(prepare)) as pid:
        facts = observe(Container(id="sleeper", engine="pid", pid=pid))
    assert f"{tmp_path}/m/d/plain" not in {each.path for each in facts.paths}
    found = descriptor(facts, 50)
    assert (found.path, found.state) == (f"{tmp_path}/m/d/plain", FileState.UNRESOLVED)


@pytest.mark.parametrize("kind", [FileKind.CWD, FileKind.EXE])
def test_other_links(tmp_path: Path, kind: FileKind) -> None:
    """Working directory and executable are resolved as descriptors are."""

    def prepare() -> None:
        fill(tmp_path)
        os.chdir(tmp_path / "m/d")

    (found,) = (each for each in resolve(observed(prepare)) if each.kind is kind)
    if kind is FileKind.CWD:
        assert (found.path, found.state) == (f"{tmp_path}/m/d", FileState.MERGED)
    else:
        assert found.path == found.shown


def test_a_file_of_the_host_that_is_in_the_container_too(tmp_path: Path) -> None:
    """What another mount shows at the path of a union says nothing of the union."""
    null = os.open("/dev/null", os.O_RDONLY)

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        return {50: null}

    facts = observed(numbered(prepare))
    os.close(null)
    found = descriptor(facts, 50)
    assert (found.path, found.state) == (None, FileState.EXTERNAL)
    assert "of the host" in found.how


def test_a_file_below_a_mount(tmp_path: Path) -> None:
    """What another mount lies over has its path, and nobody says what of the union it is."""

    def prepare() -> dict[int, int]:
        fill(tmp_path)
        found = {50: os.open(tmp_path / "m/d/plain", os.O_RDONLY)}
        tmpfs(tmp_path / "m/d")
        return found

    found = descriptor(observed(numbered(prepare)), 50)
    assert (found.path, found.state) == (f"{tmp_path}/m/d/plain", FileState.UNRESOLVED)
    assert "lies over it" in found.evidence[-1]
