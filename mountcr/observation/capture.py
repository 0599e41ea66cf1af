# SPDX-License-Identifier: Apache-2.0
"""
Captures: what /proc said of a process on some machine, as files, read like a live process.

`proc/` has `fd`, `links` and `map_files` as lines of name, link and stat, separated by tabs, and
`fdinfo/N`, `maps`, `mountinfo`, `status` as the kernel wrote them; `outside/mountinfo` is the
host's. `stat` says what lies at paths in the merged view and in each layer; `manifest.json` names
the layers. Of a process outside of the container, `hostproc/` has the same.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import __version__, mountinfo, paths, procstat
from mountcr.errors import DocumentError, PlanError
from mountcr.graph.tree import MountTree
from mountcr.model import (
    Container,
    Facts,
    FileKind,
    Host,
    LayerPart,
    MountNamespace,
    PathStat,
    SeenPath,
    Task,
)
from mountcr.observation import fdinfo
from mountcr.observation.aufs import branches_in_sysfs
from mountcr.observation.files import task_files
from mountcr.observation.places import Place
from mountcr.observation.source import Shown
from mountcr.observation.stats import inode_type
from mountcr.paths import KPath, encode
from mountcr.resolution.symptoms import may_have_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mountcr.model import InodeType, Mark, Mount, OpenFile
    from mountcr.observation.fdinfo import FdInfo

__all__ = ["is_capture", "read_capture"]

_NAMESPACE: Final = 1
"""The captures do not tell the inode numbers of namespaces."""

_STAT: Final = re.compile(
    rb"(?P<dev>\d+:\d+) (?P<ino>\d+) mode=(?P<mode>[0-7]+) nlink=(?P<nlink>\d+) size=(?P<size>\d+)"
)

_MAPPING: Final = re.compile(
    rb"[0-9a-f]+-[0-9a-f]+ [r-][w-][x-][sp] [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ \d+(\s|$)"
)
"""The columns of maps (fs/proc/task_mmu.c, `show_vma_header_prefix()`)."""

_FUSE: Final = {"unionfs-fuse": "unionfs", "fuse-overlayfs": "fuse-overlayfs"}
"""The program that serves a union, by the driver of the manifest."""


class _Manifest(msgspec.Struct, kw_only=True):
    """What is read of manifest.json; what the process holds, and its answers, are not."""

    driver: str
    pid: int
    merged: str
    layers_top_first: dict[str, str]
    mount_options: str = ""


def is_capture(path: str) -> bool:
    """Tell whether a directory is laid out as a capture."""
    return os.path.isfile(f"{path}/manifest.json") and os.path.isdir(f"{path}/proc")


def read_capture(path: str, *, outside: bool = False) -> Facts:
    """
    Read a capture as the facts of a container of one task.

    With `outside` it is the process that has files of the union open without being in it. Raises
    DocumentError naming the file that is missing or damaged.
    """
    capture = _Capture(path)
    source = _Source(capture, outside=outside)
    files, unseen = task_files(source)
    files = tuple(source.with_names(each) for each in files)
    status = capture.optional("proc/status")
    command = re.search(rb"^Name:\t(.*)$", status, re.MULTILINE)
    task = Task(
        pid=source.pid,
        parent=0,
        start_time=0,
        command=procstat.printable(command[1]) if command else "",
        namespaces={"mnt": _NAMESPACE},
        files=files,
    )
    host = capture.mounts("outside/mountinfo")
    mounts = host if outside else capture.mounts("proc/mountinfo")
    tree = MountTree(mounts)
    return Facts(
        mountcr=__version__,
        container=Container(
            id=os.path.basename(os.path.abspath(path)), engine="capture", pid=source.pid
        ),
        tasks=(task,),
        namespaces=(
            MountNamespace(
                id=_NAMESPACE,
                pid=source.pid,
                mounts=mounts,
            ),
        ),
        host=Host(mounts=host),
        unseen=unseen,
        paths=tuple(_on_mount(each, tree) for each in source.seen()),
    )


def _on_mount(seen: SeenPath, tree: MountTree) -> SeenPath:
    mount = tree.lies_on(seen.path)
    return msgspec.structs.replace(seen, mount=mount.id) if mount else seen


class _Capture:
    """The files of a capture."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.manifest = msgspec.json.decode(self.read("manifest.json"), type=_Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.damaged("manifest.json", str(error)) from None
        self.layers = {
            name: encode(layer) for name, layer in self.manifest.layers_top_first.items()
        }

    def damaged(self, name: str, why: str) -> DocumentError:
        """Say that a file is not what it should be."""
        msg = f"{self.path}/{name}: {why}"
        return DocumentError(msg, hint="a capture is laid out as its manifest and `proc` say")

    def read(self, name: str) -> bytes:
        """Read a file. Raises DocumentError where it is missing."""
        try:
            with open(f"{self.path}/{name}", "rb") as file:
                return file.read()
        except OSError as error:
            raise self.damaged(name, error.strerror or "cannot be read") from None

    def optional(self, name: str) -> bytes:
        """Read a file that may be missing."""
        return self.read(name) if os.path.isfile(f"{self.path}/{name}") else b""

    def mounts(self, name: str) -> tuple[Mount, ...]:
        """Read a mount table, with what sysfs and the command line of a server told."""
        try:
            table = mountinfo.parse_table(self.read(name))
        except PlanError as error:
            raise self.damaged(name, error.message) from None
        superblocks = self._superblocks()
        return tuple(self._told(each, superblocks) for each in table)

    def _told(self, mount: Mount, superblocks: Mapping[str, Mapping[str, bytes]]) -> Mount:
        if mount.fstype == "aufs":
            for identity, files in superblocks.items():
                if f"si={identity}" in mount.super_options.split(","):
                    branches = branches_in_sysfs(files)
                    return msgspec.structs.replace(mount, branches=branches)
        if mount.fstype.partition(".")[0] == "fuse" and self.manifest.driver in _FUSE:
            program = _FUSE[self.manifest.driver]
            words = [program, "-o", *self._options(), self.manifest.merged]
            return msgspec.structs.replace(mount, server=tuple(map(encode, words)))
        return mount

    def _options(self) -> list[str]:
        try:
            return shlex.split(self.manifest.mount_options)
        except ValueError as error:
            raise self.damaged("manifest.json", f"mount_options: {error}") from None

    def _superblocks(self) -> dict[str, dict[str, bytes]]:
        """Give the files of sysfs by superblock; a line is `PATH: CONTENT`."""
        found: dict[str, dict[str, bytes]] = {}
        for line in self.optional("sysfs-aufs").splitlines(keepends=True):
            path, _, content = line.partition(b": ")
            *_, superblock, name = ("", *os.fsdecode(path).split("/"))
            found.setdefault(superblock.removeprefix("si_"), {})[name] = content
        return found

    def table(self, name: str) -> Iterator[list[bytes]]:
        """Give the lines of a table, split at tabs. Raises DocumentError naming a line."""
        for number, line in enumerate(self.read(name).split(b"\n"), 1):
            if not line or line.startswith(b"#"):
                continue
            fields = line.split(b"\t")
            if len(fields) != 3:  # noqa: PLR2004
                raise self.damaged(name, f"line {number} has not three fields")
            yield fields

    def views(self) -> dict[KPath, dict[str, PathStat | None]]:
        """Give what lies at each path, by view; None where nothing does."""
        found: dict[KPath, dict[str, PathStat | None]] = {}
        for path, view, stat in self.table("stat"):
            found.setdefault(encode(path), {})[os.fsdecode(view)] = _path_stat(stat)
        return found


