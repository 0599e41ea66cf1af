# SPDX-License-Identifier: Apache-2.0
"""Marks of every dialect of layers mean what the file systems that write them mean."""

from __future__ import annotations

import msgspec
import pytest

from mountcr.errors import RefusedError
from mountcr.model import InodeType
from mountcr.paths import KPath
from mountcr.rootfs.changes import changes
from mountcr.rootfs.dialect import Dialect, Entry, Marked, get_dialect
from mountcr.rootfs.dialects.aufs import Aufs
from mountcr.rootfs.dialects.vfs import Vfs
from mountcr.rootfs.foreign import foreign_path
from mountcr.rootfs.inode import Inode
from mountcr.rootfs.view import View
from trees_in_memory import DEVICE, MemoryTree, directory, everything_in, file

OVERLAY = get_dialect("overlay")
USER = get_dialect("overlay-user")
AUFS = get_dialect("aufs")
UNIONFS = get_dialect("unionfs")
OLD_UNIONFS = get_dialect("unionfs-1.0")
CLASSIC = get_dialect("unionfs-classic")
FUSE = get_dialect("fuse-overlayfs")

BELOW = MemoryTree({b"d/one": (file(), b"1"), b"d/two": (file(), b"2"), b"f": (file(), b"low")})

FIFO = Inode(type=InodeType.FIFO, mode=0o600)


def view(dialect: Dialect, upper: MemoryTree, *lowers: MemoryTree) -> View:
    """Layers of a dialect, the last of them plain."""
    return View([dialect.layer(each) for each in (upper, *lowers)])


def names(dialect: Dialect, upper: MemoryTree, *lowers: MemoryTree) -> list[bytes]:
    """All paths that layers show."""
    return sorted(everything_in(view(dialect, upper, *lowers)))


def text(shown: View, path: bytes) -> bytes:
    """The content of a file in a view."""
    return everything_in(shown)[path][1]


def marked(dialect: Dialect, inode: Inode) -> Marked:
    """What an inode in a layer means."""
    found = dialect.layer(MemoryTree({b"x": inode})).inode(b"x")
    assert found is not None
    return found


def with_xattrs(inode: Inode, *found: str) -> Inode:
    """Give an inode attributes by whole names, all of the value `y`."""
    return msgspec.structs.replace(inode, xattrs={KPath(name): b"y" for name in found})


# --- overlay --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialect", "prefix"), [(OVERLAY, "trusted"), (USER, "user")])
def test_marks_of_an_overlay(dialect: Dialect, prefix: str) -> None:
    """Each in the attributes of its own kind of mount; those of the other are the user's."""
    other = "user" if prefix == "trusted" else "trusted"
    opaque = with_xattrs(directory(), f"{prefix}.overlay.opaque")
    assert marked(dialect, opaque).opaque
    foreign = marked(dialect, with_xattrs(directory(), f"{other}.overlay.opaque"))
    assert not foreign.opaque
    assert foreign.inode.xattrs == {f"{other}.overlay.opaque": b"y"}


def test_notes_of_the_kernel_are_no_part_of_a_file() -> None:
    """Those with an escaped name are the user's (seen on Linux 6.18)."""
    own = ("origin", "impure", "uuid", "protattr", "overlayX", "overlay")
    user = (
        "trusted.overlay.overlay.opaque",
        "trusted.overlay.overlay.overlay.a",
        "trusted.overlay",
    )
    inode = with_xattrs(file(), *(f"trusted.overlay.{name}" for name in own), *user)
    found = marked(OVERLAY, inode)
    wanted = {"trusted.overlay.opaque", "trusted.overlay.overlay.a", "trusted.overlay"}
    assert found.inode.xattrs.keys() == wanted
    assert not found.opaque


def test_whiteouts_of_an_overlay() -> None:
    """A device 0:0 of any mode, and no other."""
    null = msgspec.structs.replace(DEVICE, rdev="1:3")
    upper = MemoryTree({b"d/one": DEVICE, b"f": msgspec.structs.replace(DEVICE, mode=0o644)})
    upper.store(b"d/null", null)
    assert names(OVERLAY, upper, BELOW) == [b"", b"d", b"d/null", b"d/two"]


