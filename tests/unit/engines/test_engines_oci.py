# SPDX-License-Identifier: Apache-2.0
"""Containers of runc, crun and youki are what their state files and /proc say together."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Roots, list_containers
from mountcr.engines.oci import Crun, Runc, Youki
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path

    from unit.engines.conftest import Host


def test_runc_records_are_read_whole(host: Host) -> None:
    """A live container of runc has pid, start time, rootfs, bundle, and the file that says so."""
    process = host.process()
    directory = host.runc("web", process)
    (found,) = Runc().containers(host.roots)
    assert (found.id, found.engine, found.name) == ("web", "runc", "")
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert found.status == "running"
    assert found.rootfs == "/srv/lab/oci-runc/rootfs"
    assert found.bundle == "/srv/lab/oci-runc"
    assert found.state_root == encode(str(directory.parent))
    assert found.namespace_paths == {}
    assert f"{directory}/state.json: init_process_pid" in found.provenance


def test_crun_records_are_read_whole(host: Host) -> None:
    """The id of a container of crun is its directory; its rootfs is relative to the bundle."""
    process = host.process()
    directory = host.crun("web", process)
    (found,) = Crun().containers(host.roots)
    assert (found.id, found.engine, found.pid) == ("web", "crun", process.pid)
    assert found.start_time == process.start_time
    assert found.rootfs == "/srv/lab/oci-crun/rootfs"
    assert found.bundle == "/srv/lab/oci-crun"
    assert f"{directory}/status: pid" in found.provenance


def test_crun_records_an_absolute_rootfs_for_podman(host: Host) -> None:
    """A rootfs that is absolute is not looked for below the bundle."""
    host.crun("f3e8", host.process(), recorded="podman-overlay-crun")
    (found,) = Crun().containers(host.roots)
    assert found.rootfs
    assert found.rootfs.endswith("/merged")
    assert found.bundle
    assert found.bundle.endswith("/userdata")
    assert not found.rootfs.startswith(found.bundle)


def test_docker_state_is_of_runc(host: Host) -> None:
    """What Docker makes runc write is read like any other state of runc."""
    host.runc("6d97", host.process(), recorded="docker-overlay2")
    (found,) = Runc().containers(host.roots)
    assert found.rootfs
    assert found.rootfs.endswith("/merged")


def test_youki_takes_the_rootfs_from_the_bundle(host: Host) -> None:
    """The rootfs is in the bundle, the start time nowhere: youki records neither."""
    bundle = host.bundle()
    process = host.process()
    host.youki("web", bundle, process)
    (found,) = Youki().containers(host.roots)
    assert (found.engine, found.pid, found.start_time) == ("youki", process.pid, 0)
    assert found.rootfs == encode(f"{bundle}/rootfs")
    assert found.status == "running"


@pytest.mark.parametrize("changes", [{"status": "stopped"}, {"pid": None}])
def test_youki_without_a_process_is_stopped(host: Host, changes: dict[str, object]) -> None:
    """A pid that youki calls stopped, or does not record, is not a process of the container."""
    host.youki("web", host.bundle(), host.process(), **changes)
    (found,) = Youki().containers(host.roots)
    assert (found.pid, found.status) == (0, "stopped")


def test_formats_in_one_root_do_not_mix(host: Host) -> None:
    """A root is searched for all formats, and each container is found by one engine."""
    host.runc("a", host.process())
    host.crun("b", host.process())
    host.youki("c", host.bundle(), host.process())
    found = {c.id: c.engine for c in list_containers(host.roots)}
    assert found == {"a": "runc", "b": "crun", "c": "youki"}


def test_namespaces_that_were_joined_are_pinned(host: Host) -> None:
    """Only namespaces with a path are pinned; they are named as below /proc/<pid>/ns."""
    joined = [
        {"type": "NEWPID", "path": ""},
        {"type": "NEWNS"},
        {"type": "NEWNET", "path": "/run/netns/my net"},
        {"type": "NEWIPC", "path": "/proc/1/ns/ipc"},
    ]
    host.runc("web", config={"namespaces": joined})
    (found,) = Runc().containers(host.roots)
    assert found.namespace_paths == {"net": r"/run/netns/my\040net", "ipc": "/proc/1/ns/ipc"}


def test_crun_pins_what_its_copy_of_the_spec_says(host: Host) -> None:
    """The namespaces of crun stand in the config.json beside its status file."""
    directory = host.crun("web", host.process())
    spec = json.loads((directory / "config.json").read_bytes())
    spec["linux"]["namespaces"].append({"type": "network", "path": "/run/netns/x"})
    (directory / "config.json").write_text(json.dumps(spec))
    (found,) = Crun().containers(host.roots)
    assert found.namespace_paths == {"net": "/run/netns/x"}


def test_a_damaged_copy_of_the_spec_costs_only_the_namespaces(host: Host) -> None:
    """A container of crun is found without its config.json."""
    directory = host.crun("web", host.process())
    (directory / "config.json").write_text("{")
    (found,) = Crun().containers(host.roots)
    assert found.pid


def test_an_ended_process_is_stopped(host: Host) -> None:
    """When the process has ended the pid is 0, and the provenance keeps the one recorded."""
    host.runc("web")
    (found,) = Runc().containers(host.roots)
    assert (found.pid, found.start_time, found.status) == (0, 0, "stopped")
    assert found.provenance[0].endswith("has ended")


def test_a_reused_pid_is_stopped(host: Host) -> None:
    """A process with that pid and another start time is not the container's."""
    process = host.process()
    host.runc("web", process._replace(start_time=process.start_time - 1))
    host.crun("db", process._replace(start_time=process.start_time + 1))
    found = list_containers(host.roots)
    assert [(c.pid, c.status) for c in found] == [(0, "stopped")] * 2
    assert f"recorded {process.start_time - 1}" in found[0].provenance[0]


