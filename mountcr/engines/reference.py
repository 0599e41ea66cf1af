# SPDX-License-Identifier: Apache-2.0
"""
References: what the word that a user gives for a container means among those that are known.

Nothing here lists containers or looks at a process; that has been done before, by the engines.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from mountcr.errors import AmbiguousError, NotFoundError
from mountcr.paths import KPath, fsdecode, join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mountcr.model import Container

__all__ = [
    "RUNTIMES",
    "ambiguous",
    "as_recorded",
    "beginning",
    "distinct",
    "exact",
    "labels",
    "not_found",
    "of_state_directory",
    "once",
]

RUNTIMES: Final = frozenset({"runc", "crun", "youki"})
"""Engines that others have start containers for them."""

_NO_MANAGERS: Final = RUNTIMES | {"bundle", "pid"}
_NAMESPACED: Final = "containerd"
"""The engine that has the same id in several namespaces; in `moby` are Docker's containers."""

_FREE_IDS: Final = frozenset({_NAMESPACED, "lxc"})
"""Managers that let people choose ids, which another container may have by chance."""

_RANDOM: Final = re.compile("[0-9a-f]{64}")
_SHOWN: Final = 10
_LIKE: Final = 0.6


def once(containers: Iterable[Container]) -> list[Container]:
    """
    Drop containers that an earlier one is: with the same process, or started for it under its id.

    A manager comes before the runtime, or the containerd, that it has start its containers.
    """
    processes: set[int] = set()
    managed: set[str] = set()
    bundles: set[KPath | None] = set()
    kept: list[Container] = []
    for container in containers:
        started = container.engine in RUNTIMES or _is_of_docker(container)
        if started and (container.id in managed or container.bundle in bundles):
            continue
        if container.pid and container.pid in processes:
            continue
        if _has_its_id_alone(container):
            managed.add(container.id)
        elif container.engine in _FREE_IDS and container.bundle:
            bundles.add(container.bundle)
        processes.add(container.pid)
        kept.append(container)
    return kept


def _is_of_docker(container: Container) -> bool:
    return container.engine == _NAMESPACED and container.namespace == "moby"


def _has_its_id_alone(container: Container) -> bool:
    """Tell whether what a runtime keeps under the same id is this container."""
    if container.engine in _NO_MANAGERS:
        return False
    return container.engine not in _FREE_IDS or bool(_RANDOM.fullmatch(container.id))


def distinct(containers: Iterable[Container]) -> list[Container]:
    """Drop containers that are the same record as an earlier one, or have the same process."""
    kept: dict[tuple[str, str, str, KPath | None, KPath | None], Container] = {}
    for container in once(containers):
        place = None if container.state_root else container.bundle
        key = (container.engine, container.namespace, container.id, container.state_root, place)
        kept.setdefault(key, container)
    return list(kept.values())


def exact(word: str, known: Sequence[Container]) -> list[Container]:
    """Give the containers with this id or, if there is none, with this name."""
    return [c for c in known if c.id == word] or [
        c for c in known if c.name == word or word in c.names
    ]


def beginning(word: str, known: Sequence[Container]) -> list[Container]:
    """Give the containers whose id begins like this."""
    return [c for c in known if c.id.startswith(word)]


def of_state_directory(word: str, known: Sequence[Container]) -> list[Container]:
    """Give the container that is kept here: the directory of its runtime, or `ROOT/id`."""
    spelled = [c for c in known if c.state_root and fsdecode(join(c.state_root, c.id)) == word]
    if spelled or not os.path.isdir(word):
        return spelled
    path = os.path.realpath(word)
    return [
        c
        for c in known
        if c.state_root and os.path.realpath(fsdecode(join(c.state_root, c.id))) == path
    ]


