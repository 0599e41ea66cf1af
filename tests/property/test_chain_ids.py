# SPDX-License-Identifier: Apache-2.0
"""Chain ids are those of the OCI image-spec, which states them for one layer and for one more."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from mountcr.engines.imagelayers import above, chain_ids, is_digest

DIFF_IDS = st.lists(st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}"))


def stated(diff_ids: list[str]) -> str:
    """
    Give the chain id of the last of some layers, as config.md of the specification states it.

    ChainID(L0) = DiffID(L0); ChainID(L0|…|Ln-1|Ln) = Digest(ChainID(L0|…|Ln-1) + " " + DiffID(Ln)).
    """
    *below, last = diff_ids
    if not below:
        return last
    return "sha256:" + hashlib.sha256((stated(below) + " " + last).encode("ascii")).hexdigest()


@given(DIFF_IDS)
def test_each_layer_has_the_chain_id_of_the_specification(diff_ids: list[str]) -> None:
    """The chain id of a layer is what the specification states for it and those below it."""
    expected = [stated(diff_ids[: number + 1]) for number in range(len(diff_ids))]
    assert [*chain_ids(diff_ids)] == expected


@given(DIFF_IDS, DIFF_IDS)
def test_what_lies_above_changes_no_chain_id(below: list[str], more: list[str]) -> None:
    """An image that is built on another one has the chain ids of that first."""
    assert chain_ids([*below, *more])[: len(below)] == chain_ids(below)


@given(DIFF_IDS)
def test_chain_ids_are_digests(diff_ids: list[str]) -> None:
    """They are spelled as DiffIDs are, and each is made of the one below and the DiffID alone."""
    made = chain_ids(diff_ids)
    assert all(map(is_digest, made))
    for number, diff_id in enumerate(diff_ids):
        assert made[number] == above(made[number - 1] if number else "", diff_id)
