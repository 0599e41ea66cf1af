# SPDX-License-Identifier: Apache-2.0
"""
Mounting OverlayFS: a ladder of system calls, and the comparison of what came of it.

Newest rung first, each tried by calling: layers by descriptor (`lowerdir+` with FSCONFIG_SET_FD,
Linux 6.13), layers by name (`lowerdir+`, Linux 6.8, 255 bytes each), then mount(2), whose data
ends at 4095 bytes without an error and therefore is refused above. No rung is chosen by version.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from mountcr import mountinfo
from mountcr.errors import CapabilityError, StepError
from mountcr.kernel import syscalls
from mountcr.overlayopts import OverlayOptions, format_options, parse_options
from mountcr.paths import KPath, decode

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["mount_overlay"]

_DATA_LIMIT: Final = 4095
"""mount(2) copies one page and ends it with a NUL (fs/namespace.c, `copy_mount_options()`)."""

_TRY_NEXT: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
"""What a kernel answers that lacks a rung; seccomp filters of engines say EPERM."""


def mount_overlay(at: KPath, options: OverlayOptions) -> None:
    """
    Mount an overlay at a directory and compare the result with what was asked.

    Raises StepError naming the layer that is gone, CapabilityError when no rung of the ladder
    takes that many or that long layers, OSError otherwise. Nothing stays mounted on failure.
    """
    _check_layers(options)
    complaint = _mount_by_fsconfig(at, options)
    if complaint is not None:
        _mount_by_data(at, options, complaint)
    try:
        _compare(at, options)
    except BaseException:
        syscalls.umount2(decode(at), syscalls.MNT_DETACH)
        raise


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


_LAYER_HINT: Final = "the image was removed since the dump; pull it again, by digest"


def _mount_by_fsconfig(at: KPath, options: OverlayOptions) -> str | None:
    """Mount through the mount API; give why that is not possible here, None when it is done."""
    for layers_by_fd in (True, False):
        try:
            with _configured(options, by_fd=layers_by_fd) as mount_fd:
                syscalls.move_mount(
                    mount_fd, b"", syscalls.AT_FDCWD, decode(at), syscalls.MOVE_MOUNT_F_EMPTY_PATH
                )
        except OSError as error:
            if error.errno not in _TRY_NEXT:
                raise
            complaint = str(error.strerror)
        else:
            return None
    return complaint


@contextlib.contextmanager
def _configured(options: OverlayOptions, *, by_fd: bool) -> Generator[int]:
    """Give a detached overlay mount; it goes when nothing has attached it."""
    with contextlib.ExitStack() as stack:
        context = syscalls.fsopen(b"overlay", syscalls.FSOPEN_CLOEXEC)
        stack.callback(os.close, context)
        try:
            _configure(context, options, by_fd=by_fd)
            syscalls.fsconfig_create(context)
        except OSError as error:
            said = "; ".join(syscalls.fscontext_messages(context))
            raise OSError(error.errno, said or error.strerror) from error
        mount_fd = syscalls.fsmount(context, syscalls.FSMOUNT_CLOEXEC, 0)
        stack.callback(os.close, mount_fd)
        yield mount_fd


def _configure(context: int, options: OverlayOptions, *, by_fd: bool) -> None:
    syscalls.fsconfig_string(context, b"source", b"overlay")  # "none" else, in mountinfo
    layers = [
        *((b"lowerdir+", layer) for layer in options.lowers),
        *((b"datadir+", layer) for layer in options.data),
    ]
    if options.upper and options.work:
        layers += [(b"upperdir", options.upper), (b"workdir", options.work)]
    for key, layer in layers:
        if by_fd:
            fd = os.open(decode(layer), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syscalls.fsconfig_fd(context, key, fd)
            finally:
                os.close(fd)
        else:
            # overlay unescapes the name of an upper or work, not that of a single lower layer
            escape = b"\\\\" if key in {b"upperdir", b"workdir"} else b"\\"
            syscalls.fsconfig_string(context, key, decode(layer).replace(b"\\", escape))
    for option in options.others:
        name, equals, value = option.partition("=")
        if equals:
            syscalls.fsconfig_string(context, name.encode(), decode(KPath(value)))
        else:
            syscalls.fsconfig_flag(context, name.encode())


def _mount_by_data(at: KPath, options: OverlayOptions, complaint: str) -> None:
    data = format_options(options)
    if len(data) > _DATA_LIMIT:
        msg = (
            f"overlay at {at}: {len(options.lowers)} layers make {len(data)} bytes of options, "
            f"mount(2) takes {_DATA_LIMIT}, and the mount API says: {complaint}"
        )
        raise CapabilityError(
            msg,
            probe="overlay lowerdir+",
            hint="use Linux 6.8 or newer, shorter layer paths, or --driver vfs",
        )
    try:
        syscalls.mount(b"overlay", decode(at), b"overlay", 0, data)
    except OSError as error:
        said = f"{error.strerror} (mount API: {complaint})"
        raise OSError(error.errno, said, at) from error


def _compare(at: KPath, wanted: OverlayOptions) -> None:
    """Read the mount back; the kernel may drop layers without an error, and did."""
    mounted = [each for each in mountinfo.read() if each.mountpoint == at][-1:]
    found = parse_options(mounted[0].super_options) if mounted else OverlayOptions()
    for what, want, have in (
        ("lower layers", wanted.lowers, found.lowers),
        ("data-only layers", wanted.data, found.data),
        ("upper", (wanted.upper,), (found.upper,)),
        ("work", (wanted.work,), (found.work,)),
    ):
        if want != have and _real(want) != _real(have):
            msg = f"overlay at {at}: the kernel mounted other {what} than asked: {have}, not {want}"
            raise StepError(msg, errno=errno.EIO)


def _real(layers: tuple[KPath | None, ...]) -> list[str]:
    """Resolve links on the way: layers given by descriptor are shown by their real path."""
    return [os.fsdecode(os.path.realpath(decode(layer))) for layer in layers if layer]
