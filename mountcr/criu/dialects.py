# SPDX-License-Identifier: Apache-2.0
"""
CRIU's options in other dialects: for a shell, an old CRIU, a configuration file, other RPC clients.

Each function says all of what the options say, or raises CapabilityError naming what its dialect
has no words for. Nothing here opens a file or starts a process.
"""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mountcr import paths
from mountcr.criu.options import (
    CgroupMode,
    CriuOptions,
    Kind,
    config_text,
    external_bytes,
    to_argv,
    to_request,
)
from mountcr.errors import CapabilityError, UsageError
from mountcr.paths import KPath

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

__all__ = [
    "RPC_NAMES",
    "Dialect",
    "configuration",
    "legacy_argv",
    "legacy_since",
    "rpc_json",
    "shell_line",
]


class Dialect(StrEnum):
    """The ways to spell CRIU's options."""

    ARGV = "argv"
    LEGACY = "legacy"
    CONF = "conf"
    RPC_JSON = "rpc-json"


# --- The command line -----------------------------------------------------------------------------

_NOT_PLAIN: Final = re.compile(rb"[^ -~\x80-\xff]")


def shell_line(words: Iterable[str]) -> str:
    r"""
    Give words of a command line, in mountinfo spelling, as one line for a shell.

    Words with control characters or bytes that are not UTF-8 are spelled `$'…'`, which bash, zsh,
    ksh and POSIX.1-2024 undo; all others as every shell takes them.

    >>> print(shell_line(["criu", "--root", r"/my\040root"]))
    criu --root '/my root'
    """
    return " ".join(_shell_word(paths.decode(KPath(word))) for word in words)


def _shell_word(raw: bytes) -> str:
    if not _NOT_PLAIN.search(raw):
        try:
            return shlex.quote(raw.decode())
        except UnicodeDecodeError:
            pass
    return "$'" + "".join(map(_shell_byte, raw)) + "'"


def _shell_byte(byte: int) -> str:
    plain = ord(" ") <= byte <= ord("~") and chr(byte) not in "\\'"
    return chr(byte) if plain else f"\\{byte:03o}"


# --- CRIU 1.3 to 2 --------------------------------------------------------------------------------

# What CRIU 1.3 had not, and the first release that surely has it (criu.org/Download/criu/1.x; the
# numbers of the fields in rpc.proto, which were given in this order).
_CAME_WITH: Final = (
    ("cgroup_roots", "--cgroup-root", "1.4"),
    ("inherit_fds", "--inherit-fd", "1.6"),
    ("skip_mnt", "--skip-mnt", "1.6"),
    ("enable_fs", "--enable-fs", "1.6"),
    ("ghost_limit", "--ghost-limit", "1.7"),
)

_AUTODETECT: Final = {
    "mnt[]": (),
    "mnt[]:m": ("--enable-external-masters",),
    "mnt[]:s": ("--enable-external-sharing",),
}


def legacy_argv(options: CriuOptions) -> list[str]:
    """
    Give the command line for a CRIU of 1.3 to 2, its program named `criu`, in mountinfo spelling.

    `--external mnt[A]:B` becomes `--ext-mount-map A:B`, which CRIU splits at the first colon.
    `--manage-cgroups` took no mode before 1.7 and has meant soft since, so soft is the word alone,
    ignore is no word, and no other mode can be said. `--mntns-compat-mode` asks for the only engine
    that there was, and is left out. Raises CapabilityError naming the first option
    that has no words.
    """
    maps = [word for each in options.externals for word in _legacy_external(each, options.kind)]
    for _, key in options.inherit_fds:
        if key.startswith(("file[", "tty[")):
            raise _no_words(f"--inherit-fd {key}", "use a CRIU of 3 or newer for this container")
    words = to_argv(msgspec.structs.replace(options, externals=(), extra=(), mntns_compat=False))
    words = _legacy_cgroups(words, options.manage_cgroups)
    return [*map(paths.encode, words), *maps, *map(paths.encode, options.extra)]


def legacy_since(options: CriuOptions) -> tuple[str, str] | None:
    """Name the option that came last after CRIU 1.3, and the version it came with."""
    used = [(word, version) for field, word, version in _CAME_WITH if getattr(options, field)]
    return used[-1] if used else None


def _legacy_external(external: str, kind: Kind) -> tuple[str, ...]:
    if external in _AUTODETECT:
        return ("--ext-mount-map", "auto", *_AUTODETECT[external])
    head, bracket, value = external.partition("]:")
    if not head.startswith("mnt[") or not bracket:
        raise _no_words(f"--external {external}", "use a CRIU of 3 or newer for this container")
    if ":" in head or "]:" in value:
        hint = "it is split at the first colon: use a mountpoint without one, or a newer CRIU"
        raise _no_words(f"--ext-mount-map of {external}", hint)
    word = paths.encode(external_bytes(external, kind))
    return ("--ext-mount-map", word.removeprefix("mnt[").replace("]:", ":", 1))


