# SPDX-License-Identifier: Apache-2.0
"""
Engines: from the words a user has for a container to what is recorded of it.

A reference is `engine:ref`, a path, a pid, an id, a name, or a prefix that only one id has. Every
engine is read-only: it asks no daemon, takes no lock, and skips what it cannot read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, cast

from mountcr.engines import bundle, oci, pid
from mountcr.engines.reference import (
    ambiguous,
    as_recorded,
    beginning,
    distinct,
    exact,
    not_found,
    of_state_directory,
    once_per_process,
)
from mountcr.errors import MountcrError, UsageError
from mountcr.model import Container, Record
from mountcr.paths import KPath, decode, encode
from mountcr.plugins import offered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["GROUP", "Engine", "Roots", "engines", "find", "list_containers"]

GROUP: Final = "mountcr.engines"
"""The entry-point group of engines: a name, and a class without arguments that is an `Engine`."""

_RUNTIMES: Final = ("runc", "crun", "youki")
_EXTRA_ROOTS: Final = "MOUNTCR_RUNTIME_ROOT"


class Roots(Record, frozen=True, kw_only=True):
    """Where engines look: `runtime` are root directories of OCI runtimes, each of any runtime."""

    runtime: tuple[KPath, ...] = ()

    @classmethod
    def of_host(cls, extra: Iterable[str] = (), environ: Mapping[str, str] | None = None) -> Roots:
        """
        Give the roots that the runtimes take unless told otherwise, after those named.

        Named are `extra` and, separated by colons, the variable MOUNTCR_RUNTIME_ROOT. The roots of
        a user who is not root lie in $XDG_RUNTIME_DIR, or /run/user/<uid> where that is not set.
        """
        environ = os.environ if environ is None else environ
        named = [*extra, *environ.get(_EXTRA_ROOTS, "").split(":")]
        bases = ["/run"]
        user = os.geteuid()
        if user:
            bases.append(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
        usual = [f"{base}/{runtime}" for base in bases for runtime in _RUNTIMES]
        found = [*(os.path.abspath(root) for root in named if root), *usual]
        return cls(runtime=tuple(encode(root) for root in found))

    def directories(self) -> Iterator[str]:
        """Give the runtime roots that are there, each once however it is spelled."""
        seen: set[tuple[int, int]] = set()
        for root in self.runtime:
            path = os.fsdecode(decode(root))
            try:
                found = os.stat(path)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                yield path


class Engine(Protocol):
    """One that knows containers. `name` is what `engine:ref` says."""

    name: ClassVar[str]

    def containers(self, roots: Roots) -> Iterable[Container]:
        """Give all it knows; skip what is half-written or may not be read."""
        ...

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """
        Give what a reference means, if that can be told without listing; else None.

        Raises NotFoundError or UsageError for a reference that means nothing.
        """
        ...


def engines() -> tuple[Engine, ...]:
    """
    Give all engines: those that other distributions offer first, for they know more than a runtime.

    Where two have the same name, the built-in one counts.
    """
    built_in: tuple[Engine, ...] = (oci.Runc(), oci.Crun(), oci.Youki(), bundle.Bundle(), pid.Pid())
    names = {engine.name for engine in built_in}
    others = [made for name, made in offered(GROUP) if name not in names]
    return (*(cast("type[Engine]", made)() for made in others), *built_in)


def list_containers(roots: Roots | None = None) -> list[Container]:
    """Give every container that an engine knows, once; a process has only one."""
    return _known(engines(), roots or Roots.of_host())


def find(reference: str, *, roots: Roots | None = None) -> Container:
    """
    Find the container that a reference means.

    `engine:ref` asks one engine only. A path is an OCI bundle, or the directory in which a runtime
    keeps the state of a container; the container that runs from a bundle is preferred to the
    bundle. A number is a pid; if it is the id of a container too, it is ambiguous. Any other word
    is an id, else a name, else the beginning of one id.

    Raises AmbiguousError with all candidates, NotFoundError with names like it, UsageError for a
    reference that makes no sense (an unknown engine, a process that can be no container),
    DocumentError for a bundle whose config.json is damaged, and PrivilegeError for one that may
    not be read.
    """
    roots = roots or Roots.of_host()
    everybody = engines()
    engine, word = _split(reference, everybody)
    if not word:
        raise UsageError(
            f"{reference!r} names no container", hint="give an id, a name, a pid or a bundle"
        )
    known = _known(everybody, roots)
    asked = everybody
    if engine:
        asked = (engine,)
    candidates = _meanings(word, asked, known, roots)
    if not candidates:
        raise not_found(reference, word, known, list(roots.directories()))
    if len(candidates) > 1:
        raise ambiguous(reference, candidates)
    return candidates[0]


def _known(asked: Sequence[Engine], roots: Roots) -> list[Container]:
    """List the containers of some engines."""
    return once_per_process(c for engine in asked for c in engine.containers(roots))


def _split(reference: str, everybody: Sequence[Engine]) -> tuple[Engine | None, str]:
    """Take `engine:ref` apart; a colon behind a slash, or in a path that exists, is of the path."""
    name, colon, word = reference.partition(":")
    if not colon or "/" in name or os.path.isdir(reference):
        return None, reference
    for engine in everybody:
        if engine.name == name:
            return engine, word
    raise UsageError(
        f"{reference}: no engine is called {name or repr(name)}",
        hint=f"engines are {', '.join(engine.name for engine in everybody)}",
    )


def _meanings(
    word: str, asked: Sequence[Engine], known: Sequence[Container], roots: Roots
) -> list[Container]:
    """
    Give every container that a word may mean to the engines that are asked.

    What a path or a pid means is looked up among all that are known. A number that is no process
    is never taken for the beginning of an id: it may be a process that has just ended.
    """
    theirs = _known(asked, roots)
    found = of_state_directory(word, theirs)
    if found:
        return found
    failure: MountcrError | None = None
    for engine in asked:
        try:
            answer = engine.lookup(word, roots)
        except MountcrError as error:
            failure = failure or error
        else:
            found.extend(c for direct in answer or () for c in as_recorded(direct, known))
    found = distinct([*found, *exact(word, theirs)])
    if failure and not found:
        raise failure
    return found or beginning(word, theirs)
