# SPDX-License-Identifier: Apache-2.0
"""Bad input gets one line that says what is wrong, one hint, and an exit status that means it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _cffi_backend
import msgspec
import pytest

import mountcr
import mountcr_drivers
from mountcr.demo.launch import BindMount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.conftest import Finished, Place

NOBODY = 65534


def complaint(finished: Finished, status: int) -> str:
    """Claim that a command ended so, with one line, at most one hint, and no output."""
    lines = finished.err.splitlines()
    assert finished.status == status, finished
    assert not finished.out, finished
    assert len(lines) in {1, 2}, finished
    assert lines[0].startswith("mountcr: "), finished
    assert all(line.startswith("  hint: ") for line in lines[1:]), finished
    assert "internal error" not in lines[0], finished
    return finished.err


@pytest.fixture
def images(place: Place) -> Path:
    """The images of a container that sleeps, with a bind of a file and one of a directory."""
    place.mount_overlay()
    pid = place.start(
        "/bin/sleeper",
        binds=[
            BindMount(str(place.write(place.top / "hosts", "10.0.0.1 db\n")), "/etc/hosts"),
            BindMount(str(place.directory("data", "file")), "/data"),
        ],
    )
    place.wait(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return place.dump(pid)


@pytest.fixture
def edited(images: Path) -> Callable[[Callable[[Any], None]], None]:
    """A function that lets another one edit the manifest."""

    def edit(change: Callable[[Any], None]) -> None:
        path = images / "mountcr.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit


@pytest.fixture
def state(place: Place) -> Callable[..., Path]:
    """A function that records containers as runc does, in a state directory of the test."""

    def record(*names: str, pid: int = 0, start_time: int = 0) -> Path:
        for name in names:
            document = {
                "id": name,
                "init_process_pid": pid,
                "init_process_start": start_time,
                "config": {"rootfs": str(place.root), "labels": [f"bundle={place.top}"]},
                "namespace_paths": {},
            }
            place.write(place.top / "runc" / name / "state.json", json.dumps(document))
        return place.top / "runc"

    return record


# --- Containers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["plan"], ["graph"], ["facts"], ["dump", "--images", "x"]])
def test_no_such_container(place: Place, state: Callable[..., Path], command: list[str]) -> None:
    """A name that no container has is not found; names like it are listed."""
    root = state("web-frontend", "web-backend", "database")
    said = complaint(place.mountcr(*command, "web-fronted", "--runtime-root", root), 3)
    assert "web-fronted" in said
    assert "web-frontend" in said


def test_ambiguous_prefix(place: Place, state: Callable[..., Path]) -> None:
    """A prefix of several ids is refused, and all of them are named."""
    root = state("web-frontend", "web-backend", "database")
    said = complaint(place.mountcr("plan", "web", "--runtime-root", root), 2)
    assert "web-frontend" in said
    assert "web-backend" in said
    assert "database" not in said


def test_ended(place: Place) -> None:
    """A process that has ended is not found."""
    place.mount_overlay()
    pid = place.start()
    place.kill(pid)
    place.wait(lambda: not os.path.exists(f"/proc/{pid}"), 30)
    assert str(pid) in complaint(place.mountcr("plan", pid), 3)
    assert str(pid) in complaint(place.mountcr("dump", pid, "--images", place.top / "images"), 3)
    assert not (place.top / "images").exists()


def test_reused_pid(place: Place, state: Callable[..., Path]) -> None:
    """A pid that another process has by now is not the container that was recorded."""
    place.mount_overlay()
    pid = place.start()
    root = state("web", pid=pid, start_time=1)
    words = ("web", "--runtime-root", root)
    complaint(place.mountcr("dump", *words, "--images", place.top / "images"), 3)
    assert place.runs(pid)


# --- Privilege and CRIU ---------------------------------------------------------------------------


@pytest.fixture
def own(place: Place) -> Iterator[int]:
    """A process of a user without privileges."""
    process = subprocess.Popen(["sleep", "1000"], user=NOBODY, group=NOBODY, extra_groups=[])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def unprivileged(place: Place) -> Iterator[Callable[..., Finished]]:
    """
    The command line run by a user without privileges.

    The checkout and its environment may lie where only root may look, so what runs is a copy.
    """
    identity: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - for nobody to read
        for package in (mountcr, mountcr_drivers, msgspec):
            source = os.path.dirname(str(package.__file__))
            shutil.copytree(source, f"{directory}/{package.__name__}")
        shutil.copy(_cffi_backend.__file__, directory)
        environment = {"PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"}
        for python in (sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3"):
            words = [python, "-c", "import mountcr.cli.plan, mountcr.kernel.syscalls"]
            with contextlib.suppress(OSError):
                status: int = subprocess.call(words, env=environment, **identity)
                if status == 0:
                    yield functools.partial(
                        place.mountcr, environment=environment, python=python, **identity
                    )
                    return
    pytest.skip("a user without privileges may run no Python of this version here")


def test_not_root(place: Place, own: int, unprivileged: Callable[..., Finished]) -> None:
    """What needs root says so, and what exactly needs it."""
    place.mount_overlay()
    pid = place.start()
    for words in (
        ("dump", own, "--images", "/tmp/none"),
        ("rebuild", pid, "--at", "/tmp/none"),
        ("demo",),
    ):
        said = complaint(unprivileged(*words), 7)
        assert "root" in said or "CAP_" in said
    assert not os.path.exists("/tmp/none")


def test_plan_without_root(place: Place, own: int, unprivileged: Callable[..., Finished]) -> None:
    """Without root a process of one's own can be planned, and so can a facts file."""
    document = unprivileged("plan", own, "--json")
    assert document.status in {0, 4}, document
    assert document.document["container"]["pid"] == own
    place.mount_overlay()
    facts = place.mountcr("facts", place.start()).out
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - for nobody to read
        path = place.write(Path(directory) / "facts.json", facts)
        planned = unprivileged("plan", path, "--json")
    assert (planned.status, planned.err) == (0, "")
    assert planned.document["verdict"] == "ok"
    assert planned.document["rootfs"]["driver"] == "overlay"


