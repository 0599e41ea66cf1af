# SPDX-License-Identifier: Apache-2.0
"""
System calls that Python's `os` lacks, each under the name of its man page.

A wrapper makes one call, never retries, never falls back and never decides. What fails raises
`OSError(errno, strerror, name)`; the name is the path the call was about, the descriptor where
the path is empty, the call where there is neither. A signal that interrupts a call raises
`InterruptedError`. A path or string with a NUL byte raises ValueError, because the kernel would
see only its beginning.

Paths and strings are bytes. A descriptor that a wrapper returns belongs to the caller and is
close-on-exec whatever `flags` says; on failure none is left open.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING, Final

from mountcr.kernel._libc_ffi import ffi

if TYPE_CHECKING:
    from collections.abc import Callable

    from mountcr.kernel._libc_ffi import CData

__all__ = [
    "AT_EMPTY_PATH", "AT_FDCWD", "AT_RECURSIVE", "AT_SYMLINK_NOFOLLOW", "CLONE_FS",
    "CLONE_NEWCGROUP", "CLONE_NEWIPC", "CLONE_NEWNET", "CLONE_NEWNS", "CLONE_NEWPID",
    "CLONE_NEWTIME", "CLONE_NEWUSER", "CLONE_NEWUTS", "FSMOUNT_CLOEXEC", "FSOPEN_CLOEXEC",
    "MNT_DETACH", "MOUNT_ATTR_NOATIME", "MOUNT_ATTR_NODEV", "MOUNT_ATTR_NODIRATIME",
    "MOUNT_ATTR_NOEXEC", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NOSYMFOLLOW", "MOUNT_ATTR_RDONLY",
    "MOUNT_ATTR_RELATIME", "MOUNT_ATTR_STRICTATIME", "MOUNT_ATTR__ATIME", "MOVE_MOUNT_F_EMPTY_PATH",
    "MOVE_MOUNT_SET_GROUP", "MOVE_MOUNT_T_EMPTY_PATH", "MS_BIND", "MS_DIRSYNC", "MS_LAZYTIME",
    "MS_MOVE", "MS_NOATIME", "MS_NODEV", "MS_NODIRATIME", "MS_NOEXEC", "MS_NOSUID",
    "MS_NOSYMFOLLOW", "MS_PRIVATE", "MS_RDONLY", "MS_REC", "MS_RELATIME", "MS_REMOUNT", "MS_SHARED",
    "MS_SLAVE", "MS_STRICTATIME", "MS_SYNCHRONOUS", "MS_UNBINDABLE", "OPEN_TREE_CLOEXEC",
    "OPEN_TREE_CLONE", "RENAME_EXCHANGE", "RESOLVE_BENEATH", "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS", "RESOLVE_NO_SYMLINKS", "RESOLVE_NO_XDEV", "UMOUNT_NOFOLLOW", "call",
    "checked", "fsconfig_create", "fsconfig_fd", "fsconfig_flag", "fsconfig_string",
    "fscontext_messages", "fsmount", "fsopen", "is_known", "mount", "mount_setattr", "move_mount",
    "open_tree", "openat2", "pidfd_getfd", "pivot_root", "prctl_set_child_subreaper",
    "prctl_set_pdeathsig", "renameat2", "setns", "syncfs", "umount2", "unshare",
]  # fmt: skip

# include/uapi/linux/mount.h: flags of mount(2)
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_REMOUNT: Final = 32
MS_DIRSYNC: Final = 128
MS_NOSYMFOLLOW: Final = 256
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24
MS_LAZYTIME: Final = 1 << 25

# include/linux/fs.h: flags of umount2(2)
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

# include/uapi/linux/sched.h
CLONE_FS: Final = 0x00000200
CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

# include/uapi/linux/fcntl.h
AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

# include/uapi/linux/mount.h: the calls of Linux 5.2 and mount_setattr(2)
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x004
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x040
MOVE_MOUNT_SET_GROUP: Final = 0x100
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
MOUNT_ATTR_RDONLY: Final = 0x00000001
MOUNT_ATTR_NOSUID: Final = 0x00000002
MOUNT_ATTR_NODEV: Final = 0x00000004
MOUNT_ATTR_NOEXEC: Final = 0x00000008
MOUNT_ATTR__ATIME: Final = 0x00000070
MOUNT_ATTR_RELATIME: Final = 0x00000000
MOUNT_ATTR_NOATIME: Final = 0x00000010
MOUNT_ATTR_STRICTATIME: Final = 0x00000020
MOUNT_ATTR_NODIRATIME: Final = 0x00000080
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x00200000

_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_SET_FD: Final = 5
_FSCONFIG_CMD_CREATE: Final = 6

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# include/uapi/linux/fcntl.h: flags of renameat2(2)
RENAME_EXCHANGE: Final = 2

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

# Calls since Linux 5.1 have one number on all architectures. Alpha adds 110, and MIPS the base of
# its ABI: arch/alpha/kernel/syscalls/syscall.tbl, arch/mips/include/uapi/asm/unistd.h. There the
# number belongs to another call or to none, so it is not called: ENOSYS, as of an older kernel.
_OTHER_NUMBERS: Final = os.uname().machine.startswith(("alpha", "mips"))
_SYS_open_tree: Final = 428
_SYS_move_mount: Final = 429
_SYS_fsopen: Final = 430
_SYS_fsconfig: Final = 431
_SYS_fsmount: Final = 432
_SYS_openat2: Final = 437
_SYS_pidfd_getfd: Final = 438
_SYS_mount_setattr: Final = 442

_FSCONTEXT_MESSAGE: Final = 8192  # the kernel gives one message a read, EMSGSIZE if it is longer

_libc: Final = ffi.dlopen(None)
_LONG: Final = ffi.typeof("long")
_SET_FD: Final = ffi.cast(_LONG, _FSCONFIG_SET_FD)


def _string(text: bytes | None) -> CData:
    """Copy `text` for C; a null pointer for None. Raises ValueError for a NUL byte in it."""
    if text is None:
        return ffi.NULL
    if b"\0" in text:
        raise ValueError(f"embedded NUL byte in {text!r}")
    return ffi.new("char[]", text)


_key = functools.lru_cache(maxsize=16)(_string)
"""Keep the names of options for C, which are few."""


def checked(returned: int, name: bytes | int, source: bytes | None = None) -> int:
    """Give back what `call` returned, or raise `OSError` about `name`, or `source` -> `name`."""
    number = ffi.errno
    if returned >= 0:
        return returned
    shown = os.fsdecode(name) if isinstance(name, bytes) else name
    if source:
        raise OSError(number, os.strerror(number), os.fsdecode(source), None, shown)
    raise OSError(number, os.strerror(number), shown)


def _register(value: int | bytes | CData | None) -> CData:
    """Give an argument of syscall(2), which reads each as long, whatever the call takes."""
    if isinstance(value, int):
        return ffi.cast(_LONG, value)
    return _string(value) if value is None or isinstance(value, bytes) else value


def call(number: int, *arguments: int | bytes | CData | None) -> int:
    """Make a call that libc may have no wrapper for; -1 and `ffi.errno` on failure."""
    if _OTHER_NUMBERS:
        ffi.errno = errno.ENOSYS
        return -1
    return _libc.syscall(number, *map(_register, arguments))


def mount(
    source: bytes | None, target: bytes, fstype: bytes | None, flags: int, data: bytes | None = None
) -> None:
    """
    `mount(2)`.

    The kernel copies one page of `data`, ends it with NUL and uses what is there
    (`copy_mount_options()` in fs/namespace.c), so longer data raise `OSError` with E2BIG here.
    """
    if data is not None and len(data) >= os.sysconf("SC_PAGE_SIZE"):
        raise OSError(errno.E2BIG, "mount options longer than a page", os.fsdecode(target))
    text = [_string(each) for each in (source, target, fstype, data)]
    checked(_libc.mount(text[0], text[1], text[2], flags, text[3]), target)


def umount2(target: bytes, flags: int = 0) -> None:
    """`umount2(2)`; a symbolic link is followed without UMOUNT_NOFOLLOW."""
    checked(_libc.umount2(_string(target), flags), target)


def is_known(attempt: Callable[[], object]) -> bool:
    """Tell whether the kernel has a call, made with senseless arguments: any answer but ENOSYS."""
    try:
        attempt()
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def syncfs(fd: int) -> None:
    """`syncfs(2)`; since Linux 5.8 it fails if a page of that file system could not be written."""
    checked(_libc.syncfs(fd), fd)


def renameat2(old_dirfd: int, old_path: bytes, new_dirfd: int, new_path: bytes, flags: int) -> None:
    """
    `renameat2(2)`; with RENAME_EXCHANGE both names change places at once, whatever they are.

    EINVAL from a file system that cannot do it, EBUSY for a mountpoint, EXDEV also from overlay
    for a directory of a lower layer. ENOSYS before Linux 3.15, and where libc has no such function.
    """
    old, new = _string(old_path), _string(new_path)
    try:
        wrapper = _libc.renameat2  # glibc 2.28, musl 1.2.6
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fsdecode(new_path)) from None
    checked(wrapper(old_dirfd, old, new_dirfd, new, flags), new_path, old_path)


def unshare(flags: int) -> None:
    """`unshare(2)`; concerns the calling thread only."""
    # PY312: use os.unshare once 3.11 is dropped.
    checked(_libc.unshare(flags), b"unshare")


def setns(fd: int, nstype: int = 0) -> None:
    """
    `setns(2)`; `nstype` is a CLONE_NEW* that the namespace must be, 0 for any.

    EINVAL for a mount namespace in a process with more than one thread. With a pidfd and several
    CLONE_NEW* since Linux 5.8; EINVAL before.
    """
    # PY312: use os.setns once 3.11 is dropped.
    checked(_libc.setns(fd, nstype), fd)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """`pivot_root(2)`; both may be `.` to stack the old root on the new one."""
    checked(_libc.pivot_root(_string(new_root), _string(put_old)), new_root)


def prctl_set_pdeathsig(signal: int) -> None:
    """
    `PR_SET_PDEATHSIG(2const)`: get `signal` when the thread that made this process ends; 0: none.

    A parent that ended before is not noticed: compare `os.getppid()` afterwards.
    """
    checked(_libc.prctl(_PR_SET_PDEATHSIG, ffi.cast("long", signal)), b"prctl")


def prctl_set_child_subreaper(enable: bool) -> None:
    """`PR_SET_CHILD_SUBREAPER(2const)`: become the parent of descendants that lose theirs."""
    checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ffi.cast("long", enable)), b"prctl")


def pidfd_getfd(pidfd: int, number: int) -> int:
    """
    `pidfd_getfd(2)`; ENOSYS before Linux 5.6.

    Gives a copy of the descriptor `number` of another process, which the caller owns: the same open
    file, whose position and flags are shared.
    """
    return checked(call(_SYS_pidfd_getfd, pidfd, number, 0), number)


def open_tree(dirfd: int, path: bytes, flags: int) -> int:
    """
    `open_tree(2)`; ENOSYS before Linux 5.2.

    Gives a descriptor of the mount at `path`, or with OPEN_TREE_CLONE of a copy that is attached
    nowhere and goes away with the descriptor unless `move_mount` puts it somewhere.
    """
    flags |= OPEN_TREE_CLOEXEC
    return checked(call(_SYS_open_tree, dirfd, path, flags), path or dirfd)


def move_mount(
    from_dirfd: int, from_path: bytes, to_dirfd: int, to_path: bytes, flags: int
) -> None:
    """`move_mount(2)`; ENOSYS before Linux 5.2. The descriptors stay the caller's."""
    returned = call(_SYS_move_mount, from_dirfd, from_path, to_dirfd, to_path, flags)
    checked(returned, to_path or to_dirfd, from_path)


