# SPDX-License-Identifier: Apache-2.0
"""
Tasks that hold files of mounts that are in no table are dumped, and come back with these files.

CRIU alone refuses them. The directories that are opened through detached mounts come in as
standard streams; the container opens what it holds beneath them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mountcr.criu.images import ImageSet
from mountcr.demo.launch import BindMount
from mountcr.kernel import mounts
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from e2e.conftest import Place

HOLDER = b"""#!/bin/busybox sh
# holds files by the directories that came as standard streams
exec 20</proc/self/fd/0/etc/lines
read -r first <&20
exec 21<>/proc/self/fd/1/own
read -r first <&21
exec 22</proc/self/fd/2/inner
exec 23</proc/self/fd/0/etc/copied
exec 24</proc/self/fd/0/etc/removed
read -r first <&24
exec 25<&20
exec 0</dev/null 1>/dev/null 2>/dev/null
echo more >> /etc/copied
/bin/busybox rm /etc/removed
: > /ready
exec /bin/busybox sleep 1000
"""

HELD = range(20, 26)


def detached(directory: Path) -> int:
    """Open a directory by a clone of its mount that is attached nowhere."""
    tree = mounts.clone(encode(bytes(directory)))
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree)
    finally:
        os.close(tree)


def contents(pid: int) -> dict[int, tuple[int, str, bytes]]:
    """What each descriptor is at: position, flags, and every byte of its file."""
    found: dict[int, tuple[int, str, bytes]] = {}
    for number in HELD:
        info = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
            if ":\t" in line
        )
        content = Path(f"/proc/{pid}/fd/{number}").read_bytes()
        found[number] = (int(info["pos"]), info["flags"], content)
    return found


def start(place: Place) -> int:
    """A container that holds files through detached mounts of a lower, an upper and an overlay."""
    base = place.layers[2]
    place.write(base / "etc/copied", "from the lower\n")
    place.write(base / "etc/removed", "one\ntwo\n")
    place.script("holder", HOLDER)
    place.mount_overlay()
    place.write(place.root / "own", "own first\nown second\n")
    nested = place.directory("nested")
    for name in ("low", "up", "work", "at"):
        (nested / name).mkdir()
    place.write(nested / "low/inner", "nested\n")
    place.run(
        *("mount", "-t", "overlay", "overlay", nested / "at", "-o"),
        f"lowerdir={nested}/low,upperdir={nested}/up,workdir={nested}/work",
    )
    streams = (detached(base), detached(place.upper), detached(nested / "at"))
    pid = place.start("/bin/holder", binds=[BindMount(str(nested / "at"), "/o")], stdio=streams)
    for each in streams:
        os.close(each)
    place.wait((place.upper / "ready").exists)
    place.wait(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return pid


def test_criu_alone_refuses(place: Place) -> None:
    """What this is about: without the plan's externals CRIU says that it cannot find the mount."""
    pid = start(place)
    images = place.directory("refused")
    done = place.run_criu(
        *("dump", "--tree", pid, "--images-dir", images, "--root", place.root, "--leave-running"),
        *("--external", "mnt[/o]:o", "-v4"),
    )
    assert done.status
    assert "Can't lookup mount" in done.out


def test_all_descriptors_come_back(place: Place) -> None:
    """Each descriptor reads the same bytes from the same position, stale and removed files too."""
    pid = start(place)
    plan = place.done("plan", pid)
    assert plan["verdict"] == "ok"
    keys = [each for each in plan["criu"]["dump"] if each.startswith("file[")]
    assert len(keys) == 5
    assert {each["path"] for each in plan["rewrites"]} == {"/etc/lines", "/own", "/o/inner"}
    files = {each["fd"]: each for each in place.done("files", pid)["files"] if each["fd"]}
    states = {fd: (files[fd]["path"], files[fd]["state"]) for fd in HELD}
    assert states == {
        20: ("/etc/lines", "lower"),
        21: ("/own", "upper"),
        22: ("/o/inner", "lower"),
        23: ("/etc/copied", "stale"),
        24: ("/etc/removed", "deleted"),
        25: ("/etc/lines", "lower"),
    }
    before = contents(pid)
    assert before[20][0] == len("first\n")
    assert before[23][2] == b"from the lower\n"
    images = place.dump(pid)
    shown = {each["path"]: each for each in place.done("images", images)["files"]}
    assert shown["/own"]["mnt_id"] == shown["/bin/busybox"]["mnt_id"]
    restored = place.restore(images)
    assert contents(restored) == before
    assert Path(f"/proc/{restored}/fd/23").read_bytes() == b"from the lower\n"
    files = {each["fd"]: each for each in place.done("files", restored)["files"] if each["fd"]}
    assert files[20]["shown"] == "/etc/lines"


