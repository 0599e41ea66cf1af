# SPDX-License-Identifier: Apache-2.0
"""An AUFS root has the layers that the kernel or Docker tells, and comes back with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

import builders
from mountcr.driver import drivers, get_driver, recognise
from mountcr.execute import Recorder, applied
from mountcr.graph.tree import MountTree
from mountcr.model import Capabilities, Severity
from mountcr.observation.aufs import branches_in_sysfs, with_branches
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices
from mountcr.planning.planner import make_plan
from mountcr.planning.rootfs import holders, plan_rootfs, read_only
from mountcr.planning.steps import Aufs, Bind
from mountcr.rootfs.dialect import get_dialect
from mountcr.stack import Stack
from mountcr.target import Target

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.model import Facts, Finding, Mount

NOWHERE = MountTree(())
AT = KPath("/at")
KERNELS = sorted(path.name for path in builders.KERNELS.glob("aufs-*-aufs*"))

ROOT = builders.mount("10 5 0:50 / / rw - aufs none rw,si=12,dio")
HOST = builders.table("1 0 8:1 / / rw - ext4 /dev/sda1 rw")


def observed(*branches: str, mount: Mount = ROOT) -> Mount:
    """A mount with branches as sysfs told them."""
    return msgspec.structs.replace(mount, branches=tuple(map(KPath, branches)))


def stack_of(mount: Mount, *host: Mount) -> Stack:
    """What a mount is made of, of which somebody tells."""
    stack = recognise(mount, MountTree(host))
    assert stack is not None
    return stack


# Observation


def test_the_tenth_branch_comes_behind_the_ninth() -> None:
    """The names in sysfs are ordered by their numbers, however many there are."""
    names = [f"br{number}" for number in range(128)]
    files = {name: f"/l/{name}=ro+wh\n".encode() for name in sorted(names)}
    assert branches_in_sysfs(files) == tuple(f"/l/{name}=ro+wh" for name in names)


def test_a_missing_branch_makes_no_shorter_union() -> None:
    """Rather none is told than a union without one of its layers."""
    assert branches_in_sysfs({"br0": b"/u=rw\n", "br2": b"/l=ro+wh\n"}) == ()


def test_other_files_of_sysfs_are_no_branches() -> None:
    """Their ids are not, and the path of the inode numbers is not one either."""
    files = {"brid0": b"64\n", "br0": b"/u=rw\n", "xi_path": b"/dev/shm/aufs.xino\n"}
    assert branches_in_sysfs(files) == ("/u=rw", "xino=/dev/shm/aufs.xino")


def docker(root: Path, own: str, *parents: str) -> Mount:
    """A mount of Docker's with what is written beside it; nobody else tells its layers."""
    layers = root / "aufs/layers"
    layers.mkdir(parents=True)
    (layers / own).write_text("".join(f"{each}\n" for each in parents))
    place = encode(str(root / "aufs/mnt" / own))
    return builders.mount(f"10 5 0:50 / {place} rw - aufs none rw,si=fffffffffffffffe,dio")


def test_docker_wrote_the_layers_down(tmp_path: Path) -> None:
    """Nearest parent first; only the container's own layer is writable, whiteouts count in all."""
    mount = with_branches(docker(tmp_path / "a b", "web", "web-init", "f00", "ba5e"))
    stack = stack_of(mount)
    diff = encode(str(tmp_path / "a b/aufs/diff"))
    assert stack.upper == f"{diff}/web"
    assert stack.lowers == (f"{diff}/web-init", f"{diff}/f00", f"{diff}/ba5e")
    assert stack.permissions == ("rw", "ro+wh", "ro+wh", "ro+wh")
    assert stack.options == ("dio",)
    assert stack.provenance == (f"Docker: {encode(str(tmp_path / 'a b/aufs/layers/web'))}",)


def test_what_the_options_tell_is_not_looked_for(tmp_path: Path) -> None:
    """Docker's files say what Docker wanted; the kernel says what it has."""
    mount = docker(tmp_path, "web", "old")
    mount = msgspec.structs.replace(mount, super_options="rw,si=fffffffffffffffe,br:/u=rw:/l=ro")
    assert stack_of(with_branches(mount)).lowers == ("/l",)


@pytest.mark.parametrize("line", ["/x/aufs/mnt/gone", "/x/merged", "/"])
def test_a_mount_of_which_nobody_tells(line: str) -> None:
    """It has no branches, and no stack; the plan is refused for that."""
    mount = builders.mount(f"10 5 0:50 / {line} rw - aufs none rw,si=fffffffffffffffe")
    assert with_branches(mount) == mount
    assert recognise(mount, NOWHERE) is None
    found = [each.rule for each in make_plan(builders.facts((ROOT,), HOST)).refusals]
    assert found == ["M6"]


