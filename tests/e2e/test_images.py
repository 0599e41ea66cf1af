# SPDX-License-Identifier: Apache-2.0
"""CRIU restores from every set of images that was rewritten, as the rewriting says."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.criu.images import ImageSet, read
from mountcr.criu.rewriting import FileMount, OrdinaryFile
from mountcr.demo.launch import BindMount, Tmpfs
from mountcr.errors import ImageError
from mountcr.operations.images import change_images, show_images
from mountcr.paths import KPath, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.conftest import Finished, Place

KEEPER = b"""#!/bin/busybox sh
# holds files in a directory of its own, and counts
/bin/busybox mkdir -p /srv/in/deep
echo kept > /srv/in/deep/file
cd /srv/in/deep
exec 5</srv/in/deep/file
exec 6>>/srv/in/count
exec 7</etc/lines
read -r first <&7
echo > /srv/in/ready
i=0
while :; do
    i=$((i+1))
    echo $i >&6
    /bin/busybox sleep 0.02
done
"""


class Container:
    """A container on the overlay of a place, dumped and restored by CRIU alone."""

    def __init__(self, place: Place, *binds: BindMount | Tmpfs) -> None:
        self.place = place
        self.images = place.top / "images"
        place.script("keeper", KEEPER)
        place.mount_overlay()
        self.pid = place.start("/bin/keeper", binds=binds)
        place.wait((place.upper / "srv/in/ready").exists)

    def dump(self, *options: str) -> None:
        """Dump it; afterwards it is gone."""
        self.images.mkdir()
        words = ("-D", self.images, "-o", "dump.log", "-v4", *options)
        done = self.place.run_criu("dump", "-t", self.pid, *words)
        assert done.status == 0, self.log("dump.log")
        self.place.wait(lambda: not self.place.runs(self.pid))

    def try_restore(self, *options: str) -> Finished:
        """Have CRIU restore it on what is mounted at the root."""
        pidfile = self.place.top / "pid"
        pidfile.unlink(missing_ok=True)
        words = ("-D", self.images, "-o", "restore.log", "-v4", "--root", self.place.root)
        done = self.place.run_criu("restore", "-d", *words, "--pidfile", pidfile, *options)
        if done.status == 0:
            self.pid = int(pidfile.read_text())
        return done

    def restore(self, *options: str) -> None:
        """Restore it, which must not fail."""
        assert self.try_restore(*options).status == 0, self.log("restore.log")

    def refuses(self, complaint: str, *options: str) -> None:
        """Claim that CRIU does not restore it as it is, for a reason."""
        assert self.try_restore(*options).status != 0
        assert complaint in self.log("restore.log")
        self.place.wait(lambda: not self.place.processes())

    def log(self, name: str) -> str:
        """Give what CRIU complained about."""
        text = (self.images / name).read_text(errors="replace")
        return "\n".join(line for line in text.splitlines() if "Error" in line)

    def rewrite(self, *words: str) -> list[int]:
        """Rewrite the images with the command line; give how many entries each change is of."""
        document = self.place.done("images", self.images, *words)
        return [each["entries"] for each in document["changes"]]

    def goes_on(self, count: Path) -> None:
        """Claim that it counts on in a file, without a gap."""
        before = len(count.read_text().split())
        self.place.wait(lambda: len(count.read_text().split()) > before)
        numbers = count.read_text().split()
        assert numbers == [str(each + 1) for each in range(len(numbers))]

    def link(self, name: str) -> str:
        """Give where a link in /proc leads."""
        return os.readlink(f"/proc/{self.pid}/{name}")

    def read(self, number: int) -> str:
        """Read what a descriptor is of, from its beginning."""
        return Path(f"/proc/{self.pid}/fd/{number}").read_text()

    def mount(self, mountpoint: str) -> list[str]:
        """Give the fields of the mount at a mountpoint."""
        lines = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        (found,) = (line.split() for line in lines if line.split()[4] == mountpoint)
        return found

    def entries(self) -> dict[str, bytes]:
        """Give every image of messages that mountcr reads."""
        found: dict[str, bytes] = {}
        for name in ImageSet(encode(str(self.images))).names():
            with contextlib.suppress(ImageError):
                found[name] = read(encode(str(self.images / name))).to_bytes()
        return found


def state(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.iterdir()
        if path.is_file()
    }


def test_rewriting_nothing(place: Place) -> None:
    """What is read is written byte by byte; what has nothing to change touches no file."""
    container = Container(place, Tmpfs("/run"))
    container.dump()
    entries = container.entries()
    assert {"files.img", "pstree.img", "inventory.img"} < set(entries)
    assert {name: (container.images / name).read_bytes() for name in entries} == entries
    before = state(container.images)
    finished = place.mountcr("images", container.images, "--map", "/nowhere=/x")
    assert (finished.status, "nothing to change" in finished.err) == (0, True)
    assert state(container.images) == before
    container.restore()
    container.goes_on(place.upper / "srv/in/count")


def test_what_is_shown(place: Place) -> None:
    """The images say what /proc said of mounts, descriptors and places."""
    container = Container(place, Tmpfs("/run"))
    table = [
        line.split() for line in Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
    ]
    links = {number: container.link(f"fd/{number}") for number in (5, 6, 7)}
    container.dump()
    found = show_images(encode(str(container.images)))
    assert {(str(each.id), str(each.parent), str(each.mountpoint)) for each in found.mounts} == {
        (fields[0], fields[1], fields[4]) for fields in table
    }
    init = found.tasks[0]
    held = {one.fd: each for each in found.files for one in each.held if one.pid == init.pid}
    assert {number: str(held[number].path) for number in links} == links
    assert (init.cwd, init.root, init.exe) == ("/srv/in/deep", "/", "/bin/busybox")
    assert held[7].mountpoint == "/"
    assert "/run" in {
        str(mount.mountpoint)
        for mount in found.mounts
        for tmpfs in found.tmpfs
        if mount.dev == tmpfs.dev
    }


def test_a_directory_that_was_renamed(place: Place) -> None:
    """Files, the working directory and what is written are below the new name of a directory."""
    container = Container(place)
    container.dump()
    (place.root / "srv/in").rename(place.root / "srv/moved")
    container.refuses("Can't open file")
    (changed,) = container.rewrite("--map", "/srv/in=/srv/moved")
    assert changed in {3, 4}  # a child may just be there, in the same directory
    container.restore()
    assert container.link("cwd") == "/srv/moved/deep"
    assert container.link("fd/5") == "/srv/moved/deep/file"
    assert container.read(5) == "kept\n"
    container.goes_on(place.upper / "srv/moved/count")


def test_files_that_are_not_compared(place: Place) -> None:
    """A file and a program of another size and mode are taken; before that, CRIU refuses them."""
    container = Container(place)
    container.dump()
    with (place.root / "etc/lines").open("a") as file:
        file.write("fourth\n")
    container.refuses("has bad size")
    assert container.rewrite("--unchecked", "/etc/lines") == [1]
    (place.root / "etc/lines").chmod(0o600)
    with (place.root / "bin/busybox").open("ab") as program:
        program.write(b"behind the program")
    container.refuses("File bin/busybox has bad size")
    assert container.rewrite("--unchecked", "/bin/busybox") == [1]
    container.restore()
    assert container.read(7).endswith("fourth\n")
    container.goes_on(place.upper / "srv/in/count")


def test_a_detected_mount_that_was_named(place: Place) -> None:
    """A mount that CRIU detected is taken from another place of the host, by its key."""
    hosts = place.write(place.top / "hosts", "first host\n")
    data = place.directory("data", "file")
    container = Container(place, BindMount(str(hosts), "/etc/hosts"), BindMount(str(data), "/data"))
    container.dump("--external", "mnt[]")
    data.rename(place.top / "moved")
    container.refuses("autodetected external mount")
    names = ("--name-external", "/etc/hosts=hosts", "--name-external", "/data=data")
    assert container.rewrite(*names) == [1, 1]
    other = place.write(place.top / "other", "second host\n")
    sources = (f"mnt[hosts]:{other}", f"mnt[data]:{place.top}/moved")
    container.restore(*(word for each in sources for word in ("--external", each)))
    assert container.mount("/etc/hosts")[3].endswith("/other")
    assert container.mount("/data")[3].endswith("/moved")
    container.goes_on(place.upper / "srv/in/count")


def inner_options(directory: Path) -> str:
    return f"lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work"


def test_an_overlay_inside_that_is_given(place: Place) -> None:
    """An overlay inside, whose directories are elsewhere by now, is given instead of made."""
    inner = place.directory("inner")
    layers = {name: place.directory(f"inner/{name}") for name in ("lower", "upper", "work", "at")}
    place.write(layers["lower"] / "file", "of the lower layer\n")
    place.run("mount", "-t", "overlay", "-o", inner_options(inner), "overlay", layers["at"])
    container = Container(place, BindMount(str(layers["at"]), "/mnt"))
    container.dump()
    place.unmount(layers["at"])
    moved = place.top / "elsewhere"
    inner.rename(moved)
    container.refuses("No such file or directory")
    result = place.done("images", container.images, "--external-overlay", "/mnt=merged")
    assert [each["entries"] for each in result["changes"]] == [1]
    place.run("mount", "-t", "overlay", "-o", inner_options(moved), "overlay", moved / "at")
    container.restore("--external", f"mnt[merged]:{moved}/at")
    assert container.mount("/mnt")[8] == "overlay"
    assert Path(f"/proc/{container.pid}/root/mnt/file").read_text() == "of the lower layer\n"
    container.goes_on(place.upper / "srv/in/count")


def test_a_file_on_another_mount(place: Place) -> None:
    """A file that is on the wrong mount in the images is restored when that is repaired."""
    container = Container(place, Tmpfs("/run"))
    container.dump()
    directory = encode(str(container.images))
    (lines,) = (each for each in show_images(directory).files if each.path == "/etc/lines")
    path = KPath("/etc/lines")
    wrong = FileMount(because="a test", path=path, mnt_id=lines.mnt_id, to=9999)
    change_images(directory, [wrong])
    assert container.try_restore().status != 0
    place.wait(lambda: not place.processes())
    right = FileMount(because="a test", path=path, mnt_id=9999, to=lines.mnt_id)
    assert change_images(directory, [right]).changes[0].entries == 1
    container.restore()
    assert container.link("fd/7") == "/etc/lines"


def test_an_external_file_that_is_an_ordinary_one(place: Place) -> None:
    """A file that was external to the dump is opened by its path, with no descriptor given."""
    container = Container(place)
    info = Path(f"/proc/{container.pid}/fdinfo/7").read_text().splitlines()
    (mnt_id,) = (int(line.split()[1]) for line in info if line.startswith("mnt_id:"))
    status = os.stat(f"/proc/{container.pid}/fd/7")
    position = info[0]
    key = f"file[{mnt_id:x}:{status.st_ino:x}]"
    container.dump("--external", key)
    directory = encode(str(container.images))
    assert [each.path for each in show_images(directory).files if each.external] == [key]
    container.refuses("Can't open file")
    operation = OrdinaryFile(
        because="it is in the root",
        key=key,
        path=KPath("/etc/lines"),
        mnt_id=mnt_id,
        size=status.st_size,
        mode=status.st_mode,
    )
    assert change_images(directory, [operation]).changes[0].entries == 1
    container.restore()
    assert container.link("fd/7") == "/etc/lines"
    assert Path(f"/proc/{container.pid}/fdinfo/7").read_text().startswith(position)


# --- Control groups -------------------------------------------------------------------------------


def hierarchy() -> tuple[str, Path]:
    """Give a hierarchy in which groups can be made: its controllers, and where it is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        fstype, _, options = fields[fields.index("-") + 1 :][:3]
        if fields[3] != "/":
            continue
        if fstype == "cgroup2" or (fstype == "cgroup" and "pids" in options.split(",")):
            return ("" if fstype == "cgroup2" else "pids"), Path(fields[4])
    pytest.skip("no control groups are mounted")


