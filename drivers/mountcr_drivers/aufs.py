# SPDX-License-Identifier: Apache-2.0
"""AUFS: branches with permissions, merged by a kernel that was patched for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mountcr import paths
from mountcr.aufsopts import AufsOptions, Branch, options_of
from mountcr.planning.steps import Aufs, Step
from mountcr.resolution.layers import by_branch, by_layer
from mountcr.stack import Stack, StoredLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mountcr.graph.tree import MountTree
    from mountcr.model import Mount, OpenFile
    from mountcr.paths import KPath
    from mountcr.resolution.layers import PathFix
    from mountcr.resolution.unions import Seen, Union

__all__ = ["AUFS"]

_WRITABLE: Final = "rw"
_LOWER: Final = "ro+wh"
"""Without `+wh`, which AUFS does not assume, it would ignore the whiteouts of a lower layer."""


class AUFS:
    """The driver of `aufs` mounts, of Docker's and anybody's."""

    name: ClassVar[str] = "aufs"
    dialect: ClassVar[str] = "aufs"
    flat: ClassVar[bool] = False

    def recognise(self, mount: Mount, host: MountTree) -> Stack | None:
        """
        Take the branches that were observed, or that the options tell.

        A container's mount that has none may be one of the host's that has. None where nobody
        tells. A writable branch below a read-only one is no upper (rule M11).
        """
        if mount.fstype != "aufs":
            return None
        same = (each for each in host.mounts if (each.dev, each.fstype) == (mount.dev, "aufs"))
        told = next((each for each in (mount, *same) if options_of(each).branches), None)
        if told is None:
            return None
        options = options_of(told)
        upper, lowers = _split(options.branches)
        return Stack(
            driver=self.name,
            upper=upper.path if upper else None,
            lowers=tuple(each.path for each in lowers),
            permissions=tuple(each.permission for each in options.branches),
            options=options.others,
            provenance=(_provenance(told, options),),
        )

    def layers(self, stack: Stack) -> tuple[StoredLayer, ...]:
        """Read them as AUFS does, which ignores the whiteouts of a lower one without `+wh`."""
        return tuple(
            StoredLayer(path=each.path, dialect="aufs" if each.whiteouts else "aufs-nowh")
            for each in _branches(stack)
        )

    def stack(
        self,
        lowers: tuple[KPath, ...],
        upper: KPath,
        *,
        origin: Stack,
        together: bool,  # noqa: ARG002
    ) -> Stack:
        """
        Keep the options of an AUFS stack and the attributes of its branches.

        Only the new upper is written into, whatever was writable before.
        """
        ours = origin.driver == self.name
        before = {each.path: each for each in _branches(origin)} if ours else {}
        top = before.get(origin.upper) if origin.upper else None
        permissions = [_frozen(before[each]) if each in before else _LOWER for each in lowers]
        return Stack(
            driver=self.name,
            lowers=lowers,
            upper=upper,
            permissions=(top.permission if top else _WRITABLE, *permissions),
            options=_without_xino_in(origin) if ours else (),
            provenance=origin.provenance,
        )

    def assemble(self, stack: Stack, at: KPath) -> Sequence[Step]:
        """Mount it; a stack without upper is read-only."""
        because = stack.provenance[0] if stack.provenance else "the stack is AUFS"
        branches = _branches(stack)
        return [
            Aufs(
                at=at,
                branches=tuple(each.path for each in branches),
                permissions=tuple(each.permission for each in branches),
                options=stack.options,
                because=because,
            )
        ]

    def logical_path(self, file: OpenFile, union: Union, seen: Seen) -> PathFix | None:
        """Find a mapping that is shown by a branch, and whatever is by a mount of one."""
        return by_branch(file, union, seen) or by_layer(file, union, seen)


def _split(branches: Sequence[Branch]) -> tuple[Branch | None, Sequence[Branch]]:
    """Give the writable branch on top, if any, and the others in their order."""
    first = branches[0]
    return (first, branches[1:]) if first.writable else (None, branches)


def _provenance(mount: Mount, options: AufsOptions) -> str:
    if options.told:
        return f"Docker: {options.told}"
    who = "sysfs" if any(each.startswith("/") for each in mount.branches) else "mountinfo"
    return f"{who}: branches of the AUFS mount {mount.id} at {mount.mountpoint}"


def _branches(stack: Stack) -> list[Branch]:
    """Give the directories of a stack with their permissions; none is writable without an upper."""
    default = ([_WRITABLE] if stack.upper else []) + [_LOWER] * len(stack.lowers)
    told = len(stack.permissions) == len(default)
    permissions = stack.permissions if told else default
    found = [Branch(*each) for each in zip(stack.directories, permissions, strict=True)]
    if stack.upper:
        return found
    return [Branch(each.path, _frozen(each)) for each in found]


def _frozen(branch: Branch) -> str:
    """Give the permission under which a branch shows the same and is not written into."""
    return _LOWER if branch.writable else branch.permission


def _without_xino_in(stack: Stack) -> tuple[str, ...]:
    """Give the options without a place for inode numbers inside of the old writable layer."""
    upper = stack.upper
    return tuple(
        each
        for each in stack.options
        if upper is None
        or not each.startswith("xino=")
        or not paths.is_beneath(paths.KPath(each[len("xino=") :]), upper)
    )
