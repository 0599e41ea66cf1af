# SPDX-License-Identifier: Apache-2.0
"""
Where containerd keeps its state: `root` survives a boot, `state` does not.

They stand in its configuration (cmd/containerd/server/config of containerd 2.0), the same in all
versions of it, 1 to 4; files that it imports override it. dockerd writes one for the containerd
that it starts (daemon/internal/libcontainerd/supervisor of moby 28). A containerd without privilege
has the usual directories, which RootlessKit puts into $XDG_DATA_HOME and $XDG_RUNTIME_DIR
(extras/rootless/containerd-rootless.sh of nerdctl 2).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from mountcr.paths import fsdecode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mountcr.engines.roots import Place, Roots

__all__ = ["METADATA", "USUAL", "Instance", "Usual", "instances", "is_root", "named"]

METADATA: Final = "io.containerd.metadata.v1.bolt"
"""The directory in the root that holds `meta.db`."""

_SNAPSHOTTER: Final = "io.containerd.snapshotter.v1."
_SIZE_LIMIT: Final = 1 << 20
_IMPORTS: Final = 64


class Usual(NamedTuple):
    """
    Where to look unless told otherwise.

    `configurations` are files; `pairs` are a root and its state; `runtime` is where the shim has
    runc keep its state, whatever `state` is (cmd/containerd-shim-runc-v2/process/utils.go).
    """

    configurations: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    runtime: str


USUAL: Final = Usual(
    configurations=("/etc/containerd/config.toml", "/run/docker/containerd/containerd.toml"),
    pairs=(
        ("/var/lib/containerd", "/run/containerd"),
        ("/var/lib/docker/containerd/daemon", "/run/docker/containerd/daemon"),
        ("/var/lib/rancher/k3s/agent/containerd", "/run/k3s/containerd"),
        ("/var/lib/rancher/rke2/agent/containerd", "/run/k3s/containerd"),
    ),
    runtime="/run/containerd/runc",
)


class Instance(NamedTuple):
    """
    One containerd: its root, its state, and the snapshotters that have a root of their own.

    `runtime` is where runc keeps its state.
    """

    root: str
    state: str
    moved: Mapping[str, str]
    runtime: str

    @property
    def database(self) -> str:
        """The file that says which containers and snapshots there are."""
        return f"{self.root}/{METADATA}/meta.db"

    def snapshotter(self, name: str) -> str:
        """Give the directory of a snapshotter."""
        return self.moved.get(name) or f"{self.root}/{_SNAPSHOTTER}{name}"

    def bundles(self, namespace: str) -> str:
        """Give the directory that holds the bundles of the tasks of a namespace."""
        return f"{self.state}/io.containerd.runtime.v2.task/{namespace}"


def instances(roots: Roots, usual: Usual = USUAL) -> list[Instance]:
    """Give every containerd that is there, each once however its root is spelled."""
    if roots.places:
        return named(roots.places, usual)
    if not roots.looks_everywhere:
        return []
    configured = list(_configured(usual))
    pairs = ((root, state) for root, state in (*usual.pairs, *_rootless(roots.environ)))
    return _there([*configured, *(Instance(*pair, {}, usual.runtime) for pair in pairs)])


def named(places: Iterable[Place], usual: Usual = USUAL) -> list[Instance]:
    """Give every place that is one of containerd; its state is looked up where it is not given."""
    configured = {os.path.realpath(each.root): each for each in _configured(usual)}
    pairs = {os.path.realpath(root): state for root, state in usual.pairs}
    found: list[Instance] = []
    for place in places:
        root = fsdecode(place.data)
        known = configured.get(os.path.realpath(root))
        state = known.state if known else pairs.get(os.path.realpath(root), usual.pairs[0][1])
        run = fsdecode(place.run) if place.run else state
        found.append(Instance(root, run, known.moved if known else {}, usual.runtime))
    return _there(found)


def is_root(directory: str) -> bool:
    """Tell whether a directory is the root of a containerd."""
    return os.path.isdir(f"{directory}/{METADATA}")


def _there(found: Iterable[Instance]) -> list[Instance]:
    """Drop what is no root of containerd, and what has been given before."""
    kept: dict[str, Instance] = {}
    for each in found:
        if is_root(each.root):
            kept.setdefault(os.path.realpath(each.root), each)
    return list(kept.values())


def _rootless(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Give the directories that a containerd of a user who is not root has."""
    home, run = environ.get("HOME"), environ.get("XDG_RUNTIME_DIR")
    data = environ.get("XDG_DATA_HOME") or (f"{home}/.local/share" if home else "")
    if data and run:
        yield f"{data}/containerd", f"{run}/containerd"


def _configured(usual: Usual) -> Iterator[Instance]:
    """Give what the configuration files name; what is damaged names nothing."""
    for file in usual.configurations:
        root, state = usual.pairs[0]
        moved: dict[str, str] = {}
        tables = _tables(file)
        for table in tables:
            root = _text(table, "root") or root
            state = _text(table, "state") or state
            moved |= _moved(table)
        if tables:
            yield Instance(root, state, moved, usual.runtime)


def _tables(file: str) -> list[dict[str, object]]:
    """Read a configuration and what it imports, in the order in which they count."""
    waiting, seen = [file], set[str]()
    found: list[dict[str, object]] = []
    while waiting and len(seen) < _IMPORTS:
        path = waiting.pop(0)
        table = None if path in seen else _table(path)
        seen.add(path)
        if table is not None:
            found.append(table)
            waiting.extend(_imports(table, os.path.dirname(path)))
    return found


def _table(file: str) -> dict[str, object] | None:
    try:
        with open(file, "rb") as opened:
            text = opened.read(_SIZE_LIMIT).decode()
    except (OSError, UnicodeDecodeError):
        return None
    import tomllib  # few machines have a configuration

    try:
        return cast("dict[str, object]", tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _imports(table: Mapping[str, object], directory: str) -> Iterator[str]:
    """Give the files that a configuration imports: patterns, relative to its own directory."""
    import glob

    patterns = table.get("imports")
    for pattern in cast("list[object]", patterns) if isinstance(patterns, list) else ():
        if isinstance(pattern, str):
            yield from sorted(glob.glob(os.path.join(directory, pattern)))


def _moved(table: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Give the snapshotters that have a root of their own; version 1 has their short names."""
    for name, settings in _part(table, "plugins").items():
        if isinstance(settings, dict):
            root = _text(cast("dict[str, object]", settings), "root_path")
            if root:
                yield name.removeprefix(_SNAPSHOTTER), root


def _part(table: Mapping[str, object], key: str) -> dict[str, object]:
    found = table.get(key)
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}


def _text(table: Mapping[str, object], key: str) -> str:
    found = table.get(key)
    return found if isinstance(found, str) else ""