def test_whiteouts_that_are_files() -> None:
    """An empty file is one by an attribute; it is listed if its directory does not tell of it."""
    whiteout = with_xattrs(file(), "trusted.overlay.whiteout")
    told = MemoryTree({b"d": directory(trusted__overlay__opaque=b"x"), b"d/one": whiteout})
    told.store(b"d/two", whiteout, b"not empty")
    assert names(OVERLAY, told, BELOW) == [b"", b"d", b"d/two", b"f"]
    silent = MemoryTree({b"d/one": whiteout})
    assert view(OVERLAY, silent, BELOW).inode(b"d/one") is None
    for upper in (told, silent):
        entries = changes(OVERLAY.layer(upper), view(OVERLAY, BELOW))
        assert Entry(b"d/one", None) in list(entries)


@pytest.mark.parametrize("redirect", [b"/d", b"d"])
def test_redirects(redirect: bytes) -> None:
    """What a renamed directory shows is below at its old path, and comes with it."""
    upper = MemoryTree({b"d": DEVICE, b"new": directory(trusted__overlay__redirect=redirect)})
    upper.store(b"new/three", file(), b"3")
    assert names(OVERLAY, upper, BELOW)[1:4] == [b"f", b"new", b"new/one"]
    plain = BELOW.copy()
    plain.change(changes(OVERLAY.layer(upper), view(OVERLAY, BELOW)))
    assert everything_in(plain) == everything_in(view(OVERLAY, upper, BELOW))


@pytest.mark.parametrize("redirect", [b"", b"a/b", b"/", b"//a", b"/a/", b"..", b"/a/../b", b"."])
def test_redirects_that_are_no_path(redirect: bytes) -> None:
    """They are refused, by the path that has them, as overlayfs does."""
    with pytest.raises(RefusedError, match="/x "):
        marked(OVERLAY, directory(trusted__overlay__redirect=redirect))


def test_metadata_only() -> None:
    """The content is below, also at another path, also in a layer for data only."""
    renamed = {"trusted__overlay__metacopy": b"", "trusted__overlay__redirect": b"/f"}
    upper = MemoryTree({b"f": file(0o600, trusted__overlay__metacopy=b"")})
    upper.store(b"g", file(0o600, **renamed), b"\0\0\0")
    shown = view(OVERLAY, upper, BELOW)
    assert text(shown, b"f") == text(shown, b"g") == b"low"
    assert shown.inode(b"g") == msgspec.structs.replace(
        shown.inode(b"g") or FIFO, mode=0o600, xattrs={}
    )
    data = View([OVERLAY.layer(upper)], [BELOW])
    assert data.source(b"g") == (BELOW, b"f")
    with pytest.raises(RefusedError, match="/g"):
        View([OVERLAY.layer(upper)]).source(b"g")


def test_an_indexed_file_stands_for_its_hard_links() -> None:
    """The other names below are links of it, in the view and in the normal form."""
    lower = MemoryTree({b"a": (file(), b"old")})
    lower.link(b"b", b"a")
    lower.link(b"c/d", b"a")
    upper = MemoryTree({b"b": (file(trusted__overlay__nlink=b"U+2"), b"new")})
    upper.store(b"", directory(trusted__overlay__origin=b""))
    shown = view(OVERLAY, upper, lower)
    assert [text(shown, path) for path in (b"a", b"b", b"c/d")] == [b"new"] * 3
    links = [each for each in changes(OVERLAY.layer(upper), view(OVERLAY, lower)) if each.link]
    assert [(each.path, each.link) for each in links] == [(b"a", b"b"), (b"c/d", b"b")]


