# SPDX-License-Identifier: Apache-2.0
"""
What the document of a bundle may say, whoever wrote it: each rule in one place, each by a name.

A document becomes paths on this host: of members, of control groups, of mounts in the container. So
a path in it goes down only, and no dot or slash of it is spelled in digits, as the kernel spells
other characters (`seq_escape()` in fs/seq_file.c): that would hide it from who looks for `..`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn

from mountcr.bundle.members import is_plain, shown
from mountcr.bundle.names import LAYERS, MOUNTS, UPPER
from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import fsdecode, is_normal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mountcr.bundle.document import Bundle, Carried
    from mountcr.bundle.limits import Limits
    from mountcr.paths import KPath

__all__ = ["check_bundle", "check_text", "refuse"]

_NAME: Final = re.compile(
    r"images/[A-Za-z0-9][A-Za-z0-9_.+-]*\.img"
    r"|mounts/[1-9][0-9]{0,8}(?:\.tar)?"
    r"|layers/(?:upper|[1-9][0-9]{0,8})\.tar"
    r"|foreign/[A-Za-z0-9][A-Za-z0-9_.-]*"
)
"""The members that there are: nothing that CRIU, a plug-in of it or mountcr reads as a setting."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = re.compile(r"(?:sha256:[0-9a-f]{64})?")

_HIDDEN: Final = re.compile(
    rb"\\\\(?:000|056|057|[4-7][0-7]{2}|x00|x2e|x2f)"  # NUL, dot, slash; the high bit is lost
    rb"|(?<!\\)(?:\\\\)*\\u(?:0000|(?!00[01])[0-9a-fA-F]{4})"  # of JSON, which would hide these
)

_CARRIED: Final = frozenset({InodeType.DIRECTORY, InodeType.FILE})
_OWNERS: Final = range((1 << 32) - 1)
_MODES: Final = range(0o10000)


def refuse(name: str, what: str, rule: str) -> NoReturn:
    """Raise RefusedError for a document, naming the bundle and the rule."""
    msg = f"{name}: {what} (rule: {rule})"
    raise RefusedError(msg, hint="fetch it again, or export the container again; nothing was kept")


def check_text(text: bytes, name: str, limits: Limits) -> None:
    """
    See that a document, which was not read yet, can be: raises RefusedError.

    Each value that is read takes memory, however few bytes it has; what separates and opens them
    is counted. Each character is spelled as mountcr spells it.
    """
    values = sum(map(text.count, (b",", b":", b"[", b"{")))
    if values > limits.values:
        refuse(name, f"the document has more than {limits.values} values", "size of documents")
    hidden = _HIDDEN.search(text)
    if hidden is not None:
        spelled = hidden[0].decode("ascii").replace("\\\\", "\\")
        refuse(name, f"the document spells a character as {spelled}", "spelling of paths")


def check_bundle(bundle: Bundle, name: str, limits: Limits) -> None:
    """See that a document says nothing that it may not. Raises RefusedError."""
    for what, rule in _broken(bundle, limits):
        refuse(name, what, rule)


def _broken(bundle: Bundle, limits: Limits) -> Iterator[tuple[str, str]]:
    """Give what breaks a rule, and the rule."""
    yield from _members(bundle, limits)
    yield from _layers(bundle)
    yield from _mounts(bundle)
    yield from _groups(bundle)


def _members(bundle: Bundle, limits: Limits) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for each in bundle.members:
        if not is_plain(each.name, limits.name) or _NAME.fullmatch(each.name) is None:
            yield f"the document names a member {shown(each.name)}", "names of members"
        if each.name in seen:
            yield f"the document names {shown(each.name)} twice", "duplicate members"
        seen.add(each.name)
        if _SHA256.fullmatch(each.sha256) is None or not 0 <= each.size <= limits.size:
            yield f"{shown(each.name)} has no size or no SHA-256", "digests"
    if len(seen) > limits.members:
        yield f"the document names more than {limits.members} members", "members"


def _layers(bundle: Bundle) -> Iterator[tuple[str, str]]:
    members = bundle.digested()
    used = {UPPER}
    if bundle.dump.rootfs is not None and UPPER not in members:
        yield f"the document names no member {UPPER}", "layers"
    for number, layer in enumerate(bundle.layers, 1):
        if layer.member:
            if layer.member not in members or not layer.member.startswith(f"{LAYERS}/"):
                yield f"layer {number} is {shown(layer.member)}, which is no member", "layers"
            if layer.member in used:
                yield f"layer {number} is {shown(layer.member)}, as another one is", "layers"
            used.add(layer.member)
        for digest in (layer.diff_id, layer.chain_id):
            if _DIGEST.fullmatch(digest) is None:
                yield f"layer {number} has the digest {shown(digest)}", "digests"


def _mounts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    members = bundle.digested()
    used: set[str] = set()
    for each in bundle.mounts:
        place = f"what is carried of {shown(each.mountpoint)}"
        if not _goes_down(each.mountpoint):
            yield f"{place} has no mountpoint", "mounts"
        if each.member not in members or not _fits(each):
            yield f"{place} is {shown(each.member)}, which is no member for it", "mounts"
        number = each.member.removesuffix(".tar")
        if number in used:
            yield f"{place} is {shown(each.member)}, as another one is", "mounts"
        used.add(number)
        if each.uid not in _OWNERS or each.gid not in _OWNERS or each.mode not in _MODES:
            yield f"{place} has no owner or mode", "mounts"


def _fits(carried: Carried) -> bool:
    """Tell whether a member can be what lay on a mount: a tar is a directory."""
    tar = carried.member.endswith(".tar")
    inside = carried.member.startswith(f"{MOUNTS}/")
    return inside and carried.type in _CARRIED and tar == (carried.type is InodeType.DIRECTORY)


def _groups(bundle: Bundle) -> Iterator[tuple[str, str]]:
    facts = bundle.dump.facts
    paths = dict.fromkeys(each.path for task in facts.tasks for each in task.cgroups)
    for path in paths:
        if not _goes_down(path):
            yield f"a task is in the control group {shown(path)}", "control groups"


def _goes_down(path: KPath) -> bool:
    """Tell an absolute path in its shortest form, without `..`, however it is spelled."""
    plain = fsdecode(path)
    return is_normal(plain) and "\0" not in plain
