# SPDX-License-Identifier: Apache-2.0
"""A reference leads to one container, or to an error that says which others there are."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mountcr.engines import Roots, engines, find, list_containers
from mountcr.errors import AmbiguousError, DocumentError, NotFoundError, UsageError
from mountcr.paths import encode

if TYPE_CHECKING:
    from pathlib import Path

    from unit.engines.conftest import Host

NOTHING = Roots()


def test_an_exact_id_wins_over_a_prefix(host: Host) -> None:
    """An id that begins another id is still one container."""
    host.runc("web")
    host.runc("web2")
    assert find("web", roots=host.roots).id == "web"


def test_a_unique_prefix_is_enough(host: Host) -> None:
    """The beginning of one id means that container."""
    host.runc("abc123")
    host.crun("def456")
    assert find("d", roots=host.roots).engine == "crun"


def test_an_ambiguous_prefix_lists_all(host: Host) -> None:
    """Several ids that begin so are all candidates, in every engine."""
    host.runc("web1")
    host.crun("web2")
    host.youki("web3", host.bundle())
    with pytest.raises(AmbiguousError) as raised:
        find("web", roots=host.roots)
    assert raised.value.candidates == ("runc:web1", "crun:web2", "youki:web3")
    assert raised.value.hint == "say one of runc:web1, crun:web2, youki:web3"
    assert raised.value.exit_status == 2


def test_an_engine_restricts(host: Host) -> None:
    """The same id in two engines is told apart by the engine."""
    host.runc("web", root="a")
    host.crun("web", root="b")
    with pytest.raises(AmbiguousError):
        find("web", roots=host.roots)
    assert find("crun:web", roots=host.roots).engine == "crun"
    assert find("runc:w", roots=host.roots).engine == "runc"


def test_the_same_id_in_two_roots_is_told_apart_by_the_root(host: Host) -> None:
    """Each candidate is a reference that means only it."""
    first, second = (host.runc("web", root=name) for name in ("a", "b"))
    with pytest.raises(AmbiguousError) as raised:
        find("web", roots=host.roots)
    assert raised.value.candidates == (f"runc:{first}", f"runc:{second}")
    for candidate, directory in zip(raised.value.candidates, (first, second), strict=True):
        assert find(candidate, roots=host.roots).state_root == encode(str(directory.parent))


def test_a_state_directory_is_its_container(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of a runtime is no bundle, though crun keeps a config.json in it."""
    directory = host.crun("web", host.process())
    assert find(str(directory), roots=host.roots).engine == "crun"
    monkeypatch.chdir(directory.parent)
    assert find("web", roots=host.roots).engine == "crun"


def test_unknown_engines_are_listed() -> None:
    """A word before a colon is an engine, or an error that names them all."""
    with pytest.raises(UsageError, match="no engine is called podmen") as raised:
        find("podmen:web", roots=NOTHING)
    known = ", ".join(engine.name for engine in engines())
    assert raised.value.hint == f"engines are {known}"
    assert known.endswith("runc, crun, youki, bundle, pid")


@pytest.mark.parametrize("reference", ["", "runc:", "pid:"])
def test_nothing_is_no_reference(reference: str) -> None:
    """A reference that is empty is an error of the caller, not the only container."""
    with pytest.raises(UsageError, match="names no container"):
        find(reference, roots=NOTHING)


def test_not_found_lists_what_is_like_it(host: Host) -> None:
    """A typing error is answered with the names like it, also in the first digits of a long id."""
    host.runc("frontend")
    host.crun("d4e5f6a7" * 8)
    host.crun("other")
    for wrong, right in (("fronted", "frontend"), ("d4e5f6b7d4e5", "d4e5f6a7" * 8)):
        with pytest.raises(NotFoundError) as raised:
            find(wrong, roots=host.roots)
        assert raised.value.similar == (right,)
        assert raised.value.hint == f"names like it: {right}"
        assert raised.value.exit_status == 3


def test_not_found_lists_what_there_is(host: Host) -> None:
    """When nothing is like it, everything is listed."""
    host.runc("web")
    host.crun("db")
    with pytest.raises(NotFoundError) as raised:
        find("zzzzzz", roots=host.roots)
    assert raised.value.hint == "known here: runc:web, crun:db"


def test_not_found_on_an_empty_host_says_where_it_looked(host: Host) -> None:
    """Without containers the hint names the roots that were searched."""
    root = host.root()
    with pytest.raises(NotFoundError) as raised:
        find("web", roots=host.roots)
    assert str(root) in (raised.value.hint or "")


def test_a_damaged_state_is_named(host: Host) -> None:
    """A container whose state file ends early is found, and says which file is damaged."""
    file = host.runc("web") / "state.json"
    file.write_text("{")
    found = find("web", roots=host.roots)
    assert not found.pid
    assert [damage.file for damage in found.damages] == [str(file)]


