# SPDX-License-Identifier: Apache-2.0
"""Laws of overlay options: what a kernel shows of any layers is read as those layers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mountcr import paths
from mountcr.overlayopts import OverlayOptions, format_options, parse_options
from mountcr.paths import KPath, from_line

NAMES = st.lists(
    st.sampled_from(
        [b"a", b" ", b",", b":", b"\\", b"\n", b"\t", b"#", b"=", b"\xff", b"134", b"+"]
    ),
    min_size=1,
    max_size=8,
).map(lambda parts: b"/" + b"".join(parts))
PATHS = NAMES.map(paths.encode)


def show(value: bytes) -> bytes:
    """Escape a value as seq_show_option() in include/linux/seq_file.h does."""
    return b"".join(b"\\%03o" % byte if byte in b", \t\n\\" else bytes([byte]) for byte in value)


def shown(options: list[tuple[bytes, bytes]]) -> str:
    """Give super options as a kernel prints them and as the parser of lines takes them."""
    return from_line(b"rw," + b",".join(key + b"=" + show(value) for key, value in options))


@given(
    lowers=st.lists(PATHS, min_size=1, max_size=4),
    data=st.lists(PATHS, max_size=3),
    upper=st.none() | PATHS,
)
def test_what_mount_takes_is_read_back(
    lowers: list[KPath], data: list[KPath], upper: KPath | None
) -> None:
    """The kernel shows the values of mount(2) as it got them, in octal escapes."""
    wanted = OverlayOptions(
        lowers=tuple(lowers), data=tuple(data), upper=upper, work=upper, others=("rw",)
    )
    text = format_options(wanted).removeprefix(b"rw,").removesuffix(b",rw")
    values: list[tuple[bytes, bytes]] = []
    for part in _split_unescaped(text):
        key, _, value = part.partition(b"=")
        values.append((key, value))
    assert parse_options(shown(values)) == wanted


def _split_unescaped(text: bytes) -> list[bytes]:
    """Split at commas as `ovl_next_opt()` of fs/overlayfs/params.c does."""
    parts = [b""]
    escaped = False
    for byte in text:
        if byte == ord(",") and not escaped:
            parts.append(b"")
            continue
        parts[-1] += bytes([byte])
        escaped = byte == ord("\\") and not escaped
    return parts


@given(lowers=st.lists(PATHS, min_size=1, max_size=4), data=st.lists(PATHS, max_size=3))
def test_layers_one_by_one_are_read_back(lowers: list[KPath], data: list[KPath]) -> None:
    """`lowerdir+` and `datadir+` are shown without overlay's escapes."""
    values = [(b"lowerdir+", paths.decode(path)) for path in lowers]
    values += [(b"datadir+", paths.decode(path)) for path in data]
    options = parse_options(shown(values))
    assert (options.lowers, options.data) == (tuple(lowers), tuple(data))


@given(st.text(alphabet=r",=:\0134xf+ a/", max_size=40))
def test_any_text_is_read_without_an_error(text: str) -> None:
    """What is no option text of overlay gives some options and no exception."""
    parse_options(text)
