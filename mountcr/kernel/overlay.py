# SPDX-License-Identifier: Apache-2.0
"""
Mounting OverlayFS: a ladder of system calls, and the comparison of what came of it.

Newest rung first, each tried by calling: layers by descriptor (`lowerdir+` with FSCONFIG_SET_FD,
Linux 6.13), layers by name (`lowerdir+`, Linux 6.7, 255 bytes each), then mount(2), whose data
ends at 4095 bytes without an error. What does not fit into them as it is may do so with layers
relative to the directory they have in common, or as the numbers of descriptors in /proc/self/fd;
both want a working directory, which a thread has for itself. No rung is chosen by version.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec

from mountcr import mountinfo
from mountcr.errors import CapabilityError, StepError
from mountcr.interrupts import held_back
from mountcr.kernel import statmount, syscalls
from mountcr.kernel.identity import unique_mount_id
from mountcr.overlayopts import OverlayOptions, format_options, parse_options, unmet_options
from mountcr.paths import KPath, decode, encode, from_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["module_parameters", "mount_overlay"]

_DATA_LIMIT: Final = 4095
"""mount(2) copies one page and ends it with a NUL (fs/namespace.c, `copy_mount_options()`)."""

_MOST_LAYERS: Final = 500
"""OVL_MAX_STACK of fs/overlayfs/ovl_entry.h; only said where a kernel has refused more."""

_TOO_MANY: Final = frozenset({errno.EINVAL, errno.ENOMEM})
"""What a kernel answers to more: ENOMEM in 5.10, whose `ovl_fill_super()` sets no error there."""

_TRY_NEXT: Final = frozenset(
    {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
"""
What a kernel answers that lacks a rung; seccomp filters of engines say EPERM.

