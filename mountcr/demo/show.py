# SPDX-License-Identifier: Apache-2.0
"""
The demonstration: a container on three layers is planned, frozen, taken apart, rebuilt, continued.

It needs no network, no engine and no daemon, takes seconds, and cleans up after itself, also when
it is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mountcr import journal, mountinfo, paths
from mountcr import manifest as manifests
from mountcr.demo.launch import BindMount, Recipe, Tmpfs, launch, stop
from mountcr.engines import find
from mountcr.errors import CapabilityError, VerificationError
from mountcr.graph import MountGraph
from mountcr.interrupts import held_back
from mountcr.kernel.live import LiveKernel
from mountcr.model import Record
from mountcr.observation import observe
from mountcr.operations.dump import dump
from mountcr.operations.leftovers import recorded
from mountcr.operations.rebuild import plan_rebuild, rebuild, unmount
from mountcr.operations.restore import restore
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.render.graph import outline_graph
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["DemoResult", "demonstrate"]

_SCRIPT: Final = b"""#!/bin/busybox sh
# counts into a file that stays open, and says so on a tmpfs and on the volume
exec 3>>/var/count
i=0
while :; do
    i=$((i+1))
    echo $i >&3
    echo $i > /run/now
    echo $i > /data/seen
    /bin/busybox sleep 0.02
done
"""

_MARK: Final = "MOUNTCR_DEMO"
"""In the environment of every process of the container: whose it is, if this is killed."""

_PATIENCE: Final = 5.0
"""Seconds to wait for the counter to move."""


class DemoResult(Record, frozen=True, kw_only=True, omit_defaults=False):
    """How far the counter was before the dump, at the dump, and after the restore."""

    schema: str = "mountcr/demo/1"
    driver: str
    started: int
    dumped: int
    restored: int
    frozen: float
    seconds: float


@dataclass(frozen=True)
class _Place:
    """The directories of the demonstration."""

    top: str

    def path(self, name: str) -> str:
        return f"{self.top}/{name}"

    def kpath(self, name: str) -> KPath:
        return encode(self.path(name))


def _busybox() -> str:
    found = shutil.which("busybox", path=os.environ.get("PATH", "") + ":/bin:/usr/bin")
    if found is None:
        msg = "the demo's container is made of busybox, and there is none"
        raise CapabilityError(msg, probe="busybox", hint="install busybox-static (tools/provision)")
    return found


def _write(path: str, content: bytes, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def _layers(place: _Place) -> OverlayOptions:
    """Make three lower layers: the program, a file that the top one hides, the script."""
    base, middle, top = (place.path(f"layers/{name}") for name in ("base", "middle", "top"))
    _write(f"{base}/etc/motd", b"from the base\n")
    os.makedirs(f"{base}/bin")
    shutil.copy(_busybox(), f"{base}/bin/busybox")
    os.chmod(f"{base}/bin/busybox", 0o755)  # noqa: S103  # a program
    _write(f"{base}/var/old", b"hidden by the middle layer\n")
    os.makedirs(f"{middle}/var")
    os.mknod(f"{middle}/var/old", 0o20000, os.makedev(0, 0))
    _write(f"{middle}/etc/motd", b"from the middle\n")
    _write(f"{top}/bin/counter", _SCRIPT, 0o755)
    for name in ("upper", "work", "root", "data"):
        os.mkdir(place.path(name))
    _write(place.path("hosts"), b"10.0.0.1 db\n")
    return OverlayOptions(
        lowers=tuple(encode(each) for each in (top, middle, base)),
        upper=place.kpath("upper"),
        work=place.kpath("work"),
    )


def _count(place: _Place, directory: str) -> int:
    """Read how far the counter is, from the layer it writes into."""
    try:
        with open(place.path(f"{directory}/var/count"), "rb") as file:
            lines = file.read().split()
    except FileNotFoundError:
        return 0
    return int(lines[-1]) if lines else 0


def _wait_beyond(read: Callable[[], int], value: int) -> int:
    """Wait until a counter is beyond a value. Raises VerificationError when it stands still."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        now = read()
        if now > value:
            return now
        time.sleep(0.02)
    raise VerificationError(f"the counter stands still at {value}")


