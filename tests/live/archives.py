# SPDX-License-Identifier: Apache-2.0
"""
Archives of other tools: what podman and containerd write is restored by mountcr, and what mountcr
writes by podman.

The steps are called as those of other trips: `dump` makes the archive, `plan` looks at it, `plan
down` verifies it and plans its restore, `rebuild` makes a bundle or another archive of it.

There is no CRI-O here and no CRI of containerd, so their archives are made by their documented
formats of a checkpoint of podman, which left it to the same runtime.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec

from live.containerd import Containerd
from live.ground import Trouble, wait
from live.images import HELD, LOG
from live.podman import Podman
from live.round_trip import Trip, count, holds, root_of, same

if TYPE_CHECKING:
    from pathlib import Path

    from live.engine import Running

__all__ = [
    "ForPodman",
    "FromContainerd",
    "FromContainerdsCri",
    "FromCrio",
    "FromPodman",
    "ImageForPodman",
    "ImageOfPodman",
]

_CHANGES = """
busybox mkdir -p /data/new/deep
echo new >/data/new/deep/file
busybox chmod 711 /data
echo changed >>/data/replaced
busybox ln -s /data/new /app/link
busybox rm -r /etc/motd
"""
"""What is done in a container: of it podman loses the mode, and the change of `/data/replaced`."""

_LOST = {"/data", "/data/replaced"}
_DIFFERENCES = 5


class _Difference(msgspec.Struct):
    path: str
    what: str


class _Verified(msgspec.Struct):
    differences: list[_Difference]


class _Archive(msgspec.Struct):
    format: str


class _Restored(msgspec.Struct):
    pid: int
    differences: list[msgspec.Raw]


class _ArchiveTrip(Trip):
    """A container that goes into an archive and comes out of it."""

    format = ""
    binds: tuple[object, ...] = ()

    def go(self, *, by_name: bool) -> None:  # noqa: ARG002 - it has no other name
        """Go through the steps as far as it makes sense."""
        started: list[Running] = []
        with self.outcome.step("run"):
            self.engine.start()
            self.outcome.version = self.engine.version()
            started.append(self.engine.run("mountcr-live"))
            holds(root_of(started[0].pid))
            self.change(started[0])
        if "run" in self.outcome.failed:
            return
        self.trip(started[0])

    def trip(self, running: Running) -> None:
        """Go on with a container that runs."""
        raise NotImplementedError

    def change(self, running: Running) -> None:
        """Change files in the container."""
        engine = self.engine
        assert isinstance(engine, Podman | Containerd)
        engine.execute(running, _CHANGES)

    def look(self, archive: Path) -> None:
        """Claim that the commands that only look take an archive for what it is."""
        said = self._mountcr("inspect", archive, "--json")
        same(msgspec.json.decode(said, type=_Archive).format, self.format, "the format")
        for command in ("facts", "graph", "files", "inspect"):
            self._mountcr(command, archive)

    def verify(self, archive: Path) -> set[str]:
        """Give the paths that differ from those of the container, which is known still."""
        status, said, complaint = self._start("verify", archive, "--json", *self.engine.roots())
        if status not in {0, _DIFFERENCES}:
            raise Trouble(f"mountcr verify: exit status {status}\n{complaint}")
        found = msgspec.json.decode(said, type=_Verified).differences
        self.outcome.notes += (f"verify: {each.path}: {each.what}" for each in found)
        return {each.path for each in found}

    def restore(self, archive: Path, name: str, *, gap: bool = False) -> None:
        """Claim that mountcr restores an archive; what it made is in a directory of that name."""
        at = self.ground.top / f"{name}-here"
        place = ("--id", f"mountcr-live-{name}", "--into", at, *self.engine.roots())
        said = self._mountcr("import", archive, *place, "--json")
        self.images = at / "images"
        allowed = ("--allow-bind", self.engine.volume, *self.binds)
        said = self._mountcr("restore", self.images, *allowed, "--json")
        restored = msgspec.json.decode(said, type=_Restored)
        self.ground.remember(restored.pid)
        try:
            self.goes_on(restored.pid, gap=gap)
            if restored.differences:
                raise Trouble(f"differs: {restored.differences}")
        finally:
            self.ground.end(restored.pid)

    def goes_on(self, pid: int, *, gap: bool = False) -> None:
        """
        Claim that it counts on, and that what was made and removed in it is so.

        Its engine may have let the log run on behind its checkpoint: then there may be a `gap`.
        """
        root = root_of(pid)
        before = count(root)
        wait(lambda: count(root) > before + 2, f"the counter to go on from {before}")
        self.outcome.before = self.outcome.before or before
        self.outcome.after = count(root)
        lines = (root / LOG.lstrip("/")).read_text().split()
        if not gap and lines != [str(number + 1) for number in range(len(lines))]:
            raise Trouble(f"{LOG} has a gap: {' '.join(lines)}")
        same((root / "data/new/deep/file").read_text(), "new\n", "/data/new/deep/file")
        same(str((root / "app/link").readlink()), "/data/new", "/app/link")
        for path in ("/scratch/before", "/dev/shm/before"):
            same((root / path.lstrip("/")).read_text(), HELD[path], path)
        if (root / "etc/motd").exists():
            raise Trouble("/etc/motd is there, which was removed")

    def plan(self, archive: Path) -> None:
        """Claim that a restore of the archive is not refused."""
        words = ("--for", "restore", "--allow-bind", self.engine.volume, *self.engine.roots())
        self._plan(archive, *words, *self.binds)


def _is_complete(pid: int) -> None:
    """Claim that there is what podman loses."""
    root = root_of(pid)
    same((root / "data/replaced").read_text(), "by the second layer\nchanged\n", "/data/replaced")
    same(f"{(root / 'data').stat().st_mode & 0o7777:o}", "711", "the mode of /data")


class FromPodman(_ArchiveTrip):
    """Podman writes, mountcr verifies and restores, and gives it back to podman."""

    format = "podman"

    def trip(self, running: Running) -> None:
        """Go there and back."""
        podman = self.engine
        assert isinstance(podman, Podman)
        archive, bundle = self.ground.top / "archive", self.ground.top / "bundle"
        back = self.ground.top / "back"
        with self.outcome.step("dump"):
            podman.checkpoint(running, archive)
        with self.outcome.step("plan"):
            self.look(archive)
        with self.outcome.step("plan down"):
            found = self.verify(archive)
            if found != _LOST:
                raise Trouble(f"podman loses {_LOST}, and verify says {found}")
            podman.forget(running)
            self.plan(archive)
        with self.outcome.step("rebuild"):
            self._mountcr("convert", archive, "--to", "bundle", "-o", bundle, *podman.roots())
            self._mountcr("convert", bundle, "--to", "podman", "-o", back, *podman.roots())
            self.look(back)
        with self.outcome.step("restore"):
            self.restore(archive, "directly")
            self.restore(bundle, "bundle")
            self.goes_on(podman.restored(running, back))
            podman.forget(running)


class ForPodman(_ArchiveTrip):
    """mountcr writes, podman restores, and what podman writes then is restored by mountcr."""

    format = "podman"

    def trip(self, running: Running) -> None:
        """Go there and back."""
        podman = self.engine
        assert isinstance(podman, Podman)
        bundle, archive = self.ground.top / "bundle", self.ground.top / "archive"
        again = self.ground.top / "again"
        with self.outcome.step("dump"):
            self._mountcr("export", f"podman:{running.name}", "-o", bundle, *podman.roots())
        with self.outcome.step("rebuild"):
            self._mountcr("convert", bundle, "--to", "podman", "-o", archive, *podman.roots())
        with self.outcome.step("plan"):
            self.look(archive)
        with self.outcome.step("plan down"):
            if found := self.verify(archive):
                raise Trouble(f"the archive lacks {found}")
            podman.forget(running)
        with self.outcome.step("restore"):
            pid = podman.restored(running, archive)
            self.goes_on(pid)
            _is_complete(pid)
            podman.checkpoint(running, again)
            podman.forget(running)
            self.restore(again, "again")


class ImageOfPodman(_ArchiveTrip):
    """Podman writes an image of a checkpoint, as for a registry, and mountcr restores it."""

    format = "podman"

    def trip(self, running: Running) -> None:
        """Go into the image and out of it."""
        podman = self.engine
        assert isinstance(podman, Podman)
        layout = self.ground.top / "layout"
        with self.outcome.step("dump"):
            podman.checkpoint_image(running, layout)
        with self.outcome.step("plan"):
            self.look(layout)
        with self.outcome.step("plan down"):
            podman.forget(running)
            self.plan(layout)
        with self.outcome.step("restore"):
            self.restore(layout, "image")


class ImageForPodman(_ArchiveTrip):
    """mountcr writes an image, which podman pulls and restores as one of its own."""

    format = "podman"

    def trip(self, running: Running) -> None:
        """Go into the image of a bundle, then into one for podman, and out of that."""
        podman = self.engine
        assert isinstance(podman, Podman)
        bundle, layout = self.ground.top / "bundle", self.ground.top / "layout"
        with self.outcome.step("dump"):
            self._mountcr("export", f"podman:{running.name}", "--oci", bundle, *podman.roots())
        with self.outcome.step("rebuild"):
            self._mountcr("convert", bundle, "--to", "podman", "--oci", layout, *podman.roots())
        with self.outcome.step("plan"):
            self.look(layout)
        with self.outcome.step("plan down"):
            if found := self.verify(layout):
                raise Trouble(f"the image lacks {found}")
            podman.forget(running)
        with self.outcome.step("restore"):
            pid = podman.restored_image(running, layout)
            self.goes_on(pid)
            _is_complete(pid)
            podman.forget(running)


class _Made(_ArchiveTrip):
    """An archive that is made of one of podman, by the format of another tool."""

    def trip(self, running: Running) -> None:
        """Go into the archive and out of it."""
        podman = self.engine
        assert isinstance(podman, Podman)
        written, archive = self.ground.top / "written", self.ground.top / "archive"
        with self.outcome.step("dump"):
            podman.checkpoint(running, written)
            self.make(written, archive)
        self.binds = self.given()
        with self.outcome.step("plan"):
            self.look(archive)
        with self.outcome.step("plan down"):
            podman.forget(running)
            self.plan(archive)
        with self.outcome.step("restore"):
            self.restore(archive, "directly")

    def given(self) -> tuple[object, ...]:
        """Make what a pod has for a container, and name it for mountcr."""
        top = self.ground.top / "pod"
        top.mkdir()
        for name in ("hosts", "hostname", "resolv.conf", "containerenv"):
            (top / name).write_text("of the pod\n")
        (top / "shm").mkdir()
        (top / "shm/before").write_text("written to the shared memory\n")
        pairs = {
            "/etc/hosts": "hosts", "/etc/hostname": "hostname",
            "/etc/resolv.conf": "resolv.conf",
            "/run/.containerenv": "containerenv", "/dev/shm": "shm",
        }  # fmt: skip
        words = [("--bind", f"{place}={top / name}") for place, name in pairs.items()]
        return tuple(word for each in words for word in each)

    def make(self, written: Path, archive: Path) -> None:
        """Make the archive."""
        top = self.ground.top / "members"
        top.mkdir()
        packed = subprocess.run(
            ["zstd", "--decompress", "--stdout", written], capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", top], input=packed.stdout, check=True)
        old: dict[str, Any] = json.loads((top / "config.dump").read_bytes())
        for name in ("devshm-checkpoint.tar", "network.status", "ctr.log"):
            (top / name).unlink()
        shutil.rmtree(top / "artifacts")
        config = {
            "id": old["id"],
            "name": "k8s_counter_pod_default_uid_0",
            "rootfsImage": old["rootfsImageName"],
            "rootfsImageRef": old["rootfsImageID"],
            "rootfsImageName": old["rootfsImageName"],
            "runtime": "runc",
            "createdTime": old["createdTime"],
            "checkpointedTime": old["createdTime"],
        }
        (top / "config.dump").write_text(json.dumps(config))
        self.complete(top, config)
        names = sorted(each.name for each in top.iterdir())
        subprocess.run(["tar", "-c", "-f", archive, "-C", top, *names], check=True)

    def complete(self, top: Path, config: dict[str, Any]) -> None:
        """Add what tells the format."""
        raise NotImplementedError


class FromCrio(_Made):
    """
    An archive in the format of CRI-O, which is that of the kubelet's checkpoints.

    The network namespace is made before the container, as that of a pod.
    """

    format = "cri-o"

    def go(self, *, by_name: bool) -> None:
        """Go with a network namespace, which comes back with loopback alone."""
        podman = self.engine
        assert isinstance(podman, Podman)
        name = f"mountcr-live-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            podman.network = f"ns:/run/netns/{name}"
            super().go(by_name=by_name)
        finally:
            subprocess.run(["ip", "netns", "delete", name], check=True)

    def complete(self, top: Path, config: dict[str, Any]) -> None:  # noqa: ARG002
        """Add `bind.mounts` and the log."""
        bind = {
            "source": str(self.engine.volume),
            "destination": "/data/vol",
            "file_type": "directory",
            "permissions": 0o20000000755,
        }
        (top / "bind.mounts").write_text(json.dumps([bind]))
        (top / "io.kubernetes.cri-o.LogPath").write_text("")


class FromContainerdsCri(_Made):
    """An archive in the format of the CRI of containerd: the diff is a layer, compressed."""

    format = "containerd-cri"

    def complete(self, top: Path, config: dict[str, Any]) -> None:
        """Add `status.dump`, and make a layer with whiteouts of the diff."""
        status = {
            "id": config["id"],
            "metadata": {"name": "counter"},
            "image": {"image": config["rootfsImageName"]},
            "image_ref": f"sha256:{config['rootfsImageRef']}",
        }
        (top / "status.dump").write_text(json.dumps(status))
        (top / "container.log").write_text("")
        layer = self.ground.top / "layer"
        layer.mkdir()
        diff = top / "rootfs-diff.tar"
        subprocess.run(["tar", "-x", "-f", diff, "-C", layer], check=True)
        for path in json.loads((top / "deleted.files").read_bytes()):
            parent, _, name = str(path).strip("/").rpartition("/")
            (layer / parent).mkdir(parents=True, exist_ok=True)
            (layer / parent / f".wh.{name}").write_text("")
        (top / "deleted.files").unlink()
        layer.chmod(0o555)
        subprocess.run(["tar", "-c", "-z", "-f", diff, "-C", layer, "."], check=True)


class FromContainerd(_ArchiveTrip):
    """A checkpoint image of ctr is restored by mountcr while containerd is down."""

    format = "containerd-image"

    def trip(self, running: Running) -> None:
        """Go into the archive and out of it."""
        containerd = self.engine
        assert isinstance(containerd, Containerd)
        archive = self.ground.top / "archive"
        with self.outcome.step("dump"):
            containerd.checkpoint(running, archive)
        containerd.stop_daemon()
        with self.outcome.step("plan"):
            self.look(archive)
        with self.outcome.step("plan down"):
            # ctr lets the task run on before it takes the layer
            if found := self.verify(archive) - {LOG}:
                raise Trouble(f"the archive lacks {found}")
            self.plan(archive)
        with self.outcome.step("restore"):
            self.restore(archive, "directly", gap=True)