fsconfig(2) took no O_PATH descriptor before Linux commit 0ff053b98a0f ("fs: support O_PATH fds with
FSCONFIG_SET_FD") (in v6.15, and in 6.13.10 and 6.14.1): EBADF, whatever the file system knows.
"""

_LAYER_HINT: Final = "the image was removed since the dump; pull it again, by digest"

_ROOM: Final = 1 << 18
"""Bytes for the options of a mount: 500 layers of common length take half of it."""

_PARAMETERS: Final = "/sys/module/overlay/parameters"


class _UnfitError(Exception):
    """A rung does not bear this mount here; the text says why."""


class _Given(NamedTuple):
    """A mount that was made: its root, an O_PATH descriptor, and the options as they were said."""

    root: int
    said: OverlayOptions


def module_parameters() -> dict[str, str]:
    """Read the parameters of the overlay module, the defaults of its options; {} without it."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(_PARAMETERS)):
            with open(f"{_PARAMETERS}/{name}", encoding="ascii") as file:
                found[name] = file.read().strip()
    return found


def mount_overlay(at: KPath, options: OverlayOptions) -> None:
    """
    Mount an overlay at a directory and compare the result with what was asked.

    Layers are absolute. Raises StepError naming the layer that is gone, the marker that a volatile
    mount left, the upper whose index is of other layers, or what the kernel made otherwise,
    CapabilityError when no rung of the ladder takes that many or that long layers or when the
    kernel has not all options, which it names, OSError otherwise. Nothing stays mounted on failure,
    and the working directory stays what it is.
    """
    complaints: list[str] = []
    for rung in (_by_descriptor, _by_name, _by_data, _by_relative_name, _by_number):
        try:
            given = rung(at, options)
        except _UnfitError as reason:
            complaints.append(str(reason))
        except OSError as error:
            _explain(at, options, error, complaints)
        else:
            break
    else:
        _give_up(at, complaints)
    try:
        _compare(at, given, options)
    except BaseException:
        syscalls.umount2(decode(at), syscalls.MNT_DETACH)
        raise
    finally:
        os.close(given.root)


def _give_up(at: KPath, complaints: Sequence[str]) -> NoReturn:
    _, by_name, *data = complaints
    msg = f"overlay at {at}: {'; '.join(data)}; and the mount API says: {by_name}"
    raise CapabilityError(
        msg,
        probe="overlay lowerdir+",
        hint="use Linux 6.7 or newer, shorter layer paths, or --driver vfs",
    )


def _explain(
    at: KPath, options: OverlayOptions, error: OSError, complaints: Sequence[str]
) -> NoReturn:
    """Raise what a mount failed with, or what is behind it, which the kernel does not say."""
    _check_layers(options)
    _check_marker(options)
    _check_index(options, error)
    count = len(options.lowers) + len(options.data)
    if count > _MOST_LAYERS and error.errno in _TOO_MANY:
        msg = f"overlay at {at}: {count} layers, and the kernel takes {_MOST_LAYERS}"
        hint = "merge layers: --driver vfs makes one directory of them"
        raise CapabilityError(msg, probe="overlay layers", hint=hint) from error
    if error.errno == errno.EINVAL:
        _check_options(at, options, error)
    said = f" (mount API: {complaints[1]})" if len(complaints) > 1 else ""
    raise OSError(error.errno, f"{error.strerror}{said}", at) from error


def _check_layers(options: OverlayOptions) -> None:
    """Name the missing layer, which the kernel does not: it answers ENOENT for any of them."""
    wanted = [*options.lowers, *options.data]
    for number, layer in enumerate(wanted, 1):
        if not os.path.isdir(decode(layer)):
            msg = f"lower layer {number} of {len(wanted)} is gone: {layer}"
            raise StepError(msg, errno=errno.ENOENT, hint=_LAYER_HINT)
    for name, directory in (("upper", options.upper), ("work", options.work)):
        if directory and not os.path.isdir(decode(directory)):
            msg = f"the {name} directory is gone: {directory}"
            raise StepError(msg, errno=errno.ENOENT, hint=_LAYER_HINT)


def _check_marker(options: OverlayOptions) -> None:
    """Name what a volatile mount left: with it the kernel mounts nothing (overlayfs.rst)."""
    if options.work is None:
        return
    marker = os.path.join(decode(options.work), b"work/incompat/volatile")
    if os.path.lexists(marker):
        msg = (
            f"upper {options.upper} was mounted volatile, and may have lost changes in a crash: "
            f"{encode(marker)} is there"
        )
        hint = "if there was no crash since, remove that directory; else write into a copy: --upper"
        raise StepError(msg, errno=errno.EINVAL, hint=hint)


def _check_index(options: OverlayOptions, error: OSError) -> None:
    """Say what a stale handle is: an upper with an index is bound to the very directories."""
    if error.errno != errno.ESTALE:
        return
    msg = (
        f"upper {options.upper} has an index, which was made of another directory than "
        f"{options.lowers[0]}, or of another upper: one of them was copied or made anew"
    )
    hint = "bring back the layers as they were; else write into a copy: --upper"
    raise StepError(msg, errno=errno.ESTALE, hint=hint) from error


def _check_options(at: KPath, options: OverlayOptions, error: OSError) -> None:
    """Name the options, or values of them, that this kernel does not know."""
    unknown = [each for each in options.others if not _is_option(at, each)]
    if unknown:
        msg = f"overlay at {at}: this kernel's overlay does not know {', '.join(unknown)}"
        hint = "use a kernel that does, as the one of the dump did, or --driver vfs"
        raise CapabilityError(msg, probe=f"overlay {unknown[0]}", hint=hint) from error


def _is_option(at: KPath, option: str) -> bool:
    """
    Tell whether the kernel knows an option and its value, by a mount that fails either way.

    What it does not know is EINVAL, before the layers are looked up: while options are parsed
    (fs/overlayfs/params.c), or after all of them before Linux 6.5 (fs/overlayfs/super.c,
    `ovl_parse_opt()`). There are two layers because one without an upper is EINVAL in itself.
    """
    data = b"%s,lowerdir=/dev/null/a:/dev/null/b" % decode(KPath(option))
    try:
        syscalls.mount(b"overlay", decode(at), b"overlay", 0, data)
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


# --- The mount API --------------------------------------------------------------------------------


def _by_descriptor(at: KPath, options: OverlayOptions) -> _Given:
    return _by_fsconfig(at, options, _set_descriptor)


def _by_name(at: KPath, options: OverlayOptions) -> _Given:
    return _by_fsconfig(at, options, _set_name)


def _by_fsconfig(
    at: KPath, options: OverlayOptions, set_layer: Callable[[int, bytes, bytes], None]
) -> _Given:
    """Mount through the mount API, layers one by one."""
    try:
        root = _detached(options, set_layer)
    except OSError as error:
        if error.errno in _TRY_NEXT:
            raise _UnfitError(error.strerror) from error
        raise
    try:
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        syscalls.move_mount(root, b"", syscalls.AT_FDCWD, decode(at), flags)
    except OSError as error:
        os.close(root)
        if error.errno in _TRY_NEXT:
            raise _UnfitError(error.strerror) from error
        raise
    return _Given(root, options)


def _detached(options: OverlayOptions, set_layer: Callable[[int, bytes, bytes], None]) -> int:
    """Give an overlay mount that goes with its descriptor when nothing has attached it."""
    context = syscalls.fsopen(b"overlay", syscalls.FSOPEN_CLOEXEC)
    try:
        try:
            _configure(context, options, set_layer)
            syscalls.fsconfig_create(context)
        except OSError as error:
            said = "; ".join(syscalls.fscontext_messages(context))
            raise OSError(error.errno, said or error.strerror) from error
        return syscalls.fsmount(context, syscalls.FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _configure(
    context: int, options: OverlayOptions, set_layer: Callable[[int, bytes, bytes], None]
) -> None:
    syscalls.fsconfig_string(context, b"source", b"overlay")  # "none" else, in mountinfo
    for layer in options.lowers:
        set_layer(context, b"lowerdir+", decode(layer))
    for layer in options.data:
        set_layer(context, b"datadir+", decode(layer))
    if options.upper and options.work:
        set_layer(context, b"upperdir", decode(options.upper))
        set_layer(context, b"workdir", decode(options.work))
    for option in options.others:
        name, equals, value = option.partition("=")
        if equals:
            syscalls.fsconfig_string(context, name.encode(), decode(KPath(value)))
        else:
            syscalls.fsconfig_flag(context, name.encode())


def _set_descriptor(context: int, key: bytes, layer: bytes) -> None:
    fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.fsconfig_fd(context, key, fd)
    finally:
        os.close(fd)


def _set_name(context: int, key: bytes, layer: bytes) -> None:
    # overlay unescapes the name of an upper or work, not that of a single lower layer
    escape = b"\\\\" if key in {b"upperdir", b"workdir"} else b"\\"
    syscalls.fsconfig_string(context, key, layer.replace(b"\\", escape))


# --- mount(2) -------------------------------------------------------------------------------------


def _by_data(at: KPath, options: OverlayOptions) -> _Given:
    """Mount with mount(2), layers as they are."""
    count = len(options.lowers) + len(options.data)
    data = _fitting(options, f"{count} layers make {{}} bytes of options, mount(2) takes {{}}")
    syscalls.mount(b"overlay", decode(at), b"overlay", 0, data)
    return _given(at, options)


def _fitting(options: OverlayOptions, complaint: str) -> bytes:
    data = format_options(options)
    if len(data) > _DATA_LIMIT:
        raise _UnfitError(complaint.format(len(data), _DATA_LIMIT))
    return data


def _by_relative_name(at: KPath, options: OverlayOptions) -> _Given:
    """Mount with mount(2) from the directory that all layers have in common, by short names."""
    layers = [decode(layer) for layer in (*options.lowers, *options.data)]
    base = os.path.commonpath([os.path.dirname(os.path.normpath(layer)) for layer in layers])
    names = [encode(os.path.relpath(layer, base)) for layer in layers]
    said = _respelled(options, names)
    data = _fitting(said, f"relative to {encode(base)} they make {{}} bytes")
    _mount_from(base, at, data)
    return _given(at, said)


def _by_number(at: KPath, options: OverlayOptions) -> _Given:
    """Mount with mount(2) from /proc/self/fd, where each layer is the number of a descriptor."""
    with contextlib.ExitStack() as stack:
        names: list[KPath] = []
        for layer in (*options.lowers, *options.data):
            fd = os.open(decode(layer), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            names.append(KPath(str(fd)))
        said = _respelled(options, names)
        data = _fitting(said, "as descriptors they make {} bytes")
        _mount_from(b"/proc/self/fd", at, data)
    return _given(at, said)


def _respelled(options: OverlayOptions, names: Sequence[KPath]) -> OverlayOptions:
    """Call the lower and data-only layers by other names; upper and work stay known to all."""
    split = len(options.lowers)
    return msgspec.structs.replace(options, lowers=tuple(names[:split]), data=tuple(names[split:]))


def _mount_from(base: bytes, at: KPath, data: bytes) -> None:
    """
    Mount from another working directory: that of a thread, which nobody else looks at.

    The thread is in the mount namespace of the calling one, see clone(2). Raises _UnfitError where
    it can have no directory of its own.
    """
    failed: list[BaseException] = []

    def work() -> None:
        try:
            try:
                syscalls.unshare(syscalls.CLONE_FS)
            except OSError as error:
                msg = f"a thread can have no working directory of its own here: {error.strerror}"
                raise _UnfitError(msg) from error
            os.chdir(base)
            syscalls.mount(b"overlay", decode(at), b"overlay", 0, data)
        except BaseException as error:  # noqa: BLE001  # it is raised below
            failed.append(error)

    thread = threading.Thread(target=work, name="mountcr-overlay")
    with held_back():  # or the thread would mount when nobody waits for it any more
        thread.start()
        thread.join()
    if failed:
        raise failed[0]


def _given(at: KPath, said: OverlayOptions) -> _Given:
    """Open what mount(2) has just put on top at a directory."""
    try:
        return _Given(os.open(decode(at), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), said)
    except BaseException:
        syscalls.umount2(decode(at), syscalls.MNT_DETACH)
        raise


# --- What came of it ------------------------------------------------------------------------------


def _compare(at: KPath, given: _Given, wanted: OverlayOptions) -> None:
    """Read the mount back; the kernel may drop layers without an error, and did."""
    found = _shown(given.root)
    said = given.said
    for what, want, have in (
        ("lower layers", said.lowers, found.lowers),
        ("data-only layers", said.data, found.data),
        ("upper", (said.upper,), (found.upper,)),
        ("work", (said.work,), (found.work,)),
    ):
        if want != have and _real(want) != _real(have):
            msg = f"overlay at {at}: the kernel mounted other {what} than asked: {have}, not {want}"
            raise StepError(msg, errno=errno.EIO)
    if set(wanted.others) <= set(found.others):
        return
    unmet = unmet_options(
        wanted.others, found.others, module_parameters(), writable=wanted.upper is not None
    )
    if unmet:
        msg = (
            f"overlay at {at}: the kernel mounted other options than asked: "
            f"{','.join(found.others)}, not {','.join(unmet)}"
        )
        hint = "the file system of the upper may lack file handles or xattrs; dmesg tells"
        raise StepError(msg, errno=errno.EIO, hint=hint)


def _shown(root: int) -> OverlayOptions:
    """Give what the kernel shows of a mount, found by its id and not by where it is."""
    told = _told(root)
    return _in_mountinfo(root) if told is None else parse_options(from_line(told))


def _told(root: int) -> bytes | None:
    """
    Ask for the options of one mount; None before Linux 6.11.

    mountinfo has them too, but the kernel writes a long line anew for each page of it.
    """
    with contextlib.suppress(OSError):
        unique = unique_mount_id(b"", root)
        if unique:
            return statmount.statmount(unique, statmount.STATMOUNT_MNT_OPTS, _ROOM).mnt_opts
    return None


def _in_mountinfo(root: int) -> OverlayOptions:
    with open(f"/proc/thread-self/fdinfo/{root}", "rb") as file:
        (identity,) = (line.split()[1] for line in file if line.startswith(b"mnt_id:"))
    with open("/proc/thread-self/mountinfo", "rb", buffering=0) as table:
        text = b"\n" + table.readall()
    begin = text.find(b"\n" + identity + b" ")
    if begin < 0:
        return OverlayOptions()
    line = text[begin + 1 : text.index(b"\n", begin + 1)]
    return parse_options(mountinfo.parse_line(line).super_options)


def _real(layers: tuple[KPath | None, ...]) -> list[str]:
    """Resolve links on the way: layers given by descriptor are shown by their real path."""
    return [os.fsdecode(os.path.realpath(decode(layer))) for layer in layers if layer]
