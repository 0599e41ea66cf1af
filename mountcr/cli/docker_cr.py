# SPDX-License-Identifier: Apache-2.0
"""
`mountcr docker-cr`: what docker_cr.sh of CRIU's contrib directory is called for.

Options, variables, prompts, image directory and the words at the end are those of the script;
container, layers and mounts are found as everywhere here, whether Docker runs or not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import manifest as manifests
from mountcr.cli.inputs import absolute
from mountcr.cli.output import print_outline, print_table, talk
from mountcr.criu.options import Kind
from mountcr.engines import Roots, find, list_containers
from mountcr.engines.roots import path_of
from mountcr.errors import MountcrError, NotFoundError, UsageError
from mountcr.observation import observe
from mountcr.operations.dump import dump
from mountcr.operations.restore import plan_restore, restore
from mountcr.paths import KPath, encode, join
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.render.containers import listed, table_of_containers
from mountcr.render.plan import outline_plan
from mountcr.render.text import printable
from mountcr.rootfs.fingerprint import Extent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from mountcr.model import Container

__all__ = ["run"]

_ENGINE: Final = "docker"
_HOME: Final = "/var/lib/docker"
_INIT: Final = KPath("/.dockerinit")


def run(arguments: argparse.Namespace) -> int:
    """Dump or restore a container of Docker, and say in the script's words how that went."""
    criu = os.environ.get("CRIU_BINARY")
    if criu:
        os.environ["MOUNTCR_CRIU"] = criu
    kind = Kind.DUMP if arguments.checkpoint else Kind.RESTORE
    try:
        (_checkpoint if arguments.checkpoint else _restore)(arguments)
    except MountcrError:
        print(f"{kind} failed")
        raise
    print(f"{kind} successful")
    return 0


def _home() -> str:
    return os.path.abspath(os.environ.get("DOCKER_HOME") or _HOME)


def _roots(arguments: argparse.Namespace) -> Roots:
    """Look for Docker's state below DOCKER_HOME, and nowhere else."""
    home = _home()
    if not os.path.isdir(home):
        raise NotFoundError(f"DOCKER_HOME {home} is not there", hint="set DOCKER_HOME")
    return Roots.of_host(
        data=[home], run=[arguments.runroot] if arguments.runroot else (), engine=_ENGINE
    )


def _images(container: str) -> KPath:
    """Give the image directory of a container."""
    top = os.environ.get("CRIU_IMG_DIR") or f"{_home()}/criu_img"
    return join(absolute(top), container)


# --- Who is meant ---------------------------------------------------------------------------------


def _reference(arguments: argparse.Namespace, roots: Roots, *, running: bool) -> str:
    """Give the container that was named, or show what there is and ask."""
    if arguments.container:
        given: str = arguments.container
        return given
    known = [each for each in list_containers(roots) if each.pid or not running]
    print_table(table_of_containers(map(listed, known)))
    return _ask("Container ID: ")


def _ask(question: str) -> str:
    """Ask on standard error, as the shell does. Raises UsageError where nobody answers."""
    sys.stderr.write(f"\n{question}")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip()
    if not answer:
        hint = "name the container: mountcr docker-cr -c ID"
        raise UsageError(f"nobody answered {question!r}", hint=hint)
    return answer


def _running(arguments: argparse.Namespace, roots: Roots) -> Container:
    """
    Find the container, and ask for its process where Docker's record has none that runs.

    So it is when a container was restored: Docker believes that it has exited.
    """
    container = find(_reference(arguments, roots, running=True), roots=roots)
    if container.pid:
        return container
    process = find(f"pid:{_ask('Process ID: ')}")
    return msgspec.structs.replace(
        container, pid=process.pid, start_time=process.start_time, status=process.status
    )


# --- Checkpoint -----------------------------------------------------------------------------------


def _checkpoint(arguments: argparse.Namespace) -> None:
    container = _running(arguments, _roots(arguments))
    images = _images(container.id)
    _say(arguments, container, images)
    with _set_aside(path_of(images)):
        result = dump(container, Choices(images=images), fingerprint=Extent("upper"))
    for each in result.unseen:
        talk(printable(f"note: no {each.what}: {each.why}"))


@contextlib.contextmanager
def _set_aside(images: str) -> Generator[None]:
    """Move what an earlier checkpoint wrote out of the way; it comes back if this one fails."""
    earlier = f"{images}.earlier"
    os.makedirs(os.path.dirname(images), mode=0o700, exist_ok=True)
    if os.path.isdir(images):
        shutil.rmtree(earlier, ignore_errors=True)
        os.rename(images, earlier)
    try:
        yield
    except BaseException:
        if os.path.isdir(earlier):
            shutil.rmtree(images, ignore_errors=True)
            os.rename(earlier, images)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


# --- Restore --------------------------------------------------------------------------------------


def _restore(arguments: argparse.Namespace) -> None:
    roots = _roots(arguments)
    reference = _reference(arguments, roots, running=False)
    images = _dumped(reference, roots)
    choices = Choices(images=images, binds=_binds(images))
    if arguments.verbose:
        _, plan = plan_restore(images, choices)
        print_outline(outline_plan(plan, purpose=Kind.RESTORE))
    result = restore(images, choices)
    with open(f"{path_of(images)}/restore.pid", "w", encoding="ascii") as file:
        file.write(f"{result.pid}\n")
    for difference in result.differences:
        talk(printable(f"differs: {difference}"))
    if arguments.verbose:
        print(f"pid {result.pid}")


def _dumped(reference: str, roots: Roots) -> KPath:
    """
    Give the image directory of a container that Docker knows, or that was removed from it since.

    Raises NotFoundError where nothing was dumped.
    """
    try:
        container = find(reference, roots=roots).id
    except NotFoundError:
        container = reference
    images = _images(container)
    if not os.path.exists(f"{path_of(images)}/{manifests.MANIFEST}"):
        raise NotFoundError(
            f"{images} holds no checkpoint", hint=f"make one: mountcr docker-cr -c {reference}"
        )
    return images


def _binds(images: KPath) -> dict[KPath, KPath]:
    """Give where /.dockerinit comes from, if DOCKERINIT_BINARY says so and the container has it."""
    named = os.environ.get("DOCKERINIT_BINARY")
    externals = manifests.read(images).externals
    if not named or not any(each.mountpoint == _INIT for each in externals):
        return {}
    return {_INIT: encode(os.path.join(f"{_home()}/init", named))}


def _say(arguments: argparse.Namespace, container: Container, images: KPath) -> None:
    """With -v, say what will be used and what CRIU will do."""
    if not arguments.verbose:
        return
    print(printable(f"image directory: {images}"))
    print(printable(f"container root directory: {container.rootfs}"))
    plan = make_plan(observe(container), Choices(images=images))
    print_outline(outline_plan(plan))
