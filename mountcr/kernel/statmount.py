# SPDX-License-Identifier: Apache-2.0
"""Mounts by their unique ids: statmount(2) and listmount(2), wrapped as in `syscalls`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.kernel._libc_ffi import ffi
from mountcr.kernel.syscalls import call, checked

if TYPE_CHECKING:
    from mountcr.kernel._libc_ffi import CData

__all__ = [
    "LSMT_ROOT",
    "MOUNT_ATTR_IDMAP",
    "STATMOUNT_FS_SUBTYPE",
    "STATMOUNT_FS_TYPE",
    "STATMOUNT_MNT_BASIC",
    "STATMOUNT_MNT_OPTS",
    "STATMOUNT_MNT_POINT",
    "STATMOUNT_MNT_ROOT",
    "STATMOUNT_PROPAGATE_FROM",
    "STATMOUNT_SB_BASIC",
    "STATMOUNT_SB_SOURCE",
    "StatMount",
    "listmount",
    "statmount",
    "told_groups",
]

# include/uapi/linux/mount.h
STATMOUNT_SB_BASIC: Final = 0x01
STATMOUNT_MNT_BASIC: Final = 0x02
STATMOUNT_PROPAGATE_FROM: Final = 0x04
STATMOUNT_MNT_ROOT: Final = 0x08
STATMOUNT_MNT_POINT: Final = 0x10
STATMOUNT_FS_TYPE: Final = 0x20
STATMOUNT_MNT_OPTS: Final = 0x80  # Linux 6.11
STATMOUNT_FS_SUBTYPE: Final = 0x100  # Linux 6.13
STATMOUNT_SB_SOURCE: Final = 0x200  # Linux 6.13
_STATMOUNT_SUPPORTED_MASK: Final = 0x1000  # Linux 6.15
MOUNT_ATTR_IDMAP: Final = 0x100000
LSMT_ROOT: Final = 0xFFFF_FFFF_FFFF_FFFF

_SYS_statmount: Final = 457
_SYS_listmount: Final = 458

_STATMOUNT_SIZE: Final = 4096
_STATMOUNT_LARGEST: Final = 1 << 20  # two paths of PATH_MAX fit many times
_LISTMOUNT_PAGE: Final = 512


class StatMount(NamedTuple):
    """
    What `statmount(2)` tells of a mount; the names are those of `struct statmount`.

    `mask` says which groups the kernel filled in: numbers of the others are 0, strings None.
    `mnt_id` and `mnt_parent_id` are unique until reboot, the `_old` ones are those of mountinfo.
    `mnt_root` and `mnt_point` are the bytes themselves, without mountinfo's escapes; `mnt_point`
    is relative to the caller's root, or to the root of another namespace that was asked for.
    `mnt_opts` are the options of the superblock as mountinfo has them, without `ro`, `rw` and what
    is a bit of `sb_flags`; `sb_source` and `fs_subtype` are the bytes. A string that is empty may
    be None as well: `told_groups` says what the kernel knows.
    """

    mask: int
    sb_dev_major: int
    sb_dev_minor: int
    sb_magic: int
    sb_flags: int
    mnt_id: int
    mnt_parent_id: int
    mnt_id_old: int
    mnt_parent_id_old: int
    mnt_attr: int
    mnt_propagation: int
    mnt_peer_group: int
    mnt_master: int
    propagate_from: int
    mnt_root: bytes | None
    mnt_point: bytes | None
    fs_type: bytes | None
    mnt_opts: bytes | None
    fs_subtype: bytes | None
    sb_source: bytes | None
    supported_mask: int


def _mount_request(mount_id: int, param: int, namespace: int) -> CData:
    size = ffi.sizeof("struct mnt_id_req")
    fields = {"size": size, "mnt_id": mount_id, "param": param, "mnt_ns_id": namespace}
    return ffi.new("struct mnt_id_req *", fields)


def statmount(
    mount_id: int, mask: int, size: int = _STATMOUNT_SIZE, *, namespace: int = 0
) -> StatMount:
    """
    `statmount(2)` of a unique mount id; ENOSYS before Linux 6.8.

    `mask` is made of STATMOUNT_*; `size` is how many bytes of memory the kernel is offered at
    first, which it fills in one go if they are enough. `namespace` is the 64-bit id of another
    mount namespace (not its inode number), 0 for the caller's; E2BIG before Linux 6.11, ENOENT for
    one that is gone or whose owner the caller has no CAP_SYS_ADMIN in. ENOENT for an id that is not
    in the namespace; newer kernels answer EINVAL to the small ids of mountinfo. EPERM for a mount
    outside the caller's root, without CAP_SYS_ADMIN.
    """
    request = _mount_request(mount_id, mask, namespace)
    while True:
        memory = ffi.new("char[]", size)
        returned = call(_SYS_statmount, request, memory, size, 0)
        if returned == 0 or ffi.errno != errno.EOVERFLOW or size >= _STATMOUNT_LARGEST:
            break
        size *= 4
    checked(returned, mount_id)
    found = ffi.cast("struct statmount *", memory)
    strings = ffi.sizeof("struct statmount")

    def string(group: int, offset: int) -> bytes | None:
        return ffi.string(memory + (strings + offset)) if found.mask & group else None

    return StatMount(
        mask=found.mask,
        sb_dev_major=found.sb_dev_major,
        sb_dev_minor=found.sb_dev_minor,
        sb_magic=found.sb_magic,
        sb_flags=found.sb_flags,
        mnt_id=found.mnt_id,
        mnt_parent_id=found.mnt_parent_id,
        mnt_id_old=found.mnt_id_old,
        mnt_parent_id_old=found.mnt_parent_id_old,
        mnt_attr=found.mnt_attr,
        mnt_propagation=found.mnt_propagation,
        mnt_peer_group=found.mnt_peer_group,
        mnt_master=found.mnt_master,
        propagate_from=found.propagate_from,
        mnt_root=string(STATMOUNT_MNT_ROOT, found.mnt_root),
        mnt_point=string(STATMOUNT_MNT_POINT, found.mnt_point),
        fs_type=string(STATMOUNT_FS_TYPE, found.fs_type),
        mnt_opts=string(STATMOUNT_MNT_OPTS, found.mnt_opts),
        fs_subtype=string(STATMOUNT_FS_SUBTYPE, found.fs_subtype),
        sb_source=string(STATMOUNT_SB_SOURCE, found.sb_source),
        supported_mask=found.supported_mask if found.mask & _STATMOUNT_SUPPORTED_MASK else 0,
    )


def told_groups() -> int:
    """
    Give the groups that this kernel knows of, as STATMOUNT_*. Raises OSError as `listmount`.

    Before Linux 6.15, which has a group of its own for that, the groups are united that are filled
    in for mounts of the caller: what is empty is left out of a mask (fs/namespace.c,
    `statmount_string()`). FS_SUBTYPE, which few mounts have, came in the release of SB_SOURCE.
    """
    told = 0
    everything = 2 * _STATMOUNT_SUPPORTED_MASK - 1
    for each in listmount():
        try:
            found = statmount(each, everything)
        except FileNotFoundError:
            continue  # unmounted meanwhile
        if found.supported_mask:
            return found.supported_mask
        told |= found.mask
        if told & STATMOUNT_SB_SOURCE and told & STATMOUNT_MNT_OPTS:
            return told | STATMOUNT_FS_SUBTYPE
    return told


def listmount(mount_id: int = LSMT_ROOT, *, namespace: int = 0) -> list[int]:
    """
    `listmount(2)`: the unique ids of all mounts below one, at any depth; ENOSYS before Linux 6.8.

    LSMT_ROOT stands for all mounts below the caller's root, or that of another `namespace`, as for
    `statmount`, its mount included; with an id the mount itself is not among them. The ids ascend,
    in the order of creation. EPERM as `statmount`.
    """
    ids: list[int] = []
    page = ffi.new("uint64_t[]", _LISTMOUNT_PAGE)
    while True:
        request = _mount_request(mount_id, ids[-1] if ids else 0, namespace)
        count = checked(call(_SYS_listmount, request, page, _LISTMOUNT_PAGE, 0), mount_id)
        ids.extend(page[index] for index in range(count))
        if count < _LISTMOUNT_PAGE:
            return ids