def test_a_state_of_another_kind_is_named(host: Host) -> None:
    """A directory that holds no state of a runtime is not found, and the hint says why."""
    (host.runc("web") / "state.json").write_text("[]")
    with pytest.raises(NotFoundError) as raised:
        find("web", roots=host.roots)
    assert f"{host.root()}/web is there" in (raised.value.hint or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_root_that_may_not_be_read_is_named(host: Host) -> None:
    """What is not found may be in a root that only its owner may read; the hint says so."""
    host.runc("web")
    host.root().chmod(0o300)
    with pytest.raises(NotFoundError) as raised:
        find("web", roots=host.roots)
    assert raised.value.hint == f"{host.root()} may not be read; run as root"


def test_a_pid_is_a_process(host: Host) -> None:
    """A number is a pid, with and without the name of the engine."""
    process = host.process()
    for reference in (str(process.pid), f"pid:{process.pid}"):
        assert find(reference, roots=host.roots).engine == "pid"


def test_the_pid_of_an_init_is_its_container(host: Host) -> None:
    """When a runtime records this process as the init, its record is the answer."""
    process = host.process()
    host.runc("web", process)
    for reference in (str(process.pid), f"pid:{process.pid}"):
        assert find(reference, roots=host.roots).id == "web"


def test_a_stale_record_does_not_claim_a_process(host: Host) -> None:
    """A record with another start time is of another process."""
    process = host.process()
    host.runc("web", process._replace(start_time=1))
    assert find(str(process.pid), roots=host.roots).engine == "pid"


def test_a_number_that_is_an_id_too_is_ambiguous(host: Host) -> None:
    """A pid and an id of the same digits are both candidates."""
    process = host.process()
    host.runc(str(process.pid))
    with pytest.raises(AmbiguousError) as raised:
        find(str(process.pid), roots=host.roots)
    assert raised.value.candidates == (f"pid:{process.pid}", f"runc:{process.pid}")
    assert find(f"runc:{process.pid}", roots=host.roots).engine == "runc"
    assert find(f"pid:{process.pid}", roots=host.roots).engine == "pid"


def test_an_id_of_digits_without_such_a_process_is_the_container(host: Host) -> None:
    """A number that is the id of a container, and no process, is not ambiguous."""
    process = subprocess.Popen(["true"])
    process.wait()
    host.runc(str(process.pid))
    assert find(str(process.pid), roots=host.roots).engine == "runc"


def test_the_number_of_an_ended_process_begins_no_id(host: Host) -> None:
    """A process that has just ended must not lead to a container whose id begins so."""
    process = subprocess.Popen(["true"])
    process.wait()
    host.runc(f"{process.pid}abcdef")
    with pytest.raises(NotFoundError, match="no process"):
        find(str(process.pid), roots=host.roots)
    assert find(f"runc:{process.pid}", roots=host.roots).id == f"{process.pid}abcdef"


def test_digits_too_large_for_a_pid_begin_an_id(host: Host) -> None:
    """The short form of an id may be all digits."""
    host.runc("990011223344" + "ab" * 26)
    assert find("990011223344", roots=host.roots).engine == "runc"


def test_a_bundle_is_found_by_its_path(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that nothing runs from is itself, however its path is spelled."""
    path = host.bundle()
    monkeypatch.chdir(tmp_path)
    for reference in (str(path), f"{path}/", "bundle", "./bundle", f"bundle:{path}"):
        found = find(reference, roots=host.roots)
        assert (found.engine, found.bundle) == ("bundle", encode(str(path)))


def test_a_bundle_is_the_container_that_runs_from_it(host: Host, tmp_path: Path) -> None:
    """The running container is preferred to the bundle, and to one that has ended."""
    path = host.bundle()
    (tmp_path / "link").symlink_to(path)
    host.runc("old", config={"labels": [f"bundle={path}"]})
    host.runc("new", host.process(), config={"labels": [f"bundle={path}"]})
    assert find(str(path), roots=host.roots).id == "new"
    assert find(str(tmp_path / "link"), roots=host.roots).id == "new"


def test_several_containers_of_a_bundle_are_ambiguous(host: Host) -> None:
    """Two containers may run from one bundle."""
    path = host.bundle()
    for name in ("a", "b"):
        host.runc(name, host.process(), config={"labels": [f"bundle={path}"]})
    with pytest.raises(AmbiguousError) as raised:
        find(str(path), roots=host.roots)
    assert raised.value.candidates == ("runc:a", "runc:b")


def test_a_word_that_is_bundle_and_id_is_ambiguous(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle in the current directory does not hide a container of that id."""
    path = host.bundle("web")
    host.runc("web")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AmbiguousError) as raised:
        find("web", roots=host.roots)
    assert raised.value.candidates == (f"bundle:{path}", "runc:web")
    assert find(f"bundle:{path}", roots=host.roots).engine == "bundle"


def test_a_damaged_bundle_is_a_document_error(tmp_path: Path) -> None:
    """A path that holds a broken config.json is not "not found"."""
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DocumentError):
        find(str(tmp_path), roots=NOTHING)


def test_a_path_that_is_nothing_is_not_found(tmp_path: Path) -> None:
    """A path never means an id."""
    with pytest.raises(NotFoundError, match="no OCI bundle"):
        find(str(tmp_path / "missing"), roots=NOTHING)


def test_a_colon_may_be_part_of_a_path(host: Host) -> None:
    """A colon behind a slash names no engine."""
    path = host.bundle("a:b")
    assert find(str(path), roots=NOTHING).bundle == encode(str(path))


def test_a_process_has_one_container(host: Host) -> None:
    """What two engines record of the same process is listed once."""
    process = host.process()
    host.runc("web", process)
    host.crun("web", process, root="other")
    assert [c.engine for c in list_containers(host.roots)] == ["runc"]
    assert find("crun:web", roots=host.roots).engine == "crun"


def test_finding_reads_only(host: Host) -> None:
    """Nothing below a runtime root is changed by looking at it."""
    host.runc("web", host.process())
    host.crun("db")

    def state() -> list[tuple[str, int, int]]:
        files = sorted(host.root().rglob("*"))
        return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]

    before = state()
    find("web", roots=host.roots)
    assert state() == before


def test_finding_imports_no_metadata() -> None:
    """Without plug-ins of others, importlib.metadata is not paid for."""
    code = (
        "import sys, mountcr.engines as e\n"
        "e.list_containers(e.Roots())\n"
        "sys.exit('importlib.metadata' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
