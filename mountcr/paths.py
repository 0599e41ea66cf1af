# SPDX-License-Identifier: Apache-2.0
r"""
Paths in mountinfo spelling: text that is valid UTF-8, loses no byte, and is what /proc shows.

The kernel writes space, tab, newline and backslash of a path as a backslash and three octal
digits (`seq_escape()` in fs/seq_file.c; `#` too in the source field), every other byte as it is.
A `KPath` is that text. Bytes that are not UTF-8, and a backslash that begins no octal escape
(which no kernel prints), are spelled `\xHH`, a form the kernel never uses, so that any bytes
survive a round trip and any `KPath` goes into JSON.

Nothing here looks at a file system: paths of other mount namespaces have no meaning in ours.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NewType

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ROOT",
    "KPath",
    "decode",
    "encode",
    "from_line",
    "fsdecode",
    "is_beneath",
    "is_normal",
    "join",
    "name",
    "parent",
    "prefixes",
    "rebase",
    "relative_to",
    "to_line",
]

KPath = NewType("KPath", str)
"""A path, or another field of mountinfo, in mountinfo spelling."""

ROOT: Final = KPath("/")

_KERNEL_ESCAPES: Final = {
    ord(" "): r"\040",
    ord("\t"): r"\011",
    ord("\n"): r"\012",
    ord("\\"): r"\134",
}
_ESCAPE: Final = re.compile(r"\\(?:([0-7]{3})|x([0-9a-f]{2}))")
_SURROGATE: Final = re.compile("[\udc80-\udcff]")
_HEX: Final = re.compile(rb"\\x([0-9a-f]{2})")
_LONE_BACKSLASH: Final = re.compile(rb"\\(?![0-7]{3})")


def _spell(text: str) -> KPath:
    r"""Spell the bytes that are not UTF-8, decoded as surrogates, as `\xHH`."""
    if text.isascii():
        return KPath(text)
    return KPath(_SURROGATE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text))


def _is_plain(text: str) -> bool:
    """Tell text that is spelled as it is, as most is, without looking at every character."""
    return text.isascii() and text.isprintable() and " " not in text and "\\" not in text


def encode(path: bytes | str) -> KPath:
    r"""
    Spell a path of this process the way mountinfo would.

    >>> encode("/srv/my data")
    '/srv/my\\040data'
    """
    if isinstance(path, str) and _is_plain(path):
        return KPath(path)
    raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    return _spell(raw.decode("utf-8", "surrogateescape").translate(_KERNEL_ESCAPES))


def decode(path: KPath) -> bytes:
    r"""
    Give the bytes that system calls take.

    >>> decode(KPath('/srv/my\\040data'))
    b'/srv/my data'
    """
    if "\\" not in path:
        return path.encode()
    out = bytearray()
    position = 0
    for match in _ESCAPE.finditer(path):
        out += path[position : match.start()].encode()
        octal, hexadecimal = match.groups()
        out.append(int(octal, 8) & 0xFF if octal else int(hexadecimal, 16))
        position = match.end()
    return bytes(out + path[position:].encode())


def fsdecode(path: KPath) -> str:
    r"""
    Give the path as the functions of `os` take text, with surrogates for bytes that are no UTF-8.

    >>> fsdecode(KPath('/srv/my\\040data'))
    '/srv/my data'
    """
    return os.fsdecode(decode(path))


def from_line(field: bytes) -> KPath:
    """Take a field of a mountinfo line as it stands there."""
    return _spell(_LONE_BACKSLASH.sub(rb"\\x5c", field).decode("utf-8", "surrogateescape"))


def to_line(path: str) -> bytes:
    """Give back the bytes of the mountinfo line that `from_line` took."""
    raw = path.encode()
    if b"\\x" not in raw:
        return raw
    return _HEX.sub(lambda match: bytes([int(match[1], 16)]), raw)


def join(base: KPath, below: str) -> KPath:
    """
    Put a path beneath another one; a leading slash of `below` is dropped.

    >>> join(KPath("/"), "/etc/hosts"), join(KPath("/a"), "")
    ('/etc/hosts', '/a')
    """
    tail = below.strip("/")
    if not tail:
        return base
    return KPath(f"{base.rstrip('/')}/{tail}")


def prefixes(path: KPath) -> Iterator[KPath]:
    """
    Give the root, then every longer prefix of a path, to the path itself.

    What is no absolute path, as the root of a bound namespace (`net:[4026531840]`), has no other.

    >>> list(prefixes(KPath("/a/b")))
    ['/', '/a', '/a/b']
    """
    if path.startswith("/"):
        yield ROOT
        end = path.find("/", 1)
        while end > 0:
            yield KPath(path[:end])
            end = path.find("/", end + 1)
    if path != ROOT:
        yield path


def is_normal(path: str) -> bool:
    """
    Tell an absolute path in its shortest form: without `.`, `..` and double slashes.

    >>> is_normal("/srv/data"), is_normal("/srv/data/"), is_normal("/srv/../data")
    (True, False, False)
    """
    if path == "/":
        return True
    return path.startswith("/") and {"", ".", ".."}.isdisjoint(path.split("/")[1:])


def is_beneath(path: KPath, ancestor: KPath) -> bool:
    """Tell whether `path` is `ancestor` or lies below it, by whole components."""
    return path == ancestor or path.startswith(ancestor.rstrip("/") + "/")


def relative_to(path: KPath, ancestor: KPath) -> str:
    """
    Give the part of `path` below `ancestor`, without a leading slash, empty if they are equal.

    Raises ValueError when `path` is not beneath it.
    """
    if not is_beneath(path, ancestor):
        msg = f"{path} is not beneath {ancestor}"
        raise ValueError(msg)
    return path[len(ancestor) :].lstrip("/")


def rebase(path: KPath, old: KPath, new: KPath) -> KPath:
    """Replace the ancestor `old` of `path` by `new`."""
    return join(new, relative_to(path, old))


def parent(path: KPath) -> KPath:
    """Give the path without its last component; the root is its own parent."""
    return KPath(path.rstrip("/").rpartition("/")[0] or "/")


def name(path: KPath) -> str:
    """Give the last component; empty for the root."""
    return path.rstrip("/").rpartition("/")[2]
