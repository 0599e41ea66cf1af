# SPDX-License-Identifier: Apache-2.0
r"""
What CRIU is told: one record, spelled as a command line, an RPC request, a configuration file.

The command line and the request are made from the same tables, so that the command that is
printed is the request that is sent. Nothing here opens a file or starts a process.

Paths and external resources are in mountinfo spelling. CRIU undoes only `\\040`, `\\011` and
`\\134` of a mountpoint that it reads, so these, and nothing else, are undone in what it compares
with one; a path that it opens becomes bytes completely.

CRIU finds the external resource `mnt[KEY]:VALUE` of a mountpoint by comparing the text
`mnt[MOUNTPOINT]` with its beginning, and the next character must be a colon or the end. `:` and
`]` in a mountpoint therefore need no escape, but `mnt[/a]:b]:x`, for the mountpoint `/a]:b`, is
also taken for the mountpoint `/a`, with the value `b]:x`.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import paths
from mountcr.errors import UsageError
from mountcr.paths import KPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.criu import rpc_pb2

__all__ = [
    "CgroupMode",
    "CriuOptions",
    "Kind",
    "config_text",
    "external_bytes",
    "to_argv",
    "to_request",
]


class Kind(StrEnum):
    """What CRIU shall do."""

    DUMP = "dump"
    RESTORE = "restore"


class CgroupMode(StrEnum):
    """What CRIU does with cgroups, criu(8) `--manage-cgroups`."""

    IGNORE = "ignore"
    NONE = "none"
    PROPS = "props"
    SOFT = "soft"
    FULL = "full"
    STRICT = "strict"


class CriuOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    All that mountcr tells CRIU.

    `pid` is the root task of a dump. `images`, `work` and `root` are paths of the caller; without
    `work` logs go to `images`. `externals` are whole, `mnt[/etc/hosts]:hosts` or `file[7f:264]`.
    `inherit_fds` are pairs of a descriptor number and what CRIU calls the file, restore only.
    `cgroup_roots` are pairs of controllers, empty for all others, and a path. `ghost_limit` is in
    bytes, below 4 GiB; None leaves CRIU's own. `log_file` is a name in the work directory;
    empty for `dump.log` or `restore.log`. `extra` are words of CRIU's command line as the user
    gave them, not in mountinfo spelling; they win over everything else.
    """

    kind: Kind
    pid: int = 0
    images: KPath
    work: KPath | None = None
    root: KPath | None = None
    externals: tuple[str, ...] = ()
    inherit_fds: tuple[tuple[int, str], ...] = ()
    manage_cgroups: CgroupMode = CgroupMode.IGNORE
    cgroup_roots: tuple[tuple[str, KPath], ...] = ()
    leave_running: bool = False
    shell_job: bool = False
    tcp_established: bool = False
    tcp_close: bool = False
    file_locks: bool = False
    link_remap: bool = False
    evasive_devices: bool = False
    ext_unix_sk: bool = False
    mntns_compat: bool = False
    ghost_limit: int | None = None
    skip_mnt: tuple[KPath, ...] = ()
    enable_fs: tuple[str, ...] = ()
    log_level: int = 4
    log_file: str = ""
    extra: tuple[str, ...] = ()

    @property
    def log_name(self) -> str:
        """The name of the log in the work directory."""
        return self.log_file or f"{self.kind}.log"

    @property
    def work_directory(self) -> KPath:
        """Where CRIU writes its log."""
        return self.work or self.images


# Option of the record, word of the command line, field of the request.
_FLAGS: Final = (
    ("leave_running", "--leave-running", "leave_running"),
    ("shell_job", "--shell-job", "shell_job"),
    ("tcp_established", "--tcp-established", "tcp_established"),
    ("tcp_close", "--tcp-close", "tcp_close"),
    ("file_locks", "--file-locks", "file_locks"),
    ("link_remap", "--link-remap", "link_remap"),
    ("evasive_devices", "--evasive-devices", "evasive_devices"),
    ("ext_unix_sk", "--ext-unix-sk", "ext_unix_sk"),
    ("mntns_compat", "--mntns-compat-mode", "mntns_compat_mode"),
)