# Captured kernels


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_layers_of_captured_kernels(kernel: str) -> None:
    """Those of the manifest, top first, by what /proc and /sys of that kernel had."""
    mounts, host = builders.captured(kernel)
    manifest = json.loads((builders.KERNELS / kernel / "manifest.json").read_text())
    stack = stack_of(mounts[0], *host)
    upper, *lowers = manifest["layers_top_first"].values()
    assert stack.driver == "aufs"
    assert stack.upper == upper
    assert list(stack.lowers) == lowers
    told = manifest["mount_options"].removeprefix("br:").split(",")
    branches = zip(stack.directories, stack.permissions, strict=True)
    assert ":".join(f"{path}={word}" for path, word in branches) == told[0]
    assert stack.options == ("dio", "xino=/dev/shm/aufs.xino")


@pytest.mark.parametrize("kernel", KERNELS)
def test_captured_containers_have_a_plan(kernel: str) -> None:
    """The dump is not refused for its root, and the steps mount what was mounted."""
    mounts, host = builders.captured(kernel)
    manifest = json.loads((builders.KERNELS / kernel / "manifest.json").read_text())
    plan = make_plan(builders.facts(mounts, host))
    assert not [each for each in plan.refusals if each.rule.startswith("M")]
    assert plan.rootfs is not None
    (step,) = [each for each in plan.rootfs.steps if isinstance(each, Aufs)]
    assert [str(each) for each in step.branches] == [*manifest["layers_top_first"].values()]
    # on that host the same stack is mounted already
    stack = stack_of(mounts[0])
    assert [mount.mountpoint for mount, _ in holders(stack, host)] == [manifest["merged"]]
    again = plan_rootfs(stack, AT, MountTree(host), Choices(), container="web", root=None)
    (bind,) = again.steps
    assert isinstance(bind, Bind)
    assert bind.source == manifest["merged"]


# The driver


def test_a_built_in_driver() -> None:
    """It is found by its name and writes its own dialect."""
    assert get_driver("aufs") is drivers()["aufs"]
    assert get_driver("aufs").dialect == "aufs"
    assert get_driver("overlay").recognise(observed("/u=rw", "/l=ro"), NOWHERE) is None
    assert get_driver("aufs").recognise(HOST[0], NOWHERE) is None


def test_permissions_and_options_survive() -> None:
    """A layer whose whiteouts AUFS ignores is still one; all else stays as it was shown."""
    stack = stack_of(observed("/u=rw+nolwh", "/a=ro+wh", "/b=rr", "/c=ro", "xino=/dev/shm/x"))
    assert stack.permissions == ("rw+nolwh", "ro+wh", "rr", "ro")
    assert stack.options == ("dio", "xino=/dev/shm/x")
    recorder = Recorder()
    with applied(get_driver("aufs").assemble(stack, AT), recorder):
        pass
    (call,) = recorder.calls
    assert call == (
        "mount_aufs", "/at", "/u=rw+nolwh", "/a=ro+wh", "/b=rr", "/c=ro", "dio", "xino=/dev/shm/x",
    )  # fmt: skip


def test_undoing_unmounts() -> None:
    """What was mounted before a failure goes again."""
    recorder = Recorder()
    with pytest.raises(KeyError), applied(_steps(), recorder):
        raise KeyError
    assert [call[:2] for call in recorder.calls] == [("mount_aufs", "/at"), ("unmount", "/at")]


def _steps() -> tuple[Aufs, ...]:
    (step,) = get_driver("aufs").assemble(stack_of(observed("/u=rw", "/l=ro+wh")), AT)
    assert isinstance(step, Aufs)
    return (step,)


def test_layers_are_read_as_aufs_reads_them() -> None:
    """Whiteouts do not count where neither `rw` nor `+wh` is."""
    stack = stack_of(observed("/u=rw", "/a=ro+wh", "/b=ro", "/c=rr"))
    found = [(each.path, each.dialect) for each in get_driver("aufs").layers(stack)]
    assert found == [("/u", "aufs"), ("/a", "aufs"), ("/b", "aufs-nowh"), ("/c", "aufs-nowh")]
    assert all(get_dialect(dialect).name == dialect for _, dialect in found)


def test_layers_without_permissions() -> None:
    """A stack that says none has one writable layer, and whiteouts count in all."""
    stack = Stack(driver="aufs", upper=KPath("/u"), lowers=(KPath("/a"), KPath("/b")))
    (step,) = get_driver("aufs").assemble(stack, AT)
    assert isinstance(step, Aufs)
    assert step.permissions == ("rw", "ro+wh", "ro+wh")