def fsopen(fstype: bytes, flags: int = FSOPEN_CLOEXEC) -> int:
    """`fsopen(2)`; ENOSYS before Linux 5.2, ENODEV for a file system the kernel lacks."""
    flags |= FSOPEN_CLOEXEC
    return checked(call(_SYS_fsopen, fstype, flags), fstype)


def fsconfig_string(fd: int, key: bytes, value: bytes) -> None:
    """
    `fsconfig(2)` with FSCONFIG_SET_STRING; ENOSYS before Linux 5.2.

    EINVAL for more than 255 bytes in `key` or `value` (`strndup_user()` in fs/fsopen.c), and for
    what the file system does not know: `fscontext_messages` has its reason.
    """
    checked(call(_SYS_fsconfig, fd, _FSCONFIG_SET_STRING, key, value, 0), key)


def fsconfig_flag(fd: int, key: bytes) -> None:
    """`fsconfig(2)` with FSCONFIG_SET_FLAG, for an option without a value; ENOSYS before 5.2."""
    checked(call(_SYS_fsconfig, fd, _FSCONFIG_SET_FLAG, key, None, 0), key)


def fsconfig_fd(fd: int, key: bytes, value_fd: int) -> None:
    """
    `fsconfig(2)` with FSCONFIG_SET_FD; ENOSYS before Linux 5.2.

    EINVAL for a key that takes no descriptor; the layers of overlay take one since Linux 6.13, an
    O_PATH one since 6.15, EBADF before. EOPNOTSUPP from a file system that has no context of its
    own (fs/fsopen.c), as overlay before Linux 6.5. `value_fd` stays the caller's.
    """
    # called for each of many layers, so what is the same for all of them is made once
    name, none, what = _key(key), ffi.NULL, _SET_FD
    if _OTHER_NUMBERS:
        returned = call(_SYS_fsconfig)
    else:
        number, layer = ffi.cast(_LONG, fd), ffi.cast(_LONG, value_fd)
        returned = _libc.syscall(_SYS_fsconfig, number, what, name, none, layer)
    checked(returned, key)


