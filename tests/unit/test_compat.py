# SPDX-License-Identifier: Apache-2.0
"""What a container that is dumped on one host meets on another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest

import builders
from hosts import RSEQ, failing, passed, refused, tried
from mountcr import manifest as manifests
from mountcr.cli import main
from mountcr.criu.options import CgroupMode
from mountcr.errors import DocumentError, NotFoundError
from mountcr.hosts.compatibility import findings
from mountcr.hosts.diagnosis import diagnose
from mountcr.hosts.profile import Needs, Profile, of_doctor, of_facts, of_manifest
from mountcr.hosts.records import CgroupReport, CpuReport, OverlayReport
from mountcr.manifest import Manifest
from mountcr.model import Criu, Finding, Severity
from mountcr.operations.compat import read_profile
from mountcr.paths import encode
from mountcr.planning.planner import make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from mountcr.hosts.records import Tried

HERE: Final = of_doctor(diagnose(tried()))
FACTS: Final = builders.facts(
    builders.recorded("docker-overlay2"), builders.recorded("docker-overlay2.host")
)
DAMAGED: Final = {
    "nothing": b"",
    "no JSON": b"root:x:0:0",
    "a list": b"[]",
    "no schema": b'{"kernel": "6.1"}',
    "another document": b'{"schema": "mountcr/plan/1"}',
    "a newer one": b'{"schema": "mountcr/doctor/2"}',
    "no text": b"\xff\xfe\x00",
    "deep": b'{"schema": "mountcr/doctor/1", "checks": ' + b"[" * 100_000,
}


def host(**changes: object) -> Profile:
    """Give what a doctor says of a host on which all works, but for what is changed."""
    return of_doctor(diagnose(tried(**changes)))


def lacking(**lists: tuple[str, ...]) -> Profile:
    """Give a host without some features: of the kernel, of CRIU, or options of overlay."""
    good = tried()
    off = {kind: dict.fromkeys(names, False) for kind, names in lists.items()}
    options = good.overlay.options | off.get("options", {})
    return host(
        features=good.features | off.get("features", {}),
        criu_features=good.criu_features | off.get("criu", {}),
        overlay=msgspec.structs.replace(good.overlay, options=options),
    )


def container(**needs: object) -> Profile:
    """Give a container of an overlay from a host of which nothing else is known."""
    return Profile(
        document="mountcr/manifest/1",
        criu="4.1.1",
        kernel="6.18",
        needs=msgspec.convert({"driver": "overlay", **needs}, Needs),
    )


def only(found: tuple[Finding, ...], rule: str) -> Finding:
    """Give the one finding of a rule."""
    (one,) = (each for each in found if each.rule == rule)
    return one


def manifest() -> Manifest:
    """Give the manifest of a recorded container of Docker."""
    plan = make_plan(FACTS)
    return Manifest(
        created="2020-01-01T00:00:00+00:00",
        facts=FACTS,
        rootfs=plan.rootfs,
        externals=plan.externals,
        inherited=plan.inherited,
        cgroups=CgroupMode.SOFT,
        files=(),
    )


# --- Restores, drivers ----------------------------------------------------------------------------


def test_a_host_that_does_not_restore() -> None:
    """It is refused in CRIU's words, and a loss where some containers come back (H1)."""
    nothing = host(trials=(refused("it failed"),))
    finding = only(findings(HERE, nothing), "H1")
    assert finding.severity is Severity.REFUSAL
    assert "it failed" in finding.message
    partly = host(trials=(refused(RSEQ), passed(rseq=False)))
    finding = only(findings(container(), partly), "H1")
    assert finding.severity is Severity.LOSS
    assert "GLIBC_TUNABLES" in finding.cure


def test_aufs_is_missing() -> None:
    """A container on it is refused, and the drivers that work there are offered (H2)."""
    without = host(drivers=tried().drivers | {"aufs": failing("aufs: this kernel has no AUFS")})
    finding = only(findings(container(driver="aufs"), without), "H2")
    assert finding.severity is Severity.REFUSAL
    assert "no AUFS" in finding.message
    assert "--driver overlay or vfs or unionfs" in finding.cure
    assert not findings(container(driver="overlay"), without)
    assert only(findings(HERE, without), "H2").severity is Severity.NOTE


# --- Overlay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["metacopy", "index", "userxattr", "uuid", "data-only layers"])
def test_an_option_that_is_not_known_there(option: str) -> None:
    """A container that has it is refused, with the way out; one that has it off is not (H3)."""
    older = lacking(options=(option,))
    finding = only(findings(container(options={option: "on"}), older), "H3")
    assert (finding.severity, finding.mount) == (Severity.REFUSAL, f"overlay {option}")
    assert "--driver vfs" in finding.cure
    assert not findings(container(options={option: "off"}), older)