def test_a_file_that_moved_with_its_directory_keeps_its_other_names() -> None:
    """Those that stay below are hard links of it in the layer that moved the directory."""
    below = MemoryTree({b"d/one": (file(), b"1"), b"d/two": (file(), b"2")})
    below.link(b"else/where", b"d/one")
    moved = msgspec.structs.replace(directory(), xattrs={KPath("trusted.overlay.redirect"): b"/d"})
    upper = MemoryTree({b"d": DEVICE, b"e": moved})
    shown = view(OVERLAY, upper, below)
    found = {each.path: each for each in changes(shown.layers[0], shown.below())}
    assert found[b"else/where"].link == b"e/one"
    assert found[b"e/two"].link is None
    assert list(found) == [b"", b"d", b"e", b"e/one", b"e/two", b"else", b"else/where"]


@pytest.mark.parametrize(
    ("dialect", "inode"),
    [
        (OVERLAY, DEVICE),
        (USER, DEVICE),
        (FUSE, DEVICE),
        (OVERLAY, with_xattrs(file(), f"trusted.overlay.{'x' * 233}")),
        (USER, with_xattrs(FIFO, "user.overlay.x")),
        (FUSE, with_xattrs(file(), "user.fuseoverlayfs.x")),
        (FUSE, with_xattrs(file(), "user.containers.override_stat")),
    ],
)
def test_what_an_overlay_cannot_say(dialect: Dialect, inode: Inode) -> None:
    """It is refused by name."""
    with pytest.raises(RefusedError, match="/some/path "):
        tuple(dialect.encode(Entry(b"some/path", inode)))


# --- names that begin with .wh. -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "opaque"),
    [(AUFS, b".wh..wh..opq"), (CLASSIC, b".wh.__dir_opaque"), (FUSE, b".wh..wh..opq")],
)
def test_whiteouts_by_name(dialect: Dialect, opaque: bytes) -> None:
    """They hide a name in their own layer as well; an opaque directory hides what is below."""
    upper = MemoryTree({b".wh.f": file(), b"f": file(), b"d/.wh.one": file()})
    assert names(dialect, upper, BELOW) == [b"", b"d", b"d/two"]
    upper = MemoryTree({b"d/" + opaque: file(), b"d/new": file()})
    assert names(dialect, upper, BELOW) == [b"", b"d", b"d/new", b"f"]


@pytest.mark.parametrize("dialect", [AUFS, CLASSIC, FUSE])
@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh..."])
def test_whiteouts_of_nothing(dialect: Dialect, name: bytes) -> None:
    """They are refused, by the path that has them."""
    with pytest.raises(RefusedError, match=r"/d/\.wh\."):
        names(dialect, MemoryTree({b"d/" + name: file()}))


@pytest.mark.parametrize("dialect", [AUFS, CLASSIC, FUSE])
def test_names_that_would_be_whiteouts(dialect: Dialect) -> None:
    """They are refused by name, as what has no whiteout is."""
    with pytest.raises(RefusedError, match=r"/d/\.wh\.x "):
        tuple(dialect.encode(Entry(b"d/.wh.x", file())))


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        (AUFS, b"x" * 252),
        (AUFS, b".dr.x"),
        (CLASSIC, b"__dir_opaque"),
        (UNIONFS, b"x" * 248),
    ],
)
def test_names_that_have_no_whiteout(dialect: Dialect, name: bytes) -> None:
    """They cannot be removed, and are refused by name."""
    with pytest.raises(RefusedError, match="/d/"):
        tuple(dialect.encode(Entry(b"d/" + name, None)))


# --- AUFS -----------------------------------------------------------------------------------------


def test_files_of_aufs_are_not_shown() -> None:
    """In the root of a branch, and what dirren and a removal that was cut short leave."""
    own = [b".wh..wh.aufs", b".wh..wh.plnk/1.2", b".wh..wh.orph/x", b".wh..wh.hino", b".aufs.xino"]
    upper = MemoryTree(
        dict.fromkeys([*own, b"d/.wh..wh.x.1f", b"d/.wh..dr.y", b"e/.aufs.xino"], FIFO)
    )
    assert names(AUFS, upper) == [b"", b"d", b"e", b"e/.aufs.xino"]


