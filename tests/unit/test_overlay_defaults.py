# SPDX-License-Identifier: Apache-2.0
"""Options that a mount had by the defaults of its host are asked for, whatever the target's are."""

from __future__ import annotations

import msgspec
import pytest

import builders
from mountcr.model import Host
from mountcr.overlayopts import default_options, explicit_options, is_volatile, unmet_options
from mountcr.planning.planner import make_plan
from mountcr.planning.steps import Overlay, VolatileMarker
from mountcr.target import Target

OLD = {"redirect_dir": "N", "redirect_max": "256"}
USUAL = {
    "check_copy_up": "N",
    "index": "N",
    "metacopy": "N",
    "nfs_export": "N",
    "redirect_always_follow": "Y",
    "redirect_dir": "N",
    "xino_auto": "N",
}
OTHER = {**USUAL, "index": "Y", "metacopy": "Y", "redirect_dir": "Y", "xino_auto": "Y"}

EXPLICIT = ("index=off", "metacopy=off", "nfs_export=off", "xino=off", "redirect_dir=follow")

ROOT = "10 5 0:50 / / rw - overlay o rw,lowerdir=/l,upperdir=/u,workdir=/w"
HOST = "1 0 8:1 / / rw - ext4 /dev/sda1 rw"


@pytest.mark.parametrize(
    ("parameters", "defaults"),
    [
        ({}, {}),
        (OLD, {"redirect_dir": "off"}),
        (
            {"redirect_dir": "N", "redirect_always_follow": "N"},
            {"redirect_dir": "nofollow"},
        ),
        (OTHER, {"index": "on", "metacopy": "on", "nfs_export": "off", "xino": "auto",
                 "redirect_dir": "on"}),
    ],
    ids=["none", "old", "nofollow", "all on"],
)  # fmt: skip
def test_parameters_are_defaults(parameters: dict[str, str], defaults: dict[str, str]) -> None:
    """Each parameter of the module is the default of an option."""
    assert default_options(parameters) == defaults


@pytest.mark.parametrize(
    ("shown", "target", "wanted"),
    [
        ((), OTHER, EXPLICIT),
        ((), None, EXPLICIT),
        ((), OLD, ("redirect_dir=follow",)),
        (("index=on",), OTHER, ("index=on", *EXPLICIT[1:])),
        (("redirect_dir=nofollow", "userxattr"), OTHER,
         ("redirect_dir=nofollow", "userxattr", *EXPLICIT[:4])),
        (("userxattr",), OTHER, ("userxattr", *EXPLICIT[:4])),
    ],
    ids=["other defaults", "the same host", "an old kernel", "shown", "userxattr", "no redirects"],
)  # fmt: skip
def test_defaults_become_explicit(
    shown: tuple[str, ...], target: dict[str, str] | None, wanted: tuple[str, ...]
) -> None:
    """What is not shown was the default; the target is asked for it if it knows the option."""
    assert explicit_options(shown, USUAL, target) == wanted


def test_nothing_is_explicit_where_nobody_looked() -> None:
    """Facts without parameters say nothing of defaults."""
    assert explicit_options(("index=on",), {}, OTHER) == ("index=on",)


@pytest.mark.parametrize(
    ("asked", "shown", "met"),
    [
        ("index=off", (), True),
        ("index=on", (), False),
        ("index=on", ("index=on",), True),
        ("redirect_dir=off", ("redirect_dir=nofollow",), True),
        ("redirect_dir=off", (), True),
        ("redirect_dir=nofollow", (), False),
        ("redirect_dir=on", ("redirect_dir=nofollow",), False),
        ("metacopy=on", ("redirect_dir=on",), False),
        ("xino=on", (), True),
        ("xino=on", ("xino=off",), False),
        ("xino=auto", ("xino=off",), True),
        ("uuid=auto", ("uuid=on",), True),
        ("uuid=null", ("uuid=on",), False),
        ("volatile", ("fsync=volatile",), True),
        ("volatile", ("rw",), False),
        ("userxattr", (), False),
        ("verity=off", (), True),
        ("verity=on", (), False),
        ("some_day=on", (), True),
        ("some_day=on", ("some_day=off",), False),
    ],
)
def test_what_is_in_force(asked: str, shown: tuple[str, ...], *, met: bool) -> None:
    """What a mount shows, or does not show since it is the default, is compared with the wish."""
    assert unmet_options((asked,), shown, USUAL, writable=True) == ([] if met else [asked])


