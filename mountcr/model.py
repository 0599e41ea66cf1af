# SPDX-License-Identifier: Apache-2.0
"""
The vocabulary: plain frozen records of what was observed.

Every record goes to JSON and back without loss; nothing here reads, decides or changes anything.
Paths are `KPath`: mountinfo spelling. Pids, start times and ids are those of the observing host.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NewType

from mountcr.container import Container, ContainerMount, Damage, TornDown
from mountcr.network import Network
from mountcr.paths import KPath
from mountcr.record import Record
from mountcr.stack import Stack

__all__ = [
    "FACTS_SCHEMA",
    "Capabilities",
    "CgroupMember",
    "Container",
    "ContainerMount",
    "Criu",
    "Damage",
    "Facts",
    "FileKind",
    "Finding",
    "FoundLayers",
    "Host",
    "Imported",
    "InodeType",
    "LayerPart",
    "Mapping",
    "Mark",
    "Mount",
    "MountId",
    "MountNamespace",
    "OpenFile",
    "PathStat",
    "Record",
    "SeenPath",
    "Severity",
    "Task",
    "TornDown",
    "Unseen",
]

FACTS_SCHEMA = "mountcr/facts/1"

MountId = NewType("MountId", int)
"""The id of a mount as mountinfo shows it; the kernel may give it to another mount later."""


class InodeType(StrEnum):
    """What an inode is, in the words of `find -type` spelled out."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER = "character"
    BLOCK = "block"
    ANONYMOUS = "anonymous"


class PathStat(Record, frozen=True, kw_only=True):
    """
    What stat(2) says: `dev` is `major:minor`, `size` in bytes, `mode` with the type bits.

    `blocks` are those of 512 bytes that the file takes, -1 where nobody recorded it.
    """

    dev: str
    ino: int
    mode: int
    nlink: int
    size: int
    blocks: int = -1
    rdev: str = "0:0"
    type: InodeType


_GROUP: Final = re.compile(r"[0-9]{1,10}")
"""A peer group in mountinfo, an `int` of the kernel."""


# It holds texts and numbers only, so the collector of cycles need not look at tens of thousands.
class FoundLayers(Record, frozen=True, kw_only=True):
    """The directories of an overlay by absolute paths of the host, and who told them."""

    lowers: tuple[KPath, ...] = ()
    data: tuple[KPath, ...] = ()
    upper: KPath | None = None
    work: KPath | None = None
    told: tuple[str, ...] = ()


