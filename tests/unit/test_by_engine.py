# SPDX-License-Identifier: Apache-2.0
"""An engine is asked to take a container over only where it could; else nothing is touched."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.criu.options import CgroupMode
from mountcr.errors import CapabilityError, MountcrError, RefusedError, UsageError
from mountcr.journal import Linking
from mountcr.manifest import Manifest
from mountcr.model import InodeType
from mountcr.network import Link, Network
from mountcr.operations.by_engine import ByEngine, without_assembly
from mountcr.operations.clients.docker import Docker
from mountcr.operations.clients.podman import Podman
from mountcr.operations.leftovers import Leftovers
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices, Tcp
from mountcr.planning.planner import make_plan
from mountcr.planning.records import Inherited, Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mountcr.model import Container


def dumped(container: Container, choices: Choices | None = None) -> tuple[Manifest, Plan]:
    """A dump of a container, and the plan of its restore."""
    name = "docker-overlay2"
    facts = builders.facts(builders.recorded(name), builders.recorded(f"{name}.host"))
    facts = msgspec.structs.replace(facts, container=container)
    plan = make_plan(facts, choices or Choices(cgroups=CgroupMode.SOFT))
    manifest = Manifest(
        created="2020-01-01T00:00:00+00:00",
        facts=facts,
        rootfs=plan.rootfs,
        externals=plan.externals,
        inherited=plan.inherited,
        cgroups=CgroupMode.SOFT,
        files=(),
    )
    return manifest, plan


@pytest.fixture
def container(tmp_path: Path) -> Container:
    """A container whose engine keeps it in a directory of the test."""
    made = builders.facts("10 5 0:50 / / rw - tmpfs t rw").container
    root = tmp_path / "root"
    (root / "containers/c0ffee").mkdir(parents=True)
    (tmp_path / "bundle").mkdir()
    return msgspec.structs.replace(
        made,
        id="c0ffee",
        name="web",
        engine="podman",
        state_root=encode(bytes(root)),
        bundle=encode(bytes(tmp_path / "bundle")),
    )


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a shell script in the place of a program."""
    programs = tmp_path / "prefix/bin"
    programs.mkdir(parents=True)
    monkeypatch.setenv("MOUNTCR_PREFIX", str(programs.parent))
    monkeypatch.delenv("MOUNTCR_CRIU", raising=False)

    def put(name: str, script: str) -> None:
        path = programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    put("criu", "echo Version: 4.1.1")
    return put


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("--driver", Choices(driver="vfs")),
        ("--upper", Choices(upper=KPath("/u"))),
        ("--bind", Choices(binds={KPath("/a"): KPath("/b")})),
        ("--root", Choices(root_at=KPath("/mnt"))),
        ("--cgroup-root", Choices(cgroup_root=KPath("/g"))),
        ("--manage-cgroups-mode", Choices(cgroups=CgroupMode.IGNORE)),
        ("--net", Choices(net="none")),
        ("--bridge", Choices(bridges={"": "br0"})),
        ("--tcp-close", Choices(tcp=Tcp.CLOSE)),
        ("what follows --", Choices(extra=("-v4",))),
    ],
)
def test_what_an_engine_cannot_be_told_is_no_option_of_its(
    container: Container, option: str, choices: Choices
) -> None:
    """An option for the root, for mounts or for CRIU is refused by its name."""
    if choices.cgroups is None:
        choices = msgspec.structs.replace(choices, cgroups=CgroupMode.SOFT)
    with pytest.raises(UsageError, match=f"podman cannot be told {option}$"):
        ByEngine(*dumped(container, choices), "null")


def test_standard_streams_are_the_engines(container: Container) -> None:
    """`--stdio` is refused, because the engine connects the streams."""
    with pytest.raises(UsageError, match="--stdio"):
        ByEngine(*dumped(container), "inherit")


@pytest.mark.parametrize("engine", ["runc", "lxc", ""])
def test_a_container_without_an_engine_is_taken_over_by_none(
    container: Container, engine: str
) -> None:
    """What no engine ran is refused; the hint says how it can be restored."""
    container = msgspec.structs.replace(container, engine=engine)
    with pytest.raises(UsageError, match="no engine") as caught:
        ByEngine(*dumped(container), "null")
    assert "without --via engine" in str(caught.value.hint)


