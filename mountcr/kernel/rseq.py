# SPDX-License-Identifier: Apache-2.0
"""
Whether the kernel tells a tracer where a thread has registered its restartable sequences.

CRIU asks so, and refuses threads with rseq(2), all of glibc 2.35 and later, where nobody answers.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

from mountcr.interrupts import held_back
from mountcr.kernel._libc_ffi import ffi
from mountcr.kernel.children import end_with

if TYPE_CHECKING:
    from mountcr.kernel._libc_ffi import CData

__all__ = ["probe_rseq"]

_PTRACE_TRACEME: Final = 0
_PTRACE_GET_RSEQ_CONFIGURATION: Final = 0x420F
_SIZE: Final = 24  # bytes of `struct ptrace_rseq_configuration` (include/uapi/linux/ptrace.h)

_libc: Final = ffi.dlopen(None)


def probe_rseq() -> dict[str, bool]:
    """
    Ask a stopped child of ours, in a millisecond: `get_rseq_conf`, as CRIU calls it.

    Linux commit 90f093fa8ea4 ("rseq, ptrace: Add PTRACE_GET_RSEQ_CONFIGURATION request")
    (in v5.13). Gives nothing where no child may be traced, as under the filters of some engines.
    The child is killed before this returns or raises, and ends with us if we are killed.
    """
    with held_back():  # so that no child is left stopped, of which nobody knows
        return _ask_child()


def _ask_child() -> dict[str, bool]:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _be_traced(parent)
    try:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            child = 0
            return {}
        return {"get_rseq_conf": _answers(child)}
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _answers(child: int) -> bool:
    configuration = ffi.new("char[]", _SIZE)
    return _ptrace(_PTRACE_GET_RSEQ_CONFIGURATION, child, _SIZE, configuration) >= 0


def _be_traced(parent: int) -> None:
    """Stop as a child that is traced; end where that is not allowed. Never returns."""
    try:
        end_with(parent)
        if _ptrace(_PTRACE_TRACEME, 0, 0, ffi.NULL) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
    finally:
        os._exit(1)


def _ptrace(request: int, pid: int, size: int, data: CData) -> int:
    return _libc.ptrace(request, ffi.cast("long", pid), ffi.cast("long", size), data)
