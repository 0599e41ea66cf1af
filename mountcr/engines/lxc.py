# SPDX-License-Identifier: Apache-2.0
"""
Containers of LXC, from the configurations below its `lxcpath`: `NAME/config`.

LXC keeps no state on disk. A container runs if there is a process in the control group
`lxc.payload.NAME`; the parent of its init says `[lxc monitor] LXCPATH NAME`, as long as it runs in
the background (LXC 5.0, measured). Included files are recorded and not read: those that LXC brings
say nothing of layers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec

from mountcr.container import Container, ContainerMount
from mountcr.engines.process import Init, freezers, oci_status
from mountcr.engines.reading import Reader, names_in
from mountcr.paths import encode, from_line, fsdecode, join, parent
from mountcr.procstat import read_stat, read_status
from mountcr.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mountcr.container import Damage
    from mountcr.engines.roots import Roots
    from mountcr.paths import KPath

__all__ = ["USUAL", "Lxc", "Running", "Usual", "inits"]

_OLD_KEYS: Final = {
    "lxc.rootfs": "lxc.rootfs.path",
    "lxc.utsname": "lxc.uts.name",
    "lxc.mount": "lxc.mount.fstab",
}
"""Keys before LXC 2.1, and what they are called since (lxc-update-config(1))."""

_PATH: Final = "lxc.rootfs.path"
_KEPT: Final = ("lxc.uts.name", "lxc.rootfs.options", "lxc.idmap")
_MONITOR: Final = "[lxc monitor] "

_DIRECTORIES: Final = frozenset({"dir", "btrfs"})
_OVERLAYS: Final = frozenset({"overlay", "overlayfs"})
_OTHERS: Final = frozenset({"aufs", "loop", "lvm", "nbd", "rbd", "zfs"})
"""Backends: the words before the colon of `lxc.rootfs.path` (src/lxc/storage of LXC 5.0)."""

_PROPAGATIONS: Final = frozenset(
    {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
)
_FIELDS: Final = 4
"""Of a line of fstab(5), as far as they are read: source, destination, type, options."""


class Usual(NamedTuple):
    """Where LXC of root looks unless told otherwise: its own configuration, and the lxcpath."""

    configuration: str
    path: str


USUAL: Final = Usual("/etc/lxc/lxc.conf", "/var/lib/lxc")


class Running(NamedTuple):
    """The init of a container, and the lxcpath that its monitor told, empty if it did not."""

    pid: int
    start_time: int
    cgroup: str
    lxcpath: str


class _Config(NamedTuple):
    """A configuration: each key with its values, the last reset and the keys' new names applied."""

    file: str
    values: Mapping[str, Sequence[str]]

    def last(self, key: str) -> str:
        """Give the value that counts of a key that has one."""
        return next(reversed(self.values.get(key, ())), "")


