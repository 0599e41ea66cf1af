# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of other tools become bundles: complete as far as the archive is, and verified.

Layers of the image are named by their DiffIDs, which a store of this host or the archive itself
has. What podman makes anew for each container, and leaves out of its archives, is made here too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from mountcr import __version__, paths
from mountcr.bundle.annotations import image_of
from mountcr.bundle.document import Bundle, BundleLayer, Carried, to_json
from mountcr.bundle.foreign import Format
from mountcr.bundle.foreign.checkpoint import Dropped
from mountcr.bundle.foreign.dumped import manifest_of
from mountcr.bundle.foreign.rootfs import opened_layer, written_entries
from mountcr.bundle.names import FOREIGN, LAYERS, MOUNTS, UPPER
from mountcr.bundle.writer import Part, measure, write_parts
from mountcr.compression import Compression, Level, compression_of, decompressed
from mountcr.criu.images import ImageSet
from mountcr.criu.rewriting import Thaw, rewrite
from mountcr.engines.imageconfigs import By, find_image
from mountcr.engines.imagelayers import chain_ids, image_layers
from mountcr.engines.roots import Roots
from mountcr.errors import NotFoundError, RefusedError, VerificationError
from mountcr.model import InodeType, Record
from mountcr.operations.leftovers import recorded
from mountcr.operations.packing import check_output, put, put_image, scratch_directory, write_bytes
from mountcr.operations.parts import image_parts
from mountcr.operations.unpacking import images_of, opened_archive
from mountcr.paths import KPath, decode
from mountcr.planning.bundling import LayerMode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.rootfs.changes import changes, everything
from mountcr.rootfs.opened import opened
from mountcr.rootfs.tar import TarTree
from mountcr.rootfs.tarwriter import write_tar
from mountcr.stack import Stack, StoredLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from mountcr.bundle.foreign import ForeignCheckpoint, Unpacked
    from mountcr.bundle.writer import Measured, Sink
    from mountcr.compression import Output
    from mountcr.manifest import Manifest
    from mountcr.operations.exporting import ExportChoices

__all__ = ["CONVERTED_SCHEMA", "ConvertedArchive", "as_bundle", "to_bundle"]

CONVERTED_SCHEMA: Final = "mountcr/convert-archive/1"

BUNDLE: Final = "bundle"
"""What the format of mountcr is called beside those of other tools."""

_KEPT: Final = ("config.dump", "spec.dump", "network.status", "bind.mounts", "status.dump")
"""Members that say what another tool had written down, and goes back to it."""

_HOSTS: Final = "127.0.0.1 localhost\n::1 localhost\n"
_MAGIC: Final = 4