def test_whiteouts_of_a_branch_without_wh() -> None:
    """They hide nothing, and still are not shown."""
    upper = MemoryTree({b".wh.f": file(), b"d/.wh..wh..opq": file(), b"d/three": file()})
    found = names(Aufs(whiteouts=False), upper, BELOW)
    assert found == [b"", b"d", b"d/one", b"d/three", b"d/two", b"f"]


def test_pseudo_links() -> None:
    """A changed file with a pseudo-link stands for the other names of the file below."""
    lower = MemoryTree({b"a": (file(), b"old")})
    lower.link(b"b", b"a")
    upper = MemoryTree({b"b": (file(), b"new")})
    upper.link(b".wh..wh.plnk/12.34", b"b")
    assert text(view(AUFS, upper, lower), b"a") == b"new"
    alone = MemoryTree({b"b": (file(), b"new")})
    assert text(view(AUFS, alone, lower), b"a") == b"old"


def test_a_new_branch_of_aufs() -> None:
    """It has what AUFS makes there, and every whiteout is a hard link of one file."""
    entries = [Entry(b"", directory()), Entry(b"f", None), Entry(b"d", directory(), opaque=True)]
    tree = MemoryTree().write(AUFS, entries)
    assert tree.paths[1:4] == [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"]
    base, whiteout, opaque = (
        tree.inode(path) for path in (b".wh..wh.aufs", b".wh.f", b"d/.wh..wh..opq")
    )
    assert base is not None
    assert base == whiteout == opaque
    assert (base.mode, base.nlink) == (0o444, 3)


@pytest.mark.parametrize("dialect", [AUFS, UNIONFS])
def test_a_directory_below_what_is_none(dialect: Dialect) -> None:
    """Directories merge past what lies between; for a dialect that does not, that is resolved."""
    upper = MemoryTree({b"d/top": file()})
    between = MemoryTree({b"d": file()})
    assert names(dialect, upper, between, BELOW) == [b"", b"d", b"d/one", b"d/top", b"d/two", b"f"]
    assert names(OVERLAY, upper, between, BELOW) == [b"", b"d", b"d/top", b"f"]
    entries = list(changes(dialect.layer(upper), view(dialect, between, BELOW)))
    again = MemoryTree().write(OVERLAY, entries)
    assert names(OVERLAY, again, between, BELOW) == names(dialect, upper, between, BELOW)


# --- Roots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "root"),
    [
        (FUSE, {b"": with_xattrs(directory(), "trusted.overlay.opaque")}),
        (FUSE, {b".wh..wh..opq": FIFO}),
        (get_dialect("oci"), {b".wh..wh..opq": file()}),
    ],
)
@pytest.mark.parametrize("to", [OVERLAY, USER, AUFS, UNIONFS, CLASSIC, FUSE, get_dialect("oci")])
def test_an_opaque_root(dialect: Dialect, root: dict[bytes, Inode], to: Dialect) -> None:
    """It hides everything below; elsewhere each name is hidden, or it is refused."""
    upper = MemoryTree({**root, b"d/new": file()})
    shown = View([dialect.layer(upper), Vfs().layer(BELOW)])
    assert sorted(everything_in(shown)) == [b"", b"d", b"d/new"]
    written = MemoryTree().write(to, changes(shown.layers[0], shown.below()))
    assert sorted(everything_in(View([to.layer(written), Vfs().layer(BELOW)]))) == [
        *(b"", b"d", b"d/new")
    ]
    alone = list(changes(dialect.layer(upper), None))
    assert alone[0].opaque
    if to in {FUSE, get_dialect("oci")}:
        again = MemoryTree().write(to, alone)
        assert names(to, again, BELOW) == [b"", b"d", b"d/new"]
    else:
        with pytest.raises(RefusedError, match="root of the layer") as caught:
            MemoryTree().write(to, alone)
        assert "--lower" in str(caught.value.hint)


@pytest.mark.parametrize("dialect", [OVERLAY, AUFS, UNIONFS, CLASSIC])
def test_a_root_that_looks_opaque(dialect: Dialect) -> None:
    """Those that do not ask at the root merge it all the same."""
    marks = {
        b"": with_xattrs(directory(), "trusted.overlay.opaque"),
        b".wh..wh..opq" if dialect is AUFS else b"x": file(),
    }
    assert b"f" in names(dialect, MemoryTree(marks), BELOW)


