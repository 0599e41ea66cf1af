# SPDX-License-Identifier: Apache-2.0
"""
Dump: plan, CRIU, manifest, fingerprint.

The plan is made twice: before anything is frozen, to say what would be refused, and from what
the frozen tasks show, because until then they may have mounted and opened more.

The fingerprint of the root file system is taken when the tasks have ended. Where they run on, it
is taken while they are frozen, since they would change the files: they then miss 45 µs more for
each name in the writable layer, and a third of a second for each GiB in it (two cores of 2026, in
the page cache).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import select
import time
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from mountcr import journal, paths
from mountcr import manifest as manifests
from mountcr.criu import binary
from mountcr.criu.images import ImageSet
from mountcr.criu.session import Notification, Session
from mountcr.driver import get_driver
from mountcr.errors import GoneError, MountcrError, PrivilegeError, UsageError
from mountcr.graph.tree import MountTree
from mountcr.interrupts import hold_back, let_through
from mountcr.kernel.volatile import sync_upper
from mountcr.manifest import Manifest
from mountcr.model import FileKind, Record, Unseen
from mountcr.observation import observe, observe_host
from mountcr.observation.named import NamedFiles
from mountcr.operations.fate import Fate, fate_of
from mountcr.operations.leftovers import recorded as operation_recorded
from mountcr.operations.refusal import refuse
from mountcr.operations.repairs import as_put_right, put_right
from mountcr.paths import KPath
from mountcr.planning.planner import make_plan
from mountcr.planning.volatile import marker_of
from mountcr.rootfs import fingerprint as fingerprints
from mountcr.rootfs.fingerprint import Extent

if TYPE_CHECKING:
    from mountcr.model import Container, Facts
    from mountcr.network import Network
    from mountcr.planning.choices import Choices
    from mountcr.planning.files import NamedFile
    from mountcr.planning.records import Plan
    from mountcr.rootfs.fingerprint import Fingerprint
    from mountcr.stack import Stack

__all__ = ["DUMP_SCHEMA", "Capture", "DumpResult", "DumpSeconds", "dump"]

DUMP_SCHEMA = "mountcr/dump/1"

_DYING: Final = 10.0
"""Seconds that a killed task may take to give its memory back."""


class DumpSeconds(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    How long it took, in seconds; `frozen` is what the tasks missed.

    `fingerprint` is in `total`, and in `frozen` too where the tasks run on.
    """

    plan: float
    frozen: float
    fingerprint: float = 0.0
    total: float


class DumpResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    Where the images, the manifest and the fingerprint are.

    There is no fingerprint where none was asked for or nobody knows the layers, nor where they
    could not be read: `unseen` says why.
    """

    schema: str = DUMP_SCHEMA
    images: KPath
    manifest: KPath
    fingerprint: KPath | None = None
    seconds: DumpSeconds
    unseen: tuple[Unseen, ...] = ()


class Capture(Protocol):
    """Who takes a dump further than to its images, while the tasks are frozen still."""

    def planned(self, manifest: Manifest) -> None:
        """Hear, before anything is frozen, what will be dumped; raising ends the dump."""
        ...

    def frozen(self, manifest: Manifest, plan: Plan) -> None:
        """Take what the images do not hold; they are complete. Raising lets the tasks go on."""
        ...


class _Dump:
    """One dump: the hooks share what they learn."""

    def __init__(
        self,
        container: Container,
        choices: Choices,
        facts: Facts,
        extent: Extent | None,
        capture: Capture | None,
    ) -> None:
        self.capture = capture
        self.container = container
        self.choices = choices
        self.facts = facts
        self.extent = extent
        self.fingerprint: Fingerprint | None = None
        self.fingerprinted = 0.0
        self.unseen: tuple[Unseen, ...] = ()
        self.plan = make_plan(facts, choices)
        self.files = NamedFiles()
        self.named: tuple[NamedFile, ...] | None = None
        self.frozen_at = 0.0
        self.completing: frozenset[int] | None = None

    def freeze_begins(self, _stage: Notification) -> None:
        self.frozen_at = time.monotonic()

    def look_again(self, _stage: Notification) -> list[str]:
        """
        Give the externals that appeared since the plan; the tasks are frozen now.

        While they are, nothing is planned again that would come out the same.
        """
        before, self.facts = self.facts, observe(self.container, host=self.facts.host)
        if _asks_the_same(before, self.facts):
            return []
        late = make_plan(self.facts, self.choices)
        refuse(late, "the dump")
        known = set(self.plan.criu.dump_options.externals)
        self.plan = late
        return [each for each in late.criu.dump_options.externals if each not in known]

    def hold_mounts(self, _stage: Notification) -> None:
        """
        Hold the mounts; the images are complete and the tasks still frozen.

        Tasks that run on would change the files, so then they are read at once. Others end next,
        and then the dump has to be completed: from here on it cannot be interrupted any more, and
        a manifest is there, without the files, in case that this process is killed.
        """
        self.files.hold(self.container.pid)
        if self.choices.leave_running:
            self.read_files()
            self.take_fingerprint()
        if self.capture is not None:
            self.capture.frozen(self.manifest(self.read_files()), self.plan)
        if not self.choices.leave_running:
            self.completing = hold_back()
            manifests.write(self.manifest(()), self.choices.images, durable=False)

    def close(self) -> None:
        """Let go of the mounts; be interrupted now if somebody has tried to meanwhile."""
        self.files.close()
        if self.completing is not None:
            try:
                let_through(self.completing)
            except KeyboardInterrupt:
                msg = f"interrupted; the dump was complete by then: {self.choices.images}"
                raise KeyboardInterrupt(msg) from None

    def read_files(self) -> tuple[NamedFile, ...]:
        """Read the files that the images name, once."""
        if self.named is None:
            tree = MountTree(self.facts.namespaces[0].mounts)
            held = ImageSet(self.choices.images).regular_files()
            held = as_put_right(held, self.plan.rewrites)
            self.named = self.files.read(held, tree, self.plan.externals)
        return self.named

    def settle(self) -> None:
        """Sync the upper of a volatile overlay, when the tasks have ended, and say so."""
        stack = self.plan.rootfs.origin if self.plan.rootfs else None
        marker = marker_of(stack) if stack and stack.volatile else None
        if stack is None or stack.upper is None or marker is None:
            return
        with contextlib.suppress(OSError):  # then its layer is whole until the next boot only
            self.facts = msgspec.structs.replace(self.facts, synced=sync_upper(stack.upper, marker))
            manifests.write(self.manifest(self.read_files()), self.choices.images)

    def take_fingerprint(self) -> None:
        """Take the fingerprint, once; what cannot be read is no reason to lose a dump."""
        if self.extent is None or self.fingerprinted or self.plan.rootfs is None:
            return
        began = time.monotonic()
        try:
            self.fingerprint = _fingerprint(self.plan.rootfs.origin, self.extent)
        except (OSError, MountcrError) as error:
            self.unseen = (Unseen(what="fingerprint", why=str(error)),)
        self.fingerprinted = time.monotonic() - began

    def manifest(self, files: tuple[NamedFile, ...]) -> Manifest:
        """Give the manifest with what was read of files."""
        options = self.plan.criu.dump_options
        return Manifest(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            facts=self.facts,
            rootfs=self.plan.rootfs,
            externals=self.plan.externals,
            inherited=self.plan.inherited,
            cgroups=options.manage_cgroups,
            files=files,
            losses=self.plan.losses,
            standard_streams=_standard_streams(self.facts),
            tcp=self.choices.tcp,
            extra=self.choices.extra,
        )


def _fingerprint(stack: Stack, extent: Extent) -> Fingerprint:
    """
    Take the fingerprint of a stack.

    Of the one directory of a plain root file system, which is an image as well, contents are read
    only if all of them are asked for.
    """
    layers = get_driver(stack.driver).layers(stack)
    contents = extent is Extent.ALL or len(layers) > 1
    return fingerprints.take(layers, stack.data, extent=extent, contents=contents)


def _asks_the_same(before: Facts, after: Facts) -> bool:
    """Tell whether two facts ask the same of CRIU: mounts and the files that tasks hold."""
    if before.namespaces != after.namespaces or before.unseen != after.unseen:
        return False
    return _network(before) == _network(after) and _held(before) == _held(after)


def _network(facts: Facts) -> tuple[Network | None, bool]:
    """Give what is recorded of the network, and whether there are connections."""
    if facts.network is None:
        return None, False
    connected = bool(facts.network.connections)
    return msgspec.structs.replace(facts.network, sockets=()), connected


def _held(facts: Facts) -> set[tuple[int, FileKind, KPath, int, bool, bool]]:
    return {
        (task.pid, file.kind, file.shown, file.mnt_id, file.locked, file.missing)
        for task in facts.tasks
        for file in task.files
    }


def _standard_streams(facts: Facts) -> tuple[str, ...]:
    """
    Give the links of descriptors 0 to 2 of the root task, as runc records them.

    That is as text: a byte that is not UTF-8 becomes a replacement character.
    """
    links = {
        file.fd: paths.decode(file.shown).decode("utf-8", "replace")
        for file in facts.tasks[0].files
        if file.kind is FileKind.FD
    }
    return tuple(links.get(number, "/dev/null") for number in range(3))


def _prepare(images: KPath, container: Container, *, leave_running: bool) -> frozenset[bytes]:
    """Make the images directory unless it is there and give what is in it: no other dump."""
    directory = paths.decode(images)
    try:
        journal.make_directory(directory, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"the images directory {images} cannot be made: {error.strerror}"
        raise UsageError(msg, hint="its parent must be there and writable") from error
    if not os.path.isdir(directory):
        raise UsageError(f"{images} is not a directory")
    if os.path.exists(os.path.join(directory, b"inventory.img")):
        msg = f"{images} holds a dump already"
        raise UsageError(msg, hint="choose another directory, or remove this one")
    there = frozenset(os.listdir(directory))
    journal.note(
        journal.Images(
            path=images,
            pid=container.pid,
            start_time=container.start_time,
            kept=tuple(map(paths.encode, there)),
            leave_running=leave_running,
        )
    )
    return there


def _remove_images(images: KPath, kept: frozenset[bytes]) -> None:
    """Remove what a dump that failed has written, so that nobody takes it for one; logs stay."""
    directory = paths.decode(images)
    for name in os.listdir(directory):
        ours = name in {manifests.MANIFEST.encode(), manifests.DESCRIPTORS.encode()}
        if (ours or name.endswith(b".img")) and name not in kept:
            os.unlink(os.path.join(directory, name))


def _perform(work: _Dump, command: tuple[str, ...], there: frozenset[bytes]) -> None:
    """Have CRIU dump; when that fails and the tasks go on, leave no half of a dump behind."""
    hooks = {
        "pre-dump": work.freeze_begins,
        "query-ext-files": work.look_again,
        "post-dump": work.hold_mounts,
    }
    try:
        with binary.blamed(), Session(command, private=True) as session:
            session.dump(work.plan.criu.dump_options, hooks)
    except BaseException:
        if work.choices.leave_running or _goes_on(work.container):
            _remove_images(work.choices.images, there)
        else:
            # interrupted after CRIU had finished: the images are all that is left of the tasks
            manifests.write(work.manifest(work.read_files()), work.choices.images)
        raise


def _goes_on(container: Container) -> bool:
    return fate_of(container.pid, container.start_time) is not Fate.ENDED


def _await_end(facts: Facts) -> None:
    """Wait, not for ever, until the killed tasks are gone, and with them what they had mounted."""
    for task in facts.tasks:
        try:
            handle = os.pidfd_open(task.pid)
        except ProcessLookupError:
            continue
        try:
            # readable when the process ends, pidfd_open(2)
            select.select([handle], [], [], _DYING)
        finally:
            os.close(handle)


def _record_fingerprint(work: _Dump) -> None:
    """Write the fingerprint, as the last thing: the dump is complete without it."""
    try:
        work.take_fingerprint()
        if work.fingerprint:
            fingerprints.write(work.fingerprint, work.choices.images)
    except KeyboardInterrupt:
        msg = f"interrupted; the dump is complete, without a fingerprint: {work.choices.images}"
        raise KeyboardInterrupt(msg) from None


def dump(
    container: Container,
    choices: Choices,
    *,
    fingerprint: Extent | None = Extent.UPPER,
    capture: Capture | None = None,
) -> DumpResult:
    """
    Dump a running container into `choices.images`, which is made if it is missing.

    `fingerprint` is how much of the root file system is recorded for `verify`; `capture` takes
    what the images do not hold.

    Raises PrivilegeError when not root, CapabilityError when CRIU does not work here,
    RefusedError when the plan is refused (nothing was touched), CriuError when CRIU failed: the
    tasks go on, and the directory keeps CRIU's log. Without `leave_running` the tasks have ended.
    """
    started = time.monotonic()
    if os.geteuid() != 0:
        msg = "dumping needs root: CRIU traces the tasks and reads their memory"
        raise PrivilegeError(msg, hint="run as root; `mountcr plan` works without as far as it can")
    if not container.pid:
        msg = f"container {container.id} does not run"
        raise GoneError(msg, hint="start it first; `mountcr rebuild` works without")
    criu = binary.require()
    facts = observe(container, host=observe_host(criu=criu))
    work = _Dump(container, choices, facts, fingerprint, capture)
    refuse(work.plan, "the dump")
    if capture is not None:
        capture.planned(work.manifest(()))
    with operation_recorded("dump", undo=False):
        there = _prepare(choices.images, container, leave_running=choices.leave_running)
        planned = time.monotonic()
        try:
            _perform(work, criu.command, there)
            thawed = time.monotonic()
            put_right(choices.images, work.plan.rewrites)
            manifests.write(work.manifest(work.read_files()), choices.images)
            if not choices.leave_running:
                _await_end(work.facts)
                work.settle()
        finally:
            work.close()
        _record_fingerprint(work)
        images = choices.images
        recorded = paths.join(images, fingerprints.FINGERPRINT) if work.fingerprint else None
    return DumpResult(
        images=images,
        manifest=paths.join(images, manifests.MANIFEST),
        fingerprint=recorded,
        unseen=work.unseen,
        seconds=DumpSeconds(
            plan=round(planned - started, 4),
            frozen=round(thawed - work.frozen_at, 4),
            fingerprint=round(work.fingerprinted, 4),
            total=round(time.monotonic() - started, 4),
        ),
    )
