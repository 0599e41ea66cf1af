# SPDX-License-Identifier: Apache-2.0
"""
The judge: a container is rebuilt on every driver, and its new merged view compared with the old.

What cannot be held must be refused by name, and only for a reason that is listed here and that the
container really gives. Nothing may stay mounted or running, and the source must stay as it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from fidelity import ground, product, unions
from fidelity.ground import Difference, Entry, Snapshot
from mountcr import mountinfo
from mountcr.kernel import syscalls
from mountcr.kernel.private import in_private_namespace
from mountcr.paths import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fidelity.recipe import Recipe
    from fidelity.unions import Source
    from mountcr.rootfs.view import View
    from mountcr.stack import Stack

__all__ = ["ALLOWED", "TARGETS", "Allowed", "Outcome", "Verdict", "judge"]

_PATIENCE: Final = 10.0
"""Seconds for a daemon to end after its mount is gone."""

_VARYING: Final = re.compile(r"/\S+|\d+|'[^']*'")
"""What differs in messages that say the same."""

TARGETS: Final = ("overlay", "vfs", "unionfs", "aufs")
"""What a container is rebuilt on."""


class Allowed(NamedTuple):
    """
    A refusal that is right: to or from a driver, in words like these, where there is cause for it.

    `cause` tells whether a name that some layer of the source has is one that cannot be held.
    """

    driver: str
    words: str
    cause: Callable[[bytes], bool]
    reason: str


def _begins_with(*words: bytes) -> Callable[[bytes], bool]:
    return lambda name: name.startswith(words)


def _ends_with(word: bytes) -> Callable[[bytes], bool]:
    return lambda name: name.endswith(word)


def _longer_than(most: int) -> Callable[[bytes], bool]:
    return lambda name: len(name) > most


ALLOWED: Final = (
    Allowed(
        "aufs",
        r"\.wh\.",
        _begins_with(b".wh."),
        "AUFS takes every name that begins with .wh. for a mark (AUFS_WH_PFX)",
    ),
    Allowed(
        "aufs",
        r"(?i)long|bytes",
        _longer_than(242),
        "AUFS has no names above 242 bytes (AUFS_MAX_NAMELEN)",
    ),
    Allowed(
        "unionfs",
        r"_HIDDEN~",
        _ends_with(b"_HIDDEN~"),
        "what ends with _HIDDEN~ may be a mark of unionfs-fuse (HIDETAG)",
    ),
    Allowed(
        "unionfs",
        r"\.unionfs",
        _begins_with(b".unionfs"),
        "unionfs-fuse keeps its marks in a directory of that name (METANAME)",
    ),
    Allowed(
        "unionfs",
        r"(?i)long|bytes",
        _longer_than(255 - len("_HIDDEN~")),
        "the name of a whiteout would have more than 255 bytes",
    ),
    Allowed(
        "unionfs",
        r"directory over a symbolic link",
        _begins_with(b""),
        "unionfs-fuse follows a link below a directory, out of the layers if it leads there",
    ),
    Allowed(
        "fuse-overlayfs",
        r"\.wh\.",
        _begins_with(b".wh."),
        "fuse-overlayfs takes names that begin with .wh. for marks",
    ),
)
"""Refusals that are right."""


@dataclass(frozen=True)
class Verdict:
    """
    What became of a container on one target.

    `allowed` is the reason why the refusal is right. `trouble` is an error, or what was left
    behind. `unfinished` is a driver that the product does not have.
    """

    source: str
    target: str
    seconds: float
    differences: tuple[Difference, ...] = ()
    refused: str = ""
    allowed: str = ""
    trouble: str = ""
    unfinished: str = ""

    @property
    def right(self) -> bool:
        """Whether nothing differs and nothing went wrong."""
        refusal_is_wrong = self.refused and not self.allowed
        return not (self.differences or self.trouble or self.unfinished or refusal_is_wrong)

    @property
    def paths(self) -> int:
        """The number of paths that differ."""
        return len({each.path for each in self.differences})

    @property
    def kind(self) -> str:
        """What is wrong, for the comparison with other failures; empty where nothing is."""
        if self.right:
            return ""
        pair = f"{self.source} to {self.target}"
        if self.differences:
            return f"{pair}: {self.differences[0].field}"
        said = (self.trouble or self.unfinished or self.refused).partition("\n")[0]
        return f"{pair}: {_VARYING.sub('…', said)}"


@dataclass(frozen=True)
class Outcome:
    """A container on one source, with a verdict for each target."""

    recipe: Recipe
    verdicts: tuple[Verdict, ...] = ()
    entries: int = 0
    fates: tuple[str, ...] = field(default=())

    @property
    def right(self) -> bool:
        """Whether every verdict is right."""
        return all(each.right for each in self.verdicts)


def judge(recipe: Recipe, source: str, targets: Sequence[str] = TARGETS) -> Outcome:
    """
    Rebuild a container of one source on every target, in a mount namespace of its own.

    An exception of the harness is a failure of its own.
    """
    base = os.fsencode(tempfile.mkdtemp(prefix="mountcr-fidelity-"))
    try:
        return in_private_namespace(lambda: _judge(recipe, source, targets, base))
    finally:
        os.rmdir(base)


def _judge(recipe: Recipe, source: str, targets: Sequence[str], base: bytes) -> Outcome:
    syscalls.prctl_set_child_subreaper(enable=True)
    syscalls.mount(b"tmpfs", base, b"tmpfs", 0, b"mode=755")
    product.isolate(base)
    started = time.monotonic()
    container = base + b"/source"
    os.mkdir(container)
    try:
        made = unions.build(recipe, unions.variant(source, recipe.seed), container)
    except Exception as error:  # noqa: BLE001  # the others go on
        trouble = f"the source cannot be made: {_trouble(error)}"
        seconds = time.monotonic() - started
        return Outcome(recipe, (Verdict(source, "none", seconds, trouble=trouble),))
    stored = ground.take(container)
    verdicts = [_verdict(made, source, target, base) for target in targets]
    changed = ground.compare(stored, ground.take(container))
    if changed:
        verdicts.append(Verdict(source, "itself", 0.0, differences=tuple(changed)))
    return Outcome(recipe, tuple(verdicts), len(made.truth), made.fates)


def _verdict(made: Source, source: str, target: str, base: bytes) -> Verdict:
    started = time.monotonic()
    before = _mounts(base)
    differences: list[Difference] = []
    refused = trouble = unfinished = ""
    try:
        differences = _rebuilt(made, target, base)
    except product.Refused as refusal:
        refused = str(refusal)
    except product.Unfinished as error:
        unfinished = str(error)
    except Exception as error:  # noqa: BLE001  # the others go on
        trouble = _trouble(error)
    left = [*_left_running(), *sorted(_mounts(base) - before)]
    if left:
        trouble += f"left behind: {', '.join(left)}"
    return Verdict(
        source,
        target,
        time.monotonic() - started,
        differences=tuple(differences),
        refused=refused,
        allowed=_reason(target, refused, made) if refused else "",
        trouble=trouble,
        unfinished=unfinished,
    )


def _trouble(error: Exception) -> str:
    """Give what an error says, then where it came from."""
    where = "".join(traceback.format_exception(error, limit=-4, chain=False))
    return f"{type(error).__name__}: {error}\n{where}"


def _rebuilt(made: Source, target: str, base: bytes) -> list[Difference]:
    place = base + b"/" + target.encode()
    at = place + b"/merged"
    os.makedirs(at)
    with product.rebuild(made.stack, target, encode(at), encode(place + b"/upper")) as stack:
        found = _aufs(stack) if target == "aufs" else ground.take(at)
        if target == "unionfs":
            branches = [decode(each) for each in stack.directories]
            found = ground.with_stored_xattrs(found, branches)
    return ground.compare(made.truth, found)


_TYPES: Final = {
    "DIRECTORY": "directory",
    "FILE": "file",
    "SYMLINK": "symlink",
    "FIFO": "fifo",
    "SOCKET": "socket",
    "CHARACTER": "character",
    "BLOCK": "block",
}


def _aufs(stack: Stack) -> Snapshot:
    """Give what AUFS would show; the one place where the product's own reader is believed."""
    from mountcr.rootfs.opened import opened
    from mountcr.stack import StoredLayer

    layers = [StoredLayer(path=each, dialect="aufs") for each in stack.directories]
    with opened(layers) as view:
        found = dict(_viewed(view, b""))
    names: dict[tuple[int, int], set[bytes]] = {}
    for path, (entry, inode) in found.items():
        if entry.type != "directory":
            names.setdefault(inode, set()).add(path)
    return {
        path: entry._replace(links=frozenset(names[inode]))
        if len(names.get(inode, ())) > 1
        else entry
        for path, (entry, inode) in found.items()
    }


