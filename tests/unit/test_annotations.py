# SPDX-License-Identifier: Apache-2.0
"""What an image says of the checkpoint in it."""

from __future__ import annotations

import msgspec
import pytest

import builders
from mountcr.bundle.annotations import annotations_of, image_of, reference_of
from mountcr.bundle.document import Bundle
from mountcr.criu.options import CgroupMode
from mountcr.manifest import Manifest
from mountcr.model import Container
from mountcr.planning.planner import make_plan


def bundle(**fields: object) -> Bundle:
    """A bundle of a recorded container that is called otherwise."""
    facts = builders.facts(builders.recorded("podman-fuse"), builders.recorded("podman-fuse.host"))
    given = {"id": "a" * 64, "engine": "podman", "name": "web", "image": "docker.io/x/web:1"}
    container = msgspec.convert({**given, **fields}, Container)
    facts = msgspec.structs.replace(facts, container=container)
    plan = make_plan(facts)
    dump = Manifest(
        created="2020-01-01T00:00:00+00:00",
        facts=facts,
        rootfs=plan.rootfs,
        externals=plan.externals,
        inherited=plan.inherited,
        cgroups=CgroupMode.SOFT,
        files=(),
    )
    return Bundle(mountcr="1", kernel="6.1.0", criu="4.1.1", plan=plan, dump=dump)


def test_other_tools_find_what_they_look_for() -> None:
    """Podman, CRI-O and checkpointctl each have their own words for name, image and host."""
    assert annotations_of(bundle(), "amd64", digest="d" * 64) == {
        "io.kubernetes.cri-o.annotations.checkpoint.name": "web",
        "io.kubernetes.cri-o.annotations.checkpoint.rootfsImageName": "docker.io/x/web:1",
        "io.podman.annotations.checkpoint.criu.version": "4.1.1",
        "io.podman.annotations.checkpoint.host.arch": "amd64",
        "io.podman.annotations.checkpoint.host.kernel": "6.1.0",
        "io.podman.annotations.checkpoint.name": "web",
        "io.podman.annotations.checkpoint.rawImageName": "docker.io/x/web:1",
        "io.podman.annotations.checkpoint.rootfsImageName": "docker.io/x/web:1",
        "mountcr.bundle.digest": "d" * 64,
        "mountcr.bundle.schema": "mountcr/bundle/1",
        "org.criu.checkpoint.container.name": "web",
        "org.criu.checkpoint.criu.version": "4.1.1",
        "org.criu.checkpoint.engine.name": "podman",
        "org.criu.checkpoint.host.arch": "amd64",
        "org.criu.checkpoint.host.kernel": "6.1.0",
        "org.criu.checkpoint.rootfsImageName": "docker.io/x/web:1",
        "org.opencontainers.image.base.name": "docker.io/x/web:1",
        "org.opencontainers.image.created": "2020-01-01T00:00:00+00:00",
        "org.opencontainers.image.title": "a checkpoint of web",
    }


def test_what_is_not_known_is_not_said() -> None:
    """No annotation is empty; a pod and a runtime are named where there is one."""
    labels = {"io.kubernetes.pod.name": "pod", "io.kubernetes.pod.namespace": "default"}
    found = annotations_of(bundle(engine="crun", name="", image="", labels=labels), "amd64")
    assert all(found.values())
    assert found["org.criu.checkpoint.container.name"] == "a" * 64
    assert found["org.criu.checkpoint.pod.name"] == "pod"
    assert found["org.criu.checkpoint.pod.namespace"] == "default"
    assert found["org.criu.checkpoint.runtime.name"] == "crun"


def test_an_archive_of_podman_names_its_runtime() -> None:
    """By that podman takes an image for a checkpoint; a bundle is none that podman restores."""
    runtime = "io.podman.annotations.checkpoint.runtime.name"
    image = image_of(bundle(), "x86_64", runtime="runc")
    assert (image.artifact, image.annotations[runtime]) == ("", "runc")
    assert not any(each.startswith("mountcr.") for each in image.annotations)
    image = image_of(bundle(), "x86_64", digest="d" * 64)
    assert image.artifact == "application/vnd.mountcr.bundle.v1"
    assert runtime not in image.annotations


@pytest.mark.parametrize(
    ("name", "reference"),
    [("web", "web"), ("a.b-c_d", "a.b-c_d"), ("-x", "a" * 64), ("a b", "a" * 64), ("", "a" * 64)],
)
def test_an_image_is_called_as_its_container(name: str, reference: str) -> None:
    """Where that is no name of an image, it is called by the id."""
    assert reference_of(bundle(name=name)) == reference


def test_an_image_of_any_container_has_a_name() -> None:
    """Where neither name nor id can be one."""
    assert reference_of(bundle(name="", id="/")) == "checkpoint"
