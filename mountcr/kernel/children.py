# SPDX-License-Identifier: Apache-2.0
"""What a forked child does first."""

from __future__ import annotations

import os
import signal

from mountcr.kernel import syscalls

__all__ = ["end_with"]


def end_with(parent: int) -> None:
    """
    Be killed when the parent ends, whatever ends it; called by a child that was just forked.

    The parent is the thread that forked, of the process `parent`. Ends the child with 1 at once
    when that has ended before. Raises OSError.
    """
    syscalls.prctl_set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
