# SPDX-License-Identifier: Apache-2.0
"""
A random container's files as plain data: image layers, and changes made through the merged view.

A recipe is a wish. What the file system refuses is skipped, and what the merged view shows in the
end is the container. Paths are bytes, relative to the root. A recipe goes to JSON and back.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

__all__ = [
    "KINDS",
    "Chmod",
    "Chown",
    "Directory",
    "File",
    "Layer",
    "Link",
    "Move",
    "Node",
    "Operation",
    "Punch",
    "Recipe",
    "Remove",
    "RemoveXattr",
    "SetXattr",
    "Symlink",
    "Times",
    "Truncate",
    "Write",
    "from_json",
    "show",
    "to_json",
]


_LONGEST_SHOWN: Final = 48
"""Bytes of a value that are shown."""


class _Operation(msgspec.Struct, frozen=True, tag=True):
    path: bytes


class Directory(_Operation, frozen=True, tag=True):
    """A new directory, as long as nothing is there."""

    mode: int = 0o755


class File(_Operation, frozen=True, tag=True):
    """
    A regular file, new or truncated: `size` bytes with data at some (offset, length) only.

    Between them are holes. `fill` tells one content from another.
    """

    size: int = 0
    data: tuple[tuple[int, int], ...] = ()
    fill: int = 0
    mode: int = 0o644


class Symlink(_Operation, frozen=True, tag=True):
    """A new symbolic link."""

    target: bytes


class Node(_Operation, frozen=True, tag=True):
    """A new fifo, socket, or character or block device with its numbers."""

    kind: str
    mode: int = 0o600
    major: int = 0
    minor: int = 0


class Link(_Operation, frozen=True, tag=True):
    """One more name, `path`, of the file that is at `source`."""

    source: bytes


class Write(_Operation, frozen=True, tag=True):
    """Bytes written into a file that is there; at the end where `offset` is -1."""

    offset: int
    length: int
    fill: int


class Truncate(_Operation, frozen=True, tag=True):
    """Another size for a file that is there."""

    size: int


class Punch(_Operation, frozen=True, tag=True):
    """A hole in a file that is there."""

    offset: int
    length: int


class Chmod(_Operation, frozen=True, tag=True):
    """Other permissions."""

    mode: int


class Chown(_Operation, frozen=True, tag=True):
    """Another owner and group."""

    uid: int
    gid: int


class Times(_Operation, frozen=True, tag=True):
    """Other times, in nanoseconds since 1970."""

    mtime: int
    atime: int = 0


class SetXattr(_Operation, frozen=True, tag=True):
    """An extended attribute; POSIX ACLs and file capabilities are some."""

    name: bytes
    value: bytes


class RemoveXattr(_Operation, frozen=True, tag=True):
    """No such extended attribute any more."""

    name: bytes


class Move(_Operation, frozen=True, tag=True):
    """Another place, `to`, for what is at `path`: renamed, or copied as mv(1) does."""

    to: bytes


class Remove(_Operation, frozen=True, tag=True):
    """Nothing there any more; a directory goes with all that is in it."""


Operation: TypeAlias = (
    Directory
    | File
    | Symlink
    | Node
    | Link
    | Write
    | Truncate
    | Punch
    | Chmod
    | Chown
    | Times
    | SetXattr
    | RemoveXattr
    | Move
    | Remove
)

KINDS: Final[tuple[type[Operation], ...]] = (
    Directory,
    File,
    Symlink,
    Node,
    Link,
    Write,
    Truncate,
    Punch,
    Chmod,
    Chown,
    Times,
    SetXattr,
    RemoveXattr,
    Move,
    Remove,
)
"""Every kind of operation."""


class Layer(msgspec.Struct, frozen=True):
    """
    An image layer: what is done to make it.

    `merged` layers are made through the union of those below, and hold the marks that the driver
    leaves there; the others are plain trees.
    """

    operations: tuple[Operation, ...]
    merged: bool = False


class Recipe(msgspec.Struct, frozen=True):
    """A container: its image, bottom first, and what happened in it."""

    seed: int
    layers: tuple[Layer, ...] = ()
    changes: tuple[Operation, ...] = ()


def to_json(recipe: Recipe) -> bytes:
    """Give a recipe as JSON; bytes are base64 there."""
    return msgspec.json.encode(recipe)


def from_json(document: bytes) -> Recipe:
    """Give the recipe of a JSON document. Raises msgspec.ValidationError for another one."""
    return msgspec.json.decode(document, type=Recipe)


def show(recipe: Recipe) -> str:
    """Give a recipe to be read, an operation a line."""
    lines = [f"seed {recipe.seed}: {len(recipe.layers)} layers"]
    for number, layer in enumerate(recipe.layers):
        lines.append(f"  layer {number}, {'through the union' if layer.merged else 'a tree'}")
        lines += [f"    {_line(each)}" for each in layer.operations]
    lines.append("  changes")
    lines += [f"    {_line(each)}" for each in recipe.changes]
    return "\n".join(lines)


def _line(operation: Operation) -> str:
    given = ((name, getattr(operation, name)) for name in operation.__struct_fields__)
    words = (f"{name}={_value(name, value)}" for name, value in given)
    return f"{type(operation).__name__} {' '.join(words)}"


def _value(name: str, value: object) -> str:
    if name == "mode" and isinstance(value, int):
        return oct(value)
    if isinstance(value, bytes) and len(value) > _LONGEST_SHOWN:
        return f"{value[:_LONGEST_SHOWN]!r}+{len(value) - _LONGEST_SHOWN}"
    return repr(value)
