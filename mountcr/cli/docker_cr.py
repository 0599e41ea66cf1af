# SPDX-License-Identifier: Apache-2.0
"""
`mountcr docker-cr`: what docker_cr.sh of CRIU's contrib directory is called for.

Options, variables, prompts, image directory and the words at the end are those of the script;
container, layers and mounts are found as everywhere here, whether Docker runs or not.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

from mountcr import manifest as manifests
from mountcr.cli.inputs import choices_of
from mountcr.cli.output import print_outline, print_table, talk
from mountcr.cli.progress import shown_progress
from mountcr.criu.options import Kind
from mountcr.engines import Roots, find, list_containers
from mountcr.engines.docker.places import Usual, sites
from mountcr.engines.reading import names_in
from mountcr.errors import (
    CapabilityError,
    CriuError,
    GoneError,
    NotFoundError,
    PrivilegeError,
    UsageError,
)
from mountcr.observation import observe
from mountcr.operations.docker_cr import (
    PIDFILE,
    checkpoint,
    checkpointed,
    find_checkpointed,
    kept_in,
    made_at,
    restore_checkpoint,
    with_pid,
)
from mountcr.operations.restore import plan_restore
from mountcr.paths import KPath, encode, fsdecode
from mountcr.planning.planner import make_plan
from mountcr.render.plan import outline_plan
from mountcr.render.table import Table
from mountcr.render.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from mountcr.model import Container

__all__ = ["run"]

_ENGINE: Final = "docker"
_HOME: Final = "/var/lib/docker"
_INIT: Final = KPath("/.dockerinit")
_SHORT: Final = 12
"""Digits of an id that Docker shows."""

_OF_RESTORE: Final = ("driver", "upper", "bind", "allow_changed")
"""Options that say nothing about a checkpoint."""


def run(arguments: argparse.Namespace) -> int:
    """Dump or restore a container of Docker, and say in the script's words how that went."""
    kind = Kind.DUMP if arguments.checkpoint else Kind.RESTORE
    try:
        _check(arguments)
        status = _checkpoint(arguments) if arguments.checkpoint else _restore(arguments)
    except Exception as error:
        if arguments.verbose:
            _say_log(error)
        print(f"{kind} failed")
        raise
    print(f"{kind} successful")
    return status


def _check(arguments: argparse.Namespace) -> None:
    """Check what can be without looking at any container, and say which CRIU shall be used."""
    given = [each for each in _OF_RESTORE if arguments.checkpoint and vars(arguments)[each]]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{option} is about a restore", hint=f"leave {option} out, or say -r")
    if os.geteuid() != 0:
        raise PrivilegeError("docker-cr needs root, as Docker's files and CRIU do", hint="use root")
    criu = os.environ.get("CRIU_BINARY")
    if criu and not shutil.which(criu):
        msg = f"CRIU_BINARY {criu} is no program"
        hint = "name one that is there, or unset it to use the one that mountcr finds"
        raise CapabilityError(msg, probe="CRIU_BINARY", hint=hint)
    if criu:
        os.environ["MOUNTCR_CRIU"] = criu


# --- Where everything is --------------------------------------------------------------------------


def _home() -> str:
    return os.path.abspath(os.environ.get("DOCKER_HOME") or _HOME)


def _top() -> str:
    """Give the directory that has an images directory for each container."""
    return os.path.abspath(os.environ.get("CRIU_IMG_DIR") or f"{_home()}/criu_img")


def _roots(arguments: argparse.Namespace) -> Roots:
    """Look for Docker's state below DOCKER_HOME, and nowhere else. Raises NotFoundError."""
    home = _home()
    run = [arguments.runroot] if arguments.runroot else []
    roots = Roots.of_host(data=[home], run=run, engine=_ENGINE)
    if not sites(roots, Usual()):
        what = "is no data root of Docker" if os.path.isdir(home) else "is not there"
        hint = "set DOCKER_HOME to what `docker info` calls Docker Root Dir"
        raise NotFoundError(f"DOCKER_HOME {home} {what}", hint=hint)
    return roots


# --- Who is meant ---------------------------------------------------------------------------------


def _ask(question: str) -> str:
    """Ask on standard error, as the shell does; give nothing where nobody answers."""
    sys.stdout.flush()
    sys.stderr.write(f"\n{question}")
    sys.stderr.flush()
    answer = os.fsdecode(sys.stdin.buffer.readline()) if sys.stdin else ""
    if not (answer.endswith("\n") and sys.stdin.isatty()):
        sys.stderr.write("\n")  # no terminal has shown the end of the line
    return answer.strip()


def _reference(arguments: argparse.Namespace, known: Iterable[Container]) -> str:
    """Give the container that was named, or show which there are and ask."""
    if arguments.container:
        given: str = arguments.container
        return given
    print_table(_table(known, checkpoints=arguments.restore))
    answer = _ask("Container ID: ")
    if not answer:
        hint = f"name it: mountcr docker-cr {'-r' if arguments.restore else '-c'} ID"
        raise UsageError("nobody said which container is meant", hint=hint)
    return answer


