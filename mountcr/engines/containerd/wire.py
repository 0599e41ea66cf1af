# SPDX-License-Identifier: Apache-2.0
"""
Messages of protocol buffers in containerd's database, as far as it is needed.

containerd stores the configuration and the options of a container as `google.protobuf.Any`: field 1
is the URL of a type, field 2 its value (core/metadata/boltutil/helpers.go of containerd 2.0).
The protobuf library would take longer to import than the whole database to read.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Wrapped", "strings", "unwrap", "varint"]

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_LONGEST_VARINT: Final = 10


class Wrapped(NamedTuple):
    """The content of an Any: JSON for what Go has no message for, else a message."""

    type_url: str
    value: bytes


def unwrap(message: bytes) -> Wrapped:
    r"""
    Take an Any apart.

    Raises ValueError where the bytes are no message.

    >>> unwrap(b"\n\x01T\x12\x02{}")
    Wrapped(type_url='T', value=b'{}')
    """
    fields = strings(message)
    return Wrapped(fields.get(1, b"").decode(errors="backslashreplace"), fields.get(2, b""))


def strings(message: bytes) -> dict[int, bytes]:
    """
    Give the fields of a message that hold bytes: strings and messages; the last of each counts.

    Raises ValueError where the bytes are no message.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        size = 0
        if kind == _VARINT:
            at = varint(message, at)[1]
        elif kind == _BYTES:
            size, at = varint(message, at)
        elif kind in {_FIXED32, _FIXED64}:
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(
                f"byte {at}: field {number} is of the kind {kind}, which no message has"
            )
        if number == 0 or at + size > len(message):
            raise ValueError(f"byte {at}: field {number} does not end within {len(message)} bytes")
        if kind == _BYTES:
            found[number] = message[at : at + size]
        at += size
    return found


def varint(data: bytes, at: int = 0) -> tuple[int, int]:
    """
    Give a number, seven bits a byte with the least first, and where it ends.

    Raises ValueError where there is none.
    """
    number = 0
    for shift, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:  # noqa: PLR2004 -- the bit that says that there is more
            return number, at + shift + 1
    raise ValueError(f"byte {at}: a number does not end")
