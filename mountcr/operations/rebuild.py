# SPDX-License-Identifier: Apache-2.0
"""
Rebuild: the root file system of a container, mounted on the host.

It is assembled in a private mount namespace and attached as the last thing, by descriptor
(open_tree(2) and move_mount(2), Linux 5.2), so that a failure leaves the host as it was.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import journal, mountinfo
from mountcr.boot import boot_id
from mountcr.driver import get_driver
from mountcr.errors import LeftBehindError, PrivilegeError, RefusedError, StepError, UsageError
from mountcr.execute import applied
from mountcr.graph.tree import MountTree
from mountcr.kernel import mounts
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.private import in_private_namespace
from mountcr.kernel.programs import written_dialect
from mountcr.kernel.servers import is_attached, wait
from mountcr.model import InodeType, Record
from mountcr.observation.aufs import with_branches_of_all
from mountcr.observation.elsewhere import unions_elsewhere
from mountcr.observation.fuse import server_of, with_servers_of_all
from mountcr.observation.holders import holders_of
from mountcr.observation.layers import with_layers_of_all
from mountcr.observation.stats import look
from mountcr.observation.survey import survey
from mountcr.operations.inspected import remove_inspected
from mountcr.operations.leftovers import recorded
from mountcr.operations.locks import held
from mountcr.operations.refusal import refuse
from mountcr.paths import KPath, decode
from mountcr.planning.choices import RESTORE_ROOT, new_upper
from mountcr.planning.conversion import is_foreign
from mountcr.planning.rootfs import holders, plan_rootfs
from mountcr.planning.steps import (
    Attributes,
    Aufs,
    Bind,
    FuseUnion,
    Overlay,
    Propagation,
    split_preparation,
)
from mountcr.procstat import is_same_process

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mountcr.planning.records import ContainerSummary, Plan, Rootfs
    from mountcr.planning.steps import Step
    from mountcr.rootfs.writer import Progress
    from mountcr.stack import Stack

__all__ = ["REBUILD_SCHEMA", "RebuildResult", "plan_rebuild", "rebuild", "rebuilt", "unmount"]

REBUILD_SCHEMA = "mountcr/rebuild/1"

_ENDING: Final = 10.0
"""Seconds that a FUSE server may take to write what it has and end."""


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
    RefusedError when the plan knows no layers, when the writable layer is in use elsewhere, and
    when an engine with storage of its own has the container running or mounted, unless nothing
    of it is written into.
    """
    if plan.rootfs is None:
        refuse(plan, "the rebuild")
        raise RefusedError("the plan knows of no root file system", plan.findings)
    mounted = with_branches_of_all(with_servers_of_all(mountinfo.read()))
    host = MountTree(with_layers_of_all(mounted))
    origin = plan.rootfs.origin
    if not (plan.choices.upper or plan.choices.driver or plan.choices.readonly):
        _refuse_engines(plan.container, host)
    for mount, other in holders(origin, host.mounts):
        if other.lowers != origin.lowers and not plan.choices.upper:
            msg = f"upper {origin.upper} is mounted at {mount.mountpoint} with other layers"
            raise RefusedError(msg, hint="unmount it there, or write into a copy: --upper DIR")
    if not (plan.choices.upper or plan.choices.readonly or holders(origin, host.mounts)):
        _refuse_second_mount(origin, host)
    _check_layers(origin)
    container = plan.container.id
    upper = new_upper(plan.choices, container, origin)
    if upper and os.path.lexists(decode(upper)):
        msg = f"the new writable layer {upper} is there already"
        hint = "it may hold what somebody wrote: name another one with --upper, or remove it"
        raise RefusedError(msg, hint=hint)
    if not upper and is_foreign(origin, get_driver(origin.driver), written_dialect(origin.driver)):
        msg = f"{origin.driver} keeps its marks elsewhere on this host than in these layers"
        raise RefusedError(msg, hint="have them converted: --upper DIR, or another --driver")
    found = survey(origin, plan.choices.driver or origin.driver, upper) if upper else None
    return plan_rootfs(
        origin,
        at,
        host,
        plan.choices,
        container=container,
        root=None,
        survey=found,
        boot=boot_id(),
        imported=plan.rootfs.imported,
    )


def _refuse_engines(container: ContainerSummary, host: MountTree) -> None:
    """Refuse to lend out a writable layer that an engine with storage of its own has in use."""
    if not container.storage:
        return
    hint = f"stop it with {container.engine}, look with --ro, or write into a copy: --upper DIR"
    label = f"{container.engine}:{container.name or container.id}"
    if container.pid and is_same_process(container.pid, container.start_time):
        raise RefusedError(f"{label} runs, pid {container.pid}", hint=hint)
    mounted = host.lies_on(container.rootfs) if container.rootfs else None
    if mounted is not None and mounted.mountpoint == container.rootfs:
        raise RefusedError(f"{label} is still mounted at {container.rootfs}", hint=hint)


