# SPDX-License-Identifier: Apache-2.0
"""Descriptors that lead out of a container: standard streams of a runtime, files of the host."""

from __future__ import annotations

import contextlib
import json
import os
import select
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.conftest import Place

TALKER = b"""#!/bin/busybox sh
# says how far it is; the shell itself never moves its descriptors about
i=0
while :; do
    i=$((i+1))
    echo out $i
    (echo err $i >&2)
    (echo $i > /var/now)
    /bin/busybox sleep 0.02
done
"""

LISTENER = b"""#!/bin/busybox sh
# answers what it is told
while read -r line; do
    echo "heard $line"
done
exec /bin/busybox sleep 1000
"""


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """A pipe for output and one for errors: read, write, read, write; the read ends stay open."""
    fds = (*os.pipe(), *os.pipe())
    yield fds
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def read_line(fd: int) -> str:
    """Read a line from a pipe into which lines are written whole."""
    ready, _, _ = select.select([fd], [], [], 10)
    assert ready, "nothing is said"
    return os.read(fd, 4096).decode().splitlines()[-1]


def talker(place: Place, out: int, err: int) -> int:
    """Start a container that talks into two descriptors."""
    place.script("talker", TALKER)
    place.mount_overlay()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        return place.start("/bin/talker", stdio=(null, out, err))
    finally:
        os.close(null)


def now(place: Place) -> int:
    """Tell how far the talker is."""
    return int((place.upper / "var/now").read_text() or 0)


def goes_on(place: Place) -> None:
    """Claim that the talker talks on."""
    before = now(place)
    place.wait(lambda: (place.upper / "var/now").read_text().strip() and now(place) > before)


def piped(place: Place, pipes: tuple[int, int, int, int]) -> Path:
    """Dump a container that talks into pipes of ours."""
    read_out, write_out, read_err, write_err = pipes
    pid = talker(place, write_out, write_err)
    assert read_line(read_out).startswith("out ")
    assert read_line(read_err).startswith("err ")
    links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    images = place.dump(pid)
    # the format of runc and crun: the links of the descriptors 0, 1 and 2
    assert json.loads((images / "descriptors.json").read_text()) == links
    assert links[1].startswith("pipe:[")
    return images


def test_file(place: Place, pipes: tuple[int, int, int, int]) -> None:
    """What a container said into pipes goes, when it is restored, to the end of a file."""
    images = piped(place, pipes)
    log = place.write(place.top / "log", "before\n")
    place.restore(images, "--stdio", log)
    place.wait(lambda: log.read_text().count("\n") > 4)
    said = log.read_text().splitlines()
    assert said[0] == "before"
    assert {each.split()[0] for each in said[1:]} == {"out", "err"}


def test_pipe(place: Place, pipes: tuple[int, int, int, int]) -> None:
    """A container can talk into the pipe of another process, as into the log of a pod."""
    images = piped(place, pipes)
    reader, writer = os.pipe()
    place.restore(images, "--stdio", f"/proc/{os.getpid()}/fd/{writer}")
    os.close(writer)
    with os.fdopen(reader, "rb") as heard:
        lines = [heard.readline().decode() for _ in range(6)]
    assert {each.split()[0] for each in lines} == {"out", "err"}


def test_null(place: Place, pipes: tuple[int, int, int, int]) -> None:
    """By default nobody hears what a restored container says, and it talks on."""
    place.restore(piped(place, pipes))
    goes_on(place)


def test_inherit(place: Place, pipes: tuple[int, int, int, int]) -> None:
    """A container can be given the standard streams of who restores it."""
    images = piped(place, pipes)
    reader, writer = os.pipe()
    errors, complaints = os.pipe()
    process = place.popen("restore", images, "--stdio", "inherit", stdout=writer, stderr=complaints)
    os.close(writer)
    os.close(complaints)
    with os.fdopen(reader, "rb") as out, os.fdopen(errors, "rb") as err:
        assert process.wait(timeout=30) == 0
        lines = [out.readline().decode() for _ in range(4)]
        assert sum(each.startswith("restored as pid") for each in lines) == 1
        assert sum(each.startswith("out ") for each in lines) == 3
        assert err.readline().startswith(b"err ")
        goes_on(place)


def test_input(place: Place, pipes: tuple[int, int, int, int]) -> None:
    """A container that reads from a pipe reads from the standard input of who restores it."""
    place.script("listener", LISTENER)
    place.mount_overlay()
    to_read, to_write, read_out, write_out = pipes
    null = os.open("/dev/null", os.O_WRONLY)
    pid = place.start("/bin/listener", stdio=(to_read, write_out, null))
    os.close(null)
    os.write(to_write, b"once\n")
    assert read_line(read_out) == "heard once"
    images = place.dump(pid)
    reader, writer = os.pipe()
    heard, said = os.pipe()
    process = place.popen("restore", images, "--stdio", "inherit", stdin=reader, stdout=said)
    try:
        assert process.wait(timeout=30) == 0
        os.write(writer, b"again\n")
        lines = ""
        while "heard again" not in lines:
            lines += read_line(heard)
    finally:
        for fd in (reader, writer, heard, said):
            os.close(fd)


def test_host_files(place: Place) -> None:
    """Standard streams that are files of the host are opened again, at their ends."""
    log = place.top / "log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        pid = talker(place, output, output)
    finally:
        os.close(output)
    place.wait(lambda: log.read_text().count("\n") > 4)
    images = place.dump(pid)
    before = log.read_text()
    pid = place.restore(images)
    assert os.readlink(f"/proc/{pid}/fd/1") == str(log)
    place.wait(lambda: len(log.read_text()) > len(before))
    assert log.read_text().startswith(before)


def test_host_file_at_its_place(place: Place) -> None:
    """A file of the host that is not only appended to is written on where it was."""
    log = place.write(place.top / "log", "0123456789" * 100)
    output = os.open(log, os.O_WRONLY)
    os.lseek(output, 50, os.SEEK_SET)
    try:
        pid = talker(place, output, output)
    finally:
        os.close(output)
    images = place.dump(pid)
    before = log.read_text()
    said = before[50 : before.rindex("\n") + 1]
    assert said.startswith("out 1\n")
    place.restore(images)
    goes_on(place)
    after = log.read_text()
    assert after.startswith(before[:50] + said)
    assert len(after) == len(before)


def test_host_file_is_gone(place: Place) -> None:
    """A file of the host that is gone is named, and nothing runs."""
    log = place.top / "log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        pid = talker(place, output, output)
    finally:
        os.close(output)
    images = place.dump(pid)
    log.unlink()
    done = place.mountcr("restore", images)
    assert done.status in {4, 5}, done
    assert str(log) in done.err
    place.wait(lambda: not place.processes())


def test_stdio_that_cannot_be(place: Place, pipes: tuple[int, int, int, int]) -> None:
    """A file that cannot be written is a matter of usage."""
    images = piped(place, pipes)
    done = place.mountcr("restore", images, "--stdio", place.top / "none/log")
    assert (done.status, done.out) == (2, "")
    assert str(place.top / "none/log") in done.err
    place.wait(lambda: not place.processes())
