# SPDX-License-Identifier: Apache-2.0
"""An overlay is mounted with the very layers that were asked for, or refused with a reason."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from mountcr.errors import CapabilityError, StepError
from mountcr.kernel import overlay, syscalls
from mountcr.kernel.overlay import module_parameters, mount_overlay
from mountcr.kernel.volatile import marker_identity, remove_marker
from mountcr.overlayopts import OverlayOptions, format_options, parse_options, unmet_options
from mountcr.paths import KPath, decode, encode, join
from scratch import HOSTILE, LADDER, NEW_CALLS, directories, lack, mounted, needs, tmpfs

pytestmark = pytest.mark.requires("overlay")

MOUNT_API = ("fsopen", "fsconfig", "fsmount", "move_mount")


def stack(base: KPath, name: bytes = b"x", *, lowers: int = 2) -> tuple[KPath, OverlayOptions]:
    """Make a mountpoint and layers below a directory called `name`; each layer holds a file."""
    top = [name + b"/l%d" % number for number in range(lowers)]
    layers = directories(base, *top)
    upper, work, at = directories(base, name + b"/up", name + b"/wk", name + b"/at")
    for number, layer in enumerate((*layers, upper)):
        with open(decode(layer) + b"/f%d" % number, "wb") as file:
            file.write(b"%d" % number)
    return at, OverlayOptions(lowers=tuple(layers), upper=upper, work=work)


def shown(at: KPath) -> OverlayOptions:
    """What the kernel shows of the overlay on top at a path."""
    return parse_options(mounted(at)[-1].super_options)


def layers_of(options: OverlayOptions) -> tuple[object, ...]:
    """The layers without the other options."""
    return (options.lowers, options.data, options.upper, options.work)


def files(at: KPath) -> list[str]:
    """What is to be seen in a directory."""
    return sorted(os.listdir(os.fsdecode(decode(at))))


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_names_of_layers(name: bytes, lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Any name of a layer, upper or work is mounted and read back, the new way and the old."""
    at, options = stack(tmpfs(tmp_path), name)
    lack(*lacking)
    mount_overlay(at, options)
    assert layers_of(shown(at)) == layers_of(options)
    assert files(at) == ["f0", "f1", "f2"]


def by_data(at: KPath, options: OverlayOptions) -> None:
    """Mount with mount(2) as other programs do."""
    syscalls.mount(b"overlay", decode(at), b"overlay", 0, format_options(options))


def by_fsconfig(at: KPath, options: OverlayOptions, *, by_fd: bool) -> None:
    """Mount with fsconfig(2) as other programs do, layers one by one."""
    assert options.upper
    assert options.work
    layers = [(b"lowerdir+", layer) for layer in options.lowers]
    layers += [(b"upperdir", options.upper), (b"workdir", options.work)]
    context = syscalls.fsopen(b"overlay")
    try:
        for key, layer in layers:
            set_layer(context, key, decode(layer), by_fd=by_fd)
        syscalls.fsconfig_create(context)
        fd = syscalls.fsmount(context)
    finally:
        os.close(context)
    flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
    syscalls.move_mount(fd, b"", syscalls.AT_FDCWD, decode(at), flags)
    os.close(fd)


def set_layer(context: int, key: bytes, layer: bytes, *, by_fd: bool) -> None:
    """Give one layer, as a descriptor or by its name."""
    if by_fd:
        fd = os.open(layer, os.O_PATH)
        try:
            syscalls.fsconfig_fd(context, key, fd)
        finally:
            os.close(fd)
    else:
        # overlay unescapes these two
        escaped = layer if key == b"lowerdir+" else layer.replace(b"\\", b"\\\\")
        syscalls.fsconfig_string(context, key, escaped)


