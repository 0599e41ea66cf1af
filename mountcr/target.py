# SPDX-License-Identifier: Apache-2.0
"""
The target: what was found on the host where a container shall be restored.

Plain frozen records, as in `mountcr.model`: nothing here reads, decides or changes anything.
"""

from __future__ import annotations

from mountcr.model import Host, MountNamespace, PathStat, Record
from mountcr.paths import KPath

__all__ = ["Holder", "Survey", "SurveyedLayer", "Target", "TargetFile", "TargetNetwork"]


class SurveyedLayer(Record, frozen=True, kw_only=True):
    """
    What was found in a layer that shall become one of another driver.

    `foreign` is a path in it that the other dialect would read in another way, None when it can be
    used where it lies. `digest` is that of what it changes (`mountcr.rootfs.fingerprint`), empty
    where nobody had to know. `dev` (`major:minor`) is its file system, or the one it will be on.
    """

    foreign: KPath | None = None
    digest: str = ""
    dev: str = ""


class Survey(Record, frozen=True, kw_only=True):
    """
    What a driver needs to know of a host to take over a stack.

    `layers` are the lower ones, looked at, and where new ones will be; `dialect` the marks that it
    writes here, empty where no version of a program decides.
    """

    layers: dict[KPath, SurveyedLayer] = {}
    dialect: str = ""


class TargetFile(Record, frozen=True, kw_only=True):
    """
    A file that the images name, as it is on the target.

    `digest` is SHA-256, `build_id` that of an ELF file; both in hexadecimal, empty where nobody
    looked.
    """

    path: KPath
    stat: PathStat | None = None
    digest: str = ""
    build_id: str = ""


class Holder(Record, frozen=True, kw_only=True):
    """
    A mount that has a writable layer of ours as its own, by device and inode number.

    `pid` is a process in its mount namespace or the FUSE server, 0 in ours; `command` is its name
    and `container` the id that its control group tells, if any. `namespace` is the inode number of
    the mount namespace, 0 for ours, in which there need not be a process. `dev` is that of the
    mount.
    """

    pid: int = 0
    namespace: int = 0
    command: str = ""
    container: str = ""
    mountpoint: KPath
    fstype: str
    dev: str

    @property
    def who(self) -> str:
        """The process or the namespace, for people; empty for our own mount namespace."""
        if not self.pid:
            return f"mnt:[{self.namespace}], which no process is in," if self.namespace else ""
        inside = f", container {self.container}" if self.container else ""
        return f"pid {self.pid} ({self.command}{inside})"


class TargetNetwork(Record, frozen=True, kw_only=True):
    """
    What the network of a container would meet on a host.

    `links` are those of the host by their names, with their kinds. `paths` are the inode numbers of
    the network namespaces at the paths in question, 0 where there is none; `addresses` those in the
    one that the tasks come into, None where it is made.
    """

    links: dict[str, str] = {}
    paths: dict[KPath, int] = {}
    addresses: tuple[str, ...] | None = None


class Target(Record, frozen=True, kw_only=True):
    """
    Where a restore would take place: the host, and what was found for the paths that matter.

    `elsewhere` are the unions in other mount namespaces of the host, each with a pid that is in
    one, 0 for none, and `holders` the mounts anywhere that have our writable layer. `upper` is what
    lies where a new writable layer shall be made. `layers` and `sources` are paths of the host,
    `real` is where symbolic links lead from those that were requested, and from allowed ones,
    `survey` is for the driver that mounts the root, `mountpoints` and `files` are paths of the
    container, looked at in its root file system; None where nothing is there. `network` was looked
    at where something of it decides.
    """

    host: Host
    elsewhere: tuple[MountNamespace, ...] = ()
    holders: tuple[Holder, ...] = ()
    upper: PathStat | None = None
    layers: dict[KPath, PathStat | None] = {}
    survey: Survey = Survey()
    sources: dict[KPath, PathStat | None] = {}
    real: dict[KPath, KPath] = {}
    mountpoints: dict[KPath, PathStat | None] = {}
    files: tuple[TargetFile, ...] = ()
    network: TargetNetwork | None = None