def _refuse_second_mount(origin: Stack, host: MountTree) -> None:
    """Refuse what would be a second mount of a writable layer, and name who has it."""
    for holder in holders_of(origin, host.mounts, unions_elsewhere()):
        if holder.who:
            where = f"{holder.mountpoint} in a mount namespace of its own"
            msg = f"upper {origin.upper} is in use: {holder.who} has it mounted at {where}"
        else:
            msg = f"upper {origin.upper} is in use: mounted at {holder.mountpoint}, by another path"
        raise RefusedError(msg, hint="stop it, look with --ro, or write into a copy: --upper")


def rebuild(
    rootfs: Rootfs,
    at: KPath,
    *,
    report: Callable[[Step], None] | None = None,
    progress: Progress | None = None,
) -> RebuildResult:
    """
    Mount a root file system at a directory of the host, which is made if it is missing.

    `rootfs` has its steps at `at`; `progress` is told what is copied. Raises PrivilegeError,
    StepError (undone) or LeftBehindError. On failure nothing is mounted, and directories that were
    made for converted layers are gone, but for those of the cache.
    """
    if os.geteuid() != 0:
        raise PrivilegeError("mounting needs root (CAP_SYS_ADMIN)", hint="run as root, or use -n")
    preparation, mounting = split_preparation(rootfs.steps)
    with recorded("rebuild"):
        _make(at)
        with (
            held(rootfs.upper, rootfs.work),
            applied(preparation, LiveKernel(progress=progress), report=report),
        ):
            _assemble(mounting, at, report)
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

    Layers that were unpacked of a bundle to be looked at there are gone then.
    The server of a FUSE has ended then, unless what it serves is mounted elsewhere too, as the root
    of a container is that was restored from there. Raises UsageError when nothing is mounted there,
    LeftBehindError when files that somebody uses keep the server, OSError otherwise.
    """
    mounted = [mount for mount in mountinfo.read() if mount.mountpoint == at]
    if not mounted:
        if remove_inspected(at):  # somebody else has unmounted it, or the machine was down
            return
        raise UsageError(f"nothing is mounted at {at}", hint="name the directory given to --at")
    server = server_of(mounted[-1])
    LiveKernel().unmount(at)
    remove_inspected(at)
    if server and not is_attached(server) and not wait(server, _ENDING):
        msg = f"{at} is unmounted, but its FUSE server, pid {server.pid}, still has users"
        raise LeftBehindError(msg, [f"process {server.pid}"], hint="it ends with the last of them")


def _check_layers(stack: Stack) -> None:
    """Name a layer that is gone, or that may not be looked at, before anything is made."""
    wanted = (*stack.lowers, *stack.data)
    for number, layer in enumerate(wanted, 1):
        hint = "the image was removed since; pull it again, by digest"
        _check_layer(layer, f"lower layer {number} of {len(wanted)}", hint)
    if stack.upper:
        hint = "the container was removed since; what it wrote is lost with it"
        _check_layer(stack.upper, "the writable layer", hint)


def _check_layer(layer: KPath, name: str, hint: str) -> None:
    try:
        found = look(decode(layer), follow=True)
    except PermissionError as error:
        msg = f"{name} cannot be looked at: {layer}"
        raise PrivilegeError(msg, hint="run as root") from error
    if found is None or found.type is not InodeType.DIRECTORY:
        raise RefusedError(f"{name} is gone: {layer}", hint=hint)


def _make(at: KPath) -> None:
    """Make the directory unless it is there; when the rebuild fails, its record undoes that."""
    directory = decode(at)
    if os.path.isdir(directory):
        return
    try:
        journal.make_directory(directory)
    except OSError as error:
        msg = f"{at} cannot be made: {error.strerror}"
        raise StepError(msg, errno=error.errno or 0, hint="its parent must be there") from error


def _assemble(steps: tuple[Step, ...], at: KPath, report: Callable[[Step], None] | None) -> None:
    """Assemble privately and attach; where mounts cannot be cloned, mount at the place itself."""
    if not mounts.can_clone():
        with applied(steps, LiveKernel(), report=report):
            return
    os.makedirs(decode(RESTORE_ROOT), exist_ok=True)
    private = tuple(_moved(step, at, RESTORE_ROOT) for step in steps)
    fds: list[int] = []

    def work() -> None:
        with applied(private, LiveKernel(), report=report):
            fds.append(mounts.clone(RESTORE_ROOT))

    in_private_namespace(work, fds=fds)
    try:
        journal.attaching(fds[0], at)
        mounts.attach(fds[0], at)
    finally:
        os.close(fds[0])


def _moved(step: Step, at: KPath, private: KPath) -> Step:
    """Let a step act on the private place instead of the final one."""
    if not isinstance(step, Overlay | Aufs | FuseUnion | Bind | Attributes | Propagation):
        return step
    if step.at == at:
        return msgspec.structs.replace(step, at=private)
    return step
