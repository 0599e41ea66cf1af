# SPDX-License-Identifier: Apache-2.0
"""
Run a command on a kernel that seems to lack some system calls.

Purpose: code that tries the new call first and the older way on ENOSYS has both ways tested on
one machine, without booting an old kernel.

Use: `MOUNTCR_ENOSYS=fsopen,open_tree python tests/enosys.py COMMAND...` installs a seccomp filter
that answers ENOSYS to the calls named, and becomes COMMAND. The filter is inherited by all that
COMMAND starts and cannot be taken off. Two filters add up.

Limits: x86-64 and AArch64. Only calls that came since Linux 5.1, whose number is the same on both,
are known by name. 32-bit programs and x32 are not filtered. What an old kernel lacks besides the
call, such as a mount option or a flag, is still there. Without CAP_SYS_ADMIN the filter needs
`no_new_privs`, so set-user-id programs such as sudo have no power below it; with it they have.

Exit status: that of COMMAND; 2 for a call that is not known or none at all; 126 when there can be
no filter; 127 when COMMAND is not found.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final, NoReturn

# arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl
NUMBERS: Final = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "faccessat2": 439,
    "mount_setattr": 442,
    "fchmodat2": 452,
    "statmount": 457,
    "listmount": 458,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
}

# include/uapi/linux/audit.h
AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# include/uapi/linux/bpf_common.h and filter.h
BPF_LD_W_ABS: Final = 0x20
BPF_JEQ_K: Final = 0x15
BPF_RET_K: Final = 0x06

# include/uapi/linux/seccomp.h; a filter reads struct seccomp_data
SECCOMP_MODE_FILTER: Final = 2
SECCOMP_RET_ALLOW: Final = 0x7FFF0000
SECCOMP_RET_ERRNO: Final = 0x00050000
DATA_NR: Final = 0
DATA_ARCH: Final = 4

# include/uapi/linux/prctl.h
PR_SET_SECCOMP: Final = 22
PR_SET_NO_NEW_PRIVS: Final = 38


class SockFilter(ctypes.Structure):
    """`struct sock_filter`: one instruction."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class SockFprog(ctypes.Structure):
    """`struct sock_fprog`: a program."""

    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(SockFilter)))


def program(numbers: list[int], arch: int) -> list[tuple[int, int, int, int]]:
    """Give the instructions that answer ENOSYS to calls of one architecture, and allow the rest."""
    refuse = (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS)
    allow = (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW)
    code = [
        (BPF_LD_W_ABS, 0, 0, DATA_ARCH),
        (BPF_JEQ_K, 1, 0, arch),
        allow,
        (BPF_LD_W_ABS, 0, 0, DATA_NR),
    ]
    for number in numbers:
        code += [(BPF_JEQ_K, 0, 1, number), refuse]
    return [*code, allow]


def install(code: list[tuple[int, int, int, int]]) -> None:
    """Put the filter on this process for good; raises OSError."""
    instructions = (SockFilter * len(code))(*(SockFilter(*each) for each in code))
    fprog = SockFprog(len(code), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog))
    if libc.prctl(*arguments) == 0:
        return
    # EACCES: neither CAP_SYS_ADMIN nor no_new_privs, see seccomp(2).
    if ctypes.get_errno() == errno.EACCES:
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.prctl(*arguments) == 0:
            return
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def fail(status: int, message: str) -> NoReturn:
    """End with a line on stderr."""
    sys.stderr.write(f"enosys: {message}\n")
    sys.exit(status)


def main() -> NoReturn:
    """Install the filter and become the command."""
    names = [name.strip() for name in os.environ.get("MOUNTCR_ENOSYS", "").split(",")]
    unknown = [name for name in names if name not in NUMBERS]
    command = sys.argv[1:]
    if unknown or not command:
        fail(
            2,
            f"usage: MOUNTCR_ENOSYS=NAME,... enosys.py COMMAND...; NAME is of {', '.join(NUMBERS)}",
        )
    machine = os.uname().machine
    if machine not in AUDIT_ARCH:
        fail(126, f"no filter is known for {machine}")
    try:
        install(program([NUMBERS[name] for name in names], AUDIT_ARCH[machine]))
    except OSError as error:
        fail(126, f"cannot install the filter: {error.strerror}")
    try:
        os.execvp(command[0], command)  # noqa: S606 - that is the purpose
    except OSError as error:
        fail(127, f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
