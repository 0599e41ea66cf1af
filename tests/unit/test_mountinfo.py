# SPDX-License-Identifier: Apache-2.0
"""Lines of mountinfo are read as the kernel means them, and written back byte by byte."""

from __future__ import annotations

import pytest

import builders
from mountcr import libmount
from mountcr.errors import PlanError
from mountcr.model import Mount, MountId
from mountcr.mountinfo import format_line, format_table, parse_line, parse_table, read
from mountcr.paths import KPath, decode

LINE = b"36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue"


def test_fields() -> None:
    """Each field of the line of proc_pid_mountinfo(5) is where its name says."""
    assert parse_line(LINE) == Mount(
        id=MountId(36),
        parent=MountId(35),
        dev="98:0",
        root=KPath("/mnt1"),
        mountpoint=KPath("/mnt2"),
        options="rw,noatime",
        optional=("shared:1", "master:2"),
        fstype="ext3",
        source=KPath("/dev/root"),
        super_options="rw,errors=continue",
    )


def test_optional_fields() -> None:
    """Peer groups are numbers, 0 where there is none; what is not known is kept."""
    text = "1 0 0:1 / / rw shared:7 master:8 propagate_from:9 unbindable news:10 - tmpfs t rw"
    mount = builders.mount(text)
    assert (mount.shared, mount.master, mount.propagate_from) == (7, 8, 9)
    assert mount.unbindable
    assert mount.optional[-1] == "news:10"
    assert format_line(mount) == text.encode()
    bare = builders.mount("1 0 0:1 / / rw - tmpfs t rw")
    assert (bare.shared, bare.master, bare.propagate_from, bare.unbindable) == (0, 0, 0, False)


@pytest.mark.parametrize(
    ("line", "source"),
    [
        (b"1 0 0:1 / / rw - tmpfs  rw", ""),
        (b"1 0 0:1 / / rw - tmpfs none rw", "none"),
        (b"1 0 0:1 / / rw - tmpfs rw", None),
        (rb"1 0 0:1 / / rw - tmpfs a\040b\043c rw", r"a\040b\043c"),
    ],
)
def test_sources(line: bytes, source: str | None) -> None:
    """An empty source is an empty field, not the next one; a tail of two fields has none."""
    mount = parse_line(line)
    assert mount.source == source
    assert mount.super_options == "rw"
    assert format_line(mount) == line


def test_a_hash_in_a_source_is_escaped_by_the_kernel() -> None:
    r"""The kernel writes `#` of a source as `\043`; it means the byte."""
    source = parse_line(rb"1 0 0:1 / / rw - tmpfs a\043b rw").source
    assert source is not None
    assert decode(source) == b"a#b"


def test_a_deleted_root() -> None:
    """`//deleted` behind a root says that it was unlinked; the path is still below its parent."""
    mount = builders.mount("1 0 8:1 /x/hosts//deleted /etc/hosts rw - ext4 /dev/sda1 rw")
    assert mount.deleted
    assert not builders.mount("1 0 8:1 /x/deleted /etc/hosts rw - ext4 /dev/sda1 rw").deleted


@pytest.mark.parametrize("root", ["net:[4026531840]", "mnt:[4026532200]", "/..", "/../x"])
def test_roots_that_are_no_paths(root: str) -> None:
    """A bound namespace and a root outside of the reader's are kept as they are shown."""
    line = f"1 0 0:4 {root} /run/netns/x rw shared:5 - nsfs nsfs rw"
    assert builders.mount(line).root == root
    assert format_line(builders.mount(line)) == line.encode()


def test_a_line_may_be_longer_than_a_page() -> None:
    """Overlay prints every layer; the line is taken whole."""
    layers = ":".join(f"/var/lib/layers/{number:064}/diff" for number in range(120))
    line = f"1 0 0:1 / / rw - overlay overlay rw,lowerdir={layers}".encode()
    assert len(line) > 4096
    mount = parse_line(line)
    assert mount.super_options.count("/diff") == 120
    assert format_line(mount) == line


def test_readonly_is_of_the_mount() -> None:
    """`ro` of the superblock does not make the mount read-only."""
    assert builders.mount("1 0 0:1 / / ro,nosuid - tmpfs t rw").readonly
    assert not builders.mount("1 0 0:1 / / rw - tmpfs t ro").readonly


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b"1 0 0:1 / / rw tmpfs t rw",
        b"one 0 0:1 / / rw - tmpfs t rw",
        b"1 0 0:1 / / - tmpfs t rw",
        b"1 0 0:1 / / rw - tmpfs",
        b"\xff",
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    """A PlanError of one line, with a hint."""
    with pytest.raises(PlanError) as caught:
        parse_line(line)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_the_bad_line_of_a_table_is_named() -> None:
    """The error says the number of the line."""
    with pytest.raises(PlanError, match=r"^line 2: "):
        parse_table(LINE + b"\ngarbage\n" + LINE + b"\n")


@pytest.mark.parametrize("name", builders.recorded_names())
def test_recorded_tables_are_written_back(name: str) -> None:
    """Every table of a real host, parsed and formatted, is the same bytes."""
    text = (builders.RECORDED / f"{name}.txt").read_bytes()
    assert format_table(parse_table(text)) == text


def agrees(ours: tuple[Mount, ...], theirs: libmount.Table) -> None:
    """Compare every field that libmount gives."""
    assert [
        (
            mount.id,
            mount.parent,
            mount.dev,
            decode(mount.root),
            decode(mount.mountpoint),
            mount.options.encode(),
            " ".join(mount.optional).encode(),
            mount.fstype.encode(),
            decode(mount.source or KPath("")),
            decode(KPath(mount.super_options)),
        )
        for mount in ours
    ] == [tuple(each) for each in theirs]


@pytest.mark.requires("libmount")
@pytest.mark.parametrize("name", builders.recorded_names())
def test_we_read_a_recorded_table_as_libmount_does(name: str) -> None:
    """Two parsers that share no code agree on every field of every line."""
    text = (builders.RECORDED / f"{name}.txt").read_bytes()
    agrees(parse_table(text), libmount.Table.from_text(text))


@pytest.mark.requires("libmount")
def test_we_read_our_own_table_as_libmount_does() -> None:
    """The table of this very process too."""
    agrees(read(), libmount.Table.from_file())


@pytest.mark.requires("libmount")
@pytest.mark.parametrize(
    "line",
    [
        rb"37 35 0:4 / /a\040b\011c\012d rw - tmpfs  rw",
        rb"38 35 0:4 / /a\134040b rw - tmpfs none rw",
        rb"39 35 0:4 /.. /c rw unbindable - tmpfs LABEL=foo rw",
        rb"40 35 0:4 net:[4026531840] /run/netns/x rw shared:5 - nsfs nsfs rw",
        rb"41 35 0:44 /x//deleted /d\040(deleted) rw - overlay ov\043erlay ro,lowerdir=/a\134:x:/l",
        b"42 35 259:1048575 / /\xff\xfe rw - fuse.fuse-overlayfs a\\040b rw,user_id=0",
    ],
)
def test_we_read_a_hostile_line_as_libmount_does(line: bytes) -> None:
    """Escapes, namespaces, deleted roots and bytes that are not UTF-8 mean the same to both."""
    agrees(parse_table(line + b"\n"), libmount.Table.from_text(line + b"\n"))


def test_a_process_that_is_gone_is_an_oserror() -> None:
    """Who reads the table of no process is told by the kernel."""
    with pytest.raises(OSError, match="mountinfo"):
        read(2**22 + 1)
