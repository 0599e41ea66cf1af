# SPDX-License-Identifier: Apache-2.0
"""Laws of AUFS options: no call is longer than the kernel reads, and no branch gets lost."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

import builders
from mountcr import paths
from mountcr.aufsopts import (
    BUDGET,
    OPTIONS_PER_CALL,
    AufsOptions,
    Branch,
    format_options,
    options_of,
)
from mountcr.paths import KPath, decode, from_line

PERMISSIONS = st.sampled_from(["rw", "rw+nolwh", "ro", "ro+wh", "rr", "rr+wh", "ro+icex+wh"])
PARTS = [
    b"a",
    b"layer",
    b" ",
    b":",
    b"\\",
    b"\n",
    b"\t",
    b"#",
    b"\xff",
    b"\x7f",
    b"+",
    b"rw",
    b"x" * 99,
]


def names(parts: list[bytes], size: int) -> st.SearchStrategy[KPath]:
    """Absolute paths of such parts, with or without slashes between them."""
    found = st.lists(st.sampled_from([*parts, b"/x"]), min_size=1, max_size=size)
    return found.map(lambda each: paths.encode(b"/" + b"".join(each)))


SAYABLE = names(PARTS, 12)
UPPERS = names([part for part in PARTS if part != b":"], 12)
ANY = names([*PARTS, b",", b"="], 12)


def understood(calls: tuple[bytes, ...]) -> tuple[list[tuple[bytes, str]], list[bytes]]:
    """Read the calls as `au_opts_parse()` and `opt_add()` of fs/aufs/opts.c do."""
    branches: list[bytes] = []
    others: list[bytes] = []
    for call in calls:
        for option in call.split(b","):
            if option.startswith(b"br:"):
                branches += option[len(b"br:") :].split(b":")
            elif option.startswith(b"append:"):
                branches.append(option[len(b"append:") :])
            else:
                others.append(option)
    pairs = (each.partition(b"=") for each in branches)
    return [(path, permission.decode()) for path, _, permission in pairs], others


@given(
    upper=UPPERS,
    lowers=st.lists(st.tuples(SAYABLE, PERMISSIONS), max_size=200),
    others=st.lists(st.sampled_from(["dio", "dirperm1", "xino=/dev/shm/aufs.xino", "noplink"])),
)
def test_what_is_asked_is_what_aufs_understands(
    upper: KPath, lowers: list[tuple[KPath, str]], others: list[str]
) -> None:
    """In whatever calls: each within the budget, in order, complete, the first by `br:`."""
    branches = (Branch(upper, "rw"), *(Branch(*each) for each in lowers))
    calls = format_options(AufsOptions(branches=branches, others=tuple(others)))
    assert all(len(each) <= BUDGET for each in calls)
    assert all(_options(each) <= OPTIONS_PER_CALL for each in calls)
    assert calls[0].startswith(b"br:")
    assert all(each.startswith(b"append:") for each in calls[1:])
    wanted = [(decode(each.path), each.permission) for each in branches]
    assert understood(calls) == (wanted, [each.encode() for each in others])


def _options(call: bytes) -> int:
    pairs, others = understood((call,))
    return len(pairs) + len(others)


def shown(path: KPath) -> bytes:
    """Escape a path as `seq_path()` does with the characters of `au_esc_chars`."""
    special = {*range(1, 0x21), ord("\\"), 0x7F}
    return b"".join(b"\\%03o" % byte if byte in special else bytes([byte]) for byte in decode(path))


@given(st.lists(st.tuples(ANY, PERMISSIONS), min_size=1, max_size=12))
def test_what_sysfs_shows_is_read_back(branches: list[tuple[KPath, str]]) -> None:
    """A path has any characters; the permission is behind the last equals sign."""
    files = tuple(from_line(shown(path) + b"=" + word.encode()) for path, word in branches)
    mount = builders.mount("10 5 0:50 / / rw - aufs none rw,si=1")
    assert options_of(msgspec.structs.replace(mount, branches=files)).branches == tuple(branches)


@given(st.lists(st.tuples(SAYABLE, PERMISSIONS), min_size=1, max_size=12))
def test_what_mountinfo_shows_is_read_back(branches: list[tuple[KPath, str]]) -> None:
    """A path that AUFS can be given is told from its neighbours."""
    listed = b":".join(shown(path) + b"=" + word.encode() for path, word in branches)
    mount = builders.mount("10 5 0:50 / / rw - aufs none rw")
    text = from_line(b"rw,si=1,dio,br:" + listed)
    found = options_of(msgspec.structs.replace(mount, super_options=text))
    assert (found.branches, found.others) == (tuple(branches), ("dio",))


@given(
    st.text(alphabet=r",=:\0134xf+ a/rwo", max_size=40), st.text(alphabet="/=:rwo\\x1", max_size=20)
)
def test_any_text_is_read_without_an_error(options: str, branch: str) -> None:
    """What is no option text of AUFS gives some options and no exception."""
    mount = builders.mount("10 5 0:50 / / rw - aufs none rw")
    text = KPath(f"rw,{options}")
    options_of(msgspec.structs.replace(mount, super_options=text, branches=(KPath(branch),)))
