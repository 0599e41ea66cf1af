# SPDX-License-Identifier: Apache-2.0
"""An image is found by its id, by the digest of its manifest, or by a name, and is what it is."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from containerds import Daemon
from mountcr.engines import Place, Roots
from mountcr.engines.imageconfigs import By, find_image
from mountcr.paths import encode
from unit.engines.dockertrees import hex64

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = [f"sha256:{hex64(word)}" for word in ("lowest", "middle", "top")]
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": LAYERS}}).encode()
ID = hashlib.sha256(CONFIG).hexdigest()
MANIFEST = json.dumps({"config": {"digest": f"sha256:{ID}"}}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
NAME = "localhost/counter:1"


def roots_of(data: Path) -> Roots:
    """Look at one place only."""
    run = data.parent / "run"
    run.mkdir(exist_ok=True)
    return Roots(places=(Place(data=encode(str(data)), run=encode(str(run))),))


def podman(tmp_path: Path, config: bytes = CONFIG) -> Roots:
    """Make the images of containers/storage."""
    data = tmp_path / "storage"
    images = data / "overlay-images"
    name = base64.b64encode(f"sha256:{ID}".encode()).decode()
    (images / ID).mkdir(parents=True)
    (data / "overlay-layers").mkdir()
    (images / ID / f"={name}").write_bytes(config)
    entry = {"id": ID, "digest": DIGEST, "names": [NAME], "layer": "x"}
    (images / "images.json").write_text(json.dumps([entry]))
    return roots_of(data)


def docker(tmp_path: Path, config: bytes = CONFIG) -> Roots:
    """Make the images of Docker."""
    data = tmp_path / "docker"
    top = data / "image/overlay2"
    (top / "imagedb/content/sha256").mkdir(parents=True)
    (top / "layerdb").mkdir()
    (data / "containers").mkdir()
    (top / "imagedb/content/sha256" / ID).write_bytes(config)
    repository = NAME.partition(":")[0]
    names = {NAME: f"sha256:{ID}", f"{repository}@{DIGEST}": f"sha256:{ID}"}
    (top / "repositories.json").write_text(json.dumps({"Repositories": {repository: names}}))
    return roots_of(data)


def containerd(tmp_path: Path, config: bytes = CONFIG) -> Roots:
    """Make the images of containerd."""
    daemon = Daemon(tmp_path / "containerd")
    blobs = daemon.root / "io.containerd.content.v1.content/blobs/sha256"
    blobs.mkdir(parents=True)
    (blobs / ID).write_bytes(config)
    (blobs / DIGEST.partition(":")[2]).write_bytes(MANIFEST)
    images = daemon.space("default", b"images")
    images[NAME.encode()] = {b"target": {b"digest": DIGEST.encode()}}
    daemon.write()
    return daemon.roots


STORES = {"podman": podman, "docker": docker, "containerd": containerd}


@pytest.mark.parametrize("engine", STORES)
def test_an_image_is_found_by_what_it_is_called(tmp_path: Path, engine: str) -> None:
    """By id, with or without the algorithm, by the digest of its manifest, and by name."""
    roots = STORES[engine](tmp_path)
    asked = {
        By.ID: find_image(roots, image_id=ID),
        By.DIGEST: find_image(roots, digests=("no digest", DIGEST)),
        By.NAME: find_image(roots, name=NAME),
    }
    for by, found in asked.items():
        assert found is not None, by
        assert (found.by, found.id) == (by, f"sha256:{ID}")
        assert found.diff_ids == (*reversed(LAYERS),)
        assert ID in found.provenance
    assert find_image(roots, image_id=f"sha256:{ID}", name="other") == asked[By.ID]


@pytest.mark.parametrize("engine", STORES)
def test_another_image_is_not_found(tmp_path: Path, engine: str) -> None:
    """What has another id, digest or name is not taken for it."""
    roots = STORES[engine](tmp_path)
    other = hex64("other")
    assert find_image(roots, image_id=other, digests=(f"sha256:{other}",), name="x:1") is None
    assert find_image(roots) is None


@pytest.mark.parametrize("engine", STORES)
@pytest.mark.parametrize(
    "config",
    [CONFIG.replace(b"layers", b"LAYERS"), b"", b"[" * 100_000],
    ids=["changed", "empty", "deep"],
)
def test_a_configuration_that_is_not_its_digest_is_none(
    tmp_path: Path, engine: str, config: bytes
) -> None:
    """An id is the digest of the configuration, so another content is no image."""
    roots = STORES[engine](tmp_path, config)
    assert find_image(roots, image_id=ID, digests=(DIGEST,), name=NAME) is None


def test_an_id_is_preferred_to_a_name(tmp_path: Path) -> None:
    """Anybody may give a name to any image; the id decides."""
    roots = podman(tmp_path)
    other = json.dumps({"rootfs": {"diff_ids": [f"sha256:{hex64('evil')}"]}}).encode()
    digest = hashlib.sha256(other).hexdigest()
    images = tmp_path / "storage/overlay-images"
    name = base64.b64encode(f"sha256:{digest}".encode()).decode()
    (images / digest).mkdir()
    (images / digest / f"={name}").write_bytes(other)
    entries = [
        {"id": digest, "names": [NAME], "layer": "y"},
        {"id": ID, "names": ["another:1"], "layer": "x"},
    ]
    (images / "images.json").write_text(json.dumps(entries))
    found = find_image(roots, image_id=ID, name=NAME)
    assert found is not None
    assert (found.by, found.id) == (By.ID, f"sha256:{ID}")