def _legacy_cgroups(words: list[str], mode: CgroupMode) -> list[str]:
    """Replace the word that names a mode by what an old CRIU understands."""
    place = words.index(f"--manage-cgroups={mode}")
    before, after = words[:place], words[place + 1 :]
    match mode:
        case CgroupMode.IGNORE:
            return before + after
        case CgroupMode.SOFT:
            return [*before, "--manage-cgroups", *after]
        case _:
            hint = "choose --manage-cgroups-mode soft or ignore"
            raise _no_words(f"--manage-cgroups={mode}", hint)


def _no_words(option: str, hint: str) -> CapabilityError:
    msg = f"{option} cannot be said to a CRIU of 1.3 to 2"
    return CapabilityError(msg, probe=f"--as {Dialect.LEGACY}", hint=hint)


# --- A configuration file -------------------------------------------------------------------------


def configuration(options: CriuOptions, *, cgroups: bool = False) -> str:
    """
    Give the text of a configuration file for a runtime that starts CRIU itself, see criu(8).

    The annotation `org.criu.config` of a container names such a file; what it says wins over what
    the runtime says. So it holds what comes of the mounts and files of the container, and nothing
    that the runtime gives: process, directories, root, log, whether the container goes on, pipes,
    and, unless `cgroups` tells that it was asked for, the mode for control groups. Bytes that are
    not UTF-8 are surrogate escapes. Raises CapabilityError naming what such a file cannot hold,
    UsageError if that is among the words of the user.
    """
    for _, key in options.inherit_fds:
        if not key.startswith("pipe:"):
            raise _not_in_file(
                key, "a descriptor has to come with it: restore with `mountcr restore`"
            )
    bare = msgspec.structs.replace(
        options, images=KPath("."), work=None, root=None, leave_running=False, inherit_fds=(),
        log_file="", extra=(),
    )  # fmt: skip
    words = to_argv(bare, ())
    start = words.index(f"--manage-cgroups={bare.manage_cgroups}")
    lines = map(_line, _options(words[start if cgroups else start + 1 :]))
    return "".join(lines) + config_text(options.extra)


def _options(words: Sequence[str]) -> Iterator[list[str]]:
    """Give each option with its value."""
    option: list[str] = []
    for word in words:
        if word.startswith("--") and option:
            yield option
            option = []
        option.append(word)
    if option:
        yield option


def _line(option: list[str]) -> str:
    try:
        return config_text(option)
    except UsageError:
        hint = "CRIU ends a value at '#' and at the end of the line; give CRIU the option itself"
        raise _not_in_file(" ".join(map(paths.encode, option)), hint) from None


def _not_in_file(value: str, hint: str) -> CapabilityError:
    msg = f"a configuration file of CRIU cannot hold {value}"
    return CapabilityError(msg, probe=f"--as {Dialect.CONF}", hint=hint)


# --- RPC as JSON ----------------------------------------------------------------------------------

RPC_NAMES: Final = {
    "cgroup_roots": "cg_root",
    "controllers": "ctrl",
    "inherit_fds": "inherit_fd",
    "CG_IGNORE": "IGNORE",
    "CG_PROPS": "PROPS",
    "CG_SOFT": "SOFT",
    "CG_FULL": "FULL",
    "CG_STRICT": "STRICT",
    "CG_DEFAULT": "DEFAULT",
}
"""What CRIU's rpc.proto calls what is called otherwise in ours; numbers are the same."""


def rpc_json(options: CriuOptions) -> str:
    """
    Give the message `criu_opts` of CRIU's rpc.proto as JSON, with the names of that file.

    Protobuf's JSON parsers take it (go-criu, pycriu). `images_dir` stands for `images_dir_fd`, and
    no work directory is named, because descriptors are the caller's; CRIU 4.1 wants that field
    set all the same. Raises CapabilityError naming a value that is not UTF-8, or words of the
    user, for which RPC has no field.
    """
    if options.extra:
        raise _not_in_rpc(options.extra[0], "put it into a file that `config_file` names")
    bare = msgspec.structs.replace(options, work=None)
    fields = _named(to_request(bare, -1).options)
    fields.pop("images_dir_fd")
    document = {"images_dir": _utf8(paths.decode(options.images)), **fields}
    import json  # of no use for the other dialects

    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _named(message: Message) -> dict[str, object]:
    """Give the fields that are set, by CRIU's names, in the order of their numbers."""
    return {
        RPC_NAMES.get(field.name, field.name): _value(field, value)
        for field, value in message.ListFields()
    }


def _value(field: FieldDescriptor, value: Any) -> object:
    if isinstance(value, bytes | int) or hasattr(value, "ListFields"):
        return _single(field, value)
    return [_single(field, each) for each in value]


def _single(field: FieldDescriptor, value: Any) -> object:
    if field.message_type:
        return _named(value)
    if field.enum_type:
        name = field.enum_type.values_by_number[value].name
        return RPC_NAMES.get(name, name)
    return _utf8(value) if isinstance(value, bytes) else value


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        hint = "JSON is UTF-8; give CRIU the option itself: --as argv"
        raise _not_in_rpc(paths.encode(raw), hint) from None


def _not_in_rpc(value: str, hint: str) -> CapabilityError:
    msg = f"JSON for CRIU's RPC cannot hold {value}"
    return CapabilityError(msg, probe=f"--as {Dialect.RPC_JSON}", hint=hint)
