# SPDX-License-Identifier: Apache-2.0
"""
Hostile bundles, imported for real: what is around the target stays as it is, whatever they say.

Each is imported by the command line in a process of its own, below a /var/lib/mountcr that only the
test sees, beside files that must be neither changed nor read into the result.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import struct
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest

from hostile import IDS, LAYERS, SPOILED, bundle, document, member, tar
from mountcr import mountinfo
from mountcr.bundle.document import to_json
from mountcr.cli import main
from mountcr.criu.imagefile import CGROUP, IMG_COMMON, MM
from mountcr.kernel import syscalls
from mountcr.planning.choices import IMPORTS as AT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.requires("root"), pytest.mark.any_kernel]

HOME = Path("/var/lib/mountcr")
IMPORTS = Path(AT)

MOST_MEMORY = 300 << 20
"""Bytes of memory that the process may ever have had, however much an archive unpacks to."""

MOST_SECONDS = 60

HOST_ONLY = "what only the host should know"

TARGETS = ("/x", "/etc/x", "/etc/cron.d/x", "/tmp/x", "/sys/fs/cgroup/web", "/sys/fs/cgroup/x")
"""What spoiled bundles would make, if they could."""


class Ended(NamedTuple):
    """A command that ended: `memory` is how much more it had than it began with, in bytes."""

    status: int
    out: str
    err: list[str]
    memory: int


def mountcr(*words: object) -> Ended:
    """Run the command line in a process of its own, which has all modules already."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            signal.alarm(MOST_SECONDS)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _run([str(word) for word in words])
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        *lines, memory = err.read().splitlines()
        return Ended(status, out.read(), lines, int(memory) << 10)


def _run(words: list[str]) -> NoReturn:
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - the process ends
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    begun = _status("VmRSS")
    status = 99
    try:
        status = main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.write(f"{_status('VmHWM') - begun}\n")
        sys.stderr.flush()
        os._exit(status)


def _status(field: str) -> int:
    """Give a number of proc_pid_status(5), in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def seen(*places: Path) -> Iterator[tuple[object, ...]]:
    """Give all that there is of some places: names, inodes, times, owners, marks and contents."""
    for place in places:
        for path in (place, *sorted(place.rglob("*"))):
            found = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
            marks = os.listxattr(path, follow_symlinks=False)
            yield (
                path, found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_nlink,
                found.st_size, found.st_mtime_ns, found.st_ctime_ns, tuple(marks), content,
            )  # fmt: skip


class Ground:
    """A place with a file for a bundle, and around it what must stay as it is."""

    def __init__(self, top: Path) -> None:
        HOME.mkdir(parents=True, exist_ok=True)
        syscalls.mount(b"hostile", os.fsencode(HOME), b"tmpfs", 0, b"mode=755")
        self.file = top / "a.bundle"
        self.outside = top / "outside"
        self.outside.mkdir()
        (self.outside / "host-only").write_text(HOST_ONLY)
        (self.outside / "link").symlink_to("host-only")
        os.mkfifo(self.outside / "fifo")
        IMPORTS.mkdir(mode=0o700)
        (IMPORTS / "other").mkdir()
        (IMPORTS / "other/upper").write_text("of another container")
        self.before = self._seen()
        self.mounts = set(mountinfo.read())

    def _seen(self) -> list[object]:
        shadow = os.stat("/etc/shadow")
        return [
            *seen(self.outside, IMPORTS / "other"),
            [path for path in TARGETS if os.path.lexists(path)],
            sorted(os.listdir("/")),
            (shadow.st_mode, shadow.st_uid, shadow.st_gid),
        ]

    def untouched(self) -> None:
        """Nothing outside was changed or mounted."""
        assert self._seen() == self.before
        # what others unmount, and remove, goes from here too
        assert not set(mountinfo.read()) - self.mounts

    def empty(self) -> None:
        """Nothing was left where imports lie, and no half of a layer in the cache."""
        assert os.listdir(IMPORTS) == ["other"]
        own = {"containers", "layers"}
        assert not [
            name for name in os.listdir(HOME) if name not in own and any(HOME.glob(f"{name}/*"))
        ]
        layers = HOME / "layers"
        names = [path.name for path in layers.iterdir()] if layers.exists() else []
        assert all(re.fullmatch(r"[0-9a-f]{64}\.\w+", name) for name in names)

    def run(self, data: bytes, *words: object) -> Ended:
        """Import a bundle."""
        self.file.write_bytes(data)
        return mountcr("import", self.file, *words)

    def refused(self, data: bytes, *words: object) -> str:
        """Import what is refused: give the one line that says why."""
        ended = self.run(data, *words)
        assert ended.status in {1, 2, 4, 5}, ended
        assert "internal error" not in ended.err[0]
        line, *hint = ended.err
        assert line.startswith("mountcr: ")
        assert [each[:8] for each in hint] == ["  hint: "], ended
        assert ended.memory < MOST_MEMORY
        assert HOST_ONLY not in str(ended)
        self.untouched()
        self.empty()
        return line


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the test makes its ground; mounting is for its body."""
    return tmp_path


