# SPDX-License-Identifier: Apache-2.0
"""
`mountcr docker-cr` on Docker's data roots of every age, and the fifteen defects of docker_cr.sh.

Where a defect is about mountcr as a whole, the command's part is here; the rest is in the files
named after the defects. What it asks and refuses is in the file about its words.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from e2e.dockerhomes import LAYOUTS, Home, Layout, copy
from mountcr.demo.launch import BindMount, Devpts, Tmpfs
from mountcr.observation.aufs import branches_in_sysfs

if TYPE_CHECKING:
    from e2e.conftest import Place

pytestmark = pytest.mark.long

OVERLAY2 = Layout("28", "overlay2")
OLD = Layout("1.9", "overlay")


@pytest.fixture
def home(place: Place) -> Home:
    """A container on overlay2."""
    return Home(place, OVERLAY2)


@pytest.fixture
def aufs(place: Place) -> Home:
    """A checkpoint as a host with AUFS has it: of a root with twelve branches below."""
    home = Home(place, OLD)
    directories = _branches(home)
    place.layers, place.upper = directories[1:], directories[0]
    home.start()
    home.dump()
    _as_of_aufs(home, directories)
    return home


def _branches(home: Home) -> list[Path]:
    """Write what the root is made of, top first: the lowest branch has all the programs."""
    top = home.tree.data / "aufs/diff"
    directories = [top / f"branch{number:02}" for number in range(14)]
    for number, directory in enumerate(directories):
        directory.mkdir(parents=True)
        if number in {9, 10, 11}:
            home.place.write(directory / "etc/order", f"of branch {number}\n")
    for source in reversed(home.place.layers):
        copy(source, directories[-1])
    home.place.write(directories[-1] / "etc/gone", "a branch above removes it\n")
    home.place.write(directories[5] / "etc/.wh.gone", "")
    return directories


def _as_of_aufs(home: Home, directories: list[Path]) -> None:
    """Have the manifest say what that of a host with AUFS does."""
    file = home.images / "mountcr.json"
    manifest = json.loads(file.read_text())
    (root,) = [
        each
        for each in manifest["facts"]["namespaces"][0]["mounts"]
        if each["mountpoint"] == "/" and each["fstype"] == "overlay"
    ]
    branches = {
        f"br{number}": f"{path}={'ro+wh' if number else 'rw'}\n".encode()
        for number, path in enumerate(directories)
    }
    root |= {"fstype": "aufs", "source": "none", "super_options": "rw,si=12"}
    root["branches"] = msgspec.to_builtins(branches_in_sysfs(branches))
    file.write_text(json.dumps(manifest))


def test_1_branches_keep_their_order(aufs: Home) -> None:
    """Of twelve branches, the ninth lies above the tenth and the eleventh."""
    aufs.restore("--driver", "overlay", "--upper", aufs.place.top / "converted", aufs.id)
    assert (aufs.root / "etc/order").read_text() == "of branch 9\n"


def test_2_whiteouts_of_branches_count(aufs: Home) -> None:
    """What a branch above removed stays removed; without AUFS, another driver is to be named."""
    refused = aufs.call("-r", aufs.id)
    assert refused.status == 4, refused
    assert "--driver overlay" in refused.err
    aufs.restore("--driver", "overlay", "--upper", aufs.place.top / "converted", aufs.id)
    assert not (aufs.root / "etc/gone").exists()
    assert not (aufs.root / "etc/.wh.gone").exists()


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_3_releases_and_storage_drivers(place: Place, layout: Layout) -> None:
    """A container of each comes back and goes on, with the files that Docker gave it."""
    home = Home(place, layout)
    home.start()
    home.dump(home.id[:12])
    assert not place.runs(home.pid)
    home.restore("web")
    home.goes_on()
    assert place.runs(home.pid)
    assert (home.root / "etc/motd").read_text() == "from the middle\n"
    assert not (home.root / "var/old").exists()


def test_4_the_logs_are_for_people(home: Home) -> None:
    """Without those of the dump a container comes back all the same."""
    home.start()
    home.dump()
    for log in home.images.glob("*.log"):
        log.unlink()
    home.restore()
    home.goes_on()


def test_5_relative_layers(home: Home) -> None:
    """Layers that were mounted relative to a directory that nobody tells are in the records."""
    place = home.place
    lowers = ":".join(f"l/{each.name}" for each in place.layers)
    options = f"lowerdir={lowers},upperdir={place.upper},workdir={place.work}"
    words = ["mount", "-i", "-t", "overlay", "overlay", "-o", options, str(home.merged)]
    subprocess.run(words, cwd=home.tree.data / "overlay2", check=True)
    table = Path("/proc/self/mountinfo").read_text()
    assert "lowerdir=l/" in table or "lowerdir+=l/" in table
    home.start(mounted=True)
    home.dump()
    home.restore()
    home.goes_on()


def test_6_volumes_and_binds_of_the_user(home: Home) -> None:
    """A volume of Docker, one of its files, and a directory of the host are there again."""
    volume = home.tree.data / "volumes/data/_data"
    home.place.write(volume / "file", "in a volume\n")
    other = home.place.directory("a directory", "file")
    recorded = {
        "/data": {"Type": "volume", "Name": "data", "Destination": "/data", "RW": True},
        "/srv/a b": {"Type": "bind", "Source": str(other), "Destination": "/srv/a b", "RW": True},
    }
    home.configure(MountPoints=recorded)
    home.start(binds=[BindMount(str(volume), "/data"), BindMount(str(other), "/srv/a b")])
    home.dump()
    home.restore()
    assert (home.root / "data/file").read_text() == "in a volume\n"
    assert (home.root / "srv/a b/file").read_text() == "file\n"
    (home.root / "data/more").write_text("written later\n")
    assert (volume / "more").read_text() == "written later\n"


def test_7_without_a_dockerinit(home: Home) -> None:
    """Docker since 1.11 has none: a variable that names one is of no consequence."""
    home.start()
    home.dump(DOCKERINIT_BINARY="dockerinit-1.0")
    home.restore(DOCKERINIT_BINARY="dockerinit-1.0")
    home.goes_on()


@pytest.mark.parametrize("named", ["dockerinit-2", "/init/dockerinit-2", None])
def test_7_another_dockerinit(place: Place, named: str | None) -> None:
    """It is the one that is named, below `init` or anywhere; else the only one that there is."""
    home = Home(place, OLD)
    home.start()
    home.dump()
    inits = home.tree.data / "init"
    (inits / "dockerinit-1").unlink()
    assert home.call("-r", home.id).status == 3
    place.write(inits / "dockerinit-2", "another\n")
    if named and named.startswith("/"):
        named = f"{home.tree.data}{named}"
    home.restore(home.id, DOCKERINIT_BINARY=named)
    assert (home.root / ".dockerinit").read_text() == "another\n"


def test_8_paths_are_compared_whole(place: Place) -> None:
    """What is mounted at a path that looks like the root's is not taken for it."""
    home = Home(place, OVERLAY2, directory="ho.e")
    others = [Path(f"{home.merged}-2"), home.merged.parent / "merge", Path(f"{home.images}.old")]
    for each in (*others, Path(str(home.merged).replace("ho.e", "hole"))):
        each.mkdir(parents=True)
        place.mount("tmpfs", each)
    home.start()
    home.dump()
    before = place.mounted()
    home.restore()
    home.goes_on()
    assert place.mounted() == before
    assert set(map(str, others)) <= {*before}


