# SPDX-License-Identifier: Apache-2.0
"""What `mountcr docker-cr` asks, what it refuses, and what becomes of an earlier checkpoint."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.dockerhomes import Home, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.conftest import Place

pytestmark = pytest.mark.long


@pytest.fixture
def home(place: Place) -> Home:
    """A container on overlay2 that runs."""
    found = Home(place, Layout("28", "overlay2"))
    found.start()
    return found


@pytest.fixture
def dumped(home: Home) -> Home:
    """One that has a checkpoint."""
    home.dump()
    return home


# --- Questions ------------------------------------------------------------------------------------


def test_containers_are_listed_and_one_is_asked_for(home: Home) -> None:
    """A checkpoint shows those that run, a restore all, with their checkpoints; both then ask."""
    other = home.tree.container("other", "overlay2")
    finished = home.call("-c", said=f"{home.id[:12]}\n")
    assert finished.status == 0, finished
    assert finished.err.endswith("\nContainer ID: \n")
    titles, row, end = finished.out.splitlines()
    assert titles.split("  ")[0] == "CONTAINER ID"
    assert row.split() == [home.id[:12], "app:1", "running", "web"]
    assert end == "dump successful"
    home.ends()
    finished = home.call("-r", said="web\n")
    assert finished.status == 0, finished
    assert finished.err.endswith("\nContainer ID: \n")
    titles, *rows, end = finished.out.splitlines()
    assert titles.endswith("CHECKPOINT")
    assert {row.split()[0]: row.endswith("  -") for row in rows} == {
        home.id[:12]: False,
        other[:12]: True,
    }
    assert end == "restore successful"


def test_the_process_of_a_restored_container_is_asked_for(dumped: Home) -> None:
    """Docker thinks that it has exited; with its pid it is checkpointed again, and comes back."""
    home = dumped
    home.restore()
    home.goes_on()
    finished = home.dump("-v", "web", said=(home.images / "restore.pid").read_text())
    assert finished.err.endswith("\nProcess ID: \n")
    assert f"image directory: {home.images}" in finished.out
    assert f"container root directory: {home.merged}" in finished.out
    home.restore()
    home.goes_on()


def test_both_questions_on_a_terminal(dumped: Home) -> None:
    """Asked where a person sees it, and answered there."""
    home = dumped
    home.restore()
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        home.words("-c"), stdin=terminal, stdout=terminal, stderr=terminal, env=home.environment()
    )
    os.close(terminal)
    with os.fdopen(main, "r+b", buffering=0) as screen:
        said = b""
        for question, answer in ((b"Container ID: ", "web"), (b"Process ID: ", str(home.pid))):
            said = _until(screen.fileno(), question)
            screen.write(f"{answer}\n".encode())
        said = _until(screen.fileno(), b"dump successful")
        assert said
        assert process.wait(60) == 0


def _until(terminal: int, wanted: bytes) -> bytes:
    """Read from a terminal until something stands there; its end is an error on Linux."""
    said = b""
    while wanted not in said:
        more = os.read(terminal, 4096)
        assert more, said
        said += more
    return said


@pytest.mark.parametrize(("said", "words"), [("", "-c"), ("\n", "-c"), ("", "-r"), (" \n", "-r")])
def test_nobody_says_which_container(home: Home, said: str, words: str) -> None:
    """An empty answer, or the end of input, is an error that says how to name it."""
    finished = home.call(words, said=said)
    assert finished.status == 2
    assert _complaint(finished.err) == "nobody said which container is meant"
    assert f"docker-cr {words} ID" in finished.err


def test_nothing_to_answer_from(home: Home) -> None:
    """A standard input that is closed is one without an answer."""
    words = ["sh", "-c", 'exec "$@" <&-', "sh", *home.words("-c")]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=home.environment()
    )
    assert done.returncode == 2
    assert _complaint(done.stderr) == "nobody said which container is meant"


@pytest.mark.parametrize(
    ("said", "status", "complaint"),
    [
        ("", 3, "does not run by Docker's records"),
        ("\n", 3, "does not run by Docker's records"),
        ("web\n", 2, "'web' is no pid"),
        ("-1\n", 2, "'-1' is no pid"),
        ("\\xff\n", 2, "is no pid"),
        ("4194303\n", 3, "no process has the pid 4194303"),
        ("1\n", 2, "pid 1"),
        ("HOST\n", 2, "has the mounts of the host"),
        ("OTHER\n", 2, "runs on"),
    ],
)
def test_a_process_that_is_not_the_container_s(
    dumped: Home, place: Place, said: str, status: int, complaint: str
) -> None:
    """Neither words nor processes of others are taken for it, and its checkpoint stays."""
    home = dumped
    before = sorted(each.name for each in home.images.iterdir())
    asleep = subprocess.Popen(["sleep", "60"])
    place.root = place.upper = place.directory("another")
    for layer in reversed(place.layers):
        subprocess.run(["cp", "-a", "--remove-destination", f"{layer}/.", place.root], check=True)
    other = place.start()
    try:
        said = said.replace("HOST", str(asleep.pid)).replace("OTHER", str(other))
        finished = home.call("-c", home.id, said=said)
    finally:
        asleep.kill()
        asleep.wait()
    assert finished.status == status, finished
    assert complaint in _complaint(finished.err)
    assert finished.out == "dump failed\n"
    assert place.runs(other)
    assert sorted(each.name for each in home.images.iterdir()) == before


# --- What is refused ------------------------------------------------------------------------------


def _complaint(said: str) -> str:
    """Give the error, which is one line, with a hint in another one, and no traceback."""
    assert "Traceback" not in said
    assert "internal error" not in said
    lines = [line for line in said.splitlines() if line.startswith("mountcr: ")]
    assert len(lines) == 1, said
    assert said.splitlines()[-1].startswith("  hint: "), said
    return lines[0].removeprefix("mountcr: ")


def _file(home: Home) -> dict[str, Any]:
    return {"CRIU_IMG_DIR": home.place.write(home.place.top / "a file", "")}


def _below_a_file(home: Home) -> dict[str, Any]:
    return {"CRIU_IMG_DIR": home.place.write(home.place.top / "a file", "") / "below"}


def _unwritable(home: Home) -> dict[str, Any]:
    directory = home.place.directory("unwritable")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(directory)], check=True)
    return {"CRIU_IMG_DIR": directory}


def _images_are_a_file(home: Home) -> dict[str, Any]:
    home.place.write(home.images, "")
    return {}


def _images_are_a_mount(home: Home) -> dict[str, Any]:
    home.images.mkdir(parents=True)
    home.place.mount("tmpfs", home.images)
    return {}


@pytest.mark.parametrize(
    "make", [_file, _below_a_file, _unwritable, _images_are_a_file, _images_are_a_mount]
)
def test_images_that_cannot_be_written(home: Home, make: Callable[[Home], dict[str, Any]]) -> None:
    """It is said before anything is frozen, with the variable that helps."""
    finished = home.call("-c", home.id, **make(home))
    assert (finished.status, finished.out) == (2, "dump failed\n"), finished
    assert _complaint(finished.err)
    assert home.place.runs(home.pid)
    home.goes_on()


@pytest.mark.parametrize("word", ["-c", "-r"])
@pytest.mark.parametrize(
    ("variables", "status", "complaint"),
    [
        ({"DOCKER_HOME": "/nonexistent"}, 3, "DOCKER_HOME /nonexistent is not there"),
        ({"DOCKER_HOME": "/proc"}, 3, "DOCKER_HOME /proc is no data root of Docker"),
        ({"CRIU_BINARY": "/nonexistent"}, 6, "CRIU_BINARY /nonexistent is no program"),
        ({"CRIU_BINARY": "/etc/passwd"}, 6, "CRIU_BINARY /etc/passwd is no program"),
        ({"CRIU_BINARY": "/bin/true"}, 6, "no CRIU that runs was found"),
    ],
)
def test_variables_that_name_nothing(
    dumped: Home, word: str, variables: dict[str, Any], status: int, complaint: str
) -> None:
    """The error names the variable."""
    if word == "-c":
        dumped.restore()
    finished = dumped.call(word, dumped.id, said=f"{dumped.pid}\n", **variables)
    assert finished.status == status, finished
    assert complaint in _complaint(finished.err)


def test_a_beginning_of_several_ids(dumped: Home) -> None:
    """Neither is taken, whether Docker or only a checkpoint knows them; both are named."""
    other = dumped.id[:6] + "f" * 58
    shutil.copytree(dumped.images, dumped.images.with_name(other))
    finished = dumped.call("-r", dumped.id[:6])
    assert finished.status == 2, finished
    assert f"docker:{dumped.id}, docker:{other}" in _complaint(finished.err).replace(
        f"docker:{other}, docker:{dumped.id}", f"docker:{dumped.id}, docker:{other}"
    )
    dumped.restore(f"docker:{dumped.id}")
    dumped.goes_on()


@pytest.mark.parametrize("word", ["nobody", "docker:", "docker:nobody", "1", "../x", "/"])
def test_words_that_name_nobody(dumped: Home, word: str) -> None:
    """Nothing is restored, and what there is is named."""
    finished = dumped.call("-r", word)
    assert finished.status in {2, 3}, finished
    assert _complaint(finished.err)


def test_a_container_that_was_never_dumped(home: Home) -> None:
    """The error says how it is dumped; images that mountcr did not make are said to be that."""
    finished = home.call("-r", "web")
    assert finished.status == 3
    assert f"docker-cr -c {home.id}" in finished.err
    home.place.write(home.images / "inventory.img", "")
    finished = home.call("-r", "web")
    assert finished.status == 3
    assert "were not made by mountcr" in finished.err


def test_a_container_that_runs_is_not_restored(dumped: Home) -> None:
    """It would run twice on the same files."""
    dumped.start()
    finished = dumped.call("-r", "web")
    assert finished.status == 4
    assert "stop it first" in finished.err
    assert dumped.place.runs(dumped.pid)


@pytest.mark.parametrize(
    "words", [("--driver", "vfs"), ("--bind", "/a=/b"), ("--upper", "/u"), ("--allow-changed",)]
)
def test_options_of_a_restore(home: Home, words: tuple[str, ...]) -> None:
    """A checkpoint does not take them in silence."""
    finished = home.call("-c", *words, home.id)
    assert finished.status == 2
    assert _complaint(finished.err) == f"{words[0]} is about a restore"
    assert home.place.runs(home.pid)


def test_a_container_that_is_paused(home: Home) -> None:
    """It is refused before CRIU waits for tasks that do not move, and runs when it is let go."""
    group = Path("/sys/fs/cgroup/freezer") / f"mountcr-test-{os.getpid()}"
    if not group.parent.is_dir():
        pytest.skip("there is no freezer of cgroup version 1")
    state = home.tree.run / "runtime-runc/moby" / home.id / "state.json"
    told = f'{{"cgroup_paths": {{"freezer": "{group}"}}, {state.read_text()[1:]}'
    state.write_text(told)
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(home.pid))
        (group / "freezer.state").write_text("FROZEN")
        finished = home.call("-c", "web")
        assert finished.status == 4, finished
        assert "is paused" in _complaint(finished.err)
    finally:
        (group / "freezer.state").write_text("THAWED")
        home.place.kill(home.pid)
        home.place.wait(lambda: not (group / "cgroup.procs").read_text().split())
        group.rmdir()


# --- Earlier checkpoints --------------------------------------------------------------------------


def test_old_files_are_not_among_new_ones(dumped: Home) -> None:
    """What an earlier checkpoint wrote is gone; what somebody put beside it is there."""
    home = dumped
    for name in ("core-4711.img", "stats-restore", "old.log", "notes.txt"):
        home.place.write(home.images / name, "")
    home.restore()
    home.dump(home.id, said=f"{home.pid}\n")
    there = {each.name for each in home.images.iterdir()}
    assert there & {"core-4711.img", "stats-restore", "old.log", "restore.pid"} == set()
    assert {"notes.txt", "inventory.img", "dump.log", "mountcr.json"} <= there
    home.restore()
    home.goes_on()


def test_a_checkpoint_outlives_one_that_fails(dumped: Home) -> None:
    """CRIU fails: its log is where the error says, and the earlier checkpoint can be restored."""
    home = dumped
    home.restore()
    before = {each.name for each in home.images.iterdir()}
    criu = home.place.write(home.place.top / "criu", _failing(home.place.criu))
    criu.chmod(0o755)
    finished = home.call("-v", "-c", home.id, said=f"{home.pid}\n", CRIU_BINARY=criu)
    assert finished.status == 1, finished
    assert finished.out.endswith("dump failed\n")
    assert home.place.runs(home.pid)
    assert {each.name for each in home.images.iterdir()} == before
    home.place.kill(home.pid)
    home.restore()
    log = home.place.upper / "var/count"
    written = log.stat().st_size
    home.place.wait(lambda: log.stat().st_size > written)


def _failing(criu: str) -> str:
    """Give a CRIU that says its version, and dumps nothing."""
    return f'#!/bin/sh\ncase "$1" in swrk) exit 1;; *) exec {criu} "$@";; esac\n'


def test_a_killed_checkpoint_that_was_complete(dumped: Home) -> None:
    """Killed before it took its place, it is the one that a restore takes."""
    home = dumped
    shutil.copytree(home.images, home.new)
    (home.images / "inventory.img").unlink()  # that this one is old nobody could tell otherwise
    home.restore()
    assert not home.new.exists()
    home.goes_on()


def test_a_killed_checkpoint_that_was_half(dumped: Home) -> None:
    """A restore takes the earlier one; the next checkpoint removes the half, and is whole."""
    home = dumped
    home.place.write(home.new / "core-1.img", "half")
    home.place.write(home.new / "mountcr.json.new", "half")
    home.restore()
    home.goes_on()
    home.dump(home.id, said=f"{home.pid}\n")
    home.restore()
    home.goes_on()


@pytest.mark.parametrize("taken", ["before", "half way"])
def test_a_checkpoint_killed_while_it_takes_its_place(dumped: Home, taken: str) -> None:
    """With the earlier one removed in part, or whole, the new one is restored."""
    home = dumped
    shutil.copytree(home.images, home.new)
    if taken == "half way":
        (home.images / "mountcr.json").unlink()
    else:
        shutil.rmtree(home.images)
    home.restore()
    home.goes_on()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_kills_at_any_moment(home: Home, share: float) -> None:
    """Killed anywhere, either the container runs or a checkpoint of it can be restored."""
    began = time.monotonic()
    home.dump()
    took = time.monotonic() - began
    home.restore()
    process = subprocess.Popen(
        home.words("-c", home.id),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=home.environment(),
    )
    assert process.stdin
    process.stdin.write(f"{home.pid}\n".encode())
    process.stdin.close()
    time.sleep(took * share)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # CRIU ends by itself
    assert home.place.mountcr("cleanup").status == 0
    if home.place.runs(home.pid):
        home.goes_on()
        home.dump(home.id, said=f"{home.pid}\n")
    home.restore()
    home.goes_on()


def test_one_at_a_time(dumped: Home) -> None:
    """While one checkpoints a container, another one is told so, and nothing is lost."""
    home = dumped
    home.new.mkdir()
    holder = subprocess.Popen(["flock", str(home.new), "sleep", "30"], start_new_session=True)
    try:
        home.place.wait(lambda: home.call("-r", home.id).status == 4)
        assert "another mountcr is just dumping" in _complaint(home.call("-r", home.id).err)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
    home.restore()
    home.goes_on()
