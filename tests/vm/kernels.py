# SPDX-License-Identifier: Apache-2.0
"""
The kernels: which packages have them, and how one is made ready to boot.

The flavour `cloud` is a quarter of the usual one and has all that is needed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Final, NamedTuple

from vm import initramfs
from vm.archive import open_archive, unpack
from vm.errors import VmError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vm.archive import Archive

__all__ = ["DEFAULT", "KERNELS", "Booted", "Kernel", "prepare"]


class Kernel(NamedTuple):
    """A series of kernels: the suite that has it, and patterns of the packages."""

    suite: str
    packages: tuple[str, ...]


_SPLIT: Final = tuple(rf"linux-{kind}-7\.\d+[^-]*-cloud-amd64" for kind in ("binary", "modules"))
"""Since 7.0 the image and its modules are packages of their own."""

KERNELS: Final[Mapping[str, Kernel]] = {
    "5.10": Kernel("bullseye", (r"linux-image-5\.10\.0-\d+-cloud-amd64",)),
    "6.1": Kernel("bookworm", (r"linux-image-6\.1\.0-\d+-cloud-amd64",)),
    "6.12": Kernel("trixie", (r"linux-image-6\.12\.[^-]*-cloud-amd64",)),
    "newest": Kernel("sid", _SPLIT),
    "next": Kernel("experimental", _SPLIT),
}
"""By series, or by what Debian calls them: its newest release and what comes after that."""

DEFAULT: Final = ("5.10", "6.1", "6.12", "newest")
"""Those of each run; the last one is a prerelease."""


class Booted(NamedTuple):
    """What QEMU boots: `release` as uname(1) says it, `package` with its version."""

    name: str
    release: str
    package: str
    image: Path
    initramfs: Path

    @property
    def series(self) -> str:
        """The first two numbers of the release."""
        return ".".join(re.findall(r"\d+", self.release)[:2])


def prepare(name: str, cache: Path) -> Booted:
    """
    Fetch a kernel and make its initramfs, unless that was done before for the same version.

    Raises VmError for a series that is not known or not to be had.
    """
    kernel = _find(name, cache)
    archive = open_archive(kernel.suite, cache)
    packages = [archive.newest(pattern) for pattern in kernel.packages]
    version = archive.version(packages[0])
    ready = cache / "kernels" / f"{packages[0]}_{version.replace(':', '%3a')}_{initramfs.key()}"
    if not ready.exists():
        _make(archive, packages, ready)
    release = (ready / "release").read_text(encoding="ascii").strip()
    return Booted(
        name, release, f"{packages[0]} {version}", ready / "vmlinuz", ready / "initramfs.gz"
    )


def _find(name: str, cache: Path) -> Kernel:
    """Give what a name means; 7.2 and its like are in one of two suites for some weeks each."""
    if name in KERNELS:
        return KERNELS[name]
    for kernel in KERNELS.values():
        if kernel.packages == _SPLIT and re.fullmatch(r"7\.\d+", name):
            packages = tuple(each.replace(r"7\.\d+", re.escape(name)) for each in _SPLIT)
            with contextlib.suppress(VmError):
                open_archive(kernel.suite, cache).newest(packages[0])
                return kernel._replace(packages=packages)
    raise VmError(f"no kernel {name!r}", hint=f"there are {', '.join(KERNELS)}, and 7.2 and so on")


def _make(archive: Archive, packages: list[str], ready: Path) -> None:
    partial = ready.with_name(f"{ready.name}.new")
    shutil.rmtree(partial, ignore_errors=True)
    tree = partial / "tree"
    tree.mkdir(parents=True)
    unpack(archive.fetch(packages), tree)
    (modules,) = (tree / "usr/lib/modules").iterdir()
    release = modules.name
    images = [tree / f"boot/vmlinuz-{release}", modules / "vmlinuz"]
    image = next((each for each in images if each.exists()), None)
    if image is None:
        raise VmError(f"{packages[0]} has no vmlinuz")
    shutil.copy(image, partial / "vmlinuz")
    initramfs.write(partial / "initramfs.gz", tree, release)
    (partial / "release").write_text(f"{release}\n", encoding="ascii")
    shutil.rmtree(tree)
    partial.rename(ready)
