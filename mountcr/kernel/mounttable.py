# SPDX-License-Identifier: Apache-2.0
"""
Mount tables by listmount(2) and statmount(2), as records of mountinfo with a unique id.

mountinfo is read first everywhere: it costs no more, every kernel has it, and it cuts nothing,
neither options nor paths longer than a page. What it does not have are ids that are not given
out again, and the mounts of a namespace that no process is in.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr.kernel import statmount as calls
from mountcr.kernel import syscalls
from mountcr.kernel.nsfs import mount_namespace_info
from mountcr.kernel.statmount import StatMount, listmount, statmount
from mountcr.model import Mount, MountId
from mountcr.paths import KPath, encode, from_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["read", "told_mounts", "with_unique_ids"]

_GROUPS: Final = (
    calls.STATMOUNT_SB_BASIC
    | calls.STATMOUNT_MNT_BASIC
    | calls.STATMOUNT_PROPAGATE_FROM
    | calls.STATMOUNT_MNT_ROOT
    | calls.STATMOUNT_MNT_POINT
    | calls.STATMOUNT_FS_TYPE
    | calls.STATMOUNT_MNT_OPTS
    | calls.STATMOUNT_FS_SUBTYPE
    | calls.STATMOUNT_SB_SOURCE
)
"""What makes a line of mountinfo."""

# In the order of fs/proc_namespace.c, `show_mnt_opts()`: word, which bits, how they are.
_OPTIONS: Final = (
    ("nosuid", syscalls.MOUNT_ATTR_NOSUID, syscalls.MOUNT_ATTR_NOSUID),
    ("nodev", syscalls.MOUNT_ATTR_NODEV, syscalls.MOUNT_ATTR_NODEV),
    ("noexec", syscalls.MOUNT_ATTR_NOEXEC, syscalls.MOUNT_ATTR_NOEXEC),
    ("noatime", syscalls.MOUNT_ATTR__ATIME, syscalls.MOUNT_ATTR_NOATIME),
    ("nodiratime", syscalls.MOUNT_ATTR_NODIRATIME, syscalls.MOUNT_ATTR_NODIRATIME),
    ("relatime", syscalls.MOUNT_ATTR__ATIME, syscalls.MOUNT_ATTR_RELATIME),
    ("nosymfollow", syscalls.MOUNT_ATTR_NOSYMFOLLOW, syscalls.MOUNT_ATTR_NOSYMFOLLOW),
    ("idmapped", calls.MOUNT_ATTR_IDMAP, calls.MOUNT_ATTR_IDMAP),
)

# In the order of `show_sb_opts()`. The bits are those of mount(2); `mand`, which does nothing
# since Linux 5.15, is not told.
_SUPER_OPTIONS: Final = (
    ("sync", syscalls.MS_SYNCHRONOUS),
    ("dirsync", syscalls.MS_DIRSYNC),
    ("lazytime", syscalls.MS_LAZYTIME),
)


def read(namespace: int | None = None) -> tuple[Mount, ...]:
    """
    Read a mount table: that of the calling thread, or of the namespace that a descriptor is of.

    The records are those of mountinfo, in its order, and have a `unique_id`. Of another namespace
    the mountpoints are from its root, whatever root a task there has. What lies under that root may
    be told as well: kernel-notes/wrong-root-of-another-namespace.md. `propagate_from` is left out,
    because the kernel looks for it below the caller's root (fs/namespace.c, `do_statmount()`).

    Raises OSError: ENOSYS before Linux 6.8, EOPNOTSUPP where the kernel does not tell all fields
    (before Linux 6.13) or not all mounts, and what `mount_namespace_info` and the calls raise.
    """
    if _GROUPS & ~calls.told_groups():
        raise OSError(errno.EOPNOTSUPP, "statmount(2) tells a part of a mount only")
    number, count = (0, 0) if namespace is None else mount_namespace_info(namespace)
    mounts = tuple(told_mounts(number))
    # kernel-notes/wrong-root-of-another-namespace.md
    if len(mounts) < count:
        msg = f"listmount(2) tells {len(mounts)} of {count} mounts"
        raise OSError(errno.EOPNOTSUPP, msg)
    return mounts


def with_unique_ids(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """
    Give mounts of the calling thread's namespace with their unique ids.

    They stay as they are where the kernel tells none, before Linux 6.8, and 0 stands for a mount
    that is gone by now.
    """
    mounts = tuple(mounts)
    wanted = {mount.id for mount in mounts}
    found: dict[int, int] = {}
    with contextlib.suppress(OSError):  # ENOSYS
        for unique in reversed(listmount()):  # who asks, asks for new ones
            if len(found) == len(wanted):
                break
            told = _told(unique, calls.STATMOUNT_MNT_BASIC, 0)
            if told and told.mnt_id_old in wanted:
                found[told.mnt_id_old] = unique
    return tuple(
        msgspec.structs.replace(mount, unique_id=found.get(mount.id, 0)) for mount in mounts
    )


def told_mounts(namespace: int = 0) -> Iterator[Mount]:
    """
    Give the mounts of a namespace, by its 64-bit id, 0 for the caller's, as far as they are told.

    What this kernel does not tell is empty. Raises OSError as `listmount`.
    """
    for unique in listmount(namespace=namespace):
        told = _told(unique, _GROUPS, namespace)
        # as in mountinfo, there is none without a path from the root
        if told and told.mnt_point is not None:
            yield _mount(told)


def _told(unique: int, groups: int, namespace: int) -> StatMount | None:
    """Ask for a mount; None when it was unmounted meanwhile."""
    try:
        return statmount(unique, groups, namespace=namespace)
    except FileNotFoundError:
        return None


def _mount(told: StatMount) -> Mount:
    return Mount(
        id=MountId(told.mnt_id_old),
        parent=MountId(told.mnt_parent_id_old),
        dev=f"{told.sb_dev_major}:{told.sb_dev_minor}",
        root=encode(told.mnt_root or b""),
        mountpoint=encode(told.mnt_point or b""),
        options=_options(told.mnt_attr),
        optional=tuple(_optional(told)),
        fstype=_mangled(b".".join(filter(None, (told.fs_type, told.fs_subtype)))),
        source=_mangled(told.sb_source or b""),
        super_options=_super_options(told),
        unique_id=told.mnt_id,
    )


def _mangled(name: bytes) -> KPath:
    """Spell a name as fs/proc_namespace.c, `mangle()` does, for which `#` is special too."""
    return KPath(encode(name).replace("#", r"\043"))


def _options(attributes: int) -> str:
    words = ["ro" if attributes & syscalls.MOUNT_ATTR_RDONLY else "rw"]
    words += [word for word, bits, wanted in _OPTIONS if attributes & bits == wanted]
    return ",".join(words)


def _optional(told: StatMount) -> Iterable[str]:
    """Give the optional fields, as fs/proc_namespace.c, `show_mountinfo()`."""
    if told.mnt_propagation & syscalls.MS_SHARED:
        yield f"shared:{told.mnt_peer_group}"
    if told.mnt_propagation & syscalls.MS_SLAVE:
        yield f"master:{told.mnt_master}"
        if told.propagate_from not in {0, told.mnt_master}:
            yield f"propagate_from:{told.propagate_from}"
    if told.mnt_propagation & syscalls.MS_UNBINDABLE:
        yield "unbindable"


def _super_options(told: StatMount) -> str:
    words = ["ro" if told.sb_flags & syscalls.MS_RDONLY else "rw"]
    words += [word for word, bit in _SUPER_OPTIONS if told.sb_flags & bit]
    return ",".join((*words, *filter(None, (from_line(told.mnt_opts or b""),))))
