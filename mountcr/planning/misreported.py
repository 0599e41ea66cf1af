# SPDX-License-Identifier: Apache-2.0
"""
Files that the kernel shows CRIU otherwise than they are: given to it as external, then put right.

CRIU looks for the mount of a file in the tables of the container, and refuses the dump where it is
in none (`Can't lookup mount`). It asks first whether the file was declared external
(criu/files-reg.c, `dump_one_reg_file()`), and then writes a key in place of a path. In the images
that becomes the path and the mount of the file again. A file that no path leads to any more, and
one below a copy of it, is opened in its layer at the restore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import paths
from mountcr.criu.rewriting import FileMount, OrdinaryFile
from mountcr.graph.superblock import short_type
from mountcr.graph.tree import MountTree
from mountcr.model import FileKind, InodeType, MountId
from mountcr.planning.descriptors import file_key
from mountcr.planning.remaps import name_is_gone
from mountcr.resolution.quirks import Quirk
from mountcr.resolution.symptoms import foreign_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.criu.rewriting import Operation
    from mountcr.model import Facts, OpenFile
    from mountcr.paths import KPath
    from mountcr.resolution.files import ResolvedFile

__all__ = ["Misreported", "find_misreported", "rewrites"]

_AT_ITS_PATH: Final = frozenset({"lower", "upper"})
"""States of files whose path leads to the very content (`mountcr.resolution.state.FileState`)."""


class Misreported(NamedTuple):
    """
    A file of a mount that is in no table of the container, and what it really is.

    `keys` are what CRIU may call it: by what the kernel shows and, of a mapping on AUFS, by what
    its own correction makes of that. `source` is the file in its layer, on the host, where only
    that has the content.
    """

    pid: int
    file: OpenFile
    found: ResolvedFile
    keys: tuple[str, ...]
    source: KPath | None

    @property
    def ordinary(self) -> bool:
        """Whether the path leads to the very content."""
        return self.found.state in _AT_ITS_PATH


def find_misreported(facts: Facts) -> tuple[Misreported, ...]:
    """Give the files that CRIU would not find the mount of, and that are known all the same."""
    if facts.shares_mounts or not any(foreign_files(facts)):
        return ()
    from mountcr.resolution.files import misreported  # of no use on most kernels

    return tuple(filter(None, (_of(facts, *each) for each in misreported(facts))))


def _of(facts: Facts, pid: int, file: OpenFile, found: ResolvedFile) -> Misreported | None:
    if found.path is None or file.stat is None or file.kind in {FileKind.ROOT, FileKind.CWD}:
        return None
    each = Misreported(pid, file, found, tuple(_keys(facts, file, found)), _source(file, found))
    return each if each.ordinary or each.source else None


def _keys(facts: Facts, file: OpenFile, found: ResolvedFile) -> Iterator[str]:
    """
    Give what CRIU may call a file.

    Where it takes the branch of an AUFS off a path, it says that the mount is -1, and asks the
    merged view for the inode (criu/proc_parse.c, `vma_stat()`).
    """
    yield file_key(file)
    if file.kind is FileKind.MAP and Quirk.AUFS_BRANCH_PATH in found.quirks:
        for seen in facts.paths:
            if seen.path == found.path and seen.stat:
                yield f"file[ffffffff:{seen.stat.ino:x}]"


def _source(file: OpenFile, found: ResolvedFile) -> KPath | None:
    """Give the file in its layer, unless it is gone from there too."""
    if found.layer is None or found.inside is None or name_is_gone(file):
        return None
    return paths.join(found.layer, found.inside)


# --- What is put right in the images --------------------------------------------------------------


def rewrites(facts: Facts, found: Iterable[Misreported]) -> tuple[Operation, ...]:
    """Give the operations on the images of a dump, each once, in the order of the facts."""
    return tuple(dict.fromkeys((*_ordinary(found), *_mounts(facts))))


def _ordinary(found: Iterable[Misreported]) -> Iterator[Operation]:
    for each in found:
        if not each.ordinary or each.found.path is None or each.file.stat is None:
            continue
        lower = each.found.state == "lower" and each.file.stat.type is InodeType.FILE
        for key in each.keys:
            yield OrdinaryFile(
                key=key,
                path=each.found.path,
                mnt_id=each.found.mnt_id,
                size=each.file.stat.size if lower else None,
                mode=each.file.stat.mode,
                because=f"the kernel shows {each.file.shown} of mount {each.file.mnt_id}; "
                + ", ".join(each.found.evidence),
            )


def _mounts(facts: Facts) -> Iterator[Operation]:
    """
    Give files on an overlay in the container that CRIU takes for files of the root.

    Their device is none of a mount where the layers are on several file systems, so that it looks
    for one that has the file, and the root has, by the same path (criu/mount.c,
    `lookup_overlayfs()`).
    """
    for namespace in facts.namespaces[:1]:
        overlays = {each.id: each for each in namespace.mounts if short_type(each) == "overlay"}
        root = MountTree(namespace.mounts).root if len(overlays) > 1 else None
        if root is None or root.id not in overlays:
            continue
        for task in facts.tasks:
            for file in task.files:
                mount = overlays.get(MountId(file.mnt_id))
                if mount is None or mount is root:
                    continue
                if file.stat is None or file.stat.dev == mount.dev:
                    continue
                because = f"device {file.stat.dev} of the file is not {mount.dev} of its mount"
                yield FileMount(path=file.shown, mnt_id=root.id, to=mount.id, because=because)
