# SPDX-License-Identifier: Apache-2.0
"""
A data root of Docker in which the container of a test lies and runs, and `docker-cr` on it.

The layers are where a release has them; what runs is started without Docker, and is in the records
of the exec driver or of the runtime. The layers of drivers that this kernel lacks are directories.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from e2e.conftest import Finished
from mountcr.demo.launch import BindMount
from mountcr.procstat import read_stat
from unit.engines.dockertrees import Tree, hex64, short, write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from e2e.conftest import Place
    from mountcr.demo.launch import Devpts, Tmpfs

__all__ = ["LAYOUTS", "Home", "Layout"]

OWN = ("hostname", "hosts", "resolv.conf")
"""Files that Docker gives to every container."""


class Layout(NamedTuple):
    """A release of Docker with a storage driver."""

    release: str
    driver: str

    @property
    def is_old(self) -> bool:
        """Whether layers have the ids of images, as before 1.10."""
        return self.release in {"1.0", "1.5", "1.9"}


LAYOUTS = (
    *(Layout("1.0", driver) for driver in ("vfs", "btrfs")),
    *(Layout("1.5", driver) for driver in ("overlay", "vfs")),
    *(Layout("1.9", driver) for driver in ("overlay", "vfs", "zfs")),
    *(Layout("20.10", driver) for driver in ("overlay2", "overlay", "vfs")),
    *(Layout("28", driver) for driver in ("overlay2", "vfs", "btrfs")),
)


class Home:
    """The data root below a place, and the one container in it."""

    def __init__(self, place: Place, layout: Layout, *, directory: str = "home") -> None:
        self.place = place
        self.layout = layout
        self.tree = Tree(place.directory(directory))
        self.id = ""
        self.pid = 0
        self.merged = place.root
        self._lay()

    # Layers

    def _lay(self) -> None:
        """Write the image, the container and its records."""
        tree, driver = self.tree, self.layout.driver
        if not self.layout.is_old:
            image = tree.image(driver, 3)
            self.id = tree.container("web", driver, image)
            self._fill(hex64("layer", "web"), image[1])
        else:
            ids = tree.old_image(driver, 3)
            self.id = tree.old_container("web", driver, ids, **self._of_release())
            self._fill(self.id, ids)
            write(tree.data / "init/dockerinit-1", "#!/bin/false\n")
        for name in OWN:
            write(self.records / name, f"{name} of {self.layout.release}\n")

    def _of_release(self) -> dict[str, Any]:
        """Give what config.json has otherwise than that of 1.9."""
        if self.layout.release == "1.9":
            return {}
        return {"MountPoints": None, "Volumes": {}, "VolumesRW": {}, "ExecDriver": "native-0.2"}

    def _fill(self, own: str, image: Sequence[str]) -> None:
        """Put the layers of the place where the driver has them, and say where the root is."""
        place, driver = self.place, self.layout.driver
        home = self.tree.data / driver
        if driver == "overlay2":
            for layer, source in zip(image, place.layers, strict=True):
                copy(source, home / layer / "diff")
            below = [f"{own}-init", *image]
            place.layers = [home / "l" / short(layer) for layer in below]
            place.upper, place.work = home / own / "diff", home / own / "work"
            self.merged = home / own / "merged"
            self.merged.mkdir()
        elif driver == "overlay":
            whole = home / image[0] / "root"
            self._copy_all(whole)
            place.layers = [whole]
            place.upper, place.work = home / own / "upper", home / own / "work"
            self.merged = home / own / "merged"
        else:
            where = {"vfs": "dir", "btrfs": "subvolumes", "zfs": "graph"}[driver]
            self.merged = place.upper = home / where / own
            self._copy_all(self.merged)
        place.root = self.merged

    def _copy_all(self, directory: Path) -> None:
        """Copy what the union of the layers shows."""
        for source in reversed(self.place.layers):
            copy(source, directory)
        (directory / "var/old").unlink()

    # What runs

    @property
    def records(self) -> Path:
        """Where Docker's records of the container are."""
        return self.tree.directory(self.id)

    @property
    def is_union(self) -> bool:
        """Whether the root is mounted on the host."""
        return self.layout.driver.startswith("overlay")

    def mount(self) -> None:
        """Mount the root as the driver does."""
        if self.is_union:
            self.place.mount_overlay()

    def start(
        self,
        *command: str,
        binds: Sequence[BindMount | Tmpfs | Devpts] = (),
        mounted: bool = False,
        **more: Any,
    ) -> int:
        """Start the container, and record that; its root is `mounted` already, or is now."""
        if not mounted:
            self.mount()
        given = [BindMount(str(self.records / name), f"/etc/{name}") for name in OWN]
        inits = sorted((self.tree.data / "init").glob("*"))
        given += (BindMount(str(each), "/.dockerinit", readonly=True) for each in inits)
        self.pid = self.place.start(*command, binds=[*given, *binds], **more)
        self.record(self.pid)
        return self.pid

    def record(self, pid: int) -> None:
        """Write that a process is the container's, where the release keeps it."""
        started = read_stat(pid).start_time
        if self.layout.is_old:
            self.tree.executed(self.id, pid, started, cgroup_paths={}, namespace_paths={})
            return
        state = {
            "id": self.id,
            "init_process_pid": pid,
            "init_process_start": started,
            "config": {"rootfs": str(self.merged)},
        }
        directory = self.tree.run / "runtime-runc/moby" / self.id
        write(directory / "state.json", json.dumps(state))

    def configure(self, **changes: Any) -> None:
        """Change what Docker recorded of the container."""
        file = self.records / ("config.json" if self.layout.is_old else "config.v2.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def ends(self) -> None:
        """Take down what Docker does when a container has ended."""
        if str(self.merged) in self.place.mounted():
            self.place.unmount(self.merged)

    # The command

    @property
    def images(self) -> Path:
        """Where the checkpoint of the container is."""
        return self.tree.data / "criu_img" / self.id

    @property
    def new(self) -> Path:
        """Where it is until it is complete."""
        return self.images.with_name(f"{self.id}.new")

    def environment(self, **variables: object) -> dict[str, str]:
        """Give the variables of docker-cr beside those of the test; None unsets one."""
        given = {"DOCKER_HOME": self.tree.data, "CRIU_BINARY": self.place.criu, **variables}
        others = {k: v for k, v in os.environ.items() if k not in given}
        return others | {name: str(value) for name, value in given.items() if value is not None}

    def words(self, *words: object) -> list[str]:
        """Give the whole command line."""
        more = ("--runroot", self.tree.run)
        return [*(sys.executable, "-m", "mountcr", "docker-cr"), *map(str, (*more, *words))]

    def call(
        self, *words: object, said: str = "", umask: int = -1, **variables: object
    ) -> Finished:
        """Run docker-cr; on its standard input is `said`, and its end."""
        done = subprocess.run(
            self.words(*words),
            input=said,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            umask=umask,
            env=self.environment(**variables),
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def dump(self, *words: object, **more: Any) -> Finished:
        """Checkpoint the container, which must succeed, and end it as Docker would."""
        finished = self.call("-c", *(words or (self.id,)), **more)
        assert finished.status == 0, finished
        assert finished.out.endswith("dump successful\n")
        assert not self.new.exists()
        self.ends()
        return finished

    def restore(self, *words: object, **more: Any) -> Finished:
        """Restore the container, which must succeed; its pid is known then."""
        finished = self.call("-r", *(words or (self.id,)), **more)
        assert finished.status == 0, finished
        assert finished.out.endswith("restore successful\n")
        self.pid = int((self.images / "restore.pid").read_text())
        return finished

    def goes_on(self) -> None:
        """Claim that the counter goes on, and that the files of Docker are there."""
        self.place.goes_on()
        for name in OWN:
            text = (self.root / "etc" / name).read_text()
            assert text == f"{name} of {self.layout.release}\n"

    @property
    def root(self) -> Path:
        """The root of the container as it sees it."""
        from pathlib import Path

        return Path(f"/proc/{self.pid}/root")


def copy(source: Path, target: Path) -> None:
    """Copy a directory with all that may be in a layer."""
    target.mkdir(parents=True, exist_ok=True)
    # a device that stands for what is gone takes the place of what is there
    subprocess.run(["cp", "-a", "--remove-destination", f"{source}/.", str(target)], check=True)