def _viewed(view: View, path: bytes) -> Iterator[tuple[bytes, tuple[Entry, tuple[int, int]]]]:
    from mountcr.model import InodeType
    from mountcr.rootfs.tree import join

    inode = view.inode(path)
    if inode is None:
        return
    target = decode(inode.target) if inode.target is not None else b""
    entry = Entry(
        type=_TYPES[inode.type.name],
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        mtime=inode.mtime,
        size=len(target) if inode.type is InodeType.SYMLINK else inode.size,
        rdev=(int(inode.rdev.partition(":")[0]), int(inode.rdev.partition(":")[2])),
        target=target,
        xattrs=tuple(sorted((decode(name), value) for name, value in inode.xattrs.items())),
    )
    if inode.is_file:
        content = view.content(path)
        try:
            stored = os.fstat(content.fd)
            entry = entry._replace(digest=ground.digest_of(content.fd), blocks=stored.st_blocks)
        finally:
            os.close(content.fd)
    yield path, (entry, inode.identity)
    if inode.is_directory:
        for name in view.entries(path):
            yield from _viewed(view, join(path, name))


def _reason(target: str, refused: str, made: Source) -> str:
    """Say why a refusal is right; empty where it is not."""
    for each in ALLOWED:
        named = each.driver in {target, made.driver} and re.search(each.words, refused)
        if named and any(map(each.cause, made.names)):
            return each.reason
    return ""


def _mounts(base: bytes) -> set[str]:
    """Give the mounts that are ours: what the host mounts meanwhile arrives here too."""
    places = tuple(encode(each) for each in (base, *product.STATE))
    return {each.mountpoint for each in mountinfo.read() if each.mountpoint.startswith(places)}


def _left_running() -> list[str]:
    """End the processes that were left to us, unless they end by themselves, and name them."""
    limit = time.monotonic() + _PATIENCE
    while (children := _children()) and time.monotonic() < limit:
        time.sleep(0.002)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [f"process {name}" for name in children.values()]


def _children() -> dict[int, str]:
    """Give our children and their names; those that have ended are taken away."""
    found: dict[int, str] = {}
    with open("/proc/thread-self/children", encoding="ascii") as file:
        children = [int(word) for word in file.read().split()]
    for pid in children:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    found[pid] = file.read().strip()
    return found