class Lxc:
    """
    The containers of LXC: `<lxcpath>/<name>/config`.

    `usual` says where they are looked for, `running` which run by their names, None to look.
    """

    name: ClassVar[str] = "lxc"

    def __init__(
        self, usual: Usual = USUAL, running: Mapping[str, Sequence[Running]] | None = None
    ) -> None:
        self._usual: Final = usual
        self._inits = running

    def containers(self, roots: Roots) -> Iterator[Container]:
        """Give every directory with a configuration, running or not."""
        for lxcpath in self._lxcpaths(roots):
            for name in names_in(lxcpath):
                if os.path.isfile(f"{lxcpath}/{name}/config"):
                    yield self._container(lxcpath, name)

    def describe(self, container: Container, roots: Roots) -> Container:  # noqa: ARG002 -- the Protocol's
        """Add what the configuration says: layers and mounts."""
        if container.state_root is None:
            return container
        reader = Reader(container.state_root)
        config = _read(fsdecode(join(container.state_root, f"{container.id}/config")), reader)
        storage, stack = _stack(config, reader)
        if stack and stack.driver == "vfs":
            rootfs: KPath | None = stack.directories[0]
        else:
            mounted = config.last("lxc.rootfs.mount")
            rootfs = encode(mounted) if mounted else None
        for included in config.values.get("lxc.include", ()):
            reader.tell("included, not read", config.file, f"lxc.include = {included}")
        return msgspec.structs.replace(
            container,
            storage=storage,
            stack=stack,
            rootfs=rootfs,
            mounts=tuple(_mounts(config, reader)),
            labels={key: config.last(key) for key in _KEPT if config.last(key)},
            damages=tuple(dict.fromkeys((*container.damages, *reader.damages))),
            provenance=(*container.provenance, *reader.told),
        )

    def damages(self) -> Sequence[Damage]:
        """Give nothing: what is damaged is a container's."""
        return ()

    def lookup(self, reference: str, roots: Roots) -> Sequence[Container] | None:
        """Answer nothing: a name or its beginning needs the list."""

    def _lxcpaths(self, roots: Roots) -> list[str]:
        """Give the directories that hold containers, each once."""
        if roots.places:
            found = [fsdecode(place.data) for place in roots.places]
            return [each for each in found if any(map(_is_lxc, _configs(each)))]
        if not roots.looks_everywhere:
            return []
        home = roots.environ.get("HOME", "")
        found = [_setting(self._usual.configuration) or self._usual.path, self._usual.path]
        if home:
            found.append(_setting(f"{home}/.config/lxc/lxc.conf") or f"{home}/.local/share/lxc")
        once: dict[str, str] = {}
        for each in found:
            once.setdefault(os.path.realpath(each), each.rstrip("/"))
        return list(once.values())

    def _container(self, lxcpath: str, name: str) -> Container:
        file = f"{lxcpath}/{name}/config"
        reader = Reader(encode(lxcpath))
        reader.tell("container", file)
        config = _read(file, reader)
        running = self._running(lxcpath, name)
        if running is None:
            told = f"pid: no process is in the control group lxc.payload.{encode(name)}"
        else:
            told = f"pid: /proc/{running.pid}/cgroup: {encode(running.cgroup)}"
        group = running.cgroup if running else ""
        init = Init(running.pid, running.start_time, "") if running else Init(0, 0, "")
        return Container(
            id=encode(name),
            engine=self.name,
            name=encode(name),
            pid=init.pid,
            start_time=init.start_time,
            status=oci_status(init, None, freezers(group)),
            storage=_backend(config.last(_PATH))[0],
            state_root=encode(lxcpath),
            cgroup=encode(group) if group else None,
            damages=tuple(reader.damages),
            provenance=(*reader.told, told),
        )

    def _running(self, lxcpath: str, name: str) -> Running | None:
        """
        Find the init of a container.

        What a monitor says counts; LXC appends a number to the control group where another
        container has its name.
        """
        if self._inits is None:
            self._inits = inits()
        path = os.path.realpath(lxcpath)
        for running in self._inits.get(name, ()):
            if not running.lxcpath or os.path.realpath(running.lxcpath) == path:
                return running
        return None


def inits() -> dict[str, list[Running]]:
    """Give the inits of all containers by their names: the outermost process with inner pid 1."""
    from mountcr.engines.cgroup import member_of, members  # its patterns take their time

    found: dict[str, list[Running]] = {}
    for pid, member in members(""):
        if member.engine != "lxc":
            continue
        try:
            inner = read_status(pid).inner_pids
            stat = read_stat(pid)
            above = member_of(stat.parent)[1] if stat.parent else None
            cgroup = member_of(pid)[0]
        except OSError:
            continue
        nested = above is not None and above == member
        if stat.ended or nested or inner[-1] != 1:
            continue
        lxcpath, name = _told_by_monitor(stat.parent)
        running = Running(pid, stat.start_time, cgroup, lxcpath)
        found.setdefault(name or member.id, []).append(running)
    return found