def needs_single_layers(base: KPath, *, by_fd: bool = False) -> None:
    """Skip where layers cannot be given one by one, tried with some that have plain names."""
    needs(*MOUNT_API)
    at, options = stack(base, b"tried")
    try:
        by_fsconfig(at, options, by_fd=by_fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF}:
            raise
        way = "descriptor" if by_fd else "name"
        pytest.skip(f"overlay of this kernel takes no layers one by one by {way}")
    syscalls.umount2(decode(at))


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("way", ["mount", "fsconfig by name", "fsconfig by descriptor"])
def test_what_others_mounted_is_understood(way: str, name: bytes, tmp_path: Path) -> None:
    """Whichever call an engine uses, its layers are read from the mount table."""
    base = tmpfs(tmp_path)
    at, options = stack(base, name)
    if way == "mount":
        by_data(at, options)
    else:
        needs_single_layers(base, by_fd=way.endswith("descriptor"))
        by_fsconfig(at, options, by_fd=way.endswith("descriptor"))
    assert layers_of(shown(at)) == layers_of(options)


def needs_options(at: KPath, options: OverlayOptions, others: tuple[str, ...]) -> None:
    """Skip where an overlay cannot be mounted with one of these options, tried as others do."""
    for option in others:
        lowers_only = msgspec.structs.replace(options, upper=None, work=None, others=(option,))
        try:
            by_data(at, lowers_only)
        except OSError:
            pytest.skip(f"overlay of this kernel does not know {option}")
        syscalls.umount2(decode(at))


