# SPDX-License-Identifier: Apache-2.0
"""
What the words that a user gives CRIU mean for a plan: the options that decide about mounts.

Words are those of CRIU's command line, `--option value` or `--option=value`, raw and not in
mountinfo spelling. Nothing is refused here: what makes no sense is refused where the words are
turned into a configuration file (`mountcr.criu.options.config_text()`).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.criu.options import Kind, external_bytes
from mountcr.graph.superblock import short_type
from mountcr.model import MountNamespace, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mountcr.model import Mount
    from mountcr.paths import KPath

__all__ = [
    "ALWAYS_DROPPED",
    "Given",
    "criu_bytes",
    "drop",
    "dropped",
    "orphans",
    "parse_given",
]

ALWAYS_DROPPED: Final = "tracefs"
"""What CRIU leaves out of every dump (criu/filesystems.c, `tracefs_parse()`)."""

_AUTODETECT: Final = "mnt[]"
_SHORT: Final = {"l": "file-locks", "j": "shell-job", "M": "ext-mount-map"}
_FLAGS: Final = frozenset(
    {
        "mntns-compat-mode", "link-remap", "file-locks", "shell-job", "evasive-devices",
        "force-irmap", "skip-file-rwx-check", "enable-external-masters",
        "enable-external-sharing", "tcp-established", "tcp-close",
    }
)  # fmt: skip
"""Options without a value that rules know; the word behind one is an option again."""


class Given(Record, frozen=True, kw_only=True):
    """
    Options of CRIU that a user gave.

    `externals` are whole words, `mnt[/etc/hosts]:hosts`. `autodetect` is `mnt[]`, which matches
    mounts of CRIU's own namespace; slaves and shared mounts are matched only with
    `autodetect_masters` and `autodetect_sharing`. `skip_mnt` are mountpoints as bytes that CRIU
    would hold, `ghost_limit` is in bytes. `network` tells that the user says himself what CRIU does
    with the network namespace.
    """

    externals: tuple[str, ...] = ()
    autodetect: bool = False
    autodetect_masters: bool = False
    autodetect_sharing: bool = False
    skip_mnt: tuple[bytes, ...] = ()
    enable_fs: tuple[str, ...] = ()
    irmap_scan_paths: tuple[str, ...] = ()
    ghost_limit: int | None = None
    compat: bool = False
    link_remap: bool = False
    file_locks: bool = False
    shell_job: bool = False
    evasive_devices: bool = False
    force_irmap: bool = False
    skip_file_rwx_check: bool = False
    tcp_established: bool = False
    tcp_close: bool = False
    network: bool = False

    def keys(self) -> dict[bytes, str]:
        """
        Give every mountpoint, as CRIU holds it, that a word may be a key of, with that word.

        `mnt[/a]:b]:x` is a key of `/a` and of `/a]:b` (criu/external.c,
        `external_lookup_by_key()`); of words with one key CRIU takes the last.
        """
        found: dict[bytes, str] = {}
        for word in self.externals:
            raw = os.fsencode(word)
            ends = [match.start() for match in re.finditer(rb"\]:", raw)]
            if raw.endswith(b"]"):
                ends.append(len(raw) - 1)
            for end in ends:
                if raw.startswith(b"mnt[") and raw[4:end]:
                    found[raw[4:end]] = word
        return found

    def enables(self, mount: Mount) -> bool:
        """
        Tell whether CRIU was told how to mount the whole of a file system that it does not know.

        That is by its type, or by its device, decimal: `dev[8/17]:disk`.
        """
        if self.enable_fs and ({"all", short_type(mount)} & {*self.enable_fs}):
            return True
        device = f"dev[{mount.dev.replace(':', '/')}]:"
        return any(word.startswith(device) for word in self.externals)


def criu_bytes(mountpoint: KPath) -> bytes:
    """Give a mountpoint as CRIU holds it: of the kernel's escapes it undoes only some."""
    return external_bytes(mountpoint, Kind.DUMP)


def _same_path(raw: bytes) -> bytes:
    """Spell a path without slashes that mean nothing, as CRIU compares it for `--skip-mnt`."""
    return b"/" + b"/".join(part for part in raw.split(b"/") if part not in {b"", b"."})


