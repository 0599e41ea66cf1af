# SPDX-License-Identifier: Apache-2.0
"""
mountcr as a library: find, observe, plan, rebuild, dump, restore.

Paths are those of the caller, `str` or `bytes` or anything with `__fspath__`; records hold them
in mountinfo spelling (`mountcr.paths`). Every error is a `MountcrError`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from mountcr import engines, observation
from mountcr.operations import dump as dumping
from mountcr.operations import rebuild as rebuilding
from mountcr.operations import restore as restoring
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from mountcr.model import Container, Facts
    from mountcr.operations.dump import DumpResult
    from mountcr.operations.restore import RestoreResult
    from mountcr.planning.records import Plan

__all__ = ["AnyPath", "dump", "find", "observe", "plan", "rebuild", "restore"]

AnyPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"


def _absolute(path: AnyPath) -> KPath:
    return encode(os.path.abspath(os.fsencode(path)))


def find(reference: str, *, runtime_roots: Iterable[str] = ()) -> Container:
    """
    Find a container by id, unique prefix, name, `engine:ref`, pid, or the path of an OCI bundle.

    Raises NotFoundError (with names like it), AmbiguousError (with all candidates), UsageError.
    """
    return engines.find(reference, roots=engines.Roots.of_host(runtime_roots))


def observe(container: Container) -> Facts:
    """
    Observe a container and this host; nothing is changed.

    Raises GoneError when it has ended or its pid was reused, PrivilegeError when its mount table
    may not be read. What else may not be seen is in `facts.unseen`.
    """
    return observation.observe(container)


def plan(facts: Facts, choices: Choices | None = None) -> Plan:
    """Plan a dump and a restore. Pure: no file is opened, nothing is changed. Never refuses."""
    return make_plan(facts, choices)


@contextlib.contextmanager
def rebuild(plan: Plan, at: AnyPath) -> Generator[KPath]:
    """
    Mount the root file system of a plan at a directory of this host for a block of code.

    It stays mounted when the block ends well, and is unmounted when it fails. The directory is
    made if it is missing. Raises RefusedError, PrivilegeError, StepError (undone), LeftBehindError
    (names what is left). No descriptor stays open.
    """
    target = _absolute(at)
    with rebuilding.rebuilt(rebuilding.plan_rebuild(plan, target), target):
        yield target


def dump(container: Container, images: AnyPath, choices: Choices | None = None) -> DumpResult:
    """
    Dump a running container into a directory, which is made if it is missing.

    The tasks have ended afterwards, unless `choices.leave_running`. On any error they go on, and
    the directory keeps CRIU's log. Raises PrivilegeError, CapabilityError, RefusedError (nothing
    was touched), GoneError, CriuError.
    """
    choices = msgspec.structs.replace(choices or Choices(), images=_absolute(images))
    return dumping.dump(container, choices)


def restore(
    images: AnyPath, choices: Choices | None = None, *, stdio: str = "null", via: str = "criu"
) -> RestoreResult:
    """
    Restore what was dumped into a directory.

    `via` says who does it, `criu` or the container's own `runtime`; `stdio` what becomes of
    standard streams that led to a runtime: `null`, `inherit` or the path of a file. Raises
    NotFoundError or DocumentError for what is no images directory,
    RefusedError, VerificationError, PrivilegeError, CapabilityError, CriuError, StepError; on
    error nothing runs and nothing is mounted. Differences that the plan announced are in the
    result.
    """
    return restoring.restore(_absolute(images), choices or Choices(), stdio=stdio, via=via)
