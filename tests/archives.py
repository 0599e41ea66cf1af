# SPDX-License-Identifier: Apache-2.0
"""Archives of other tools as they were recorded, and such that are made of them by tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mountcr.bundle.foreign import Unpacked
from mountcr.paths import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CONTAINERD", "PODMAN", "copied", "cri_of_containerd", "crio", "edited", "unpacked"]

_FIXTURES = Path(__file__).parent / "fixtures/archives"
PODMAN = _FIXTURES / "podman-4.3.1-overlay-runc"
CONTAINERD = _FIXTURES / "containerd-1.6.20-image"


def unpacked(directory: Path) -> Unpacked:
    """Take a directory for an unpacked archive."""
    return Unpacked(encode(str(directory)))


def copied(archive: Path, to: Path) -> Path:
    """Copy a recorded archive to where it may be changed."""
    shutil.copytree(archive, to)
    return to


def edited(file: Path, changes: Mapping[str, object]) -> None:
    """Set fields of an object in a file of JSON; names of inner ones follow a dot."""
    document: dict[str, Any] = json.loads(file.read_bytes())
    for name, value in changes.items():
        *above, last = name.split(".")
        inner = document
        for each in above:
            inner = inner.setdefault(each, {})
        inner[last] = value
    file.write_text(json.dumps(document))


def crio(to: Path) -> Path:
    """
    Make an archive of CRI-O by its documented format, of a recorded one of podman.

    Both leave the checkpoint to the same runtime and the same CRIU; the configuration is that of
    checkpointctl, and `bind.mounts` lists the binds beside those of every container.
    """
    copied(PODMAN, to)
    old = json.loads((to / "config.dump").read_bytes())
    config = {
        "id": old["id"],
        "name": "k8s_counter_pod_default_0_0",
        "rootfsImage": old["rootfsImageName"],
        "rootfsImageRef": "localhost/mountcr-live@sha256:" + "5e" * 32,
        "rootfsImageName": old["rootfsImageName"],
        "runtime": "runc",
        "createdTime": "2026-11-28T06:29:44.712829981Z",
        "checkpointedTime": "2026-11-28T06:29:46Z",
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": False,
    }
    (to / "config.dump").write_text(json.dumps(config))
    binds = [
        {
            "source": "/srv/volume",
            "destination": "/data/vol",
            "file_type": "directory",
            "permissions": 0o20000000755,
        }
    ]
    (to / "bind.mounts").write_text(json.dumps(binds))
    names = {"io.kubernetes.container.name": "counter", "io.kubernetes.pod.name": "pod"}
    edited(to / "spec.dump", {"annotations": names})
    for name in ("devshm-checkpoint.tar", "network.status"):
        (to / name).unlink()
    return to


def cri_of_containerd(to: Path) -> Path:
    """Make an archive of containerd's CRI by its documented format, of a recorded one of podman."""
    crio(to)
    for name in ("bind.mounts", "deleted.files"):
        (to / name).unlink()
    status = {
        "id": json.loads((to / "config.dump").read_bytes())["id"],
        "metadata": {"name": "counter"},
        "image": {"image": "localhost/mountcr-live:1"},
        "image_ref": "sha256:" + "5e" * 32,
    }
    (to / "status.dump").write_text(json.dumps(status))
    return to
