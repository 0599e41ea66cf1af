# SPDX-License-Identifier: Apache-2.0
"""
The generator of random containers: a seed in, a recipe out, the same one every time.

It aims at what containers have, and a little at what they should not have; most of what CRIU
refuses whatever one tells it is rare, so that most containers come back.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from oracle.recipe import (
    DIRECTORIES,
    FILES,
    HELD,
    Attributes,
    BindInside,
    BindOutside,
    Deleted,
    Device,
    Hold,
    Mask,
    Move,
    Nested,
    Open,
    Operation,
    Overlay,
    Propagate,
    Pseudo,
    Recipe,
    Remount,
    Tmpfs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["generate"]

_ATTRIBUTES: Final = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime")

_NAMES: Final = (b"sub", b"x y", b"in:side", b"deep", b"\xe4")


def generate(seed: int) -> Recipe:
    """Give the container of a seed, always the same."""
    return _Generator(seed).recipe()


class _Generator:
    """The choices of one seed; it remembers where it has mounted, to go on from there."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 -- has to be the same every time
        self._mounted: list[bytes] = []
        self._tmpfs: list[bytes] = []
        self._foreign: set[bytes] = set()
        self._files: set[bytes] = set()
        self._nested = 0
        self._deleted = False

    def recipe(self) -> Recipe:
        lowers = self._random.choice((0, 0, 1, 2, 3, 3, 4))
        propagation = self._pick({"private": 16, "shared": 3, "slave": 1})
        operations = self._base()
        for _ in range(self._random.choice((0, 1, 2, 3, 3, 4, 4, 5, 6, 8, 11))):
            operations += self._operation()
        if self._chance(0.9):  # what is opened before may be covered, which is a rule of its own
            operations.sort(key=lambda each: isinstance(each, Open))
        if self._chance(0.04):
            operations.append(Attributes(b"/", ("ro",)))
        apart = random.Random(f"held by {self._seed}")  # noqa: S311 -- as above
        if apart.random() < 0.2:
            weights = (4, 4, 4, 1, 1, 1)  # so that most come back
            operations.append(Hold(*apart.choices(HELD, weights)))
        return Recipe(self._seed, lowers, propagation, tuple(operations))

    # Choices

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _pick(self, weights: dict[str, int]) -> str:
        return self._random.choices(list(weights), list(weights.values()))[0]

    def _directory(self) -> bytes:
        """Give a place for a mount: fresh, below another mount, or that of another mount."""
        kind = self._random.random()
        if self._chance(0.001):
            return b"/opt/new\nline"  # which CRIU does not read back, and mountinfo writes as \012
        if self._mounted and kind < 0.3:
            return self._beside(self._random.choice(self._mounted))
        if self._mounted and kind < 0.4:
            return self._random.choice(self._mounted)
        return self._random.choice(DIRECTORIES)

    def _at(self, *, foreign: bool = False) -> bytes:
        """
        Give a place for a mount and remember it.

        What is `foreign`, and becomes external, seldom shares its place with another mount: CRIU
        knows externals by their place only.
        """
        at = self._directory()
        while self._crowded(at, foreign=foreign):
            at = self._directory()
        self._mounted.append(at)
        if foreign:
            self._foreign.add(at)
        return at

    def _file(self, *, foreign: bool = False) -> bytes:
        """Give a file to mount on, as `_at` gives a directory."""
        at = self._random.choice(FILES)
        while self._crowded(at, foreign=foreign):
            at = self._random.choice(FILES)
        self._files.add(at)
        if foreign:
            self._foreign.add(at)
        return at

    def _crowded(self, at: bytes, *, foreign: bool) -> bool:
        taken = at in self._foreign or (foreign and (at in self._mounted or at in self._files))
        return taken and self._chance(0.99)

    def _beside(self, directory: bytes) -> bytes:
        return directory + b"/" + self._random.choice(_NAMES)

    def _existing(self) -> bytes:
        """Give a directory that is likely to be there, often a mountpoint."""
        if self._mounted and self._chance(0.6):
            return self._random.choice(self._mounted)
        return self._random.choice(DIRECTORIES)

    def _attributes(self) -> tuple[str, ...]:
        if self._chance(0.7):
            return ()
        chosen: list[str] = self._random.sample(_ATTRIBUTES, self._random.choice((1, 1, 2, 3)))
        if self._chance(0.03):
            chosen.append("nosymfollow")
        return tuple(chosen)

    # Operations

    def _base(self) -> list[Operation]:
        """Give what most containers have."""
        found: list[Operation] = []
        if self._chance(0.995):
            found.append(Pseudo("proc", b"/proc", ("nosuid", "nodev", "noexec")))
            if self._chance(0.3):
                found.append(BindInside(b"/proc/sys", b"/proc/sys", attributes=("ro",)))
            if self._chance(0.3):
                found.append(Mask(b"/proc/timer_list", outside=self._chance(0.4)))
        if self._chance(0.5):
            found.append(Tmpfs(b"/dev", 1, ("nosuid",), b"mode=755"))
            self._tmpfs.append(b"/dev")
            for fstype, at in (("devpts", b"/dev/pts"), ("mqueue", b"/dev/mqueue")):
                if self._chance(0.5):
                    found.append(Pseudo(fstype, at, ("nosuid", "noexec")))
            if self._chance(0.4):
                found.append(Tmpfs(b"/dev/shm", 1, ("nosuid", "nodev"), b"size=1m"))
        if self._chance(0.2):
            found.append(Pseudo("sysfs", b"/sys", ("ro",)))
            if self._chance(0.5):
                found.append(Pseudo("cgroup2", b"/sys/fs/cgroup", ("ro",)))
        return found

    def _operation(self) -> list[Operation]:
        kind = self._pick(_WEIGHTS)
        return list(_MAKERS[kind](self))

    def make_tmpfs(self) -> list[Operation]:
        options = self._random.choice((b"", b"", b"size=256k", b"mode=750", b"mode=1777,size=1m"))
        source = self._random.choice((b"tmpfs",) * 12 + (b"none", b"my tmp", b"", b"n#1"))
        at = self._at()
        self._tmpfs.append(at)
        return [Tmpfs(at, self._random.choice((0, 1, 2)), self._attributes(), options, source)]

    def make_pseudo(self) -> list[Operation]:
        fstype = self._random.choice(("proc", "sysfs", "devpts", "mqueue", "cgroup2"))
        attributes = self._attributes()
        if fstype == "proc":  # whose /proc/self is a link that CRIU follows
            attributes = tuple(each for each in attributes if each != "nosymfollow")
        usual = {"proc": b"/proc", "sysfs": b"/sys", "devpts": b"/dev/pts"}
        at = usual[fstype] if fstype in usual and self._chance(0.4) else self._at()
        return [Pseudo(fstype, at, attributes)]

    def make_bind_inside(self) -> list[Operation]:
        if self._chance(0.25):
            return [BindInside(self._random.choice(FILES), self._file(), file=True)]
        source = self._existing()
        if self._chance(0.3):
            source = self._beside(source)
        elif self._chance(0.06):
            source = b"/"
        recursive = self._chance(0.35)
        return [BindInside(source, self._at(), recursive=recursive, attributes=self._attributes())]

    def make_bind_outside(self) -> list[Operation]:
        source = self._pick(
            {
                "directory": 5,
                "file": 4,
                "private": 2,
                "shared": 4,
                "tmpfs": 2,
                "shared-tmpfs": 2,
                "in-tmpfs": 2,
                "tree": 3,
                "ramfs": 1,
                "ext4": 1,
            }
        )
        propagation = self._pick(
            {"private": 8, "slave": 6, "kept": 2, "both": 2, "shared": 1, "unbindable": 1}
        )
        at = self._file(foreign=True) if source == "file" else self._at(foreign=True)
        propagation = self._pivotable(at, propagation)
        recursive = source == "tree" and self._chance(0.7)
        return [BindOutside(source, at, propagation, recursive, self._attributes())]

    def make_device(self) -> list[Operation]:
        name = self._random.choice(("null", "zero", "full", "random", "urandom"))
        at = b"/dev/" + name.encode()
        if at in self._foreign or self._chance(0.3):
            at = self._file(foreign=True)
        self._foreign.add(at)
        return [Device(name, at, self._pick({"private": 3, "slave": 1}))]

    def make_mask(self) -> list[Operation]:
        outside = self._chance(0.4)
        return [Mask(self._file(foreign=outside), outside)]

    def make_deleted(self) -> list[Operation]:
        self._deleted = True
        source = self._beside(self._existing()) + b"-gone"
        if self._chance(0.5):
            return [Deleted(source, self._file(), file=True)]
        return [Deleted(source, self._at())]

    def make_overlay(self) -> list[Operation]:
        layers = self._pick({"root": 20, "tmpfs": 1, "host": 9})
        found: list[Operation] = []
        where = b"/var/lib/layers"
        if layers == "tmpfs":
            if not self._tmpfs or self._chance(0.4):
                found += self.make_tmpfs()
            where = self._random.choice(self._tmpfs)
        # an overlay is no place for the upper of another one (fs/overlayfs/super.c)
        upper = layers == "tmpfs" or self._chance(0.5)
        return [*found, Overlay(self._at(foreign=True), layers, where, upper)]

    def make_move(self) -> list[Operation]:
        if not self._mounted:
            return []
        source = self._random.choice(self._mounted)
        return [Move(source, self._at())]

    def make_attributes(self) -> list[Operation]:
        attributes = ("ro",) if self._chance(0.5) else self._attributes()
        return [Attributes(self._existing(), attributes)] if attributes else []

    def make_remount(self) -> list[Operation]:
        return [Remount(self._random.choice(self._tmpfs))] if self._tmpfs else []

    def make_propagate(self) -> list[Operation]:
        at = b"/" if self._chance(0.15) else self._existing()
        kind = self._pick({"shared": 6, "slave": 4, "private": 2, "unbindable": 2})
        kind = self._pivotable(at, kind)
        return [Propagate(at, kind, recursive=self._chance(0.25))]

    def _pivotable(self, at: bytes, propagation: str) -> str:
        """Seldom make unbindable what CRIU needs to pivot: the root, and what is at its /tmp."""
        needed = propagation == "unbindable" and at in {b"/", b"/tmp"}
        return "private" if needed and self._chance(0.9) else propagation

    def make_open(self) -> list[Operation]:
        return [Open(self._existing(), write=self._chance(0.5))]

    def make_nested(self) -> list[Operation]:
        """Give a nested namespace, at most two, with operations that need nothing of the host."""
        if self._nested >= 2:
            return []
        self._nested += 1
        if self._deleted and self._chance(0.96):
            return []  # what is deleted and mounted twice is a rule of its own
        inside: list[Operation] = []
        for _ in range(self._random.choice((0, 1, 1, 2, 3))):
            kind = self._pick(_NESTED_WEIGHTS)
            inside += _MAKERS[kind](self)
        return [Nested(self._pick({"private": 4, "slave": 4, "kept": 2}), tuple(inside))]


