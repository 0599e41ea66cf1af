# SPDX-License-Identifier: Apache-2.0
"""Facts that come from CRIU's images alone, and what is planned from them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from archives import PODMAN, copied, edited, unpacked
from mountcr import mountinfo
from mountcr.bundle.foreign import read_checkpoint
from mountcr.bundle.foreign.dumped import facts_of, manifest_of
from mountcr.criu.options import CgroupMode
from mountcr.graph.rebound import without_times
from mountcr.model import Container, Facts, FileKind, Host, Imported, InodeType, Severity
from mountcr.observation.images import observe_images
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.planning.requests import lying
from mountcr.resolution.files import resolve
from mountcr.stack import Stack
from mountcr.target import Target

FIXTURES = Path(__file__).parent.parent / "fixtures/images"

HOST = b"""\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:29 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:41 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:42 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


@pytest.fixture
def facts() -> Facts:
    """Give the facts of a recorded checkpoint of podman."""
    return facts_of(read_checkpoint(unpacked(PODMAN)), encode(str(PODMAN / "checkpoint")))


def test_mounts_are_as_mountinfo_had_them(facts: Facts) -> None:
    """Mounts have ids, parents, roots, attributes, type and options, in the order of mountinfo."""
    mounts = {each.mountpoint: each for each in facts.namespaces[0].mounts}
    assert facts.namespaces[0].mounts[0].mountpoint == "/"
    proc = mounts[KPath("/proc/bus")]
    assert (proc.root, proc.options, proc.fstype) == (
        "/bus", "ro,nosuid,nodev,noexec,relatime", "proc",
    )  # fmt: skip
    assert mounts[KPath("/dev/pts")].super_options == "rw,gid=5,mode=620,ptmxmode=666"
    assert mounts[KPath("/")].super_options == "rw,uuid=on"


def test_types_of_mountpoints(facts: Facts) -> None:
    """What a mountpoint is comes from the archive, from what is mounted, or from open files."""
    types = {each.mountpoint: each.type for each in facts.namespaces[0].mounts}
    assert types[KPath("/etc/hosts")] is InodeType.FILE
    assert types[KPath("/proc/keys")] is InodeType.CHARACTER
    assert types[KPath("/data/vol")] is InodeType.DIRECTORY
    assert types[KPath("/proc")] is InodeType.DIRECTORY


def test_tasks_and_files(facts: Facts) -> None:
    """Tasks have names, parents, groups and files; a ghost is deleted, a pipe a pipe."""
    root, child = facts.tasks
    assert (root.pid, root.command, child.parent, child.command) == (1, "count.sh", 1, "sleep")
    assert all(each.path.startswith("/libpod_parent/libpod-") for each in root.cgroups)
    held = {each.fd: each.shown for each in root.files if each.kind is FileKind.FD}
    assert held[3] == "/data/base"
    assert held[5] == "/app/unlinked\\040(deleted)"
    assert held[1].startswith("pipe:[")
    states = {each.shown: each.state for each in resolve(facts)}
    assert states[KPath("/app/unlinked\\040(deleted)")] == "deleted"


def test_the_keys_are_those_of_the_images(facts: Facts) -> None:
    """A restore gives CRIU each key that the images have, and no other."""
    choices = Choices(binds={KPath("/etc/hosts"): KPath("/srv/hosts")})
    plan = make_plan(facts, choices)
    keys = {each.external for each in facts.namespaces[0].mounts if each.external}
    assert {each.key for each in plan.externals} == keys
    given = plan.criu.restore_options.externals
    assert "mnt[/etc/hosts]:/srv/hosts" in given
    assert given.count("mnt[/dev/null]:/dev/null") == 1
    assert [name for _, name in plan.criu.restore_options.inherit_fds] == [
        each.shown for each in facts.tasks[0].files if each.shown.startswith("pipe:[")
    ]


def test_control_groups_are_where_their_hierarchies_are(facts: Facts) -> None:
    """A group that was mounted comes from the hierarchy with its controllers on the target."""
    target = Target(host=Host(mounts=mountinfo.parse_table(HOST)))
    sources = {each.mountpoint: each.source for each in make_plan(facts, target=target).externals}
    group = facts.tasks[0].cgroups[0].path
    assert sources[KPath("/sys/fs/cgroup/cpu")] == f"/sys/fs/cgroup/cpu,cpuacct{group}"
    assert sources[KPath("/sys/fs/cgroup/memory")] == f"/sys/fs/cgroup/memory{group}"
    assert sources[KPath("/sys/fs/cgroup/pids")] is None


