# SPDX-License-Identifier: Apache-2.0
"""
Bundles become archives that podman or CRI-O restores.

Their diff is complete: every file that the writable layer has, directories with their modes and
owners too, and every path that it removes, also those that an opaque directory hides, for their
restore writes the files into the merged root and removes paths one by one.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mountcr import paths
from mountcr.bundle.annotations import image_of
from mountcr.bundle.foreign import Format
from mountcr.bundle.foreign.crio import BINDS
from mountcr.bundle.foreign.losses import ENGINES
from mountcr.bundle.foreign.podman import CHECKPOINT, CONFIG, DELETED, DIFF, SHM, SPEC
from mountcr.bundle.foreign.rootfs import written_entries
from mountcr.bundle.foreign.spec import Spec, requested_binds
from mountcr.bundle.foreign.unpacked import Unpacked, container_path, plain_name
from mountcr.bundle.names import FOREIGN, IMAGES, LAYERS, MOUNTS, UPPER
from mountcr.bundle.reader import opened
from mountcr.bundle.writer import Part, measure
from mountcr.compression import Compression, Level
from mountcr.criu.holders import tmpfs_contents
from mountcr.criu.images import ImageSet
from mountcr.criu.rewriting import ExternalTmpfs, rewrite
from mountcr.errors import RefusedError, UsageError
from mountcr.manifest import DESCRIPTORS
from mountcr.model import InodeType
from mountcr.observation.storedlayers import found_layers
from mountcr.operations.foreign_import import BUNDLE, ConvertedArchive
from mountcr.operations.leftovers import recorded
from mountcr.operations.packing import (
    check_output,
    put,
    put_image,
    scratch_directory,
    write_bytes,
    write_file,
)
from mountcr.paths import KPath, decode, encode
from mountcr.planning.placement import choose_layers
from mountcr.rootfs.changes import everything
from mountcr.rootfs.dialect import get_dialect
from mountcr.rootfs.opened import opened as opened_layers
from mountcr.rootfs.tar import TarTree
from mountcr.rootfs.tarwriter import write_tar
from mountcr.rootfs.tree import join, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mountcr.bundle.document import Bundle, Carried
    from mountcr.bundle.reader import Reader
    from mountcr.bundle.writer import Sink
    from mountcr.compression import Output
    from mountcr.engines import Roots
    from mountcr.rootfs.dialect import Entry, Layer
    from mountcr.rootfs.view import View

__all__ = ["TARGETS", "to_foreign"]

TARGETS: Final = (Format.PODMAN, Format.CRIO)
"""The formats that are written: those of engines that restore archives."""

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHM: Final = KPath("/dev/shm")  # noqa: S108 -- a path in the container
_NEVER: Final = "0001-01-01T00:00:00Z"
"""How Go spells a time that never was."""

_KINDS: Final = {InodeType.FILE: "file", InodeType.DIRECTORY: "directory"}


class _Volume(msgspec.Struct, frozen=True, rename="camel"):
    """One of `namedVolumes` of podman."""

    volume_name: str
    dest: str


class _Podman(msgspec.Struct, frozen=True, rename="camel"):
    """What of podman's configuration an archive has to fit."""

    id: str
    runtime: str = ""
    created_time: str = ""
    rootfs_image_name: str = ""
    named_volumes: tuple[_Volume, ...] | None = None


