# SPDX-License-Identifier: Apache-2.0
"""
Engines: from the words a user has for a container to what is recorded of it.

A reference is `engine:ref`, a path, a pid, an id, a name, or a prefix that only one id has. Every
engine is read-only: it asks no daemon and takes no lock. What it cannot read it names, as a damage
of the container, and goes on. First containers are listed by what a reference can name, then one
is described: with its layers, mounts and all else that is recorded of it.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol, cast

from mountcr.engines import bundle, oci, pid
from mountcr.engines.containerd import Containerd
from mountcr.engines.docker import Docker
from mountcr.engines.lxc import Lxc
from mountcr.engines.reference import (
    ambiguous,
    as_recorded,
    beginning,
    distinct,
    exact,
    not_found,
    of_state_directory,
    once,
)
from mountcr.engines.roots import Place, Roots
from mountcr.engines.storage import storage_engines
from mountcr.errors import MountcrError, UsageError
from mountcr.plugins import offered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mountcr.model import Container, Damage

__all__ = [
    "GROUP",
    "Engine",
    "Place",
    "Roots",
    "Survey",
    "engines",
    "find",
    "list_containers",
    "names",
    "survey",
]

GROUP: Final = "mountcr.engines"
"""The entry-point group of engines: a name, and a class without arguments that is an `Engine`."""


class Engine(Protocol):
    """
    One that knows containers. `name` is what `engine:ref` says.

    An engine is asked about one host and thrown away, so it may remember what it read.
    """

    name: ClassVar[str]

    def containers(self, roots: Roots) -> Iterable[Container]:
        """
        Give all it knows, at least id, name, names, process and state root of each.

        What is half-written or damaged is a damage of the container; nothing is raised.
        """
        ...

    def describe(self, container: Container, roots: Roots) -> Container:
        """Give one of its containers with all that is recorded of it. Nothing is raised."""
        ...

    def damages(self) -> Sequence[Damage]:
        """Give what could not be read in the listing before, and is of no one container."""
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

    Where two have the same name, the built-in one counts. Managers come before the runtimes that
    they use: what both know is the manager's.
    """
    built_in: tuple[Engine, ...] = (
        Docker(),
        Containerd(),
        Lxc(),
        *storage_engines(),
        oci.Runc(),
        oci.Crun(),
        oci.Youki(),
        bundle.Bundle(),
        pid.Pid(),
    )
    names = {engine.name for engine in built_in}
    others = [made for name, made in offered(GROUP) if name not in names]
    return (*(cast("type[Engine]", made)() for made in others), *built_in)


class Survey(NamedTuple):
    """Every container that an engine knows, once, and what is damaged and of no one container."""

    containers: list[Container]
    damages: list[tuple[str, Damage]]


def list_containers(roots: Roots | None = None) -> list[Container]:
    """Give the containers of `survey`."""
    return survey(roots).containers


def survey(roots: Roots | None = None) -> Survey:
    """
    Give every container that an engine knows, described, with damages by engine.

    Raises UsageError when the roots name an engine that there is not.
    """
    roots = roots or Roots.of_host()
    everybody = engines()
    by_name = {engine.name: engine for engine in everybody}
    asked = (_named(roots.engine, everybody),) if roots.engine else everybody
    known = _Known(asked, roots).of(asked)
    damages = [(engine.name, damage) for engine in asked for damage in engine.damages()]
    described = [by_name[each.engine].describe(each, roots) for each in known]
    return Survey(described, damages)


def names(roots: Roots | None = None, *, ids: bool = False) -> list[str]:
    """
    Give the words that mean one container each: its name, else its id; with `ids` all ids too.

    A name that several have is spelled `engine:name`.
    """
    everybody = engines()
    known = _Known(everybody, roots or Roots.of_host()).of(everybody)
    plain = [each.name or each.id for each in known]
    count = Counter(plain)
    words = [
        word if count[word] == 1 else f"{each.engine}:{word}"
        for each, word in zip(known, plain, strict=True)
    ]
    return [*words, *(each.id for each in known if ids and each.name)]


def find(reference: str, *, roots: Roots | None = None) -> Container:
    """
    Find the container that a reference means, and describe it.

    `engine:ref` asks one engine only. A path is an OCI bundle, or the directory in which a runtime
    keeps the state of a container; the container that runs from a bundle is preferred to the
    bundle. A number is a pid; if it is the id of a container too, it is ambiguous. Any other word
    is an id, else a name, else the beginning of one id; what no engine knows is looked for in the
    control groups of all processes.

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
    if roots.engine and engine is None:
        engine = _named(roots.engine, everybody)
    known = _Known(everybody, roots)
    candidates = _meanings(word, (engine,) if engine else everybody, known)
    if not candidates and (engine is None or engine.name == pid.Pid.name):
        candidates = _of_group(word)
    if not candidates:
        raise not_found(reference, word, known.of(everybody), list(roots.directories()))
    if len(candidates) > 1:
        raise ambiguous(reference, candidates)
    found = candidates[0]
    owner = next((each for each in everybody if each.name == found.engine), None)
    return owner.describe(found, roots) if owner else found


class _Known:
    """What engines know of one host; each is asked for its list once, when it is needed."""

    def __init__(self, everybody: Sequence[Engine], roots: Roots) -> None:
        self.everybody = everybody
        self.roots = roots
        self._lists: dict[str, list[Container]] = {}

    def of(self, asked: Sequence[Engine]) -> list[Container]:
        """Give the containers of some engines, each once."""
        return once(container for engine in asked for container in self._list(engine))

    def _list(self, engine: Engine) -> list[Container]:
        if engine.name not in self._lists:
            self._lists[engine.name] = list(engine.containers(self.roots))
        return self._lists[engine.name]


_SHORT: Final = 8
"""An id of so many digits is looked for in control groups; fewer are met by chance."""


def _of_group(word: str) -> list[Container]:
    """Give the processes of a container that nothing but its control group tells of."""
    return pid.of_group(word) if len(word) >= _SHORT and "/" not in word else []


def _split(reference: str, everybody: Sequence[Engine]) -> tuple[Engine | None, str]:
    """Take `engine:ref` apart; a colon behind a slash, or in a path that exists, is of the path."""
    name, colon, word = reference.partition(":")
    if not colon or "/" in name or os.path.isdir(reference):
        return None, reference
    return _named(name, everybody, f"{reference}: "), word


def _named(name: str, everybody: Sequence[Engine], where: str = "") -> Engine:
    for engine in everybody:
        if engine.name == name:
            return engine
    raise UsageError(
        f"{where}no engine is called {name or repr(name)}",
        hint=f"engines are {', '.join(engine.name for engine in everybody)}",
    )


def _meanings(word: str, asked: Sequence[Engine], known: _Known) -> list[Container]:
    """
    Give every container that a word may mean to the engines that are asked.

    What a path or a pid means is looked up among all that are known. A number that is no process
    is never taken for the beginning of an id: it may be a process that has just ended.
    """
    theirs = known.of(asked)
    found = of_state_directory(word, theirs)
    if found:
        return found
    failure: MountcrError | None = None
    for engine in asked:
        try:
            answer = engine.lookup(word, known.roots)
        except MountcrError as error:
            failure = failure or error
        else:
            for direct in answer or ():
                found.extend(as_recorded(direct, known.of(known.everybody)))
    found = distinct([*found, *exact(word, theirs)])
    if failure and not found:
        raise failure
    return found or beginning(word, theirs)
