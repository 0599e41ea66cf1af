# SPDX-License-Identifier: Apache-2.0
"""How the root file system comes back: which stack, from where, and the steps that mount it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import paths
from mountcr.driver import get_driver, recognise
from mountcr.errors import PlanError
from mountcr.graph.tree import MountTree
from mountcr.planning.choices import new_upper
from mountcr.planning.conversion import convert
from mountcr.planning.recorded import settled
from mountcr.planning.records import Rootfs
from mountcr.planning.steps import Attributes, Bind, Propagation, Step
from mountcr.planning.volatile import marker_steps
from mountcr.stack import Stack
from mountcr.target import Survey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Container, Mount
    from mountcr.paths import KPath
    from mountcr.planning.choices import Choices

__all__ = ["find_stack", "holders", "plan_rootfs", "read_only", "rootfs_of"]

_FOLLOWED: Final = {"metacopy": "off", "redirect_dir": "nofollow"}
"""Options of an overlay that decide which marks are followed, with what follows none."""

_KEPT = ("nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow")


def find_stack(container: Container, root: Mount | None, host: MountTree) -> Stack | None:
    """
    Say what a container's root is made of.

    The root mount of the running task tells, and the engine's record what it does not; for a
    container that does not run, what is mounted at its rootfs on the host, the record, or the
    directory itself. Where an engine with storage of its own has no record of it, nobody knows.
    """
    recorded = container.stack
    if root is not None:
        return settled(recognise(root, host), recorded)
    mounted = host.lies_on(container.rootfs) if container.rootfs else None
    if mounted is not None and mounted.mountpoint == container.rootfs:
        return settled(recognise(mounted, host), recorded)
    if recorded is not None or container.storage or container.rootfs is None:
        return recorded
    return Stack(driver="vfs", upper=container.rootfs, provenance=container.provenance)


def holders(stack: Stack, mounts: Iterable[Mount]) -> list[tuple[Mount, Stack]]:
    """Give the mounts that have the stack's upper as theirs, and what they are made of."""
    if stack.driver == "vfs" or stack.upper is None:
        return []
    driver = get_driver(stack.driver)
    nowhere = MountTree(())
    found = ((mount, driver.recognise(mount, nowhere)) for mount in mounts)
    return [(mount, other) for mount, other in found if other and other.upper == stack.upper]


def plan_rootfs(
    stack: Stack,
    at: KPath,
    host: MountTree,
    choices: Choices,
    *,
    container: str,
    root: Mount | None,
    survey: Survey | None = None,
    boot: str = "",
    imported: bool = False,
) -> Rootfs:
    """
    Give the stack that will be mounted at `at` and the steps for it.

    The writable layer is used where it lies, unless another driver or another upper was asked
    for; then its changes are taken over and the original is left alone. `survey` tells which
    lower layers another driver can use where they lie. `root` is the root mount as it was, whose
    attributes come back. `boot` is that of the host that mounts it (`Host.boot`). `imported` layers
    are somebody else's: to look at them they are mounted so that nothing in them has an effect.

    Raises PlanError for imported layers that are none.
    """
    if imported and not stack.directories:
        msg = f"{container}: its root file system was imported as no directory at all"
        raise PlanError(msg, hint="the document was changed; import the bundle again")
    origin = stack
    driver = get_driver(choices.driver or stack.driver)
    existing = _existing(stack, host)
    upper = new_upper(choices, container, stack)
    if choices.readonly:
        shown = _inspected(stack) if imported else stack
        steps = [_bind(existing, at)] if existing else read_only(shown, at)
        steps.append(Attributes(at=at, attributes=("ro",), because="asked for"))
        if imported:
            because = "the layers came in a bundle"
            steps.append(Attributes(at=at, attributes=("nosuid", "nodev"), because=because))
    elif upper:
        stack, preparation = convert(stack, driver, upper, survey or Survey())
        steps = [*preparation, *driver.assemble(stack, at)]
    elif existing:
        steps = [_bind(existing, at)]
    else:
        steps = [*marker_steps(stack, boot), *driver.assemble(stack, at)]
    if root is not None:
        steps += _attributes(root, at)
    return rootfs_of(stack, origin=origin, imported=imported, steps=steps)


def rootfs_of(
    stack: Stack, *, origin: Stack, imported: bool = False, steps: Iterable[Step] = ()
) -> Rootfs:
    """Give a root file system that is made of a stack, and was made of `origin`."""
    return Rootfs(
        driver=stack.driver,
        origin=origin,
        imported=imported,
        layers=stack.lowers,
        data=stack.data,
        upper=stack.upper,
        work=stack.work,
        options=stack.options,
        steps=tuple(steps),
        provenance=stack.provenance,
    )


def _existing(stack: Stack, host: MountTree) -> Mount | None:
    """Find where the very same stack is mounted already: it must never be mounted twice."""
    for mount, other in holders(stack, host.mounts):
        whole = mount.root == paths.ROOT  # a part of it may be bound somewhere as well
        if whole and other.lowers == stack.lowers and not host.hidden(mount):
            return mount
    return None


def _bind(mount: Mount, at: KPath) -> Step:
    because = f"the same stack is mounted at {mount.mountpoint} already"
    return Bind(source=mount.mountpoint, at=at, because=because)


def read_only(stack: Stack, at: KPath) -> list[Step]:
    """Mount a stack with its upper as the topmost lower: nothing can be written into it."""
    lowers = stack.directories
    frozen = msgspec.structs.replace(stack, lowers=lowers, upper=None, work=None)
    driver = get_driver(stack.driver if len(lowers) > 1 else "vfs")
    return list(driver.assemble(frozen, at))


def _inspected(stack: Stack) -> Stack:
    """
    Give a stack whose marks lead nowhere.

    A redirect or a metacopy of a layer would show a file of another one, whatever its mode there
    (Documentation/filesystems/overlayfs.rst, "Metadata only copy up").
    """
    if stack.driver != "overlay":
        return stack
    kept = (each for each in stack.options if each.partition("=")[0] not in _FOLLOWED)
    options = tuple(sorted((*kept, *(f"{name}={value}" for name, value in _FOLLOWED.items()))))
    return msgspec.structs.replace(stack, options=options)


def _attributes(root: Mount, at: KPath) -> list[Step]:
    """
    Give the root its attributes and, where it was in a peer group, one to be in again.

    Read-only it becomes only when CRIU is done: unless there is a /tmp, CRIU makes a directory in
    it for pivot_root(2) (criu/mount.c, `cr_pivot_root()`).
    """
    steps: list[Step] = []
    kept = tuple(each for each in root.options.split(",") if each in _KEPT)
    if kept:
        steps.append(
            Attributes(at=at, attributes=kept, because=f"the root mount was {root.options}")
        )
    if root.master or root.shared:
        field = f"master:{root.master}" if root.master else f"shared:{root.shared}"
        because = f"the root mount was {field}, and CRIU copies that from a shared mount only"
        steps.append(Propagation(at=at, propagation="shared", because=because))
    return steps