# --- unionfs-fuse ---------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [b".unionfs", b".unionfs-fuse"])
def test_whiteouts_of_unionfs(meta: bytes) -> None:
    """Those of either version, files or directories, also where the branch has no directory."""
    upper = MemoryTree({meta + b"/d/one_HIDDEN~": file(), meta + b"/f_HIDDEN~": directory()})
    assert names(UNIONFS, upper, BELOW) == [b"", b"d", b"d/two"]
    entries = list(changes(UNIONFS.layer(upper), View([Vfs().layer(BELOW)])))
    assert [(each.path, each.inode is None) for each in entries] == [
        (b"", False),
        (b"d", False),
        (b"d/one", True),
        (b"f", True),
    ]
    alone = list(changes(UNIONFS.layer(upper), None))
    assert [each.path for each in alone] == [b"", b"d/one", b"f"]


@pytest.mark.parametrize(
    "mark", [b".unionfs/d/one_HIDDEN~", b".unionfs/d_HIDDEN~"], ids=["inside", "whole"]
)
def test_whiteouts_beside_what_is_passed_over(mark: bytes) -> None:
    """A file that a directory above hides has marks for what lies in the directories below it."""
    middle = MemoryTree({b"d": (file(), b"none"), mark: file()})
    top = MemoryTree({b"d": directory()})
    assert b"d/one" not in names(UNIONFS, top, middle, BELOW)
    assert (b"d/two" in names(UNIONFS, top, middle, BELOW)) == (b"one" in mark)
    assert foreign_path(UNIONFS.layer(middle), OVERLAY) is not None


def test_a_whiteout_beside_what_is_passed_over_by_aufs() -> None:
    """It hides what is in its own branch and below."""
    middle = MemoryTree({b"d": (file(), b"none"), b".wh.d": file()})
    assert names(AUFS, MemoryTree({b"d": directory()}), middle, BELOW) == [b"", b"d", b"f"]


def symlink(target: str) -> Inode:
    """A symbolic link."""
    return Inode(type=InodeType.SYMLINK, mode=0o777, target=KPath(target))


@pytest.mark.parametrize("target", ["d", "./d/", "x/../d", "/d", "../d", "again"])
def test_a_directory_over_a_link_to_one(target: str) -> None:
    """unionfs-fuse shows what is there, out of the layers too; it is refused by both names."""
    middle = {b"e": symlink(target), b"again": symlink("d"), b"x": directory(), b"d/a": file()}
    shown = view(UNIONFS, MemoryTree({b"e/b": file()}), MemoryTree(middle), BELOW)
    with pytest.raises(RefusedError, match=f"/e is a directory over .* to {target}"):
        everything_in(shown)
    whiteout = {b"e/b": file(), b".unionfs/e_HIDDEN~": directory()}
    assert b"e/a" not in names(UNIONFS, MemoryTree(whiteout), MemoryTree(middle), BELOW)
    assert b"e" in names(OVERLAY, MemoryTree({b"e/b": file()}), MemoryTree(middle), BELOW)


@pytest.mark.parametrize("target", ["nowhere", "f", "f/g", "d/nowhere/..", "t" * 300])
def test_a_directory_over_a_link_to_none(target: str) -> None:
    """It is passed over."""
    middle = MemoryTree({b"e": symlink(target), b"f": file(), b"d": directory()})
    top = MemoryTree({b"e/b": file()})
    assert names(UNIONFS, top, middle, BELOW)[-4:] == [b"d/two", b"e", b"e/b", b"f"]


@pytest.mark.parametrize("target", ["d", "/d", "nowhere"])
def test_a_layer_with_links_is_used_in_place(target: str) -> None:
    """A link is the same to all; where a directory lies over one, that directory is converted."""
    layer = MemoryTree({b"e": symlink(target), b"d": directory()})
    assert foreign_path(OVERLAY.layer(layer), UNIONFS) is None
    above = MemoryTree({b"e/b": file()})
    assert foreign_path(OVERLAY.layer(above), UNIONFS, view(OVERLAY, layer)) == b"e"


