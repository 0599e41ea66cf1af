# SPDX-License-Identifier: Apache-2.0
r"""
OverlayFS option text: what mountinfo shows to layers, and layers to what mount(2) takes.

Three spellings exist. mount(2) takes and shows `lowerdir=A:B`, with `\:` and `\,` for a colon
and a comma in a name. Linux 6.5 to 6.7 show the same list with the colon as `\072`. Since Linux
6.8 layers given one by one are shown as repeated `lowerdir+=A` and `datadir+=D`, without any
escape of overlay's own (fs/overlayfs/super.c and params.c, `ovl_show_options()`). mountinfo adds
octal escapes on top of each. `::` begins the data-only layers (Linux 6.5).

Beside `lowerdir+` an upper or work that was given by descriptor (Linux 6.13) is shown without
overlay's escapes, one given by name with them, and nothing tells which it was: a backslash there
is an escape only before a backslash, a colon or a comma.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from mountcr.paths import KPath, decode, encode

__all__ = ["OverlayOptions", "format_options", "parse_options"]


class OverlayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The layers top first, data-only layers, upper and work, and every other option as shown."""

    lowers: tuple[KPath, ...] = ()
    data: tuple[KPath, ...] = ()
    upper: KPath | None = None
    work: KPath | None = None
    others: tuple[str, ...] = ()


_TOKEN: Final = re.compile(r"\\134(\\[0-7]{3}|.)|(::?)|(\\[0-7]{3}|\\x[0-9a-f]{2}|.)", re.DOTALL)
"""An escaped character, a separator, or a character; all in mountinfo spelling."""


def _split(text: str) -> tuple[list[KPath], list[KPath]]:
    """Split a `lowerdir=` list into its lower and its data-only layers."""
    lists: tuple[list[KPath], list[KPath]] = ([], [])
    current: list[KPath] = lists[0]
    name = ""
    for match in _TOKEN.finditer(text):
        escaped, separator, character = match.groups()
        if separator:
            current.append(_respell(name))
            name = ""
            current = lists[1] if separator == "::" else current
        else:
            name += escaped or character
    current.append(_respell(name))
    return lists


def _respell(name: str) -> KPath:
    """Spell a name as mountinfo spells paths: without the octal escapes that options add."""
    return encode(decode(KPath(name)))


def _unescape(value: str) -> KPath:
    """Undo overlay's own escapes in a single path."""
    return _respell(
        "".join(
            escaped or separator or character
            for escaped, separator, character in _TOKEN.findall(value)
        )
    )


_CERTAIN: Final = re.compile(r"\\134(\\134|\\054|\\072|[:,])")
"""An escape that makes sense, in mountinfo spelling."""


def _unescape_certain(value: str) -> KPath:
    """Undo only escapes of characters that need one."""
    return _respell(_CERTAIN.sub(r"\1", value))


def parse_options(super_options: str) -> OverlayOptions:
    """Parse the superblock options of an overlay mount as mountinfo shows them."""
    lowers: list[KPath] = []
    data: list[KPath] = []
    upper = work = None
    others: list[str] = []
    one_by_one = re.search(r"(?:^|,)(?:lower|data)dir\+=", super_options)
    unescape = _unescape_certain if one_by_one else _unescape
    for option in super_options.split(","):
        key, _, value = option.partition("=")
        match key:
            case "lowerdir":
                more_lowers, more_data = _split(value)
                lowers += more_lowers
                data += more_data
            case "lowerdir+":
                lowers.append(_respell(value))
            case "datadir+":
                data.append(_respell(value))
            case "upperdir":
                upper = unescape(value)
            case "workdir":
                work = unescape(value)
            case _:
                others.append(option)
    return OverlayOptions(
        lowers=tuple(lowers), data=tuple(data), upper=upper, work=work, others=tuple(others)
    )


def _escape(path: KPath, characters: bytes) -> bytes:
    return re.sub(b"[" + re.escape(characters) + b"]", rb"\\\g<0>", decode(path))


def format_options(options: OverlayOptions) -> bytes:
    """
    Give the data of mount(2): upper and work first, so that a cut never loses them unseen.

    Nothing is checked for length: the kernel takes 4095 bytes and drops the rest without an error.
    """
    parts: list[bytes] = []
    if options.upper and options.work:
        parts.append(b"upperdir=" + _escape(options.upper, rb"\,"))
        parts.append(b"workdir=" + _escape(options.work, rb"\,"))
    layers = b":".join(_escape(layer, rb"\:,") for layer in options.lowers)
    if options.data:
        layers += b"::" + b"::".join(_escape(layer, rb"\:,") for layer in options.data)
    parts.append(b"lowerdir=" + layers)
    parts += [decode(KPath(option)) for option in options.others]
    return b",".join(parts)