@pytest.mark.parametrize("asked", ["index=on", "nfs_export=on", "volatile", "uuid=on"])
def test_what_a_mount_without_upper_ignores(asked: str) -> None:
    """Options about writing are no difference where nothing is written."""
    assert unmet_options((asked,), (), USUAL, writable=False) == []
    assert (
        unmet_options(("redirect_dir=follow",), ("redirect_dir=on",), USUAL, writable=False) == []
    )


@pytest.mark.parametrize("word", ["volatile", "fsync=volatile"])
def test_two_names_of_volatile(word: str) -> None:
    """Newer kernels show it as a kind of fsync."""
    assert is_volatile((word,))
    assert not is_volatile(("fsync=auto", "index=on"))


def steps(
    *, here: Host, there: Host | None = None, options: str = "", synced: str = ""
) -> list[object]:
    """Give the steps of the root file system, planned for another host if there is one."""
    found = builders.facts(ROOT + options, HOST)
    host = msgspec.structs.replace(found.host, overlay=here.overlay, boot=here.boot)
    found = msgspec.structs.replace(found, host=host, synced=synced)
    target = None
    if there:
        other = msgspec.structs.replace(host, overlay=there.overlay, boot=there.boot)
        target = Target(host=other)
    plan = make_plan(found, target=target)
    assert plan.rootfs
    return list(plan.rootfs.steps)


def test_a_restore_asks_for_the_defaults_of_the_origin() -> None:
    """Also where the target has others."""
    (step,) = steps(here=Host(overlay=USUAL), there=Host(overlay=OTHER), options=",uuid=null")
    assert isinstance(step, Overlay)
    assert step.options == ("uuid=null", *EXPLICIT)


@pytest.mark.parametrize("shown", ["volatile", "fsync=volatile"])
def test_a_restore_asks_for_what_older_kernels_know(shown: str) -> None:
    """Kernels that show the newer name of an option take the older one too."""
    (step,) = steps(here=Host(), options=f",userxattr,{shown}")
    assert isinstance(step, Overlay)
    assert step.options == ("userxattr", "volatile")


def markers(*, boots: tuple[str, str], options: str, synced: str = "") -> list[VolatileMarker]:
    """Give the steps that remove a marker when a container comes back in the second boot."""
    found = steps(
        here=Host(boot=boots[0]), there=Host(boot=boots[1]), options=options, synced=synced
    )
    return [step for step in found if isinstance(step, VolatileMarker)]


@pytest.mark.parametrize("option", [",volatile", ",fsync=volatile"])
def test_a_marker_goes_in_the_same_boot(option: str) -> None:
    """Without a crash in between nothing is lost, and the kernel wants to be told."""
    (step,) = markers(boots=("b", "b"), options=option)
    assert step.path == "/w/work/incompat/volatile"
    assert step.identity == ""
    assert "not booted since" in step.because


def test_a_marker_stays_when_the_host_was_booted() -> None:
    """That may have been a crash; and where no boot is known nothing is."""
    assert markers(boots=("b", "c"), options=",volatile") == []
    assert markers(boots=("", ""), options=",volatile") == []


def test_a_marker_goes_when_the_dump_synced() -> None:
    """But only the very one that was there then."""
    (step,) = markers(boots=("b", "c"), options=",volatile", synced="12:34")
    assert step.identity == "12:34"
    assert "synced" in step.because


def test_no_marker_is_touched_that_is_not_of_this_mount() -> None:
    """The mount that was dumped was not volatile, so somebody else left it."""
    assert markers(boots=("b", "b"), options="", synced="12:34") == []