def test_plan_of_others_without_root(
    place: Place, images: Path, unprivileged: Callable[..., Finished]
) -> None:
    """Of a process of somebody else the mounts are planned, and what was hidden is said."""
    pid = place.restore(images)
    whole = place.done("plan", pid)
    planned = unprivileged("plan", pid, "--json")
    assert (planned.status, planned.err) == (0, "")
    ways = [(each["mountpoint"], each["source"]) for each in whole["externals"]]
    assert [(each["mountpoint"], each["source"]) for each in planned.document["externals"]] == ways
    hidden = {each["mount"] for each in planned.document["findings"] if each["rule"] == "M8"}
    assert {f"/proc/{pid}/fd", f"/proc/{pid}/cwd"} <= hidden


@pytest.mark.parametrize("command", ["dump", "restore"])
def test_no_criu(place: Place, images: Path, command: str) -> None:
    """Without CRIU nothing is touched, and the hint says how to get one."""
    environment = {"MOUNTCR_CRIU": "/nonexistent"}
    words: tuple[object, ...] = ("restore", images)
    if command == "dump":
        words = ("dump", place.restore(images), "--images", place.top / "again")
    said = complaint(place.mountcr(*words, environment=environment), 6)
    assert "/nonexistent" in said
    assert "tools/provision" in said
    assert not (place.top / "again").exists()


def test_broken_criu(place: Place, images: Path) -> None:
    """A CRIU that does not work here is refused with its own first error."""
    broken = place.write(
        place.top / "criu",
        "#!/bin/sh\n"
        "[ $1 = --version ] && echo Version: 3.17.1 && exit\n"
        "echo 'Error (criu/vdso.c:704): vdso: Unexpected rt vDSO area bounds'\n"
        "echo 'Error (criu/cr-check.c:1): something else'\nexit 1\n",
    )
    broken.chmod(0o755)
    said = complaint(place.mountcr("restore", images, environment={"MOUNTCR_CRIU": str(broken)}), 6)
    assert "vdso: Unexpected rt vDSO area bounds" in said
    assert "something else" not in said
    assert "3.17.1" in said


# --- Images directories ---------------------------------------------------------------------------


def test_no_images(place: Place) -> None:
    """What is no images directory is said to be none: nothing, a file, another directory."""
    none = place.top / "none"
    assert "no such directory" in complaint(place.mountcr("restore", none), 3)
    assert str(none) in complaint(place.mountcr("rebuild", none, "--at", place.root), 3)
    file = place.write(place.top / "file", "x")
    assert "is no archive" in complaint(place.mountcr("restore", file), 2)
    assert "mountcr.json" in complaint(place.mountcr("restore", place.directory("other")), 2)


