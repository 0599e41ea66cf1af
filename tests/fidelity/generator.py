# SPDX-License-Identifier: Apache-2.0
"""
The generator of random containers: a seed in, a recipe out, the same one every time.

It remembers roughly what is there, so that most of what it does happens to something; where it is
wrong, the file system refuses. What few drivers can hold is rare, so that most containers go
everywhere.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Final

from fidelity.recipe import (
    Chmod,
    Chown,
    Directory,
    File,
    Layer,
    Link,
    Move,
    Node,
    Operation,
    Punch,
    Recipe,
    Remove,
    RemoveXattr,
    SetXattr,
    Symlink,
    Times,
    Truncate,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MARKS", "NAMES", "TIMES", "acl", "capability", "generate"]

NAMES: Final = (
    *(b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h") * 4,
    b"new\nline",
    b"back\\slash",
    b"octal\\054",
    b"com,ma",
    b"esc\\,aped",
    b"co:lon",
    b"eq=uals",
    b"n\xff\xfe",
    b" lead",
    b"trail ",
    b"tab\t",
    b"-rf",
    b"...",
    b"#hash",
    b"%s%n",
    b"*?[",
    "\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode(),
    b"quo'te\"",
    b"wh.x",
    b"_HIDDEN",
)
"""Names; the plain ones come often, so that layers meet."""

MARKS: Final = (
    b".wh.x",
    b".wh.a",
    b".wh..wh..opq",
    b".wh.__dir_opaque",
    b"a_HIDDEN~",
    b"x_HIDDEN~",
    b".unionfs",
    b".unionfs-fuse",
)
"""Names that some driver takes for a mark of its own."""

TIMES: Final = (
    0,
    1,
    -1,
    -1_234_567_890_123_456_789,
    -1_000_000_000,
    999_999_999,
    1_000_000_000_000_000_001,
    1_600_000_000_123_456_789,
    2_147_483_648_000_000_007,
    4_294_967_296_999_999_999,
)
"""Nanoseconds since 1970, and before, and after what fits into 32 bits of seconds."""

_PAGE: Final = 4096

_SIZES: Final = (0, 1, 5, 100, 511, 4095, 4096, 4097, 9000, 20_000, 70_000)

_OWNERS: Final = (0, 0, 0, 1, 33, 1000, 65534, 100_000, 4_294_967_294)

_MODES: Final = (0o644, 0o600, 0o755, 0o400, 0o000, 0o666, 0o4755, 0o2755, 0o1644, 0o7777)

_DIRECTORY_MODES: Final = (0o755, 0o700, 0o1777, 0o2775, 0o000, 0o555, 0o7777)

_MOST_LAYERS: Final = 12

_LONGEST: Final = 4


def acl(group: int, *, user: int = 12, bits: int = 7) -> bytes:
    """Give a POSIX ACL as the kernel stores it (include/uapi/linux/posix_acl_xattr.h)."""
    nobody = 0xFFFFFFFF
    entries = (
        (0x01, 6, nobody),
        (0x02, bits, user),
        (0x04, 4, nobody),
        (0x08, 5, group),
        (0x10, 7, nobody),
        (0x20, 4, nobody),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def capability(bits: int) -> bytes:
    """Give file capabilities as stored, VFS_CAP_REVISION_2 (include/uapi/linux/capability.h)."""
    return struct.pack("<IIIII", 0x02000001, bits, 0, 0, 0)


def generate(seed: int, *, layers: int | None = None) -> Recipe:
    """Give the container of a seed, always the same, with that many image layers."""
    return _Generator(seed).recipe(layers)


class _Generator:
    """The choices of one seed, and what should be there by now: path to kind."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311  # has to be the same every time
        self._there: dict[bytes, str] = {}
        self._marks = self._chance(0.02)
        self._long = self._chance(0.06)
        self._escapes = self._chance(0.04)

    def recipe(self, count: int | None) -> Recipe:
        number = count or self._random.choice((1, 1, 2, 3, 3, 4, 5, 6, 8, _MOST_LAYERS))
        many = number > _MOST_LAYERS
        layers = [Layer(tuple(self._tree(self._random.randrange(10, 45))))]
        for each in range(1, number):
            merged = each % 25 == 0 if many else self._chance(0.6)
            size = self._random.randrange(1, 3 if many else 12)
            operations = self._changes(size) if merged else self._tree(size)
            layers.append(Layer(tuple(operations), merged=merged))
        changes = self._changes(self._random.choice((0, 1, 2, 4, 8, 12, 16, 24, 40)))
        return Recipe(self._seed, tuple(layers), tuple(changes))

    # Choices

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _name(self) -> bytes:
        if self._marks and self._chance(0.2):
            return self._random.choice(MARKS)
        if self._long and self._chance(0.1):
            length = self._random.choice((200, 240, 243, 247, 248, 251, 252, 255))
            return bytes([self._random.choice(b"xyz")]) * length
        return self._random.choice(NAMES)

    def _where(self) -> bytes:
        """Give a path for something new, in a directory that is there."""
        directories = [b"", *self._of("directory")]
        directory = self._random.choice(directories)
        if directory.count(b"/") >= _LONGEST:
            directory = b""
        return directory + b"/" + self._name() if directory else self._name()

    def _of(self, *kinds: str) -> list[bytes]:
        return [path for path, kind in self._there.items() if not kinds or kind in kinds]

    def _one(self, *kinds: str) -> bytes | None:
        found = self._of(*kinds)
        return self._random.choice(found) if found else None

    # What is there

    def _forget(self, path: bytes) -> dict[bytes, str]:
        """Take a path with all that is in it away, and give it."""
        gone = {
            each: kind
            for each, kind in self._there.items()
            if each == path or each.startswith(path + b"/")
        }
        for each in gone:
            del self._there[each]
        return gone

    # Trees

    def _tree(self, size: int) -> list[Operation]:
        found: list[Operation] = []
        for _ in range(size):
            path = self._where()
            if path in self._there and self._chance(0.5):
                continue
            kind = self._there.get(path)
            found += self._new(path, keep=kind == "directory" and self._chance(0.6))
        if self._chance(0.5):
            found += self._about(b"")
        return found

    def _new(self, path: bytes, *, keep: bool = False, other_than: str = "") -> list[Operation]:
        """Make something at a path; with `keep` a directory, so that what is in it stays."""
        makers: dict[str, tuple[int, Callable[[bytes], Operation | None]]] = {
            "directory": (8, self._directory),
            "file": (10, self._file),
            "symlink": (3, self._symlink),
            "node": (3, self._node),
            "link": (2, self._link),
        }
        makers.pop(other_than, None)
        weights = [weight for weight, _ in makers.values()]
        kind = "directory" if keep else self._random.choices(list(makers), weights)[0]
        if kind not in makers:
            return []
        made = makers[kind][1](path)
        if made is None:
            return []
        if not keep:
            self._forget(path)
        self._there[path] = "file" if kind == "link" else kind
        return [made, *(self._about(path) if self._chance(0.5) else [])]

    def _directory(self, path: bytes) -> Operation:
        mode = self._random.choice(_DIRECTORY_MODES) if self._chance(0.3) else 0o755
        return Directory(path, mode)

    def _file(self, path: bytes) -> Operation:
        mode = self._random.choice(_MODES) if self._chance(0.3) else 0o644
        fill = self._random.randrange(1 << 16)
        if self._chance(0.2):
            size, data = self._sparse()
            return File(path, size, data, fill, mode)
        size = self._random.choice(_SIZES)
        return File(path, size, ((0, size),) if size else (), fill, mode)

    def _sparse(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Give a size and the places of data: holes lead, lie between, or trail."""
        pages = self._random.randrange(4, 64)
        data: list[tuple[int, int]] = []
        at = self._random.choice((0, 0, 1, 3)) * _PAGE
        for _ in range(self._random.randrange(4)):
            length = self._random.choice((1, 10, _PAGE, 2 * _PAGE, 5000))
            data.append((at + self._random.choice((0, 0, 17)), length))
            at += length + self._random.choice((2, 5, 9)) * _PAGE
        return max(pages * _PAGE + self._random.choice((0, 0, 1)), at), tuple(data)

    def _symlink(self, path: bytes) -> Operation:
        there = self._one() or b"nowhere"
        length = self._random.choice((60, 300, 1000))
        target = self._random.choice(
            (there, b"/" + there, b"../" + there, b"dangling", b"n\xff\n ,:\\", b"t" * length)
        )
        return Symlink(path, target)

    def _node(self, path: bytes) -> Operation:
        kind = self._random.choice(("fifo", "socket", "character", "block"))
        mode = self._random.choice((0o600, 0o644, 0o4711))
        if kind in {"fifo", "socket"}:
            return Node(path, kind, mode)
        major, minor = self._random.choice(((1, 3), (300, 70_000), (4095, 1_048_575), (1, 0)))
        return Node(path, kind, mode, major, minor)

    def _link(self, path: bytes) -> Operation | None:
        source = self._one("file", "file", "symlink", "node")
        return None if source is None or source == path else Link(path, source)

    # What is said about an inode

    def _about(self, path: bytes) -> list[Operation]:
        ways = (self._chmod, self._chown, self._times, self._xattr, self._xattr, self._acl)
        return [self._random.choice(ways)(path) for _ in range(self._random.choice((1, 1, 2, 3)))]

    def _chmod(self, path: bytes) -> Operation:
        is_directory = self._there.get(path, "directory") == "directory"
        return Chmod(path, self._random.choice(_DIRECTORY_MODES if is_directory else _MODES))

    def _chown(self, path: bytes) -> Operation:
        return Chown(path, self._random.choice(_OWNERS), self._random.choice(_OWNERS))

    def _times(self, path: bytes) -> Operation:
        return Times(path, self._random.choice(TIMES), self._random.choice(TIMES))

    def _xattr(self, path: bytes) -> Operation:
        if self._escapes:
            name = self._random.choice(
                (b"trusted.overlay.opaque", b"user.overlay.opaque", b"trusted.overlay.overlay.x")
            )
            return SetXattr(path, name, b"y")
        if self._there.get(path) == "file" and self._chance(0.3):
            return SetXattr(path, b"security.capability", capability(1 << 13))
        if self._there.get(path) in {"symlink", "node"} or self._chance(0.1):
            return SetXattr(path, b"trusted.t", b"\0")
        return SetXattr(path, self._user_name(), self._random.choice((b"", b"v", b"\0\xff" * 40)))

    def _user_name(self) -> bytes:
        return self._random.choice((b"user.a", b"user.b", b"user.n\xff", b"user.sp ace"))

    def _acl(self, path: bytes) -> Operation:
        is_directory = self._there.get(path, "directory") == "directory"
        default = is_directory and self._chance(0.5)
        name = b"system.posix_acl_default" if default else b"system.posix_acl_access"
        return SetXattr(path, name, acl(self._random.choice(_OWNERS)))

    # Changes

    def _changes(self, size: int) -> list[Operation]:
        ways: dict[Callable[[], Sequence[Operation]], int] = {
            self._write: 6,
            self._truncate: 2,
            self._punch: 1,
            self._rewrite: 2,
            self._describe: 6,
            self._undescribe: 1,
            self._move_file: 3,
            self._move_directory: 3,
            self._delete: 4,
            self._recreate: 3,
            self._swap_type: 3,
            self._create: 6,
            self._hard_link: 3,
        }
        found: list[Operation] = []
        for _ in range(size):
            found += self._random.choices(list(ways), list(ways.values()))[0]()
        return found

    def _write(self) -> list[Operation]:
        path = self._one("file")
        offset = self._random.choice((-1, -1, 0, 3, 4095, 4096, 50_000, 200_001))
        length = self._random.choice((1, 10, 4096, 10_000))
        return [Write(path, offset, length, self._random.randrange(1 << 16))] if path else []

    def _truncate(self) -> list[Operation]:
        path = self._one("file")
        return [Truncate(path, self._random.choice((0, 1, 4096, 5000, 300_000)))] if path else []

    def _punch(self) -> list[Operation]:
        path = self._one("file")
        offset = self._random.choice((0, 4096, 5000, 8192))
        return [Punch(path, offset, self._random.choice((100, 4096, 20_000)))] if path else []

    def _rewrite(self) -> list[Operation]:
        path = self._one("file")
        return [self._file(path)] if path else []

    def _describe(self) -> list[Operation]:
        return self._about(self._one() or b"" if self._chance(0.95) else b"")

    def _undescribe(self) -> list[Operation]:
        path = self._one() or b""
        names = (b"user.a", b"user.b", b"security.capability", b"system.posix_acl_access")
        return [RemoveXattr(path, self._random.choice(names))]

    def _move_file(self) -> list[Operation]:
        return self._move(self._one("file", "symlink", "node"))

    def _move_directory(self) -> list[Operation]:
        return self._move(self._one("directory"))

    def _move(self, path: bytes | None) -> list[Operation]:
        to = self._where()
        if path is None or to == path or to.startswith(path + b"/") or path.startswith(to + b"/"):
            return []
        moved = self._forget(path)
        self._forget(to)
        self._there |= {to + each.removeprefix(path): kind for each, kind in moved.items()}
        return [Move(path, to)]

    def _delete(self) -> list[Operation]:
        path = self._one()
        if path is None:
            return []
        self._forget(path)
        return [Remove(path)]

    def _recreate(self) -> list[Operation]:
        """Remove a directory and make it again, with other things in it."""
        path = self._one("directory")
        if path is None:
            return []
        gone = sorted(self._forget(path))
        self._there[path] = "directory"
        found: list[Operation] = [Remove(path), Directory(path)]
        for each in self._random.sample(gone, min(len(gone), self._random.randrange(3))):
            if each != path and each.rpartition(b"/")[0] == path:
                found += self._new(each)
        return found

    def _swap_type(self) -> list[Operation]:
        path = self._one()
        if path is None:
            return []
        kind = self._there[path]
        self._forget(path)
        found: list[Operation] = [Remove(path), *self._new(path, other_than=kind)]
        if self._there.get(path) == "directory":
            found += self._new(path + b"/" + self._name())
        return found

    def _create(self) -> list[Operation]:
        path = self._where()
        return [] if path in self._there else self._new(path)

    def _hard_link(self) -> list[Operation]:
        path = self._where()
        made = None if path in self._there else self._link(path)
        if made is None:
            return []
        self._there[path] = "file"
        return [made]