@pytest.mark.parametrize("count", [3, 60, 500])
def test_many_layers(count: int, tmp_path: Path) -> None:
    """All of them are mounted, in their order."""
    base = tmpfs(tmp_path)
    needs_single_layers(base)
    at, options = stack(base, b"layers", lowers=count)
    mount_overlay(at, options)
    assert layers_of(shown(at)) == layers_of(options)
    assert len(files(at)) == count + 1


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_one_layer_too_many(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """The kernel takes 500; of more the error says how many, and what to do."""
    at, options = stack(tmpfs(tmp_path), b"layers", lowers=501)
    lack(*lacking)
    with pytest.raises(CapabilityError, match="501 layers") as caught:
        mount_overlay(at, options)
    assert caught.value.hint
    assert caught.value.probe
    assert mounted(at) == []


def far_apart(base: KPath, name: bytes = b"y" * 200, *, lowers: int = 30) -> list[KPath]:
    """Make layers whose names are long, also from the directory that they have in common."""
    return directories(base, *(b"d/%d%s" % (number, name) for number in range(lowers)))


def test_layers_that_do_not_fit_into_mount(tmp_path: Path) -> None:
    """Without the new calls, what mount(2) would cut is refused and not cut, with each reason."""
    base = tmpfs(tmp_path)
    at, options = stack(base)
    upper, work = directories(base, *(b"/".join([each * 200] * 10) for each in (b"u", b"w")))
    layers = tuple(far_apart(base))
    options = msgspec.structs.replace(options, lowers=layers, upper=upper, work=work)
    lack(*NEW_CALLS)
    reasons = r"30 layers make \d+ bytes.*takes 4095; relative to .*/d they make \d+ bytes; as desc"
    with pytest.raises(CapabilityError, match=reasons):
        mount_overlay(at, options)
    assert mounted(at) == []


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_names_from_a_common_directory(name: bytes, tmp_path: Path) -> None:
    """Without the new calls, layers that are too long for mount(2) are given by short names."""
    at, options = stack(tmpfs(tmp_path), b"/".join([b"y" * 200, name]), lowers=30)
    lack(*NEW_CALLS)
    here = os.getcwd()
    mount_overlay(at, options)
    assert [os.path.basename(layer) for layer in shown(at).lowers[:2]] == ["l0", "l1"]
    assert not shown(at).lowers[0].startswith("/")
    assert shown(at).upper == options.upper
    assert len(files(at)) == 31
    assert os.getcwd() == here


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_names_by_number(name: bytes, tmp_path: Path) -> None:
    """Where short names are too long as well, layers are numbers in /proc/self/fd."""
    base = tmpfs(tmp_path)
    at, options = stack(base)
    layers = far_apart(base, name + b"y" * 180)
    for number, layer in enumerate(layers):
        os.mkdir(decode(layer) + b"/in%02d" % number)
    options = msgspec.structs.replace(options, lowers=tuple(layers))
    lack(*NEW_CALLS)
    here, before = os.getcwd(), set(os.listdir("/proc/self/fd"))
    mount_overlay(at, options)
    assert all(layer.isdigit() for layer in shown(at).lowers)
    assert len(shown(at).lowers) == len(layers)
    assert [each for each in files(at) if each.startswith("in")] == [
        f"in{number:02}" for number in range(30)
    ]
    assert os.getcwd() == here
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("count", [300, 500])
def test_many_layers_on_an_old_kernel(count: int, tmp_path: Path) -> None:
    """500 layers need no new call, as long as their names are short from somewhere."""
    at, options = stack(tmpfs(tmp_path), b"y" * 100, lowers=count)
    lack(*NEW_CALLS)
    mount_overlay(at, options)
    assert len(shown(at).lowers) == count
    assert len(files(at)) == count + 1


def test_data_only_layers_from_a_common_directory(tmp_path: Path) -> None:
    """They are given by short names too, and stay data-only."""
    at, options = stack(tmpfs(tmp_path), b"y" * 200, lowers=30)
    options = OverlayOptions(
        lowers=options.lowers[:28],
        data=options.lowers[28:],
        others=("redirect_dir=on", "metacopy=on"),
    )
    lack(*NEW_CALLS)
    try:
        mount_overlay(at, options)
    except OSError:
        pytest.skip("this kernel has no data-only layers")
    assert (len(shown(at).lowers), len(shown(at).data)) == (28, 2)
    assert len(files(at)) == 28


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
@pytest.mark.parametrize(
    "others",
    [
        ("index=off", "metacopy=off", "nfs_export=off", "xino=off", "redirect_dir=nofollow"),
        ("index=on", "metacopy=off", "nfs_export=on", "xino=auto", "redirect_dir=on"),
        ("metacopy=on", "redirect_dir=on", "index=off", "nfs_export=off"),
        ("userxattr", "redirect_dir=nofollow", "metacopy=off", "index=off", "nfs_export=off"),
        ("volatile", "uuid=null"),
        ("uuid=auto", "xino=on", "redirect_dir=off"),
        ("redirect_dir=follow",),
    ],
    ids=",".join,
)
def test_options_that_go_together(
    others: tuple[str, ...], lacking: tuple[str, ...], tmp_path: Path
) -> None:
    """What the kernel takes together is mounted and found to be in force, shown or by default."""
    at, options = stack(tmpfs(tmp_path))
    needs_options(at, options, others)
    lack(*lacking)
    mount_overlay(at, msgspec.structs.replace(options, others=others))
    unmet = unmet_options(others, shown(at).others, module_parameters(), writable=True)
    assert unmet == []


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
@pytest.mark.parametrize(
    "others",
    [
        ("nfs_export=on", "index=off"),
        ("nfs_export=on", "index=on", "metacopy=on", "redirect_dir=on"),
        ("metacopy=on", "redirect_dir=nofollow"),
        ("userxattr", "metacopy=on"),
        ("userxattr", "redirect_dir=on"),
    ],
    ids=",".join,
)
def test_options_that_conflict(
    others: tuple[str, ...], lacking: tuple[str, ...], tmp_path: Path
) -> None:
    """What the kernel refuses together is an error, and nothing stays mounted."""
    at, options = stack(tmpfs(tmp_path))
    needs_options(at, options, others)
    lack(*lacking)
    with pytest.raises(OSError, match=r".") as caught:
        mount_overlay(at, msgspec.structs.replace(options, others=others))
    assert caught.value.errno == errno.EINVAL
    assert mounted(at) == []


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_an_option_that_the_kernel_gave_up(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """An index needs file handles; where a layer has none the kernel goes on without, we do not."""
    base = tmpfs(tmp_path)
    at, options = stack(base)
    (middle,) = directories(base, "ramfs")
    syscalls.mount(b"ramfs", decode(middle), b"ramfs", 0)
    (lower,) = directories(middle, "layer")
    options = msgspec.structs.replace(options, lowers=(lower,), others=("index=on",))
    by_data(at, options)
    given_up = "index=on" not in shown(at).others
    syscalls.umount2(decode(at))
    if not given_up:
        pytest.skip("ramfs has file handles here")
    lack(*lacking)
    with pytest.raises(StepError, match=r"other options than asked.*not index=on"):
        mount_overlay(at, options)
    assert mounted(at) == []


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_the_marker_of_a_volatile_mount_is_named(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """The kernel says no more than EINVAL to an upper that was mounted volatile."""
    at, options = stack(tmpfs(tmp_path))
    options = msgspec.structs.replace(options, others=("volatile",))
    mount_overlay(at, options)
    syscalls.umount2(decode(at))
    lack(*lacking)
    with pytest.raises(StepError, match=r"mounted volatile.*/work/incompat/volatile is there"):
        mount_overlay(at, options)
    assert mounted(at) == []
    assert options.work
    marker = join(options.work, "work/incompat/volatile")
    with pytest.raises(StepError, match="not of the mount that was dumped"):
        remove_marker(marker, "1:1")
    assert remove_marker(marker, marker_identity(marker))
    assert not remove_marker(marker, "")
    mount_overlay(at, options)


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
@pytest.mark.parametrize("copied", ["the topmost lower layer", "the upper"])
def test_an_index_of_other_layers_is_named(
    copied: str, lacking: tuple[str, ...], tmp_path: Path
) -> None:
    """The kernel says no more than ESTALE to an upper with an index whose layers are copies."""
    at, options = stack(tmpfs(tmp_path))
    options = msgspec.structs.replace(options, others=("index=on",))
    mount_overlay(at, options)
    syscalls.umount2(decode(at))
    assert options.upper
    layer = Path(os.fsdecode(decode(options.upper if "upper" in copied else options.lowers[0])))
    layer.rename(layer.with_name("was"))
    subprocess.run(["cp", "-a", layer.with_name("was"), layer], check=True)
    lack(*lacking)
    with pytest.raises(StepError, match=r"upper .*/up has an index.* was copied") as caught:
        mount_overlay(at, options)
    assert caught.value.errno == errno.ESTALE
    assert caught.value.hint
    assert mounted(at) == []


def test_the_mount_is_found_by_its_id(tmp_path: Path) -> None:
    """What is mounted over the place, before or after, is not taken for what was made."""
    base = tmpfs(tmp_path)
    at, options = stack(base, b"x")
    _, other = stack(base, b"y")
    mount_overlay(at, other)
    mount_overlay(at, options)
    assert len(mounted(at)) == 2
    assert layers_of(shown(at)) == layers_of(options)


def test_long_paths(tmp_path: Path) -> None:
    """A layer whose path is longer than one string of fsconfig(2) is mounted all the same."""
    at, options = stack(tmpfs(tmp_path), b"/".join([b"z" * 100] * 5))
    assert all(len(layer) > 500 for layer in options.lowers)
    mount_overlay(at, options)
    assert layers_of(shown(at)) == layers_of(options)


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_without_an_upper(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """A stack of lower layers only is read-only."""
    at, options = stack(tmpfs(tmp_path))
    options = msgspec.structs.replace(options, upper=None, work=None)
    lack(*lacking)
    mount_overlay(at, options)
    assert layers_of(shown(at)) == layers_of(options)
    with pytest.raises(OSError, match="Read-only"):
        os.mkdir(decode(at) + b"/new")


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_options_of_overlay(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Options that are no layers are passed on, flags as well as values."""
    at, options = stack(tmpfs(tmp_path))
    options = msgspec.structs.replace(options, others=("index=on", "default_permissions"))
    lack(*lacking)
    mount_overlay(at, options)
    assert {"index=on", "default_permissions"} <= set(shown(at).others)


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_data_only_layers(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """They are mounted as such, and their files are not to be seen."""
    at, options = stack(tmpfs(tmp_path), lowers=4)
    options = OverlayOptions(
        lowers=options.lowers[:2],
        data=options.lowers[2:],
        others=("redirect_dir=on", "metacopy=on"),
    )
    try:
        by_data(at, options)
    except OSError:
        pytest.skip("this kernel has no data-only layers")
    syscalls.umount2(decode(at))
    lack(*lacking)
    mount_overlay(at, options)
    assert layers_of(shown(at)) == layers_of(options)
    assert files(at) == ["f0", "f1"]


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_a_missing_layer_is_named(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """With its place in the stack; the kernel would say no more than ENOENT."""
    at, options = stack(tmpfs(tmp_path))
    gone = join(options.lowers[1], "gone")
    options = msgspec.structs.replace(options, lowers=(*options.lowers, gone))
    lack(*lacking)
    with pytest.raises(StepError, match=r"lower layer 3 of 3 is gone: .*/gone") as caught:
        mount_overlay(at, options)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.hint
    assert mounted(at) == []


@pytest.mark.parametrize("field", ["upper", "work"])
def test_a_missing_upper_or_work_is_named(field: str, tmp_path: Path) -> None:
    """By which of them it is."""
    at, options = stack(tmpfs(tmp_path))
    options = msgspec.structs.replace(options, **{field: KPath("/no/such/place")})
    with pytest.raises(StepError, match=f"the {field} directory is gone: /no/such/place"):
        mount_overlay(at, options)


def test_a_file_is_no_layer(tmp_path: Path) -> None:
    """A layer that became a file is as good as gone."""
    at, options = stack(tmpfs(tmp_path))
    options = msgspec.structs.replace(options, lowers=(join(options.lowers[0], "f0"),))
    with pytest.raises(StepError, match="lower layer 1 of 1"):
        mount_overlay(at, options)


@pytest.mark.parametrize("lacking", LADDER.values(), ids=LADDER)
def test_an_option_that_the_kernel_does_not_know(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """It is named, though older kernels say EINVAL only, and nothing stays mounted or open."""
    at, options = stack(tmpfs(tmp_path))
    others = ("xino=off", "no_such_option=1", "default_permissions", "uuid=no_such_value")
    options = msgspec.structs.replace(options, others=others)
    lack(*lacking)
    before = set(os.listdir("/proc/self/fd"))
    unknown = "does not know no_such_option=1, uuid=no_such_value$"
    with pytest.raises(CapabilityError, match=unknown) as caught:
        mount_overlay(at, options)
    assert caught.value.hint
    assert caught.value.probe == "overlay no_such_option=1"
    assert mounted(at) == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_the_kernel_made_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it shows other layers than were asked for, the mount is taken away again."""
    at, options = stack(tmpfs(tmp_path))

    def forgetful(text: str) -> OverlayOptions:
        found = parse_options(text)
        return msgspec.structs.replace(found, lowers=found.lowers[:-1])

    monkeypatch.setattr(overlay, "parse_options", forgetful)
    with pytest.raises(StepError, match="other lower layers than asked"):
        mount_overlay(at, options)
    assert mounted(at) == []


def test_layers_behind_links_are_the_same_layers(tmp_path: Path) -> None:
    """Engines shorten paths by links; the kernel shows where they lead, which is no difference."""
    base = tmpfs(tmp_path)
    at, options = stack(base)
    short = decode(base) + b"/s"
    os.symlink(decode(options.lowers[0]), short)
    options = msgspec.structs.replace(options, lowers=(encode(short), options.lowers[1]))
    mount_overlay(at, options)
    assert files(at) == ["f0", "f1", "f2"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    """A mount costs no descriptor."""
    at, options = stack(tmpfs(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    mount_overlay(at, options)
    assert set(os.listdir("/proc/self/fd")) == before
