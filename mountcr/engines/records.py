# SPDX-License-Identifier: Apache-2.0
"""
What container runtimes and OCI bundles write to disk, as far as it is needed to find a container.

Each record names only the fields that are read; what else a file holds is ignored, so that newer
versions of a runtime stay readable. Nothing here locks, waits for a writer, or writes.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Final, TypeVar

import msgspec

from mountcr.errors import DocumentError, PrivilegeError
from mountcr.paths import KPath, encode

__all__ = [
    "CrunStatus",
    "OciLinux",
    "OciMount",
    "OciNamespace",
    "OciRoot",
    "OciSpec",
    "RuncConfig",
    "RuncState",
    "YoukiState",
    "glance",
    "load",
    "namespace_paths",
]

T = TypeVar("T")

_SIZE_LIMIT: Final = 16 << 20
_WRITER_NEEDS_SECONDS: Final = 0.01

# The names of namespaces: `type` in config.json, in runc's state.json, and below /proc/<pid>/ns.
_NAMESPACE_KINDS: Final = {
    "cgroup": "cgroup",
    "ipc": "ipc",
    "mount": "mnt",
    "network": "net",
    "pid": "pid",
    "time": "time",
    "user": "user",
    "uts": "uts",
    "NEWCGROUP": "cgroup",
    "NEWIPC": "ipc",
    "NEWNS": "mnt",
    "NEWNET": "net",
    "NEWPID": "pid",
    "NEWTIME": "time",
    "NEWUSER": "user",
    "NEWUTS": "uts",
}


class _OnDisk(msgspec.Struct, frozen=True):
    """Base of the records: immutable; unknown fields are ignored."""


class OciNamespace(_OnDisk, frozen=True):
    """One of `linux.namespaces` of config.json, or of `config.namespaces` of runc's state.json."""

    type: str
    path: str | None = None


class OciLinux(_OnDisk, frozen=True, rename="camel"):
    """The object `linux` of config.json."""

    namespaces: tuple[OciNamespace, ...] | None = None
    cgroups_path: str = ""


class OciRoot(_OnDisk, frozen=True):
    """The object `root` of config.json; `path` is absolute or relative to the bundle."""

    path: str


class OciMount(_OnDisk, frozen=True):
    """One of `mounts` of config.json; the source of a bind may be relative to the bundle."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] | None = None


class OciSpec(_OnDisk, frozen=True):
    """`<bundle>/config.json` of the OCI runtime specification; `root` is required on Linux."""

    root: OciRoot
    hostname: str = ""
    linux: OciLinux | None = None
    mounts: tuple[OciMount, ...] | None = None
    annotations: dict[str, str] | None = None


class RuncConfig(_OnDisk, frozen=True):
    """The object `config` of runc's state.json; Go writes an empty list as null."""

    rootfs: str
    labels: tuple[str, ...] | None = None
    namespaces: tuple[OciNamespace, ...] | None = None


class RuncState(_OnDisk, frozen=True):
    """`<root>/<id>/state.json` of runc; `init_process_start` in clock ticks since boot."""

    id: str
    init_process_pid: int
    init_process_start: int
    config: RuncConfig
    cgroup_paths: dict[str, str] | None = None


class CrunStatus(_OnDisk, frozen=True, rename="kebab"):
    """
    `<root>/<id>/status` of crun; `process_start_time` in clock ticks since boot.

    `rootfs` is as the bundle spells it: absolute or relative to `bundle`.
    """

    pid: int
    rootfs: str
    bundle: str
    process_start_time: int = 0
    cgroup_path: str | None = None


class YoukiState(_OnDisk, frozen=True, rename="camel"):
    """`<root>/<id>/state.json` of youki; it records no start time, and no pid before `create`."""

    oci_version: str
    id: str
    status: str
    bundle: str
    pid: int | None = None


def load(path: str, kind: type[T]) -> T:
    """
    Read a file of JSON.

    Raises PrivilegeError when it may not be read, and DocumentError naming the file and the byte
    or field when it is not what `kind` describes.
    """
    try:
        return _decode(_read(path), kind)
    except PermissionError as error:
        raise PrivilegeError(
            f"{path}: {error.strerror}", hint="only its owner and root may read it"
        ) from error
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DocumentError(
            f"{path}: {error}", hint="the file is damaged, or something else by that name"
        ) from error


def glance(path: str, kind: type[T]) -> T | None:
    """
    Read a file of JSON that somebody may be writing at this moment; None if it is of no use.

    youki truncates its state.json before it writes it anew; a file that ends early is read once
    more after 10 ms. A file that is missing, may not be read, or is of another kind is of no use.
    """
    for patience in (_WRITER_NEEDS_SECONDS, 0):
        try:
            return _decode(_read(path), kind)
        except (OSError, DocumentError, msgspec.ValidationError):
            return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            time.sleep(patience)
    return None


def namespace_paths(namespaces: tuple[OciNamespace, ...] | None) -> dict[str, KPath]:
    """
    Give the namespaces that have a path: those that a runtime joins and does not create.

    The keys are the names below /proc/<pid>/ns: `mnt`, `net`, `pid`, and so on.
    """
    return {
        _NAMESPACE_KINDS.get(namespace.type, namespace.type): encode(namespace.path)
        for namespace in namespaces or ()
        if namespace.path
    }


def _decode(text: bytes, kind: type[T]) -> T:
    """
    Decode JSON.

    Raises msgspec.DecodeError, and UnicodeDecodeError for a string that is not UTF-8; it is
    msgspec.ValidationError, a DecodeError, for JSON of another shape.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except RecursionError as error:
        msg = "nested too deep"
        raise msgspec.DecodeError(msg) from error


def _read(path: str) -> bytes:
    """Read a regular file of at most 16 MiB; opening a FIFO in its place does not block."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise DocumentError(f"{path}: not a regular file")
        if found.st_size > _SIZE_LIMIT:
            raise DocumentError(f"{path}: larger than {_SIZE_LIMIT} bytes")
        return file.read(_SIZE_LIMIT)