def test_an_option_by_default() -> None:
    """It shapes the layers of containers there too, and counts where they do not know it (H3)."""
    overlay = tried().overlay
    with_metacopy = host(
        overlay=OverlayReport(parameters={"metacopy": "Y"}, options=overlay.options)
    )
    finding = only(findings(with_metacopy, lacking(options=("metacopy",))), "H3")
    assert finding.severity is Severity.LOSS
    assert not [each for each in findings(HERE, with_metacopy) if each.rule == "H3"]


def test_parameters_that_differ() -> None:
    """Each is a note, with both values; one that the container has by value is none (H4)."""
    overlay = tried().overlay
    parameters = overlay.parameters | {"index": "Y"}
    there = host(overlay=msgspec.structs.replace(overlay, parameters=parameters))
    finding = only(findings(HERE, there), "H4")
    assert finding.severity is Severity.NOTE
    assert "index=off here, on there" in finding.message
    given = msgspec.structs.replace(HERE, needs=Needs(driver="overlay", options={"index": "off"}))
    assert not findings(given, there)


# --- CRIU and kernel ------------------------------------------------------------------------------


def test_a_criu_that_is_too_old_for_the_kernel() -> None:
    """Known of the versions, where nobody tried it (H5); with the source."""
    there = Profile(document="mountcr/facts/1", criu="3.17.1", kernel="6.18.44")
    found = [each for each in findings(HERE, there) if each.rule == "H5"]
    assert [each.mount for each in found] == ["criu slave-refused", "criu vdso-bounds"]
    assert [each.severity for each in found] == [Severity.NOTE, Severity.REFUSAL]
    assert "criu#2539" in found[1].message


def test_what_a_trial_contradicted_is_no_finding() -> None:
    """A host on which it works has not the problem, whatever the versions."""
    there = host(criu=Criu(command=("criu",), version="4.0"))
    assert "criu vdso-bounds" not in {each.mount for each in findings(HERE, there)}


@pytest.mark.parametrize(("there", "count"), [("4.1", 1), ("4.1.1", 0), ("4.2", 0), ("", 0)])
def test_an_older_criu(there: str, count: int) -> None:
    """Images may hold what it does not know (H6)."""
    found = findings(HERE, host(criu=Criu(command=("criu",), version=there)))
    assert [each.rule for each in found].count("H6") == count


def test_mappings_are_shown_otherwise() -> None:
    """A note that names the note (H7)."""
    finding = only(findings(HERE, lacking(criu=("overlayfs_maps",))), "H7")
    assert finding.severity is Severity.NOTE
    assert "kernel-notes/mapping-inode.md" in finding.message


def test_features_that_containers_use() -> None:
    """A loss between hosts, a refusal for a container that uses it, nothing for others (H10)."""
    older = lacking(features=("time namespaces",))
    assert only(findings(HERE, older), "H10").severity is Severity.LOSS
    used = container(features=["time namespaces"])
    assert only(findings(used, older), "H10").severity is Severity.REFUSAL
    assert not findings(container(features=["user namespaces"]), older)
    assert only(findings(used, lacking(criu=("timens",))), "H10")


def test_the_older_engine() -> None:
    """A note of what CRIU's v2 engine needs and has not (H11)."""
    finding = only(findings(HERE, lacking(features=("move_mount set group",))), "H11")
    assert finding.severity is Severity.NOTE


# --- Control groups and processors ----------------------------------------------------------------


def test_another_cgroup_layout() -> None:
    """A refusal where CRIU manages the groups of a container, a loss between hosts (H8)."""
    there = host(cgroups=CgroupReport(layout="v1", v1=("cpu", "memory")))
    assert only(findings(HERE, there), "H8").severity is Severity.LOSS
    layout = CgroupReport(layout="v2")
    managed = msgspec.structs.replace(container(cgroups=True), cgroups=layout)
    finding = only(findings(managed, there), "H8")
    assert finding.severity is Severity.REFUSAL
    assert "--manage-cgroups-mode ignore" in finding.cure
    ignored = msgspec.structs.replace(container(cgroups=False), cgroups=layout)
    assert not findings(ignored, there)


def test_a_controller_that_is_missing() -> None:
    """It is named (H8)."""
    there = host(cgroups=CgroupReport(layout="v2", v2=("cpu",)))
    assert "no memory there" in only(findings(HERE, there), "H8").message


def cpu(*features: str) -> Tried:
    """Give a host whose processor has some features."""
    return tried(cpu=CpuReport(told_by="criu", features=features))