@pytest.fixture
def group(place: Place) -> Iterator[tuple[str, Path]]:
    """A group in another one, in some hierarchy, removed at the end with what was made beside."""
    controller, base = hierarchy()
    outer = base / f"mountcr-images-{os.getpid()}"
    try:
        (outer / "inner").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    yield controller, outer
    place.close()
    for top in (outer, outer.with_name(f"{outer.name}-moved")):
        for directory, _, _ in os.walk(top, topdown=False):
            place.wait(functools.partial(removed, directory))


def removed(directory: str) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(directory)
    return not os.path.exists(directory)


def test_control_groups_elsewhere(place: Place, group: tuple[str, Path]) -> None:
    """Tasks come back into groups below another prefix, in the hierarchy that was chosen."""
    controller, outer = group
    container = Container(place)
    (outer / "inner/cgroup.procs").write_text(str(container.pid))
    count = place.upper / "srv/in/count"
    container.goes_on(count)  # its children are born there now
    container.goes_on(count)
    container.dump("--manage-cgroups=soft")
    for directory in (outer / "inner", outer):
        place.wait(functools.partial(removed, str(directory)))
    words = ("--map-cgroup", f"{controller}:/{outer.name}=/{outer.name}-moved")
    assert container.rewrite(*words) == [1]
    container.restore("--manage-cgroups=soft")
    groups = Path(f"/proc/{container.pid}/cgroup").read_text()
    assert f":{controller}:/{outer.name}-moved/inner\n" in groups
    assert not outer.exists()
    container.goes_on(count)


