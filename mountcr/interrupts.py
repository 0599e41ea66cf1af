# SPDX-License-Identifier: Apache-2.0
"""
SIGINT and SIGTERM held back for as long as a block of code must not be left half-way.

A signal that comes meanwhile comes at the end of the block. Nothing is ever ignored.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["held_back", "hold_back", "let_through"]

_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGALRM})
"""The last one is a signal that came at a bad moment, again."""


def hold_back() -> frozenset[int]:
    """
    Hold the signals back in this thread; give what was held back before, for `let_through`.

    A signal that came just before is acted on here, and then nothing is held back.
    """
    return frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))


def let_through(before: frozenset[int] = frozenset()) -> None:
    """Let the signals through again, but for those of `before`; what has come is acted on here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS - before)


@contextlib.contextmanager
def held_back() -> Generator[None]:
    """Hold the signals back for a block; children that it starts have them held back too."""
    before = hold_back()
    try:
        yield
    finally:
        let_through(before)