def to_foreign(
    path: str,
    target: Format,
    output: str,
    *,
    oci: bool = False,
    level: Level | None = None,
    roots: Roots | None = None,
    check: Callable[[Reader], None] = lambda _reader: None,
) -> ConvertedArchive:
    """
    Write a bundle as an archive of another tool.

    With `oci` it is the layer of an image in an OCI image layout, and the output a new directory.
    It is compressed as the `level` says, by default with zstd; CRI-O's archives never are.
    Raises NotFoundError, DocumentError for what is no bundle, VerificationError for a member that
    is not what it should be, RefusedError for a container that the tool never had, or for removals
    that cannot be told apart without the layers of the image, UsageError, OSError.
    """
    began = time.monotonic()
    if target not in TARGETS:
        msg = f"nobody restores archives of {target}"
        raise UsageError(msg, hint=f"there are {', '.join(TARGETS)}, and {BUNDLE}")
    check_output(output)
    with (
        recorded("convert"),
        opened(path) as reader,
        scratch_directory("convert") as scratch,
    ):
        check(reader)
        _unpack(reader, os.fsdecode(decode(scratch)))
        work = _Foreign(reader.bundle, scratch, target, roots)
        measured = [measure(each) for each in work.parts()]
        if target is Format.CRIO and not oci:
            level = Level(Compression.NONE)

        def write(sink: Sink) -> None:
            for each in measured:
                sink.add(each.part.name, each.digested.size, each.part.write)

        level = level or Level(Compression.ZSTD)
        image = ""
        if oci:
            said = image_of(reader.bundle, os.uname().machine, runtime=work.runtime())
            image, size = put_image(output, level, said, write)
        else:
            size = put(output, level, write)
    return ConvertedArchive(
        output=output,
        source=BUNDLE,
        target=target,
        image=image,
        bytes=size,
        mounts=tuple(work.mounts),
        left_out=tuple(dict.fromkeys(work.left_out)),
        notes=tuple(work.notes),
        seconds=round(time.monotonic() - began, 4),
    )


def _unpack(reader: Reader, top: str) -> None:
    """Write every member, each compared with its digest by then."""
    for name in (IMAGES, MOUNTS, LAYERS, FOREIGN):
        os.mkdir(os.path.join(top, name), 0o700)
    for member, content in reader.members():
        directory, _, name = member.name.partition("/")
        if directory not in {IMAGES, MOUNTS, LAYERS, FOREIGN} or "/" in name or not name:
            msg = f"{reader.shown}: {encode(member.name)} (rule: unknown members)"
            raise RefusedError(msg, hint="it is of a newer mountcr, or no bundle")
        target = os.path.join(top, member.name)
        with open(os.open(target, _WRITE, 0o600), "wb", buffering=0) as file:
            while piece := content.some():
                while piece:
                    piece = piece[file.write(piece) :]


class _Shared(NamedTuple):
    """The images that are others because /dev/shm is external, and the one with its content."""

    images: Mapping[str, bytes] = {}
    content: str = ""