@pytest.mark.parametrize("word", ["beginning", "id", "name"])
def test_9_without_docker_and_its_records(home: Home, word: str) -> None:
    """With no docker to call, and where Docker forgot the container, its checkpoint is found."""
    programs = home.place.directory("programs")
    for name in ("tar", "gzip"):
        (programs / name).symlink_to(str(shutil.which(name)))
    top = home.place.directory("elsewhere")
    variables: dict[str, Any] = {
        "PATH": programs,
        "DOCKER_BINARY": "/nonexistent",
        "CRIU_IMG_DIR": top,
    }
    home.start()
    assert home.call("-c", home.id, **variables).out == "dump successful\n"
    home.ends()
    files = home.place.directory("files")
    for name in ("hostname", "hosts", "resolv.conf"):
        shutil.move(home.records / name, files / name)
    binds = [
        word
        for name in ("hostname", "hosts", "resolv.conf")
        for word in ("--bind", f"/etc/{name}={files / name}")
    ]
    shutil.rmtree(home.records)
    reference = {"beginning": home.id[:5], "id": home.id, "name": "web"}[word]
    finished = home.call("-r", reference, *binds, **variables)
    assert (finished.status, finished.out) == (0, "restore successful\n"), finished
    assert (top / home.id / "restore.pid").exists()
    home.place.goes_on()


def test_10_a_restore_that_fails_leaves_nothing(home: Home) -> None:
    """Nothing stays mounted and nothing runs; it can be tried again."""
    home.start()
    home.dump()
    before = home.place.table()
    pages = home.images / "pages-1.img"
    pages.rename(home.place.top / "pages")
    finished = home.call("-v", "-r", home.id)
    assert finished.status == 1, finished
    assert finished.out.endswith("restore failed\n")
    assert "Error (" in finished.err  # CRIU's own words
    assert finished.err.splitlines()[-2].startswith("mountcr: ")
    home.place.wait(lambda: not home.place.processes())
    assert home.place.table() == before
    assert not (home.images / "restore.pid").exists()
    (home.place.top / "pages").rename(pages)
    home.restore()
    home.goes_on()


