# SPDX-License-Identifier: Apache-2.0
"""
Containers of CRI-O: the storage says which there are, files of JSON beside it say all else.

`state.json` is in the directory of the container below the graph root, `config.json` there and
below the run root, which is the bundle; its annotations have what CRI-O knows
(internal/lib/container_server.go, internal/annotations, internal/oci/container.go).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from mountcr.engines.process import init_process
from mountcr.engines.runtime import with_process
from mountcr.engines.storage.engine import StorageEngine, assembled, listed, root_of
from mountcr.engines.storage.layers import Root
from mountcr.engines.storage.records import CrioState
from mountcr.engines.storage.store import Owner
from mountcr.engines.storage.userdata import Given, Userdata
from mountcr.overlayhome import is_name
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mountcr.engines.reading import Reader
    from mountcr.engines.storage.layers import Layers
    from mountcr.engines.storage.store import Store, Stored
    from mountcr.model import Container

__all__ = ["CriO"]

_PREFIX: Final = "io.kubernetes.cri-o."


class CriO(StorageEngine):
    """The containers of CRI-O, and those that hold the namespaces of its pods."""

    name: ClassVar[str] = "crio"

    def _listed(self, store: Store, runtimes: Sequence[str]) -> Iterator[Container]:
        for stored in store.containers.values():
            if stored.owner == Owner.CRIO:
                yield _one(store, stored, runtimes)

    def _described(self, container: Container, store: Store, layers: Layers) -> Container:
        stored = store.containers.get(container.id)
        reader = store.reader()
        if stored is None or not is_name(container.id):
            return assembled(container, Root(None, None), Given(), reader, userdata=None)
        userdata = Userdata(store.place, stored.driver, container.id)
        spec, file = userdata.configuration(reader, run_first=True)
        given = Given()
        moved = userdata.moved(spec, store.place)
        if spec is not None:
            reader.tell("mounts", file, "mounts")
            given = userdata.given(spec, os.path.dirname(file), moved)
            container = _annotated(container, given.annotations, file, reader)
        root = root_of(container, stored, layers, reader)
        return assembled(
            container,
            root,
            given,
            reader,
            userdata=userdata,
            moved=moved,
            spec=file if spec else "",
            bundle=os.path.dirname(file),
        )


def _one(store: Store, stored: Stored, runtimes: Sequence[str]) -> Container:
    """List one container, with the process that `state.json` names."""
    found = listed(CriO.name, store, stored)
    metadata = stored.metadata
    name = metadata.metadata_name or metadata.name or found.name
    names = tuple(each for each in (found.name, *found.names) if each and each != name)
    found = msgspec.structs.replace(found, name=name, names=names)
    if not is_name(found.id):
        return found
    file = f"{Userdata(store.place, stored.driver, found.id).static}/state.json"
    reader = store.reader()
    state = reader.json(file, CrioState, optional=True) or CrioState()
    found = msgspec.structs.replace(
        found,
        recorded=state.status,
        damages=(*found.damages, *reader.damages),
        provenance=(*found.provenance, f"recorded: {encode(file)}: status"),
    )
    pid = state.init_pid or state.pid
    source = f"{encode(file)}: {'initPid' if state.init_pid else 'pid'}"
    started = int(state.init_start_time) if str(state.init_start_time).isdecimal() else 0
    if pid and started and not init_process(pid, started, source).pid:
        return with_process(found, 0, f"{source}: {pid}, which has ended", runtimes)
    return with_process(found, pid, source, runtimes)


def _annotated(
    container: Container, annotations: dict[str, str], file: str, reader: Reader
) -> Container:
    """Add what annotations say: the labels, and the image."""
    field = f"annotations.{_PREFIX}Labels"
    labels: dict[str, str] = {}
    try:
        labels = msgspec.json.decode(annotations.get(f"{_PREFIX}Labels", "{}"), type=dict[str, str])
    except (msgspec.DecodeError, RecursionError) as error:
        reader.damaged(file, field, str(error))
    else:
        reader.tell("labels", file, field)
    return msgspec.structs.replace(
        container,
        labels=labels,
        image=container.image or annotations.get(f"{_PREFIX}ImageName", ""),
    )