def test_looked_at_without_writing() -> None:
    """Nothing is writable in a read-only view, and every whiteout counts as before."""
    stack = stack_of(observed("/u=rw", "/a=ro", "/b=rw+nolwh", "/c=rr+wh"))
    (step,) = read_only(stack, AT)
    assert isinstance(step, Aufs)
    assert step.branches == ("/u", "/a", "/b", "/c")
    assert step.permissions == ("ro+wh", "ro", "ro+wh", "rr+wh")


def test_another_upper_keeps_what_was() -> None:
    """Attributes stay; nothing is written into the old layers, nor inode numbers kept there."""
    stack = stack_of(observed("/u=rw+nolwh", "/a=ro", "/b=rw", "xino=/u/x"))
    other = get_driver("aufs").stack(stack.lowers, KPath("/new"), origin=stack, together=True)
    assert other.directories == ("/new", "/a", "/b")
    assert other.permissions == ("rw+nolwh", "ro", "ro+wh")
    assert other.options == ("dio",)


def test_a_stack_of_another_driver() -> None:
    """Whiteouts count in every layer; options of the other are none of AUFS."""
    origin = Stack(
        driver="overlay", upper=KPath("/u"), lowers=(KPath("/l"),), options=("index=on",)
    )
    stack = get_driver("aufs").stack(origin.lowers, KPath("/new"), origin=origin, together=True)
    assert (stack.driver, stack.directories) == ("aufs", ("/new", "/l"))
    assert (stack.permissions, stack.options) == (("rw", "ro+wh"), ())


def test_layers_told_by_a_mount_of_the_host() -> None:
    """The container's own mount has another mountpoint than Docker's, and the same superblock."""
    mount = builders.mount("90 1 0:50 / /d/aufs/mnt/web rw - aufs none rw,si=12,dio")
    told = observed("/d/aufs/diff/web=rw", "/d/aufs/diff/base=ro+wh", mount=mount)
    assert stack_of(ROOT, *HOST, told).lowers == ("/d/aufs/diff/base",)


# Rules


def facts_with(*branches: str, aufs: bool | None = None) -> Facts:
    """A container on AUFS, on a host of which it is known, or not, whether it has that."""
    features = {} if aufs is None else {"aufs": aufs}
    facts = builders.facts((observed(*branches),), HOST)
    capabilities = Capabilities(kernel="6.18", features=features)
    host = msgspec.structs.replace(facts.host, capabilities=capabilities)
    return msgspec.structs.replace(facts, host=host)


def findings(rule: str, facts: Facts, choices: Choices, target: Target | None) -> list[Finding]:
    """What a rule finds in a plan."""
    plan = make_plan(facts, choices, target=target)
    return [each for each in plan.findings if each.rule == rule]


@pytest.mark.parametrize(
    ("driver", "has", "told"),
    [(None, False, True), ("aufs", False, True), (None, True, False), (None, None, False)],
)
def test_a_target_without_aufs_is_told_before(
    driver: str | None, *, has: bool | None, told: bool
) -> None:
    """The restore is refused with the way out; another driver needs none."""
    facts = facts_with("/u=rw", "/l=ro+wh")
    target = Target(host=facts_with("/u=rw", aufs=has).host)
    found = findings("M10", facts, Choices(driver=driver), target)
    assert [each.severity for each in found] == [Severity.REFUSAL] * told
    assert all("--driver overlay" in each.cure for each in found)
    assert findings("M10", facts, Choices(driver="vfs"), target) == []


def test_a_dump_needs_no_aufs_to_come_back_to() -> None:
    """It is worth a note, and refused by nobody."""
    (found,) = findings("M10", facts_with("/u=rw", "/l=ro+wh", aufs=False), Choices(), None)
    assert found.severity is Severity.NOTE
    assert "6.18" in found.message


def test_several_writable_branches() -> None:
    """AUFS has them again as they were; elsewhere one layer takes all changes, which is said."""
    facts = facts_with("/u=rw", "/a=ro+wh", "/b=rw")
    (note,) = findings("M12", facts, Choices(), None)
    assert (note.severity, note.mount) == (Severity.NOTE, "/u")
    assert "/b" in note.message
    for choices in (Choices(driver="overlay"), Choices(upper=KPath("/new"))):
        (loss,) = findings("M12", facts, choices, None)
        assert loss.severity is Severity.LOSS
    plan = make_plan(facts)
    assert plan.rootfs is not None
    (step,) = plan.rootfs.steps
    assert isinstance(step, Aufs)
    assert step.permissions == ("rw", "ro+wh", "rw")


def test_a_writable_branch_below_others() -> None:
    """Nothing but AUFS has that; it is refused by name instead of mounted in another order."""
    facts = facts_with("/top=ro", "/u=rw", "/l=ro+wh")
    (found,) = findings("M11", facts, Choices(), None)
    assert (found.mount, found.severity) == ("/u", Severity.REFUSAL)
    assert "/top=ro" in found.message