def test_whiteouts_below_what_is_called_like_one() -> None:
    """The directory of marks for a directory x_HIDDEN~ is a whiteout of x as well."""
    below = MemoryTree({b"x_HIDDEN~/one": file(), b"x_HIDDEN~/two": file(), b"x": file()})
    upper = MemoryTree({b".unionfs/x_HIDDEN~/one_HIDDEN~": file()})
    assert names(UNIONFS, upper, below) == [b"", b"x_HIDDEN~", b"x_HIDDEN~/two"]


def test_marks_of_the_other_version() -> None:
    """Version 1.0 takes them for files; where the version is not known, they count."""
    upper = MemoryTree({b".unionfs/f_HIDDEN~": file()})
    assert b"f" in names(OLD_UNIONFS, upper, BELOW)
    assert b".unionfs/f_HIDDEN~" in names(OLD_UNIONFS, upper, BELOW)
    other = MemoryTree({b".unionfs-fuse/f_HIDDEN~": file()})
    assert b"f" not in names(UNIONFS, other, BELOW)


def test_a_directory_that_is_there_and_hidden() -> None:
    """It is opaque; its own names stay, and marks in it mean nothing more."""
    upper = MemoryTree(
        {b".unionfs/d_HIDDEN~": directory(), b".unionfs/d/one_HIDDEN~": file(), b"d/one": file()}
    )
    assert names(UNIONFS, upper, BELOW) == [b"", b"d", b"d/one", b"f"]


def test_a_file_called_like_a_whiteout() -> None:
    """It is a file where it lies, and refused where it would have to be written."""
    tree = MemoryTree({b"d/one_HIDDEN~": file()})
    assert b"d/one_HIDDEN~" in names(UNIONFS, tree, BELOW)
    assert b"d/one" in names(UNIONFS, tree, BELOW)
    for path in (b"d/x_HIDDEN~", b".unionfs", b".unionfs-fuse"):
        with pytest.raises(RefusedError, match=path.decode()):
            tuple(UNIONFS.encode(Entry(path, file())))


def test_a_file_among_whiteouts() -> None:
    """It would be lost, so that the layer is refused by its name."""
    tree = MemoryTree({b".unionfs/d/somebody's": file(), b"d/x": file()})
    with pytest.raises(RefusedError, match=r"/\.unionfs/d/somebody's"):
        names(UNIONFS, tree)


def test_where_unionfs_writes_whiteouts() -> None:
    """In the directory of its version."""
    for dialect, meta in ((UNIONFS, b".unionfs/"), (OLD_UNIONFS, b".unionfs-fuse/")):
        (raw,) = dialect.encode(Entry(b"d/x", None))
        assert raw.path == meta + b"d/x_HIDDEN~"


# --- fuse-overlayfs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attribute", ["trusted.overlay.opaque", "user.fuseoverlayfs.opaque", "user.overlay.opaque"]
)
def test_opaque_by_attribute(attribute: str) -> None:
    """Any of three, none of which is shown."""
    found = marked(FUSE, with_xattrs(directory(), attribute))
    assert found.opaque
    assert not found.inode.xattrs


def test_what_fuse_overlayfs_leaves_in_opaque_directories() -> None:
    """Nothing of it is shown, and the device alone makes no directory opaque (seen in 1.10)."""
    upper = MemoryTree({b"d/.wh..opq": DEVICE, b"d/new": file()})
    assert names(FUSE, upper, BELOW) == [b"", b"d", b"d/new", b"d/one", b"d/two", b"f"]


