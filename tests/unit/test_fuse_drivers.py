# SPDX-License-Identifier: Apache-2.0
"""The drivers of FUSE unions, and of the unionfs of old kernels: what a mount is made of."""

from __future__ import annotations

import msgspec
import pytest

from mountcr.driver import get_driver, recognise
from mountcr.errors import CapabilityError
from mountcr.graph.tree import MountTree
from mountcr.model import Mount, MountId
from mountcr.paths import KPath, encode
from mountcr.planning.choices import CACHE
from mountcr.planning.conversion import convert
from mountcr.planning.steps import Convert, FuseUnion
from mountcr.stack import Stack
from mountcr.target import Survey, SurveyedLayer

NOWHERE = MountTree(())


def mount(fstype: str, *words: str, cwd: str | None = None, options: str = "rw") -> Mount:
    """Give a root mount and the command line of its server."""
    return Mount(
        id=MountId(7),
        parent=MountId(1),
        dev="0:40",
        root=KPath("/"),
        mountpoint=KPath("/"),
        options="rw,relatime",
        fstype=fstype,
        source=KPath("none"),
        super_options=options,
        server=tuple(encode(each) for each in words),
        server_cwd=KPath(cwd) if cwd else None,
    )


def unionfs(*words: str, cwd: str | None = None) -> Stack | None:
    """Recognise what a unionfs-fuse with these arguments mounted."""
    return recognise(mount("fuse.unionfs", "unionfs", *words, "/mnt", cwd=cwd), NOWHERE)


def layers(stack: Stack | None) -> tuple[str | None, tuple[str, ...]]:
    """Give upper and lowers."""
    assert stack is not None
    return stack.upper, stack.lowers


@pytest.mark.parametrize(
    ("words", "cwd"),
    [
        (["/up=RW:/lo=RO:/base"], None),
        (["-o", "cow,dirs=/up=rw:/lo=ro:/base"], None),
        (["-o", "chroot=/", "/up=RW:/lo:/base"], None),
        (["/up/=RW:/lo/:/base/"], None),
        (["up=RW:lo:/base"], "/"),
    ],
)
def test_branches_of_unionfs(words: list[str], cwd: str | None) -> None:
    """In every way that they can be given."""
    assert layers(unionfs(*words, cwd=cwd)) == ("/up", ("/lo", "/base"))


def test_branches_in_a_chroot() -> None:
    """They are beneath it on the host."""
    assert layers(unionfs("-o", "chroot=/srv", "/up=RW:/lo")) == ("/srv/up", ("/srv/lo",))


def test_relative_branches() -> None:
    """They begin where the server was started; where nobody knows, they stay relative."""
    assert layers(unionfs("up=RW:lo", cwd="/srv")) == ("/srv/up", ("/srv/lo",))
    assert layers(unionfs("up=RW:lo")) == ("up", ("lo",))


def test_a_unionfs_without_a_writable_branch() -> None:
    """All of them are lower."""
    assert layers(unionfs("/a=RO:/b")) == (None, ("/a", "/b"))


def test_layers_of_another_version() -> None:
    """
    Where the program of this host keeps its marks elsewhere, lower layers are converted too.

    The new writable layer is in its dialect; of the same version, lower layers are used in place.
    """
    found = mount("fuse.unionfs", "unionfs", "/up=RW:/lo", "/mnt")
    stack = recognise(msgspec.structs.replace(found, dialect="unionfs-1.0"), NOWHERE)
    assert stack is not None
    driver = get_driver("unionfs")
    assert [each.dialect for each in driver.layers(stack)] == ["unionfs-1.0"] * 2
    marked = {KPath("/lo"): SurveyedLayer(foreign=KPath("/.unionfs-fuse"), digest="d16e57")}
    survey = Survey(layers=marked, dialect="unionfs")
    converted, (lower, upper) = convert(stack, driver, KPath("/new"), survey)
    assert isinstance(lower, Convert)
    assert isinstance(upper, Convert)
    assert (lower.to, lower.shared, upper.to) == ("unionfs", True, "unionfs")
    assert converted.lowers == (f"{CACHE}/d16e57.unionfs",)
    assert converted.dialect == "unionfs"
    same, (upper,) = convert(stack, driver, KPath("/new"), Survey(dialect="unionfs-1.0"))
    assert isinstance(upper, Convert)
    assert (same.lowers, upper.to) == (("/lo",), "unionfs-1.0")


def test_a_writable_branch_below_a_readonly_one() -> None:
    """No stack has one there."""
    assert unionfs("/a=RO:/b=RW") is None


def test_a_server_that_nobody_found() -> None:
    """Nothing tells the layers."""
    assert recognise(mount("fuse.unionfs"), NOWHERE) is None
    assert recognise(mount("fuse.fuse-overlayfs"), NOWHERE) is None
    assert recognise(mount("fuse.sshfs", "sshfs", "a:b", "/mnt"), NOWHERE) is None


