# SPDX-License-Identifier: Apache-2.0
"""Containers as a table, and one of them as an outline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mountcr.record import Record
from mountcr.render.outline import Outline
from mountcr.render.table import Table
from mountcr.render.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mountcr.model import Container, ContainerMount, Finding
    from mountcr.stack import Stack

__all__ = [
    "CONTAINERS_SCHEMA",
    "ContainersDocument",
    "ListedContainer",
    "listed",
    "outline_container",
    "size_in_units",
    "table_of_containers",
]

CONTAINERS_SCHEMA: Final = "mountcr/ls/1"

_SHORT: Final = 12
"""Digits of an id of 64 that are shown, as engines show them."""

_HEX: Final = 64
_SAME: Final = {"stopped": ("exited", "created", "configured", "dead"), "running": ("up",)}
"""Words of engines that say no more than the status."""

_STYLES: Final = {"running": "green", "paused": "yellow", "created": "yellow"}


class ListedContainer(Record, frozen=True, kw_only=True, omit_defaults=False):
    """
    One line of `mountcr ls`.

    `status` is what it is in the words of the OCI runtime specification, `recorded` what its engine
    says; `driver` is the engine's word. `layers` are those that are read-only, -1 where nobody
    knows. `size` is what the writable layer takes on disk, in bytes, -1 where nobody asked.
    """

    id: str
    name: str
    engine: str
    namespace: str = ""
    driver: str = ""
    status: str = ""
    recorded: str = ""
    pid: int = 0
    layers: int = -1
    size: int = -1
    damages: tuple[str, ...] = ()


class ContainersDocument(Record, frozen=True, kw_only=True, omit_defaults=False):
    """Every container that an engine of this host knows."""

    schema: str = CONTAINERS_SCHEMA
    containers: tuple[ListedContainer, ...]


def listed(container: Container, *, size: int = -1) -> ListedContainer:
    """Give the line of a container, whose writable layer takes so many bytes."""
    stack = container.stack
    return ListedContainer(
        id=container.id,
        name=container.name,
        engine=container.engine,
        namespace=container.namespace,
        driver=container.storage,
        status=container.status,
        recorded=container.recorded,
        pid=container.pid,
        layers=len(stack.lowers) + len(stack.data) if stack else -1,
        size=size,
        damages=tuple(map(str, container.damages)),
    )


def table_of_containers(containers: Iterable[ListedContainer], *, size: bool = False) -> Table:
    """Give a row for each container; a long id is cut unless two begin alike."""
    containers = tuple(containers)
    titles = ("ID", "NAME", "ENGINE", "DRIVER", "STATUS", "LAYERS")
    table = Table((*titles, "SIZE") if size else titles)
    taken: dict[str, int] = {}
    for each in containers:
        taken[each.id[:_SHORT]] = taken.get(each.id[:_SHORT], 0) + 1
    for each in containers:
        cut = len(each.id) == _HEX and taken[each.id[:_SHORT]] == 1
        cells = (
            printable(each.id[:_SHORT] if cut else each.id),
            printable(each.name),
            each.engine,
            each.driver,
            _status(each),
            str(each.layers) if each.layers >= 0 else "?",
        )
        table.add(*cells, *((size_in_units(each.size),) if size else ()), style=_style(each))
    return table


def outline_container(container: Container, findings: Iterable[Finding] = ()) -> Outline:
    """Give all that is recorded of a container in lines."""
    name = f" ({container.name})" if container.name and container.name != container.id else ""
    pid = f", pid {container.pid}" if container.pid else ""
    top = Outline(
        printable(f"{container.engine}:{container.id}{name}: {container.status or '?'}{pid}"),
        _STYLES.get(container.status, ""),
    )
    for title, value in _facts(container):
        if value:
            top.add(printable(f"{title} {value}"))
    if container.stack:
        _stack(top, container.stack)
    _section(top, "mounts", map(_mount, container.mounts))
    _section(top, "files", (f"{key} {path}" for key, path in container.files.items()))
    _section(top, "namespaces", (f"{k} {path}" for k, path in container.namespace_paths.items()))
    _section(top, "labels", (f"{key}={value}" for key, value in sorted(container.labels.items())))
    goes = (f"{each.type} {each.path} {each.options}" for each in container.torn_down)
    _section(top, "goes when it ends", goes)
    _section(top, "damaged", map(str, container.damages))
    told = (f"{each.rule} {each.mount}: {each.message}" for each in findings)
    _section(top, "findings", told)
    _section(top, "told by", container.provenance)
    return top


def _facts(container: Container) -> tuple[tuple[str, object], ...]:
    return (
        ("names", " ".join(container.names)),
        ("recorded as", container.recorded),
        ("image", container.image),
        ("namespace", container.namespace),
        ("storage driver", container.storage),
        ("root file system at", container.rootfs),
        ("bundle", container.bundle),
        ("configuration", container.spec),
        ("kept below", container.state_root),
        ("shared memory from", container.shm),
        ("control group", container.cgroup),
    )


def _stack(top: Outline, stack: Stack) -> None:
    section = top.add(f"layers: {stack.driver}")
    if stack.upper:
        section.add(printable(f"upper {stack.upper}"))
    section.extend(printable(f"lower {layer}") for layer in stack.lowers)
    section.extend(printable(f"data  {layer}") for layer in stack.data)
    if stack.options:
        section.add(printable(f"options {','.join(stack.options)}"))


def _mount(mount: ContainerMount) -> str:
    words = [mount.destination, "from", mount.source or mount.type, f"({mount.type}"]
    if mount.name:
        words.append(mount.name)
    words.append("ro)" if mount.readonly else "rw)")
    return " ".join(words)


def _section(top: Outline, title: str, lines: Iterable[str]) -> None:
    found = [printable(line) for line in lines]
    if found:
        top.add(title).extend(found)


def _status(container: ListedContainer) -> str:
    """Say what it is, and what its engine says where that is another thing."""
    if not container.status:
        return "damaged" if container.damages else container.recorded or "?"
    same = container.recorded in {"", container.status, *_SAME.get(container.status, ())}
    if same:
        return container.status
    return f"{container.status} (recorded {container.recorded})"


def _style(container: ListedContainer) -> str:
    return "red" if container.damages else _STYLES.get(container.status, "")


def size_in_units(size: int) -> str:
    """
    Give a number of bytes in a unit that makes it short.

    >>> size_in_units(4096), size_in_units(0), size_in_units(-1)
    ('4.0 KiB', '0 B', '?')
    """
    if size < 0:
        return "?"
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004
            return f"{number:.1f} {unit}" if unit != "B" else f"{size} B"
        number /= 1024
    return f"{number:.1f} TiB"
