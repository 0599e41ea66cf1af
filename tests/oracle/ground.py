# SPDX-License-Identifier: Apache-2.0
"""
The host's side of random containers: one temporary directory, layers, and what can be bound.

The directory is a mount of its own, shared as on most hosts. Everything lies below it, so that
whatever is left there after a container can be found and undone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from mountcr import mountinfo
from mountcr.kernel import mounts, syscalls
from mountcr.kernel.live import LiveKernel
from mountcr.overlayopts import OverlayOptions
from mountcr.paths import KPath, decode, encode
from oracle.recipe import DIRECTORIES, FILES, SYSTEM, BindOutside, Overlay, Recipe

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Ground", "Place", "unmount_below"]

_DEVICES: Final = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
_IMAGE_SIZE: Final = 4 << 20


class Ground:
    """Where the containers of a run live; a context manager that leaves nothing mounted."""

    def __init__(self, busybox: str) -> None:
        self.top = Path(os.path.realpath(tempfile.mkdtemp(prefix="mountcr-oracle-")))
        self.base = self.top / "base"
        self._busybox = busybox
        self._loop = ""

    def __enter__(self) -> Self:
        at = encode(str(self.top))
        mounts.rebind(at, at)
        mounts.set_propagation(at, "private")
        mounts.set_propagation(at, "shared")
        _fill(self.base, self._busybox)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unmount_below(self.top)
        if self._loop:
            subprocess.run(["losetup", "--detach", self._loop], check=False)
        shutil.rmtree(self.top)

    def loop_device(self) -> str:
        """Give a loop device with an ext4 on it, empty where that cannot be had."""
        image = self.top / "ext4.img"
        if image.exists():
            return self._loop
        with image.open("wb") as file:
            file.truncate(_IMAGE_SIZE)
        make = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(image)]
        attach = ["losetup", "--find", "--show", str(image)]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(make, check=True, capture_output=True)
            done = subprocess.run(attach, check=True, capture_output=True, text=True)
            self._loop = done.stdout.strip()
        return self._loop


def _fill(base: Path, busybox: str) -> None:
    """Make the lowest layer: a program, device nodes, the directories and files of recipes."""
    for name in (*DIRECTORIES, *SYSTEM, b"/bin"):
        os.makedirs(os.fsencode(base) + name)
    for name in FILES:
        path = os.fsencode(base) + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(name + b"\n")
    shutil.copy(busybox, base / "bin/busybox")
    (base / "bin/busybox").chmod(0o755)
    for device, minor in _DEVICES:
        os.mknod(base / "dev" / device, 0o20666, os.makedev(1, minor))
        (base / "dev" / device).chmod(0o666)


def unmount_below(top: Path) -> None:
    """
    Unmount all that is mounted below a directory, and at it, the last first.

    Raises RuntimeError when something stays, so that nobody removes what is in it.
    """
    for mountpoint in reversed(_mounted_below(top)):
        with contextlib.suppress(OSError):  # propagation may have taken it already
            syscalls.umount2(mountpoint, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    if left := _mounted_below(top):
        raise RuntimeError(f"still mounted: {left}")


def _mounted_below(top: Path) -> list[bytes]:
    at = os.fsencode(top)
    found = [decode(mount.mountpoint) for mount in mountinfo.read()]
    return [each for each in found if each == at or each.startswith(at + b"/")]


class Place:
    """The directories of one container; `root` is where its root is mounted on the host."""

    def __init__(self, ground: Ground, name: str) -> None:
        self.ground = ground
        self.top = ground.top / name
        self.root = self.top / "root"
        self.sources = self.top / "sources"
        for directory in (self.root, self.sources):
            directory.mkdir(parents=True)
        self._ext4 = False

    def path(self, name: str) -> KPath:
        """Give a path below the place in mountinfo spelling."""
        return encode(str(self.top / name))

    def prepare(self, recipe: Recipe) -> None:
        """Mount the root, and make and mount what the recipe binds."""
        if recipe.lowers:
            self._mount_layers(recipe.lowers)
        else:
            flat = self.top / "flat"
            shutil.copytree(self.ground.base, flat, symlinks=True, copy_function=_copy)
            LiveKernel().bind(encode(str(flat)), self.path("root"))
        kind = "shared" if recipe.propagation == "slave" else "private"
        mounts.set_propagation(self.path("root"), kind)
        for operation in recipe.operations:
            if isinstance(operation, BindOutside):
                self._source(operation.source)
            elif isinstance(operation, Overlay) and operation.layers == "host":
                self._host_layers()

    def close(self) -> None:
        """Unmount everything and remove it; raises RuntimeError when something stays mounted."""
        unmount_below(self.top)
        if self._ext4:
            self._mount_ext4(self.root)
            for each in self.root.iterdir():
                if each.name != "lost+found":
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
            unmount_below(self.root)
        shutil.rmtree(self.top)

    def _mount_layers(self, count: int) -> None:
        """Each layer adds a file and all but the lowest one replace one."""
        for number in range(count - 1):
            layer = self.top / f"layer{number}"
            (layer / "etc").mkdir(parents=True)
            (layer / f"etc/layer{number}").write_text(f"{number}\n")
            (layer / "etc/hosts").write_text(f"hosts of {number}\n")
        (self.top / "upper").mkdir()
        (self.top / "work").mkdir()
        self._mount_overlay(count)

    def _mount_overlay(self, count: int) -> None:
        layers = [self.path(f"layer{number}") for number in range(count - 1)]
        options = OverlayOptions(
            lowers=(*layers, encode(str(self.ground.base))),
            upper=self.path("upper"),
            work=self.path("work"),
        )
        LiveKernel().mount_overlay(self.path("root"), options)

    # What containers bind

    def source_path(self, source: str) -> Path:
        """Give the path of one of `SOURCES`."""
        return self.sources / source / "inner" if source == "in-tmpfs" else self.sources / source

    def _source(self, source: str) -> None:
        at = self.sources / source
        if at.exists():
            return
        if source == "file":
            at.write_text("a file of the host\n")
            return
        at.mkdir()
        if source in {"private", "shared", "tree"}:
            mounts.rebind(encode(str(at)), encode(str(at)))
        elif source in {"tmpfs", "shared-tmpfs", "in-tmpfs", "ramfs"}:
            fstype = b"ramfs" if source == "ramfs" else b"tmpfs"
            syscalls.mount(fstype, os.fsencode(at), fstype, 0, None)
        elif source == "ext4":
            self._mount_ext4(at)
        if source != "directory":
            mounts.set_propagation(encode(str(at)), "private")
        if source in {"shared", "shared-tmpfs", "in-tmpfs", "tree"}:
            mounts.set_propagation(encode(str(at)), "shared")
        (at / "inner").mkdir(exist_ok=True)
        (at / "inner/file").write_text(f"{source}\n")
        if source == "tree":
            (at / "other").mkdir()
            syscalls.mount(b"tmpfs", os.fsencode(at / "other"), b"tmpfs", 0, None)

    def _mount_ext4(self, at: Path) -> None:
        device = self.ground.loop_device()
        if device:
            syscalls.mount(os.fsencode(device), os.fsencode(at), b"ext4", 0, None)
            self._ext4 = True
        else:
            mounts.rebind(encode(str(at)), encode(str(at)))

    def _host_layers(self) -> None:
        for name in ("one", "two", "upper", "work"):
            (self.top / "nested" / name).mkdir(parents=True, exist_ok=True)
        (self.top / "nested/one/of-the-host").write_text("one\n")
        (self.top / "nested/two/of-the-host").write_text("two\n")


def _copy(source: str, target: str) -> str:
    """Copy a file or a device node, with its mode."""
    if os.path.isfile(source):
        return str(shutil.copy2(source, target))
    info = os.stat(source)
    os.mknod(target, info.st_mode, info.st_rdev)
    os.chmod(target, info.st_mode & 0o7777)
    return target