def parse_given(extra: Sequence[str]) -> Given:
    """Look for the options that rules know; others are passed over."""
    options = list(_options(extra))
    values: dict[str, list[str]] = {}
    for name, value in options:
        values.setdefault(name, []).append(value)
    externals = values.get("external", [])
    legacy = values.get("ext-mount-map", [])
    letters = {each[len(_AUTODETECT) + 1 :][:1] for each in externals if _is_autodetect(each)}
    flags = {name for name in values if name in _FLAGS}
    return Given(
        externals=(
            *(each for each in externals if not _is_autodetect(each)),
            *(_from_legacy(each) for each in legacy if each != "auto"),
        ),
        autodetect=bool(letters) or "auto" in legacy,
        autodetect_masters="m" in letters or "enable-external-masters" in flags,
        autodetect_sharing="s" in letters or "enable-external-sharing" in flags,
        skip_mnt=tuple(_same_path(os.fsencode(each)) for each in values.get("skip-mnt", [])),
        enable_fs=tuple(
            name for each in values.get("enable-fs", []) for name in each.split(",") if name
        ),
        irmap_scan_paths=tuple(values.get("irmap-scan-path", [])),
        ghost_limit=_size(values.get("ghost-limit", [])),
        compat="mntns-compat-mode" in flags,
        link_remap="link-remap" in flags,
        file_locks="file-locks" in flags,
        shell_job="shell-job" in flags,
        evasive_devices="evasive-devices" in flags,
        force_irmap="force-irmap" in flags,
        skip_file_rwx_check="skip-file-rwx-check" in flags,
        tcp_established="tcp-established" in flags,
        tcp_close="tcp-close" in flags,
        network=_is_about_network(values),
    )


def _is_about_network(values: Mapping[str, Sequence[str]]) -> bool:
    words = (*values.get("external", ()), *values.get("inherit-fd", ()), *values.get("join-ns", ()))
    named = any(each.startswith(("net[", "net:", "veth[")) for each in words)
    return named or "net" in values.get("empty-ns", ())


def _options(extra: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give each option by its long name, with its value, empty if there is none."""
    words = list(extra)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and name not in _FLAGS and words and not words[0].startswith("-"):
                value = words.pop(0)
            yield name, value
        elif word.startswith("-"):
            yield from _letters(word[1:], words)


def _letters(letters: str, rest: list[str]) -> Iterator[tuple[str, str]]:
    """Give the short options of one word; what takes a value takes the rest of it, or the next."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter == "M":
            yield _SHORT[letter], letters or (rest.pop(0) if rest else "")
            return
        if letter in _SHORT:
            yield _SHORT[letter], ""


def _is_autodetect(word: str) -> bool:
    """Tell `mnt[]`, `mnt[]:m` and `mnt[]:s`; CRIU reads one letter only."""
    return word == _AUTODETECT or word.startswith(f"{_AUTODETECT}:")


def _from_legacy(word: str) -> str:
    """Spell a value of `--ext-mount-map`, which CRIU splits at the first colon."""
    key, _, name = word.partition(":")
    return f"mnt[{key}]:{name}"


_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _size(values: Sequence[str]) -> int | None:
    match = re.fullmatch(r"([0-9]{1,19})([kKmMgG]?)", values[-1]) if values else None
    return int(match[1]) * _UNITS[match[2].lower()] if match else None


# --- Mounts that are left out ---------------------------------------------------------------------


def drop(namespaces: Iterable[MountNamespace], given: Given) -> tuple[MountNamespace, ...]:
    """
    Give the tables without what CRIU leaves out of the dump.

    A table in which a mount would lose its parent stays whole, so that it still is a tree: rule
    T1 says that CRIU refuses it.
    """
    found: list[MountNamespace] = []
    for namespace in namespaces:
        gone = _skipped(namespace, given)
        mounts = namespace.mounts
        if gone and not any(each.parent in gone and each.id not in gone for each in mounts):
            mounts = tuple(each for each in mounts if each.id not in gone)
        whole = len(mounts) in {0, len(namespace.mounts)}
        found.append(namespace if whole else msgspec.structs.replace(namespace, mounts=mounts))
    return tuple(found)


def dropped(namespace: MountNamespace, given: Given) -> Iterator[Mount]:
    """Give the mounts of a namespace that CRIU leaves out of the dump."""
    gone = _skipped(namespace, given)
    if gone:
        yield from (each for each in namespace.mounts if each.id in gone)


def orphans(namespace: MountNamespace, given: Given) -> Iterator[Mount]:
    """Give the mounts of a namespace whose parent CRIU leaves out, in the order of the table."""
    gone = _skipped(namespace, given)
    if gone:
        for mount in namespace.mounts:
            if mount.parent in gone and mount.id not in gone:
                yield mount


def _skipped(namespace: MountNamespace, given: Given) -> set[int]:
    gone: set[int] = {each.id for each in namespace.mounts if each.fstype == ALWAYS_DROPPED}
    if given.skip_mnt:
        wanted = frozenset(given.skip_mnt)
        for mount in namespace.mounts:
            if _same_path(criu_bytes(mount.mountpoint)) in wanted:
                gone.add(mount.id)
    return gone