def test_newer_manifest(place: Place, images: Path, edited: Callable[..., None]) -> None:
    """A manifest of a newer version is refused by its version."""

    def renew(document: dict[str, Any]) -> None:
        document.update(schema="mountcr/manifest/2", novel=[1])

    edited(renew)
    said = complaint(place.mountcr("restore", images), 2)
    assert "version 2" in said
    assert "mountcr.json" in said


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 3}', "\0\0\0\0", '"\xff"'])
def test_damaged_manifest(place: Place, images: Path, text: str) -> None:
    """A damaged manifest is named."""
    (images / "mountcr.json").write_text(text, encoding="latin-1")
    assert f"{images}/mountcr.json" in complaint(place.mountcr("restore", images), 2)


def test_incomplete_manifest(place: Place, images: Path, edited: Callable[..., None]) -> None:
    """What is wrong in a manifest is named by its field."""

    def forget(document: dict[str, Any]) -> None:
        del document["facts"]["container"]

    edited(forget)
    assert "container" in complaint(place.mountcr("restore", images), 2)


@pytest.mark.parametrize("name", ["inventory.img", "files.img", "mountpoints-*.img", "core-1.img"])
@pytest.mark.parametrize("kept", [0, 4, 12])
def test_damaged_image(place: Place, images: Path, name: str, kept: int) -> None:
    """A CRIU image that is cut off is named, and nothing runs."""
    path = next(images.glob(name))
    path.write_bytes(path.read_bytes()[:kept])
    said = complaint(place.mountcr("restore", images), 1)
    assert path.name in said
    place.wait(lambda: not place.processes())


