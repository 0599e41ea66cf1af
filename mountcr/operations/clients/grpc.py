# SPDX-License-Identifier: Apache-2.0
"""
Single calls of gRPC over a Unix socket, by curl, with messages as their fields on the wire.

A message is read as the list of its fields: what is not asked for is handed on byte by byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias
from urllib.parse import unquote

from mountcr.engines.containerd.wire import varint
from mountcr.errors import CapabilityError, MountcrError
from mountcr.operations.clients.client import call, complaint
from mountcr.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Field", "Message", "Refused", "Socket", "number", "pack", "texts", "unpack"]

_VARINT: Final = 0
_BYTES: Final = 2
_PREFIX: Final = 5
"""The bytes before a message: whether it is compressed, and its length."""

Field: TypeAlias = "tuple[int, int | bytes]"
Message: TypeAlias = "list[Field]"


class Refused(MountcrError):  # noqa: N818 -- it is told in other words
    """A call that was answered with an error; `code` is that of gRPC, 5 is not found."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Socket(NamedTuple):
    """A server behind a Unix socket; `headers` go with each call. Needs curl, with HTTP/2."""

    path: str
    headers: tuple[str, ...] = ()

    def call(self, method: str, request: Iterable[Field]) -> Message:
        """Call a method. Raises Refused, or CapabilityError when nobody answers."""
        message = pack(request)
        headers = ("content-type: application/grpc", "te: trailers", *self.headers)
        program = find_program("curl")
        if program is None:
            msg = "there is no curl here, by which containerd is asked"
            raise CapabilityError(msg, probe="curl", hint="install curl")
        words = [
            *("--disable", "--noproxy", "*"),  # whatever the user has it do
            *("--silent", "--show-error", "--include", "--http2-prior-knowledge"),
            *("--unix-socket", self.path, "--request", "POST", "--data-binary", "@-"),
            *(word for header in headers for word in ("--header", header)),
            f"http://localhost/{method}",
        ]
        data = b"\0" + len(message).to_bytes(_PREFIX - 1, "big") + message
        done = call([program, *words], given=data)
        head, _, rest = done.output.partition(b"\r\n\r\n")
        size = _PREFIX + int.from_bytes(rest[1:_PREFIX], "big") if rest[:1] == b"\0" else 0
        answer, trailers = rest[_PREFIX:size], rest[size:]
        told = dict(
            line.split(": ", 1)
            for line in (head + b"\r\n" + trailers).decode("latin-1").splitlines()
            if ": " in line
        )
        if done.status or "grpc-status" not in told:
            msg = f"{self.path} does not answer: {complaint(done.complaint)}"
            raise CapabilityError(
                msg, probe=method, hint="start it, or say where it listens: $CONTAINERD_ADDRESS"
            )
        if told["grpc-status"] != "0":
            raise Refused(unquote(told.get("grpc-message", "")), int(told["grpc-status"]))
        return unpack(answer)


def pack(fields: Iterable[Field]) -> bytes:
    """Write a message: numbers as varints, the others with their length."""
    packed = bytearray()
    for field, value in fields:
        if isinstance(value, int):
            packed += _varint(field << 3 | _VARINT) + _varint(value)
        else:
            packed += _varint(field << 3 | _BYTES) + _varint(len(value)) + value
    return bytes(packed)


def unpack(data: bytes) -> Message:
    """Read a message. Raises ValueError for what is none, and for numbers of a fixed size."""
    fields: Message = []
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        value, at = varint(data, at)
        if tag & 7 == _VARINT:
            fields.append((tag >> 3, value))
        elif tag & 7 == _BYTES and at + value <= len(data):
            fields.append((tag >> 3, data[at : at + value]))
            at += value
        else:
            raise ValueError(f"byte {at}: field {tag >> 3} is of the kind {tag & 7}, or cut off")
    return fields


def texts(message: Message, field: int) -> list[bytes]:
    """Give the values of a field that is no number."""
    return [value for each, value in message if each == field and isinstance(value, bytes)]


def number(message: Message, field: int) -> int:
    """Give the value of a field that is a number; the last one counts, and 0 is left out."""
    found = [value for each, value in message if each == field and isinstance(value, int)]
    return found[-1] if found else 0


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:  # noqa: PLR2004 -- seven bits a byte
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
