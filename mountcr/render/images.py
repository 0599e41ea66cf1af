# SPDX-License-Identifier: Apache-2.0
"""Images of CRIU as an outline: mounts in their trees, files with who holds them, tasks."""

from __future__ import annotations

import os
from itertools import groupby
from typing import TYPE_CHECKING

from mountcr.model import FileKind
from mountcr.render.outline import Outline
from mountcr.render.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.criu.holders import Holder
    from mountcr.operations.images import ImagesResult, ShownFile, ShownMount, ShownTask

__all__ = ["outline_changes", "outline_images"]


def outline_images(result: ImagesResult) -> Outline:
    """Give what is in a set of images, in lines."""
    counts = (
        count(len(result.tasks), "task"),
        count(len(result.mounts), "mount"),
        count(len(result.files), "file"),
    )
    top = Outline(printable(f"{result.images}: {', '.join(counts)}"))
    top.add(", ".join(_facts(result)))
    for namespace, mounts in groupby(result.mounts, lambda each: each.namespace):
        _mounts(top.add(f"mount namespace {namespace}"), list(mounts))
    if result.files:
        top.add("files").extend(map(_file, result.files))
    top.add("tasks").extend(map(_task, result.tasks))
    if result.tmpfs:
        places = {mount.dev: mount.mountpoint for mount in reversed(result.mounts)}
        top.add("contents of tmpfs").extend(
            printable(f"{places.get(each.dev, each.dev)}: {each.file}, {each.bytes} bytes")
            for each in result.tmpfs
        )
    return top


def outline_changes(result: ImagesResult, *, dry_run: bool) -> Outline:
    """Give what was changed in a set of images, or would be, in lines."""
    changed = sum(each.entries for each in result.changes)
    would = "would be " if dry_run else ""
    top = Outline(
        printable(f"{result.images}: {count(changed, 'entry', 'entries')} {would}changed")
    )
    for each in result.changes:
        where = f" in {', '.join(each.files)}" if each.files else ""
        top.add(printable(f"{each.what}: {count(each.entries, 'entry', 'entries')}{where}"))
    return top


def _facts(result: ImagesResult) -> Iterator[str]:
    yield f"image version {result.version}"
    yield f"root task {result.root_pid}"
    if result.frozen is not None:
        yield f"frozen for {result.frozen:.3f} s"
    if result.uptime is not None:
        yield f"dumped {result.uptime:.0f} s after boot"
    if result.parent is not None:
        yield printable(f"a difference to {result.parent}")


def _mounts(top: Outline, mounts: Sequence[ShownMount]) -> None:
    """Put mounts below their parents; those of a damaged tree, which has no root, to the top."""
    below: dict[int, list[ShownMount]] = {}
    ids = {mount.id for mount in mounts}
    for mount in reversed(mounts):  # CRIU writes the root last
        below.setdefault(mount.parent if mount.parent in ids else 0, []).append(mount)
    left = {id(mount): mount for mount in mounts}
    waiting = [(mount, top) for mount in reversed(below.get(0, []))]
    while waiting or left:
        mount, above = waiting.pop() if waiting else (next(iter(left.values())), top)
        if left.pop(id(mount), None) is None:
            continue
        line = above.add(_mount(mount), "cyan" if mount.external is not None else "")
        waiting += [(each, line) for each in reversed(below.get(mount.id, []))]


def _mount(mount: ShownMount) -> str:
    words = [str(mount.id), mount.mountpoint, mount.fstype or "unknown"]
    if mount.root != "/":
        words.append(f"[{mount.root}]")
    words += ["from", mount.source or "nothing", mount.propagation]
    if mount.deleted:
        words.append("deleted")
    if mount.external is not None:
        words += ["external", mount.external]
    return printable(" ".join(words))


def _file(file: ShownFile) -> str:
    parts = [f"{file.id} {file.path}"]
    if file.external:
        parts.append("external")
    elif file.mountpoint is not None:
        parts.append(f"on {file.mountpoint} ({file.mnt_id})")
    elif file.mnt_id != -1:
        parts.append(f"on mount {file.mnt_id}")
    if file.size is not None:
        parts.append(count(file.size, "byte"))
    if file.mode is not None:
        parts.append(f"mode {file.mode:o}")
    parts.append(f"{_access(file.flags)} at {file.position}")
    if file.remap:
        parts.append(file.remap)
    parts += _held(file.held)
    return printable(", ".join(parts))


def _access(flags: int) -> str:
    words = {os.O_RDONLY: "read", os.O_WRONLY: "write"}.get(flags & os.O_ACCMODE, "read-write")
    return f"{words} append" if flags & os.O_APPEND else words


def _held(held: Sequence[Holder]) -> Iterator[str]:
    for pid, each in groupby(held, lambda one: one.pid):
        how = (f"fd {one.fd}" if one.kind is FileKind.FD else str(one.kind) for one in each)
        yield f"held by {pid} as {' '.join(how)}"


def _task(task: ShownTask) -> str:
    words = f"{task.pid} {task.exe if task.exe is not None else 'ended'}"
    parts = [words, f"parent {task.parent}", f"session {task.session}"]
    if task.cwd is not None:
        parts.append(f"cwd {task.cwd}")
    if task.root is not None:
        parts.append(f"root {task.root}")
    return printable(", ".join(parts))