def fsconfig_create(fd: int) -> None:
    """`fsconfig(2)` with FSCONFIG_CMD_CREATE: make the superblock; ENOSYS before Linux 5.2."""
    checked(call(_SYS_fsconfig, fd, _FSCONFIG_CMD_CREATE, None, None, 0), fd)


def fsmount(fsfd: int, flags: int = FSMOUNT_CLOEXEC, attributes: int = 0) -> int:
    """
    `fsmount(2)` with MOUNT_ATTR_* `attributes`; ENOSYS before Linux 5.2.

    Gives a descriptor of a mount that is attached nowhere and goes away with the descriptor
    unless `move_mount` puts it somewhere. `fsfd` stays the caller's.
    """
    return checked(call(_SYS_fsmount, fsfd, flags | FSMOUNT_CLOEXEC, attributes), fsfd)


def fscontext_messages(fd: int) -> list[str]:
    """
    Take what the kernel logged on a descriptor of `fsopen`, oldest first; see `fsopen(2)`.

    Each message begins with `e `, `w ` or `i `: error, warning, information. They are gone
    afterwards. The kernel keeps the newest eight.
    """
    messages: list[str] = []
    try:
        while said := os.read(fd, _FSCONTEXT_MESSAGE):
            messages.append(os.fsdecode(said).rstrip("\n"))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    return messages