def test_they_come_back_on_another_driver(place: Place) -> None:
    """A file that was made ordinary is opened in whatever the root is made of then."""
    pid = start(place)
    before = contents(pid)
    images = place.dump(pid)
    upper = place.top / "new"
    restored = place.restore(images, "--driver", "vfs", "--upper", upper)
    assert contents(restored) == before


def test_images_that_were_not_put_right_are_at_the_restore(place: Place) -> None:
    """A dump that was killed between CRIU and the rewriting is completed by the restore."""
    pid = start(place)
    before = contents(pid)
    plan = place.done("plan", pid)
    images = place.dump(pid)
    (key,) = (each["key"] for each in plan["rewrites"] if each["path"] == "/own")
    undo(images, "/own", key)
    assert contents(place.restore(images)) == before


def undo(images: Path, path: str, key: str) -> None:
    """Make of an ordinary file the external one that CRIU wrote."""
    from mountcr.criu import images_pb2 as pb
    from mountcr.criu.imagefile import read, write

    name = encode(bytes(images / "files.img"))
    image = read(name)
    for entry in image.entries:
        assert isinstance(entry.message, pb.FileEntry)
        file = entry.message.reg
        if file.name == path.encode():
            file.name = key.encode()
            file.ext = True
            file.ClearField("mnt_id")
    write(name, image)


def test_mappings_and_the_executable(place: Place) -> None:
    """A program that was started through a detached mount of its layer comes back."""
    base = place.layers[2]
    (base / "bin/busybox-detached").symlink_to("/proc/self/fd/0/bin/busybox")
    place.mount_overlay()
    stream = detached(base)
    null = os.open("/dev/null", os.O_RDWR)
    pid = place.start("/bin/busybox-detached", "sleep", "1000", stdio=(stream, null, null))
    os.close(stream)
    os.close(null)
    rows = place.done("files", pid)["files"]
    mapped = {each["path"] for each in rows if each["kind"] in {"map", "exe"}}
    assert mapped == {"/bin/busybox"}
    assert all("private-mount" in each["quirks"] for each in rows if each["kind"] == "map")
    images = place.dump(pid)
    restored = place.restore(images)
    rows = place.done("files", restored)["files"]
    assert {each["shown"] for each in rows if each["kind"] in {"map", "exe"}} == {"/bin/busybox"}
    assert not any(each["quirks"] for each in rows if each["kind"] in {"map", "exe"})


def test_the_mount_of_a_file_on_a_nested_overlay(place: Place) -> None:
    """
    In the images a file on an overlay of several file systems is on its mount, and comes back.

    CRIU alone writes that it is on the root, because the file has a device that no mount has.
    """
    place.script("holder", NESTED)
    place.mount_overlay()
    nested = place.directory("nested")
    for name in ("low", "other", "up", "work", "at"):
        (nested / name).mkdir()
    place.mount("tmpfs", nested / "other")
    place.write(nested / "other/inner", "nested\n")
    place.run(
        *("mount", "-t", "overlay", "overlay", nested / "at", "-o"),
        f"lowerdir={nested}/other:{nested}/low,upperdir={nested}/up,workdir={nested}/work,xino=off",
    )
    pid = place.start("/bin/holder", binds=[BindMount(str(nested / "at"), "/o")])
    place.wait((place.upper / "ready").exists)
    plan = place.done("plan", pid)
    (repair,) = plan["rewrites"]
    assert (repair["op"], repair["path"]) == ("filemount", "/o/inner")
    alone = place.directory("alone")
    done = place.run_criu(
        *("dump", "--tree", pid, "--images-dir", alone, "--root", place.root, "--leave-running"),
        *("--external", "mnt[/o]:o", "-v4"),
    )
    assert done.status == 0, done.out
    assert mount_of(alone, "/o/inner") == repair["mnt_id"]
    images = place.dump(pid)
    assert mount_of(images, "/o/inner") == repair["to"]
    restored = place.restore(images)
    assert Path(f"/proc/{restored}/fd/20").read_bytes() == b"nested\n"
    place.unmount(nested / "at")
    place.unmount(nested / "other")


NESTED = b"""#!/bin/busybox sh
# holds a file of a nested overlay
exec 20</o/inner
: > /ready
exec /bin/busybox sleep 1000
"""


def mount_of(images: Path, path: str) -> int:
    """Read from the images which mount a file is on."""
    found = {each.path: each for each in ImageSet(encode(bytes(images))).regular_files()}
    return found[KPath(path)].mnt_id
