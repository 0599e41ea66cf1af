# SPDX-License-Identifier: Apache-2.0
"""AUFS options are read as the kernel shows them, and written within what one call takes."""

from __future__ import annotations

import msgspec
import pytest

import builders
from mountcr.aufsopts import BUDGET, AufsOptions, Branch, format_options, options_of
from mountcr.errors import RefusedError
from mountcr.paths import KPath, encode
from mountcr.planning.steps import Aufs

DOCKER = KPath("/var/lib/docker/aufs/diff")
DIO = ("dio", "xino=/dev/shm/aufs.xino", "dirperm1")


def shown(options: str, *branches: str) -> AufsOptions:
    """What is read of an AUFS mount with these options and observed branches."""
    mount = builders.mount(f"10 5 0:50 / / rw - aufs none {options}")
    return options_of(msgspec.structs.replace(mount, branches=tuple(map(KPath, branches))))


def stack(count: int, *, path: str = "") -> AufsOptions:
    """A container of Docker's with so many layers and a writable one."""
    names = [path or f"{DOCKER}/{number:064x}" for number in range(count + 1)]
    upper, *lowers = (KPath(each) for each in names)
    return AufsOptions(
        branches=(Branch(upper, "rw"), *(Branch(each, "ro+wh") for each in lowers)), others=DIO
    )


def test_branches_in_the_options() -> None:
    """With brs=0 the list is the last option; what mount(2) would not take is left out."""
    options = shown("rw,si=3a0dbee8040b4d8,dio,create=mfs:30,br:/u=rw:/a=ro+wh:/b=rr+wh:/c=ro")
    assert options.branches == (("/u", "rw"), ("/a", "ro+wh"), ("/b", "rr+wh"), ("/c", "ro"))
    assert options.others == ("dio", "create=mfs:30")


def test_observed_branches_come_first() -> None:
    """What sysfs has is believed, with the path for the inode numbers."""
    options = shown("rw,si=12,noplink,udba=none", "/u=rw+nolwh", "/l=ro", "xino=/dev/shm/x")
    assert options.branches == (("/u", "rw+nolwh"), ("/l", "ro"))
    assert options.others == ("noplink", "udba=none", "xino=/dev/shm/x")


@pytest.mark.parametrize("xino", ["/u/.aufs.xino", "/tmp/.aufs.xino"])
def test_a_default_is_no_option(xino: str) -> None:
    """A copy of the layers elsewhere shall not keep its inode numbers in the original."""
    assert shown("rw,si=12", "/u=rw", "/l=ro+wh", f"xino={xino}").others == ()


def test_no_inode_numbers_at_all() -> None:
    """What noxino says is not contradicted."""
    assert shown("rw,si=12,noxino", "/u=rw", "xino=/x").others == ("noxino",)


@pytest.mark.parametrize(
    ("branch", "path"),
    [
        (r"/a\040b=rw", r"/a\040b"),
        (r"/a\134b\177=rw", "/a\\134b\x7f"),
        (r"/a\001=rw", "/a\x01"),
        ("/a=b=rw", "/a=b"),
        ("/a:b,c=rw+nolwh", "/a:b,c"),
        (r"/\xff=rw", r"/\xff"),
    ],
)
def test_paths_as_sysfs_prints_them(branch: str, path: str) -> None:
    """Octal escapes are undone, those of mountinfo kept; the last equals sign separates."""
    assert shown("rw,si=1", branch).branches[0].path == path


def test_branches_with_colons_in_the_options() -> None:
    """A colon separates only behind a permission."""
    paths = [each.path for each in shown("rw,br:/a:b=rw:/c=d:/e=ro+wh").branches]
    assert paths == ["/a:b", "/c=d:/e"]


@pytest.mark.parametrize(
    ("permission", "writable", "whiteouts"),
    [
        ("rw", True, True),
        ("rw+nolwh", True, True),
        ("ro", False, False),
        ("ro+wh", False, True),
        ("rr", False, False),
        ("rr+wh", False, True),
        ("ro+icex+wh", False, True),
    ],
)
def test_what_a_permission_means(permission: str, *, writable: bool, whiteouts: bool) -> None:
    """Whiteouts count in what is writable and where `+wh` is."""
    branch = Branch(KPath("/b"), permission)
    assert (branch.writable, branch.whiteouts) == (writable, whiteouts)


