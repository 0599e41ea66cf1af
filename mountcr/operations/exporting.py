# SPDX-License-Identifier: Apache-2.0
"""
Export: a container, or the images of one, into a bundle.

A running container is captured when CRIU has written its images and its tasks are frozen still. If
the bundle cannot be written, CRIU lets them go on, as if nothing had been. Where they are to run
on, and the file system can share extents, the writable layer is cloned while they are frozen, and
the bundle written when they run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from mountcr import __version__, journal, paths
from mountcr import manifest as manifests
from mountcr.bundle.annotations import image_of
from mountcr.bundle.document import Bundle, Carried, to_json
from mountcr.bundle.names import FOREIGN, IMAGES, STANDARD
from mountcr.bundle.writer import (
    Part,
    measure,
    write_parts,
)
from mountcr.compression import Compression, Level
from mountcr.criu.images import ImageSet
from mountcr.criu.rewriting import rewrite
from mountcr.driver import get_driver
from mountcr.errors import MountcrError
from mountcr.kernel.identity import identify
from mountcr.model import Record
from mountcr.observation.storedlayers import base_layer, known_layers
from mountcr.operations import snapshot
from mountcr.operations.dump import dump
from mountcr.operations.engine_records import engine_records
from mountcr.operations.fate import Fate, fate_of
from mountcr.operations.leftovers import recorded
from mountcr.operations.packing import (
    check_output,
    discard,
    put,
    put_image,
    scratch_directory,
    write_bytes,
)
from mountcr.operations.parts import parts_of
from mountcr.paths import KPath, decode, encode
from mountcr.planning.bundling import LayerMode, plan_contents
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mountcr.bundle.writer import Measured, Sink
    from mountcr.engines import Roots
    from mountcr.manifest import Manifest
    from mountcr.model import Container
    from mountcr.planning.bundling import Base, Carrying, Contents, Known
    from mountcr.planning.records import Plan
    from mountcr.rootfs.batches import Progress

    Sign: TypeAlias = Callable[[bytes], bytes]

__all__ = ["EXPORT_SCHEMA", "ExportChoices", "ExportResult", "export_container", "export_images"]

EXPORT_SCHEMA: Final = "mountcr/export/1"


class ExportChoices(Record, frozen=True, kw_only=True):
    """
    What goes into a bundle and how it is packed.

    `output` is a file, `-`, or with a slash at its end a directory; with `oci` it is a directory
    that becomes an OCI image layout. `volumes` are mountpoints whose contents go along.
    """

    output: str
    oci: bool = False
    compression: Compression = Compression.ZSTD
    level: int = 0
    layers: LayerMode = LayerMode.MISSING
    volumes: tuple[KPath, ...] = ()
    all_volumes: bool = False


class ExportSeconds(Record, frozen=True, kw_only=True, omit_defaults=False):
    """How long it took, in seconds; `frozen` is what tasks missed, 0 for an export of images."""

    frozen: float = 0.0
    total: float


class ExportResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    The bundle: `digest` is the SHA-256 of its document in hexadecimal, `bytes` its size on disk.

    `layers` are how many lower layers it has, of so many. `left_out` are sockets. `image` is the
    digest of the manifest where it is an OCI image, `sha256:` and hexadecimal, else empty.
    """

    schema: str = EXPORT_SCHEMA
    output: str
    digest: str
    image: str = ""
    bytes: int
    layers: tuple[int, int]
    mounts: tuple[KPath, ...] = ()
    left_out: tuple[KPath, ...] = ()
    seconds: ExportSeconds


class _Written(Record, frozen=True, kw_only=True):
    """What was written."""

    bundle: Bundle
    digest: str
    image: str = ""
    bytes: int