@pytest.mark.parametrize(
    ("value", "kind", "rdev"),
    [
        (b"5:6:4755", InodeType.FILE, "0:0"),
        (b"5:6:104755", InodeType.FILE, "0:0"),
        (b"5:6:4755:file", InodeType.FILE, "0:0"),
        (b"5:6:4755:symlink", InodeType.SYMLINK, "0:0"),
        (b"5:6:4755:pipe", InodeType.FIFO, "0:0"),
        (b"5:6:4755:block-7-8", InodeType.BLOCK, "7:8"),
        (b"5:6:4755:char-7-8", InodeType.CHARACTER, "7:8"),
    ],
)
def test_owner_mode_and_type_in_an_attribute(value: bytes, kind: InodeType, rdev: str) -> None:
    """The file that is stored only holds the content, or the target of a link."""
    tree = MemoryTree({b"x": (file(user__containers__override_stat=value), b"target")})
    tree.store(b"", directory(user__containers__override_stat=b"0:0:755"))
    layer = FUSE.layer(tree)
    found = layer.inode(b"x")
    assert found is not None
    inode = found.inode
    assert (inode.uid, inode.gid, inode.mode, inode.type, inode.rdev) == (5, 6, 0o4755, kind, rdev)
    assert inode.target == ("target" if kind is InodeType.SYMLINK else None)
    assert not inode.xattrs
    assert layer.listing(b"").names == {b"x": kind}


def test_which_attribute_tells() -> None:
    """The one that the root of the layer has."""
    xattrs = {
        KPath("security.fuseoverlayfs.override_stat"): b"1:1:644",
        KPath("user.fuseoverlayfs.override_stat"): b"2:2:644",
        KPath("user.containers.override_user.x"): b"x",
    }
    tree = MemoryTree({b"x": msgspec.structs.replace(file(), xattrs=xattrs)})
    tree.store(b"", directory(user__fuseoverlayfs__override_stat=b"0:0:755"))
    found = FUSE.layer(tree).inode(b"x")
    assert found is not None
    assert found.inode.uid == 2
    assert found.inode.xattrs == {"user.x": b"x"}


@pytest.mark.parametrize("value", [b"", b"1:2", b"1:2:9", b"1:2:644:door"])
def test_ownership_that_nobody_reads(value: bytes) -> None:
    """It is refused, by the path that has it."""
    with pytest.raises(RefusedError, match="/x "):
        marked(FUSE, file(user__containers__override_stat=value))


# --- plain trees ----------------------------------------------------------------------------------


def test_plain_trees() -> None:
    """What reads the same in every dialect can lie below any."""
    for dialect in (OVERLAY, AUFS, UNIONFS, FUSE):
        assert foreign_path(Vfs().layer(BELOW), dialect) is None
        assert foreign_path(dialect.layer(BELOW), Vfs()) is None


@pytest.mark.parametrize(
    ("source", "target", "path", "inode", "foreign"),
    [
        (OVERLAY, AUFS, b"d/x", DEVICE, b"d/x"),
        (OVERLAY, AUFS, b"d/.wh.x", file(), b"d/.wh.x"),
        (AUFS, OVERLAY, b"d/.wh.x", file(), b"d/.wh.x"),
        (Vfs(), OVERLAY, b"x", directory(trusted__overlay__opaque=b"y"), b"x"),
        (Vfs(), UNIONFS, b".unionfs/x_HIDDEN~", file(), b".unionfs"),
        (OVERLAY, Vfs(), b"x", directory(trusted__overlay__origin=b""), b"x"),
    ],
)
def test_why_a_layer_cannot_be_used_in_place(
    source: Dialect, target: Dialect, path: bytes, inode: Inode, foreign: bytes
) -> None:
    """Its own marks would be lost, or what is none would become one."""
    tree = BELOW.copy()
    tree.store(path, inode)
    assert foreign_path(source.layer(tree), target) == foreign
    assert foreign_path(target.layer(tree), target) is None


def test_a_directory_over_a_file_needs_a_mark_elsewhere() -> None:
    """AUFS and unionfs-fuse merge it with a directory that lies below the file."""
    middle, top = BELOW.copy(), BELOW.copy()
    middle.store(b"over", file())
    top.store(b"over", directory())
    below = View([OVERLAY.layer(middle)], writable=False)
    assert foreign_path(OVERLAY.layer(top), AUFS, below) == b"over"
    assert foreign_path(OVERLAY.layer(top), AUFS) is None