class Mount(Record, frozen=True, kw_only=True, gc=False):
    """
    One line of mountinfo, see proc_pid_mountinfo(5).

    `options` and `super_options` are the raw texts, `optional` the raw optional fields in their
    order, so that the line can be written back byte by byte. `type` and `mode` are those of the
    mountpoint, where it could be looked at from inside the namespace; None where another mount
    hides it or nobody looked. `layers_inside` are the directories of an overlay that are there in
    its own namespace, `layers_outside` those that are on the host by that path. `entries` is how
    many names are in a mqueue or pstore, whose content CRIU does not dump, and in a control group,
    which is empty when it was removed; None for others and where it could not be counted.
    `unique_id` is what no other mount gets until reboot (statmount(2), Linux 6.8), 0 where nobody
    asked: a plan needs none.

    Of a union whose branches mountinfo does not tell, `branches` are they, `path=permission` as
    sysfs has them (AUFS: /sys/fs/aufs/si_*/br*, in the order of their numbers), then `xino=path`
    for where it keeps inode numbers, and `layers=file` if an engine's file told. `server` is the
    command line of the FUSE server, word by word, whose relative paths begin at `server_cwd`, and
    `dialect` the marks that it writes, where the version of the program decides.
    `layers` are those of an overlay by their paths on the host, where mountinfo shows others.

    `external` is the key that a set of CRIU's images has for it, in facts that come from one.
    """

    id: MountId
    parent: MountId
    dev: str
    root: KPath
    mountpoint: KPath
    options: str
    optional: tuple[str, ...] = ()
    fstype: str
    source: KPath | None = None
    super_options: str
    type: InodeType | None = None
    mode: int | None = None
    layers_inside: tuple[KPath, ...] = ()
    layers_outside: tuple[KPath, ...] = ()
    entries: int | None = None
    branches: tuple[KPath, ...] = ()
    server: tuple[KPath, ...] = ()
    server_cwd: KPath | None = None
    dialect: str = ""
    layers: FoundLayers | None = None
    unique_id: int = 0
    external: str | None = None

    def _tag(self, name: str) -> int:
        for field in self.optional:
            if field.startswith(name):
                number = field[len(name) :]
                # a file of facts may hold anything; rule P2 refuses what the kernel never shows
                return int(number) if _GROUP.fullmatch(number) else 0
        return 0

    @property
    def shared(self) -> int:
        """The peer group the mount is in, 0 if none."""
        return self._tag("shared:")

    @property
    def master(self) -> int:
        """The peer group the mount receives from, 0 if none."""
        return self._tag("master:")

    @property
    def propagate_from(self) -> int:
        """The nearest dominant peer group under the observer's root, 0 if none."""
        return self._tag("propagate_from:")

    @property
    def unbindable(self) -> bool:
        """Whether the mount may not be bound elsewhere."""
        return "unbindable" in self.optional

    @property
    def readonly(self) -> bool:
        """Whether the mount, not the superblock, is read-only."""
        return "ro" in self.options.split(",")

    @property
    def deleted(self) -> bool:
        """Whether the root of the mount was unlinked: `//deleted` follows it."""
        return self.root.endswith("//deleted")


class MountNamespace(Record, frozen=True, kw_only=True):
    """
    A mount namespace: its inode number, the mounts in the order of mountinfo, a task in it.

    `pid` is 0 where no task is in it.
    """

    id: int
    pid: int
    mounts: tuple[Mount, ...]

    @property
    def who(self) -> str:
        """The task, for people, or the namespace itself."""
        return f"pid {self.pid}" if self.pid else f"mnt:[{self.id}], which no process is in,"


class FileKind(StrEnum):
    """How a task holds a file."""

    FD = "fd"
    MAP = "map"
    CWD = "cwd"
    ROOT = "root"
    EXE = "exe"


_UNDECODABLE: Final = frozenset({-1, 0x81, 0xF8, 0xFB})
"""FILEID_INO64_GEN, which stands for a file system without handles, and those of overlay."""


class Mark(Record, frozen=True, kw_only=True):
    """
    What an inotify or fanotify descriptor watches, as fdinfo tells: proc_pid_fdinfo(5).

    `kind` is `inotify` or `fanotify`; `dev` is `major:minor` of the superblock. `handle` is the
    type of the file handle, `fhandle-type`, -1 where there is none. `mnt_id` is that of a fanotify
    mark on a mount, which has no inode. `path` is where the search that CRIU makes for what has no
    usable handle finds the inode, None where it does not or nobody searched. `wd` is the number of
    an inotify watch, `inner` the inode number in a layer that a handle of overlay holds; -1 for
    others. `cut` tells that not all names were looked at that the inode may have.
    """

    kind: str
    wd: int = -1
    dev: str = "0:0"
    ino: int = 0
    handle: int = -1
    mnt_id: int = -1
    path: KPath | None = None
    inner: int = -1
    cut: bool = False

    @property
    def undecodable(self) -> bool:
        """Whether the handle is one that open_by_handle_at(2) may not take."""
        return self.handle in _UNDECODABLE


class Mapping(Record, frozen=True, kw_only=True):
    """
    What /proc/<pid>/maps says of a mapping, which need not be what map_files says.

    `access` are the four letters `rwxs` or `rwxp`, `path` the column as it stands there. `through`
    is how the file was reached: `map_files`, or `maps` where that was not allowed and nothing but
    this line tells.
    """

    access: str
    dev: str
    ino: int
    path: KPath
    through: str = "map_files"

    @property
    def writes(self) -> bool:
        """Whether what is written into the mapping is written into the file."""
        return self.access[1:2] == "w" and self.access.endswith("s")