def test_options_of_unionfs_are_kept() -> None:
    """But for those that are given anyway, or that belong to the mount."""
    stack = unionfs(
        "-o", "cow,max_files=1000,allow_other,fsname=x", "-o", "hide_meta_files", "/up=RW:/lo"
    )
    assert stack is not None
    assert stack.options == ("max_files=1000", "hide_meta_files")


@pytest.mark.parametrize("readonly", [False, True])
def test_a_unionfs_is_assembled_as_it_was(readonly: bool) -> None:
    """The command line gives the same stack again; whiteouts count, so there is always cow."""
    stack = Stack(
        driver="unionfs",
        upper=None if readonly else KPath("/up"),
        lowers=(KPath(r"/a\040b,c"), KPath("/lo")),
        options=("max_files=10",),
    )
    (step,) = get_driver("unionfs").assemble(stack, KPath("/at"))
    assert isinstance(step, FuseUnion)
    assert "cow" in step.arguments[2].split(",")
    words = (KPath("unionfs"), *step.arguments, KPath("/mnt"))
    again = recognise(msgspec.structs.replace(mount("fuse.unionfs"), server=words), NOWHERE)
    assert again is not None
    assert (again.upper, again.lowers, again.options) == (stack.upper, stack.lowers, stack.options)


@pytest.mark.parametrize("bad", ["/a:b", "/a=b"])
def test_a_path_that_unionfs_does_not_take(bad: str) -> None:
    """It is named before anything is done."""
    stack = Stack(driver="unionfs", upper=KPath("/up"), lowers=(KPath(bad),))
    with pytest.raises(CapabilityError, match=bad):
        get_driver("unionfs").assemble(stack, KPath("/at"))


def test_layers_of_fuse_overlayfs() -> None:
    """Options in libfuse's escapes, relative paths from where the server was started."""
    found = mount(
        "fuse.fuse-overlayfs",
        "/usr/bin/fuse-overlayfs",
        "-o",
        r"lowerdir=l/AA:/b\,c,upperdir=up,workdir=wk,noacl,lazytime",
        "/merged",
        cwd="/storage",
    )
    stack = recognise(found, NOWHERE)
    assert layers(stack) == ("/storage/up", ("/storage/l/AA", "/b,c"))
    assert stack is not None
    assert (stack.driver, stack.work, stack.options) == (
        "fuse-overlayfs",
        "/storage/wk",
        ("noacl",),
    )


def test_a_lower_that_fuse_overlayfs_does_not_take() -> None:
    """It has no escape for a colon."""
    stack = Stack(driver="fuse-overlayfs", lowers=(KPath("/a:b"),))
    with pytest.raises(CapabilityError, match="/a:b"):
        get_driver("fuse-overlayfs").assemble(stack, KPath("/at"))


def test_a_new_upper_of_fuse_overlayfs_has_a_work_directory() -> None:
    """Beside it; options of another driver are not for this one."""
    origin = Stack(driver="overlay", lowers=(KPath("/l"),), options=("index=on",))
    driver = get_driver("fuse-overlayfs")
    stack = driver.stack((KPath("/l"),), KPath("/new/"), origin=origin, together=True)
    assert (stack.upper, stack.work, stack.options) == ("/new/", "/new.work", ())


@pytest.mark.parametrize(
    ("origin", "together", "options"),
    [
        ("overlay", True, ("hide_meta_files", "use_ino")),
        ("overlay", False, ("hide_meta_files",)),
        ("unionfs", True, ()),
    ],
)
def test_options_of_a_new_unionfs(origin: str, together: bool, options: tuple[str, ...]) -> None:
    """
    A root that was no unionfs has no marks to show; one that was shows what it showed.

    Numbers of inodes tell hard links where they are those of one file system.
    """
    stack = Stack(driver=origin)
    found = get_driver("unionfs").stack((), KPath("/up"), origin=stack, together=together)
    assert found.options == options


def test_branches_of_the_unionfs_of_old_kernels() -> None:
    """Mountinfo tells; it is read in its own dialect."""
    found = mount("unionfs", options=r"rw,dirs=/a\040b=rw:/lo=ro:/base=ro,debug=0")
    stack = recognise(found, NOWHERE)
    assert layers(stack) == (r"/a\040b", ("/lo", "/base"))
    assert stack is not None
    assert (stack.driver, stack.options) == ("unionfs-classic", ("debug=0",))
    dialects = {each.dialect for each in get_driver("unionfs-classic").layers(stack)}
    assert dialects == {"unionfs-classic"}


def test_the_unionfs_of_old_kernels_is_never_mounted() -> None:
    """The hint says what to do."""
    with pytest.raises(CapabilityError, match="cannot be mounted") as caught:
        get_driver("unionfs-classic").assemble(Stack(driver="unionfs-classic"), KPath("/at"))
    assert "--driver overlay" in str(caught.value.hint)
