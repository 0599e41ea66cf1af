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
    "STATMOUNT_FS_TYPE",
    "STATMOUNT_MNT_BASIC",
    "STATMOUNT_MNT_OPTS",
    "STATMOUNT_MNT_POINT",
    "STATMOUNT_MNT_ROOT",
    "STATMOUNT_SB_BASIC",
    "StatMount",
    "listmount",
    "statmount",
]

# include/uapi/linux/mount.h
STATMOUNT_SB_BASIC: Final = 0x01
STATMOUNT_MNT_BASIC: Final = 0x02
STATMOUNT_MNT_ROOT: Final = 0x08
STATMOUNT_MNT_POINT: Final = 0x10
STATMOUNT_FS_TYPE: Final = 0x20
STATMOUNT_MNT_OPTS: Final = 0x80
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
    is relative to the caller's root. `mnt_opts` are the options of the superblock as mountinfo has
    them, without `ro` and `rw` (Linux 6.11).
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
    mnt_root: bytes | None
    mnt_point: bytes | None
    fs_type: bytes | None
    mnt_opts: bytes | None


def _mount_request(mount_id: int, param: int) -> CData:
    size = ffi.sizeof("struct mnt_id_req")
    return ffi.new("struct mnt_id_req *", {"size": size, "mnt_id": mount_id, "param": param})


def statmount(mount_id: int, mask: int, size: int = _STATMOUNT_SIZE) -> StatMount:
    """
    `statmount(2)` of a unique mount id; ENOSYS before Linux 6.8.

    `mask` is made of STATMOUNT_*; `size` is how many bytes of memory the kernel is offered at
    first, which it fills in one go if they are enough. ENOENT for an id that is not in the caller's
    mount namespace; newer kernels answer EINVAL to the small ids of mountinfo. EPERM for a mount
    outside the caller's root, without CAP_SYS_ADMIN.
    """
    request = _mount_request(mount_id, mask)
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
        mnt_root=string(STATMOUNT_MNT_ROOT, found.mnt_root),
        mnt_point=string(STATMOUNT_MNT_POINT, found.mnt_point),
        fs_type=string(STATMOUNT_FS_TYPE, found.fs_type),
        mnt_opts=string(STATMOUNT_MNT_OPTS, found.mnt_opts),
    )


def listmount(mount_id: int = LSMT_ROOT) -> list[int]:
    """
    `listmount(2)`: the unique ids of all mounts below one, at any depth; ENOSYS before Linux 6.8.

    LSMT_ROOT stands for all mounts below the caller's root, its mount included; with an id the
    mount itself is not among them. The ids ascend, in the order of creation. EPERM as `statmount`.
    """
    ids: list[int] = []
    page = ffi.new("uint64_t[]", _LISTMOUNT_PAGE)
    while True:
        request = _mount_request(mount_id, ids[-1] if ids else 0)
        count = checked(call(_SYS_listmount, request, page, _LISTMOUNT_PAGE, 0), mount_id)
        ids.extend(page[index] for index in range(count))
        if count < _LISTMOUNT_PAGE:
            return ids
