# SPDX-License-Identifier: Apache-2.0
"""
The system's libmount: ordinary mounts made by it, and its reading of mount tables.

Loaded when first used; `CapabilityError` then, where libmount.so.1 is missing. It never consults
fstab, never runs a `/sbin/mount.TYPE`, never writes below `/run/mount`, and what the environment
says in `LIBMOUNT_*` does not count. Overlay is not for this module: libmount from 2.39 on hands
the layers over in one fsconfig(2) string, which ends at 255 bytes.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import devices
from mountcr.errors import CapabilityError
from mountcr.libmount._ffi import ffi

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from mountcr.libmount._ffi import Context, Fs, Lib, Text
    from mountcr.libmount._ffi import Table as TablePointer

__all__ = ["Entry", "MountError", "Table", "has", "mount", "umount", "version"]

_SONAME: Final = "libmount.so.1"  # never changes: libmount/src/libmount.sym

# libmount.h
_MNT_ITER_FORWARD: Final = 0
_MNT_OMODE_NOTAB: Final = 1 << 12
_MNT_ERR_FIRST: Final = 5000  # libmount's own errors begin here, errno ends below

_MESSAGE_SIZE: Final = 8192
_ENVIRONMENT: Final = threading.Lock()


class MountError(OSError):
    """
    libmount could not mount or unmount; `errno`, `strerror` and `filename` (the target) are set.

    `rc` and `excode` are what libmount returned and the exit status mount(8) would have. Their
    values differ between releases of libmount; `errno` does not. `syscall_called` is False when
    the kernel was not asked.
    """

    def __init__(
        self,
        number: int,
        message: str,
        target: str,
        *,
        rc: int = 0,
        excode: int = 0,
        syscall_called: bool = False,
    ) -> None:
        super().__init__(number, message, target)
        self.rc = rc
        self.excode = excode
        self.syscall_called = syscall_called


class Entry(NamedTuple):
    """
    A mount as libmount reads it, see proc_pid_mountinfo(5); octal escapes are undone.

    `dev` is `major:minor`. `optional` holds the optional fields with a space between them, empty
    if there are none. `source` is empty where the kernel shows nothing.
    """

    id: int
    parent: int
    dev: str
    root: bytes
    target: bytes
    vfs_options: bytes
    optional: bytes
    fstype: bytes
    source: bytes
    fs_options: bytes


class Table:
    """
    A mount table as libmount reads it; iterating gives its entries in the order of the lines.

    libmount drops a line that it cannot read and says nothing, and reads nothing at all when the
    first line is not one of mountinfo.
    """

    def __init__(self, pointer: TablePointer) -> None:
        self._pointer = pointer

    @classmethod
    def from_file(cls, path: bytes = b"/proc/self/mountinfo") -> Table:
        """Read a mountinfo file; raises `OSError` when it cannot be opened."""
        pointer = _new_table()
        rc = _lib().mnt_table_parse_file(pointer, _nul_free(path))
        if rc < 0:
            raise OSError(_errno(rc), os.strerror(_errno(rc)), os.fsdecode(path))
        return cls(pointer)

    @classmethod
    def from_text(cls, text: bytes) -> Table:
        """Read the text of a mountinfo file; raises `OSError` when memory runs out."""
        pointer = _new_table()
        if text:
            _parse(pointer, text)
        return cls(pointer)

    def __iter__(self) -> Iterator[Entry]:
        lib = _lib()
        iterator = ffi.gc(lib.mnt_new_iter(_MNT_ITER_FORWARD), lib.mnt_free_iter)
        fs = ffi.new("libmnt_fs **")
        # A filesystem is freed with its table: each is copied before the next one is asked for.
        while lib.mnt_table_next_fs(self._pointer, iterator, fs) == 0:
            yield _entry(lib, fs[0])


def has(symbol: str) -> bool:
    """
    Tell whether the loaded libmount has a function.

    That does not tell that it works: one built against old kernel headers has
    `mnt_table_fetch_listmount` and answers ENOSYS.
    """
    try:
        getattr(_lib(), symbol)
    except (AttributeError, ffi.error):  # not declared here; not in the library
        return False
    return True


def version() -> str:
    """Give the version of the loaded libmount, such as `2.38.1`."""
    text = ffi.new("const char **")
    _lib().mnt_get_library_version(text)
    return os.fsdecode(_bytes(text[0]))


def mount(source: bytes | None, target: bytes, fstype: bytes | None, options: bytes = b"") -> None:
    """
    Put a file system other than overlay at `target`.

    `options` are those of mount(8), with a comma between them. Paths reach the kernel as they are
    given, without being made canonical. Raises `MountError`; nothing is mounted then. Options
    longer than a page of memory are refused with E2BIG, because mount(2) uses their beginning.
    """
    _require_target(target)
    if len(options) >= os.sysconf("SC_PAGE_SIZE"):
        raise MountError(errno.E2BIG, "options longer than a page", os.fsdecode(target))
    lib = _lib()
    with _context(target) as context:
        if source is not None:
            _set(lib.mnt_context_set_source, context, source)
        if fstype is not None:
            _set(lib.mnt_context_set_fstype, context, fstype)
        if options:
            _set(lib.mnt_context_set_options, context, options)
        _judge(context, lib.mnt_context_mount(context), target)


def umount(target: bytes, *, detach: bool = False) -> None:
    """
    Unmount what is on top at `target`; `detach` does it at once and cleans up when it is unused.

    Raises `MountError`: EINVAL when nothing is mounted there, EBUSY when it is in use.
    """
    _require_target(target)
    lib = _lib()
    with _context(target) as context:
        if detach:
            lib.mnt_context_enable_lazy(context, 1)
        _judge(context, lib.mnt_context_umount(context), target)


@functools.cache
def _lib() -> Lib:
    try:
        return ffi.dlopen(_SONAME)
    except OSError as error:
        raise CapabilityError(
            f"{_SONAME} cannot be loaded: {error}",
            probe="libmount",
            hint="install the package with util-linux's libmount (Debian: libmount1)",
        ) from error


def _new_table() -> TablePointer:
    lib = _lib()
    pointer = lib.mnt_new_table()
    if not pointer:
        raise MemoryError
    return ffi.gc(pointer, lib.mnt_unref_table)


def _parse(table: TablePointer, text: bytes) -> None:
    lib = _lib()
    memory = ffi.new("char[]", text)
    stream = lib.fmemopen(memory, len(text), b"r")
    if not stream:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    try:
        rc = lib.mnt_table_parse_stream(table, stream, b"mountinfo")
    finally:
        lib.fclose(stream)
    if rc < 0:
        raise OSError(_errno(rc), os.strerror(_errno(rc)))


def _entry(lib: Lib, fs: Fs) -> Entry:
    return Entry(
        id=lib.mnt_fs_get_id(fs),
        parent=lib.mnt_fs_get_parent_id(fs),
        dev=devices.of_stat(lib.mnt_fs_get_devno(fs)),
        root=_bytes(lib.mnt_fs_get_root(fs)),
        target=_bytes(lib.mnt_fs_get_target(fs)),
        vfs_options=_bytes(lib.mnt_fs_get_vfs_options(fs)),
        optional=_bytes(lib.mnt_fs_get_optional_fields(fs)),
        fstype=_bytes(lib.mnt_fs_get_fstype(fs)),
        source=_bytes(lib.mnt_fs_get_source(fs)),
        fs_options=_bytes(lib.mnt_fs_get_fs_options(fs)),
    )


def _bytes(text: Text) -> bytes:
    return ffi.string(text) if text else b""


def _nul_free(text: bytes) -> bytes:
    """Give back `text`, or raise ValueError when C would see only its beginning."""
    if b"\0" in text:
        raise ValueError(f"embedded NUL byte in {text!r}")
    return text


def _errno(rc: int) -> int:
    """Give the errno in what libmount returned, EINVAL for an error of its own."""
    return abs(rc) if abs(rc) < _MNT_ERR_FIRST else errno.EINVAL


def _set(setter: Callable[[Context, bytes], int], context: Context, value: bytes) -> None:
    if setter(context, _nul_free(value)) != 0:
        raise MemoryError


def _require_target(target: bytes) -> None:
    # Asked for a target that is not there, libmount 2.41 answers EINVAL with a text about a wrong
    # file system type. Other errors are left to the mount: one may mount over a dead FUSE.
    try:
        os.stat(target)
    except (FileNotFoundError, NotADirectoryError) as error:
        number = error.errno or errno.ENOENT
        raise MountError(number, "mount point does not exist", os.fsdecode(target)) from None
    except OSError:
        pass


@contextmanager
def _clean_environment() -> Generator[None]:
    """Hide `LIBMOUNT_*` from libmount; a process that is started meanwhile lacks them too."""
    with _ENVIRONMENT:
        hidden = {name: os.environb[name] for name in os.environb if name.startswith(b"LIBMOUNT_")}
        for name in hidden:
            del os.environb[name]
        try:
            yield
        finally:
            os.environb.update(hidden)


@contextmanager
def _context(target: bytes) -> Generator[Context]:
    """Give a context for one mount or umount; it is freed at the end."""
    lib = _lib()
    with _clean_environment():
        context = lib.mnt_new_context()
        if not context:
            raise MemoryError
        try:
            # With mtab an `x-` option leaves /run/mount/utab behind; a helper is a program that
            # runs as root with a say about the mount.
            lib.mnt_context_disable_mtab(context, 1)
            lib.mnt_context_disable_helpers(context, 1)
            lib.mnt_context_disable_canonicalize(context, 1)
            lib.mnt_context_set_optsmode(context, _MNT_OMODE_NOTAB)
            _set(lib.mnt_context_set_target, context, target)
            yield context
        finally:
            lib.mnt_free_context(context)


def _judge(context: Context, rc: int, target: bytes) -> None:
    """Raise `MountError` if `rc` or the exit status of mount(8) says that it failed."""
    lib = _lib()
    buffer = ffi.new("char[]", _MESSAGE_SIZE)
    excode = lib.mnt_context_get_excode(context, rc, buffer, _MESSAGE_SIZE)
    if rc == 0 and excode == 0:
        return
    # The sign of rc is no contract: a missing source is 2 with libmount 2.38 and -2 with 2.41.
    called = lib.mnt_context_syscall_called(context) == 1
    number = (lib.mnt_context_get_syscall_errno(context) if called else 0) or _errno(rc)
    said = os.fsdecode(ffi.string(buffer)).strip() or os.strerror(number)
    message = " ".join(said.split())
    raise MountError(
        number, message, os.fsdecode(target), rc=rc, excode=excode, syscall_called=called
    )