class _Foreign:
    """One bundle on its way into an archive of another tool."""

    def __init__(self, bundle: Bundle, scratch: KPath, target: Format, roots: Roots | None) -> None:
        self._bundle = bundle
        self._scratch = scratch
        self._target = target
        self._roots = roots
        self._members = Unpacked(scratch)
        self.notes: list[str] = []
        self.mounts: list[KPath] = []
        self.left_out: list[KPath] = []

    def parts(self) -> Iterator[Part]:
        """Give the members of the archive. Raises RefusedError."""
        for name, content in self._documents().items():
            yield Part(name, partial(write_bytes, content))
        streams = msgspec.json.encode(list(self._bundle.dump.standard_streams))
        yield Part(f"{CHECKPOINT}/{DESCRIPTORS}", partial(write_bytes, streams))
        shared = self._shared_memory()
        for name in self._members.names(IMAGES):
            member = f"{CHECKPOINT}/{name}"
            if name in shared.images:
                yield Part(member, partial(write_bytes, shared.images[name]))
            elif name != shared.content:
                yield Part(member, partial(write_file, decode(self._image(name))))
        if shared.content:
            self.mounts.append(_SHM)
            yield Part(SHM, partial(_write_tree, self._image(shared.content)))
        removed: list[str] = []
        diff = Part(DIFF, partial(self._write_diff, removed))
        diff.write(_Nowhere())  # which finds what is removed
        yield diff
        if removed:
            text = msgspec.json.encode(list(dict.fromkeys(removed)))
            yield Part(DELETED, partial(write_bytes, text))
        if self._target is Format.PODMAN:
            yield from self._mounted()

    def runtime(self) -> str:
        """Give what podman calls the OCI runtime, which it wants to be its own; empty for CRI-O."""
        if self._target is not Format.PODMAN:
            return ""
        return self._members.json(f"{FOREIGN}/{CONFIG}", _Podman).runtime

    # --- What the engine had written down ---------------------------------------------------------

    def _documents(self) -> dict[str, bytes]:
        kept = {
            name: self._members.content(f"{FOREIGN}/{name}")
            for name in self._members.names(FOREIGN)
        }
        container = self._bundle.dump.facts.container
        if CONFIG not in kept or SPEC not in kept:
            msg = f"the bundle does not say how {self._target} had {container.label} configured"
            hint = "export it where its engine has it; a bundle is restored by `mountcr restore`"
            raise RefusedError(msg, hint=hint)
        podman = msgspec.convert(self._config(kept[CONFIG]), _Podman)
        if self._target is Format.PODMAN:
            if container.engine != "podman":
                msg = f"{container.label} was none of podman, which knows no more of it than that"
                raise RefusedError(msg, hint="restore it with `mountcr restore`")
            names = {CONFIG, SPEC, "network.status"}
            return {name: content for name, content in kept.items() if name in names}
        documents = {SPEC: kept[SPEC]}
        if BINDS in kept:
            return {CONFIG: kept[CONFIG], **documents, BINDS: kept[BINDS]}
        return {CONFIG: self._crio_config(podman), **documents, BINDS: self._crio_binds()}

    def _config(self, text: bytes) -> dict[str, object]:
        return self._members.parsed(text, f"{FOREIGN}/{CONFIG}", dict[str, object])

    def _crio_config(self, podman: _Podman) -> bytes:
        """Make the configuration of checkpointctl, lib/metadata.go `ContainerConfig`."""
        container = self._bundle.dump.facts.container
        image = podman.rootfs_image_name or container.image
        config = {
            "id": podman.id,
            "name": container.name or podman.id,
            "rootfsImage": image,
            "rootfsImageRef": "",
            "rootfsImageName": image,
            "runtime": os.path.basename(podman.runtime),
            "createdTime": podman.created_time or _NEVER,
            "checkpointedTime": self._bundle.dump.created,
            "restoredTime": _NEVER,
            "restored": False,
        }
        return msgspec.json.encode(config)

    def _crio_binds(self) -> bytes:
        """List the binds as CRI-O does: what is not of every container (internal/lib)."""
        binds = [
            {
                "source": each.source or each.mountpoint,
                "destination": each.mountpoint,
                "file_type": _KINDS.get(each.type or InodeType.DIRECTORY, "file"),
                "permissions": (each.mode or 0) & 0o777,
            }
            for each in self._bundle.dump.externals
            if each.type in _KINDS and each.mountpoint not in ENGINES | {_SHM}
        ]
        return msgspec.json.encode(binds)

    # --- Images -----------------------------------------------------------------------------------

    def _image(self, name: str) -> KPath:
        return paths.join(self._scratch, f"{IMAGES}/{encode(name)}")

    def _shared_memory(self) -> _Shared:
        """
        Say how /dev/shm is given to podman, which has it on the host and binds it.

        CRIU takes it for the container's own where nobody calls it external. Podman then would look
        for its content in a place where nothing is.
        """
        spec = self._members.json(f"{FOREIGN}/{SPEC}", Spec)
        binds = requested_binds(spec, lambda what: self._members.wrong(SPEC, what))
        if self._target is not Format.PODMAN or not any(each.destination == _SHM for each in binds):
            return _Shared()
        images = ImageSet(paths.join(self._scratch, IMAGES))
        because = "podman binds it from the host"
        operation = ExternalTmpfs(mountpoint=_SHM, key=_SHM, because=because)
        rewriting = rewrite(images, (operation,))
        if not rewriting.images:
            return _Shared()
        mounts = images.mount_namespaces()[images.root_mount_namespace]
        device = next(each.dev for each in mounts if each.mountpoint == _SHM)
        contents = {each.dev: each.file for each in tmpfs_contents(images)}
        changed = {name: each.to_bytes() for name, each in rewriting.images.items()}
        return _Shared(changed, contents.get(device, ""))

    # --- Mounts -----------------------------------------------------------------------------------

    def _mounted(self) -> Iterator[Part]:
        """Give what the bundle has of mounts and podman looks for."""
        config = self._members.json(f"{FOREIGN}/{CONFIG}", _Podman)
        wanted = {} if _SHM in self.mounts else {_SHM: SHM}
        for volume in config.named_volumes or ():
            place = container_path(volume.dest)
            if place is not None and plain_name(volume.volume_name):
                wanted[place] = f"volumes/{volume.volume_name}.tar"
        there = {each.mountpoint: each for each in self._bundle.mounts}
        for mountpoint, member in wanted.items():
            carried = there.get(mountpoint)
            if carried is not None and carried.type is InodeType.DIRECTORY:
                self.mounts.append(mountpoint)
                yield Part(member, partial(self._write_member, carried))
            elif mountpoint != _SHM:
                self.notes.append(
                    f"the content of the volume at {mountpoint} is not in the bundle: restore with "
                    "`podman container restore --ignore-volumes`, or export with --volume"
                )

    def _write_member(self, carried: Carried, file: Output) -> None:
        write_file(decode(paths.join(self._scratch, encode(carried.member))), file)

    # --- The writable layer -----------------------------------------------------------------------

    def _write_diff(self, removed: list[str], file: Output) -> None:
        """Write the files of the writable layer, and find what it removes."""
        removed.clear()
        with TarTree(paths.join(self._scratch, UPPER)) as tree:
            layer = get_dialect("oci").layer(tree)
            entries = self._present(layer, removed)
            self.left_out += write_tar(entries, file).left_out

    def _present(self, layer: Layer, removed: list[str]) -> Iterator[Entry]:
        for entry in written_entries(layer):
            if entry.path == b"" or shown(entry.path) in ENGINES:
                continue
            if entry.inode is None:
                removed.append(_listed(entry.path))
                continue
            if entry.opaque:
                removed += self._hidden(layer, entry.path)
            yield entry._replace(opaque=False)

    def _hidden(self, layer: Layer, directory: bytes) -> list[str]:
        """Give what an opaque directory hides. Raises RefusedError where nobody has the layers."""
        found = found_layers(self._bundle, self._roots, "overlay")
        layers, missing = choose_layers(self._bundle, found, self._scratch)
        if missing:
            msg = f"what {shown(directory)} hides of the image is not known here"
            hint = "pull the image here, or export with --layers all"
            raise RefusedError(msg, hint=hint)
        with opened_layers([each.stored for each in layers]) as below:
            return [*_hidden(layer, below, directory)]


def _hidden(layer: Layer, below: View, directory: bytes) -> Iterator[str]:
    """Give the paths below a directory that the layers below have and the layer itself has not."""
    lower = below.inode(directory)
    if lower is None or not lower.is_directory:
        return
    for name in below.entries(directory):
        path = join(directory, name)
        marked = layer.inode(path)
        if marked is None:
            yield _listed(path)
        elif marked.inode.is_directory:
            yield from _hidden(layer, below, path)


def _listed(path: bytes) -> str:
    """Spell a path for a list in JSON. Raises RefusedError for bytes that no JSON holds."""
    try:
        return f"/{path.decode()}"
    except UnicodeDecodeError:
        msg = f"{shown(path)} is removed, which a list in JSON cannot say: it is not UTF-8"
        raise RefusedError(msg, hint="restore the bundle with `mountcr restore`") from None


def _write_tree(path: KPath, file: Output) -> None:
    """Write what a tar holds anew, as every other one is written."""
    with TarTree(path) as tree:
        write_tar(everything(tree), file)


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: bytes | memoryview, /) -> int:
        return len(data)