def test_the_data_of_twelve_branches() -> None:
    """All permissions are said, the order is that of the layers, one call takes them."""
    options = AufsOptions(
        branches=(
            Branch(KPath("/u"), "rw"),
            *(Branch(KPath(f"/l/{number}"), "ro+wh") for number in range(11)),
        ),
        others=DIO,
    )
    lowers = b"".join(b":/l/%d=ro+wh" % number for number in range(11))
    data = b"br:/u=rw" + lowers + b",dio,xino=/dev/shm/aufs.xino,dirperm1"
    assert format_options(options) == (data,)
    assert data.index(b"/l/9=") < data.index(b"/l/10=")


@pytest.mark.parametrize(("count", "calls"), [(11, 1), (39, 1), (45, 2), (199, 6)])
def test_the_data_of_more_branches_than_a_page_holds(count: int, calls: int) -> None:
    """What does not go into the mount is appended, in as many remounts as it takes."""
    first, *more = format_options(stack(count))
    assert len(more) + 1 == calls
    assert first.startswith(b"br:%s/%064x=rw:" % (DOCKER.encode(), 0))
    assert first.endswith(b"=ro+wh,dio,xino=/dev/shm/aufs.xino,dirperm1")
    for each in more:
        assert each.startswith(b"append:/")
        assert each.count(b"append:") == each.count(b"=ro+wh")
    assert max(map(len, (first, *more))) <= BUDGET
    assert b"%064x=ro+wh" % count in (first, *more)[-1]


def test_short_branches_fill_no_page_of_parsed_options() -> None:
    """AUFS keeps what it parses in a page too, which eighty branches would fill."""
    calls = format_options(stack(99, path="/l"))
    assert [each.count(b"/l=") for each in calls] == [61, 39]


def test_a_lower_branch_with_a_colon_is_appended() -> None:
    """Only `br:` separates at colons; what lies below comes after it."""
    options = AufsOptions(
        branches=(
            Branch(KPath("/u"), "rw"),
            Branch(KPath("/a"), "ro+wh"),
            Branch(KPath("/b:c"), "ro+wh"),
            Branch(KPath("/d"), "ro"),
        )
    )
    assert format_options(options) == (
        b"br:/u=rw:/a=ro+wh",
        b"append:/b:c=ro+wh,append:/d=ro",
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [(b"/a,b", "comma"), (b"/a=b", "equals sign"), (b"/" + b"a" * 4090, "bytes at most")],
)
def test_what_aufs_has_no_words_for_is_refused_by_name(name: bytes, said: str) -> None:
    """It would cut the path and mount another directory, or none."""
    for branches in (
        (Branch(KPath("/u"), "rw"), Branch(encode(name), "ro+wh")),
        (Branch(encode(name), "rw"), Branch(KPath("/l"), "ro+wh")),
    ):
        with pytest.raises(RefusedError, match=said) as refused:
            format_options(AufsOptions(branches=branches))
        assert str(encode(name)) in refused.value.message
        assert refused.value.hint


@pytest.mark.parametrize(
    "options",
    [
        AufsOptions(),
        AufsOptions(branches=(Branch(KPath("/a:b"), "rw"),)),
        AufsOptions(branches=(Branch(KPath("/a"), "rw"),), others=("xino=/a,b",)),
        AufsOptions(branches=(Branch(KPath("/a"), "rw"),), others=("",)),
        AufsOptions(
            branches=(Branch(KPath("/" + "a" * 4000), "rw"),), others=("xino=/" + "b" * 99,)
        ),
    ],
    ids=["none", "colon", "comma", "empty", "long"],
)
def test_what_cannot_be_said_in_the_first_call(options: AufsOptions) -> None:
    """It is refused before anything is mounted."""
    with pytest.raises(RefusedError):
        format_options(options)


def test_a_step_says_whether_it_can_be_written() -> None:
    """One line, with the writable branch."""
    paths = (KPath("/u"), KPath("/l"))
    step = Aufs(at=KPath("/at"), branches=paths, permissions=("rw", "ro+wh"), because="x")
    assert step.describe() == "aufs of 2 branches at /at, upper /u"
    frozen = Aufs(at=KPath("/at"), branches=paths, permissions=("ro+wh", "ro"), because="x")
    assert frozen.describe() == "aufs of 2 branches at /at, read-only"