def test_a_container_that_was_created_waits_for_its_start(host: Host) -> None:
    """The FIFO that `start` opens tells created from running."""
    for directory in (host.runc("web", host.process()), host.crun("db", host.process())):
        os.mkfifo(directory / "exec.fifo")
    assert [c.status for c in list_containers(host.roots)] == ["created", "created"]


@pytest.mark.parametrize(
    ("controller", "file", "status"),
    [
        ("freezer", "freezer.state: FROZEN", "paused"),
        ("freezer", "freezer.state: THAWED", "running"),
        ("", "cgroup.freeze: 1", "paused"),
        ("", "cgroup.freeze: 0", "running"),
    ],
)
def test_a_frozen_cgroup_is_paused(
    host: Host, tmp_path: Path, controller: str, file: str, status: str
) -> None:
    """The freezer of cgroups version 1 or 2 says whether runc paused the container."""
    name, content = file.split(": ")
    (tmp_path / name).write_text(f"{content}\n")
    host.runc("web", host.process(), cgroup_paths={controller: str(tmp_path), "cpu": "/nowhere"})
    (found,) = Runc().containers(host.roots)
    assert found.status == status


@pytest.mark.parametrize(
    "text", ["", "{", '{"id": "web"', "[]", "null", '{"id": 1}', '{"id": "\xff"}', "[" * 100_000]
)
def test_what_makes_no_sense_is_skipped(host: Host, text: str) -> None:
    """A damaged file disturbs no other container; one that ends early is named by its own."""
    for name, file in (("bad", "state.json"), ("worse", "status")):
        (host.root() / name).mkdir()
        (host.root() / name / file).write_bytes(text.encode("latin-1"))
    host.runc("web", host.process())
    known = list_containers(host.roots)
    assert [c.id for c in known if not c.damages] == ["web"]
    for container in known:
        assert all(f"/{container.id}/" in damage.file for damage in container.damages)


def test_a_file_that_is_being_written_is_read_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state file that ends early is read once more, after its writer had time."""
    directory = host.youki("web", host.bundle(), host.process())
    whole = (directory / "state.json").read_text()
    (directory / "state.json").write_text(whole[:40])
    waited: list[float] = []

    def finish(seconds: float) -> None:
        waited.append(seconds)
        (directory / "state.json").write_text(whole)

    monkeypatch.setattr(time, "sleep", finish)
    assert [c.id for c in Youki().containers(host.roots)] == ["web"]
    assert len(waited) == 1
    assert 0 < waited[0] < 1


def test_other_things_in_a_root_are_skipped(host: Host) -> None:
    """Files, empty directories, a FIFO and a directory in place of a state file do not disturb."""
    root = host.root()
    (root / "file").write_text("x")
    (root / "empty").mkdir()
    (root / "fifo").mkdir()
    os.mkfifo(root / "fifo" / "state.json")
    (root / "directory" / "status").mkdir(parents=True)
    host.runc("web", host.process())
    assert [c.id for c in list_containers(host.roots)] == ["web"]


def test_a_root_is_searched_once_however_it_is_spelled(host: Host, tmp_path: Path) -> None:
    """The same directory under two names holds its containers once; a missing one is none."""
    host.runc("web")
    (tmp_path / "link").symlink_to(host.root())
    roots = Roots(
        runtime=(
            encode(str(tmp_path / "missing")),
            encode(str(host.root())),
            encode(f"{host.root()}/"),
            encode(str(tmp_path / "link")),
        )
    )
    assert len(list_containers(roots)) == 1


def test_paths_keep_their_spelling(host: Host, tmp_path: Path) -> None:
    """A runtime root with a space in its name is found, and spelled as in mountinfo."""
    host.runc("web", root="my root", config={"rootfs": "/srv/my root"})
    (found,) = Runc().containers(host.roots)
    assert found.rootfs == r"/srv/my\040root"
    assert found.state_root == encode(str(tmp_path / "roots" / "my root"))


def test_the_callers_roots_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots named by the caller, then by the environment, then those of the runtimes."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    roots = Roots.of_host(["/a"], {"MOUNTCR_RUNTIME_ROOT": "/b:/c d", "XDG_RUNTIME_DIR": "/x"})
    assert roots.runtime == ("/a", "/b", r"/c\040d", "/run/runc", "/run/crun", "/run/youki")


def test_a_user_has_roots_of_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root is also given what lies in his runtime directory."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "/x/runc" in Roots.of_host(environ={"XDG_RUNTIME_DIR": "/x"}).runtime
    assert "/run/user/1000/crun" in Roots.of_host(environ={}).runtime
