# SPDX-License-Identifier: Apache-2.0
"""Members of tars that tarfile itself fails over."""

from __future__ import annotations

import io
import tarfile
from typing import NoReturn

import pytest

from mountcr.errors import RefusedError
from mountcr.tarmembers import members


def refuse(what: str, rule: str) -> NoReturn:
    """Refuse as readers do."""
    raise RefusedError(f"{what} (rule: {rule})", hint="none")


@pytest.mark.parametrize("size", [0, 12, 100])
def test_a_map_of_extents_that_is_cut_off_is_refused(size: int) -> None:
    """That of the old GNU format, which goes on in a block of its own."""
    member = tarfile.TarInfo("sparse")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # isextended
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(RefusedError, match=r"it is no tar, or damaged: .*rule: tar"):
        list(members(io.BytesIO(bytes(header) + bytes(size)), 1 << 20, refuse))
