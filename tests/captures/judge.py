# SPDX-License-Identifier: Apache-2.0
"""What the manifest of a capture says of each file, and whether the resolver says the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.model import FileKind
from mountcr.observation.capture import read_capture
from mountcr.resolution.files import resolve
from mountcr.resolution.state import FileState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mountcr.resolution.files import ResolvedFile

__all__ = ["Held", "holds", "is_path", "wrong_inside", "wrong_outside"]

STATES: Final = {
    "lower": FileState.LOWER,
    "lower1": FileState.LOWER,
    "lower-opath": FileState.LOWER,
    "dir-lower": FileState.LOWER,
    "lower-stale": FileState.STALE,
    "upper-copied-up": FileState.UPPER,
    "upper-new": FileState.UPPER,
    "upper-renamed": FileState.UPPER,
    "upper-fifo": FileState.UPPER,
    "deleted-but-linked": FileState.UPPER,
    "deleted-upper": FileState.DELETED,
    "deleted-lower": FileState.DELETED,
    "dir": FileState.MERGED,
    "root": FileState.MERGED,
    "external-bind": FileState.EXTERNAL,
    "tmpfs": FileState.PSEUDO,
    "proc": FileState.PSEUDO,
    "dev": FileState.PSEUDO,
    "anon": FileState.ANON,
    "socket": FileState.ANON,
}
"""The coarser word for each of a manifest's."""

_OF_LAYERS: Final = frozenset({FileState.LOWER, FileState.STALE, FileState.MERGED})


class Held(NamedTuple):
    """What a process holds, by its manifest."""

    kind: FileKind
    number: int
    label: str
    path: str
    state: FileState


def holds(capture: Path) -> Iterator[Held]:
    """Give what the manifest says; a plain directory has no layers, and takes all changes."""
    manifest = json.loads((capture / "manifest.json").read_bytes())
    flat = manifest["driver"] == "vfs"
    for each in manifest["holds"]:
        if each["kind"] not in set(FileKind):
            continue
        state = STATES[each["state"]]
        yield Held(
            kind=FileKind(each["kind"]),
            number=each["n"] if each["kind"] == "fd" else int(each["n"], 16),
            label=each["label"],
            path=each["path"],
            state=FileState.UPPER if flat and state in _OF_LAYERS else state,
        )


def wrong_inside(capture: Path) -> Iterator[str]:
    """Say which files of the process in the container were not resolved to what they are."""
    found = {(each.kind, _number(each)): each for each in resolve(read_capture(str(capture)))}
    for held in holds(capture):
        got = found.get((held.kind, held.number))
        if got is None:
            yield f"{held.label}: not there"
        elif got.state is not held.state or not is_path(got.path, held.path):
            yield f"{held.label}: {held.path} {held.state}, not {got.path} {got.state}: {got.how}"


def wrong_outside(capture: Path) -> Iterator[str]:
    """Say which files of the process outside of the container were not resolved."""
    if not (capture / "hostproc").is_dir():
        return
    lines = (capture / "hostproc/expected").read_text().splitlines()
    expected = {int(number): path for number, path, _ in (line.split("\t") for line in lines)}
    files = resolve(read_capture(str(capture), outside=True))
    found = {each.fd: each for each in files if each.fd is not None}
    for number, path in expected.items():
        if found[number].path != path:
            yield f"descriptor {number}: {path}, not {found[number].path}: {found[number].how}"
    for each in files:
        mapped = each.kind is FileKind.MAP and each.state is not FileState.UNRESOLVED
        if mapped and each.path not in expected.values():
            yield f"mapping of {each.shown}: {each.path}: {each.how}"


def untold(capture: Path) -> int:
    """Count the watches of which no path can be known."""
    return sum(
        word.startswith("inode ")
        for each in resolve(read_capture(str(capture)))
        if each.state is FileState.ANON and each.path
        for word in each.path.removeprefix("inotify:").split(",")
    )


def _number(file: ResolvedFile) -> int:
    if file.kind is FileKind.FD:
        return file.fd or 0
    return file.start or 0


def is_path(told: str | None, wanted: str) -> bool:
    """Compare paths; of a watch no path need be known, but none may be wrong."""
    if not wanted.startswith("inotify:"):
        return told == wanted
    words = (told or "").removeprefix("inotify:").split(",")
    watched = wanted.removeprefix("inotify:").split(",")
    return len(words) == len(watched) and all(
        word == want or word.startswith("inode ") for word, want in zip(words, watched, strict=True)
    )
