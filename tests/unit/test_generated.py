# SPDX-License-Identifier: Apache-2.0
"""The generated modules that the repository keeps are what tools/generate writes."""

from __future__ import annotations

import importlib.metadata
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
TOOL = runpy.run_path(str(ROOT / "tools" / "generate"))

cffi_files = cast("Callable[[], dict[str, str]]", TOOL["cffi_files"])
proto_files = cast("Callable[[], dict[str, str]]", TOOL["proto_files"])
rules_files = cast("Callable[[], dict[str, str]]", TOOL["rules_files"])
differing = cast("Callable[[dict[str, str]], list[str]]", TOOL["differing"])
pinned = cast("str", TOOL["GRPCIO_TOOLS"])


def test_cffi_modules_are_as_generated() -> None:
    """A change of a *.cdef.txt without `tools/generate cffi` does not pass."""
    files = cffi_files()
    assert sorted(files) == ["mountcr/kernel/_libc_ffi.py", "mountcr/libmount/_ffi.py"]
    assert differing(files) == []


def test_protobuf_modules_are_as_generated() -> None:
    """A change of a *.proto without `tools/generate proto` does not pass."""
    try:
        version = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    if version != pinned:
        pytest.skip(f"grpcio-tools {pinned} writes them; here it is {version}")
    assert differing(proto_files()) == []


def test_the_table_of_rules_is_as_generated() -> None:
    """A change of table.toml without `tools/generate rules` does not pass."""
    assert differing(rules_files()) == []


def test_a_difference_is_named() -> None:
    """A file that holds something else, and one that is missing, are both named."""
    files = cffi_files()
    path, text = next(iter(files.items()))
    assert differing({path: text + "\n"}) == [path]
    assert differing({"mountcr/none.py": ""}) == ["mountcr/none.py"]