def test_11_a_source_that_is_missing(home: Home) -> None:
    """It is said before anything is restored, with an option that the command has."""
    source = home.place.directory("source", "file")
    home.start(binds=[BindMount(str(source), "/data")])
    home.dump()
    source.rename(home.place.top / "moved")
    finished = home.call("-r", home.id)
    assert finished.status == 4, finished
    assert finished.out == "restore failed\n"
    assert "--bind /data=" in finished.err
    home.restore("--bind", f"/data={home.place.top / 'moved'}", home.id)
    assert (home.root / "data/file").read_text() == "file\n"


def test_12_propagation_tmpfs_and_devices(home: Home) -> None:
    """The mounts of a container of Docker are all there, as they were."""
    place = home.place
    shared = place.directory("shared", "file")
    place.bind(shared, shared, "shared")
    home.start(
        root_propagation="slave",
        binds=[
            BindMount(str(shared), "/shared", propagation="slave"),
            BindMount("/dev/null", "/etc/masked"),
            *(Tmpfs(at) for at in ("/run", "/dev/shm")),
            Devpts(),
        ],
    )
    (home.root / "dev/shm/state").write_text("kept")
    home.dump()
    finished = home.restore()
    # the root was a slave of what Docker had mounted, which went with the container
    assert finished.err in {"", "differs: /: master: yes -> none\n"}
    assert (home.root / "dev/shm/state").read_text() == "kept"
    assert stat.S_ISCHR((home.root / "etc/masked").stat().st_mode)
    place.mount("tmpfs", place.directory("shared/below"))
    table = Path(f"/proc/{home.pid}/mountinfo")
    place.wait(lambda: " /shared/below " in table.read_text())


def test_13_only_root_reads_the_images(home: Home) -> None:
    """Whatever the umask: memory and files of the container are in them."""
    home.start()
    home.dump(umask=0)
    home.restore(umask=0)
    for directory in (home.images.parent, home.images):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in home.images.iterdir()}
    assert {"mountcr.json", "restore.pid", "pages-1.img", "dump.log"} <= {*modes}
    open_ones = {name for name, mode in modes.items() if mode & 0o077}
    assert open_ones <= {"stats-restore"}  # CRIU's own: how long it took


@pytest.mark.parametrize(
    ("dumping", "restoring"),
    [("-cv", "-vr"), ("--checkpoint", "--restore"), ("--verb", "-v"), ("-v", "--verbose")],
)
def test_14_options_in_every_spelling(home: Home, dumping: str, restoring: str) -> None:
    """Short ones together, long ones in full or cut, before the id or after it."""
    home.start()
    first = [dumping, home.id] if "c" in dumping else [home.id, "-c", dumping]
    said = home.dump(*(word for word in first if word != "-c"), *["-c"] * ("-c" in first))
    assert ("image directory: " in said.out) == ("v" in dumping)
    words = [restoring] if restoring in {"-vr", "--restore"} else [restoring, "-r"]
    said = home.restore(*words, home.id)
    assert ("image directory: " in said.out) == ("v" in restoring)


@pytest.mark.parametrize(
    ("words", "status"),
    [(["-c", "-r"], 2), ([], 2), (["--checkpoint help"], 2), (["-h"], 0), (["--help"], 0)],
)
def test_14_options_that_make_no_sense(home: Home, words: list[str], status: int) -> None:
    """They are an error of one line and a hint; the help has all of them, and the variables."""
    finished = home.call(*words)
    assert finished.status == status
    if status:
        assert len(finished.err.splitlines()) == 2
        return
    for word in ("--checkpoint", "--restore", "--verbose", "DOCKER_HOME", "DOCKER_BINARY"):
        assert word in finished.out


def test_15_the_status_says_what_happened(home: Home) -> None:
    """Done, no such container, refused, failed: a status each, and a word at the end."""
    home.start()
    assert home.call("-c", "nobody").status == 3
    refused = home.call("-c", home.id, "--", "--skip-mnt", "/")
    assert (refused.status, refused.out) == (4, "dump failed\n")
    assert home.place.runs(home.pid)
    assert not home.images.exists()
    assert not home.new.exists()
    nobody = home.call("-r", home.id)
    assert (nobody.status, nobody.out) == (3, "restore failed\n")
    home.dump()
    assert os.path.exists(home.images / "inventory.img")
    assert home.call("-r", home.id, CRIU_BINARY="/nonexistent").status == 6
    home.restore()