class OpenFile(Record, frozen=True, kw_only=True):
    """
    A file that a task holds.

    `shown` is what the kernel shows: the link of fd, map_files, cwd, root or exe. `mnt_id`,
    `flags` (of open(2)) and `position` (bytes) come from fdinfo; -1 where the kernel tells none.
    `locked` tells of file locks. `start` and `end` are the addresses of a mapping. `stat` is None
    where it could not be asked. `at_path` is what lies at the shown path in the task's mount
    namespace, and `missing` that nothing does; neither is set where nobody looked. `marks` are
    what an inotify or fanotify descriptor watches. `tty_index` is the number of the
    pseudoterminal that a descriptor is the master of, -1 for others. `mapping` is the line of maps
    of a mapping. `bound` is the path that a unix socket was bound to. `names` are other paths that
    were found to have the inode of a file whose own name is gone. `not_on_host` tells of a file of
    a mount that is in no table of the task that the observer has another one, or none, by its path.
    `pidfd` is the process of a pidfd: -1 when it was reaped, 0 outside of the observer's namespace.
    """

    kind: FileKind
    shown: KPath
    fd: int = -1
    start: int = 0
    end: int = 0
    offset: int = 0
    mnt_id: int = -1
    flags: int = 0
    position: int = -1
    locked: bool = False
    stat: PathStat | None = None
    at_path: PathStat | None = None
    missing: bool = False
    marks: tuple[Mark, ...] = ()
    tty_index: int = -1
    mapping: Mapping | None = None
    bound: KPath | None = None
    names: tuple[KPath, ...] = ()
    not_on_host: bool = False
    pidfd: int | None = None


class LayerPart(Record, frozen=True, kw_only=True):
    """
    What one directory of a union, named as in the `Stack`, has of a path.

    An overlay's whiteout is a character device 0:0. `opaque` is a directory that hides what the
    layers below have of it, `metacopy` a file whose content is that of the one below.
    """

    layer: KPath
    stat: PathStat
    opaque: bool = False
    metacopy: bool = False


class SeenPath(Record, frozen=True, kw_only=True):
    """
    What lies at a path, from the root of a mount namespace (its inode number), and in the layers.

    `mount` is the id of the mount that the path lies on, -1 where that is not known. `stat` is that
    of the merged view, None where it could not be asked or where nothing is there, which `missing`
    tells. `parts` are what the layers of the union have that the path lies on, top first; None
    where they were not looked at.
    """

    namespace: int
    path: KPath
    mount: int = -1
    stat: PathStat | None = None
    missing: bool = False
    parts: tuple[LayerPart, ...] | None = None


class CgroupMember(Record, frozen=True, kw_only=True):
    """One line of /proc/<pid>/cgroup, see cgroups(7); hierarchy 0 is version 2."""

    hierarchy: int
    controllers: str
    path: KPath


class Task(Record, frozen=True, kw_only=True):
    """
    A process of the container. `start_time` is in clock ticks since boot, proc_pid_stat(5).

    `owners` are the inode numbers of the user namespaces that own each of its `namespaces`, by
    kind; asked only of a task in a user namespace of its own. `tracer` is the pid of who traces
    it, 0 if nobody does. `seccomp` is its mode: 1 is strict, 2 that of filters. `huge` are the
    bytes of huge pages that it has mapped. `rseq` tells that its C library registers restartable
    sequences; looked at only where the kernel does not tell them to a tracer. `guarded` tells that
    madvise(2) made pages of it guards.
    """

    pid: int
    parent: int
    start_time: int
    command: str
    namespaces: dict[str, int] = {}
    owners: dict[str, int] = {}
    inner_pid: int = 0
    session: int = 0
    files: tuple[OpenFile, ...] = ()
    cgroups: tuple[CgroupMember, ...] = ()
    tracer: int = 0
    seccomp: int = 0
    huge: int = 0
    rseq: bool = False
    guarded: bool = False

    @property
    def mount_namespace(self) -> int:
        """The inode number of its mount namespace, 0 if that is not known."""
        return self.namespaces.get("mnt", 0)


