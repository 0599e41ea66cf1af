# SPDX-License-Identifier: Apache-2.0
"""
The disks of a guest: the root file system, what of the project is tried in it, and room to write.

The root is a tree of Debian with Python and its packages, CRIU, busybox and the FUSE unions. It is
packed once. The project is the wheel and its tests, packed in each run, with bytecode, which a
guest without a processor of its own is slow to make.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from vm.archive import open_archive, unpack
from vm.errors import VmError
from vm.initramfs import GUEST

__all__ = ["CHECKOUT", "Root", "pack_project", "prepare_root"]

CHECKOUT: Final = Path(__file__).resolve().parents[2]

_SUITE: Final = "trixie"
_PACKAGES: Final = (
    "base-files", "btrfs-progs", "busybox-static", "coreutils", "criu", "dash", "e2fsprogs",
    "fuse-overlayfs", "fuse3", "grep", "iproute2", "iptables", "kmod", "libc-bin", "libmount1",
    "mount", "nftables", "procps", "python3", "tar", "gzip", "util-linux",
)  # fmt: skip
_OLDER_SUITE: Final = "bookworm"
_OLDER_PACKAGES: Final = ("unionfs-fuse", "libfuse2")
"""What the suite of the others has no longer."""

_PYTHON: Final = "3.13"
"""The Python of the suite."""

_PLATFORMS: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")
"""Whose wheels its libc takes."""

_PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check")

_DIRECTORIES: Final = (
    "dev", "etc", "out", "proc", "root", "run", "scratch", "sys", "tmp", "var/tmp",
    "var/lib/mountcr", "work",
)  # fmt: skip
_LINKS: Final = {
    f"usr/sbin/{family}{action}": f"{family}-nft{action}"
    for family in ("iptables", "ip6tables")
    for action in ("", "-save", "-restore")
}
"""What the scripts of packages would have made, which nobody runs."""


class Root(NamedTuple):
    """The root file system: the tree that it was packed of, and the image."""

    tree: Path
    image: Path


def prepare_root(cache: Path) -> Root:
    """
    Pack the root file system unless that was done before of the same packages.

    Raises VmError.
    """
    archive, older = open_archive(_SUITE, cache), open_archive(_OLDER_SUITE, cache)
    versions = archive.versions(_PACKAGES) | older.versions(_OLDER_PACKAGES)
    lock = (CHECKOUT / "requirements-tests.lock").read_bytes()
    content = repr(sorted(versions.items())).encode() + lock + Path(__file__).read_bytes()
    ready = cache / f"root-{hashlib.sha256(content).hexdigest()[:16]}"
    if not ready.exists():
        partial = ready.with_name(f"{ready.name}.new")
        shutil.rmtree(partial, ignore_errors=True)
        tree = partial / "tree"
        tree.mkdir(parents=True)
        unpack(archive.fetch(_PACKAGES, dependencies=True) + older.fetch(_OLDER_PACKAGES), tree)
        _finish(tree)
        _install_requirements(tree)
        _squash(tree, partial / "root.squashfs")
        partial.rename(ready)
    return Root(ready / "tree", ready / "root.squashfs")


def _finish(tree: Path) -> None:
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, target in _LINKS.items():
        (tree / name).unlink(missing_ok=True)
        (tree / name).symlink_to(target)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="ascii")
    (tree / "etc/group").write_text("root:x:0:\n", encoding="ascii")
    (tree / "etc/fuse.conf").write_text("user_allow_other\n", encoding="ascii")


def _install_requirements(tree: Path) -> None:
    """Install what the lock names for the Python of the tree, from wheels only."""
    target = tree / f"usr/local/lib/python{_PYTHON}/dist-packages"
    words = [
        *("install", "--quiet", "--no-compile", "--require-hashes", "--no-deps"),
        *("--only-binary", ":all:", "--python-version", _PYTHON, "--implementation", "cp"),
        *(word for each in _PLATFORMS for word in ("--platform", f"{each}_x86_64")),
        *("--target", str(target), "--requirement", str(CHECKOUT / "requirements-tests.lock")),
    ]
    _run([*_PIP, *words], "the packages of requirements-tests.lock")
    _compile(
        tree, "-x", "/test/", "/usr/local/lib", "/usr/lib/python3", f"/usr/lib/python{_PYTHON}"
    )


def pack_project(root: Root, image: Path) -> None:
    """
    Pack the wheel of the checkout and its tests into an image.

    The Python of the root compiles it.
    """
    with tempfile.TemporaryDirectory(prefix="project-", dir=root.tree) as name:
        top = Path(name)
        words = ["install", "--quiet", "--no-deps", "--no-compile", "--target", str(top / "site")]
        _run([*_PIP, *words, str(CHECKOUT)], "the wheel")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / "tests", top / "tests", ignore=ignored)
        shutil.copytree(CHECKOUT / "kernel-notes", top / "kernel-notes")
        shutil.copy(CHECKOUT / "pyproject.toml", top)
        shutil.copy(GUEST / "run", top / "guest-run")
        (top / "guest-run").chmod(0o755)
        moved = ("-s", f"/{top.name}", "-p", "/work")
        _compile(root.tree, *moved, f"/{top.name}/site", f"/{top.name}/tests")
        _squash(top, image)


def _compile(tree: Path, *words: str) -> None:
    # tests have files that no Python takes, for the linters
    _run(["chroot", str(tree), "/usr/bin/python3", "-m", "compileall", "-q", *words], "bytecode")


def _squash(tree: Path, image: Path) -> None:
    """Pack a tree; lz4 takes a guest the least time to read."""
    partial = image.with_suffix(".new")
    partial.unlink(missing_ok=True)
    words = ["mksquashfs", str(tree), str(partial), "-quiet", "-no-progress", "-comp", "lz4"]
    _run([*words, "-all-root"], "the file system")
    partial.rename(image)


def _run(words: list[str], what: str) -> None:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise VmError(f"there is no {words[0]}", hint="tools/provision --kernels") from None
    if done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        raise VmError(f"{what}: {words[0]}: {(said or ['no word'])[-1]}")
