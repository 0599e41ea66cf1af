# SPDX-License-Identifier: Apache-2.0
"""
Import: a bundle becomes images and a root file system on this host, ready to be restored.

Everything is made in one directory that gets its name when it is whole; on any failure nothing is
there. Members are compared with the digests of the document before anything of them is used.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from mountcr import manifest as manifests
from mountcr import paths
from mountcr.bundle.members import save, shown
from mountcr.bundle.names import FOREIGN, IMAGES, LAYERS, MOUNTS, UPPER
from mountcr.bundle.reader import opened
from mountcr.driver import get_driver
from mountcr.errors import MountcrError, PrivilegeError, RefusedError, UsageError
from mountcr.execute import applied
from mountcr.journal import make_directories
from mountcr.kernel.live import LiveKernel
from mountcr.kernel.programs import written_dialect
from mountcr.kernel.removal import remove_tree
from mountcr.model import Imported, InodeType, Record
from mountcr.observation import observe_host
from mountcr.observation.stats import device_of
from mountcr.observation.storedlayers import found_layers, surveyed
from mountcr.operations.leftovers import recorded
from mountcr.operations.repairs import put_right
from mountcr.paths import KPath, decode
from mountcr.planning.choices import CACHE, IMPORTS, RESTORE_ROOT
from mountcr.planning.placement import choose_layers, place, rebased
from mountcr.planning.planner import make_plan
from mountcr.planning.renaming import groups_of, rename
from mountcr.planning.rootfs import rootfs_of
from mountcr.planning.steps import Copy
from mountcr.rootfs.partial import Partial
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mountcr.bundle.document import Bundle
    from mountcr.bundle.members import Content
    from mountcr.bundle.reader import Reader
    from mountcr.engines import Roots
    from mountcr.manifest import Manifest
    from mountcr.model import Facts
    from mountcr.planning.choices import Choices
    from mountcr.planning.placement import LayerAt, Missing, Placement
    from mountcr.planning.records import Plan
    from mountcr.planning.steps import Step
    from mountcr.rootfs.batches import Progress
    from mountcr.rootfs.tar import Findings

    Check: TypeAlias = Callable[[Reader], None]

__all__ = [
    "IMPORT_SCHEMA",
    "ImportChoices",
    "ImportResult",
    "import_bundle",
    "plan_bundle",
]

IMPORT_SCHEMA: Final = "mountcr/import/1"

_UNPACKED: Final = "unpacked"
"""The directory in that of a container for members that are read from there and removed then."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ImportChoices(Record, frozen=True, kw_only=True):
    """
    How a bundle is put on this host.

    `id` is the container's new id, empty for its own; `driver` the storage driver, empty for that
    of the bundle; `at` the new directory, None for the usual one. With `root_only` nothing but the
    root file system is unpacked, so that there is nothing to restore.
    """

    id: str = ""
    driver: str = ""
    at: KPath | None = None
    root_only: bool = False


class PlacedLayer(Record, frozen=True, kw_only=True):
    """A lower layer: its DiffID, where it is read from, and whether it came with the bundle."""

    diff_id: str
    path: KPath
    bundled: bool


class ImportResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    What was imported: `images` is the directory for `restore`, in `at`, which holds all of it.

    `digest` is the SHA-256 of the document of the bundle, `bytes` what was read of members.
    `stripped` are the extended attributes of files that mean something to this host, and were left
    out, by name how often. `notes` are sentences on that and on what the writable layer lets do
    more than who runs it.
    """

    schema: str = IMPORT_SCHEMA
    container: str
    at: KPath
    images: KPath
    driver: str
    upper: KPath | None
    digest: str
    bytes: int
    layers: tuple[PlacedLayer, ...]
    stripped: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    seconds: float


def import_bundle(
    path: str,
    wanted: ImportChoices,
    *,
    roots: Roots | None = None,
    check: Check = lambda _reader: None,
    ready: Callable[[Facts], None] = lambda _facts: None,
    progress: Progress | None = None,
) -> ImportResult:
    """
    Put a bundle, a file, a directory or `-`, on this host.

    `check` sees it before anything is made, and raises where its signature is not as it must be;
    `ready` sees the facts as they will be here.

    Raises NotFoundError, DocumentError for what is no bundle, RefusedError for an archive that
    breaks a rule and for layers that nobody has, each named, VerificationError for a member that is
    not what the document says, UsageError, PrivilegeError, OSError. Nothing is left then but layers
    in the cache, which are whole.
    """
    began = time.monotonic()
    if os.geteuid() != 0:
        msg = "importing needs root: files of the container have other owners"
        raise PrivilegeError(msg, hint="run as root; `mountcr inspect` works without")
    with opened(path) as reader:
        check(reader)
        work = _Import(reader, wanted, roots, progress)
        ready(work.facts())
        with recorded("import"):
            work.run()
        return work.result(round(time.monotonic() - began, 4))


def plan_bundle(
    path: str,
    wanted: ImportChoices,
    choices: Choices,
    *,
    roots: Roots | None = None,
    check: Check = lambda _reader: None,
    at: KPath = RESTORE_ROOT,
) -> Plan:
    """
    Plan to restore a bundle on this host, which is looked at but not changed; the root is at `at`.

    The steps begin with those that write layers. What only the root file system itself can tell,
    when it is there, is not in it. Raises as `import_bundle` does.
    """
    with opened(path) as reader:
        check(reader)
        work = _Import(reader, wanted, roots, None)
        plan = make_plan(work.facts(), choices, at=at)
        if plan.rootfs is None:
            return plan
        steps = (*work.steps(), *plan.rootfs.steps)
        return msgspec.structs.replace(
            plan, rootfs=msgspec.structs.replace(plan.rootfs, steps=steps)
        )


class _Import:
    """One import."""

    def __init__(
        self,
        reader: Reader,
        wanted: ImportChoices,
        roots: Roots | None,
        progress: Progress | None,
    ) -> None:
        self._reader = reader
        self._progress = progress
        self._size = 0
        self._archives: dict[KPath, Findings] = {}
        self._root_only = wanted.root_only
        bundle = self._bundle = reader.bundle
        self._id = wanted.id or bundle.dump.facts.container.id
        if _ID.fullmatch(self._id) is None or self._id.endswith("."):
            msg = f"{shown(self._id)} is no id of a container (rule: names)"
            raise RefusedError(msg, hint="give it another one: --id NEW")
        self._at = wanted.at or paths.join(IMPORTS, self._id)
        if os.path.lexists(decode(self._at)):
            msg = f"{self._at} is there already"
            raise UsageError(msg, hint="give the container another id: --id NEW, or remove it")
        self._unpacked = paths.join(_partial(self._at), _UNPACKED)
        self._layers = self._choose(wanted, roots)
        self._placement = self._place()

    def _choose(self, wanted: ImportChoices, roots: Roots | None) -> tuple[LayerAt, ...]:
        rootfs = self._bundle.dump.rootfs
        self._driver = wanted.driver or (rootfs.driver if rootfs else "vfs")
        driver = get_driver(self._driver)
        self._dialect = written_dialect(self._driver)
        marks = "" if driver.flat else self._dialect or driver.dialect
        found = found_layers(self._bundle, roots, marks)
        layers, missing = choose_layers(self._bundle, found, self._unpacked)
        if missing:
            raise _missing(self._bundle, missing)
        return surveyed(layers, marks)

    def run(self) -> None:
        """Make everything."""
        make_directories(os.path.dirname(decode(self._at)), 0o700)
        with Partial(self._at) as made:
            self._unpack(made.fd)
            steps = tuple(rebased(self.steps(), self._at, made.path))
            kernel = LiveKernel(progress=self._progress)
            with applied(steps, kernel):
                self._archives = kernel.archives
                remove_tree(self._unpacked)
                if not self._root_only:
                    self._finish_images(paths.join(made.path, IMAGES))
                made.complete()

    def _finish_images(self, images: KPath) -> None:
        """Make the images those of a container that lies here."""
        put_right(images, groups_of(self._bundle.dump.facts, self._id))
        manifests.write(self._manifest(), images, durable=False)

    def _place(self) -> Placement:
        upper = paths.join(self._at, "upper")
        places = (CACHE, upper, *(each.stored.path for each in self._layers))
        return place(
            self._bundle,
            self._layers,
            driver=self._driver,
            dialect=self._dialect,
            upper=upper,
            unpacked=self._unpacked,
            overlay=observe_host().overlay,
            devices={each: device_of(each) for each in places},
        )

    def steps(self) -> Iterator[Step]:
        """Give the steps that write the layers, and the mounts that are directories."""
        yield from self._placement.steps
        for each in () if self._root_only else self._bundle.mounts:
            if each.type is InodeType.DIRECTORY:
                stored = StoredLayer(path=paths.join(self._unpacked, each.member), dialect="oci")
                into = self._source(each.member)
                because = f"it lay at {each.mountpoint}"
                yield Copy(layers=(stored,), into=into, because=because)

    def _source(self, member: str) -> KPath:
        return paths.join(self._at, member.removesuffix(".tar"))

    # --- Members ----------------------------------------------------------------------------------

    def _unpack(self, at: int) -> None:
        """Write the members that are needed below a directory, each where it is looked for."""
        wanted = self._wanted()
        for name in (IMAGES, MOUNTS, FOREIGN, _UNPACKED):
            os.mkdir(name, 0o700, dir_fd=at)
        for name in (MOUNTS, LAYERS):
            os.mkdir(f"{_UNPACKED}/{name}", 0o700, dir_fd=at)
        for member, content in self._reader.members():
            of_root = member.name.startswith(f"{LAYERS}/")
            if member.name in wanted if of_root else not self._root_only:
                self._write(at, self._where(member.name), content)
        for each in () if self._root_only else self._bundle.mounts:
            if each.type is not InodeType.DIRECTORY:
                _finish(at, each.member, each.uid, each.gid, each.mode)

    def _where(self, name: str) -> str:
        tar = name.endswith(".tar") and name.startswith((f"{MOUNTS}/", f"{LAYERS}/"))
        return f"{_UNPACKED}/{name}" if tar else name

    def _wanted(self) -> set[str]:
        """Give the layers that are read from the bundle."""
        stored = {each.stored.path for each in self._layers}
        members = {each.member for each in self._bundle.layers} - {""}
        wanted = {each for each in members if paths.join(self._unpacked, each) in stored}
        return wanted | {UPPER}

    def _write(self, at: int, name: str, content: Content) -> None:
        save(content, os.open(name, _WRITE, 0o600, dir_fd=at), self._told)

    def _told(self, count: int) -> None:
        self._size += count
        if self._progress is not None:
            self._progress.add(0, count)

    # --- What is written down ---------------------------------------------------------------------

    def _manifest(self) -> Manifest:
        """Give the manifest of the dump as it is on this host."""
        dump, stack = self._bundle.dump, self._placement.stack
        rootfs = dump.rootfs and rootfs_of(stack, origin=stack)
        return msgspec.structs.replace(dump, facts=self.facts(), rootfs=rootfs)

    def facts(self) -> Facts:
        """Give the facts of the dump, of a container that lies here."""
        imported = Imported(
            at=self._at,
            stack=self._placement.stack,
            sources={each.mountpoint: self._source(each.member) for each in self._bundle.mounts},
            digest=self._reader.digest,
        )
        return msgspec.structs.replace(rename(self._bundle.dump.facts, self._id), imported=imported)

    def result(self, seconds: float) -> ImportResult:
        """Say what was made."""
        stack = self._placement.stack
        bundled = [paths.is_beneath(each.stored.path, self._unpacked) for each in self._layers]
        return ImportResult(
            container=self._id,
            at=self._at,
            images=paths.join(self._at, IMAGES),
            driver=stack.driver,
            upper=stack.upper,
            digest=self._reader.digest,
            bytes=self._size,
            layers=tuple(
                PlacedLayer(diff_id=layer.diff_id, path=path, bundled=is_bundled)
                for layer, path, is_bundled in zip(
                    self._bundle.layers, stack.lowers, bundled, strict=False
                )
            ),
            stripped=self._stripped(),
            notes=tuple(self._notes()),
            seconds=seconds,
        )

    def _stripped(self) -> dict[str, int]:
        """Count what was left out of all archives, by name."""
        total: Counter[str] = Counter()
        for each in self._archives.values():
            total.update(each.stripped)
        return dict(sorted(total.items()))

    def _notes(self) -> Iterator[str]:
        for name, count in self._stripped().items():
            yield f"{shown(name)} was left out of {count} file(s): it means something to this host"
        upper = self._archives.get(paths.join(self._unpacked, UPPER))
        for what, found in sorted(upper.privileged.items()) if upper else ():
            yield f"the writable layer has {len(found)} file(s) with {what}, such as {found[0]}"


def _partial(at: KPath) -> KPath:
    """Give the name that a directory has while it is made."""
    return Partial(at).path


def _finish(at: int, member: str, uid: int, gid: int, mode: int) -> None:
    """Give a file of a mount its owner and its mode, without what would change who runs it."""
    fd = os.open(member, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode & 0o777)
    finally:
        os.close(fd)


def _missing(bundle: Bundle, missing: Sequence[Missing]) -> MountcrError:
    count = len(bundle.layers)
    lines = [
        f"layer {number} of {count}, {layer.diff_id or 'which is of no image'}"
        for number, layer in missing
    ]
    msg = f"no store of this host has, and the bundle has not: {'; '.join(lines)}"
    image = bundle.dump.facts.container.image
    pull = f"pull {image} here" if image else "pull the image here"
    return RefusedError(msg, hint=f"{pull}, or export with --layers all")
