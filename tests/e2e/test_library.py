# SPDX-License-Identifier: Apache-2.0
"""The library, used as the documentation uses it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

import mountcr
from mountcr.demo.launch import BindMount, Tmpfs
from mountcr.errors import NotFoundError, RefusedError
from mountcr.model import Facts
from mountcr.paths import KPath, encode
from mountcr.planning.choices import Choices

if TYPE_CHECKING:
    from e2e.conftest import Place


@pytest.fixture(autouse=True)
def _criu(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTCR_CRIU", place.criu)


def container(place: Place) -> int:
    """Start a counter with a volume and a tmpfs."""
    place.mount_overlay()
    volume = BindMount(str(place.directory("data", "file")), "/data")
    pid = place.start(binds=[volume, Tmpfs("/run")])
    place.wait(lambda: place.count() > 0)
    return pid


def test_all_of_it(place: Place) -> None:
    """A container is found, observed, planned, dumped, rebuilt and restored."""
    pid = container(place)
    images = place.top / "images"
    found = mountcr.find(str(pid))
    assert (found.pid, found.engine) == (pid, "pid")
    facts = mountcr.observe(found)
    plan = mountcr.plan(facts)
    assert plan.verdict == "ok"
    assert [each.mountpoint for each in plan.externals] == ["/data"]
    assert plan.rootfs is not None
    assert plan.rootfs.upper == str(place.upper)
    arguments = plan.criu.dump_args()
    assert arguments[arguments.index("--external") + 1] == "mnt[/data]:data"
    assert mountcr.dump(found, images).images == str(images)
    place.unmount()
    with mountcr.rebuild(plan, at=place.top / "look") as root:
        assert os.path.exists(f"{root}/etc/motd")
        assert not os.path.exists(f"{root}/var/old")
    place.unmount(place.top / "look")
    result = mountcr.restore(images)
    assert result.differences == ()
    assert place.runs(result.pid)
    place.goes_on()


def test_facts_are_enough(place: Place) -> None:
    """Facts that went through JSON plan as the container itself."""
    facts = mountcr.observe(mountcr.find(str(container(place))))
    again = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    assert again == facts
    assert mountcr.plan(again) == mountcr.plan(facts)


def test_files(place: Place) -> None:
    """Each file has its path and, where all layers were looked at, its state."""
    found = mountcr.find(str(container(place)))
    states = {
        each.path: each.state for each in mountcr.files(mountcr.observe(found, thorough=True))
    }
    assert states[KPath("/var/count")] == "upper"
    assert states[KPath("/bin/busybox")] == "lower"
    quick = {each.path: each.state for each in mountcr.files(mountcr.observe(found))}
    assert quick[KPath("/bin/busybox")] == "unresolved"


def test_rebuild_is_rolled_back(place: Place) -> None:
    """A block of code that fails leaves nothing mounted."""
    pid = container(place)
    plan = mountcr.plan(mountcr.observe(mountcr.find(str(pid))))
    place.kill(pid)
    place.unmount()
    with pytest.raises(LookupError), mountcr.rebuild(plan, at=place.top / "look"):
        raise LookupError
    assert place.mounted() == [str(place.top)]


def test_choices(place: Place) -> None:
    """What the command line can choose, the library can."""
    pid = container(place)
    images = place.top / "images"
    mountcr.dump(mountcr.find(str(pid)), images, Choices(leave_running=True))
    assert place.runs(pid)
    place.kill(pid)
    place.unmount()
    copy = place.top / "copy"
    result = mountcr.restore(images, Choices(driver="vfs", upper=encode(str(copy))))
    before = place.count(copy)
    place.wait(lambda: place.count(copy) > before)
    assert place.runs(result.pid)


def test_errors(place: Place) -> None:
    """Errors are of one family, each with the next thing to try."""
    with pytest.raises(NotFoundError) as missing:
        mountcr.find("no-such-container")
    assert missing.value.hint
    pid = container(place)
    images = place.top / "images"
    mountcr.dump(mountcr.find(str(pid)), images)
    place.unmount()
    place.layers[1].rename(place.top / "elsewhere")
    with pytest.raises(RefusedError) as refused:
        mountcr.restore(images)
    assert [each.rule for each in refused.value.findings] == ["M1"]
    with pytest.raises(mountcr.MountcrError):
        mountcr.restore(place.top / "none")


def test_a_bundle(place: Place) -> None:
    """A container is exported, verified, imported under another id, and restored."""
    pid = container(place)
    bundle = place.top / "web.tar"
    result = mountcr.export(mountcr.find(str(pid)), bundle, volumes=["/data"], compress="none")
    assert not place.runs(pid)
    assert result.mounts == ("/data",)
    assert mountcr.verify(bundle).differences == ()
    into = place.top / "imported"
    imported = mountcr.import_bundle(bundle, container_id="other", driver="vfs", into=into)
    assert imported.driver == "vfs"
    restored = mountcr.restore(imported.images)
    place.remember(restored.pid)
    place.goes_on(into / "upper")