_MAKERS: Final[dict[str, Callable[[_Generator], list[Operation]]]] = {
    "tmpfs": _Generator.make_tmpfs,
    "pseudo": _Generator.make_pseudo,
    "bind inside": _Generator.make_bind_inside,
    "bind outside": _Generator.make_bind_outside,
    "device": _Generator.make_device,
    "mask": _Generator.make_mask,
    "deleted": _Generator.make_deleted,
    "overlay": _Generator.make_overlay,
    "move": _Generator.make_move,
    "attributes": _Generator.make_attributes,
    "remount": _Generator.make_remount,
    "propagate": _Generator.make_propagate,
    "open": _Generator.make_open,
    "nested": _Generator.make_nested,
}

_WEIGHTS: Final = {
    "tmpfs": 16,
    "pseudo": 8,
    "bind inside": 18,
    "bind outside": 22,
    "device": 4,
    "mask": 4,
    "deleted": 3,
    "overlay": 6,
    "move": 5,
    "attributes": 5,
    "remount": 2,
    "propagate": 12,
    "open": 4,
    "nested": 7,
}

_NESTED_WEIGHTS: Final = {
    "tmpfs": 6,
    "pseudo": 2,
    "bind inside": 5,
    "mask": 1,
    "move": 1,
    "attributes": 1,
    "propagate": 3,
}
