# SPDX-License-Identifier: Apache-2.0
"""Where layers of a bundle are read from, and what is written of them, from records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bundles
from mountcr.bundle.document import BundleLayer
from mountcr.bundle.names import UPPER
from mountcr.paths import KPath
from mountcr.planning.choices import CACHE
from mountcr.planning.placement import LayerAt, choose_layers, place, rebased
from mountcr.planning.steps import Convert, Copy, Directory, EmptyLayer
from mountcr.stack import StoredLayer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mountcr.bundle.document import Bundle
    from mountcr.planning.placement import Placement

AT: Final = KPath("/containers/web")
UPPER_AT: Final = KPath("/containers/web/upper")
UNPACKED: Final = KPath("/containers/.web/unpacked")
UNIONS: Final = ("overlay", "unionfs", "fuse-overlayfs")


def member(number: int) -> BundleLayer:
    return BundleLayer(diff_id=f"sha256:d{number}", member=f"layers/{number}.tar")


def stored(number: int, dialect: str = "overlay") -> LayerAt:
    return LayerAt(
        stored=StoredLayer(path=KPath(f"/store/{number}"), dialect=dialect), key=f"k{number}"
    )


def placed(
    bundle: Bundle, found: Mapping[str, LayerAt] | None = None, *, driver: str = "overlay"
) -> Placement:
    layers, missing = choose_layers(bundle, found or {}, UNPACKED)
    assert missing == ()
    return place(
        bundle,
        layers,
        driver=driver,
        dialect="",
        upper=UPPER_AT,
        unpacked=UNPACKED,
        overlay={},
        devices=dict.fromkeys((CACHE, UPPER_AT), "8:1"),
    )


def tars(step: Convert | Copy | EmptyLayer) -> list[str]:
    return [each.path.removeprefix(f"{UNPACKED}/") for each in step.layers]


@pytest.mark.parametrize("driver", UNIONS)
@given(count=st.integers(1, 6), here=st.sets(st.integers(1, 6)))
def test_a_layer_is_written_as_what_it_changes_of_those_below_it(
    driver: str, count: int, here: set[int]
) -> None:
    """Each is compared with all below it and with nothing else, wherever they lie."""
    numbers = range(1, count + 1)
    bundle = bundles.bundle(layers=tuple(map(member, numbers)))
    found = {f"sha256:d{number}": stored(number, "oci") for number in here}
    placement = placed(bundle, found, driver=driver)
    paths = [f"/store/{each}" if each in here else f"layers/{each}.tar" for each in numbers]
    converts = [each for each in placement.steps if isinstance(each, Convert)]
    assert [tars(each) for each in converts if each.shared] == [
        paths[number:] for number in range(count)
    ]
    assert [tars(each) for each in converts if not each.shared] == [[UPPER, *paths]]
    assert placement.stack.lowers == tuple(each.into for each in converts if each.shared)
    assert placement.stack.upper == UPPER_AT


def test_layers_of_a_store_are_used_where_they_lie() -> None:
    """If they are in the marks of the driver, or have none; they are not written then."""
    bundle = bundles.bundle(layers=(member(1), member(2)))
    plain = msgspec.structs.replace(stored(2, "oci"), plain=True)
    placement = placed(bundle, {"sha256:d1": stored(1), "sha256:d2": plain})
    assert placement.stack.lowers == ("/store/1", "/store/2")
    assert not [each for each in placement.steps if isinstance(each, Convert) and each.shared]


def test_a_layer_that_nobody_has_is_missing() -> None:
    """It is told by its number and its DiffID."""
    wanted = BundleLayer(diff_id="sha256:d2")
    bundle = bundles.bundle(layers=(member(1), wanted, BundleLayer()))
    _, missing = choose_layers(bundle, {}, UNPACKED)
    assert [(each.number, each.layer.diff_id) for each in missing] == [(2, "sha256:d2"), (3, "")]


def test_a_directory_with_everything_stands_for_all_below() -> None:
    """It is found by the chain id; the bundle's own layers are taken where it has all of them."""
    lower = BundleLayer(diff_id="sha256:d2", chain_id="sha256:c2")
    whole = stored(2, "vfs")
    bundle = bundles.bundle(layers=(member(1), lower, BundleLayer(diff_id="sha256:d3")))
    layers, missing = choose_layers(bundle, {"sha256:c2": whole}, UNPACKED)
    assert missing == ()
    assert [each.stored.path for each in layers] == [f"{UNPACKED}/layers/1.tar", "/store/2"]
    own = BundleLayer(diff_id="sha256:d2", chain_id="sha256:c2", member="layers/2.tar")
    layers, _ = choose_layers(
        bundles.bundle(layers=(member(1), own)), {"sha256:c2": whole}, UNPACKED
    )
    assert [each.stored.path for each in layers] == [
        f"{UNPACKED}/layers/{number}.tar" for number in (1, 2)
    ]


