# SPDX-License-Identifier: Apache-2.0
"""
Writing a layer: entries of the normal form into a new directory, in the marks of a dialect.

Everything is done relative to descriptors beneath the new directory, through no symbolic link.
Directories are made first, mode 0700, and get what they are to be at the end, deepest first, so
that making what is in them changes no time. Everything else is made in batches, by several
processes; hard links when all of them are done.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr.rootfs.batches import Batches, Progress
from mountcr.rootfs.changes import everything
from mountcr.rootfs.dialects.vfs import Vfs
from mountcr.rootfs.making import Made, Maker, Making, finish_directory, naming
from mountcr.rootfs.partial import SUFFIX, Partial
from mountcr.rootfs.tree import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.paths import KPath
    from mountcr.rootfs.batches import Count
    from mountcr.rootfs.dialect import Dialect, Entry, Raw
    from mountcr.rootfs.inode import Inode
    from mountcr.rootfs.tree import Tree

__all__ = ["SUFFIX", "Progress", "Written", "write", "write_all", "write_beneath"]

_BATCH_FILES: Final = 2048
_BATCH_BYTES: Final = 128 << 20
"""How much one process gets at once: enough for a fork to cost nothing beside it."""


class Written(NamedTuple):
    """
    What was written: `files` names besides directories, `size` bytes of content.

    `digests` are the SHA-256 of regular files by path, hard links included, if asked for.
    """

    files: int
    size: int
    digests: dict[bytes, bytes]


def write_all(
    tree: Tree,
    into: KPath,
    *,
    progress: Progress | None = None,
    workers: int | None = None,
    digests: bool = False,
) -> Written:
    """Write all of a tree or view as a plain tree, as the vfs driver has it; see `write`."""
    entries = everything(tree)
    return write(entries, into, Vfs(), progress=progress, workers=workers, digests=digests)


def write(
    entries: Iterable[Entry],
    into: KPath,
    dialect: Dialect,
    *,
    progress: Progress | None = None,
    workers: int | None = None,
    digests: bool = False,
    durable: bool = False,
) -> Written:
    """
    Put entries into a new directory, in the marks of a dialect. Parents come before children.

    `workers` is how many processes copy at the same time, by default one for each processor; see
    mountcr.rootfs.batches. Raises FileExistsError where the target is there, RefusedError as the
    dialect and the entries do, OSError with the path in the tree as its filename. On any of them,
    and on KeyboardInterrupt, the target is gone; what a killed process leaves is beside it, with
    the suffix `SUFFIX`. Nothing is synced to the disk but for what shall be `durable`, before it
    gets its name.
    """
    count = workers if workers is not None else len(os.sched_getaffinity(0))
    with Partial(into) as made:
        writer = _Writer(made.fd, dialect, digests=digests)
        written = writer.write(entries, count, progress)
        made.complete(durable=durable)
    return written


def write_beneath(
    entries: Iterable[Entry], root: int, dialect: Dialect, *, progress: Progress | None = None
) -> Written:
    """
    Put entries into an open directory that is empty; see `write`.

    What was written stays when it fails; the descriptor stays the caller's.
    """
    return _Writer(root, dialect, digests=False).write(entries, 1, progress)


class _Writer:
    """One new directory."""

    def __init__(self, root: int, dialect: Dialect, *, digests: bool) -> None:
        self._root = root
        self._dialect = dialect
        self._digests = digests
        self._directories: dict[bytes, Inode | None] = {b"": None}
        self._links: list[tuple[Raw, Entry | None]] = []

    def write(self, entries: Iterable[Entry], workers: int, progress: Progress | None) -> Written:
        """Write everything."""
        with Batches(self._make, workers=workers, progress=progress) as batches:
            for tasks in self._batches(entries):
                if len(tasks) < _BATCH_FILES and not batches.begun:
                    batches.run_here(tasks)  # all there is, and not worth a process
                else:
                    batches.run(tasks)
            results = batches.finish()
        digests = {path: digest for made in results for path, digest in made.digests}
        for raw, entry in self._links:
            self._link(raw)
            if entry is not None and entry.link in digests:
                digests[entry.path] = digests[entry.link]
        if progress is not None and self._links:
            progress.add(len(self._links), 0)
        for path, inode in reversed(self._directories.items()):
            self._finish(path, inode)
        files = sum(made.files for made in results) + len(self._links)
        return Written(files, sum(made.size for made in results), digests)

    def _make(self, tasks: list[Making], count: Count) -> Made:
        with Maker(self._root, digests=self._digests, count=count) as maker:
            return maker.make(tasks)

    def _batches(self, entries: Iterable[Entry]) -> Iterator[list[Making]]:
        """Make directories and keep links for later; give the rest in batches."""
        tasks: list[Making] = []
        size = 0
        for entry, raw in self._encoded(entries):
            if raw.inode.is_directory:
                self._directory(raw)
                continue
            self._parents(raw.path)
            if raw.link is not None:
                self._links.append((raw, entry))
                continue
            source = entry.source if entry is not None and raw.content else None
            tasks.append(Making(raw, entry.path if entry else raw.path, source))
            size += raw.inode.size if source else 0
            if len(tasks) >= _BATCH_FILES or size >= _BATCH_BYTES:
                yield tasks
                tasks, size = [], 0
        yield tasks

    def _encoded(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry | None, Raw]]:
        for raw in self._dialect.begin():
            yield None, raw
        for entry in entries:
            for raw in self._dialect.encode(entry):
                yield entry, raw

    def _directory(self, raw: Raw) -> None:
        path = raw.path
        if path not in self._directories:
            self._parents(path)
            with naming(path):
                os.mkdir(path, 0o700, dir_fd=self._root)
        elif self._directories[path] is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), shown(path))
        self._directories[path] = raw.inode

    def _parents(self, path: bytes) -> None:
        """Make the parents that nothing made; every other is a directory, and made here."""
        parent = path.rpartition(b"/")[0]
        if parent not in self._directories:
            self._parents(parent)
            with naming(parent):
                os.mkdir(parent, 0o700, dir_fd=self._root)
            self._directories[parent] = None

    def _link(self, raw: Raw) -> None:
        with naming(raw.path):
            os.link(
                raw.link or b"",
                raw.path,
                src_dir_fd=self._root,
                dst_dir_fd=self._root,
                follow_symlinks=False,
            )

    def _finish(self, path: bytes, inode: Inode | None) -> None:
        if inode is not None:
            finish_directory(self._root, path, inode)
        else:
            with naming(path):
                os.chmod(path or b".", 0o755, dir_fd=self._root)  # noqa: S103 - as `Raw` says
