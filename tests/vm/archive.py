# SPDX-License-Identifier: Apache-2.0
"""
Packages of any suite of Debian, through apt alone, whose checksums and keys it checks.

apt gets a state of its own, in which nothing is installed; the lists and packages of the host are
not touched. The archive is the one of the host's own configuration, asked for when it is needed.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vm.errors import VmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Archive", "by_number", "open_archive", "unpack"]

_KEYS: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TARGETS: Final = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"


_FIELD: Final = re.compile(r"^(Package|Version): *(\S+)", re.MULTILINE)


@functools.cache
def open_archive(suite: str, cache: Path) -> Archive:
    """Give the archive of a suite, whose lists are fetched once in a process."""
    return Archive(suite, cache / "apt")


class Archive:
    """One suite, with the lists and packages that were fetched of it below a directory."""

    def __init__(self, suite: str, top: Path) -> None:
        self.suite = suite
        self._top = top / suite
        self._updated = False

    def newest(self, pattern: str) -> str:
        """
        Give the name of the newest package that a regular expression matches as a whole.

        Debian writes the version of a kernel into the name. Raises VmError if there is none.
        """
        self._update()
        names = [each for each in self._names() if re.fullmatch(pattern, each)]
        if not names:
            raise VmError(f"no package of {self.suite} is called {pattern}")
        return max(names, key=by_number)

    def version(self, package: str) -> str:
        """Give the version that would be fetched."""
        return self.versions([package])[package]

    def versions(self, packages: Sequence[str]) -> dict[str, str]:
        """Give the versions that would be fetched, by package. Raises VmError if one has none."""
        self._update()
        shown = self._apt("apt-cache", "show", "--no-all-versions", *packages)
        stanzas = (dict(_FIELD.findall(each)) for each in shown.split("\n\n") if each.strip())
        found = {each["Package"]: each["Version"] for each in stanzas}
        if missing := set(packages) - found.keys():
            raise VmError(f"{self.suite} has no version of {', '.join(sorted(missing))}")
        return found

    def fetch(self, packages: Sequence[str], *, dependencies: bool = False) -> list[Path]:
        """
        Fetch packages, with all that they depend on if asked for; give the files, in no order.

        What was fetched before is taken from the cache. Raises VmError with what apt says.
        """
        self._update()
        if not dependencies:
            return [self._download(each) for each in packages]
        words = ["--yes", "--no-install-recommends", "install", *packages]
        self._apt("apt-get", "--download-only", *words)
        planned = re.findall(
            r"^Inst (\S+) \((\S+) ", self._apt("apt-get", "--simulate", *words), re.MULTILINE
        )
        kept = self._top / "cache/archives"
        return [_only(kept, package, version) for package, version in planned]

    def _download(self, package: str) -> Path:
        kept = self._top / "single"
        kept.mkdir(parents=True, exist_ok=True)
        version = self.version(package)
        if not _files(kept, package, version):
            self._apt("apt-get", "download", package, directory=kept)
        return _only(kept, package, version)

    def _names(self) -> list[str]:
        return self._apt("apt-cache", "pkgnames").split()

    def _update(self) -> None:
        """Fetch the lists, once in the life of this object."""
        if self._updated:
            return
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (self._top / name).mkdir(parents=True, exist_ok=True)
        (self._top / "status").touch()
        signed = f"[signed-by={_KEYS}] " if _KEYS.exists() else ""
        entry = f"deb {signed}{_mirror()} {self.suite} main\n"
        (self._top / "sources/suite.list").write_text(entry, encoding="ascii")
        self._apt("apt-get", "update")
        self._updated = True

    def _apt(self, program: str, *words: str, directory: Path | None = None) -> str:
        options = {
            "Dir::State": self._top,
            "Dir::State::status": self._top / "status",
            "Dir::State::lists": self._top / "lists",
            "Dir::Cache": self._top / "cache",
            "Dir::Log": self._top,
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._top / "sources",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Acquire::Languages": "none",
            "Acquire::Check-Valid-Until": "false",
            "APT::Default-Release": "",
            "APT::Sandbox::User": "root",
        }
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return _run([program, "-q", *given, *words], directory)


def unpack(packages: Iterable[Path], into: Path) -> None:
    """
    Unpack packages into a tree whose /bin, /sbin and /lib are in /usr, and run nothing of them.

    Manuals and translations stay out.
    """
    for name in ("bin", "sbin", "lib", "lib64"):
        (into / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (into / name).is_symlink():
            (into / name).symlink_to(f"usr/{name}")
    left_out = [f"--exclude=./usr/share/{name}" for name in ("doc", "man", "locale", "info")]
    for package in packages:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
        ) as archive:
            words = ["tar", "-C", str(into), "-xf", "-", "--keep-directory-symlink", *left_out]
            done = subprocess.run(words, stdin=archive.stdout, check=False)
        if done.returncode or archive.returncode:
            raise VmError(f"{package.name} cannot be unpacked")


def _files(directory: Path, package: str, version: str) -> list[Path]:
    return list(directory.glob(f"{package}_{version.replace(':', '%3a')}_*.deb"))


def _only(directory: Path, package: str, version: str) -> Path:
    found = _files(directory, package, version)
    if not found:
        raise VmError(f"apt fetched no {package} {version}")
    return found[0]


def _mirror() -> str:
    """Give the address of the archive that apt is configured with."""
    shown = _run(["apt-get", "indextargets", "--format", _TARGETS, "Created-By: Packages"], None)
    for line in shown.splitlines():
        origin, label, component, address = line.split("|", 3)
        if (origin, label, component) == ("Debian", "Debian", "main"):
            return address
    raise VmError("apt knows no archive of Debian", hint="see /etc/apt/sources.list.d")


def by_number(name: str) -> list[tuple[int, str]]:
    """Give what names that hold versions are sorted by."""
    return [(int(each), "") if each.isdigit() else (-1, each) for each in re.split(r"(\d+)", name)]


def _run(words: list[str], directory: Path | None) -> str:
    if shutil.which(words[0]) is None:
        raise VmError(f"there is no {words[0]}", hint="kernels are fetched by Debian's apt")
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=directory
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        said = next((each for each in lines if each.startswith("E:")), (lines or ["no word"])[0])
        raise VmError(f"{words[0]}: {said}")
    return done.stdout