def to_argv(options: CriuOptions, command: Sequence[str] = ("criu",)) -> list[str]:
    """
    Give the command line, as words for `exec`.

    Bytes of paths that are not UTF-8 are surrogate escapes, as `os.fsdecode()` makes them;
    `mountcr.paths.encode()` makes such a word fit for JSON.
    """
    words = [*command, options.kind.value]
    if options.kind is Kind.DUMP:
        words += ["--tree", str(options.pid)]
    else:
        words += ["--restore-detached"]
    words += ["--images-dir", _word(paths.decode(options.images))]
    if options.work is not None:
        words += ["--work-dir", _word(paths.decode(options.work))]
    words += [f"-v{options.log_level}", "--log-file", options.log_name]
    if options.root is not None:
        words += ["--root", _word(paths.decode(options.root))]
    words += [f"--manage-cgroups={options.manage_cgroups}"]
    for controllers, path in options.cgroup_roots:
        prefix = f"{controllers}:" if controllers else ""
        words += ["--cgroup-root", prefix + _word(paths.decode(path))]
    words += [word for field, word, _ in _FLAGS if getattr(options, field)]
    if options.ghost_limit is not None:
        words += ["--ghost-limit", str(options.ghost_limit)]
    for path in options.skip_mnt:
        words += ["--skip-mnt", _word(_as_criu_reads(path))]
    if options.enable_fs:
        words += ["--enable-fs", ",".join(options.enable_fs)]
    for external in options.externals:
        plain = external.isascii() and "\\" not in external
        word = external if plain else _word(external_bytes(external, options.kind))
        words += ["--external", word]
    for number, key in options.inherit_fds:
        words += ["--inherit-fd", f"fd[{number}]:{_word(paths.decode(KPath(key)))}"]
    return words + list(options.extra)


def to_request(
    options: CriuOptions, images_dir_fd: int, work_dir_fd: int = -1, *, config_file: str = ""
) -> rpc_pb2.Request:
    """
    Give the RPC request; the descriptors stay the caller's and must be open until CRIU is done.

    `config_file` is the absolute path of a file that holds `config_text(options.extra)`; CRIU's
    RPC has no other door for options that have no field. Raises ValueError if it is missing
    or if `log_file` is a path.
    """
    from mountcr.criu import rpc_pb2 as rpc

    if options.extra and not config_file:
        raise ValueError("extra options need a configuration file")
    if "/" in options.log_name:
        raise ValueError("log_file is a name in the work directory, not a path")
    dump = options.kind is Kind.DUMP
    request = rpc.Request(type=rpc.DUMP if dump else rpc.RESTORE)
    out = request.options
    out.images_dir_fd = images_dir_fd
    if options.work is not None:
        out.work_dir_fd = work_dir_fd
    if dump:
        out.pid = options.pid
    out.log_level = options.log_level
    out.log_file = os.fsencode(options.log_name)
    if options.root is not None:
        out.root = paths.decode(options.root)
    out.manage_cgroups_mode = {
        CgroupMode.IGNORE: rpc.CG_IGNORE,
        CgroupMode.NONE: rpc.CG_NONE,
        CgroupMode.PROPS: rpc.CG_PROPS,
        CgroupMode.SOFT: rpc.CG_SOFT,
        CgroupMode.FULL: rpc.CG_FULL,
        CgroupMode.STRICT: rpc.CG_STRICT,
    }[options.manage_cgroups]
    for controllers, path in options.cgroup_roots:
        root = out.cgroup_roots.add(path=paths.decode(path))
        if controllers:
            root.controllers = controllers.encode()
    for field, _, name in _FLAGS:
        if getattr(options, field):
            setattr(out, name, True)
    if options.ghost_limit is not None:
        out.ghost_limit = options.ghost_limit
    out.skip_mnt.extend(_as_criu_reads(path) for path in options.skip_mnt)
    out.enable_fs.extend(name.encode() for name in options.enable_fs)
    out.external.extend(external_bytes(text, options.kind) for text in options.externals)
    for number, key in options.inherit_fds:
        out.inherit_fds.add(fd=number, key=paths.decode(KPath(key)))
    if options.extra:
        out.config_file = os.fsencode(config_file)
    return request


def external_bytes(external: str, kind: Kind) -> bytes:
    r"""
    Give the bytes of an external resource that CRIU gets.

    Of a dump all of it is compared or stored: only what CRIU undoes is undone. Of a restore, what
    follows the first `]:` is a path or the like that CRIU opens.

    >>> external_bytes("mnt[/my\\040data]:data", Kind.DUMP)
    b'mnt[/my data]:data'
    """
    head, separator, tail = external.partition("]:")
    if kind is Kind.RESTORE and separator:
        return _as_criu_reads(head) + b"]:" + paths.decode(KPath(tail))
    return _as_criu_reads(external)


_UNDONE: Final = re.compile(rb"\\(040|011|134|x[0-9a-f]{2})")


def _as_criu_reads(text: str) -> bytes:
    """Undo the octal escapes that CRIU undoes, and our own of bytes that are not UTF-8."""
    if "\\" not in text:
        return text.encode()

    def byte(match: re.Match[bytes]) -> bytes:
        digits = match[1]
        return bytes([int(digits[1:], 16) if digits[:1] == b"x" else int(digits, 8)])

    return _UNDONE.sub(byte, text.encode())