def test_dump_upon_a_dump(place: Place, images: Path) -> None:
    """A directory that holds a dump is not written into, and the container goes on."""
    pid = place.restore(images)
    before = {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    assert str(images) in complaint(place.mountcr("dump", pid, "--images", images), 2)
    assert {path.name: path.stat().st_mtime_ns for path in images.iterdir()} == before
    assert place.runs(pid)


# --- The root file system and what lies outside ---------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
def test_layer_is_gone(place: Place, images: Path, number: int) -> None:
    """A layer that is gone is named, by restore and by rebuild."""
    layer = place.layers[number]
    layer.rename(place.top / "elsewhere")
    assert str(layer) in complaint(place.mountcr("restore", images), 4)
    assert str(layer) in complaint(place.mountcr("rebuild", images, "--at", place.root), 4)
    assert str(place.root) not in place.mounted()


def test_upper_is_in_use(place: Place, images: Path) -> None:
    """A writable layer that another overlay has is not mounted again; the holder is named."""
    holder = place.mount_overlay(at=place.directory("holder"), lowers=place.layers[:1])
    assert str(holder) in complaint(place.mountcr("restore", images), 4)
    at = place.directory("at")
    assert str(holder) in complaint(place.mountcr("rebuild", images, "--at", at), 4)
    place.unmount(holder)
    place.restore(images)


@pytest.mark.parametrize("words", [("--driver", "vfs"), ("--driver", "overlay"), ()])
def test_new_upper_is_there(place: Place, images: Path, words: tuple[str, ...]) -> None:
    """A new writable layer never goes into what is there already, and the way out is named."""
    upper = place.directory("new", "mine")
    for command in (("restore", images), ("rebuild", images, "--at", place.root)):
        said = complaint(place.mountcr(*command, *words, "--upper", upper), 4)
        assert str(upper) in said
        assert "--upper" in said.splitlines()[1]
    assert os.listdir(upper) == ["mine"]
    assert place.processes() == []


def test_restored_twice(place: Place, images: Path) -> None:
    """While a container runs that was restored, its layers are not given to another one."""
    pid = place.restore(images)
    said = complaint(place.mountcr("restore", images), 4)
    assert str(pid) in said
    at = place.directory("at")
    complaint(place.mountcr("rebuild", images, "--at", at), 4)
    assert place.runs(pid)
    place.kill(pid)
    place.wait(lambda: not place.processes())
    place.restore(images)


def test_restored_at_once(place: Place, images: Path) -> None:
    """Of restores that are started at the same time one succeeds, and the others are refused."""
    processes = [
        place.popen("restore", images, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    ended = [(process.communicate(), process.returncode) for process in processes]
    assert sorted(status for _, status in ended) == [0, 4, 4, 4], ended
    assert len({os.readlink(f"/proc/{pid}/ns/pid") for pid in place.processes()}) == 1


def test_sources_are_missing(place: Place, images: Path) -> None:
    """Sources of externals that are gone are named, all of them."""
    (place.top / "hosts").unlink()
    shutil.rmtree(place.top / "data")
    said = complaint(place.mountcr("restore", images), 4)
    assert "/etc/hosts" in said
    assert "/data" in said
    plan = place.mountcr("plan", images, "--for", "restore", "--json")
    assert plan.status == 4
    found = {each["mount"] for each in plan.document["findings"] if each["rule"] == "M3"}
    assert found == {"/etc/hosts", "/data"}


def test_source_of_another_type(place: Place, images: Path) -> None:
    """A directory cannot stand in for a file."""
    (place.top / "hosts").unlink()
    (place.top / "hosts").mkdir()
    assert "/etc/hosts" in complaint(place.mountcr("restore", images), 4)


CHANGES: dict[str, Callable[[Path], object]] = {
    "R8": lambda path: path.write_text("first\nsecond\nthird\nfourth\n"),
    "R9": lambda path: path.chmod(0o600),
    "M5": lambda path: path.write_text("first\nsecond\nTHIRD\n"),
    "M7": lambda path: path.unlink(),
}


@pytest.mark.parametrize("rule", CHANGES)
def test_changed_file(place: Place, images: Path, rule: str) -> None:
    """A file that is open and is not what it was fails the verification before anything is done."""
    path = place.layers[2] / "etc/lines"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    CHANGES[rule](path)
    said = complaint(place.mountcr("restore", images), 5)
    assert f"{rule} /etc/lines" in said
    place.wait(lambda: not place.processes())


def test_changed_files(place: Place, images: Path) -> None:
    """All files that have changed are listed by the plan."""
    place.layers[2].joinpath("etc/lines").write_text("other\n")
    with place.layers[2].joinpath("bin/busybox").open("ab") as file:
        file.write(b"tail")
    plan = place.mountcr("plan", images, "--for", "restore", "--json")
    found = {(each["rule"], each["mount"]) for each in plan.document["findings"]}
    assert {("R8", "/etc/lines"), ("R8", "/bin/busybox")} <= found
    said = complaint(place.mountcr("restore", images), 5)
    assert "/etc/lines" in said
    assert "/bin/busybox" in said


def test_changed_file_is_allowed(place: Place, images: Path) -> None:
    """Other content of the same size is restored when it is allowed."""
    place.layers[2].joinpath("etc/lines").write_text("first\nsecond\nTHIRD\n")
    place.restore(images, "--allow-changed")


# --- Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["/etc/hosts", "=/srv", "etc=/srv", "/etc/hosts=", ""])
def test_malformed_bind(place: Place, word: str) -> None:
    """A bind that is not DST=SRC is refused."""
    complaint(place.mountcr("restore", place.top, "--bind", word), 2)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["plan"],
        ["dump", "1"],
        ["restore", "--via", "nobody", "x"],
        ["plan", "1", "--", "--tcp-established"],
        ["demo", "--", "--tcp-established"],
        ["restore", "x", "--manage-cgroups-mode", "some"],
    ],
)
def test_words_without_sense(place: Place, words: list[str]) -> None:
    """Words that make no sense are a matter of usage."""
    complaint(place.mountcr(*words), 2)


def test_unknown_driver(place: Place, images: Path) -> None:
    """A driver that is not installed is named, with those that are."""
    said = complaint(place.mountcr("restore", images, "--driver", "zfs"), 2)
    assert "zfs" in said
    assert "overlay" in said
    complaint(place.mountcr("rebuild", images, "--at", place.root, "--driver", "zfs"), 2)


def test_options_that_criu_lacks(place: Place, images: Path) -> None:
    """An option that is not CRIU's is refused before CRIU sees it, or by CRIU in its words."""
    complaint(place.mountcr("restore", images, "--", "nonsense"), 2)


def test_root_that_is_not_there(place: Place, images: Path) -> None:
    """A place for the root on the host must be there."""
    said = complaint(place.mountcr("restore", images, "--root", place.top / "none"), 2)
    assert str(place.top / "none") in said
    place.wait(lambda: not place.processes())
