# SPDX-License-Identifier: Apache-2.0
"""What is observed of descriptors, of what CRIU searches, and of programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountcr.model import Mark
from mountcr.observation import elf, fdinfo, irmap

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN = "pos:\t17\nflags:\t0100002\nmnt_id:\t126\nino:\t2169\n"
HEAD = "pos:\t0\nflags:\t02004000\nmnt_id:\t15\nino:\t1057\n"


def test_a_plain_file() -> None:
    """Position, flags in octal, mount; nothing else."""
    assert fdinfo.parse(PLAIN) == fdinfo.FdInfo(
        mnt_id=126, flags=0o100002, position=17, locked=False, tty_index=-1, marks=()
    )


def test_a_kernel_that_tells_less() -> None:
    """Before Linux 3.15 there is no mount id."""
    assert fdinfo.parse("pos:\t0\nflags:\t02\n").mnt_id == -1


def test_a_lock() -> None:
    """Locks are of the descriptor that fdinfo is of."""
    text = PLAIN + "lock:\t1: FLOCK  ADVISORY  WRITE 359 08:01:2169 0 EOF\n"
    assert fdinfo.parse(text).locked


def test_marks_of_inotify() -> None:
    """Every line is one; numbers are hexadecimal and the device is the kernel's own."""
    text = (
        HEAD
        + "inotify wd:2 ino:7ef82a sdev:800001 mask:800afff ignored_mask:0 "
        + "fhandle-bytes:8 fhandle-type:1 f_handle:2af87e00220ffd73\n"
        + "inotify wd:1 ino:7 sdev:27 mask:100 ignored_mask:0 "
        + "fhandle-bytes:1d fhandle-type:f8 f_handle:00fb1d0001\n"
    )
    assert fdinfo.parse(text).marks == (
        Mark(kind="inotify", wd=2, dev="8:1", ino=0x7EF82A, handle=1),
        Mark(kind="inotify", wd=1, dev="0:39", ino=7, handle=0xF8),
    )


def test_marks_of_fanotify() -> None:
    """Those of inodes, mounts and superblocks; the flags of the group are no mark."""
    text = (
        HEAD
        + "fanotify flags:0 event-flags:8800\n"
        + "fanotify ino:1f sdev:27 mflags:0 mask:1 ignored_mask:0 fhandle-bytes:8 "
        + "fhandle-type:1 f_handle:00\n"
        + "fanotify mnt_id:12 mflags:0 mask:1 ignored_mask:0\n"
        + "fanotify sdev:800013 mflags:0 mask:3b ignored_mask:0\n"
    )
    assert fdinfo.parse(text).marks == (
        Mark(kind="fanotify", dev="0:39", ino=0x1F, handle=1),
        Mark(kind="fanotify", mnt_id=0x12),
        Mark(kind="fanotify", dev="8:19"),
    )


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A new pseudoterminal: the two ends."""
    ends = os.openpty()
    yield ends
    for fd in ends:
        os.close(fd)


def test_the_master_of_a_terminal(terminal: tuple[int, int]) -> None:
    """The number of the other end, which is its name; the other end has none."""
    master, slave = terminal
    number = int(os.path.basename(os.ttyname(slave)))
    assert fdinfo.read(f"/proc/thread-self/fdinfo/{master}").tty_index == number
    assert fdinfo.read(f"/proc/thread-self/fdinfo/{slave}").tty_index == -1


def test_where_criu_searches(tmp_path: Path) -> None:
    """It walks its directories, takes a link as what it is, and does not leave the root."""
    below = tmp_path / "root"
    (below / "etc/deep").mkdir(parents=True)
    (below / "etc/deep/file").touch()
    (below / "home").mkdir()
    (below / "etc/link").symlink_to("/home")
    (tmp_path / "log").mkdir()
    (below / "var").symlink_to("..")
    fd = os.open(below, os.O_PATH | os.O_DIRECTORY)
    try:
        found = irmap.scan(fd)
    finally:
        os.close(fd)
    assert sorted(found.values()) == ["/", "/etc", "/etc/deep", "/etc/deep/file", "/etc/link"]
    stat = (below / "etc/deep/file").stat()
    key = f"{os.major(stat.st_dev)}:{os.minor(stat.st_dev)}", stat.st_ino
    assert found[key] == "/etc/deep/file"


def note(name: bytes, description: bytes, kind: int) -> bytes:
    """An ELF note, padded as elf(5) says."""
    head = b"".join(each.to_bytes(4, "little") for each in (len(name), len(description), kind))
    return head + name.ljust(-(-len(name) // 4) * 4, b"\0") + description.ljust(4, b"\0")


def program(notes: bytes, *, bits: int) -> bytes:
    """An ELF file whose second segment holds notes."""
    wide, header, entry = (8, 64, 56) if bits == 64 else (4, 52, 32)
    start = header + 2 * entry
    content = bytearray(start + len(notes))
    content[:7] = b"\x7fELF" + bytes([bits // 32, 1, 1])
    at_phoff, at_phnum = (32, 56) if bits == 64 else (28, 44)
    content[at_phoff : at_phoff + wide] = header.to_bytes(wide, "little")
    content[at_phnum] = 2
    second = header + entry
    content[header] = 1
    content[second] = 4
    at_offset, at_size = (8, 32) if bits == 64 else (4, 16)
    content[second + at_offset : second + at_offset + wide] = start.to_bytes(wide, "little")
    content[second + at_size : second + at_size + wide] = len(notes).to_bytes(wide, "little")
    content[start:] = notes
    return bytes(content)


@pytest.mark.parametrize("bits", [32, 64])
def test_the_build_id_of_a_program(bits: int) -> None:
    """It is the description of a note of type 3, whatever notes stand before it."""
    notes = note(b"GNU\0", b"abi!", 1) + note(b"GNU\0", b"\xca\xfe\x00\x01", 3)
    assert elf.parse(program(notes, bits=bits)) == "cafe0001"
    assert elf.parse(program(note(b"GNU\0", b"abi!", 1), bits=bits)) == ""


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02", b"\x7fELF\x02" + b"\xff" * 200]
)
def test_what_is_no_program_has_no_build_id(content: bytes) -> None:
    """Nor has one that is cut off, or whose headers make no sense."""
    assert elf.parse(content) == ""


def test_a_real_program() -> None:
    """The interpreter is a program, a directory is none; reading moves no position."""
    fd = os.open(os.path.realpath(sys.executable), os.O_RDONLY)
    try:
        assert elf.build_id(fd) == elf.parse(Path(sys.executable).read_bytes()[: 1 << 20])
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    finally:
        os.close(fd)


@pytest.mark.parametrize(("line", "pid"), [("Pid:\t42\n", 42), ("Pid:\t-1\n", -1), ("", None)])
def test_a_descriptor_of_a_process(line: str, pid: int | None) -> None:
    """The process of a pidfd; -1 when it was reaped, none of what is no pidfd."""
    assert fdinfo.parse(HEAD + line + "NSpid:\t42\n").pidfd == pid
