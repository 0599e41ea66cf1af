# SPDX-License-Identifier: Apache-2.0
"""
Source containers for real: layers made and changed through the union of each storage driver.

Everything happens in the calling process's own mount namespace, beneath one directory. Daemons run
in the foreground as children that end with us. No kernel here has AUFS: its layers are those of a
plain overlay, with every mark put into AUFS's spelling where it lies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fidelity import ground
from fidelity.perform import perform
from fidelity.recipe import Link
from mountcr.kernel import syscalls
from mountcr.kernel.programs import written_dialect
from mountcr.paths import decode, encode
from mountcr.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from fidelity.ground import Snapshot
    from fidelity.recipe import Operation, Recipe

__all__ = ["DRIVERS", "SOURCES", "Source", "build", "layers_of", "mounted", "variant"]

DRIVERS: Final = ("overlay", "vfs", "unionfs", "aufs")
"""The storage drivers; more sources are variants of them."""

_OVERLAY: Final = {
    "overlay-plain": ("index=off", "metacopy=off", "redirect_dir=off"),
    "overlay-metacopy": ("index=off", "metacopy=on", "redirect_dir=on"),
    "overlay-index": ("index=on", "metacopy=off", "redirect_dir=off"),
    "overlay-userxattr": ("userxattr", "index=off"),
}
"""Variants of overlay, and the options that make each."""

_VARIANTS: Final = tuple(_OVERLAY)

SOURCES: Final = ("overlay", *_OVERLAY, "unionfs", "fuse-overlayfs", "vfs", "aufs")
"""What a source can be; `overlay` is one of its variants, by the seed."""

_PATIENCE: Final = 20.0
"""Seconds for a daemon to mount, or to end."""


@dataclass(frozen=True)
class Source:
    """
    A container's files on one driver: the stack on disk, and what its merged view shows.

    `fates` are those of the changes, `done` the kinds of those that were done, and `names` all
    names that any layer has.
    """

    driver: str
    stack: Stack
    truth: Snapshot
    fates: tuple[str, ...]
    done: frozenset[str]
    names: frozenset[bytes]


@dataclass(frozen=True)
class _Layers:
    """Directories of a union, top first; without upper it is read-only."""

    lowers: tuple[bytes, ...]
    upper: bytes | None = None
    work: bytes | None = None


def layers_of(stack: Stack) -> _Layers:
    """Give what a union of a stack is mounted of."""
    upper, work = (decode(each) if each else None for each in (stack.upper, stack.work))
    return _Layers(tuple(decode(each) for each in stack.lowers), upper, work)


def variant(source: str, seed: int) -> str:
    """Say which variant of a source a seed means."""
    return _VARIANTS[seed % len(_VARIANTS)] if source == "overlay" else source


def build(recipe: Recipe, source: str, base: bytes) -> Source:
    """
    Make a container beneath a directory: its layers stay there, nothing stays mounted.

    Raises OSError, RuntimeError for a daemon that does not mount.
    """
    if source == "vfs":
        return _build_vfs(recipe, base)
    union = "overlay-plain" if source == "aufs" else source
    driver = "overlay" if source.startswith("overlay-") else source
    at = _directory(base, b"merged")
    below: tuple[bytes, ...] = ()
    for number, layer in enumerate(recipe.layers):
        directory = _directory(base, b"layer%d" % number)
        operations = _possible(layer.operations, driver)
        if layer.merged and below:
            work = _directory(base, b"work%d" % number)
            with mounted(union, _Layers(below, directory, work), at):
                perform(at, operations)
        else:
            perform(directory, operations, parents=True)
        below = (directory, *below)
    whole = _Layers(below, _directory(base, b"upper"), _directory(base, b"work"))
    with mounted(union, whole, at):
        changes = _possible(recipe.changes, driver)
        fates = perform(at, changes)
    directories = (base + b"/upper", *below)
    with mounted(union, whole, at):  # once more: a daemon remembers what is not on disk
        truth = ground.take(at)
    if driver == "unionfs":
        truth = ground.with_stored_xattrs(truth, directories)
    if source == "aufs":
        written = [base + b"/layer%d" % n for n, each in enumerate(recipe.layers) if each.merged]
        for each in (*written, base + b"/upper"):
            _mark_aufs_root(each)
        for number, each in enumerate(directories, 1):
            _to_aufs(each, directories[number:])
    stack = Stack(
        driver=driver,
        lowers=tuple(encode(each) for each in below),
        upper=encode(base + b"/upper"),
        work=encode(base + b"/work") if driver in {"overlay", "fuse-overlayfs"} else None,
        options=_OVERLAY.get(source, _OPTIONS.get(source, ())),
        dialect=written_dialect(driver),
        provenance=("the harness made it",),
    )
    return Source(driver, stack, truth, tuple(fates), _done(changes, fates), _names(directories))


def _build_vfs(recipe: Recipe, base: bytes) -> Source:
    directory = _directory(base, b"upper")
    for layer in recipe.layers:
        perform(directory, layer.operations, parents=not layer.merged)
    fates = perform(directory, recipe.changes)
    done = _done(recipe.changes, fates)
    stack = Stack(driver="vfs", upper=encode(directory), provenance=("the harness made it",))
    truth = ground.take(directory)
    return Source("vfs", stack, truth, tuple(fates), done, _names((directory,)))


def _done(changes: Sequence[Operation], fates: Sequence[str]) -> frozenset[str]:
    pairs = zip(changes, fates, strict=True)
    return frozenset(type(each).__name__ for each, fate in pairs if fate == "ok")


def _directory(base: bytes, name: bytes) -> bytes:
    path = base + b"/" + name
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    return path


def _names(directories: Sequence[bytes]) -> frozenset[bytes]:
    found: set[bytes] = set()
    for directory in directories:
        for _, inside, files in os.walk(directory):
            found.update(inside, files)
    return frozenset(found)


# --- Unions ---------------------------------------------------------------------------------------

_OPTIONS: Final = {
    "unionfs": ("cow", "use_ino", "suid", "dev", "allow_other", "hide_meta_files"),
    "fuse-overlayfs": ("suid", "dev"),
}


@contextlib.contextmanager
def mounted(source: str, layers: _Layers, at: bytes) -> Generator[None]:
    """Mount a union for a block of code, and end its daemon."""
    if source in _OVERLAY:
        _mount_overlay(layers, _OVERLAY[source], at)
        try:
            yield
        finally:
            syscalls.umount2(at)
        return
    if source == "vfs":
        syscalls.mount(layers.upper, at, b"", syscalls.MS_BIND)
        try:
            yield
        finally:
            syscalls.umount2(at)
        return
    with _daemon(_command(source, layers, at), at):
        yield


def _mount_overlay(layers: _Layers, options: Sequence[str], at: bytes) -> None:
    context = syscalls.fsopen(b"overlay")
    try:
        for lower in layers.lowers or (_directory(os.path.dirname(at), b"nothing"),):
            syscalls.fsconfig_string(context, b"lowerdir+", lower)
        if layers.upper and layers.work:
            syscalls.fsconfig_string(context, b"upperdir", layers.upper)
            syscalls.fsconfig_string(context, b"workdir", layers.work)
        for option in options:
            name, equals, value = option.encode().partition(b"=")
            if equals:
                syscalls.fsconfig_string(context, name, value)
            else:
                syscalls.fsconfig_flag(context, name)
        syscalls.fsconfig_create(context)
        mount = syscalls.fsmount(context)
    finally:
        os.close(context)
    try:
        syscalls.move_mount(mount, b"", syscalls.AT_FDCWD, at, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(mount)


def _command(source: str, layers: _Layers, at: bytes) -> list[bytes]:
    options = [option.encode() for option in _OPTIONS[source]]
    if source == "unionfs":
        branches = [each + b"=RO" for each in layers.lowers]
        if layers.upper:
            branches.insert(0, layers.upper + b"=RW")
        return [b"unionfs", b"-f", b"-o", b",".join(options), b":".join(branches), at]
    lowers = layers.lowers or (_directory(os.path.dirname(at), b"nothing"),)
    options.append(b"lowerdir=" + b":".join(lowers))
    if layers.upper and layers.work:
        options += [b"upperdir=" + layers.upper, b"workdir=" + layers.work]
    return [b"fuse-overlayfs", b"-f", b"-o", b",".join(options), at]


@contextlib.contextmanager
def _daemon(command: list[bytes], at: bytes) -> Generator[None]:
    before = os.stat(at).st_dev
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_end_with_us,  # noqa: PLW1509  # there is one thread only
    )
    try:
        limit = time.monotonic() + _PATIENCE
        while os.stat(at).st_dev == before:
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"{command[0].decode()} does not mount: {process.returncode}")
            time.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(OSError):
            syscalls.umount2(at, syscalls.MNT_DETACH)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_us() -> None:
    syscalls.prctl_set_pdeathsig(signal.SIGKILL)


# --- AUFS -----------------------------------------------------------------------------------------

_AUFS_LONGEST: Final = 242
"""Bytes of a name in an AUFS union (include/uapi/linux/aufs_type.h, AUFS_MAX_NAMELEN)."""

_AUFS_PREFIX: Final = b".wh."


def _possible(operations: Sequence[Operation], driver: str) -> tuple[Operation, ...]:
    """
    Leave out what the driver would refuse, where it is not here to do so, or confuses.

    After a copy-up, fuse-overlayfs 1.10 shows one name of a lower file with the other's content.
    """
    if driver == "fuse-overlayfs":
        return tuple(each for each in operations if not isinstance(each, Link))
    if driver != "aufs":
        return tuple(operations)
    return tuple(each for each in operations if all(_is_possible(name) for name in _made(each)))


def _made(operation: Operation) -> list[bytes]:
    return [*operation.path.split(b"/"), *getattr(operation, "to", b"").split(b"/")]


def _is_possible(name: bytes) -> bool:
    return len(name) <= _AUFS_LONGEST and not name.startswith(_AUFS_PREFIX)


def _mark_aufs_root(branch: bytes) -> None:
    """Give a writable branch what AUFS makes in it when it is added (fs/aufs/branch.c)."""
    times = os.lstat(branch)
    with open(branch + b"/.wh..wh.aufs", "xb"):
        pass
    os.chmod(branch + b"/.wh..wh.aufs", 0o444)
    for name in (b".wh..wh.plnk", b".wh..wh.orph"):
        os.mkdir(branch + b"/" + name, 0o700)
    os.utime(branch, ns=(times.st_atime_ns, times.st_mtime_ns))


def _to_aufs(branch: bytes, lowers: Sequence[bytes]) -> None:
    """
    Put the marks of an overlay layer into AUFS's spelling, leaving all else as it is.

    A directory on what is none needs a mark there, as AUFS would make one.
    """
    base = branch + b"/.wh..wh.aufs"
    done: set[int] = set()  # a hard link is done by its first name
    for directory, _, _ in os.walk(branch, topdown=False):
        times = os.lstat(directory)
        for name in os.listdir(directory):
            path = directory + b"/" + name
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                os.unlink(path)
                _whiteout(base, directory + b"/" + _AUFS_PREFIX + name)
            elif status.st_ino not in done:
                done.add(status.st_ino)
                _strip(path)
        if directory == branch:
            _strip(directory)
        elif _xattr(directory, b"trusted.overlay.opaque") == b"y" or _covers(
            directory.removeprefix(branch), lowers
        ):
            with contextlib.suppress(OSError):
                os.removexattr(directory, b"trusted.overlay.opaque")
            _whiteout(base, directory + b"/.wh..wh..opq")
        os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))


def _covers(path: bytes, lowers: Sequence[bytes]) -> bool:
    """Tell whether what lies next below a directory is something else, and no whiteout."""
    for lower in lowers:
        status = _next_below(lower, path)
        if status is not None:
            is_whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
            return not is_whiteout and not stat.S_ISDIR(status.st_mode)
    return False


def _next_below(lower: bytes, path: bytes) -> os.stat_result | None:
    """Give what a layer has at a path, or instead of one of the directories that lead there."""
    status = None
    for name in path.strip(b"/").split(b"/"):
        lower += b"/" + name
        try:
            status = os.lstat(lower)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(status.st_mode):
            break
    return status


def _whiteout(base: bytes, path: bytes) -> None:
    if os.path.lexists(base):
        os.link(base, path)
        return
    with open(path, "xb"):
        pass
    os.chmod(path, 0o444)


def _xattr(path: bytes, name: bytes) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return b""


def _strip(path: bytes) -> None:
    """Take overlay's own attributes away, and give a container's own ones their names back."""
    own, escaped = b"trusted.overlay.", b"trusted.overlay.overlay."
    names = [os.fsencode(each) for each in os.listxattr(path, follow_symlinks=False)]
    kept = {
        own + name.removeprefix(escaped): os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name.startswith(escaped)
    }
    for name in names:
        if name.startswith(own):
            os.removexattr(path, name, follow_symlinks=False)
    for name, value in kept.items():
        os.setxattr(path, name, value, follow_symlinks=False)