class Unseen(Record, frozen=True, kw_only=True):
    """Something the observer was not allowed or not able to look at, and why."""

    what: str
    why: str


class Capabilities(Record, frozen=True, kw_only=True):
    """What this kernel does, found by calling: name to whether it works."""

    kernel: str
    features: dict[str, bool] = {}


class Criu(Record, frozen=True, kw_only=True):
    """
    The CRIU of a host: the command that starts it, its version, the first line of its complaint.

    `problem` is empty when `criu check` is content.
    """

    command: tuple[str, ...] = ()
    version: str = ""
    problem: str = ""


class Host(Record, frozen=True, kw_only=True):
    """
    The host as the observer sees it: its own mounts, namespaces and cgroups, kernel, CRIU.

    `overlay` are the parameters of the overlay module, the defaults of its options; empty where
    nobody looked. `boot` is /proc/sys/kernel/random/boot_id. `huge` are the bytes of huge pages
    that are free or may be made when they are asked for, -1 where nobody looked.
    """

    mounts: tuple[Mount, ...] = ()
    namespaces: dict[str, int] = {}
    cgroups: tuple[CgroupMember, ...] = ()
    capabilities: Capabilities | None = None
    criu: Criu | None = None
    overlay: dict[str, str] = {}
    boot: str = ""
    huge: int = -1


class Imported(Record, frozen=True, kw_only=True):
    """
    Where on this host a container lies that came in a bundle.

    `at` is the directory that holds all of it, `stack` what its root file system is made of here,
    `sources` what came with it for mounts, by mountpoint. `digest` is that of the document of the
    bundle, SHA-256 in hexadecimal.
    """

    at: KPath
    stack: Stack
    sources: dict[KPath, KPath] = {}
    digest: str = ""


class Facts(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    All that was observed of one container and its host; the input of every plan.

    `synced` tells of a volatile overlay that its upper was synced when the tasks had ended: it is
    inode number and time of the marker in its work directory, empty for others. `paths` is what
    was looked at to tell which files the tasks really hold. `network` is the network namespace of
    the root task, None where it was not looked at. With `imported` the facts came from elsewhere:
    paths of a host in them are those of another one, and requests.
    """

    schema: str = FACTS_SCHEMA
    mountcr: str = ""
    container: Container
    tasks: tuple[Task, ...] = ()
    namespaces: tuple[MountNamespace, ...] = ()
    host: Host = Host()
    unseen: tuple[Unseen, ...] = ()
    synced: str = ""
    paths: tuple[SeenPath, ...] = ()
    network: Network | None = None
    imported: Imported | None = None
    of_images: bool = False

    @property
    def shares_mounts(self) -> bool:
        """Whether the root task is in the observer's mount namespace: CRIU then dumps no mounts."""
        ours = self.host.namespaces.get("mnt")
        return bool(ours and self.tasks and self.tasks[0].namespaces.get("mnt") == ours)


class Severity(StrEnum):
    """How bad a finding is: CRIU refuses, state is lost, or something worth knowing."""

    REFUSAL = "refusal"
    LOSS = "loss"
    NOTE = "note"


class Finding(Record, frozen=True, kw_only=True, omit_defaults=False, gc=False):
    """
    What a rule found. `mount` is the mountpoint, layer or file it is about.

    `cured` tells that the plan itself takes the cure; a refusal that is cured refuses nothing.
    """

    rule: str
    severity: Severity
    mount: str
    message: str
    cure: str = ""
    cured: bool = False
