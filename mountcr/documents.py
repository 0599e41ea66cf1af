# SPDX-License-Identifier: Apache-2.0
"""
Documents that mountcr writes and reads again: JSON whose `schema` is `mountcr/KIND/VERSION`.

A field that is not known is passed over, so a version gets a new number only when who reads the old
one would misread it.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import msgspec

from mountcr.errors import DocumentError

__all__ = ["DocumentKind", "read_document", "schema_of"]

_T = TypeVar("_T")

_SHOWN: Final = 40
"""Characters of a foreign schema in an error."""


class DocumentKind(NamedTuple):
    """
    A kind of document: its `schema` in this version, and hints for who has another one.

    `name` is what errors call it, `rule` what follows in them.
    """

    schema: str
    name: str
    damaged: str
    newer: str
    other: str
    rule: str = ""


class _Header(msgspec.Struct):
    """What every version of a document has."""

    schema: str = ""


def schema_of(text: bytes) -> str:
    """
    Give what a document says that it is; empty for one that does not.

    Raises what msgspec does: DecodeError, UnicodeDecodeError, and RecursionError.
    """
    return msgspec.json.decode(text, type=_Header).schema


def read_document(text: bytes, type_: type[_T], kind: DocumentKind, shown: str) -> _T:
    """
    Read a document whose place is called `shown`.

    Raises DocumentError naming the place: with the field where the document is damaged, or where it
    is another one or of a newer version.
    """
    try:
        schema = schema_of(text)
        if schema == kind.schema:
            return msgspec.json.decode(text, type=type_)
    # msgspec raises the others for texts that are not UTF-8 or nested without end
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"{shown} is damaged: {error}{kind.rule}"
        raise DocumentError(msg, hint=kind.damaged) from None
    base, _, version = schema.rpartition("/")
    if base == kind.schema.rpartition("/")[0] and version.isascii() and version.isdigit():
        msg = f"{shown} is of version {version[:_SHOWN]}, newer than {kind.schema}{kind.rule}"
        raise DocumentError(msg, hint=kind.newer)
    msg = f"{shown} is no {kind.name} of mountcr: schema {schema[:_SHOWN]!r}{kind.rule}"
    raise DocumentError(msg, hint=kind.other)
