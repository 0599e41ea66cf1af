# SPDX-License-Identifier: Apache-2.0
"""
Bundles, read: the document first, then members that are what it says of them, or an error.

A bundle comes from anywhere. Nothing here writes; what is given was compared with the digests of
the document by the time that its content has been read to the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from typing import TYPE_CHECKING, Final

from mountcr.bundle.directory import in_directory
from mountcr.bundle.document import Bundle, parse
from mountcr.bundle.images import has_checkpoint, opened_layer
from mountcr.bundle.limits import Limits
from mountcr.bundle.members import Member, Members, shown
from mountcr.bundle.names import MANIFEST, SIGNATURE, STANDARD, selected
from mountcr.bundle.rules import check_bundle, check_text
from mountcr.bundle.stream import Stream
from mountcr.errors import DocumentError, NotFoundError, RefusedError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mountcr.bundle.document import Digested
    from mountcr.bundle.members import Content

__all__ = ["Reader", "is_bundle", "opened", "opened_members", "whole"]

_PIECE: Final = 1 << 20


class Reader:
    """
    A bundle that is being read.

    `text` are the bytes of its document, `digest` their SHA-256 in hexadecimal, which stands for
    the bundle, `signature` that of it if there is one.
    """

    def __init__(
        self, name: str, members: Iterator[tuple[Member, Content]], limits: Limits
    ) -> None:
        self.shown = name
        self._members = members
        first = next(members, None)
        if first is None or first[0].name != MANIFEST:
            what = f"{name} is no bundle of mountcr: it does not begin with {MANIFEST}"
            msg = f"{what} (rule: first member)"
            raise DocumentError(msg, hint="`mountcr export` writes bundles")
        self.text = whole(*first, limits.document, name)
        self.digest = hashlib.sha256(self.text).hexdigest()
        check_text(self.text, name, limits)
        self.bundle: Bundle = parse(self.text, name)
        check_bundle(self.bundle, name, limits)
        self.signature: bytes | None = None
        self._next = next(members, None)
        if self._next is not None and self._next[0].name == SIGNATURE:
            self.signature = whole(*self._next, _PIECE, name)
            self._next = next(members, None)

    def members(self) -> Iterator[tuple[Member, Content]]:
        """
        Give the members behind the document, in their order; once.

        Raises RefusedError for one that the document does not name, and VerificationError for one
        that is not what it says of it: when its content was read to the end, or is not there when
        all were given.
        """
        missing = dict(self.bundle.digested())
        while self._next is not None:
            member, content = self._next
            digested = missing.pop(member.name, None)
            if digested is None:
                msg = f"{self.shown}: {shown(member.name)} is not named by {MANIFEST}"
                raise RefusedError(f"{msg} (rule: unknown members)", hint="export it again")
            if digested.size != member.size:
                raise self._differs(member.name, f"has {member.size} bytes, not {digested.size}")
            yield member, _Checked(content, digested, self)
            self._next = next(self._members, None)
        for name in missing:
            raise self._differs(name, "is missing")

    def _differs(self, name: str, what: str) -> VerificationError:
        line = f"{shown(name)} {what}"
        msg = f"{self.shown}: {line} (rule: digests)"
        hint = "the bundle is damaged or was changed; fetch it again"
        return VerificationError(msg, [line], hint=hint)

    def differs(self, digested: Digested) -> VerificationError:
        """Give the error for a member whose content is another one."""
        return self._differs(digested.name, "is not what the document says: its SHA-256 differs")


class _Checked:
    """Content that is hashed while it is read, and compared at its end."""

    def __init__(self, content: Content, digested: Digested, reader: Reader) -> None:
        self._content = content
        self._digested = digested
        self._reader = reader
        self._hash = hashlib.sha256()

    def some(self) -> memoryview:
        piece = self._content.some()
        if piece:
            self._hash.update(piece)
        elif self._hash.hexdigest() != self._digested.sha256:
            raise self._reader.differs(self._digested)
        return piece


def whole(member: Member, content: Content, most: int, name: str) -> bytes:
    """Give all of a member. Raises RefusedError where it has more than so many bytes."""
    if member.size > most:
        msg = f"{name}: {shown(member.name)} has {member.size} bytes, more than {most}"
        raise RefusedError(f"{msg} (rule: size of documents)", hint="make the archive anew")
    parts: list[bytes] = []
    while piece := content.some():
        parts.append(bytes(piece))
    return b"".join(parts)


# --- Where they are -------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: str, *, limits: Limits | None = None) -> Generator[Reader]:
    """
    Open a bundle for a block: a file, a directory, `-` for standard input, or an OCI image layout,
    `DIR`, `DIR:NAME` or `DIR@DIGEST` (`mountcr.bundle.images`).

    Raises NotFoundError where nothing is there, DocumentError for what is no bundle, RefusedError
    for an archive that breaks a rule, OSError.
    """
    limits = limits or Limits()
    with opened_members(path, limits=limits) as (name, members):
        yield Reader(name, members, limits)


def is_bundle(path: str) -> bool:
    """
    Tell whether an archive begins as a bundle does; raises as `opened_members` does.

    Standard input, which cannot be read again, is taken for one.
    """
    if path == STANDARD:
        return True
    if (layout := selected(path)) and not has_checkpoint(layout):
        return False
    with opened_members(path) as (_, members):
        first = next(members, None)
        return first is not None and first[0].name == MANIFEST


@contextlib.contextmanager
def opened_members(
    path: str, *, limits: Limits | None = None
) -> Generator[tuple[str, Iterator[tuple[Member, Content]]]]:
    """Open any archive of members for a block and give what errors call it, and its members."""
    limits = limits or Limits()
    if path == STANDARD:
        name = "standard input"
        yield name, iter(Members(Stream(sys.stdin.buffer, name, limits), limits))
        return
    if layout := selected(path):
        with opened_layer(layout) as (name, blob):
            yield name, iter(Members(Stream(blob, name, limits), limits))
        return
    name = shown(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise NotFoundError(f"no such file or directory: {name}", hint="name a bundle") from None
    if stat.S_ISDIR(found.st_mode):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield name, in_directory(fd, name, limits)
        finally:
            os.close(fd)
        return
    with open(path, "rb", buffering=0) as file:
        yield name, iter(Members(Stream(file, name, limits), limits))
