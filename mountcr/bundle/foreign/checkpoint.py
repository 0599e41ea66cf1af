# SPDX-License-Identifier: Apache-2.0
"""
A checkpoint archive of another tool: what it holds, what it asks for, and what is not done of that.

Nothing in it is believed: paths of its host are requests, and what would give a container devices,
programs or a configuration file of the host is left out, by name.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from mountcr.model import InodeType, Record
from mountcr.paths import KPath

__all__ = [
    "ARCHIVE_SCHEMA",
    "DiffForm",
    "Dropped",
    "ForeignCheckpoint",
    "Format",
    "ImageLayer",
    "RequestedBind",
    "RootfsDiff",
    "VolumeMember",
]

ARCHIVE_SCHEMA: Final = "mountcr/archive/1"


class Format(StrEnum):
    """Who wrote an archive, by what is in it."""

    PODMAN = "podman"
    CRIO = "cri-o"
    CONTAINERD_CRI = "containerd-cri"
    CONTAINERD_IMAGE = "containerd-image"


class DiffForm(StrEnum):
    """
    How changes of a root file system are written down.

    `diff` are the files that are there, the removed ones beside it in a list; `layer` is an OCI
    layer with whiteouts.
    """

    DIFF = "diff"
    LAYER = "layer"


class RequestedBind(Record, frozen=True, kw_only=True):
    """
    A bind mount that the checkpoint was made with: a request for a source on this host.

    `type` and `mode` (permission bits) are those of the source, where the archive tells.
    """

    destination: KPath
    source: KPath
    type: InodeType | None = None
    mode: int | None = None
    options: tuple[str, ...] = ()


class VolumeMember(Record, frozen=True, kw_only=True):
    """A named volume; `member` is the tar with its content, None where the archive has none."""

    name: str
    destination: KPath
    member: KPath | None = None


class ImageLayer(Record, frozen=True, kw_only=True):
    """A layer of the image that came along: its DiffID, and the blob that it unpacks from."""

    diff_id: str
    member: KPath
    media_type: str


class RootfsDiff(Record, frozen=True, kw_only=True):
    """
    What the container changed of its image.

    `removed` are paths from the root of the container, in the order of the list.
    """

    member: KPath
    form: DiffForm
    removed: tuple[KPath, ...] = ()


class Dropped(Record, frozen=True, kw_only=True):
    """Something that an archive asks for and does not get: the field, and what is in it."""

    field: str
    value: str


class ForeignCheckpoint(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What an archive of another tool holds.

    `engine` is mountcr's word for the engine that had the container, `runtime` the name or path of
    the OCI runtime below it. `image` is the name of the image, which is no proof of which one it
    was; `image_id` and `image_digests` are what the archive says of that, empty where it says
    nothing, and `image_layers` (top first) came along. `created` and `checkpointed` are as they
    stand there. `images` is the member below which CRIU's images are: a directory, or a tar of
    them if `images_in_tar`. `parent` is that of an earlier dump which these are a difference to.
    `shm` is the member with the content of /dev/shm, `log` what the container has printed,
    `network` the status of its networks. `standard_streams` are the links of descriptors 0 to 2 of
    the root task, `terminal` tells that it had one. `joined` are the paths of namespaces that were
    made before it, by the names below /proc/<pid>/ns. `versions` are those that the archive names.
    Members are paths in the archive.
    """

    schema: str = ARCHIVE_SCHEMA
    format: Format
    engine: str
    id: str
    name: str = ""
    runtime: str = ""
    image: str = ""
    image_id: str = ""
    image_digests: tuple[str, ...] = ()
    image_layers: tuple[ImageLayer, ...] = ()
    created: str = ""
    checkpointed: str = ""
    hostname: str = ""
    labels: dict[str, str] = {}
    images: KPath | None = None
    images_in_tar: bool = False
    parent: KPath | None = None
    rootfs: RootfsDiff | None = None
    binds: tuple[RequestedBind, ...] = ()
    volumes: tuple[VolumeMember, ...] = ()
    shm: KPath | None = None
    log: KPath | None = None
    network: KPath | None = None
    cgroup: KPath | None = None
    standard_streams: tuple[str, ...] = ()
    terminal: bool = False
    joined: dict[str, KPath] = {}
    versions: dict[str, str] = {}
    dropped: tuple[Dropped, ...] = ()
