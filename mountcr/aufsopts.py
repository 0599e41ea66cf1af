# SPDX-License-Identifier: Apache-2.0
r"""
AUFS option text: branches from sysfs and mountinfo, and branches to what mount(2) takes.

A branch is `path=permission`, in sysfs one a file (/sys/fs/aufs/si_<hex>/br<N>), with the module
parameter brs=0 all of them behind `br:` at the end of the options (fs/aufs/super.c,
`au_show_brs()`). Both print a path as `seq_path()` does, with octal escapes for what is not
printable, space and backslash (fs/aufs/module.c, `au_esc_chars`); comma, colon and equals sign are
printed as they are.

In what AUFS takes, nothing is escaped (fs/aufs/opts.c, `au_opts_parse()` and `opt_add()`): options
end at a comma, branches of `br:` at a colon, a path at its first equals sign. A path with a colon
can be given by `append:`, one with a comma or an equals sign not at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr.errors import RefusedError
from mountcr.paths import KPath, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Mount

__all__ = ["BUDGET", "OPTIONS_PER_CALL", "AufsOptions", "Branch", "format_options", "options_of"]

BUDGET: Final = 4096 - 54
"""Bytes of options in one call: a page without what Docker's AUFS driver keeps free of it."""

OPTIONS_PER_CALL: Final = 64
"""
Branches and options in one call.

AUFS parses them into one page, of which each takes up to 48 bytes (fs/aufs/super.c,
`aufs_fill_super()` and `aufs_remount_fs()`, `max_opt`).
"""

_BRANCH: Final = re.compile(r"(/.*?)=((?:rw|ro|rr)(?:\+\w+)*)(?::|$)", re.DOTALL)
_SINGLE: Final = re.compile(r"(/.*)=((?:rw|ro|rr)(?:\+\w+)*)", re.DOTALL)
_SHOWN_ONLY: Final = re.compile(r"rw|ro|seclabel|si=.*", re.DOTALL)
"""What mountinfo shows among the options and mount(2) does not want."""


class Branch(NamedTuple):
    """A branch: its path, and its permission with the attributes: `rw`, `ro+wh`, `rw+nolwh`, …"""

    path: KPath
    permission: str

    @property
    def writable(self) -> bool:
        """Whether AUFS writes into it."""
        return self.permission.partition("+")[0] == "rw"

    @property
    def whiteouts(self) -> bool:
        """
        Whether AUFS looks for whiteouts in it.

        It does so in writable branches and those with `+wh` (fs/aufs/branch.h, `au_br_whable()`).
        """
        return self.writable or "wh" in self.permission.split("+")[1:]


class AufsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    The branches top first, and every other option.

    `told` is the file that an engine keeps the branches in, where no mount tells them.
    """

    branches: tuple[Branch, ...] = ()
    others: tuple[str, ...] = ()
    told: KPath | None = None


def _respell(path: str) -> KPath:
    """Spell a path as mountinfo spells paths; AUFS escapes more characters."""
    return encode(decode(KPath(path)))


def options_of(mount: Mount) -> AufsOptions:
    """
    Give the branches and options of an AUFS mount, by what was observed of it.

    What `Mount.branches` says comes before what is in the options. A path for the inode numbers
    (`xino=`) that AUFS would choose by itself is left out.
    """
    text, _, in_options = mount.super_options.partition(",br:")
    others = [each for each in text.split(",") if each and not _SHOWN_ONLY.fullmatch(each)]
    notes = {each.partition("=")[0]: each.partition("=")[2] for each in mount.branches}
    found = [match for each in mount.branches if (match := _SINGLE.fullmatch(each))]
    branches = tuple(
        Branch(_respell(match[1]), match[2]) for match in found or _BRANCH.finditer(in_options)
    )
    xino = notes.get("xino")
    if xino and "noxino" not in others and _respell(xino) not in _default_xino(branches):
        others.append(f"xino={_respell(xino)}")
    told = notes.get("layers")
    return AufsOptions(
        branches=branches, others=tuple(others), told=KPath(told) if told and found else None
    )


def _default_xino(branches: Iterable[Branch]) -> set[str]:
    """Give where AUFS puts inode numbers by itself (fs/aufs/xino.c, `au_xino_def()`)."""
    writable = next((each.path for each in branches if each.writable), None)
    return {"/tmp/.aufs.xino"} | ({f"{writable}/.aufs.xino"} if writable else set())  # noqa: S108


def format_options(options: AufsOptions) -> tuple[bytes, ...]:
    """
    Give the data of mount(2), then those of the remounts that append what is left.

    Each has at most `BUDGET` bytes and `OPTIONS_PER_CALL` options. Raises RefusedError naming the
    branch or option that cannot be said to AUFS.
    """
    branches = [_branch(each) for each in options.branches]
    others = [_option(each) for each in options.others]
    if not branches:
        raise RefusedError("an AUFS mount needs a branch", hint="name the layers")
    if b":" in decode(options.branches[0].path):
        _refuse(options.branches[0].path, "the first branch cannot be given to AUFS with a colon")
    first, rest = _first(branches, others)
    return (first, *_appended(rest))


def _first(branches: list[bytes], others: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Give the data of the mount, with as many branches as go in, and the branches left over."""
    tail = b"".join(b"," + each for each in others)
    free = BUDGET - len(b"br:") - len(tail)
    taken: list[bytes] = []
    for each in branches:
        free -= len(each) + bool(taken)
        full = len(taken) + len(others) >= OPTIONS_PER_CALL
        if b":" in each or free < 0 or full:
            break
        taken.append(each)
    if not taken:
        msg = f"the first branch and the options of AUFS take more than {BUDGET} bytes"
        raise RefusedError(msg, hint="use a shorter path for the writable layer")
    return b"br:" + b":".join(taken) + tail, branches[len(taken) :]


def _appended(branches: Iterable[bytes]) -> list[bytes]:
    """Give the data of as few remounts as it takes."""
    calls: list[list[bytes]] = []
    size = 0
    for branch in branches:
        each = b"append:" + branch
        size += len(each) + 1
        if not calls or size - 1 > BUDGET or len(calls[-1]) == OPTIONS_PER_CALL:
            calls.append([])
            size = len(each) + 1
        calls[-1].append(each)
    return [b",".join(each) for each in calls]


def _branch(branch: Branch) -> bytes:
    path = decode(branch.path)
    for byte, name in ((b",", "comma"), (b"=", "equals sign")):
        if byte in path:
            _refuse(branch.path, f"AUFS takes no branch with {_article(name)} in its path")
    text = path + b"=" + branch.permission.encode()
    if len(b"append:" + text) > BUDGET:
        _refuse(branch.path, f"a branch of AUFS may have {BUDGET} bytes at most")
    return text


def _article(name: str) -> str:
    return f"an {name}" if name.startswith("e") else f"a {name}"


def _option(option: str) -> bytes:
    text = decode(KPath(option))
    if b"," in text or not text:
        _refuse(option, "AUFS takes no option with a comma in it, and no empty one")
    return text


def _refuse(what: str, why: str) -> None:
    raise RefusedError(f"{why}: {what}", hint="use --driver overlay or vfs, or rename it")