@pytest.mark.parametrize("driver", UNIONS)
def test_a_whole_root_lies_below_an_empty_layer(driver: str) -> None:
    """What came from a driver that copies has no lower layer, and a union wants one."""
    placement = placed(bundles.bundle(layers=()), driver=driver)
    (lower,) = [each for each in placement.steps if isinstance(each, Convert)]
    (upper,) = [each for each in placement.steps if isinstance(each, EmptyLayer)]
    assert (tars(lower), tars(upper)) == ([UPPER], [UPPER])
    assert (placement.stack.lowers, placement.stack.upper) == ((lower.into,), upper.into)


def test_a_driver_that_copies_gets_all_in_one() -> None:
    """One directory is written, of the changes and all layers."""
    placement = placed(bundles.bundle(layers=(member(1), member(2))), driver="vfs")
    (copy,) = placement.steps
    assert isinstance(copy, Copy)
    assert (copy.into, tars(copy)) == (UPPER_AT, [UPPER, "layers/1.tar", "layers/2.tar"])
    assert placement.stack.directories == (UPPER_AT,)


@pytest.mark.parametrize(
    ("driver", "options", "kept"),
    [
        ("overlay", ("index=on", "xino=on", "lowerdir=/etc"), {"index=on", "xino=on"}),
        ("overlay", ("redirect_dir=/etc",), set[str]()),
        ("unionfs", ("hide_meta_files", "use_ino", "chroot=/"), {"hide_meta_files", "use_ino"}),
        ("fuse-overlayfs", ("noacl", "plugins=/tmp/x.so"), {"noacl"}),
    ],
)
def test_harmless_options_are_taken_over(
    driver: str, options: tuple[str, ...], kept: set[str]
) -> None:
    """The root behaves as it did; what names a path, or is not known, is left out."""
    bundle = bundles.bundle(layers=(member(1),), driver=driver, options=options)
    told = set(placed(bundle, driver=driver).stack.options)
    assert kept <= told
    assert not told & (set(options) - kept)


@pytest.mark.parametrize("driver", ["unionfs", "overlay"])
def test_options_of_another_driver_are_not(driver: str) -> None:
    """A driver has its own."""
    bundle = bundles.bundle(layers=(member(1),), driver="fuse-overlayfs", options=("noacl",))
    assert "noacl" not in placed(bundle, driver=driver).stack.options


def test_steps_write_where_the_directory_is_made() -> None:
    """What is to be in the container's directory is written below another name; the cache stays."""
    steps = placed(bundles.bundle(layers=(member(1),))).steps
    targets: list[str] = []
    for step in rebased(steps, AT, KPath("/containers/.web")):
        assert isinstance(step, Convert | Directory)
        targets.append(step.path if isinstance(step, Directory) else step.into)
    assert [each.startswith(CACHE) for each in targets] == [True, False, False]
    assert targets[1:] == ["/containers/.web/upper", "/containers/.web/upper.work"]
