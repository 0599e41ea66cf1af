# SPDX-License-Identifier: Apache-2.0
"""A container goes into a bundle and comes out of it, on another driver, under another id."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.demo.launch import BindMount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.conftest import Place

IMPORTS = "/var/lib/mountcr/containers"

OWN = f"test-{os.getpid()}"
"""What the ids of containers begin with: others may be tested at the same time."""

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("imports")]


@pytest.fixture
def imports(place: Place) -> Iterator[None]:
    """Nothing of the tests stays where imported containers lie."""
    yield
    place.close()
    for name in os.listdir(IMPORTS) if os.path.isdir(IMPORTS) else ():
        if name.startswith(OWN):
            shutil.rmtree(f"{IMPORTS}/{name}")


def counter(place: Place, *words: str, binds: list[BindMount] | None = None) -> int:
    """Start a counter that has changed, removed and renamed what its image had."""
    place.mount_overlay()
    (place.root / "etc/motd").write_text("changed\n")
    (place.root / "etc/lines").unlink()
    (place.root / "etc").rename(place.root / "moved") if "rename" in words else None
    return place.start(binds=binds or [])


def gone(place: Place) -> None:
    """Take away everything that the container was made of, as on another host."""
    place.unmount()
    for each in (*place.layers, place.upper, place.work):
        shutil.rmtree(each)


@pytest.mark.parametrize("driver", ["overlay", "vfs", "unionfs", "fuse-overlayfs"])
def test_a_counter_goes_on_elsewhere(place: Place, driver: str) -> None:
    """Export ends it, nothing of it is left, restore of the file brings it back."""
    pid = counter(place)
    place.wait(lambda: place.count() > 3)
    bundle = place.top / "web.tar.zst"
    exported = place.done("export", pid, "-o", bundle)
    assert exported["layers"] == [3, 3]
    assert not place.runs(pid)
    reached = place.count()
    gone(place)
    restored = place.done("restore", bundle, "--id", f"{OWN}-{driver}", "--driver", driver)
    assert restored["differences"] == []
    place.remember(restored["pid"])
    root = Path(f"/proc/{restored['pid']}/root")
    counted = root / "var/count"
    place.wait(lambda: len(counted.read_text().splitlines()) > reached + 3)
    lines = counted.read_text().split()
    assert lines == [str(number + 1) for number in range(len(lines))]
    assert (root / "etc/motd").read_text() == "changed\n"
    assert os.listdir(root / "etc") == ["motd"]


def root_of(document: dict[str, object], place: Place) -> Path:
    """Give the root of a restored container, which is remembered."""
    pid = document["pid"]
    assert isinstance(pid, int)
    place.remember(pid)
    return Path(f"/proc/{pid}/root")


def test_what_comes_from_outside_is_asked_for(place: Place) -> None:
    """All missing sources are named with type and mode; nothing is unpacked, then each is given."""
    hosts = place.write(place.top / "hosts", "10.0.0.1 db\n")
    data = place.directory("data", "file")
    data.chmod(0o750)
    binds = [BindMount(str(hosts), "/etc/hosts"), BindMount(str(data), "/data")]
    bundle = place.top / "web.tar"
    place.done("export", counter(place, binds=binds), "-o", bundle, "--compress", "none")
    refused = place.mountcr("restore", bundle, "--id", f"{OWN}-asks")
    assert refused.status == 4
    assert f"M3 /etc/hosts: a file, mode 0644, {hosts} where it came from" in refused.err
    assert f"M3 /data: a directory, mode 0750, {data} where it came from" in refused.err
    assert "--bind" in refused.err
    assert not os.path.exists(f"{IMPORTS}/{OWN}-asks")
    planned = place.mountcr("plan", bundle, "--for", "restore", "--json")
    assert planned.status == 4
    assert [each["mount"] for each in planned.document["findings"] if each["rule"] == "M3"] == [
        "/etc/hosts",
        "/data",
    ]
    other = place.directory("other", "here")
    words = ("--bind", f"/data={other}", "--allow-bind", place.top)
    root = root_of(place.done("restore", bundle, "--id", f"{OWN}-asks", *words), place)
    assert (root / "etc/hosts").read_text() == "10.0.0.1 db\n"
    assert os.listdir(root / "data") == ["here"]
    root = root_of(place.done("restore", bundle, "--id", f"{OWN}-made", "--create-missing"), place)
    assert (root / "etc/hosts").read_text() == ""
    assert os.listdir(root / "data") == []


def test_volumes_go_along_by_choice(place: Place) -> None:
    """A volume that was asked for comes back with its content, its owners and its marks."""
    data = place.directory("data", "file", "deep")
    os.chown(data / "file", 12, 34)
    os.setxattr(data / "file", "user.name", b"value")
    os.link(data / "file", data / "link")
    name = place.write(place.top / "name", "web\n")
    binds = [BindMount(str(name), "/etc/hostname"), BindMount(str(data), "/data")]
    pid = counter(place, binds=binds)
    wrong = place.mountcr("export", pid, "-o", place.top / "no", "--volume", "/nothing")
    assert wrong.status == 2
    assert "--volume /nothing" in wrong.err
    assert "/etc/hostname, /data" in wrong.err
    assert place.runs(pid)
    assert not (place.top / "no").exists()
    bundle = place.top / "web.tar.gz"
    words = ("--volume", "all", "--compress", "gzip")
    exported = place.done("export", pid, "-o", bundle, *words)
    assert exported["mounts"] == ["/etc/hostname", "/data"]
    shutil.rmtree(data)
    name.unlink()
    root = root_of(place.done("restore", bundle, "--id", f"{OWN}-volumes"), place)
    assert (root / "etc/hostname").read_text() == "web\n"
    found = (root / "data/file").stat()
    assert (found.st_uid, found.st_gid, found.st_nlink) == (12, 34, 2)
    assert os.getxattr(root / "data/file", "user.name") == b"value"


def test_many_are_restored_from_one(place: Place) -> None:
    """Each has an upper of its own; the one that was exported may go on."""
    pid = counter(place)
    bundle = place.top / "web.tar.zst"
    told = place.mountcr("export", pid, "-o", bundle, "--leave-running")
    assert told.status == 0, told
    assert "the container will be frozen for about" in told.err or "frozen" in told.out
    place.goes_on()
    roots = [
        root_of(place.done("restore", bundle, "--id", f"{OWN}-{number}"), place)
        for number in range(3)
    ]
    for number, root in enumerate(roots):
        (root / "var/who").write_text(f"{number}")
    assert [(root / "var/who").read_text() for root in roots] == ["0", "1", "2"]
    place.goes_on()
    taken = place.mountcr("restore", bundle, "--id", f"{OWN}-0")
    assert taken.status == 2
    assert f"{IMPORTS}/{OWN}-0 is there already" in taken.err


def test_a_bundle_goes_through_pipes(place: Place) -> None:
    """`-` is standard output and input; the same images give the same bytes, also from a pipe."""
    images = place.dump(counter(place))
    first, second = place.top / "first", place.top / "second"
    with first.open("wb") as file:
        assert place.popen("export", images, "-o", "-", stdout=file.fileno()).wait(60) == 0
    place.done("export", images, "-o", second)
    assert first.read_bytes() == second.read_bytes()
    with first.open("rb") as file:
        process = place.popen("import", "-", "--id", f"{OWN}-piped", stdin=file.fileno())
        assert process.wait(60) == 0
    root = root_of(place.done("restore", f"{IMPORTS}/{OWN}-piped/images"), place)
    assert (root / "etc/motd").read_text() == "changed\n"


def test_a_directory_is_a_bundle_too(place: Place) -> None:
    """With the same members, and the same digest."""
    images = place.dump(counter(place))
    one = place.done("export", images, "-o", place.top / "file")
    other = place.done("export", images, "-o", f"{place.top}/directory/")
    assert one["digest"] == other["digest"]
    assert place.done("verify", place.top / "directory")["differences"] == []
    root = root_of(place.done("restore", place.top / "directory", "--id", f"{OWN}-dir"), place)
    assert (root / "etc/motd").read_text() == "changed\n"


def test_an_image_is_whole_or_not_there(place: Place) -> None:
    """Where the file system is full, the container goes on and nothing is left."""
    pid = counter(place)
    small = place.directory("small")
    done = place.run("mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=100", "small", small)
    assert done.status == 0, done
    failed = place.mountcr("export", pid, "--oci", small / "web")
    assert failed.status == 1, failed
    assert "No space left on device" in failed.err
    assert os.listdir(small) == []
    place.goes_on()
    images = place.dump(pid)
    exported = [place.done("export", images, "--oci", place.top / each) for each in ("one", "two")]
    assert exported[0]["image"] == exported[1]["image"]
    there = place.mountcr("export", images, "--oci", place.top / "one")
    assert there.status == 2
    assert "is there already" in there.err


def test_what_a_bundle_cannot_hold_is_told(place: Place) -> None:
    """Sockets of any layer that shows and of volumes are named; for a device nothing is frozen."""
    data = place.directory("data", "file")
    for at in (place.layers[1] / "lower", place.layers[2] / "hidden", data / "volume"):
        os.mknod(at, 0o140600)
    place.write(place.layers[0] / "hidden", "over it\n")
    pid = counter(place, binds=[BindMount(str(data), "/data")])
    os.mknod(place.root / "upper", 0o140600)
    bundle = place.top / "web.tar.zst"
    (place.root / "etc/motd").unlink()
    os.mknod(place.root / "etc/motd", 0o140600)
    told = place.mountcr("export", pid, "-o", bundle, "--volume", "all", "--leave-running")
    notes = [line for line in told.err.splitlines() if "the socket" in line]
    assert [line.split()[3] for line in notes] == ["/data/volume", "/lower", "/etc/motd", "/upper"]
    root = root_of(place.done("restore", bundle, "--id", f"{OWN}-left-out"), place)
    assert not (root / "etc/motd").exists()
    os.mknod(place.root / "device", 0o60600, os.makedev(1, 0))
    refused = place.mountcr("export", pid, "-o", place.top / "no")
    assert refused.status == 4
    assert "/device is the block device 1:0" in refused.err
    place.goes_on()
    assert not (place.top / "no").exists()


def test_the_root_has_its_times(place: Place) -> None:
    """CRIU makes a directory in it and removes that again, and nobody sees it."""
    images = place.dump(counter(place))
    os.utime(place.upper, ns=(10**18, 10**18 + 1))
    pid = place.restore(images)
    assert os.stat(f"/proc/{pid}/root").st_mtime_ns == 10**18 + 1


def test_a_bundle_is_looked_at(place: Place) -> None:
    """inspect, facts, graph, files and plan take one; verify names the member that was changed."""
    bundle = place.top / "web.tar"
    place.done("export", counter(place), "-o", bundle, "--compress", "none")
    document = place.done("inspect", bundle)
    assert document["members"][0]["name"].startswith("images/")
    assert [each["member"] for each in document["layers"]] == [
        f"layers/{number}.tar" for number in (1, 2, 3)
    ]
    for command in ("facts", "graph", "files"):
        assert place.mountcr(command, bundle).status == 0
    assert place.done("verify", bundle)["differences"] == []
    content = bytearray(bundle.read_bytes())
    content[content.rindex(b"changed\n")] ^= 1
    bundle.write_bytes(content)
    damaged = place.mountcr("verify", bundle)
    assert damaged.status == 5
    assert damaged.out.startswith("layers/upper.tar: ")
    assert place.mountcr("verify", bundle, "--quick").status == 0
    refused = place.mountcr("restore", bundle, "--id", f"{OWN}-damaged")
    assert refused.status == 5
    assert "layers/upper.tar" in refused.err
    assert not os.path.exists(f"{IMPORTS}/{OWN}-damaged")


def test_what_lay_in_memory_lies_in_memory_again(place: Place) -> None:
    """A tmpfs of the host that goes along is a tmpfs there too, with its content and mode."""
    shared = place.directory("shm")
    place.mount("tmpfs", shared)
    shared.chmod(0o1777)
    (shared / "segment").write_bytes(b"x" * 5000)
    bundle = place.top / "web.tar.zst"
    pid = counter(place, binds=[BindMount(str(shared), "/shm")])
    place.done("export", pid, "-o", bundle, "--volume", "/shm")
    place.unmount(shared)
    root = root_of(place.done("restore", bundle, "--id", f"{OWN}-shm"), place)
    assert (root / "shm/segment").read_bytes() == b"x" * 5000
    assert (root / "shm").stat().st_mode & 0o7777 == 0o1777
    table = (root.parent / "mountinfo").read_text().splitlines()
    (line,) = (each for each in table if each.split(" ")[4] == "/shm")
    assert " - tmpfs " in line


def test_a_signature_is_that_of_minisign(place: Place, require: Callable[[str], str]) -> None:
    """Signed with a key of minisign, a bundle is taken with its public key only."""
    minisign = require("minisign")
    keys: list[tuple[Path, Path]] = []
    for name in ("own", "other"):
        secret, public = place.top / f"{name}.key", place.top / f"{name}.pub"
        assert place.run(minisign, "-G", "-W", "-s", secret, "-p", public).status == 0
        keys.append((secret, public))
    (secret, public), (_, other) = keys
    images = place.dump(counter(place))
    bundle = f"{place.top}/signed/"
    place.done("export", images, "-o", bundle, "--sign", secret)
    assert place.run(minisign, "-Vm", f"{bundle}manifest.json", "-p", public).status == 0
    unsigned = place.top / "unsigned.tar"
    place.done("export", images, "-o", unsigned)
    assert place.done("verify", bundle, "--key", public)["differences"] == []
    assert place.done("inspect", bundle, "--key", public)["signed"]
    wrong = place.mountcr("restore", bundle, "--id", f"{OWN}-signed", "--key", other)
    assert wrong.status == 5
    missing = place.mountcr("restore", unsigned, "--id", f"{OWN}-signed", "--key", public)
    assert missing.status == 5
    assert "unsigned.tar is not signed" in missing.err
    assert not os.path.exists(f"{IMPORTS}/{OWN}-signed")
    words = ("--id", f"{OWN}-signed", "--key", public)
    root_of(place.done("restore", bundle, *words), place)
