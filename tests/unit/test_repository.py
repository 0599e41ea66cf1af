# SPDX-License-Identifier: Apache-2.0
"""Claims about the repository itself: what its files may say, and what its commands are."""

from __future__ import annotations

import fnmatch
import functools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LONGEST_MODULE = 500
"""In lines; a longer one is more than one noun."""

# Spelled so that these lines are not what they look for.
MACHINE_PATHS = re.compile("[/]work/(main|shared|[.]library)|[/]tmp/lab|[/]root/[.]|[/]opt/pypi")
REGISTRY_HOSTS = re.compile(
    r"\b(pypi[.]org|pythonhosted[.]org|deb[.]debian[.]org|registry[.]npmjs[.]org)\b"
)

GENERATED = ("*_pb2.py", "*_pb2.pyi", "mountcr/kernel/_libc_ffi.py", "mountcr/libmount/_ffi.py")
SOURCES = ("*.py", "*.pyi", "*.proto", "*.toml", "*.c", "*.h", "Makefile", "tox.ini", ".ci/run")
NOT_CRIUS = {"crit", "pycriu"}
"""On PyPI these names are other people's projects, not CRIU's."""


@functools.cache
def files() -> tuple[str, ...]:
    """Paths of what git tracks, or would after `git add .`, below the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    names = (name for name in listing.split("\0") if name)
    return tuple(name for name in names if (ROOT / name).is_file())


def matching(*patterns: str) -> list[str]:
    """Files whose path fits one of the patterns, where `*` stands for slashes too."""
    return [name for name in files() if any(fnmatch.fnmatch(name, one) for one in patterns)]


def text(name: str) -> str:
    """Give the content of a text file; nothing for another one."""
    content = (ROOT / name).read_bytes()
    return "" if b"\0" in content else content.decode("utf-8", "surrogateescape")


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """Give every line of the repository in which the pattern is found, with file and number."""
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in files()
        for number, line in enumerate(text(name).splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    """What a file says is true on every machine."""
    assert lines_with(MACHINE_PATHS) == []


def test_no_file_names_the_host_of_a_registry() -> None:
    """Where packages come from is the business of pip's and apt's own configuration."""
    assert lines_with(REGISTRY_HOSTS) == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-tests.lock"])
def test_a_lock_holds_names_versions_and_hashes_only(name: str) -> None:
    """A lock works with every index, and every package in it has a version and a hash."""
    content = text(name)
    assert "://" not in content
    assert "--index-url" not in content
    for entry in re.sub(r"\\\n", " ", content).splitlines():
        if not entry.startswith("#"):
            assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry


def test_the_lock_of_the_tests_agrees_with_the_whole_one() -> None:
    """What tox tests are the versions that are developed with."""
    pins = re.compile(r"^[a-z0-9-]+==.*(?= \\\\$)", re.MULTILINE)
    assert set(pins.findall(text("requirements-tests.lock"))) <= set(
        pins.findall(text("requirements.lock"))
    )


def test_the_metadata_names_no_package_that_only_sounds_like_crius() -> None:
    """Neither `crit` nor `pycriu` is a dependency, in any group, directly or not."""
    metadata = tomllib.loads(text("pyproject.toml"))
    project = metadata["project"]
    wanted = [*project["dependencies"], *metadata["build-system"]["requires"]]
    for group in project.get("optional-dependencies", {}).values():
        wanted += group
    for group in metadata["dependency-groups"].values():
        wanted += [entry for entry in group if isinstance(entry, str)]
    wanted += [line for line in text("requirements.lock").splitlines() if "==" in line]
    names = {re.split(r"[^A-Za-z0-9._-]", entry)[0].partition("==")[0].lower() for entry in wanted}
    assert names & NOT_CRIUS == set()


def test_every_source_file_says_its_licence() -> None:
    """The SPDX line stands at the top, below `#!` if there is one."""
    sources = [name for name in matching(*SOURCES, "tools/*") if name != "pyproject.toml"]
    silent = [
        name
        for name in sources
        if text(name)
        and not any(
            "SPDX-License-Identifier: Apache-2.0" in line for line in text(name).splitlines()[:2]
        )
    ]
    assert silent == []


def test_no_module_is_longer_than_one_noun() -> None:
    """A module that people wrote has at most 500 lines."""
    generated = set(matching(*GENERATED))
    lengths = {
        name: text(name).count("\n")
        for name in matching("mountcr/*.py", "drivers/*.py")
        if name not in generated
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_readme_names_a_command_that_exists(command: str) -> None:
    """What the README tells a newcomer to type is a target of the Makefile, with its help."""
    assert re.search(rf"\bmake {command}\b", text("README.md"))
    assert re.search(rf"^{command}:.* ## ", text("Makefile"), re.MULTILINE)


@pytest.mark.parametrize("script", ["tools/provision", "tools/generate", ".ci/run"])
def test_a_script_can_be_run(script: str) -> None:
    """Its executable bit is in git, so that a fresh clone can start it."""
    if script not in files():
        pytest.skip(f"{script} is not there")
    listing = subprocess.run(
        ["git", "ls-files", "--stage", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    if not listing:
        pytest.skip(f"git does not track {script}")
    assert listing.startswith("100755 ")


def test_the_command_line_is_imported_without_the_heavy_modules() -> None:
    """`mountcr --help` does not wait for graphs, netlink, protobuf or terminal colours."""
    heavy = ["networkx", "pyroute2", "google.protobuf", "rich"]
    program = f"import sys, mountcr.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_system_without_apt_is_told_what_is_missing(tmp_path: Path) -> None:
    """Where provision cannot install, it names every missing program and what it is for."""
    for name in ("sh", "sed", "awk", "grep", "id", "dirname", "head"):
        program = shutil.which(name)
        assert program
        (tmp_path / name).symlink_to(program)
    done = subprocess.run(
        [str(tmp_path / "sh"), str(ROOT / "tools/provision")],
        env={"PATH": str(tmp_path), "MOUNTCR_PREFIX": str(tmp_path / "nothing")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no apt" in done.stderr
    for missing in ("unionfs", "fuse-overlayfs", "busybox", "python with venv"):
        assert re.search(rf"^ +{missing} +missing: \w", done.stdout, re.MULTILINE), missing