def export_images(
    images: KPath,
    wanted: ExportChoices,
    *,
    roots: Roots | None = None,
    sign: Sign | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """
    Write a bundle of what was dumped into a directory, which stays as it is.

    Raises NotFoundError or DocumentError for what is no images directory, UsageError, RefusedError
    naming what cannot be exported, MountcrError for what changes meanwhile, OSError; there is no
    bundle then.
    """
    began = time.monotonic()
    manifest = manifests.read(images)
    work = _Export(wanted, roots, sign, progress)
    with recorded("export"):
        contents = work.contents(manifest)
        written = work.write(manifest, contents, images, {})
    return _result(wanted, written, ExportSeconds(total=round(time.monotonic() - began, 4)))


def export_container(
    container: Container,
    choices: Choices,
    wanted: ExportChoices,
    *,
    roots: Roots | None = None,
    sign: Sign | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> ExportResult:
    """
    Dump a running container into a bundle.

    `tell` hears before anything is frozen how long it will be, where that depends on how much was
    written into it. Raises what `dump` raises and what `export_images` does: the tasks go on then,
    and there is no bundle. Without `choices.leave_running` they have ended; what goes wrong after
    that is told only, since the bundle is complete.
    """
    began = time.monotonic()
    ending = None if choices.leave_running else container
    work = _Export(wanted, roots, sign, progress, ending=ending)
    with recorded("export"), scratch_directory(container.id) as scratch:
        choices = msgspec.structs.replace(choices, images=paths.join(scratch, IMAGES))
        capture = _Capture(work, choices, scratch, tell)
        frozen = 0.0
        try:
            frozen = dump(container, choices, fingerprint=None, capture=capture).seconds.frozen
        except BaseException as error:
            if work.discards() or capture.written is None:
                raise
            _say_complete(error, wanted.output, tell)
        written = capture.written or capture.write()
    seconds = ExportSeconds(frozen=frozen, total=round(time.monotonic() - began, 4))
    return _result(wanted, written, seconds)


def _say_complete(error: BaseException, output: str, tell: Callable[[str], None]) -> None:
    """Say what happened when the tasks had ended already; raise only an interrupt again."""
    if not isinstance(error, Exception):
        msg = f"interrupted; the bundle was complete by then: {encode(output)}"
        raise KeyboardInterrupt(msg) from None
    tell(f"note: the container has ended and the bundle is complete, although: {error}")


class _Capture:
    """What happens of an export while a container is dumped."""

    def __init__(
        self, work: _Export, choices: Choices, scratch: KPath, tell: Callable[[str], None]
    ) -> None:
        self._work = work
        self._choices = choices
        self._scratch = scratch
        self._tell = tell
        self._shares = False
        self._taken: tuple[Manifest, Contents, dict[str, bytes]] | None = None
        self.written: _Written | None = None

    def planned(self, manifest: Manifest) -> None:
        """See, before anything is frozen, that all can be exported, and say how long it takes."""
        contents = self._work.contents(manifest)
        if not self._choices.leave_running:
            return
        sources = snapshot.sources_of(contents)
        self._shares = snapshot.can_share(sources, self._scratch)
        if not self._shares:
            names, size, seconds = snapshot.freeze_seconds(sources)
            self._tell(
                f"note: the container will be frozen for about {seconds:.1f} s more than a dump "
                f"takes: {names} names with {size} bytes are read while it is, because this file "
                "system shares no extents"
            )

    def frozen(self, manifest: Manifest, plan: Plan) -> None:
        """Write the bundle, or clone what it is made of; the images are complete."""
        others = rewrite(ImageSet(self._choices.images), plan.rewrites).images
        changed = {name: each.to_bytes() for name, each in others.items()}
        contents = self._work.contents(manifest)
        if self._shares:
            contents = snapshot.take(contents, self._scratch)
        self._taken = manifest, contents, changed
        if not self._shares:
            self.written = self.write()

    def write(self) -> _Written:
        """Write the bundle of what was taken."""
        if self._taken is None:
            msg = "CRIU never told that its images are complete"
            raise MountcrError(msg, hint="update CRIU")
        manifest, contents, changed = self._taken
        return self._work.write(manifest, contents, self._choices.images, changed)


class _Export:
    """One bundle in the making: that of a container whose tasks are `ending` is all that stays."""

    def __init__(
        self,
        wanted: ExportChoices,
        roots: Roots | None,
        sign: Sign | None,
        progress: Progress | None,
        *,
        ending: Container | None = None,
    ) -> None:
        self._wanted = wanted
        self._ending = ending
        self._roots = roots
        self._sign = sign
        self._progress = progress
        self._images: tuple[dict[KPath, Known], Base | None] | None = None
        self._completed = False
        check_output(wanted.output)

    def contents(self, manifest: Manifest) -> Contents:
        """Say what goes in. Raises RefusedError, UsageError."""
        if self._images is None:  # they are asked for before tasks are frozen, and then again
            lowers = manifest.rootfs.origin.lowers if manifest.rootfs else ()
            flat = _is_flat(manifest)
            self._images = (
                known_layers(lowers, self._roots),
                base_layer(manifest.facts.container, self._roots) if flat else None,
            )
        known, base = self._images
        return plan_contents(
            manifest,
            known,
            base=base,
            mode=self._wanted.layers,
            volumes=self._wanted.volumes,
            all_volumes=self._wanted.all_volumes,
        )

    def write(
        self, manifest: Manifest, contents: Contents, images: KPath, changed: dict[str, bytes]
    ) -> _Written:
        """Write the bundle, whole or not at all."""
        left_out: list[KPath] = []
        with contextlib.ExitStack() as held:
            kept = engine_records(manifest.facts, self._roots)
            parts = (
                *(
                    Part(f"{FOREIGN}/{name}", partial(write_bytes, content))
                    for name, content in kept.items()
                ),
                *parts_of(
                    contents, images, changed, left_out=left_out, held=held, progress=self._progress
                ),
            )
            measured = [measure(each) for each in parts]
            return self._write(manifest, contents, measured, left_out)

    def _write(
        self,
        manifest: Manifest,
        contents: Contents,
        measured: Sequence[Measured],
        left_out: Sequence[KPath],
    ) -> _Written:
        bundle = Bundle(
            mountcr=__version__,
            kernel=_kernel(manifest),
            criu=manifest.facts.host.criu.version if manifest.facts.host.criu else "",
            plan=make_plan(manifest.facts, Choices(dumped=manifest.extra, tcp=manifest.tcp)),
            dump=manifest,
            layers=contents.layers,
            mounts=tuple(map(_looked_at, contents.mounts)),
            left_out=tuple(dict.fromkeys(left_out)),
            members=tuple(each.digested for each in measured),
        )
        text = to_json(bundle)
        signature = self._sign(text) if self._sign else None
        write = partial(write_parts, text, signature, measured)
        return self._put(bundle, hashlib.sha256(text).hexdigest(), write)

    def discards(self) -> bool:
        """Remove a bundle that is complete if its container goes on; tell whether it does."""
        ending = self._ending
        if ending is not None and fate_of(ending.pid, ending.start_time) is Fate.ENDED:
            return False
        if self._completed:
            discard(self._wanted.output)
        return True

    def _put(self, bundle: Bundle, digest: str, write: Callable[[Sink], None]) -> _Written:
        # it is all that is left of tasks that end, so then it has to be on the disk
        output, durable = self._wanted.output, self._ending is not None
        level = Level(self._wanted.compression, self._wanted.level)
        if self._wanted.oci:
            image = image_of(bundle, os.uname().machine, digest=digest)
            made = put_image(output, level, image, write, durable=durable, whole=self._note)
            written = _Written(bundle=bundle, digest=digest, image=made.digest, bytes=made.bytes)
        else:
            size = put(output, level, write, durable=durable, whole=self._note)
            written = _Written(bundle=bundle, digest=digest, bytes=size)
        self._completed = self._wanted.oci or output != STANDARD
        return written

    def _note(self, unnamed: KPath, into: KPath) -> None:
        """Note whose end the bundle that gets its name now tells of."""
        if self._ending:
            dev, ino, handle = identify(decode(unnamed))
            journal.note(
                journal.Exporting(
                    path=into,
                    dev=dev,
                    ino=ino,
                    handle=handle,
                    pid=self._ending.pid,
                    start_time=self._ending.start_time,
                )
            )


def _is_flat(manifest: Manifest) -> bool:
    """Tell of a driver that copies: the stack is one directory with everything."""
    stack = manifest.rootfs.origin if manifest.rootfs else None
    return stack is not None and get_driver(stack.driver).flat


def _kernel(manifest: Manifest) -> str:
    capabilities = manifest.facts.host.capabilities
    return capabilities.kernel if capabilities else ""


def _looked_at(carrying: Carrying) -> Carried:
    """Give what is carried with the mode and the owner that it has here."""
    found = os.stat(decode(carrying.source))
    return msgspec.structs.replace(
        carrying.carried, mode=found.st_mode & 0o7777, uid=found.st_uid, gid=found.st_gid
    )


def _result(wanted: ExportChoices, written: _Written, seconds: ExportSeconds) -> ExportResult:
    bundle = written.bundle
    return ExportResult(
        output=wanted.output,
        digest=written.digest,
        image=written.image,
        bytes=written.bytes,
        layers=(sum(bool(each.member) for each in bundle.layers), len(bundle.layers)),
        mounts=tuple(each.mountpoint for each in bundle.mounts),
        left_out=bundle.left_out,
        seconds=seconds,
    )