def _told_by_monitor(pid: int) -> tuple[str, str]:
    """Give lxcpath and name in the title of a monitor; empty for another process."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            title = os.fsdecode(file.read()).partition("\0")[0]
    except OSError:
        return "", ""
    if not title.startswith(_MONITOR):
        return "", ""
    lxcpath, _, name = title.removeprefix(_MONITOR).rpartition(" ")
    return lxcpath, name


def _configs(lxcpath: str) -> Iterator[str]:
    for name in names_in(lxcpath):
        if os.path.isfile(f"{lxcpath}/{name}/config"):
            yield f"{lxcpath}/{name}/config"


def _is_lxc(file: str) -> bool:
    return bool(_read(file, Reader(encode(os.path.dirname(file)))).values)


def _setting(file: str) -> str:
    """Give the lxcpath that a configuration of LXC itself names (lxc.system.conf(5))."""
    config = _read(file, Reader(encode(os.path.dirname(file))), optional=True)
    return config.last("lxc.lxcpath")


def _read(file: str, reader: Reader, *, optional: bool = False) -> _Config:
    """Read the keys of LXC: `key = value`; one without value drops what was before it."""
    values: dict[str, list[str]] = {}
    for line in os.fsdecode(reader.content(file, optional=optional) or b"").splitlines():
        key, equals, value = (each.strip() for each in line.partition("="))
        key = _OLD_KEYS.get(key, key)
        if not equals or not key.startswith("lxc."):
            continue
        if value:
            values.setdefault(key, []).append(value)
        else:
            values.pop(key, None)
    return _Config(file, values)


def _backend(path: str) -> tuple[str, str]:
    """Take the backend off `lxc.rootfs.path`; a path alone is a directory."""
    word, colon, rest = path.partition(":")
    known = word in _DIRECTORIES | _OVERLAYS | _OTHERS
    return (word, rest) if colon and known else ("dir" if path else "", path)


def _stack(config: _Config, reader: Reader) -> tuple[str, Stack | None]:
    """Give the backend and the layers of a root file system."""
    backend, rest = _backend(config.last(_PATH))
    stack: Stack | None = None
    if not rest:
        reader.tell("root: the host's, for none is named", config.file)
    elif backend in _OVERLAYS:
        stack = _overlay(rest, config, reader)
    elif backend in _DIRECTORIES:
        stack = Stack(driver="vfs", upper=encode(rest))
    else:
        what = f"mountcr reads directories and overlays of LXC, no backend {backend}"
        reader.damaged(config.file, _PATH, what)
    if stack is None:
        return backend, None
    absent = [each for each in stack.directories if not os.path.isdir(fsdecode(each))]
    for each in absent:
        what = f"is no directory; {encode(config.file)}: {_PATH} names it"
        reader.damaged(fsdecode(each), "", what)
    if absent:
        return backend, None
    reader.tell("layers", config.file, _PATH)
    told = (f"layers: {encode(config.file)}: {_PATH}",)
    return backend, msgspec.structs.replace(stack, provenance=told)


def _overlay(rest: str, config: _Config, reader: Reader) -> Stack | None:
    """
    Read `LOWER:…:UPPER`, the lower layers top first; the work directory is beside upper.

    That is so in `ovl_mount()` in src/lxc/storage/overlay.c of LXC 5.0.
    """
    *lowers, upper = (encode(os.path.normpath(each)) for each in rest.split(":"))
    if not lowers or not all(each.startswith("/") for each in (*lowers, upper)):
        reader.damaged(config.file, _PATH, f"{encode(rest)} is not LOWER:UPPER")
        return None
    work = join(parent(upper), "work")
    return Stack(driver="overlay", lowers=tuple(lowers), upper=upper, work=work)


def _mounts(config: _Config, reader: Reader) -> Iterator[ContainerMount]:
    """Give the mounts of `lxc.mount.entry`, and of the file that `lxc.mount.fstab` names."""
    entries = list(config.values.get("lxc.mount.entry", ()))
    if entries:
        reader.tell("mounts", config.file, "lxc.mount.entry")
    file = config.last("lxc.mount.fstab")
    if file:
        beside = Reader(encode(os.path.dirname(file)))
        entries += os.fsdecode(beside.content(file) or b"").splitlines()
        reader.damages.extend(beside.damages)
        reader.tell("mounts", file)
    yield from _entries(entries)


def _entries(lines: Iterable[str]) -> Iterator[ContainerMount]:
    """Read lines of fstab(5), which escapes as mountinfo does; destinations are in the root."""
    for line in lines:
        fields = line.split()
        if len(fields) < _FIELDS or fields[0].startswith("#"):
            continue
        source, destination, kind, options = fields[:_FIELDS]
        words = options.split(",")
        bound = not {"bind", "rbind"}.isdisjoint(words)
        yield ContainerMount(
            destination=from_line(os.fsencode("/" + destination.strip("/"))),
            type="bind" if bound else kind,
            source=from_line(os.fsencode(source)) if bound else None,
            readonly="ro" in words,
            propagation=next((each for each in words if each in _PROPAGATIONS), ""),
        )