def _table(containers: Iterable[Container], *, checkpoints: bool) -> Table:
    """Give a row for each container, as Docker does; with `checkpoints` when each was made."""
    titles = ("CONTAINER ID", "IMAGE", "STATUS", "NAMES")
    table = Table((*titles, "CHECKPOINT") if checkpoints else titles)
    for each in containers:
        words = [each.id[:_SHORT], each.image, each.status or each.recorded or "?", each.name]
        if checkpoints:
            made = made_at(_top(), each.id)
            moment = time.localtime(made or 0)
            words.append(time.strftime("%Y-%m-%d %H:%M:%S", moment) if made else "-")
        table.add(*map(printable, words))
    return table


# --- Checkpoint -----------------------------------------------------------------------------------


def _checkpoint(arguments: argparse.Namespace) -> int:
    roots = _roots(arguments)
    running = [] if arguments.container else [c for c in list_containers(roots) if c.pid]
    container = find(_reference(arguments, running), roots=roots)
    if container.engine != _ENGINE:
        msg = f"{container.engine}:{container.id} is no container of Docker"
        raise UsageError(msg, hint="`mountcr dump` dumps those of every engine")
    if not container.pid:
        container = _with_process(container)
    choices = choices_of(arguments)
    if arguments.verbose:
        print(printable(f"image directory: {_top()}/{container.id}"))
        print(printable(f"container root directory: {container.rootfs or '?'}"))
        print_outline(outline_plan(make_plan(observe(container), choices)))
    for each in checkpoint(container, _top(), choices).unseen:
        talk(printable(f"note: no {each.what}: {each.why}"))
    return 0


def _with_process(container: Container) -> Container:
    """
    Ask for the process of a container that has none by Docker's records.

    So it is when it was restored: Docker believes that it has exited.
    """
    talk(printable(f"Docker knows no process of {container.id}"))
    answer = _ask("Process ID: ")
    if not answer:
        msg = f"container {container.id} does not run by Docker's records, and nobody said its pid"
        raise GoneError(msg, hint=f"start it, or give its pid, which {PIDFILE} has when restored")
    return with_pid(container, answer)


# --- Restore --------------------------------------------------------------------------------------


def _restore(arguments: argparse.Namespace) -> int:
    top = _top()
    known = _known(arguments)
    rows = {each.id: each for each in (*kept_in(top), *known)}
    container = find_checkpointed(_reference(arguments, rows.values()), known, top)
    images = checkpointed(container, top)
    choices = choices_of(arguments)
    choices = msgspec.structs.replace(choices, images=images, binds=_binds(images, choices.binds))
    if arguments.verbose:
        print(printable(f"image directory: {images}"))
        _, plan = plan_restore(images, choices)
        print_outline(outline_plan(plan, purpose=Kind.RESTORE))
    with shown_progress("copying") as progress:
        result, unwritten = restore_checkpoint(images, choices, progress)
    for difference in result.differences:
        talk(printable(f"differs: {difference}"))
    if unwritten:
        talk(printable(f"note: the container runs, but its pid is not written: {unwritten}"))
    if arguments.verbose or unwritten:
        print(f"pid {result.pid}")
    return 0 if result.announced else 5


def _known(arguments: argparse.Namespace) -> list[Container]:
    """Give what Docker knows; a host that has only the checkpoints does without it."""
    try:
        return list_containers(_roots(arguments))
    except NotFoundError:
        if not kept_in(_top()):
            raise
        return []


def _binds(images: KPath, given: dict[KPath, KPath]) -> dict[KPath, KPath]:
    """
    Say where /.dockerinit comes from, for a container that has it.

    It is what DOCKERINIT_BINARY names, below `init` if it is no absolute path; else what it was,
    or the only one that there is now. Raises NotFoundError where it is not there.
    """
    found = [each for each in manifests.read(images).externals if each.mountpoint == _INIT]
    if not found or _INIT in given:
        return given
    source = found[0].source
    named = os.environ.get("DOCKERINIT_BINARY")
    if named:
        path = os.path.normpath(os.path.join(f"{_home()}/init", named))
        if not os.path.isfile(path):
            hint = f"unset it, or name a file below {_home()}/init"
            raise NotFoundError(f"DOCKERINIT_BINARY {path} is not there", hint=hint)
        return {**given, _INIT: encode(path)}
    if source is None or os.path.exists(fsdecode(source)):
        return given
    others = _inits()
    if len(others) != 1:
        msg = f"{_INIT} was {source}, which is gone"
        raise NotFoundError(msg, hint="name another in DOCKERINIT_BINARY")
    talk(printable(f"note: {_INIT} was {source}, which is gone; taking {others[0]}"))
    return {**given, _INIT: encode(others[0])}


def _inits() -> list[str]:
    """Give Docker's own inits that are there."""
    directory = f"{_home()}/init"
    return [f"{directory}/{name}" for name in names_in(directory) if name.startswith("dockerinit")]


def _say_log(error: BaseException) -> None:
    """Say the lines of CRIU's log around its first error; a doubt of CRIU itself has it behind."""
    cause = error if isinstance(error, CriuError) else error.__context__
    if not isinstance(cause, CriuError):
        return
    for line in cause.context:
        talk(printable(line))
    if cause.log:
        talk(printable(f"the log is {cause.log}"))
