# SPDX-License-Identifier: Apache-2.0
# Types of the generated module: libc as _libc.cdef.txt declares it.

from typing import Final, Literal, overload

# A C value whose type does not matter here: an integer, or a pointer to hand over.
class CData: ...

# A C type, looked up.
class CType: ...

# `char[]` that is owned; it is freed with this object.
class Memory(CData):
    def __len__(self) -> int: ...
    def __add__(self, offset: int) -> CData: ...

# `uint64_t[]` that is owned.
class Ids(CData):
    def __getitem__(self, index: int) -> int: ...

# `uintptr_t`, the address of another object.
class Address(CData):
    def __int__(self) -> int: ...

# `struct mount_attr *` that is owned.
class MountAttr(CData): ...

# `struct open_how *` that is owned.
class OpenHow(CData): ...

# `struct mnt_id_req *` that is owned.
class MntIdReq(CData): ...

# `struct statmount *` into memory of another object.
class Statmount(CData):
    mask: int
    sb_dev_major: int
    sb_dev_minor: int
    sb_magic: int
    sb_flags: int
    fs_type: int
    mnt_opts: int
    mnt_id: int
    mnt_parent_id: int
    mnt_id_old: int
    mnt_parent_id_old: int
    mnt_attr: int
    mnt_propagation: int
    mnt_peer_group: int
    mnt_master: int
    propagate_from: int
    mnt_root: int
    mnt_point: int
    fs_subtype: int
    sb_source: int
    supported_mask: int

# `struct statx *` that is owned.
class Statx(CData):
    stx_mask: int
    stx_mnt_id: int

# `struct file_handle *` that is owned.
class FileHandle(CData):
    handle_bytes: int
    handle_type: int
    f_handle: CData

# libc; every function returns -1 on failure and leaves the reason in `ffi.errno`.
class Lib:
    def syscall(self, number: int, *arguments: CData) -> int: ...
    def mount(
        self, source: CData, target: CData, fstype: CData, flags: int, data: CData
    ) -> int: ...
    def umount2(self, target: CData, flags: int) -> int: ...
    def unshare(self, flags: int) -> int: ...
    def setns(self, fd: int, nstype: int) -> int: ...
    def pivot_root(self, new_root: CData, put_old: CData) -> int: ...
    def prctl(self, option: int, *arguments: CData) -> int: ...
    def ptrace(self, request: int, *arguments: CData) -> int: ...
    def syncfs(self, fd: int) -> int: ...
    def renameat2(
        self, olddirfd: int, oldpath: CData, newdirfd: int, newpath: CData, flags: int
    ) -> int: ...
    def statx(self, dirfd: int, path: CData, flags: int, mask: int, buffer: CData) -> int: ...
    def name_to_handle_at(
        self, dirfd: int, path: CData, handle: CData, mount_id: CData, flags: int
    ) -> int: ...

# What `ffi.buffer` gives.
class Buffer:
    def __getitem__(self, index: slice) -> bytes: ...

# The part of cffi's FFI that mountcr uses.
class FFI:
    NULL: Final[CData]
    errno: int

    def dlopen(self, name: None) -> Lib: ...
    def sizeof(self, cdecl: str) -> int: ...
    def string(self, cdata: CData) -> bytes: ...
    @overload
    def cast(self, cdecl: CType | Literal["long"], value: int) -> CData: ...
    @overload
    def cast(self, cdecl: Literal["struct statmount *"], value: CData) -> Statmount: ...
    @overload
    def cast(self, cdecl: Literal["uintptr_t"], value: CData) -> Address: ...
    @overload
    def new(self, cdecl: Literal["char[]"], init: bytes | int) -> Memory: ...
    @overload
    def new(self, cdecl: Literal["uint64_t[]"], init: int) -> Ids: ...
    @overload
    def new(self, cdecl: Literal["struct mount_attr *"], init: dict[str, int]) -> MountAttr: ...
    @overload
    def new(self, cdecl: Literal["struct open_how *"], init: dict[str, int]) -> OpenHow: ...
    @overload
    def new(self, cdecl: Literal["struct mnt_id_req *"], init: dict[str, int]) -> MntIdReq: ...
    @overload
    def new(self, cdecl: Literal["struct statx *"]) -> Statx: ...
    @overload
    def new(self, cdecl: Literal["struct file_handle *"], init: dict[str, int]) -> FileHandle: ...
    @overload
    def new(self, cdecl: Literal["int *"]) -> CData: ...
    def typeof(self, cdecl: Literal["long"]) -> CType: ...
    def buffer(self, cdata: CData, size: int) -> Buffer: ...

ffi: FFI
