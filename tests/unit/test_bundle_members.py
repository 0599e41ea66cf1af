# SPDX-License-Identifier: Apache-2.0
"""Members of archives: plain files by plain names, and a rule named for everything else."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from mountcr.bundle.limits import Limits
from mountcr.bundle.members import Members
from mountcr.bundle.stream import Stream
from mountcr.compression import Compression, Level, compressed
from mountcr.errors import DocumentError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def info(name: str, **fields: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def read(data: bytes, limits: Limits | None = None) -> dict[str, bytes]:
    limits = limits or Limits()
    found: dict[str, bytes] = {}
    for member, content in Members(Stream(io.BytesIO(data), "a.tar", limits), limits):
        parts: list[bytes] = []
        while piece := content.some():
            parts.append(bytes(piece))
        found[member.name] = b"".join(parts)
    return found


def refusal(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises((RefusedError, DocumentError)) as caught:
        read(data, limits)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("compression", list(Compression))
def test_files_are_given_with_their_content(compression: Compression) -> None:
    """Names lose what means nothing; the compression is told by content, directories are none."""
    whole = {"a": b"", "b/c": b"x" * 3_000_000, "b/d": b"yz"}
    archive = tar(
        info("./", type=tarfile.DIRTYPE),
        ("./a", b""),
        info("b", type=tarfile.DIRTYPE),
        ("b//c", whole["b/c"]),
        ("b/./d", b"yz"),
    )
    file = io.BytesIO()
    with compressed(file, Level(compression)) as packed:
        packed.write(archive)
    assert read(file.getvalue()) == whole


def test_content_that_nobody_reads_is_passed_over() -> None:
    """The next member is found whether or not the one before was read, in part or whole."""
    limits = Limits()
    stream = Stream(io.BytesIO(tar(("a", b"x" * 5000), ("b", b"y"))), "a.tar", limits)
    assert [member.name for member, _ in Members(stream, limits)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/etc/passwd", "a member is called /etc/passwd"),
        ("../x", "a member is called ../x"),
        ("a/../../x", "a member is called a/../../x"),
        ("a\n", "a member is called"),
        ("a/" * 600 + "b", "a member is called a/a/"),
        ("x" * 300, "a member is called xxx"),
    ],
)
def test_names_that_are_no_plain_ones_are_refused(name: str, said: str) -> None:
    """A name leads down from the top, can be printed, and is not longer than a name may be."""
    message = refusal(tar((name, b"")))
    assert message.startswith("a.tar: " + said)
    assert message.endswith("(rule: names of members)")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (info("l", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "l is a symbolic link"),
        (info("l", type=tarfile.LNKTYPE, linkname="a"), "l is a hard link"),
        (info("l", type=tarfile.CHRTYPE), "l is a character device"),
        (info("l", type=tarfile.BLKTYPE), "l is a block device"),
        (info("l", type=tarfile.FIFOTYPE), "l is a FIFO"),
        (info("l", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}), "l is a sparse"),
    ],
)
def test_only_regular_files_are_members(member: tarfile.TarInfo, said: str) -> None:
    """Links, devices and sparse maps are refused by name."""
    message = refusal(tar(("a", b""), member))
    assert said in message
    assert message.endswith("(rule: types of members)")


def test_a_name_is_there_once() -> None:
    """However it is spelled."""
    assert "a/b is there twice (rule: duplicate members)" in refusal(
        tar(("a/b", b"1"), ("./a//b", b"2"))
    )


@pytest.mark.parametrize(
    ("archive", "limits", "said"),
    [
        (tar(("a", b""), ("b", b"")), Limits(members=1), "more than 1 members (rule: members)"),
        (tar(("a", b"x" * 9999)), Limits(size=5000), "more than 5000 bytes (rule: size)"),
        (
            gzip.compress(tar(("a", bytes(1 << 22)))),
            Limits(small=1 << 16, ratio=100),
            "(rule: ratio)",
        ),
        (
            tar(info("a", pax_headers={"comment": "x" * 99999})),
            Limits(header=5000),
            "(rule: size of headers)",
        ),
    ],
)
def test_what_is_too_much_is_refused(archive: bytes, limits: Limits, said: str) -> None:
    """Bombs are refused before they are in memory."""
    assert said in refusal(archive, limits)


CUTS: list[Callable[[bytes], bytes]] = [
    lambda data: data[:700],
    lambda data: data[:1100],
    lambda data: data[:1024],
    lambda data: data[:100],
    lambda _data: b"",
    lambda _data: b"x" * 2000,
    lambda data: data.rstrip(b"\0") + bytes(2000) + b"x",
    lambda data: data[:1024] + b"x" * 512 + data[1024:],
    lambda data: gzip.compress(data)[:-9],
]


@pytest.mark.parametrize("cut", CUTS)
def test_archives_that_are_damaged_are_refused(cut: Callable[[bytes], bytes]) -> None:
    """Cut off anywhere, or with something behind the end, an archive is none."""
    assert refusal(cut(tar(("a", b"x" * 5), ("b", b"y" * 600)))).startswith("a.tar")
