# SPDX-License-Identifier: Apache-2.0
"""Made-up containerds: databases that hold what a test puts into them, bundles, states of runc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boltwriter
from mountcr.engines import Place, Roots
from mountcr.engines.containerd import Containerd
from mountcr.engines.containerd.places import Usual
from mountcr.paths import encode

if TYPE_CHECKING:
    from boltwriter import Content
    from mountcr.container import Container
    from mountcr.procstat import ProcessStat

RECORDED: Final = Path(__file__).parent / "fixtures" / "engines" / "containerd"
SPEC_TYPE: Final = b"types.containerd.io/opencontainers/runtime-spec/1/Spec"
BUNDLES: Final = "io.containerd.runtime.v2.task"
SPEC: Final[dict[str, Any]] = json.loads(
    (RECORDED / "containerd1.6-overlayfs/runtime-config.json").read_bytes()
)
HEX: Final = "ab" * 32


def varint(number: int) -> bytes:
    """Spell a number as protocol buffers do."""
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def wrapped(url: bytes, value: bytes) -> bytes:
    """Give a `google.protobuf.Any`."""
    return b"\n" + varint(len(url)) + url + b"\x12" + varint(len(value)) + value


class Daemon:
    """A containerd in a directory; what is put into its databases is there after `write`."""

    def __init__(self, top: Path, name: str = "ctd") -> None:
        self.root = top / name / "root"
        self.state = top / name / "state"
        self.runtime = top / name / "runc"
        self.usual = Usual((), ((str(self.root), str(self.state)),), str(self.runtime))
        self.spaces: Content = {}
        self.snapshots: dict[str, Content] = {}
        (self.root / "io.containerd.metadata.v1.bolt").mkdir(parents=True)

    @property
    def meta(self) -> Path:
        """The database of containerd itself."""
        return self.root / "io.containerd.metadata.v1.bolt" / "meta.db"

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(data=encode(str(self.root)), run=encode(str(self.state)))

    @property
    def roots(self) -> Roots:
        """Roots that name it."""
        return Roots(places=(self.place,))

    def directory(self, snapshotter: str) -> Path:
        """Give the directory of a snapshotter."""
        return self.root / f"io.containerd.snapshotter.v1.{snapshotter}"

    def bundle(self, name: str, namespace: str = "default", spec: Any = SPEC) -> Path:
        """Make the bundle of a task."""
        path = self.state / BUNDLES / namespace / name
        (path / "rootfs").mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(spec))
        return path

    def runs(self, name: str, process: ProcessStat, namespace: str = "default") -> Path:
        """Make the bundle of a task that runs, and the state of runc."""
        bundle = self.bundle(name, namespace)
        (bundle / "init.pid").write_text(str(process.pid))
        state = json.loads((RECORDED / "containerd1.6-overlayfs/state.json").read_bytes())
        state |= {"id": name, "init_process_pid": process.pid}
        state["init_process_start"] = process.start_time
        state["config"] |= {"rootfs": f"{bundle}/rootfs", "labels": [f"bundle={bundle}"]}
        directory = self.runtime / namespace / name
        directory.mkdir(parents=True)
        (directory / "state.json").write_text(json.dumps(state))
        return bundle

    def container(
        self, name: str, namespace: str = "default", *, spec: Any = SPEC, **fields: Any
    ) -> Content:
        """Add a container without a snapshot, but with what is given."""
        labels = {key.encode(): text.encode() for key, text in fields.pop("labels", {}).items()}
        made: Content = {
            b"image": b"docker.io/library/app:1",
            b"snapshotter": b"overlayfs",
            b"spec": wrapped(SPEC_TYPE, json.dumps(spec).encode()),
            b"labels": labels,
            b"runtime": {b"name": b"io.containerd.runc.v2"},
        }
        made |= {key.encode(): value for key, value in fields.items()}
        self.space(namespace, b"containers")[name.encode()] = made
        return made

    def snapshot(
        self,
        key: str,
        number: int,
        kind: int,
        parent: str = "",
        *,
        namespace: str = "default",
        snapshotter: str = "overlayfs",
        **more: Any,
    ) -> Content:
        """Add a snapshot to both databases, and make the directories of overlayfs."""
        name = f"{namespace}/{number}/{key}"
        keys = self.space(namespace, b"snapshots").setdefault(snapshotter.encode(), {})
        assert isinstance(keys, dict)
        keys[key.encode()] = {b"name": name.encode(), b"parent": parent.encode()}
        made: Content = {b"id": varint(number), b"kind": bytes([kind])}
        if parent:
            above = keys[parent.encode()]
            assert isinstance(above, dict)
            made[b"parent"] = above[b"name"]
        made |= {word.encode(): value for word, value in more.items()}
        self.snapshots.setdefault(snapshotter, {})[name.encode()] = made
        path = self.directory(snapshotter) / "snapshots" / str(number)
        for below in ("fs", "work") if snapshotter == "overlayfs" else ("",):
            (path / below).mkdir(parents=True, exist_ok=True)
        return made

    def layered(self, name: str, namespace: str = "default", first: int = 1) -> Content:
        """Add a container on two layers, whose directories are numbered from `first`."""
        self.snapshot("sha256:base", first, 3, namespace=namespace)
        self.snapshot("sha256:top", first + 1, 3, "sha256:base", namespace=namespace)
        self.snapshot(name, first + 2, 2, "sha256:top", namespace=namespace)
        return self.container(name, namespace, snapshotKey=name.encode())

    def write(self, page_size: int = 4096) -> None:
        """Write the databases."""
        content: Content = {b"v1": {b"version": b"\x06", **self.spaces}}
        self.meta.write_bytes(boltwriter.database(content, page_size))
        for snapshotter, snapshots in self.snapshots.items():
            content = {b"v1": {b"snapshots": snapshots, b"parents": {}}}
            data = boltwriter.database(content, page_size)
            (self.directory(snapshotter) / "metadata.db").write_bytes(data)

    def described(self, name: str, namespace: str = "default") -> Container:
        """Describe a container."""
        engine = Containerd(self.usual)
        (found,) = [
            each
            for each in engine.containers(self.roots)
            if (each.namespace, each.id) == (namespace, name)
        ]
        return engine.describe(found, self.roots)

    def fs(self, number: int) -> str:
        """Give the layer of a snapshot of overlayfs."""
        return str(self.directory("overlayfs").resolve() / "snapshots" / str(number) / "fs")

    def space(self, namespace: str, part: bytes) -> Content:
        """Give a bucket of a namespace, to put something into."""
        space = self.spaces.setdefault(namespace.encode(), {})
        assert isinstance(space, dict)
        found = space.setdefault(part, {})
        assert isinstance(found, dict)
        return found


def said(container: Container) -> list[str]:
    """Give the damages of a container in words."""
    return [str(damage) for damage in container.damages]
