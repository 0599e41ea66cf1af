# SPDX-License-Identifier: Apache-2.0
"""
The checkpoint in an OCI image layout that comes from anywhere: found, and its blob read.

Of a layout only regular files are opened whose names are made here: no name that is written in it
is one of a path, for digests are hexadecimal or refused. What is read of a blob was compared with
its descriptor by the time that it has been read to the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from mountcr.bundle.annotations import BUNDLE_DIGEST, CHECKPOINTS
from mountcr.bundle.directory import open_member
from mountcr.bundle.layout import (
    ARTIFACT,
    BLOBS,
    INDEX,
    LAYERS,
    MANIFEST_TYPE,
    REF_NAME,
    Descriptor,
    ImageIndex,
    ImageManifest,
    LayoutVersion,
)
from mountcr.bundle.members import shown
from mountcr.bundle.names import LAYOUT
from mountcr.errors import DocumentError, NotFoundError, RefusedError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from mountcr.bundle.names import Selected
    from mountcr.compression import Input

__all__ = ["has_checkpoint", "opened_layer"]

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

_DOCUMENT: Final = 1 << 22
"""Bytes of an index or a manifest: what registries take at most."""

_MANIFESTS: Final = 1000
"""Images in an index."""

_LARGEST: Final = 1 << 63

_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
"""What a layer is called in a registry that knows no OCI images."""

_READ: Final = frozenset({*LAYERS.values(), _DOCKER_LAYER})

_T = TypeVar("_T", bound=msgspec.Struct)


def has_checkpoint(layout: Selected) -> bool:
    """
    Tell whether there is an image of a bundle or of an archive of podman or CRI-O.

    Those of containerd are none: they have a blob for each thing. Raises as `opened_layer` does
    where what is in the layout is damaged.
    """
    with _opened(layout) as images:
        return any(_is_checkpoint(manifest) for _, manifest in images.candidates())


@contextlib.contextmanager
def opened_layer(layout: Selected) -> Generator[tuple[str, Input]]:
    """
    Open the layer that holds a checkpoint for a block; give what errors call it, and the file.

    It is of a bundle, or of an archive of podman or CRI-O, whose images have the same form. Raises
    NotFoundError where no image is called so, DocumentError for what is no layout or has none of a
    checkpoint in it, or several where none was named, RefusedError where it breaks a rule,
    VerificationError for a blob that is not what its descriptor says; of the layer, when it has
    been read to the end.
    """
    with _opened(layout) as images:
        descriptor = images.layer()
        fd = images.open_blob(descriptor)
        with open(fd, "rb", buffering=0) as file:
            yield images.shown, _Checked(file, descriptor, images)


@contextlib.contextmanager
def _opened(layout: Selected) -> Generator[_Images]:
    try:
        fd = os.open(layout.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        msg = f"no such file or directory: {shown(layout.directory)}"
        raise NotFoundError(msg, hint="name a layout") from None
    try:
        yield _Images(fd, layout)
    finally:
        os.close(fd)


class _Images:
    """The images of an open layout."""

    def __init__(self, directory: int, layout: Selected) -> None:
        self._directory = directory
        self._layout = layout
        self.shown = shown(layout.directory)
        version = self._document(LAYOUT, self._read(LAYOUT), LayoutVersion).version
        if not version.startswith("1."):
            msg = f"{self.shown}: {LAYOUT}: a layout of version {shown(version)} (rule: document)"
            raise DocumentError(msg, hint="mountcr reads those of version 1")
        index = self._document(INDEX, self._read(INDEX), ImageIndex)
        self._manifests = index.manifests or ()
        if len(self._manifests) > _MANIFESTS:
            msg = f"{self.shown}: {INDEX} has more than {_MANIFESTS} images (rule: members)"
            raise RefusedError(msg, hint="copy the one that is meant into a layout of its own")

    # --- Which one --------------------------------------------------------------------------------

    def candidates(self) -> Iterator[tuple[Descriptor, ImageManifest]]:
        """Give the images that may be meant, each once."""
        named = {each.digest: each for each in self._named() if each.media_type == MANIFEST_TYPE}
        for each in named.values():
            yield each, self._manifest(each)

    def _named(self) -> list[Descriptor]:
        """Give those of the name that was said; all where none was."""
        image = self._layout.image
        if not image:
            return list(self._manifests)
        found = [each for each in self._manifests if image in {each.digest, _name(each)}]
        if not found:
            msg = f"no image of {self.shown} is called {shown(image)}"
            raise NotFoundError(msg, hint=f"there are {_told(self._manifests)}")
        return found

    def layer(self) -> Descriptor:
        """Give the layer that holds the checkpoint."""
        found: list[Descriptor] = []
        layers: tuple[Descriptor, ...] = ()
        for descriptor, manifest in self.candidates():
            if _is_checkpoint(manifest):
                found.append(descriptor)
                layers = manifest.layers or ()
        if not found:
            msg = f"{self.shown} has no image of a checkpoint in it (rule: document)"
            raise DocumentError(msg, hint="`mountcr export --oci` writes one")
        if len(found) > 1:
            msg = f"{self.shown} has {len(found)} images of checkpoints in it"
            hint = f"say which: DIR:NAME or DIR@DIGEST; there are {_told(found)}"
            raise DocumentError(msg, hint=hint)
        if len(layers) != 1 or layers[0].media_type not in _READ:
            types = ", ".join(shown(each.media_type) for each in layers[:4]) or "none"
            msg = f"{self.shown}: {found[0].digest} has other layers than one tar: {types}"
            raise RefusedError(f"{msg} (rule: layers)", hint="export it again")
        return layers[0]

    # --- What is in it ----------------------------------------------------------------------------

    def _manifest(self, descriptor: Descriptor) -> ImageManifest:
        name = f"{BLOBS}/{self._hexadecimal(descriptor)}"
        if descriptor.size > _DOCUMENT:
            raise self._large(name, descriptor.size)
        with open(self.open_blob(descriptor), "rb", buffering=0) as file:
            text = file.read(descriptor.size + 1)
        if hashlib.sha256(text).hexdigest() != self._hexadecimal(descriptor):
            raise self.differs(descriptor)
        return self._document(name, text, ImageManifest)

    def open_blob(self, descriptor: Descriptor) -> int:
        """Open a blob; the caller owns the descriptor."""
        name = f"{BLOBS}/{self._hexadecimal(descriptor)}"
        if not 0 <= descriptor.size < _LARGEST:
            msg = f"{self.shown}: {name} is said to have {descriptor.size} bytes (rule: size)"
            raise RefusedError(msg, hint="export it again")
        fd = self._open(name)
        size = os.fstat(fd).st_size
        if size != descriptor.size:
            os.close(fd)
            raise self._wrong(name, f"has {size} bytes, not {descriptor.size}")
        return fd

    def differs(self, descriptor: Descriptor) -> VerificationError:
        """Give the error for a blob whose content is another one."""
        name = f"{BLOBS}/{self._hexadecimal(descriptor)}"
        return self._wrong(name, "is not what it is called: its SHA-256 differs")

    def _wrong(self, name: str, what: str) -> VerificationError:
        line = f"{name} {what}"
        msg = f"{self.shown}: {line} (rule: digests)"
        return VerificationError(msg, [line], hint="the layout is damaged; copy it again")

    def _hexadecimal(self, descriptor: Descriptor) -> str:
        """Give the digest as the name of a file, which no other text can be."""
        if _DIGEST.fullmatch(descriptor.digest) is None:
            msg = f"{self.shown}: {shown(descriptor.digest)} is no digest (rule: names of blobs)"
            raise RefusedError(msg, hint="blobs are called sha256: and 64 hexadecimal digits")
        return descriptor.digest.removeprefix("sha256:")

    def _large(self, name: str, size: int) -> RefusedError:
        msg = f"{self.shown}: {name} has {size} bytes, more than {_DOCUMENT}"
        return RefusedError(f"{msg} (rule: size of documents)", hint="no registry would take it")

    def _read(self, name: str) -> bytes:
        with open(self._open(name), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _DOCUMENT:
                raise self._large(name, size)
            return file.read(_DOCUMENT)

    def _document(self, name: str, text: bytes, type_: type[_T]) -> _T:
        try:
            return msgspec.json.decode(text, type=type_)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            msg = f"{self.shown}: {name} is damaged: {error} (rule: document)"
            raise DocumentError(msg, hint="copy the image again, or export it again") from None

    def _open(self, name: str) -> int:
        """Open a regular file through no link; the caller owns the descriptor."""
        try:
            return open_member(self._directory, name, self.shown)
        except FileNotFoundError:
            raise self._wrong(name, "is missing") from None


def _is_checkpoint(manifest: ImageManifest) -> bool:
    """Tell by what an image says of itself; copying it may lose one of the two."""
    marks = {BUNDLE_DIGEST, *CHECKPOINTS}
    return manifest.artifact_type == ARTIFACT or not marks.isdisjoint(manifest.annotations or {})


def _name(descriptor: Descriptor) -> str:
    return (descriptor.annotations or {}).get(REF_NAME, "")


def _told(descriptors: Sequence[Descriptor]) -> str:
    """Name images, not too many of them."""
    named = [shown(_name(each) or each.digest) for each in descriptors[:8]]
    more = len(descriptors) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "") if named else "none"


class _Checked:
    """A blob that is hashed while it is read, and compared at its end."""

    def __init__(self, file: Input, descriptor: Descriptor, images: _Images) -> None:
        self._file = file
        self._descriptor = descriptor
        self._images = images
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        ended = not data and size
        if ended and self._descriptor.digest != f"sha256:{self._hash.hexdigest()}":
            raise self._images.differs(self._descriptor)
        return data