def test_layers_are_those_of_the_record(facts: Facts) -> None:
    """The layers that images name are of another host; the record says what the root is made of."""
    stack = Stack(driver="overlay", lowers=(KPath("/l"),), upper=KPath("/u"), work=KPath("/w"))
    container = msgspec.structs.replace(facts.container, stack=stack)
    plan = make_plan(msgspec.structs.replace(facts, container=container))
    assert plan.rootfs is not None
    assert (plan.rootfs.upper, plan.rootfs.layers) == ("/u", ("/l",))
    assert not any(each.severity is Severity.REFUSAL for each in plan.findings)


def test_the_manifest_names_what_criu_compares() -> None:
    """The manifest has files of the root and of externals by size and mode, and no ghost."""
    checkpoint = read_checkpoint(unpacked(PODMAN))
    manifest = manifest_of(checkpoint, encode(str(PODMAN / "checkpoint")))
    files = {each.path: each for each in manifest.files}
    assert files[KPath("/data/base")].size == 21
    assert files[KPath("/app/count.log")].size is None
    assert KPath("/scratch/before") not in files
    assert not any("unlinked" in each for each in files)
    assert manifest.cgroups is CgroupMode.SOFT
    assert manifest.standard_streams == checkpoint.standard_streams


@pytest.mark.parametrize("name", ["held-files-criu-4.1.1", "raw-overlay-criu-4.1.1"])
def test_facts_of_any_images_go_to_json_and_back(name: str) -> None:
    """Facts of images are facts: they survive JSON, and a plan can be made of them."""
    images = encode(str(FIXTURES / name))
    found = observe_images(images, Container(id="x", engine="criu"))
    again = msgspec.json.decode(msgspec.json.encode(found), type=Facts)
    assert again == found
    make_plan(again)


def test_times_of_access_are_left_out_at_chosen_mountpoints(facts: Facts) -> None:
    """At chosen mountpoints, and nowhere else, how times of access are written does not count."""
    table = facts.namespaces[0].mounts
    before, after = without_times([table], [table], {KPath("/etc/hosts")})
    options = {each.mountpoint: each.options for each in before[0]}
    assert options[KPath("/etc/hosts")] == "rw"
    assert "relatime" in options[KPath("/proc")]
    assert before == after


def test_what_came_for_a_tmpfs_is_looked_at_where_it_lies(facts: Facts) -> None:
    """It is copied into memory by the restore, so that until then its files are on the disk."""
    shm = KPath("/dev/shm")
    stack = Stack(driver="overlay", lowers=(KPath("/l"),), upper=KPath("/u"), work=KPath("/w"))
    imported = Imported(at=KPath("/at"), stack=stack, sources={shm: KPath("/at/mounts/1")})
    facts = msgspec.structs.replace(facts, imported=imported)
    externals = make_plan(facts, Choices(create_missing=True)).externals
    made = {each.mountpoint: each.source for each in externals}
    assert str(made[shm]).startswith("/at/made/")
    found = {each.mountpoint: each.source for each in lying(facts, externals)}
    assert found[shm] == "/at/mounts/1"
    assert {place for place in made if found[place] != made[place]} == {shm}


def test_a_network_that_was_made_before_is_given_to_criu(tmp_path: Path) -> None:
    """It is external in the images, by the key of the runtimes, and comes back or is given."""
    top = copied(PODMAN, tmp_path / "podman")
    namespaces = [{"type": "network", "path": "/run/netns/pod"}, {"type": "mount"}]
    edited(top / "spec.dump", {"linux.namespaces": namespaces})
    checkpoint = read_checkpoint(unpacked(top))
    assert checkpoint.joined == {"net": "/run/netns/pod"}
    found = facts_of(checkpoint, encode(str(top / "checkpoint")))
    assert found.network is not None
    assert not found.network.beyond_loopback
    given = make_plan(found, Choices(net="/run/netns/other")).criu.restore_options.inherit_fds
    assert "extRootNetNS" in [key for _, key in given]
    assert (
        facts_of(read_checkpoint(unpacked(PODMAN)), encode(str(PODMAN / "checkpoint"))).network
        is None
    )