def mount_setattr(  # noqa: PLR0917 - a system call has as many arguments as it has
    dirfd: int, path: bytes, flags: int, attr_set: int, attr_clr: int = 0, propagation: int = 0
) -> None:
    """
    `mount_setattr(2)`; ENOSYS before Linux 5.12.

    To set an access time mode, MOUNT_ATTR__ATIME must be in `attr_clr`. `propagation` is one of
    MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0 to leave it.
    """
    values = {"attr_set": attr_set, "attr_clr": attr_clr, "propagation": propagation}
    attributes = ffi.new("struct mount_attr *", values)
    size = ffi.sizeof("struct mount_attr")
    returned = call(_SYS_mount_setattr, dirfd, path, flags, attributes, size)
    checked(returned, path or dirfd)


def openat2(dirfd: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """
    `openat2(2)` with RESOLVE_* flags; ENOSYS before Linux 5.6.

    EAGAIN when `..` could not be resolved safely under RESOLVE_BENEATH or RESOLVE_IN_ROOT because
    something was renamed or mounted meanwhile: the caller may try again. EXDEV for a path that
    leaves `dirfd`. EINVAL for a `mode` without O_CREAT or O_TMPFILE.
    """
    values = {"flags": flags | os.O_CLOEXEC, "mode": mode, "resolve": resolve}
    how = ffi.new("struct open_how *", values)
    size = ffi.sizeof("struct open_how")
    return checked(call(_SYS_openat2, dirfd, path, how, size), path or dirfd)
