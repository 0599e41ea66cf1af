# SPDX-License-Identifier: Apache-2.0
"""A bundle is an image, which goes to a registry and comes back by tools that do not know it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.conftest import Place

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("imports")]

SKOPEO_MAKES = (
    Path("/var/lib/containers"),
    Path("/var/lib/containers/cache"),
    Path("/var/lib/containers/cache/blob-info-cache-v1.boltdb"),
)
"""Where skopeo remembers, as root, which registry has which blob; a directory before its files."""

CONFIGURATION = """\
version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: 127.0.0.1:{port}
"""


@pytest.fixture
def imports(place: Place) -> Iterator[None]:
    """Nothing of the tests stays where imported containers lie."""
    yield
    place.close()
    for name in os.listdir("/var/lib/mountcr/containers"):
        if name.startswith("oci-test-"):
            shutil.rmtree(f"/var/lib/mountcr/containers/{name}")


class Skopeo(NamedTuple):
    """The program, which trusts every image."""

    place: Place
    program: str

    def __call__(self, *words: object) -> str:
        """Run it; it has to succeed."""
        done = self.place.run(self.program, "--insecure-policy", *words)
        assert done.status == 0, done
        return done.out


@pytest.fixture
def skopeo(place: Place, require: Callable[[str], str]) -> Iterator[Skopeo]:
    """Skopeo, which leaves nothing behind."""
    made = [each for each in SKOPEO_MAKES if not each.exists()]
    yield Skopeo(place, require("skopeo"))
    for each in reversed(made):
        with contextlib.suppress(FileNotFoundError):
            each.rmdir() if each.is_dir() else each.unlink()


@pytest.fixture
def registry(tmp_path: Path, place: Place, require: Callable[[str], str]) -> Iterator[str]:
    """A registry of its own on the loopback interface; where images of it are."""
    program = require("docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = tmp_path / "registry.yml"
    configuration.write_text(CONFIGURATION.format(root=tmp_path / "registry", port=port))
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        place.wait(lambda: _answers(port))
        yield f"docker://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def blobs(layout: Path) -> list[str]:
    return sorted(os.listdir(layout / "blobs/sha256"))


def goes_on(place: Place, restored: dict[str, Any], reached: int) -> None:
    """Claim that a restored counter goes on without a gap, and has the files that it changed."""
    assert restored["differences"] == []
    place.remember(restored["pid"])
    root = Path(f"/proc/{restored['pid']}/root")
    counted = root / "var/count"
    place.wait(lambda: len(counted.read_text().splitlines()) > reached + 3)
    lines = counted.read_text().split()
    assert lines == [str(number + 1) for number in range(len(lines))]
    assert (root / "etc/motd").read_text() == "changed\n"
    assert not (root / "etc/lines").exists()


def start(place: Place) -> int:
    """Start a counter that has changed and removed what its image had."""
    place.mount_overlay()
    (place.root / "etc/motd").write_text("changed\n")
    (place.root / "etc/lines").unlink()
    pid = place.start()
    place.wait(lambda: place.count() > 3)
    return pid


@pytest.mark.requires("skopeo", "docker-registry")
@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_a_container_comes_out_of_a_registry(
    place: Place, skopeo: Skopeo, registry: str, compression: str
) -> None:
    """
    What was pushed is what is pulled, byte by byte, and a registry shows the annotations.

    The container, of which nothing is left, goes on from what was pulled. A layer that was not
    compressed is so by skopeo, and the bundle in it is the same one.
    """
    pid = start(place)
    layout, pulled = place.top / "web", place.top / "pulled"
    exported = place.done("export", pid, "--oci", layout, "--compress", compression)
    reached = place.count()
    assert not place.runs(pid)
    place.unmount()
    for each in (*place.layers, place.upper, place.work):
        shutil.rmtree(each)

    image = f"{registry}/checkpoints/web:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}", image)
    shown = skopeo("inspect", "--raw", "--tls-verify=false", image)
    manifest = json.loads(shown)
    said = manifest["annotations"]
    assert said["mountcr.bundle.digest"] == exported["digest"]
    assert said["io.podman.annotations.checkpoint.name"] == "counter"
    assert said["io.kubernetes.cri-o.annotations.checkpoint.name"] == "counter"
    assert said["org.criu.checkpoint.engine.name"] == "pid"
    assert said["org.criu.checkpoint.host.kernel"] == os.uname().release
    kind = "zstd" if compression == "zstd" else "gzip"
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{kind}"
    summary = json.loads(skopeo("inspect", "--tls-verify=false", image))
    assert (summary["Digest"] == exported["image"]) == (compression != "none")
    assert summary["Os"] == "linux"

    skopeo("copy", "--src-tls-verify=false", image, f"oci:{pulled}:web")
    assert (blobs(pulled) == blobs(layout)) == (compression != "none")
    shutil.rmtree(layout)
    assert place.done("verify", pulled)["differences"] == []
    assert place.done("inspect", pulled)["digest"] == exported["digest"]
    imported = place.done("import", pulled, "--id", "oci-test-imported")
    assert imported["digest"] == exported["digest"]
    planned = place.mountcr("plan", pulled, "--for", "restore", "--id", "oci-test-planned")
    assert planned.status == 0, planned
    goes_on(place, place.done("restore", f"{pulled}:web", "--id", "oci-test-one"), reached)
    by_digest = f"{pulled}@{summary['Digest']}"
    goes_on(place, place.done("restore", by_digest, "--id", "oci-test-two"), reached)
