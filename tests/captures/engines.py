# SPDX-License-Identifier: Apache-2.0
"""
Recorded engines: what is read of a state directory, against what engine and kernel said.

A capture has the data root of Docker (`data`), the graph root of containers/storage (`root`), the
databases of containerd (`meta.db`, `metadata.db`) or the state of runc or crun (`state.json`,
`status`), and beside it what the engine answered and the `mountinfo` of the container. Its root
lies elsewhere than it was, and the directories of the layers are not there; so paths are compared
from the root on.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mountcr.engines import Place, Roots, engines
from mountcr.mountinfo import parse_table
from mountcr.overlayopts import parse_options
from mountcr.paths import ROOT, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mountcr.model import Container, Mount

__all__ = ["Claim", "claims", "is_engine_capture"]


class Claim(NamedTuple):
    """One fact of a container: as it was read, and as engine or kernel said it."""

    fact: str
    read: object
    said: object

    @property
    def right(self) -> bool:
        """Whether both are the same."""
        return self.read == self.said


def is_engine_capture(path: Path) -> bool:
    """Tell whether a directory has the state of an engine, and the mount table of a container."""
    states = ("data/containers", "root", "meta.db", "state.json", "status")
    return (path / "mountinfo").exists() and any((path / each).exists() for each in states)


def claims(capture: Path) -> list[Claim]:
    """Give every fact of the container of a capture that something else tells too."""
    with tempfile.TemporaryDirectory(prefix="mountcr-capture-") as scratch:
        place = Path(scratch) / "here"
        if (capture / "data/containers").exists():
            return list(_docker(capture, place))
        if (capture / "root").exists():
            return list(_podman(capture, place))
        if (capture / "meta.db").exists():
            return list(_containerd(capture, place))
        return list(_runtime(capture, place))


def _described(name: str, roots: Roots, identity: str = "") -> Container:
    """Describe the container of an engine, which is the only one or has this id."""
    engine = next(each for each in engines() if each.name == name)
    found = [each for each in engine.containers(roots) if identity in {"", each.id}]
    return engine.describe(found[0], roots)


def _inspected(capture: Path) -> dict[str, Any]:
    (found,) = json.loads((capture / "inspect.json").read_bytes())
    return dict(found)


def _mounts(capture: Path) -> tuple[Mount, ...]:
    return parse_table((capture / "mountinfo").read_bytes())


def _docker(capture: Path, here: Path) -> Iterator[Claim]:
    said = _inspected(capture)
    was = str(said["HostnamePath"]).partition("/containers/")[0]
    shutil.copytree(capture / "data", here, symlinks=True)
    found = _described("docker", Roots(places=(Place(data=encode(str(here))),)))
    yield Claim("id", found.id, said["Id"])
    yield Claim("name", f"/{found.name}", said["Name"])
    yield Claim("storage driver", found.storage, said["Driver"])
    yield Claim("image", found.image, said["Config"]["Image"])
    yield Claim("recorded", found.recorded, said["State"]["Status"])
    yield Claim("labels", found.labels, said["Config"]["Labels"])
    files = {"hostname": "HostnamePath", "hosts": "HostsPath", "resolv.conf": "ResolvConfPath"}
    for name, field in files.items():
        yield Claim(name, _below(found.files.get(name), here), _below(said[field], was))
    yield from _given(found, said)
    yield from _layers(found, capture, said, here, was)


def _podman(capture: Path, here: Path) -> Iterator[Claim]:
    said = _inspected(capture)
    was = str(Path(said["StaticDir"]).parents[3])
    shutil.copytree(capture / "root", here / "root", symlinks=True)
    (here / "run").mkdir()
    packed = capture / "bolt_state.db.gz"
    if packed.exists():
        (here / "root/libpod").mkdir(exist_ok=True)
        database = here / "root/libpod/bolt_state.db"
        database.write_bytes(gzip.decompress(packed.read_bytes()))
    place = Place(data=encode(str(here / "root")), run=encode(str(here / "run")))
    found = _described("podman", Roots(places=(place,)), said["Id"])
    yield Claim("id", found.id, said["Id"])
    yield Claim("name", found.name, said["Name"])
    yield Claim("storage driver", found.storage, said["GraphDriver"]["Name"])
    yield Claim("image", found.image, said["ImageName"])
    yield Claim("configuration", _below(found.spec, here), _below(said["OCIConfigPath"], was))
    for name, field in (("hostname", "HostnamePath"), ("hosts", "HostsPath")):
        if said[field]:
            yield Claim(name, _below(found.files.get(name), here), _below(said[field], was))
    yield Claim("control group", found.cgroup, said["State"]["CgroupPath"])
    yield from _given(found, said)
    yield from _layers(found, capture, said, here, was)


def _containerd(capture: Path, here: Path) -> Iterator[Claim]:
    said = json.loads((capture / "container-info.json").read_bytes())
    snapshotter = str(said["Snapshotter"])
    for name, file in (
        ("io.containerd.metadata.v1.bolt", "meta.db"),
        (f"io.containerd.snapshotter.v1.{snapshotter}", "metadata.db"),
    ):
        (here / name).mkdir(parents=True)
        shutil.copy(capture / file, here / name)
    place = Place(data=encode(str(here)), run=encode(str(here / "state")))
    found = _described("containerd", Roots(places=(place,)), said["ID"])
    yield Claim("id", found.id, said["ID"])
    yield Claim("image", found.image, said["Image"])
    yield Claim("storage driver", found.storage, snapshotter)
    yield Claim("labels", found.labels, said["Labels"])
    bound = [each["source"] for each in said["Spec"]["mounts"] if each["type"] == "bind"]
    yield Claim("binds", [each.source for each in found.mounts if each.type == "bind"], bound)
    yield from _layers(found, capture, {}, here, "")


def _runtime(capture: Path, here: Path) -> Iterator[Claim]:
    """Compare the binds that a bundle asks for with those that are mounted."""
    spec = json.loads((capture / "config.json").read_bytes())
    directory = here / "lab"
    directory.mkdir(parents=True)
    for name in ("state.json", "status", "config.json"):
        if (capture / name).exists():
            shutil.copy(capture / name, directory)
    engine = "crun" if (capture / "status").exists() else "runc"
    found = _described(engine, Roots(runtime=(encode(str(here)),)))
    if engine == "runc":
        state = json.loads((capture / "state.json").read_bytes())
        yield Claim("id", found.id, state["id"])
        yield Claim("root file system", found.rootfs, state["config"]["rootfs"])
    else:
        status = json.loads((capture / "status").read_bytes())
        rootfs = f"{status['bundle']}/{status['rootfs']}"
        yield Claim("root file system", found.rootfs, rootfs)
        yield Claim("control group", found.cgroup, status["cgroup-path"])
        bound = {
            each["destination"] for each in spec["mounts"] if each.get("type") in {"bind", None}
        }
        given = {each.destination for each in found.mounts if each.type == "bind"}
        given |= {encode(f"/etc/{name}") for name in found.files}
        yield Claim("binds", given, bound)
        mounted = {each.mountpoint for each in _mounts(capture)}
        yield Claim("binds that are mounted", given & mounted, given)


def _given(found: Container, said: dict[str, Any]) -> Iterator[Claim]:
    """Compare volumes and binds, with type, source and whether they can be written."""
    read = {
        (each.destination, each.type, each.source, not each.readonly)
        for each in found.mounts
        if each.type in {"bind", "volume"}
    }
    # podman says an overlay over a directory as the bind of what it mounted for it
    told = {
        (each["Destination"], each["Type"], each["Source"], each["RW"])
        for each in said["Mounts"]
        if "/userdata/overlay/" not in each["Source"]
    }
    yield Claim("mounts", read, told)


def _layers(
    found: Container, capture: Path, said: dict[str, Any], here: Path, was: str
) -> Iterator[Claim]:
    """Compare the layers with what the engine says of them, and with the mount table."""
    stack = found.stack
    if stack is None:
        return
    lowers = [_below(each, here) for each in stack.lowers]
    driver: dict[str, Any] = said.get("GraphDriver") or {}
    data: dict[str, str] = driver.get("Data") or {}
    if "UpperDir" in data:
        told = [_below(each, was) for each in data.get("LowerDir", "").split(":") if each]
        yield Claim("layers by the engine", lowers, told)
        yield Claim("upper by the engine", _below(stack.upper, here), _below(data["UpperDir"], was))
    root = next(each for each in _mounts(capture) if each.mountpoint == ROOT)
    if root.fstype == "overlay":
        options = parse_options(root.super_options)
        names = _short_names(here)
        yield Claim("layers", _tails(lowers), _tails(_real(options.lowers, names)))
        for fact, one, other in (
            ("upper", stack.upper, options.upper),
            ("work", stack.work, options.work),
        ):
            yield Claim(fact, _tails([_below(one, here)]), _tails([str(other)]))
    elif not root.fstype.startswith("fuse"):
        directory = _below(stack.upper, here)
        yield Claim("directory", directory, root.root[-len(directory) :])


def _below(path: str | None, root: Path | str) -> str:
    """Give a path from a root on; another one as it is."""
    return str(path or "").replace(str(root), "", 1)


def _short_names(here: Path) -> dict[str, str]:
    """Give the layer of each short name, by the files `link`."""
    return {file.read_text().strip(): f"{file.parent.name}/diff" for file in here.glob("**/link")}


def _real(lowers: Iterable[str], names: dict[str, str]) -> list[str]:
    return [names.get(each.rpartition("/")[2], each) for each in lowers]


def _tails(paths: Iterable[str]) -> list[str]:
    """Give the last two names of paths, which tell a layer from all others."""
    return ["/".join(path.split("/")[-2:]) for path in paths]
