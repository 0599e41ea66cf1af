# SPDX-License-Identifier: Apache-2.0
"""
Static programs for the containers of tests, for what no busybox does.

A program makes some system calls with constant arguments, one after the other, and then waits.
"""

from __future__ import annotations

import platform
import struct
from typing import Final

__all__ = [
    "ARCHITECTURE", "BPF", "EXECVE", "FLOCK", "FSOPEN", "FTRUNCATE", "INOTIFY_ADD_WATCH",
    "INOTIFY_INIT", "IO_SETUP", "IO_URING_SETUP", "LANDLOCK_CREATE_RULESET", "MADVISE",
    "MEMFD_CREATE", "MEMFD_SECRET", "MMAP", "OPEN", "PERF_EVENT_OPEN", "UNSHARE", "USERFAULTFD",
    "program",
]  # fmt: skip

ARCHITECTURE: Final = "x86_64"
"""The one that programs can be made for."""

# arch/x86/entry/syscalls/syscall_64.tbl
OPEN: Final = 2
MMAP: Final = 9
MADVISE: Final = 28
_PAUSE: Final = 34
EXECVE: Final = 59
FLOCK: Final = 73
FTRUNCATE: Final = 77
IO_SETUP: Final = 206
INOTIFY_INIT: Final = 253
INOTIFY_ADD_WATCH: Final = 254
UNSHARE: Final = 272
PERF_EVENT_OPEN: Final = 298
MEMFD_CREATE: Final = 319
BPF: Final = 321
USERFAULTFD: Final = 323
IO_URING_SETUP: Final = 425
FSOPEN: Final = 430
LANDLOCK_CREATE_RULESET: Final = 444
MEMFD_SECRET: Final = 447

_BASE: Final = 0x400000
_HEADERS: Final = struct.Struct("<16sHHIQQQIHHHHHHIIQQQQQQ")
_IDENTITY: Final = b"\x7fELF\x02\x01\x01"
_ARGUMENTS: Final = (b"\xbf", b"\xbe", b"\xba", b"\x41\xba", b"\x41\xb8", b"\x41\xb9")
"""mov of a constant to edi, esi, edx, r10d, r8d, r9d."""


def program(*calls: tuple[int | bytes, ...]) -> bytes:
    """
    Give an executable that makes system calls: number and arguments; of bytes it is the address.

    Raises NotImplementedError on another architecture.
    """
    if platform.machine() != ARCHITECTURE:
        raise NotImplementedError(platform.machine())
    sizes = [_code_size(call) for call in (*calls, (_PAUSE,))]
    strings_at = _BASE + _HEADERS.size + sum(sizes) + len(_AGAIN)
    code, strings = b"", b""
    for number, *arguments in (*calls, (_PAUSE,)):
        code += _move(b"\xb8", int(number))
        for opcode, value in zip(_ARGUMENTS, arguments, strict=False):
            if isinstance(value, bytes):
                code += _move(opcode, strings_at + len(strings))
                strings += value + b"\0"
            else:
                code += _move(opcode, value)
        code += b"\x0f\x05"
    code += _AGAIN
    return _headers(len(code) + len(strings)) + code + strings


_AGAIN: Final = b"\xeb\xf7"
"""jmp to the last call, for a signal that ends the waiting."""


def _move(opcode: bytes, value: int) -> bytes:
    return opcode + struct.pack("<I", value & 0xFFFFFFFF)


def _code_size(call: tuple[int | bytes, ...]) -> int:
    prefixes = max(len(call) - 4, 0)  # of the registers with numbers
    return 5 * len(call) + prefixes + 2


def _headers(size: int) -> bytes:
    """Give the header of the file and that of its one segment, elf(5)."""
    whole = _HEADERS.size + size
    entry = _BASE + _HEADERS.size
    return _HEADERS.pack(
        _IDENTITY.ljust(16, b"\0"), 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0,
        1, 5, 0, _BASE, _BASE, whole, whole, 0x1000,
    )  # fmt: skip
