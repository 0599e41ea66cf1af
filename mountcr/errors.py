# SPDX-License-Identifier: Apache-2.0
"""
What can go wrong: one root, a few leaves, each with the next thing to try.

Every error holds a message of one line that names the file, mount or field, and a hint. What does
not print in them, as names of files may have it, is spelled in digits.
Only the command line looks at `hint` and `exit_status`; library users catch `MountcrError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.render.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.model import Finding

__all__ = [
    "AmbiguousError",
    "CapabilityError",
    "CriuError",
    "DocumentError",
    "GoneError",
    "ImageError",
    "LeftBehindError",
    "MountcrError",
    "NotFoundError",
    "PlanError",
    "PrivilegeError",
    "RefusedError",
    "StepError",
    "UsageError",
    "VerificationError",
]


class MountcrError(Exception):
    """Superclass of all errors of mountcr; raised itself for a failure that was rolled back."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = one_line(message)
        self.hint = hint and one_line(hint)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        """Go through pickle whole, whatever the arguments of the subclass are."""
        return _revive, (type(self), self.__dict__)


def _revive(kind: type[MountcrError], state: dict[str, object]) -> MountcrError:
    error = kind.__new__(kind, state["message"])
    error.__dict__.update(state)
    return error


class UsageError(MountcrError):
    """The words of the call do not make sense; nothing was touched."""

    exit_status = 2


class AmbiguousError(UsageError):
    """A reference means more than one container; `candidates` holds each as `engine:id`."""

    def __init__(self, message: str, candidates: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.candidates = tuple(candidates)


class DocumentError(UsageError):
    """A facts file or manifest is not one, is damaged, or is of a newer version."""


class NotFoundError(MountcrError):
    """Nothing on this host has that name. `similar` holds names like it."""

    exit_status = 3

    def __init__(
        self, message: str, *, similar: Sequence[str] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.similar = tuple(similar)


class GoneError(NotFoundError):
    """A process that was there has ended, or its pid belongs to another process by now."""


class RefusedError(MountcrError):
    """The plan is refused; nothing was touched. `findings` holds the refusals."""

    exit_status = 4

    def __init__(
        self, message: str, findings: Sequence[Finding] = (), *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class PlanError(MountcrError):
    """A mount table is none that a plan can be made from; the message names the line."""

    exit_status = 4


class VerificationError(MountcrError):
    """What is there is not what was recorded. `differences` holds one line each."""

    exit_status = 5

    def __init__(
        self, message: str, differences: Sequence[str] = (), *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.differences = tuple(differences)


class CapabilityError(MountcrError):
    """This kernel, CRIU, libmount or driver cannot do it. `probe` names what was asked."""

    exit_status = 6

    def __init__(self, message: str, *, probe: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.probe = probe


class PrivilegeError(MountcrError):
    """The caller may not do it; the message says what exactly needs which privilege."""

    exit_status = 7


class StepError(MountcrError):
    """A step failed and what came before it was undone. `errno` is the kernel's, 0 if none."""

    def __init__(self, message: str, *, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class LeftBehindError(MountcrError):
    """A step failed and undoing failed too. `left` names what is still there."""

    exit_status = 8

    def __init__(self, message: str, left: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.left = tuple(left)


class CriuError(MountcrError):
    """CRIU failed. `first_error` is its first error line, `context` the log lines around it."""

    def __init__(
        self,
        message: str,
        *,
        first_error: str = "",
        context: Sequence[str] = (),
        log: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.first_error = first_error
        self.context = tuple(context)
        self.log = log


class ImageError(MountcrError):
    """A CRIU image is damaged. `file` is its path, `offset` the byte where reading failed."""

    def __init__(
        self, message: str, *, file: str, offset: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.offset = offset