def test_a_descriptor_that_leads_out_is_refused(container: Container) -> None:
    """An engine gives standard streams and no other file of the host."""
    manifest, plan = dumped(container)
    file = Inherited(
        number=5,
        fd=5,
        pid=1,
        key="file[1:2]",
        type=InodeType.FILE,
        shown=KPath("/var/log/x"),
        because="of a test",
    )
    plan = msgspec.structs.replace(plan, inherited=(file,))
    with pytest.raises(RefusedError, match="descriptor 5"):
        ByEngine(manifest, plan, "null")


def test_a_namespace_that_was_made_before_the_container_is_refused(container: Container) -> None:
    """The images hold a namespace of the container's own, which the engine would not know."""
    pinned = msgspec.structs.replace(container, namespace_paths={"net": KPath("/run/netns/x")})
    manifest, plan = dumped(pinned)
    facts = manifest.facts
    task = msgspec.structs.replace(facts.tasks[0], namespaces={"net": 7})
    manifest = msgspec.structs.replace(
        manifest, facts=msgspec.structs.replace(facts, tasks=(task,))
    )
    with pytest.raises(RefusedError, match="its net namespace is /run/netns/x"):
        ByEngine(manifest, plan, "null")


def test_a_network_that_was_made_before_is_in_no_image(
    container: Container, program: Callable[[str, str], None]
) -> None:
    """The runtime of the engine hands over the namespace that its engine has made."""
    program("podman", "echo no such container >&2; exit 125")
    pinned = msgspec.structs.replace(container, namespace_paths={"net": KPath("/run/netns/x")})
    manifest, plan = dumped(pinned)
    network = Network(id=7, links=(Link(name="lo", index=1, kind="loopback"),))
    task = msgspec.structs.replace(manifest.facts.tasks[0], namespaces={"net": 7})
    facts = msgspec.structs.replace(manifest.facts, tasks=(task,), network=network)
    manifest = msgspec.structs.replace(manifest, facts=facts)
    with pytest.raises(RefusedError, match="podman does not know"):
        ByEngine(manifest, plan, "null")


def test_a_network_that_the_container_made_itself_is_refused(container: Container) -> None:
    """With links it is not in the images, and the runtime of the engine has none to hand over."""
    docker = msgspec.structs.replace(container, engine="docker")
    manifest, plan = dumped(docker)
    links = (Link(name="eth0", index=2, kind="veth"),)
    facts = msgspec.structs.replace(manifest.facts, network=Network(id=7, links=links))
    manifest = msgspec.structs.replace(manifest, facts=facts)
    with pytest.raises(RefusedError, match="its network namespace, with links"):
        ByEngine(manifest, plan, "null")


def test_an_engine_brings_the_root_back_itself(container: Container) -> None:
    """A plan for an engine has no step, and all else of it."""
    _, plan = dumped(container)
    handed = without_assembly(plan)
    assert plan.rootfs
    assert handed.rootfs == msgspec.structs.replace(plan.rootfs, steps=())
    assert msgspec.structs.replace(handed, rootfs=plan.rootfs) == plan


# --- Podman ---------------------------------------------------------------------------------------


def inspected(status: str, pid: int = 0) -> str:
    """A script that answers as `podman container inspect` does."""
    said = json.dumps([{"Id": "c0ffee", "State": {"Status": status, "Pid": pid}}])
    return f"echo '{said}'"


def test_a_container_that_runs_is_not_taken_over(
    container: Container, program: Callable[[str, str], None]
) -> None:
    """While the engine says that it runs, it is refused."""
    program("podman", inspected("running", os.getpid()))
    with pytest.raises(RefusedError, match="podman:web is running, says podman"):
        ByEngine(*dumped(container), "null")


def test_a_container_that_podman_does_not_know_is_refused(
    container: Container, program: Callable[[str, str], None]
) -> None:
    """The reason is podman's."""
    program("podman", "echo Error: no such container c0ffee >&2; exit 125")
    with pytest.raises(RefusedError, match="does not know podman:web: Error: no such container"):
        Podman(container).ready()


def test_images_of_podman_are_left_alone(
    container: Container, program: Callable[[str, str], None], tmp_path: Path
) -> None:
    """Where podman has a checkpoint already, it is refused and stays."""
    program("podman", inspected("exited"))
    (tmp_path / "bundle/checkpoint").mkdir()
    with pytest.raises(RefusedError, match="podman has a checkpoint of podman:web"):
        Podman(container).ready()
    assert (tmp_path / "bundle/checkpoint").is_dir()


