# SPDX-License-Identifier: Apache-2.0
"""Overlay options are read in every spelling that a kernel shows."""

from __future__ import annotations

import pytest

import builders
from mountcr.overlayopts import OverlayOptions, format_options, parse_options
from mountcr.paths import KPath, encode


def lowers(super_options: str) -> tuple[str, ...]:
    """The lower layers of an option text."""
    return parse_options(super_options).lowers


def test_absolute_layers() -> None:
    """The list of mount(2): lowers top first, upper, work, and what is left over, as shown."""
    assert parse_options("rw,lowerdir=/l2:/l1,upperdir=/up,workdir=/wk,uuid=on") == OverlayOptions(
        lowers=(KPath("/l2"), KPath("/l1")),
        upper=KPath("/up"),
        work=KPath("/wk"),
        others=("rw", "uuid=on"),
    )


@pytest.mark.parametrize(
    ("shown", "layers"),
    [
        ("ro,lowerdir=/l", ("/l",)),
        ("ro,lowerdir=l/ABC:l/DEF", ("l/ABC", "l/DEF")),
        ("ro,lowerdir=3:4:5", ("3", "4", "5")),
        (r"ro,lowerdir=/a\040b:/l", (r"/a\040b", "/l")),
        (r"ro,lowerdir=/c\134\054omma:/l", ("/c,omma", "/l")),
        (r"ro,lowerdir=/c\134:colon:/l", ("/c:colon", "/l")),
        (r"ro,lowerdir=/c\134\072olon:/l", ("/c:olon", "/l")),
        (r"ro,lowerdir=/c\072olon:/l", ("/c:olon", "/l")),
        (r"ro,lowerdir=/back\134\134slash:/l", (r"/back\134slash", "/l")),
        (r"ro,lowerdir=/n\012l\011t:/l", (r"/n\012l\011t", "/l")),
        (r"ro,lowerdir=/\xff#:/l", (r"/\xff#", "/l")),
        ("rw,lowerdir+=/l2,lowerdir+=/l1", ("/l2", "/l1")),
        (r"rw,lowerdir+=/c\054omma:colon,lowerdir+=/b\134s", ("/c,omma:colon", r"/b\134s")),
    ],
)
def test_spellings_of_lower_layers(shown: str, layers: tuple[str, ...]) -> None:
    """Lists with overlay's own escapes, and layers one by one without them."""
    assert lowers(shown) == layers


@pytest.mark.parametrize(
    "shown",
    ["ro,lowerdir=/l2:/l1::/d1::/d2", "ro,lowerdir+=/l2,lowerdir+=/l1,datadir+=/d1,datadir+=/d2"],
)
def test_data_only_layers(shown: str) -> None:
    """What stands behind `::` is not a lower layer."""
    options = parse_options(shown)
    assert options.lowers == ("/l2", "/l1")
    assert options.data == ("/d1", "/d2")


def test_upper_and_work_of_mount() -> None:
    """mount(2) takes them escaped, and shows them so."""
    options = parse_options(r"rw,lowerdir=/l,upperdir=/a\134\134b\134\054c,workdir=/w\134:x")
    assert (options.upper, options.work) == (r"/a\134b,c", "/w:x")


def test_upper_and_work_beside_single_layers() -> None:
    """Given by descriptor they have no escapes; a backslash before a plain letter is one."""
    options = parse_options(r"rw,lowerdir+=/l,upperdir=/a\134b,workdir=/w\134\134x")
    assert (options.upper, options.work) == (r"/a\134b", r"/w\134x")


def test_no_layers() -> None:
    """Options of something else have none, and lose nothing."""
    assert parse_options("rw,size=64k,mode=755").others == ("rw", "size=64k", "mode=755")


def test_format_puts_the_layers_last() -> None:
    """What the kernel may cut is behind what must not be lost."""
    options = OverlayOptions(
        lowers=(KPath("/l2"), KPath("/l1")),
        data=(KPath("/d1"), KPath("/d2")),
        upper=KPath("/up"),
        work=KPath("/wk"),
        others=("metacopy=on",),
    )
    assert (
        format_options(options)
        == b"upperdir=/up,workdir=/wk,lowerdir=/l2:/l1::/d1::/d2,metacopy=on"
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"/a b", b"/a b"),
        (b"/a,b", b"/a\\,b"),
        (b"/a\\b", b"/a\\\\b"),
        (b"/\xff\n#", b"/\xff\n#"),
    ],
)
def test_format_escapes_what_overlay_would_take_for_its_own(name: bytes, data: bytes) -> None:
    """A comma and a backslash in any path, a colon in a list too; nothing in octal."""
    path = encode(name)
    assert format_options(OverlayOptions(lowers=(path,))) == b"lowerdir=" + data
    assert format_options(OverlayOptions(lowers=(KPath("/l:x"),), upper=path, work=path)) == (
        b"upperdir=%b,workdir=%b,lowerdir=/l\\:x" % (data, data)
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("docker-overlay2", 4),
        ("docker26-overlay2", 4),
        ("podman-overlay", 3),
        ("runc-overlay", 3),
        ("kernel-old-3.18.9-overlay", 1),
        ("kernel-deb-7.2-overlay-multifs", 2),
    ],
)
def test_recorded_roots(name: str, count: int) -> None:
    """Every engine's root has its layers, an upper and a work, all absolute."""
    root = builders.recorded(name)[0]
    options = parse_options(root.super_options)
    assert len(options.lowers) == count
    assert options.upper is not None
    assert options.work is not None
    for path in (*options.lowers, options.upper, options.work):
        assert path.startswith("/")
