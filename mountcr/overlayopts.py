# SPDX-License-Identifier: Apache-2.0
r"""
OverlayFS option text: what mountinfo shows to layers, and layers to what mount(2) takes.

Three spellings exist. mount(2) takes and shows `lowerdir=A:B`, with `\:` and `\,` for a colon
and a comma in a name. Linux 6.5 and 6.6 show the same list with the colon as `\072`. Since Linux
6.7 layers given one by one are shown as repeated `lowerdir+=A` and `datadir+=D`, without any
escape of overlay's own (fs/overlayfs/super.c and params.c, `ovl_show_options()`). mountinfo adds
octal escapes on top of each. `::` begins the data-only layers (Linux 6.5).

Beside `lowerdir+` an upper or work that was given by descriptor (Linux 6.13) is shown without
overlay's escapes, one given by name with them, and nothing tells which it was: a backslash there
is an escape only before a backslash, a colon or a comma.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.paths import KPath, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "OverlayOptions",
    "default_options",
    "explicit_options",
    "format_options",
    "is_volatile",
    "known_longest",
    "parse_options",
    "unmet_options",
]


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
    return encode(decode(KPath(name))) if "\\" in name else KPath(name)


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


# --- Options that are no layers -------------------------------------------------------------------

_SWITCHES: Final = {"index": "index", "metacopy": "metacopy", "nfs_export": "nfs_export"}
"""Options that are on or off, and the parameter of the module that is their default."""

_FLAGS: Final = frozenset({"volatile", "userxattr", "default_permissions"})
"""Options without a value, which are shown whenever they are in force."""

_WRITERS: Final = frozenset({"index", "nfs_export", "volatile", "uuid"})
"""What is ignored where there is no upper (fs/overlayfs/params.c, `ovl_fs_params_verify()`)."""


def _pair(option: str) -> tuple[str, str]:
    """Split an option; a volatile mount is also shown as `fsync=volatile`."""
    if option == "fsync=volatile":
        return "volatile", ""
    key, _, value = option.partition("=")
    return key, value


def is_volatile(others: Iterable[str]) -> bool:
    """Tell whether a mount with these options omits all syncs of its upper (Linux 5.10)."""
    return any(_pair(option) == ("volatile", "") for option in others)


def known_longest(option: str) -> str:
    """
    Spell an option as every kernel takes it that has what it says.

    A volatile mount is shown as `fsync=volatile` by newer kernels, 6.12.117 and 6.18 among them,
    which take `volatile` too; 6.1 and 5.10 take only that.
    """
    key, value = _pair(option)
    return key if not value and key in _FLAGS else option


def default_options(parameters: Mapping[str, str]) -> dict[str, str]:
    """
    Give the options whose defaults are parameters of the module, with what they are by default.

    `parameters` are the files of /sys/module/overlay/parameters; none, no options. A kernel
    without `redirect_always_follow` (before Linux 4.16) has `redirect_dir=off` for both ways not
    to write redirects.

    >>> default_options({"index": "N", "redirect_dir": "N", "redirect_always_follow": "Y"})
    {'index': 'off', 'redirect_dir': 'follow'}
    """
    found = {
        option: "on" if parameters[name] == "Y" else "off"
        for option, name in _SWITCHES.items()
        if name in parameters
    }
    if "xino_auto" in parameters:
        found["xino"] = "auto" if parameters["xino_auto"] == "Y" else "off"
    if "redirect_dir" in parameters:
        following = {"Y": "follow", "N": "nofollow"}.get(
            parameters.get("redirect_always_follow", ""), "off"
        )
        found["redirect_dir"] = "on" if parameters["redirect_dir"] == "Y" else following
    return found


def explicit_options(
    shown: tuple[str, ...],
    origin: Mapping[str, str],
    target: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """
    Put the options in that a mount had by default, so that no other default takes their place.

    mountinfo shows an option only where it is not the default of its host
    (fs/overlayfs/params.c, `ovl_show_options()`). `origin` and `target` are the parameters of
    the module on the host of the mount and on the one that will mount it, which need not know
    every option; None if that is the same. `userxattr` goes with no redirects but `nofollow`.
    """
    keys = {_pair(option)[0] for option in shown}
    known = default_options(origin if target is None else target)
    added = [
        f"{key}={value}"
        for key, value in default_options(origin).items()
        if key not in keys and key in known and not (key == "redirect_dir" and _barred(keys, value))
    ]
    return (*shown, *added)


def _barred(keys: set[str], redirect: str) -> bool:
    return "userxattr" in keys and redirect != "nofollow"


def unmet_options(
    asked: Iterable[str],
    shown: Iterable[str],
    parameters: Mapping[str, str],
    *,
    writable: bool,
) -> list[str]:
    """
    Give the options that were asked for and that a mount does not have, by what it shows.

    What is not shown has the default of this host, see `explicit_options`. `xino` is not shown
    either where all layers are on one file system, and a mount without upper ignores some.
    """
    have = dict(map(_pair, shown))
    defaults = {"verity": "off", **default_options(parameters)}
    return [
        option for option in asked if not _is_met(*_pair(option), have, defaults, writable=writable)
    ]


def _is_met(
    key: str, value: str, have: Mapping[str, str], defaults: Mapping[str, str], *, writable: bool
) -> bool:
    if key in _WRITERS and not writable:
        return True
    if key in have:
        return have[key] in _fulfilments(key, value, writable=writable)
    if key in _FLAGS:
        return False
    if key == "xino" or key not in defaults:
        return True
    return defaults[key] in _fulfilments(key, value, writable=writable)


def _fulfilments(key: str, value: str, *, writable: bool) -> tuple[str, ...]:
    """Give what the kernel may show for a value."""
    match key, value:
        case "redirect_dir", "off":
            return "off", "follow", "nofollow"
        case "redirect_dir", "on" | "follow" if not writable:
            return "on", "follow"  # nothing is renamed there
        case (("uuid" | "xino"), "auto"):
            return "auto", "on", "off", "null"
        case _:
            return (value,)