def _word(raw: bytes) -> str:
    return os.fsdecode(raw)


# Short options of CRIU 4.1 that make sense behind `--`, and whether a value follows.
_SHORT: Final = {
    "J": ("join-ns", True),
    "L": ("libdir", True),
    "M": ("ext-mount-map", True),
    "R": ("leave-running", False),
    "S": ("restore-sibling", False),
    "j": ("shell-job", False),
    "l": ("file-locks", False),
    "r": ("root", True),
    "s": ("leave-stopped", False),
}
# mountcr relies on these; a second value would make it look at the wrong place.
_OURS: Final = {
    "-D": "--images-dir",
    "-W": "--work-dir",
    "-o": "--log-file",
    "-t": "--tree",
    "-d": "--restore-detached",
}


def config_text(extra: Sequence[str]) -> str:
    """
    Turn words of CRIU's command line into the text of a configuration file.

    One line an option: `--opt value`, `--opt=value` and `-x` become `opt value`, `opt=value` and
    the long name of `-x`. Raises UsageError naming the word that is no option, that mountcr gives
    itself, or whose value a configuration file cannot hold.
    """
    lines: list[str] = []
    words = list(extra)
    while words:
        word = words.pop(0)
        if word.startswith("--") and len(word) > len("--"):
            lines.append(_long(word, words))
        elif word.startswith("-v"):
            lines.append(f"verbosity={_verbosity(word)}")
        elif word.startswith("-") and len(word) > len("-"):
            lines += _short(word, words)
        else:
            raise UsageError(
                f"{word!r} is not an option of CRIU",
                hint="after `--` give CRIU's options, each with its value: --ghost-limit 2M",
            )
    return "".join(f"{line}\n" for line in lines)


def _long(word: str, rest: list[str]) -> str:
    name, equals, value = word[2:].partition("=")
    if f"--{name}" in _OURS.values() or name == "config":
        raise _not_yours(word)
    # CRIU's parser of the file splits `name="a b"` at the space, but not `name "a b"`.
    if equals and not _NEEDS_QUOTES.search(value):
        return f"{_plain(name, word)}={_plain(value, word)}"
    if equals or (rest and not rest[0].startswith("-")):
        return _spaced(_plain(name, word), _quoted(value if equals else rest.pop(0), word))
    return _plain(name, word)


def _short(word: str, rest: list[str]) -> list[str]:
    lines: list[str] = []
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if f"-{letter}" in _OURS:
            raise _not_yours(word)
        name, takes_value = _SHORT.get(letter, ("", False))
        if not name:
            raise UsageError(f"{word!r} is not an option of CRIU", hint="`criu --help` lists them")
        if not takes_value:
            lines.append(name)
            continue
        if not letters and not rest:
            raise UsageError(f"{word!r} needs a value", hint=f"give it as --{name} VALUE")
        lines.append(_spaced(name, _quoted(letters or rest.pop(0), word)))
        letters = ""
    return lines


def _verbosity(word: str) -> int:
    value = word[2:]
    if value.isdecimal():
        return int(value)
    if value.strip("v"):
        raise UsageError(f"{word!r} is not an option of CRIU", hint="-v4 prints the most")
    return len(word) - 1


def _not_yours(word: str) -> UsageError:
    return UsageError(
        f"{word!r} cannot be given: mountcr gives CRIU this option itself",
        hint="use mountcr's own options for the images, the log and the process",
    )


_NEEDS_QUOTES: Final = re.compile(r'[ \t]|^"')


def _plain(text: str, word: str) -> str:
    # CRIU 4.1 takes '#' for a comment, in quotes too, and undoes `\\"` everywhere.
    if not text or any(bad in text for bad in ("#", "\n", '\\"')):
        raise _cannot_hold(text, word)
    return text


def _quoted(value: str, word: str) -> str:
    if not _NEEDS_QUOTES.search(value):
        return _plain(value, word)
    if value.endswith("\\"):
        raise _cannot_hold(value, word)
    return '"' + _plain(value, word).replace('"', '\\"') + '"'


def _spaced(name: str, value: str) -> str:
    # CRIU 4.1 finds no fault with a quoted value whose spaces are no further behind its quote than
    # that is from the start of the line; else it says "Unsupported configuration file format".
    return name + " " * (len(os.fsencode(value)) if value.startswith('"') else 1) + value


def _cannot_hold(text: str, word: str) -> UsageError:
    return UsageError(
        f"{word!r} cannot be passed on: CRIU's configuration files cannot hold {text!r}",
        hint="use a value that is not empty and has no '#', newline or backslash before a quote",
    )
