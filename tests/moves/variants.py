# SPDX-License-Identifier: Apache-2.0
"""
Moves of other kinds: layers in the stores of engines, many at once, what a bundle cannot hold.

Each is a function of two hosts that gives what it found, in words, or raises BrokenError.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from live.images import archive
from moves.machine import STATE, STORES, BrokenError, Machine
from moves.table import branches_of, container, differences_of, remove, taken
from moves.witness import HOME, Running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["VARIANTS", "NotHereError"]


class NotHereError(Exception):
    """What this machine does not have."""


def _claim(condition: object, told: object) -> None:
    if not condition:
        raise BrokenError(str(told))


# --- Layers in stores -----------------------------------------------------------------------------

_STORE: Final = f"{STORES}/storage"
"""Where podman keeps images when nobody says where, and mountcr looks for them."""

_POLICY: Final = json.dumps({"default": [{"type": "insecureAcceptAnything"}]})


def _pull(machine: Machine, driver: str) -> None:
    """Have the image in a store of podman, in place of what is there."""
    image, policy = machine.passed / "image.tar", machine.passed / "policy.json"
    if not image.exists():
        busybox = shutil.which("busybox")
        if not busybox or not shutil.which("podman"):
            raise NotHereError("there is no busybox, or no podman")
        archive(image, Path(busybox))
        policy.write_text(_POLICY)
    machine.run("sh", "-c", f"rm -rf {_STORE}/*")
    store = ("--root", _STORE, "--runroot", "/run/storage", "--storage-driver", driver)
    ways = ("--cgroup-manager", "cgroupfs", "--events-backend", "file")
    load = ("load", "--quiet", "--signature-policy", policy, "--input", image)
    done = machine.run("podman", *store, *ways, *load)
    _claim(done.status == 0, f"podman load: {done}")


def _layers_of_image(machine: Machine) -> list[str]:
    """Give the directories of the image in a store of the driver overlay, top first."""
    text = machine.seen(f"{_STORE}/overlay-layers/layers.json").read_text()
    layers = {each["id"]: each.get("parent", "") for each in json.loads(text)}
    (top,) = layers.keys() - set(layers.values())
    found: list[str] = []
    while top:
        found.append(f"{_STORE}/overlay/{top}/diff")
        top = layers[top]
    return found


def layers_in_stores(here: Machine, there: Machine) -> str:
    """Layers of an image stay behind if they are not asked for, and are found on the target."""
    bundles = {mode: here.passed / f"{mode}.tar" for mode in ("none", "missing", "all")}
    _pull(here, "overlay")
    lowers = ("--lowers", *_layers_of_image(here))
    with container(here, "overlay", 4, "image", *lowers) as started:
        wanted = taken(here, started.merged, "overlay", started.branches)
        for mode, bundle in bundles.items():
            words = ("--volume", "all", "--layers", mode, "--leave-running", "--compress", "none")
            exported = here.done("export", started.pid, "-o", bundle, *words)
            expected = [3 if mode == "all" else 0, 3]
            _claim(exported["layers"] == expected, f"--layers {mode}: {exported['layers']}")
    refused = there.mountcr("restore", bundles["missing"], "--id", "refused")
    _claim(refused.status == 4 and refused.err.count("sha256:") >= 3, f"no layers: {refused}")
    _claim(not there.left(), f"refused, and there is left: {there.left()}")
    told: list[str] = []
    for store, drivers in (
        ("", "overlay vfs"),
        ("overlay", "overlay vfs unionfs fuse-overlayfs"),
        ("vfs", "vfs overlay"),
    ):
        if store:
            _pull(there, store)
        for driver in drivers.split():
            for mode in ("none", "all") if store else ("all",):
                used = _restored(there, bundles[mode], driver, wanted)
                told.append(f"{mode}, store {store or 'none'}, on {driver}: {used} of the store")
    sizes = {mode: bundle.stat().st_size for mode, bundle in bundles.items()}
    return f"{'; '.join(told)}; bytes {sizes}"


def _restored(there: Machine, bundle: Path, driver: str, wanted: Mapping[bytes, Any]) -> int:
    """Restore once and compare; give how many layers came out of a store."""
    at = there.own / f"seen-{driver}"
    there.seen(at).mkdir(exist_ok=True)
    document = there.done("restore", bundle, "--id", "stored", "--driver", driver, "--root", at)
    try:
        Running(there.root_of(document["pid"])).goes_on()
        branches = branches_of(there, "stored")
        differences = differences_of(wanted, taken(there, str(at), driver, branches))
        _claim(not differences, f"{bundle.name} on {driver}: {differences[:5]}")
    finally:
        remove(there, "stored", document["pid"], at)
    return sum(each.startswith(_STORE) for each in branches)


# --- Many at once ---------------------------------------------------------------------------------


def three_at_once(here: Machine, there: Machine) -> str:
    """Three restores of one bundle at the same time, each under its id and with its own upper."""
    bundle = here.passed / "many.tar.zst"
    with container(here, "overlay", 5, "many") as started:
        here.done("export", started.pid, "-o", bundle, "--volume", "all")
    commands = {
        f"many-{number}": there.start(
            *(sys.executable, "-m", "mountcr", "restore", bundle, "--json"),
            *("--id", f"many-{number}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    }
    pids: dict[str, int] = {}
    for name, command in commands.items():
        out, err = command.communicate(timeout=60)
        _claim(command.returncode == 0, f"{name}: {err.decode(errors='replace')}")
        pids[name] = json.loads(out)["pid"]
    for name, pid in pids.items():
        there.root_of(pid).joinpath("who").write_text(name)
    for name, pid in pids.items():
        Running(there.root_of(pid)).goes_on()
        _claim(there.root_of(pid).joinpath("who").read_text() == name, f"{name} shares its upper")
    for name, pid in pids.items():
        remove(there, name, pid)
    _claim(not there.left(), there.left())
    return "3 go on"


# --- What a bundle cannot hold, and what it must --------------------------------------------------


def odd_files(here: Machine, there: Machine) -> str:
    """Sockets are named, set-user-ID and attributes of users arrive, a disk is refused."""
    bundle = here.passed / "odd.tar.zst"
    with container(here, "overlay", 6, "odd") as started:
        here.expect()
        root = here.root_of(started.pid)
        (root / "odd").mkdir()
        (root / "odd/program").write_bytes(b"\x7fELF")
        os.chown(root / "odd/program", 12, 34)
        (root / "odd/program").chmod(0o6751)
        os.setxattr(root / "odd/program", "user.name", b"value")
        os.mknod(root / "odd/socket", 0o140600)
        os.mknod(root / "odd/null", 0o20666, os.makedev(1, 3))
        words = ("--volume", "all", "--leave-running")
        exported = here.done("export", started.pid, "-o", bundle, *words)
        _claim("/odd/socket" in exported["left_out"], exported["left_out"])
        restored = there.done("restore", bundle, "--id", "odd")
        found = there.root_of(restored["pid"]) / "odd"
        status = (found / "program").stat()
        arrived = (status.st_mode & 0o7777, status.st_uid, status.st_gid)
        _claim(arrived == (0o6751, 12, 34), arrived)
        _claim(os.getxattr(found / "program", "user.name") == b"value", "the attribute is gone")
        _claim(not (found / "socket").exists(), "a socket came")
        _claim((found / "null").stat().st_rdev == os.makedev(1, 3), "/odd/null is another one")
        remove(there, "odd", restored["pid"])
        bundle.unlink()
        os.mknod(root / "odd/disk", 0o60600, os.makedev(8, 0))
        refused = here.mountcr("export", started.pid, "-o", bundle, "--volume", "all")
        _claim(refused.status == 4 and "/odd/disk" in refused.err, refused)
        Running(here.root_of(started.pid)).goes_on()
        _claim(not bundle.exists() and not here.left(), here.left())
    return "as they should be; the disk is refused by name"


# --- The same bytes -------------------------------------------------------------------------------

_COMPRESSIONS: Final = ("none", "gzip", "zstd", "zstd:9")


def the_same_bytes(here: Machine, there: Machine) -> str:
    """Images give the same bytes whenever they are exported, on one processor or all of them."""
    del there
    images = here.own / "images"
    with container(here, "overlay", 7, "same") as started:
        here.done("dump", started.pid, "--images", images)
        for how in _COMPRESSIONS:
            digests: set[str] = set()
            for prefix in ((), ("taskset", "--cpu-list", "0"), ()):
                output = here.passed / "same"
                words = ("export", images, "-o", output, "--compress", how, "--volume", "all")
                done = here.run(*prefix, sys.executable, "-m", "mountcr", *words)
                _claim(done.status == 0, done)
                digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
                output.unlink()
            _claim(len(digests) == 1, f"--compress {how} gave {len(digests)} bundles")
    return f"3 times the same with each of {', '.join(_COMPRESSIONS)}"


# --- Clones ---------------------------------------------------------------------------------------

_LARGE: Final = 300 << 20
"""Bytes in the writable layer of what is cloned."""


def clones(here: Machine, there: Machine) -> str:
    """Where extents can be shared tasks wait for names, and what they write then stays out."""
    place, image = here.own / "btrfs", here.own / "image.btrfs"
    here.seen(place).mkdir()
    here.seen(image).touch()
    os.truncate(here.seen(image), 3 << 30)
    made = shutil.which("mkfs.btrfs") and not here.run("mkfs.btrfs", "-q", image).status
    if not made or here.run("mount", "-o", "loop", image, place).status:
        raise NotHereError("no btrfs on a loop device")
    frozen: dict[str, float] = {}
    here.seen(place / "state").mkdir()
    with container(here, "overlay", 8, "btrfs/c") as started:
        piece = os.urandom(1 << 20)
        with here.seen(f"{started.merged}/large").open("wb") as file:
            for _ in range(_LARGE >> 20):
                file.write(piece)
        here.run("sync")
        for name in ("copied", "cloned"):
            if name == "cloned":
                here.run("mount", "--bind", place / "state", STATE)
            bundle = here.passed / f"{name}.tar"
            words = ("--volume", "all", "--leave-running", "--compress", "none")
            exported = here.mountcr("export", started.pid, "-o", bundle, *words, "--json")
            now = Running(here.root_of(started.pid)).reached()
            _claim(exported.status == 0, exported)
            _claim(("will be frozen" in exported.err) == (name == "copied"), exported.err)
            frozen[name] = exported.document["seconds"]["frozen"]
            _claim(name == "copied" or _counted(bundle) < now, "what was written later is in it")
            restored = there.done("restore", bundle, "--id", name)
            Running(there.root_of(restored["pid"])).goes_on()
            remove(there, name, restored["pid"])
            bundle.unlink()
        here.run("umount", STATE)
    told = ", ".join(f"{seconds:.2f} s {how}" for how, seconds in frozen.items())
    return f"{_LARGE >> 20} MiB: frozen {told}"


def _counted(bundle: Path) -> int:
    """Give how far the counter was in a bundle."""
    with tarfile.open(bundle) as members:
        upper = members.extractfile("layers/upper.tar")
        assert upper
        with tarfile.open(fileobj=upper) as layer:
            count = layer.extractfile(f"{HOME}/state/count")
            assert count
            return int(count.read().split()[-1])


VARIANTS: Final[dict[str, Callable[[Machine, Machine], str]]] = {
    "layers in stores": layers_in_stores,
    "three at once": three_at_once,
    "odd files": odd_files,
    "the same bytes": the_same_bytes,
    "clones": clones,
}
