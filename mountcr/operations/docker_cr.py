# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of Docker's containers: a directory for each below one top, named by the full id.

A new checkpoint is made beside the one that is there, and takes its place when it is complete: at
any moment at least one of them can be restored, whenever and however this ends.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import manifest as manifests
from mountcr.driver import recognise
from mountcr.engines import pid as processes
from mountcr.engines.reference import ambiguous, beginning, exact, not_found
from mountcr.errors import (
    MountcrError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from mountcr.graph.tree import MountTree
from mountcr.kernel.locks import is_held_by_others
from mountcr.model import Container
from mountcr.observation import observe
from mountcr.operations.dump import dump
from mountcr.operations.locks import held
from mountcr.operations.restore import restore
from mountcr.paths import KPath, encode, fsdecode
from mountcr.rootfs.fingerprint import FINGERPRINT

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from mountcr.operations.dump import DumpResult
    from mountcr.operations.restore import RestoreResult
    from mountcr.planning.choices import Choices
    from mountcr.rootfs.writer import Progress

__all__ = [
    "PIDFILE",
    "checkpoint",
    "checkpointed",
    "find_checkpointed",
    "kept_in",
    "made_at",
    "restore_checkpoint",
    "with_pid",
]

PIDFILE: Final = "restore.pid"
"""Where the images directory has the pid of the restored container, on the host."""

_NEW: Final = ".new"
_WRITTEN: Final = (
    *("*.img", "*.log", "*.pid", "stats-*", "*.new"),
    *(manifests.MANIFEST, manifests.DESCRIPTORS, FINGERPRINT),
)
"""What a dump and a restore write, of docker_cr.sh too; other files are somebody's."""

_ENGINE: Final = "docker"


# --- Which there are ------------------------------------------------------------------------------


def _is_complete(images: str) -> bool:
    """Tell whether a dump was completed: its manifest is written when the images are."""
    return os.path.exists(f"{images}/{manifests.MANIFEST}")


def made_at(top: str, container: str) -> float | None:
    """Give when the checkpoint of a container was made, in seconds since 1970; None without one."""
    for images in (f"{top}/{container}{_NEW}", f"{top}/{container}"):
        with contextlib.suppress(OSError):
            return os.stat(f"{images}/{manifests.MANIFEST}").st_mtime
    return None


def kept_in(top: str) -> list[Container]:
    """Give the containers that have a checkpoint, as it knows them; those of a damaged one too."""
    try:
        names = {name.removesuffix(_NEW) for name in os.listdir(top)}
    except OSError:
        return []
    return [_kept(top, name) for name in sorted(names) if made_at(top, name) is not None]


def _kept(top: str, name: str) -> Container:
    try:
        found = manifests.read(encode(f"{top}/{name}")).facts.container
    except (MountcrError, OSError):
        return Container(id=name, engine=_ENGINE)
    return msgspec.structs.replace(
        found, id=name, engine=_ENGINE, pid=0, start_time=0, status="", recorded="removed"
    )


def find_checkpointed(reference: str, known: Sequence[Container], top: str) -> Container:
    """
    Find what a reference means: among what Docker knows, and what has a checkpoint.

    It is an id, else a name, else the beginning of one id. Raises NotFoundError and AmbiguousError.
    """
    word = reference.removeprefix(f"{_ENGINE}:")
    if not word:
        raise UsageError(f"{reference!r} names no container", hint="give an id or a name")
    # the records of Docker come last, so that they count where both know a container
    every = [*{each.id: each for each in (*kept_in(top), *known)}.values()]
    found = exact(word, every) or beginning(word, every)
    if len(found) > 1:
        raise ambiguous(reference, found)
    if found:
        return found[0]
    if not every:
        hint = f"Docker has no container, and {top} no checkpoint"
        raise NotFoundError(f"no container is called {reference}", hint=hint)
    raise not_found(reference, word, every, ())


# --- Whose process --------------------------------------------------------------------------------


def with_pid(container: Container, word: str) -> Container:
    """
    Give a container of Docker's records with a process that the records do not have.

    Raises UsageError for what is no pid, or the pid of something else than this container, and
    NotFoundError where there is no such process.
    """
    if not processes.is_pid(word):
        raise UsageError(f"{word!r} is no pid", hint="give the number of a process in digits")
    process = processes.read(int(word))
    found = msgspec.structs.replace(
        container, pid=process.pid, start_time=process.start_time, status=process.status
    )
    _check_root(found)
    return found


def _check_root(container: Container) -> None:
    """Refuse a process whose root has another writable layer than the container."""
    facts = observe(container)
    if facts.shares_mounts:
        what = "has the mounts of the host and is no container's"
        hint = f"give the init process of {container.id}"
        raise UsageError(f"pid {container.pid} {what}", hint=hint)
    root = MountTree(facts.namespaces[0].mounts).root
    seen = recognise(root, MountTree(facts.host.mounts)) if root else None
    wanted = container.stack.upper if container.stack else None
    upper = seen.upper if seen else None
    if wanted and upper and not _is_same(wanted, upper):
        what = f"runs on {upper}, and container {container.id} on {wanted}"
        hint = f"give the init process of {container.id}"
        raise UsageError(f"pid {container.pid} {what}", hint=hint)


def _is_same(one: KPath, other: KPath) -> bool:
    """Tell whether two paths are the same directory; where one is not there, nobody can tell."""
    try:
        return one == other or os.path.samefile(fsdecode(one), fsdecode(other))
    except OSError:
        return True


# --- Making and restoring one ---------------------------------------------------------------------


def checkpoint(container: Container, top: str, choices: Choices) -> DumpResult:
    """
    Dump a container into its directory below `top`.

    What is there stays until the new images are complete, and then goes, but for files that no
    dump or restore writes. On failure CRIU's log is in the directory of this name with `.new`.
    Raises what `dump` raises, UsageError where the directory cannot be made, and RefusedError for
    a container that is paused and while somebody else dumps or restores it.
    """
    _check_state(container)
    images = f"{top}/{container.id}"
    _ensure_place(images)
    _settle(images)
    with _claimed(f"{images}{_NEW}"), held(encode(images)):
        _empty(f"{images}{_NEW}")
        new = encode(f"{images}{_NEW}")
        result = dump(container, msgspec.structs.replace(choices, images=new))
        _take_place(images)
    return result


def _check_state(container: Container) -> None:
    """Refuse what CRIU could not stop: it would wait for tasks that a freezer holds."""
    if container.status == "paused":
        msg = f"container {container.id} is paused, so its tasks cannot be traced"
        raise RefusedError(msg, hint="docker unpause it first")


def _ensure_place(images: str) -> None:
    """Make the directory that images are in. Raises UsageError where there can be none."""
    top = os.path.dirname(images)
    try:
        os.makedirs(top, mode=0o700, exist_ok=True)
        os.makedirs(f"{images}{_NEW}", mode=0o700, exist_ok=True)
    except OSError as error:
        msg = f"the images directory {images} cannot be made: {error.strerror}"
        hint = "name a directory that can be written in CRIU_IMG_DIR"
        raise UsageError(msg, hint=hint) from error
    if os.path.lexists(images) and (not os.path.isdir(images) or os.path.islink(images)):
        raise UsageError(f"{images} is not a directory", hint="move it away")
    if os.path.ismount(images):
        msg = f"{images} is a mountpoint, which a new checkpoint cannot replace"
        raise UsageError(msg, hint="mount at the directory above, or name another in CRIU_IMG_DIR")


@contextlib.contextmanager
def _claimed(new: str) -> Generator[None]:
    """
    Have the place of a new checkpoint to oneself for a block; nothing empty stays there.

    Raises RefusedError when somebody else has it, or has just had it.
    """
    os.makedirs(new, mode=0o700, exist_ok=True)
    fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        if is_held_by_others(fd) or not _is_at(fd, new):
            msg = f"another mountcr is just dumping into {encode(new)}"
            raise RefusedError(msg, hint="wait until it is done")
        stack.callback(_remove_empty, new)
        yield


def _is_at(fd: int, path: str) -> bool:
    """Tell whether an open directory still has a name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _remove_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _empty(new: str) -> None:
    """Remove the half of a checkpoint that one left behind which was killed or failed."""
    if _is_complete(new):
        msg = f"{encode(new)} was completed by another mountcr just now"
        raise RefusedError(msg, hint="restore it, or call again")
    for entry in os.scandir(new):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _settle(images: str) -> None:
    """Put a checkpoint in its place that was completed by one who was killed before it did."""
    new = f"{images}{_NEW}"
    if not os.path.isdir(new):
        return
    with _claimed(new), held(encode(images)):
        if _is_complete(new):
            _take_place(images)


def _take_place(images: str) -> None:
    """Put the new checkpoint where the earlier one is; killed anywhere, `_settle` goes on."""
    new = f"{images}{_NEW}"
    if os.path.isdir(images):
        for name in os.listdir(images):
            if not any(fnmatch.fnmatchcase(name, each) for each in _WRITTEN):
                os.rename(f"{images}/{name}", f"{new}/{name}")
        shutil.rmtree(images)
    os.rename(new, images)


def checkpointed(container: Container, top: str) -> KPath:
    """
    Give the images directory of a container.

    Raises NotFoundError where nothing was dumped, RefusedError while it runs, or is being dumped.
    """
    images = f"{top}/{container.id}"
    _settle(images)
    if not _is_complete(images):
        hint = f"make one: mountcr docker-cr -c {container.id}"
        if os.path.exists(f"{images}/inventory.img"):
            hint = f"its images were not made by mountcr; {hint}"
        raise NotFoundError(f"{encode(images)} holds no checkpoint", hint=hint)
    if container.pid:
        msg = f"container {container.id} runs, as pid {container.pid}"
        raise RefusedError(msg, hint="stop it first: two of them would write into the same files")
    return encode(images)


def restore_checkpoint(
    images: KPath, choices: Choices, progress: Progress | None = None
) -> tuple[RestoreResult, str]:
    """
    Restore, and write the pid into the images directory; give why that failed, if it did.

    Raises what `restore` raises.
    """
    pidfile = f"{fsdecode(images)}/{PIDFILE}"
    with contextlib.suppress(OSError):
        os.unlink(pidfile)
    result = restore(images, msgspec.structs.replace(choices, images=images), progress=progress)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(pidfile, flags, 0o600), "w", encoding="ascii") as file:
            file.write(f"{result.pid}\n")
    except OSError as error:
        return result, f"{encode(pidfile)}: {error.strerror}"
    return result, ""
