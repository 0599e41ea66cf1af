# SPDX-License-Identifier: Apache-2.0
"""A bundle is what its config.json says, and one that says nothing usable is named."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mountcr.engines.bundle import read
from mountcr.errors import DocumentError, NotFoundError, PrivilegeError
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path

    from unit.engines.conftest import Host


def test_a_bundle_is_a_container_that_does_not_run(host: Host) -> None:
    """Name, rootfs and namespaces come from config.json; nothing says that it runs."""
    joined = {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]}
    path = host.bundle("my bundle", linux=joined)
    found = read(str(path))
    assert (found.id, found.engine, found.name) == ("my bundle", "bundle", "box")
    assert (found.pid, found.start_time, found.status) == (0, 0, "")
    assert found.bundle == encode(str(path))
    assert found.rootfs == encode(f"{path}/rootfs")
    assert found.namespace_paths == {"net": "/run/netns/x"}
    assert f"{path}/config.json: root.path" in found.provenance


@pytest.mark.parametrize(
    ("root", "rootfs"), [("/srv/root", "/srv/root"), ("./a/../b/", "{bundle}/b"), (".", "{bundle}")]
)
def test_the_root_is_relative_to_the_bundle(host: Host, root: str, rootfs: str) -> None:
    """`root.path` is absolute, or relative to the directory of config.json."""
    path = host.bundle(root={"path": root})
    assert read(f"{path}/").rootfs == rootfs.format(bundle=path)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"", "truncated"),
        (b'{"root": {"path": "rootfs"}, oops}', "byte 29"),
        (b'{"hostname": "box"}', "`root`"),
        (b'{"root": {"path": 7}}', "`$.root.path`"),
        (b'{"root": {"path": "r"}, "linux": {"namespaces": [{}]}}', "`$.linux.namespaces[0]`"),
        (b'{"root": {"path": "\xff"}}', "utf-8"),
        (b'{"x": ' + b"[" * 100_000, "deep"),
    ],
)
def test_a_damaged_config_names_file_and_place(tmp_path: Path, text: bytes, where: str) -> None:
    """The error says which file, and which byte or field of it."""
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(DocumentError) as raised:
        read(str(tmp_path))
    assert raised.value.message.startswith(f"{tmp_path}/config.json: ")
    assert where in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint
    assert raised.value.exit_status == 2


def test_a_fifo_is_no_config(tmp_path: Path) -> None:
    """A FIFO in place of config.json is refused; opening it does not wait for a writer."""
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DocumentError, match="regular file"):
        read(str(tmp_path))


def test_a_directory_without_a_config_is_no_bundle(tmp_path: Path) -> None:
    """The error is that of something not found."""
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFoundError) as raised:
            read(str(path))
        assert raised.value.exit_status == 3
        assert raised.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_config_that_may_not_be_read_asks_for_privilege(host: Host) -> None:
    """Permission is another error than damage."""
    path = host.bundle()
    (path / "config.json").chmod(0)
    with pytest.raises(PrivilegeError):
        read(str(path))