def test_podman_finds_the_images_for_as_long_as_it_restores(
    container: Container, program: Callable[[str, str], None], tmp_path: Path
) -> None:
    """The directory is linked to; the link goes, and what was written beside it if all is well."""
    program("podman", inspected("exited"))
    bundle = tmp_path / "bundle"
    (bundle / "dump.log").touch()
    with Podman(container).offered("/images"):
        assert os.readlink(bundle / "checkpoint") == "/images"
        (bundle / "restore.log").touch()
    assert os.listdir(bundle) == ["dump.log"]
    with contextlib.suppress(MountcrError), Podman(container).offered("/images"):
        (bundle / "restore.log").touch()
        raise MountcrError("it failed")
    assert sorted(os.listdir(bundle)) == ["dump.log", "restore.log"]


def test_a_link_that_was_left_behind_is_removed(tmp_path: Path) -> None:
    """What a killed restore linked to goes by its record, unless it leads elsewhere by now."""
    place = tmp_path / "checkpoint"
    line = Linking(path=encode(bytes(place)), target=KPath("/images"))
    for target, is_left in (("/images", False), ("/others", True)):
        place.symlink_to(target)
        Leftovers([line]).remove()
        assert os.path.lexists(place) == is_left


def test_podman_is_told_where_its_storage_is_unless_it_knows(
    container: Container,
    program: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the configuration names the graph root, no option does: it would hide other ones."""
    program("podman", f'echo "$@" >> {tmp_path}/words; {inspected("exited")}')
    root = tmp_path / "root"
    (root / "overlay-containers").mkdir()
    configuration = tmp_path / "storage.conf"
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(configuration))
    for graph, told in ((tmp_path / "elsewhere", f"--root {root} "), (root, "")):
        configuration.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{graph}"\nrunroot = "{tmp_path}/run"\n'
        )
        (tmp_path / "words").unlink(missing_ok=True)
        Podman(container).running()
        assert (tmp_path / "words").read_text() == f"{told}container inspect c0ffee\n"


# --- Docker ---------------------------------------------------------------------------------------


def informed(root: str, *, experimental: bool = True) -> str:
    """A script that answers as `docker info` and `docker container inspect` do."""
    info = json.dumps({"DockerRootDir": root, "ExperimentalBuild": experimental})
    state = json.dumps({"Status": "exited", "Pid": 0})
    return f"case $1 in info) echo '{info}';; *) echo '{state}';; esac"


@pytest.fixture
def docker(container: Container) -> Container:
    """The same of Docker."""
    return msgspec.structs.replace(container, engine="docker")


def test_a_docker_that_is_down_cannot(
    docker: Container, program: Callable[[str, str], None]
) -> None:
    """Nobody answers: that is what this host cannot, not a refusal."""
    program("docker", "echo Cannot connect to the Docker daemon >&2; exit 1")
    with pytest.raises(CapabilityError, match="Docker does not answer: Cannot connect"):
        Docker(docker).ready()


def test_another_docker_is_not_asked(
    docker: Container, program: Callable[[str, str], None]
) -> None:
    """One that keeps its containers elsewhere is refused."""
    program("docker", informed("/elsewhere"))
    with pytest.raises(RefusedError, match="keeps its containers in /elsewhere"):
        Docker(docker).ready()


def test_only_an_experimental_docker_restores(
    docker: Container, program: Callable[[str, str], None], tmp_path: Path
) -> None:
    """Another one cannot; the hint names the setting."""
    program("docker", informed(str(tmp_path / "root"), experimental=False))
    with pytest.raises(CapabilityError) as caught:
        Docker(docker).ready()
    assert "daemon.json" in str(caught.value.hint)


def test_docker_finds_the_images_for_as_long_as_it_restores(
    docker: Container, program: Callable[[str, str], None], tmp_path: Path
) -> None:
    """The images are linked into a checkpoint, nothing else is; the checkpoint goes again."""
    program("docker", informed(str(tmp_path / "root")))
    images = tmp_path / "images"
    images.mkdir()
    for name in ("core-1.img", "descriptors.json", "mountcr.json", "dump.log"):
        (images / name).write_text(name)
    client = Docker(docker)
    assert client.ready().is_dead
    place = tmp_path / "root/containers/c0ffee/checkpoints/mountcr"
    with client.offered(str(images)):
        assert sorted(os.listdir(place)) == ["core-1.img", "descriptors.json"]
        assert os.path.samefile(place / "core-1.img", images / "core-1.img")
        with pytest.raises(RefusedError, match="Docker has a checkpoint of docker:web"):
            client.ready()
    assert not place.exists()
    assert (images / "core-1.img").read_text() == "core-1.img"