def imported(ground: Ground, data: bytes, *words: object) -> dict[str, Any]:
    """Import what is not refused, and give the result and what was said."""
    ended = ground.run(data, "--json", *words)
    assert ended.status == 0, ended
    ground.untouched()
    result: dict[str, Any] = json.loads(ended.out)
    return {**result, "said": ended.err}


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_what_is_imported_is_for_its_owner_alone(driver: str, place: Path) -> None:
    """Beside the layers directories are 0700 and files 0600, also where layers are kept."""
    ground = Ground(place)
    result = imported(ground, bundle(), "--driver", driver)
    at = Path(result["at"])
    assert (at / "mounts/1/file").read_bytes() == b"volume"
    assert (at / "mounts/2").read_bytes() == b"web\n"
    assert not (at / "unpacked").exists()
    for path in (at, at / "images", at / "mounts"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (at / "images").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if driver == "overlay":
        assert stat.S_IMODE((HOME / "layers").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_bundle_changes_nothing(name: str, place: Path) -> None:
    """What is refused when it is read leaves nothing, in little memory."""
    ground = Ground(place)
    spoiled = SPOILED[name]
    line = ground.refused(spoiled.make())
    assert spoiled.said in line
    assert re.search(rf"\(rule: .*({spoiled.rule})", line) or not spoiled.rule


@pytest.mark.parametrize("name", LAYERS)
def test_a_spoiled_layer_changes_nothing(name: str, place: Path) -> None:
    """Nor does what is refused when it is unpacked: a lower layer, the writable one, a volume."""
    ground = Ground(place)
    spoiled = LAYERS[name]
    tar_of_it = spoiled.make()
    for where in ("layers/upper.tar", "layers/1.tar", "mounts/1.tar"):
        if where == "mounts/1.tar" and spoiled.rule == "whiteouts":
            continue  # below a volume there is nothing that it could remove
        line = ground.refused(bundle(members={where: tar_of_it}))
        assert where in line or spoiled.rule == "whiteouts"
        assert spoiled.said in line
        assert re.search(rf"\(rule: .*({spoiled.rule})", line)


@pytest.mark.parametrize("name", IDS)
def test_an_id_is_one_name(name: str, place: Path) -> None:
    """An id that would lead elsewhere is none, in the document as in the words."""
    ground = Ground(place)

    def change(decoded: dict[str, Any]) -> None:
        decoded["dump"]["facts"]["container"]["id"] = name

    assert "(rule: names)" in ground.refused(bundle(change))
    if name and not name.startswith("-"):
        assert "(rule: names)" in ground.refused(bundle(), "--id", name)


def test_marks_of_unions_are_left_out(place: Path) -> None:
    """Extended attributes that a union obeys are not set, and said; setuid is kept, and said."""
    ground = Ground(place)
    marks = ("trusted.overlay.redirect", "user.overlay.opaque", "user.containers.override_stat")
    headers = {f"SCHILY.xattr.{name}": "/../../etc" for name in (*marks, "user.mine")}
    capability = "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    upper = tar(
        member("a", pax_headers=headers),
        member("su", mode=0o4755),
        member("ping", pax_headers={"SCHILY.xattr.security.capability": capability}),
    )
    result = imported(ground, bundle(members={"layers/upper.tar": upper}))
    upper_at = Path(result["upper"])
    assert os.listxattr(upper_at / "a") == ["user.mine"]
    assert stat.S_IMODE((upper_at / "su").stat().st_mode) == 0o4755
    assert os.listxattr(upper_at / "ping") == ["security.capability"]
    assert result["stripped"] == dict.fromkeys(sorted(marks), 1)
    assert [line for line in result["said"] if "su" in line and "setuid" in line]
    assert [line for line in result["said"] if "ping" in line and "capability" in line]
    for name in marks:
        assert [line for line in result["said"] if line.startswith(f"note: {name} was left out")]


def test_links_in_layers_are_kept_and_not_followed(place: Path) -> None:
    """A link to a file of the host stays a link; what lies behind it goes nowhere."""
    ground = Ground(place)
    kinds = tarfile
    link = member("etc/link", type=kinds.SYMTYPE, linkname=str(ground.outside / "host-only"))
    hard = member("etc/again", type=kinds.LNKTYPE, linkname="etc/link")
    data = bundle(
        members={
            "layers/upper.tar": tar(link, hard, member("f", type=kinds.FIFOTYPE)),
            "layers/1.tar": tar(member("etc", type=kinds.SYMTYPE, linkname="/etc")),
            "mounts/1.tar": tar(link),
        }
    )
    for number, driver in enumerate(("overlay", "vfs")):
        result = imported(ground, data, "--driver", driver, "--id", f"c{number}")
        upper = Path(result["upper"])
        assert (upper / "etc/link").is_symlink()
        assert (upper / "etc/again").is_symlink()
        assert (upper / "f").is_fifo()


def test_options_of_an_overlay_lead_nowhere(place: Path) -> None:
    """Of the options that a bundle has for its overlay, none names a layer or a path."""
    ground = Ground(place)

    def change(decoded: dict[str, Any]) -> None:
        origin = decoded["dump"]["rootfs"]["origin"]
        origin["options"] = [
            "lowerdir+=/etc", "datadir+=/etc", "upperdir=/etc", "redirect_dir=/etc",
            "metacopy=on", "userxattr", "index=off,lowerdir=/etc", "index=off",
        ]  # fmt: skip
        origin["lowers"] = ["/etc"]
        origin["data"] = ["/etc"]
        origin["permissions"] = ["ro"]

    result = imported(ground, bundle(change))
    written = json.loads(Path(result["images"], "mountcr.json").read_text())
    stack = written["facts"]["imported"]["stack"]
    assert set(stack.get("options", [])) <= {"index=off"}
    assert "/etc" not in json.dumps([stack, written["rootfs"]])


def test_a_layer_of_one_bundle_is_not_that_of_another(place: Path) -> None:
    """What a converted layer has from those below it is of its own bundle: modes, linked files."""
    ground = Ground(place)
    top = tar(("etc/hosts", b"x"))

    def two(mode: int) -> bytes:
        below = tar(member("etc", type=tarfile.DIRTYPE, mode=mode))

        def change(decoded: dict[str, Any]) -> None:
            decoded["layers"] = [{"member": "layers/1.tar"}, {"member": "layers/2.tar"}]

        return bundle(change, {"layers/1.tar": top, "layers/2.tar": below})

    imported(ground, two(0o777), "--id", "evil")
    result = imported(ground, two(0o755), "--id", "good")
    layer = Path(result["layers"][0]["path"], "etc")
    assert stat.S_IMODE(layer.stat().st_mode) == 0o755


def test_a_directory_of_links_is_no_bundle(place: Path) -> None:
    """Members of a directory are regular files in it: no link, FIFO or device is opened."""
    ground = Ground(place)
    kinds: dict[str, Callable[[Path], None]] = {
        "link": lambda path: path.symlink_to(ground.outside / "host-only"),
        "fifo": os.mkfifo,
        "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
    }
    for name, make in kinds.items():
        at = place / name
        (at / "images").mkdir(parents=True)
        (at / "manifest.json").write_bytes(to_json(document()))
        make(at / "images/inventory.img")
        ended = mountcr("import", at)
        assert ended.status == 4, ended
        assert "images/inventory.img" in ended.err[0]
        assert "(rule: types of members)" in ended.err[0]
        ground.untouched()
        ground.empty()
    at = place / "directory"
    at.mkdir()
    (at / "manifest.json").write_bytes(to_json(document()))
    (at / "images").symlink_to(ground.outside)
    ended = mountcr("import", at)
    assert "(rule: " in ended.err[0]
    ground.untouched()


@pytest.mark.requires("overlay")
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_layers_of_others_are_looked_at_without_effect(driver: str, place: Path) -> None:
    """
    Read-only, setuid, devices and redirects of a bundle mean nothing.

    Unmounting removes what was unpacked.
    """
    ground = Ground(place)
    upper = tar(("etc/new", b"new\n"), member("su", mode=0o4755))
    ground.file.write_bytes(bundle(members={"layers/upper.tar": upper}))
    at = place / "at"
    at.mkdir()
    words = ("rebuild", ground.file, "--at", at, "--ro", "--driver", driver)
    planned = mountcr(*words, "--dry-run")
    assert planned.status == 0, planned
    ground.untouched()
    ground.empty()
    ended = mountcr(*words)
    assert ended.status == 0, ended
    assert any("su" in line and "setuid" in line for line in ended.err)
    (mount,) = [each for each in mountinfo.read() if each.mountpoint == str(at)]
    assert {"ro", "nosuid", "nodev"} <= set(mount.options.split(","))
    if driver == "overlay":
        options = mount.super_options.split(",")
        assert "redirect_dir=nofollow" in options
        assert "metacopy=on" not in options
    assert (at / "etc/new").read_text() == "new\n"
    assert (at / "etc/hosts").read_text().startswith("127.0.0.1")
    with pytest.raises(OSError, match="Read-only"):
        (at / "x").touch()
    (unpacked,) = (HOME / "inspected").iterdir()
    assert stat.S_IMODE(unpacked.stat().st_mode) == 0o700
    assert not list((unpacked / "images").iterdir())
    assert mountcr("umount", at).status == 0
    assert not list((HOME / "inspected").iterdir())
    ground.untouched()


@pytest.mark.requires("overlay")
def test_a_rebuild_that_fails_leaves_nothing(place: Path) -> None:
    """What was unpacked for a mount goes when there is no mount."""
    ground = Ground(place)
    ground.file.write_bytes(bundle())
    ended = mountcr("rebuild", ground.file, "--at", place / "no/such", "--ro")
    assert ended.status == 1, ended
    ground.untouched()
    assert not list((HOME / "inspected").glob("*"))


def image(magic: int, entry: bytes, length: int | None = None) -> bytes:
    """Give an image of CRIU of one entry, which says that it has another length."""
    return struct.pack("<3I", IMG_COMMON, magic, len(entry) if length is None else length) + entry


def nested(depth: int) -> bytes:
    """Give a control group in a control group in a control group."""
    message = b"\x0a\x01x"
    for _ in range(depth):
        length = len(message)
        head = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
        message = b"\x0a\x01x\x12" + head + message
    return message


IMAGES = {
    "a length beyond the file": image(CGROUP, b"\x0a\x00", 1 << 31),
    "a length beyond everything": image(CGROUP, b"", 0xFFFFFFFF),
    "no entry but zeros": image(CGROUP, bytes(1 << 20), 0),
    "deep nesting": image(CGROUP, nested(20_000)),
    "another type": image(MM, b"\x0a\x00"),
    "no image": b"x" * 100,
    "nothing": b"",
    "garbage": image(CGROUP, b"\xff" * 1000),
    "many in one": image(CGROUP, b"\x0a\x00" * (4 << 20)),
}
"""What a control group of a renamed container is looked for in."""


@pytest.mark.parametrize("name", IMAGES)
def test_a_spoiled_image_changes_nothing(name: str, place: Path) -> None:
    """Images that are read, because the container gets another id, are read within limits."""
    ground = Ground(place)
    data = bundle(members={"images/cgroup.img": IMAGES[name]})
    line = ground.refused(data, "--id", "new")
    assert "images/cgroup.img" in line


def test_images_are_not_read_to_be_looked_at(place: Path) -> None:
    """Nothing of the memory of a task has to be right for its root file system to be seen."""
    ground = Ground(place)
    ground.file.write_bytes(bundle(members={"images/cgroup.img": IMAGES["garbage"]}))
    at = place / "at"
    assert mountcr("rebuild", ground.file, "--at", at, "--ro", "--driver", "vfs").status == 0
    assert (at / "etc/new").read_text() == "new\n"
    assert mountcr("umount", at).status == 0