class ConvertedArchive(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    An archive that was written anew in another format.

    `source` and `target` are `bundle` or the word for a format of another tool. `digest` is the
    SHA-256 of the document of a bundle, empty for others; `image` that of the manifest of an OCI
    image, if it is one; `bytes` the size on disk. `layers` are
    how many lower layers it has, of so many. `left_out` are sockets, `dropped` what of the
    configuration is not done.
    """

    schema: str = CONVERTED_SCHEMA
    output: str
    source: str
    target: str
    digest: str = ""
    image: str = ""
    bytes: int
    layers: tuple[int, int] = (0, 0)
    mounts: tuple[KPath, ...] = ()
    left_out: tuple[KPath, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float

    def told(self) -> Iterator[str]:
        """Give what somebody who uses the archive has to know, line by line."""
        yield from (f"not done: {each.field}: {each.value}" for each in self.dropped)
        yield from self.notes
        yield from (f"{path} is left out: a socket" for path in self.left_out)


def to_bundle(
    path: str,
    wanted: ExportChoices,
    *,
    roots: Roots | None = None,
    sign: Callable[[bytes], bytes] | None = None,
) -> ConvertedArchive:
    """
    Write an archive of another tool as a bundle.

    Raises NotFoundError where nothing is there, or no store has the image, DocumentError for what
    is no such archive, RefusedError for one that breaks a rule, VerificationError for a layer that
    is not what its digest says, UsageError, OSError; there is no bundle then.
    """
    began = time.monotonic()
    check_output(wanted.output)
    with (
        recorded("convert"),
        opened_archive(path) as (archive, read),
        scratch_directory("convert") as scratch,
    ):
        checkpoint, images = images_of(archive, read, scratch)
        work = _Conversion(archive, checkpoint, images, wanted.layers, roots or Roots.of_host())
        bundle, measured = work.bundle()
        text = to_json(bundle)
        signature = sign(text) if sign else None

        def write(sink: Sink) -> None:
            write_parts(text, signature, measured, sink)

        digest = hashlib.sha256(text).hexdigest()
        level = Level(wanted.compression, wanted.level)
        image = ""
        if wanted.oci:
            said = image_of(bundle, os.uname().machine, digest=digest)
            image, size = put_image(wanted.output, level, said, write)
        else:
            size = put(wanted.output, level, write)
    return ConvertedArchive(
        output=wanted.output,
        source=checkpoint.format,
        target=BUNDLE,
        digest=digest,
        image=image,
        bytes=size,
        layers=(sum(bool(each.member) for each in bundle.layers), len(bundle.layers)),
        mounts=tuple(each.mountpoint for each in bundle.mounts),
        left_out=bundle.left_out,
        dropped=checkpoint.dropped,
        notes=tuple(work.notes),
        seconds=round(time.monotonic() - began, 4),
    )


@contextlib.contextmanager
def as_bundle(
    path: str, *, roots: Roots | None = None, tell: Callable[[str], None] = lambda _line: None
) -> Generator[str]:
    """
    Give a bundle in the place of an archive of another tool for a block; a bundle as it is.

    `tell` hears what is not done of the archive, and what else is to be known. Raises as
    `to_bundle` does.
    """
    from mountcr.bundle.reader import is_bundle
    from mountcr.operations.exporting import ExportChoices

    if is_bundle(path):
        yield path
        return
    with scratch_directory("bundle") as scratch:
        output = os.path.join(os.fsdecode(decode(scratch)), "bundle") + "/"
        wanted = ExportChoices(output=output, compression=Compression.NONE)
        for line in to_bundle(path, wanted, roots=roots).told():
            tell(line)
        yield output.rstrip("/")


class _Lower(NamedTuple):
    """A lower layer: its DiffID, and where its content is, as far as the bundle shall have it."""

    diff_id: str
    blob: KPath | None = None


class _Conversion:
    """One archive on its way into a bundle."""

    def __init__(
        self,
        archive: Unpacked,
        checkpoint: ForeignCheckpoint,
        images: KPath,
        mode: LayerMode,
        roots: Roots,
    ) -> None:
        self._archive = archive
        self._checkpoint = checkpoint
        self._images = images
        self._mode = mode
        self._roots = roots
        self.notes: list[str] = []
        self._left_out: list[KPath] = []

    def bundle(self) -> tuple[Bundle, list[Measured]]:
        """Give the document and its parts, measured."""
        stack = Stack(driver="overlay", provenance=("an archive, which knows no storage driver",))
        manifest = manifest_of(self._checkpoint, self._images, stack=stack)
        if self._checkpoint.rootfs is None:
            self.notes.append("the archive has nothing of what the container changed of its image")
        if "net" in self._checkpoint.joined:
            self.notes.append(
                "its network was made before it, and is not in the archive: restore it with --net "
                "PATH, or it has loopback alone"
            )
        if self._checkpoint.terminal:
            self.notes.append(
                "the container had a terminal of its engine, which only its engine can give back"
            )
        changed = self._thawed()
        lowers = tuple(self._lowers())
        layers, layer_parts = self._layers(lowers)
        carried, mount_parts = self._mounts(manifest)
        parts = [
            *image_parts(self._images, changed, contents=False),
            *self._kept(),
            *mount_parts,
            *image_parts(self._images, {}, contents=True),
            *layer_parts,
            Part(UPPER, self._write_upper),
        ]
        measured = [measure(each) for each in parts]
        self._check(lowers, measured)
        document = Bundle(
            mountcr=__version__,
            kernel="",
            criu="",
            plan=make_plan(manifest.facts, Choices(cgroups=manifest.cgroups)),
            dump=manifest,
            layers=layers,
            mounts=carried,
            left_out=tuple(dict.fromkeys(self._left_out)),
            members=tuple(each.digested for each in measured),
        )
        return document, measured

    def _thawed(self) -> dict[str, bytes]:
        """Give the images that are others, so that what was paused for the checkpoint runs."""
        why = f"{self._checkpoint.engine} pauses a container for its checkpoint"
        rewriting = rewrite(ImageSet(self._images), (Thaw(because=why),))
        return {name: each.to_bytes() for name, each in rewriting.images.items()}

    # --- The layers of the image ------------------------------------------------------------------

    def _lowers(self) -> Iterator[_Lower]:
        """Give the layers of the image, top first. Raises NotFoundError where nobody has it."""
        checkpoint = self._checkpoint
        if checkpoint.image_layers:
            for layer in checkpoint.image_layers:
                there = self._archive.has(layer.member)
                yield _Lower(layer.diff_id, layer.member if there else None)
            return
        found = find_image(
            self._roots,
            image_id=checkpoint.image_id,
            digests=checkpoint.image_digests,
            name=checkpoint.image,
        )
        if found is None:
            identity = checkpoint.image_id or ", ".join(checkpoint.image_digests)
            msg = f"no store of this host has the image {checkpoint.image} ({identity or 'no id'})"
            hint = "pull it here: the archive has what the container changed of it, not its layers"
            raise NotFoundError(msg, hint=hint)
        if found.by is By.NAME:
            self.notes.append(
                f"the archive says no more of its image than {checkpoint.image}; the one that is "
                f"called so here is {found.id}"
            )
        for diff_id in found.diff_ids:
            yield _Lower(diff_id)

    def _layers(self, lowers: Sequence[_Lower]) -> tuple[tuple[BundleLayer, ...], list[Part]]:
        chains = chain_ids(each.diff_id for each in reversed(lowers))[::-1]
        whole = self._mode is LayerMode.ALL
        stored = self._stored(lowers) if whole and not all(each.blob for each in lowers) else ()
        layers: list[BundleLayer] = []
        parts: list[Part] = []
        for number, (lower, chain) in enumerate(zip(lowers, chains, strict=True), 1):
            member = f"{LAYERS}/{number}.tar" if whole else ""
            layers.append(BundleLayer(diff_id=lower.diff_id, chain_id=chain, member=member))
            if not whole:
                continue
            if lower.blob is not None:
                parts.append(Part(member, partial(self._write_blob, lower.blob)))
            else:
                parts.append(Part(member, partial(_write_layer, stored[number - 1 :])))
        return tuple(layers), parts

    def _stored(self, lowers: Sequence[_Lower]) -> tuple[StoredLayer, ...]:
        """Find the directories of the layers on this host. Raises RefusedError naming one."""
        known = {
            each.diff_id: StoredLayer(path=each.path, dialect=each.dialect)
            for each in image_layers(self._roots)
            if not each.flat and not each.mapped
        }
        for lower in lowers:
            if lower.diff_id not in known:
                msg = f"no store of this host has layer {lower.diff_id} by itself"
                raise RefusedError(msg, hint="convert without --layers all")
        return tuple(known[each.diff_id] for each in lowers)

    def _write_blob(self, blob: KPath, file: Output) -> None:
        with open(self._archive.open(blob), "rb", buffering=0) as source:
            compression = compression_of(source.read(_MAGIC))
            source.seek(0)
            for piece in decompressed(source, compression):
                file.write(piece)

    def _check(self, lowers: Sequence[_Lower], measured: Sequence[Measured]) -> None:
        """See that the layers that came along are those of their DiffIDs."""
        digests = {each.digested.name: each.digested.sha256 for each in measured}
        for number, lower in enumerate(lowers, 1):
            digest = digests.get(f"{LAYERS}/{number}.tar")
            if lower.blob and digest and f"sha256:{digest}" != lower.diff_id:
                line = f"{lower.blob} unpacks to sha256:{digest}, it should be {lower.diff_id}"
                msg = f"{self._archive.archive}: {line}"
                raise VerificationError(msg, [line], hint="the archive is damaged; make it again")

    # --- The writable layer -----------------------------------------------------------------------

    def _write_upper(self, file: Output) -> None:
        diff = self._checkpoint.rootfs
        if diff is None:
            self._left_out += write_tar((), file).left_out
            return
        with opened_layer(diff, self._archive) as layer:
            entries = written_entries(layer, root_mode=self._root_mode())
            self._left_out += write_tar(entries, file).left_out

    def _root_mode(self) -> int | None:
        """Give the mode of the root directory, which every task holds and CRIU compares."""
        for each in ImageSet(self._images).regular_files():
            if each.path == "/" and each.mode is not None:
                return stat.S_IMODE(each.mode)
        return None

    # --- Mounts and records -----------------------------------------------------------------------

    def _mounts(self, manifest: Manifest) -> tuple[tuple[Carried, ...], list[Part]]:
        """Give what the archive has of mounts, and what podman would make for them."""
        carried: list[Carried] = []
        parts: list[Part] = []
        external = {each.mountpoint for each in manifest.externals}
        for mountpoint, member in self._trees():
            if mountpoint in external:
                name = f"{MOUNTS}/{len(parts) + 1}.tar"
                carried.append(
                    Carried(mountpoint=mountpoint, member=name, type=InodeType.DIRECTORY)
                )
                parts.append(Part(name, partial(self._write_tree, member)))
        held = {each.path: each.size for each in manifest.files}
        for mountpoint, text in self._made().items():
            content = text.encode()
            if mountpoint in external and held.get(mountpoint, len(content)) == len(content):
                name = f"{MOUNTS}/{len(parts) + 1}"
                carried.append(Carried(mountpoint=mountpoint, member=name, type=InodeType.FILE))
                parts.append(Part(name, partial(write_bytes, content)))
        return tuple(carried), parts

    def _trees(self) -> Iterator[tuple[KPath, KPath]]:
        """Give the mountpoints whose content the archive has in a tar."""
        if self._checkpoint.shm is not None:
            yield KPath("/dev/shm"), self._checkpoint.shm  # noqa: S108 -- in the container
        for volume in self._checkpoint.volumes:
            if volume.member is not None:
                yield volume.destination, volume.member

    def _made(self) -> dict[KPath, str]:
        """Give the files that podman makes for a container when it restores it."""
        if self._checkpoint.format is not Format.PODMAN:
            return {}
        name = self._checkpoint.hostname
        return {
            KPath("/etc/hostname"): f"{name}\n",
            KPath("/etc/hosts"): _HOSTS + (f"127.0.1.1 {name}\n" if name else ""),
            KPath("/run/.containerenv"): "",
        }

    def _write_tree(self, member: KPath, file: Output) -> None:
        with TarTree(paths.join(self._archive.directory, member)) as tree:
            self._left_out += write_tar(everything(tree), file).left_out

    def _kept(self) -> Iterator[Part]:
        for name in _KEPT:
            if self._archive.has(name):
                yield Part(f"{FOREIGN}/{name}", partial(write_bytes, self._archive.content(name)))


def _write_layer(stored: Sequence[StoredLayer], file: Output) -> None:
    """Write what the topmost of some layers changes of the others."""
    with opened(stored) as view:
        write_tar(changes(view.layers[0], view.below(), writable=False), file)