@contextlib.contextmanager
def _place() -> Generator[_Place]:
    """Give a directory, and remove it at the end with every mount that is on it."""
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(recorded("demo"))
        with held_back():
            name = f"mountcr-demo-{secrets.token_hex(8)}"
            top = os.path.join(os.path.realpath(tempfile.gettempdir()), name)
            path = os.fsencode(top)
            journal.make_partial(path, path, 0o700, ground=True)
            cleanup.callback(_remove, top)
            journal.note(journal.Processes(token=f"{_MARK}={top}", what="container"))
        yield _Place(top)


def _remove(top: str) -> None:
    """Unmount what is below a directory, and remove it."""
    with held_back():
        kernel = LiveKernel()
        for mount in reversed(mountinfo.read()):
            if paths.is_beneath(mount.mountpoint, encode(top)):
                with contextlib.suppress(OSError):
                    kernel.unmount(mount.mountpoint)
        shutil.rmtree(top)


def demonstrate(driver: str, say: Callable[[str], None]) -> DemoResult:
    """
    Run the demonstration and give what the counter did.

    `driver` is the storage driver that the root comes back on, overlay or vfs. Raises
    VerificationError when the counter did not go on, and what dump, rebuild and restore raise;
    nothing is left behind in any case.
    """
    began = time.monotonic()
    with _place() as place, contextlib.ExitStack() as running:
        kernel = LiveKernel()
        kernel.mount_overlay(place.kpath("root"), _layers(place))
        say("a container of busybox: three layers, a bind of hosts, a volume, a tmpfs, a counter")
        with held_back():
            pid = launch(
                Recipe(
                    root=place.path("root"),
                    command=["/bin/counter"],
                    mounts=[
                        BindMount(place.path("hosts"), "/etc/hosts"),
                        BindMount(place.path("data"), "/data"),
                        Tmpfs("/run"),
                    ],
                    environment={"PATH": "/bin", _MARK: place.top},
                )
            )
            running.callback(stop, pid)
        started = _wait_beyond(lambda: _count(place, "upper"), 0)
        images, choices = place.kpath("images"), Choices(images=place.kpath("images"))
        _explain(pid, choices, say)
        frozen = dump(find(str(pid)), choices).seconds.frozen
        dumped = _count(place, "upper")
        say(f"mountcr dump: frozen for {frozen:.2f} s, the counter stands at {dumped}")
        kernel.unmount(place.kpath("root"))
        say("umount: the root file system is taken apart")
        _rebuild(place, _converted(place, driver, "look"), images, say)
        result = restore(images, _converted(place, driver, "converted"))
        running.callback(stop, result.pid)
        written = "upper" if driver == "overlay" else "converted"
        restored = _wait_beyond(lambda: _count(place, written), dumped)
        say(f"mountcr restore: pid {result.pid}, mounts equal, the counter went on: {restored}")
    return DemoResult(
        driver=driver,
        started=started,
        dumped=dumped,
        restored=restored,
        frozen=frozen,
        seconds=round(time.monotonic() - began, 2),
    )


def _explain(pid: int, choices: Choices, say: Callable[[str], None]) -> None:
    facts = observe(find(str(pid)))
    say("mountcr plan:")
    say(outline_plan(make_plan(facts, choices)).plain())
    say("mountcr graph:")
    say(outline_graph(MountGraph(facts.namespaces)).plain())


def _converted(place: _Place, driver: str, name: str) -> Choices:
    """Choose a driver; one that the container did not run on writes into a directory of its own."""
    return Choices(driver=driver, upper=None if driver == "overlay" else place.kpath(name))


def _rebuild(place: _Place, choices: Choices, images: KPath, say: Callable[[str], None]) -> None:
    """Rebuild on the driver asked for, look at the result, and unmount it again."""
    at = place.kpath("root")
    facts = manifests.read(images).facts
    rootfs = plan_rebuild(make_plan(facts, choices), at)
    rebuild(rootfs, at, report=lambda step: say(f"  + {step.describe()}"))
    with open(place.path("root/etc/motd"), encoding="ascii") as file:
        motd = file.read().strip()
    hidden = not os.path.exists(place.path("root/var/old"))
    say(f"mountcr rebuild: on {rootfs.driver}, /etc/motd is {motd!r}, whiteout kept: {hidden}")
    unmount(at)
