# SPDX-License-Identifier: Apache-2.0
"""
Archives on their way to where they belong: a place for what they are made of, and the output.

An output is a file, a directory, or standard output; it has its name when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, TYPE_CHECKING, Final, TypeAlias

from mountcr import journal, paths
from mountcr.bundle.layout import write_layout
from mountcr.bundle.names import STANDARD
from mountcr.bundle.writer import DirectorySink, write_tar_bundle
from mountcr.errors import UsageError
from mountcr.kernel.removal import remove_any, remove_tree
from mountcr.paths import decode, encode
from mountcr.planning.choices import STATE
from mountcr.rootfs.partial import Partial

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mountcr.bundle.layout import Image, WrittenImage
    from mountcr.bundle.writer import Sink
    from mountcr.compression import Level, Output
    from mountcr.paths import KPath

    Whole: TypeAlias = Callable[[KPath, KPath], None]

__all__ = [
    "check_output",
    "discard",
    "put",
    "put_image",
    "scratch_directory",
    "write_bytes",
    "write_file",
]

_PIECE: Final = 1 << 20

_SCRATCH: Final = paths.join(paths.parent(STATE), "exports")
"""Where images lie while a bundle is written that has no place of its own."""


@contextlib.contextmanager
def scratch_directory(name: str) -> Generator[KPath]:
    """
    Give a directory for a block, for the owner only.

    Only root has one that `mountcr cleanup` finds when this process is killed.
    """
    if os.geteuid() != 0:
        import tempfile  # which root has no use for

        with tempfile.TemporaryDirectory(prefix="mountcr-") as found:
            yield encode(found)
        return
    journal.make_directories(decode(_SCRATCH), 0o700)
    path = paths.join(_SCRATCH, f"{name[:64]}.{os.getpid()}")
    journal.make_directory(decode(path), 0o700, tree=True)
    try:
        yield path
    finally:
        remove_tree(path)


def check_output(output: str) -> None:
    """Refuse a place where nothing can be made. Raises UsageError."""
    if output == STANDARD:
        return
    if os.path.lexists(output.rstrip("/")):
        msg = f"{encode(output)} is there already"
        raise UsageError(msg, hint="name one that is not there yet")
    parent = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(parent):
        msg = f"{encode(output)} cannot be made: {encode(parent)} is no directory"
        raise UsageError(msg, hint="make the parent first")


def put(
    output: str,
    level: Level,
    write: Callable[[Sink], None],
    *,
    durable: bool = True,
    whole: Whole = lambda _unnamed, _into: None,
) -> int:
    """
    Have an archive written, and give how many bytes it has; of a directory, those of its members.

    A file, or with a slash at its end a directory, is whole, or not there; a `durable` one is so,
    and has its name, after a power failure too. `whole` is told, when it is, where it lies and
    which name it gets then. Raises OSError, and what `write` and `whole` raise.
    """
    if output == STANDARD:
        counted = _Counted(sys.stdout.buffer)
        write_tar_bundle(counted, level, write)
        sys.stdout.buffer.flush()
        return counted.size
    into = encode(os.path.abspath(output))
    with Partial(into) as made:
        if output.endswith("/"):
            sink = _Added(DirectorySink(made.fd))
            write(sink)
            _complete(made, into, whole, durable=durable)
            return sink.size
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(b"bundle", flags, 0o600, dir_fd=made.fd), "wb", _PIECE) as file:
            write_tar_bundle(file, level, write)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            size = file.tell()
        journal.note(journal.Kept(path=into))
        whole(paths.join(made.path, "bundle"), into)
        # unlike rename(2), this never replaces what came there meanwhile
        os.link(b"bundle", decode(into), src_dir_fd=made.fd, follow_symlinks=False)
        _sync_name(into, durable=durable)
        return size


def put_image(
    output: str,
    level: Level,
    image: Image,
    write: Callable[[Sink], None],
    *,
    durable: bool = True,
    whole: Whole = lambda _unnamed, _into: None,
) -> WrittenImage:
    """Have an archive written as an image in an OCI image layout, a new directory; as `put` is."""
    into = encode(os.path.abspath(output))
    with Partial(into) as made:
        written = write_layout(made.fd, level, image, write)
        _complete(made, into, whole, durable=durable)
    return written


def _complete(made: Partial, into: KPath, whole: Whole, *, durable: bool) -> None:
    """Give a directory its name, which it keeps from then on, whatever becomes of this process."""
    journal.note(journal.Kept(path=into))
    whole(made.path, into)
    made.complete(durable=durable)
    _sync_name(into, durable=durable)


def _sync_name(path: KPath, *, durable: bool) -> None:
    """Have a name on the disk, if it is to be `durable`."""
    if durable:
        parent = os.open(os.path.dirname(decode(path)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def discard(output: str) -> None:
    """Remove an archive that is whole."""
    remove_any(encode(os.path.abspath(output)))


class _Counted:
    """A file, and how much was written into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes | memoryview, /) -> int:
        self._file.write(data)
        self.size += len(data)
        return len(data)


class _Added:
    """A sink, and how much was put into it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.size = 0

    def add(self, name: str, size: int, write: Callable[[Output], None]) -> None:
        self._sink.add(name, size, write)
        self.size += size


def write_bytes(data: bytes, file: Output) -> None:
    """Write some bytes."""
    file.write(data)


def write_file(path: bytes, file: Output) -> None:
    """Write what a file holds, which is no symbolic link."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags), "rb", buffering=0) as source:
        while data := source.read(_PIECE):
            file.write(data)
