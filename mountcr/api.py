# SPDX-License-Identifier: Apache-2.0
"""
mountcr as a library: containers, find, observe, files, plan, rebuild, dump, restore, verify, …

Paths are those of the caller, `str` or `bytes` or anything with `__fspath__`; records hold them
in mountinfo spelling (`mountcr.paths`). Every error is a `MountcrError`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from mountcr import engines, observation
from mountcr.bundle.names import is_archive
from mountcr.bundle.reader import is_bundle
from mountcr.compression import parse_level
from mountcr.model import Container
from mountcr.operations import convert as converting
from mountcr.operations import dump as dumping
from mountcr.operations import exporting, importing
from mountcr.operations import rebuild as rebuilding
from mountcr.operations import restore as restoring
from mountcr.operations import verify as verifying
from mountcr.operations.foreign_import import as_bundle
from mountcr.operations.foreign_verify import verify_foreign
from mountcr.operations.restore_bundle import restore_bundle
from mountcr.paths import KPath, encode
from mountcr.planning.bundling import LayerMode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.rootfs.fingerprint import Extent

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from mountcr.model import Facts
    from mountcr.operations.convert import ConvertResult
    from mountcr.operations.dump import DumpResult
    from mountcr.operations.exporting import ExportResult
    from mountcr.operations.importing import ImportResult
    from mountcr.operations.restore import RestoreResult
    from mountcr.operations.verify import VerifyResult
    from mountcr.planning.records import Plan
    from mountcr.resolution.files import ResolvedFile

__all__ = [
    "AnyPath",
    "containers",
    "convert",
    "dump",
    "export",
    "files",
    "find",
    "import_bundle",
    "observe",
    "plan",
    "rebuild",
    "restore",
    "verify",
]

AnyPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"


def _absolute(path: AnyPath) -> KPath:
    return encode(os.path.abspath(os.fsencode(path)))


def find(
    reference: str, *, runtime_roots: Iterable[str] = (), roots: engines.Roots | None = None
) -> Container:
    """
    Find a container by id, unique prefix, name, `engine:ref`, pid, or the path of an OCI bundle.

    `runtime_roots` are looked in before the usual ones; `roots` say all of where engines look
    (`mountcr.engines.Roots.of_host`). No daemon is asked. What could not be read of the container
    is in its `damages`. Raises NotFoundError (with names like it), AmbiguousError (with all
    candidates), UsageError.
    """
    return engines.find(reference, roots=roots or engines.Roots.of_host(runtime_roots))


def containers(*, roots: engines.Roots | None = None) -> list[Container]:
    """Give every container that an engine of this host knows, running or not; none is asked."""
    return engines.list_containers(roots)


def observe(container: Container, *, thorough: bool = False) -> Facts:
    """
    Observe a container and this host; nothing is changed.

    With `thorough` every file is looked up in all layers, as `files` needs it to tell the state of
    each; without, only files that the kernel shows otherwise than they are. Raises GoneError when
    it has ended or its pid was reused, PrivilegeError when its mount table may not be read. What
    else may not be seen is in `facts.unseen`.
    """
    return observation.observe(container, thorough=thorough)


def files(facts: Facts) -> tuple[ResolvedFile, ...]:
    """
    Say of each file that a task holds which path it has and what of its union it is.

    Pure: no file is opened. What cannot be known is `unresolved`, and says why.
    """
    from mountcr.resolution.files import resolve

    return resolve(facts)


def plan(facts: Facts, choices: Choices | None = None) -> Plan:
    """Plan a dump and a restore. Pure: no file is opened, nothing is changed. Never refuses."""
    return make_plan(facts, choices)


@contextlib.contextmanager
def rebuild(plan: Plan, at: AnyPath) -> Generator[KPath]:
    """
    Mount the root file system of a plan at a directory of this host for a block of code.

    It stays mounted when the block ends well, and is unmounted when it fails. The directory is
    made if it is missing. Raises RefusedError, PrivilegeError, StepError (undone), LeftBehindError
    (names what is left). No descriptor stays open.
    """
    target = _absolute(at)
    with rebuilding.rebuilt(rebuilding.plan_rebuild(plan, target), target):
        yield target


def dump(
    container: Container,
    images: AnyPath,
    choices: Choices | None = None,
    *,
    fingerprint: str = "upper",
) -> DumpResult:
    """
    Dump a running container into a directory, which is made if it is missing.

    `fingerprint` is what is recorded of the root for `verify`: `none`, `upper` (the writable layer,
    and which directories the others are) or `all` (the contents of every layer).
    The tasks have ended afterwards, unless `choices.leave_running`. On any error they go on, and
    the directory keeps CRIU's log. Raises PrivilegeError, CapabilityError, RefusedError (nothing
    was touched), GoneError, CriuError.
    """
    choices = msgspec.structs.replace(choices or Choices(), images=_absolute(images))
    extent = None if fingerprint == "none" else Extent(fingerprint)
    return dumping.dump(container, choices, fingerprint=extent)


def restore(
    images: AnyPath,
    choices: Choices | None = None,
    *,
    stdio: str = "null",
    via: str = "criu",
    container_id: str = "",
) -> RestoreResult:
    """
    Restore what was dumped into a directory, or an archive, which is imported as `container_id`.

    That is a bundle, or a checkpoint of podman, CRI-O or containerd.

    `via` says who does it, `criu`, the container's own `runtime` or its `engine`; `stdio` what
    becomes of standard streams that led to a runtime: `null`, `inherit` or the path of a file.
    Raises NotFoundError or DocumentError for what is no images directory, UsageError, RefusedError,
    VerificationError, PrivilegeError, CapabilityError, CriuError, StepError; on error nothing runs
    and nothing is mounted. Differences that the plan announced are in the
    result.
    """
    choices = choices or Choices()
    if is_archive(os.fsdecode(images)):
        wanted = importing.ImportChoices(id=container_id, driver=choices.driver or "")
        choices = msgspec.structs.replace(choices, driver=None)
        with as_bundle(os.fsdecode(images)) as bundle:
            _, restored = restore_bundle(bundle, wanted, choices, stdio=stdio, via=via)
        return restored
    return restoring.restore(_absolute(images), choices, stdio=stdio, via=via)


def verify(images: AnyPath, *, quick: bool = False) -> VerifyResult:
    """
    Compare what lies on this host with what was dumped into a directory; nothing is changed.

    Of a bundle, its members are compared with its document; of a checkpoint of another tool it is
    said what is damaged, and what it lacks of a container that is on this host. `quick` compares no
    contents of layers. The differences are in the result. Raises NotFoundError or DocumentError for
    what is none of these, RefusedError for an archive that breaks a rule, PrivilegeError, OSError.
    """
    if is_archive(os.fsdecode(images)):
        if not is_bundle(os.fsdecode(images)):
            return verify_foreign(os.fsdecode(images), quick=quick)
        return verifying.verify_bundle(os.fsdecode(images), quick=quick)
    return verifying.verify(_absolute(images), quick=quick)


def export(
    container: Container | AnyPath,
    output: AnyPath,
    choices: Choices | None = None,
    *,
    layers: str = "missing",
    volumes: Iterable[AnyPath] = (),
    compress: str = "zstd",
    oci: bool = False,
    roots: engines.Roots | None = None,
) -> ExportResult:
    """
    Write a bundle of a running container, or of what was dumped into a directory.

    `layers` are the lower ones that go along: `none`, `missing` (those that no image has) or `all`;
    `volumes` mountpoints whose contents do; `compress` is `none`, `gzip[:LEVEL]` or `zstd[:LEVEL]`.
    With `oci` the output is a new directory with an OCI image layout.
    Raises what `dump` raises, and UsageError, RefusedError, OSError: there is no bundle then, and
    the tasks go on. The tasks have ended afterwards, unless `choices.leave_running`.
    """
    level = parse_level(compress)
    wanted = exporting.ExportChoices(
        output=os.fsdecode(output),
        oci=oci,
        compression=level.compression,
        level=level.number,
        layers=LayerMode(layers),
        volumes=tuple(map(_absolute, volumes)),
    )
    if isinstance(container, Container):
        choices = choices or Choices()
        return exporting.export_container(container, choices, wanted, roots=roots)
    return exporting.export_images(_absolute(container), wanted, roots=roots)


def import_bundle(
    path: AnyPath,
    *,
    container_id: str = "",
    driver: str = "",
    into: AnyPath | None = None,
    roots: engines.Roots | None = None,
) -> ImportResult:
    """
    Put a bundle, or a checkpoint of another tool, on this host, ready for `restore` of its images.

    `into` is a new directory instead of the one of the id. Raises NotFoundError, DocumentError,
    RefusedError for an archive that breaks a rule and for layers that nobody has,
    VerificationError, PrivilegeError, OSError; nothing is left then.
    """
    wanted = importing.ImportChoices(
        id=container_id, driver=driver, at=_absolute(into) if into else None
    )
    with as_bundle(os.fsdecode(path), roots=roots) as bundle:
        return importing.import_bundle(bundle, wanted, roots=roots)


def convert(
    layer: AnyPath,
    output: AnyPath,
    *,
    source: str,
    target: str,
    lowers: Iterable[AnyPath] = (),
    data: Iterable[AnyPath] = (),
) -> ConvertResult:
    """
    Write a layer anew, from the marks of the dialect `source` to those of `target`.

    `lowers`, top first, and overlay's data-only layers `data` are what it lies on. Raises
    NotFoundError, UsageError, RefusedError naming a path that cannot be converted, OSError; the
    output is not there then, and no layer was changed.
    """
    return converting.convert(
        _absolute(layer),
        _absolute(output),
        source=source,
        target=target,
        lowers=tuple(map(_absolute, lowers)),
        data=tuple(map(_absolute, data)),
    )