def as_recorded(container: Container, known: Sequence[Container]) -> list[Container]:
    """
    Give what the engines know of a process or a bundle, or itself if they know nothing.

    A bundle is what runs from it; a container that has ended is not taken for the bundle.
    """
    if container.pid:
        found = [c for c in known if c.pid == container.pid]
        found = [c for c in found if c.start_time in {0, container.start_time}]
    elif container.bundle:
        path = os.path.realpath(fsdecode(container.bundle))
        found = [
            c for c in known if c.pid and c.bundle and os.path.realpath(fsdecode(c.bundle)) == path
        ]
    else:
        found = []
    return found or [container]


def labels(containers: Sequence[Container]) -> list[str]:
    """
    Give a reference for each container that means this one and no other of them.

    It is `engine:id`, but `bundle:PATH` for a bundle, `engine:NAMESPACE/id` where two namespaces
    have the same id, and `engine:ROOT/id` or `engine:ROOT/NAMESPACE/id` where two roots have.
    """
    spellings = [list(_spellings(container)) for container in containers]
    count = Counter(label for each in spellings for label in set(each))
    return [next((one for one in each if count[one] == 1), each[-1]) for each in spellings]


def ambiguous(reference: str, candidates: Sequence[Container]) -> AmbiguousError:
    """Make the error for a reference that means several containers."""
    listed = labels(candidates)
    return AmbiguousError(
        f"{reference} means {len(listed)} containers: {', '.join(listed)}",
        listed,
        hint=f"say one of {', '.join(listed)}",
    )


def not_found(
    reference: str, word: str, known: Sequence[Container], roots: Sequence[str]
) -> NotFoundError:
    """Make the error for a reference that means nothing; `roots` are the runtime roots searched."""
    similar = _similar(word, known)
    return NotFoundError(
        f"no container is called {reference}",
        similar=similar,
        hint=_closed(word, roots) or _hint(similar, known, roots),
    )


def _spellings(container: Container) -> Iterator[str]:
    """Spell a container, from the shortest reference to the one that says where it is kept."""
    if container.state_root:
        yield f"{container.engine}:{container.id}"
        kept = container.state_root
        if container.engine == _NAMESPACED:
            yield f"{container.engine}:{container.namespace}/{container.id}"
            kept = join(kept, container.namespace)
        yield f"{container.engine}:{join(kept, container.id)}"
    elif container.bundle and not container.pid:
        yield f"{container.engine}:{container.bundle}"
    else:
        yield f"{container.engine}:{container.id}"


def _similar(word: str, known: Sequence[Container]) -> list[str]:
    """Give ids and names like a word, the most similar first."""
    from difflib import get_close_matches  # only a failure needs it

    # A typing error in the first digits of a long id is compared with as many digits of it.
    spellings = {c.id[: len(word)]: c.id for c in known}
    spellings |= {shown: shown for c in known for shown in (c.id, c.name, *c.names) if shown}
    close = get_close_matches(word, spellings, n=_SHOWN, cutoff=_LIKE)
    return list(dict.fromkeys(spellings[spelling] for spelling in close))


def _closed(word: str, roots: Sequence[str]) -> str | None:
    """Say what may hide the container: a root that may not be read, a state that makes no sense."""
    locked = [root for root in roots if not os.access(root, os.R_OK | os.X_OK)]
    if locked:
        return f"{', '.join(locked)} may not be read; run as root"
    if "/" in word or word in {".", ".."}:
        return None
    damaged = [f"{root}/{word}" for root in roots if os.path.isdir(f"{root}/{word}")]
    if damaged:
        return f"{', '.join(damaged)} is there, but holds no state file that can be read"
    return None


def _hint(similar: Sequence[str], known: Sequence[Container], roots: Sequence[str]) -> str:
    """Say which names there are."""
    if similar:
        return f"names like it: {', '.join(similar)}"
    if known:
        listed = labels(known)
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        return f"known here: {', '.join(listed[:_SHOWN])}{more}"
    searched = ", ".join(roots) or "any runtime root"
    return f"no container is known in {searched}; MOUNTCR_RUNTIME_ROOT names other runtime roots"
