# SPDX-License-Identifier: Apache-2.0
"""
OCI image layouts: a bundle as an image, which registries keep and other tools copy.

    oci-layout               the version of the layout
    index.json               the images in it
    blobs/sha256/DIGEST      their manifests, configurations and layers

(image-layout.md, manifest.md and config.md of the OCI image specification.) An image of a bundle
has one layer, which is the tar of the bundle, compressed or not: whoever unpacks the image has the
bundle as a directory. The same bundle gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr.bundle.names import LAYOUT
from mountcr.bundle.writer import TarSink
from mountcr.compression import Compression, compressed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mountcr.bundle.writer import Sink
    from mountcr.compression import Level, Output

__all__ = [
    "ARTIFACT",
    "BLOBS",
    "INDEX",
    "LAYERS",
    "MANIFEST_TYPE",
    "REF_NAME",
    "Descriptor",
    "Image",
    "ImageIndex",
    "ImageManifest",
    "LayoutVersion",
    "WrittenImage",
    "architecture_of",
    "write_layout",
]

INDEX: Final = "index.json"
BLOBS: Final = "blobs/sha256"

ARTIFACT: Final = "application/vnd.mountcr.bundle.v1"
"""What an image is that holds a bundle."""

REF_NAME: Final = "org.opencontainers.image.ref.name"
"""The annotation that an image in a layout is called by."""

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"

LAYERS: Final = {
    Compression.NONE: "application/vnd.oci.image.layer.v1.tar",
    Compression.GZIP: "application/vnd.oci.image.layer.v1.tar+gzip",
    Compression.ZSTD: "application/vnd.oci.image.layer.v1.tar+zstd",
}
"""The media types of a layer."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

_LAYER: Final = "layer"
"""How the blob of the layer is called while nobody knows its digest."""

_PIECE: Final = 1 << 20
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Stored(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the records: immutable; unknown fields are ignored."""


class Descriptor(_Stored, frozen=True, kw_only=True):
    """A blob: its type, its digest, `sha256:` and hexadecimal, and its size in bytes."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] | None = None


class LayoutVersion(_Stored, frozen=True, kw_only=True):
    """`oci-layout`."""

    version: str = msgspec.field(name="imageLayoutVersion")


class ImageIndex(_Stored, frozen=True, kw_only=True):
    """`index.json`."""

    schema_version: int
    media_type: str = ""
    manifests: tuple[Descriptor, ...] | None = None


class ImageManifest(_Stored, frozen=True, kw_only=True):
    """The manifest of an image."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    annotations: dict[str, str] | None = None


class _RootFs(_Stored, frozen=True, kw_only=True, omit_defaults=False):
    type: str = "layers"
    diff_ids: tuple[str, ...] = msgspec.field(name="diff_ids")


class _History(_Stored, frozen=True, kw_only=True):
    created: str
    created_by: str = msgspec.field(name="created_by")


class _Config(_Stored, frozen=True, kw_only=True, omit_defaults=False):
    """The configuration of an image, which runs nothing."""

    created: str
    architecture: str
    os: str = "linux"
    config: dict[str, str] = {}
    rootfs: _RootFs
    history: tuple[_History, ...]


class Image(NamedTuple):
    """
    What is said of an image; `created` is a time of RFC 3339, `reference` its name.

    `artifact` is the type of what is in it, empty where that is no other than in any image.
    """

    reference: str
    created: str
    architecture: str
    annotations: dict[str, str]
    artifact: str = ARTIFACT


class WrittenImage(NamedTuple):
    """The digest of a manifest, `sha256:` and hexadecimal, and the bytes of all files."""

    digest: str
    bytes: int


def architecture_of(machine: str) -> str:
    """Spell the machine of uname(2) as the OCI image specification does."""
    return _ARCHITECTURES.get(machine, machine)


def write_layout(
    directory: int, level: Level, image: Image, write: Callable[[Sink], None]
) -> WrittenImage:
    """
    Write a layout with one image into an open, empty directory, which stays the caller's.

    The layer goes to its place at once; its digests are computed on the way. Raises what `write`
    raises, and OSError; the directory holds no layout then.
    """
    os.mkdir("blobs", 0o700, dir_fd=directory)
    os.mkdir(BLOBS, 0o700, dir_fd=directory)
    blobs = _Blobs(directory)
    layer, diff_id = blobs.add_layer(level, write)
    history = _History(created=image.created, created_by="mountcr")
    config = blobs.add(
        _CONFIG_TYPE,
        _Config(
            created=image.created,
            architecture=image.architecture,
            rootfs=_RootFs(diff_ids=(diff_id,)),
            history=(history,),
        ),
    )
    manifest = blobs.add(
        MANIFEST_TYPE,
        ImageManifest(
            schema_version=2,
            media_type=MANIFEST_TYPE,
            artifact_type=image.artifact,
            config=config,
            layers=(layer,),
            annotations=image.annotations,
        ),
    )
    named = msgspec.structs.replace(
        manifest, artifact_type=image.artifact, annotations={REF_NAME: image.reference}
    )
    index = ImageIndex(schema_version=2, media_type=_INDEX_TYPE, manifests=(named,))
    blobs.write(INDEX, msgspec.json.encode(index))
    # the last one: without it, this is no layout
    blobs.write(LAYOUT, msgspec.json.encode(LayoutVersion(version="1.0.0")))
    return WrittenImage(manifest.digest, blobs.bytes)


class _Blobs:
    """The files of a layout in the making."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self.bytes = 0

    def add_layer(self, level: Level, write: Callable[[Sink], None]) -> tuple[Descriptor, str]:
        """Write a layer; give its descriptor, and the digest of what is in it."""
        with open(self._create(_LAYER), "wb", _PIECE) as file:
            blob = _Digesting(file)
            with compressed(blob, level) as packed:
                tar = _Digesting(packed)
                sink = TarSink(tar)
                write(sink)
                sink.end()
        ends = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
        os.rename(_LAYER, _path(blob.digest), **ends)
        self.bytes += blob.size
        media_type = LAYERS[level.compression]
        layer = Descriptor(media_type=media_type, digest=blob.digest, size=blob.size)
        return layer, tar.digest

    def add(self, media_type: str, document: msgspec.Struct) -> Descriptor:
        """Write a document as a blob."""
        text = msgspec.json.encode(document)
        digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        self.write(_path(digest), text)
        return Descriptor(media_type=media_type, digest=digest, size=len(text))

    def write(self, name: str, text: bytes) -> None:
        """Write a file."""
        with open(self._create(name), "wb") as file:
            file.write(text)
        self.bytes += len(text)

    def _create(self, name: str) -> int:
        return os.open(name, _WRITE, 0o600, dir_fd=self._directory)


def _path(digest: str) -> str:
    return f"{BLOBS}/{digest.removeprefix('sha256:')}"


class _Digesting:
    """What goes on into a file, its digest and its size."""

    def __init__(self, file: Output) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """The digest of all that was written."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of it."""
        view = memoryview(data)
        self._hash.update(view)
        self.size += len(view)
        while view:
            count = self._file.write(view)
            view = view[len(view) if count is None else count :]
        return len(data)