def _path_stat(text: bytes) -> PathStat | None:
    match = _STAT.fullmatch(text)
    if match is None:
        return None
    mode = int(match["mode"], 8)
    return PathStat(
        dev=match["dev"].decode(),
        ino=int(match["ino"]),
        mode=mode,
        nlink=int(match["nlink"]),
        size=int(match["size"]),
        type=inode_type(mode),
    )


class _Source:
    """The process of a capture, as `mountcr.observation.source` wants it."""

    def __init__(self, capture: _Capture, *, outside: bool) -> None:
        self.pid = 0 if outside else capture.manifest.pid
        self.known: dict[bytes, OpenFile] = {}
        self._capture = capture
        self._directory = "hostproc" if outside else "proc"
        self._views = capture.views()
        self._seen = {each.path: each for each in (self._outside() if outside else self._inside())}
        self._fds = self._shown("fd")
        self._links = self._shown("links")
        self._mapped = self._shown("map_files", refusable=True)

    def is_there(self) -> bool:
        """A recorded task does not end."""
        return True

    def link(self, kind: FileKind) -> Shown:
        """Give the working directory, the root or the executable."""
        return self._found(self._links or {}, kind.value)

    def numbers(self) -> list[int]:
        """Give the descriptors, in their order."""
        try:
            return sorted(map(int, self._fds or {}))
        except ValueError as error:
            raise self._capture.damaged(f"{self._directory}/fd", str(error)) from None

    def descriptor(self, fd: int) -> Shown:
        """Give a descriptor."""
        return self._found(self._fds or {}, str(fd))

    def fdinfo(self, fd: int) -> FdInfo:
        """Give what the kernel told of a descriptor."""
        text = self._capture.read(f"{self._directory}/fdinfo/{fd}")
        try:
            return fdinfo.parse(text.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise self._capture.damaged(f"{self._directory}/fdinfo/{fd}", str(error)) from None

    def maps(self) -> bytes:
        """Give the table of mappings."""
        name = f"{self._directory}/maps"
        text = self._capture.read(name)
        for number, line in enumerate(text.splitlines(), 1):
            if not _MAPPING.match(line):
                raise self._capture.damaged(name, f"line {number} is none of maps")
        return text

    def mapped(self, span: str) -> Shown:
        """Give a mapping by its addresses."""
        if self._mapped is None:
            raise PermissionError(1, "not recorded", "map_files")
        return self._found(self._mapped, span)

    def look(self, path: KPath, kind: InodeType) -> Place:
        """Say what lay at a path."""
        del kind
        seen = self._seen.get(path)
        return Place(seen.stat, missing=seen.missing) if seen else Place()

    def search(self, mark: Mark) -> KPath | None:
        """Find nothing: CRIU's search was not recorded."""
        del mark
        return None

    def bound(self) -> Mapping[int, KPath]:
        """Say that the table of unix sockets was not recorded."""
        raise OSError(2, "not recorded")

    def seen(self) -> Iterator[SeenPath]:
        """Give every path that was looked at."""
        yield from self._seen.values()

    def with_names(self, file: OpenFile) -> OpenFile:
        """Give a file whose name is gone with the other paths that have its inode."""
        stat = file.stat
        if stat is None or not may_have_names(file):
            return file
        names = tuple(
            each.path
            for each in self._seen.values()
            if each.stat
            and (each.stat.dev, each.stat.ino, each.stat.mode) == (stat.dev, stat.ino, stat.mode)
        )
        return msgspec.structs.replace(file, names=names)

    def _found(self, table: Mapping[str, Shown], name: str) -> Shown:
        if name not in table:
            raise FileNotFoundError(2, "not recorded", name)
        return table[name]

    def _shown(self, name: str, *, refusable: bool = False) -> dict[str, Shown] | None:
        """Give a table of links; None where the recorder was not allowed to see it."""
        if refusable:
            text = self._capture.optional(f"{self._directory}/{name}")
            if not text or text.startswith(b"ERROR"):
                return None
        return {
            os.fsdecode(key): Shown(encode(link), _path_stat(stat))
            for key, link, stat in self._capture.table(f"{self._directory}/{name}")
        }

    def _inside(self) -> Iterator[SeenPath]:
        """Give the paths of the container."""
        for path, views in self._views.items():
            stat = views.get("proc-root")
            yield SeenPath(
                namespace=_NAMESPACE,
                path=path,
                stat=stat,
                missing=stat is None,
                parts=self._parts(views),
            )

    def _outside(self) -> Iterator[SeenPath]:
        """Give the paths of the host: of the union, and of the layers themselves."""
        merged = encode(self._capture.manifest.merged)
        for path, views in self._views.items():
            stat = views.get("merged-outside")
            yield SeenPath(
                namespace=_NAMESPACE,
                path=paths.join(merged, path),
                stat=stat,
                missing=stat is None,
                parts=self._parts(views),
            )
            for name, layer in self._capture.layers.items():
                own = views.get(f"layer:{name}")
                if own is not None:
                    whole = paths.join(layer, path)
                    yield SeenPath(namespace=_NAMESPACE, path=whole, stat=own)

    def _parts(self, views: Mapping[str, PathStat | None]) -> tuple[LayerPart, ...]:
        found = (
            (layer, views.get(f"layer:{name}")) for name, layer in self._capture.layers.items()
        )
        return tuple(LayerPart(layer=layer, stat=stat) for layer, stat in found if stat)
