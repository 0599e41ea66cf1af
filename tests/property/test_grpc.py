# SPDX-License-Identifier: Apache-2.0
"""Messages for containerd are written as they are read, and nothing else is taken for one."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from mountcr.operations.clients.grpc import number, pack, texts, unpack

NUMBERS = st.integers(1, 2**29 - 1)
MESSAGES = st.lists(st.tuples(NUMBERS, st.integers(0, 2**64 - 1) | st.binary()))


@given(MESSAGES)
def test_a_message_that_was_written_is_read(message: list[tuple[int, int | bytes]]) -> None:
    """Numbers and bytes come back in their order, and by their field."""
    read = unpack(pack(message))
    assert read == message
    for field, value in dict(message).items():
        if isinstance(value, int):
            assert number(read, field) == value
        else:
            assert texts(read, field)[-1] == value


@given(st.binary())
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    """What is read is written back the same in meaning, or refused as a ValueError."""
    with contextlib.suppress(ValueError):
        message = unpack(data)
        assert unpack(pack(message)) == message