def test_a_processor_with_less() -> None:
    """Instructions are a loss, the state of the FPU a refusal (H9)."""
    finding = only(findings(HERE, of_doctor(diagnose(cpu("fpu", "sse2")))), "H9")
    assert finding.severity is Severity.LOSS
    assert "avx2" in finding.message
    worse = [each for each in findings(HERE, of_doctor(diagnose(cpu("sse2")))) if each.rule == "H9"]
    assert [each.severity for each in worse] == [Severity.REFUSAL, Severity.LOSS]
    assert findings(HERE, of_doctor(diagnose(cpu("avx2", "fpu", "sse2", "avx512f")))) == ()


def test_another_architecture() -> None:
    """It is refused, and instructions are not compared."""
    finding = only(findings(HERE, host(machine="aarch64", cpu=CpuReport())), "H9")
    assert finding.severity is Severity.REFUSAL


# --- Documents ------------------------------------------------------------------------------------


def test_a_manifest_says_what_its_container_takes() -> None:
    """The driver and the options of its overlays, and that CRIU manages its groups."""
    profile = of_manifest(manifest())
    assert profile.needs
    assert (profile.needs.driver, profile.needs.cgroups) == ("overlay", True)
    assert profile.criu == "4.1.1"
    assert findings(profile, profile) == ()


def test_facts_say_it_too() -> None:
    """With the namespaces that its tasks have for themselves."""
    facts = builders.facts(FACTS.namespaces[0].mounts, FACTS.host.mounts, cgroup_namespace=True)
    rootfs = make_plan(facts).rootfs
    profile = of_facts(facts, rootfs.origin if rootfs else None)
    assert profile.needs
    assert profile.needs.driver == "overlay"
    assert profile.needs.features == ("cgroup namespaces",)


def written(tmp_path: Path) -> dict[str, str]:
    """Write a document of each kind; give their paths."""
    documents = {"doctor": diagnose(tried()), "facts": FACTS}
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(document))
    manifests.write(manifest(), encode(bytes(tmp_path)))
    return {**{name: str(tmp_path / f"{name}.json") for name in documents}, "dump": str(tmp_path)}


@pytest.mark.parametrize("source", ["doctor", "facts", "dump"])
@pytest.mark.parametrize("target", ["doctor", "facts", "dump"])
def test_any_two_documents(
    source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are compared, by their files; the exit status is that of the verdict."""
    paths = written(tmp_path)
    words = ["compat", "--from", paths[source], "--to", paths[target]]
    status = main([*words, "--json"])
    found = msgspec.json.decode(capsys.readouterr().out)
    assert (found["schema"], found["from"]["file"]) == ("mountcr/compat/1", paths[source])
    assert (status == 4) == (found["verdict"] == "refused")
    assert main(words) == status
    text = capsys.readouterr().out
    assert text.startswith(f"{paths[source]} (")
    assert all(each["cure"] in text for each in found["findings"])


def test_a_container_that_cannot_go_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 4, and the refusal with its cure."""
    there = diagnose(tried(trials=(refused("it failed"),)))
    (tmp_path / "there.json").write_bytes(msgspec.json.encode(there))
    written(tmp_path)
    assert main(["compat", "--from", str(tmp_path), "--to", str(tmp_path / "there.json")]) == 4
    assert "to try it with: it failed" in capsys.readouterr().out


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_document_of_a_host(
    text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line that names the file, and a hint."""
    bad, good = tmp_path / "bad.json", written(tmp_path)["doctor"]
    bad.write_bytes(text)
    for words in (["--from", str(bad), "--to", good], ["--from", good, "--to", str(bad)]):
        assert main(["compat", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "bad.json" in err.splitlines()[0]
        assert [line[:8] for line in err.splitlines()] == ["mountcr:", "  hint: "]


@pytest.mark.parametrize(
    ("field", "value"),
    [("kernel", 7), ("checks", {}), ("dump", {"verdict": "perhaps"}), ("cpu", [])],
)
def test_a_damaged_field_is_named(field: str, value: object, tmp_path: Path) -> None:
    """By its place in the document."""
    document = msgspec.json.decode(msgspec.json.encode(diagnose(tried())))
    path = tmp_path / "web.json"
    path.write_bytes(msgspec.json.encode({**document, field: value}))
    with pytest.raises(DocumentError, match=rf"web\.json .*\$\.{field}"):
        read_profile(str(path))


def test_what_is_not_there(tmp_path: Path) -> None:
    """A file, and a directory that nothing was dumped into."""
    for path in (tmp_path / "gone.json", tmp_path):
        with pytest.raises(NotFoundError, match="no such file") as caught:
            read_profile(str(path))
        assert caught.value.hint