def test_all_at_once(place: Place, group: tuple[str, Path]) -> None:
    """Several images of a set, whose directory is then another one, are restored together."""
    _, outer = group
    hosts = place.write(place.top / "hosts", "a host\n")
    container = Container(place, BindMount(str(hosts), "/etc/hosts"), Tmpfs("/run"))
    (outer / "inner/cgroup.procs").write_text(str(container.pid))
    container.goes_on(place.upper / "srv/in/count")
    container.goes_on(place.upper / "srv/in/count")
    container.dump("--manage-cgroups=soft", "--external", "mnt[]")
    inode = container.images.stat().st_ino
    (place.root / "srv/in").rename(place.root / "srv/moved")
    shutil.copy(place.root / "etc/motd", place.root / "etc/lines")
    changed = container.rewrite(
        *("--map", "/srv/in=/srv/moved", "--unchecked", "/etc/lines"),
        *("--name-external", "/etc/hosts=hosts"),
        *("--map-cgroup", f"/{outer.name}=/{outer.name}-moved"),
    )
    assert changed[0] in {3, 4}
    assert changed[1:] == [1, 1, 1]
    assert container.images.stat().st_ino != inode
    assert [each.name for each in place.top.iterdir() if ".mountcr-" in each.name] == []
    container.restore("--manage-cgroups=soft", "--external", f"mnt[hosts]:{hosts}")
    assert container.link("cwd") == "/srv/moved/deep"
    assert f"/{outer.name}-moved/inner" in Path(f"/proc/{container.pid}/cgroup").read_text()
    container.goes_on(place.upper / "srv/moved/count")
