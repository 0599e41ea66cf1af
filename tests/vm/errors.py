# SPDX-License-Identifier: Apache-2.0
"""What keeps a kernel from being booted."""

from __future__ import annotations

from mountcr.errors import MountcrError

__all__ = ["GuestError", "VmError"]


class VmError(MountcrError):
    """A kernel, a root file system or QEMU is not to be had."""


class GuestError(MountcrError):
    """A guest hung, panicked, ran out of memory or was off. `console` are its last lines."""

    def __init__(self, message: str, console: tuple[str, ...]) -> None:
        super().__init__(message, hint="the last lines of its console are above")
        self.console = console
