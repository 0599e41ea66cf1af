# SPDX-License-Identifier: Apache-2.0
"""
Rebuild: the root file system of a container, mounted on the host.

It is assembled in a private mount namespace and attached as the last thing, by descriptor
(open_tree(2) and move_mount(2), Linux 5.2), so that a failure leaves the host as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import msgspec

from mountcr import mountinfo
from mountcr.errors import PrivilegeError, RefusedError, StepError, UsageError
from mountcr.execute import applied
from mountcr.graph.tree import MountTree
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_private_namespace
from mountcr.model import Record
from mountcr.observation.elsewhere import unions_elsewhere
from mountcr.operations.locks import held
from mountcr.operations.refusal import refuse
from mountcr.paths import KPath, decode
from mountcr.planning.choices import RESTORE_ROOT
from mountcr.planning.rootfs import holders, plan_rootfs
from mountcr.planning.steps import Attributes, Bind, Overlay, Propagation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mountcr.model import Stack
    from mountcr.planning.records import Plan, Rootfs
    from mountcr.planning.steps import Step

__all__ = ["REBUILD_SCHEMA", "RebuildResult", "plan_rebuild", "rebuild", "rebuilt", "unmount"]

REBUILD_SCHEMA = "mountcr/rebuild/1"


class RebuildResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """Where the root file system is mounted, by which driver, and the steps that were done."""

    schema: str = REBUILD_SCHEMA
    mountpoint: KPath
    driver: str
    steps: tuple[str, ...]


def plan_rebuild(plan: Plan, at: KPath) -> Rootfs:
    """
    Give the root file system of a plan with steps that mount it at `at`, on this host as it is.

    What is mounted now decides whether the stack is mounted or what is there is bound. Raises
    RefusedError when the plan knows no layers, or when the writable layer is in use elsewhere.
    """
    if plan.rootfs is None:
        refuse(plan, "the rebuild")
        raise RefusedError("the plan knows of no root file system", plan.findings)
    host = MountTree(mountinfo.read())
    origin = plan.rootfs.origin
    for mount, other in holders(origin, host.mounts):
        if other.lowers != origin.lowers and not plan.choices.upper:
            msg = f"upper {origin.upper} is mounted at {mount.mountpoint} with other layers"
            raise RefusedError(msg, hint="unmount it there, or write into a copy: --upper DIR")
    if not (plan.choices.upper or plan.choices.readonly or holders(origin, host.mounts)):
        _refuse_elsewhere(origin)
    return plan_rootfs(origin, at, host, plan.choices, container=plan.container.id, root=None)


def _refuse_elsewhere(origin: Stack) -> None:
    """Refuse what would be a second mount of a writable layer."""
    for namespace in unions_elsewhere():
        for mount, _ in holders(origin, namespace.mounts):
            msg = (
                f"upper {origin.upper} is in use: pid {namespace.pid} has it mounted at "
                f"{mount.mountpoint} in a mount namespace of its own"
            )
            raise RefusedError(msg, hint="stop it, look with --ro, or write into a copy: --upper")


def rebuild(
    rootfs: Rootfs, at: KPath, *, report: Callable[[Step], None] | None = None
) -> RebuildResult:
    """
    Mount a root file system at a directory of the host, which is made if it is missing.

    `rootfs` has its steps at `at`. Raises PrivilegeError, StepError (undone) or LeftBehindError.
    On failure nothing is mounted; directories that were made for a converted layer are removed.
    """
    if os.geteuid() != 0:
        raise PrivilegeError("mounting needs root (CAP_SYS_ADMIN)", hint="run as root, or use -n")
    _check_layers(rootfs)
    made = _make(at)
    try:
        with held(rootfs.upper):
            _assemble(rootfs, at, report)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(decode(at))
        raise
    return RebuildResult(
        mountpoint=at,
        driver=rootfs.driver,
        steps=tuple(step.describe() for step in rootfs.steps),
    )


@contextlib.contextmanager
def rebuilt(rootfs: Rootfs, at: KPath) -> Generator[KPath]:
    """Mount a root file system for a block of code; unmount it if the block fails."""
    rebuild(rootfs, at)
    try:
        yield at
    except BaseException:
        LiveKernel().unmount(at)
        raise


def unmount(at: KPath) -> None:
    """
    Unmount what `rebuild` mounted at a directory; what was written into layers stays.

    Raises UsageError when nothing is mounted there, OSError otherwise.
    """
    if not any(mount.mountpoint == at for mount in mountinfo.read()):
        raise UsageError(f"nothing is mounted at {at}", hint="name the directory given to --at")
    LiveKernel().unmount(at)


def _check_layers(rootfs: Rootfs) -> None:
    """Name a layer that is gone before anything is made; new uppers are not there yet."""
    wanted = (*rootfs.layers, *rootfs.data)
    for number, layer in enumerate(wanted, 1):
        if not os.path.isdir(decode(layer)):
            msg = f"lower layer {number} of {len(wanted)} is gone: {layer}"
            hint = "the image was removed since; pull it again, by digest"
            raise RefusedError(msg, hint=hint)


def _make(at: KPath) -> bool:
    directory = decode(at)
    if os.path.isdir(directory):
        return False
    try:
        os.mkdir(directory, 0o755)
    except OSError as error:
        msg = f"{at} cannot be made: {error.strerror}"
        raise StepError(msg, errno=error.errno or 0, hint="its parent must be there") from error
    return True


def _assemble(rootfs: Rootfs, at: KPath, report: Callable[[Step], None] | None) -> None:
    """Assemble privately and attach; where mounts cannot be cloned, mount at the place itself."""
    if not _can_clone():
        with applied(rootfs.steps, LiveKernel(), report=report):
            return
    os.makedirs(decode(RESTORE_ROOT), exist_ok=True)
    private = tuple(_moved(step, at, RESTORE_ROOT) for step in rootfs.steps)
    fds: list[int] = []

    def work() -> None:
        with applied(private, LiveKernel(), report=report):
            fds.append(mounts.clone(RESTORE_ROOT))

    in_private_namespace(work, fds=fds)
    try:
        mounts.attach(fds[0], at)
    finally:
        os.close(fds[0])


def _can_clone() -> bool:
    """Ask the kernel for open_tree(2), with a path that is nowhere."""
    try:
        syscalls.open_tree(-1, b"", 0)
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def _moved(step: Step, at: KPath, private: KPath) -> Step:
    """Let a step act on the private place instead of the final one."""
    if isinstance(step, Overlay | Bind | Attributes | Propagation) and step.at == at:
        return msgspec.structs.replace(step, at=private)
    return step
