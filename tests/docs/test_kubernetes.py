# SPDX-License-Identifier: Apache-2.0
"""Claims about docs/kubernetes: what it has one apply and type is accepted by who gets it."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from mountcr.cli import build_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLACE: Final = Path(__file__).resolve().parents[2] / "docs" / "kubernetes"
PAGE: Final = (PLACE / "README.md").read_text("utf-8")
MANIFESTS: Final = sorted(PLACE.glob("*.yaml"))

OLDEST: Final = "1.30"
"""The Kubernetes that has ContainerCheckpoint on, as the page says."""

WHY: Final = "only `tox -e docs` has it"

Manifest = dict[str, Any]


# --- Commands -------------------------------------------------------------------------------------


def lines(text: str) -> Iterator[str]:
    """Give the lines of a shell, continued ones in one."""
    yield from re.sub(r"\\\n\s*", " ", text).splitlines()


def mountcr_words(line: str) -> list[str]:
    """Give the words behind `mountcr`, where a line runs it here or in a pod."""
    split = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    split.whitespace_split = True
    split.commenters = ""
    words = list(split)
    if "exec" in words[:2] and "--" in words:
        words = words[words.index("--") + 1 :]
    if words[:1] != ["mountcr"]:
        return []
    end = next((at for at, word in enumerate(words) if set(word) <= set("|&;<>()")), len(words))
    return words[1:end]


def commands() -> list[str]:
    """Give every line that runs mountcr, of the page and of the manifests."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    texts = [*blocks, *(path.read_text("utf-8") for path in MANIFESTS)]
    every = (line.strip() for text in texts for line in lines(text))
    return [line for line in every if re.search(r"(^|-- )mountcr ", line)]


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_page_is_one_of_mountcr(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser of mountcr takes each command line that is shown."""
    words = mountcr_words(line)
    assert words
    try:
        build_parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"mountcr does not take `{shlex.join(words)}`: {capsys.readouterr().err}")


def test_the_command_of_the_job_is_that_of_the_page() -> None:
    """What is explained is what is done; the job reads the pid of the result too."""
    shown, done = (
        mountcr_words(line) for line in commands() if "/ns/net" in line and "restore" in line
    )
    assert done == [*shown, "--json"]


def test_every_command_that_the_page_names_exists() -> None:
    """A command between backquotes is one."""
    usage = build_parser().format_help()
    named = set(re.findall(r"`mountcr ([a-z-]+)", PAGE))
    assert named
    assert {
        name for name in named if not re.search(rf"^    {name}\b", usage, re.MULTILINE)
    } == set()


def test_what_the_page_links_to_is_there() -> None:
    """Files beside it, and headings in it."""
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {
        "#" + re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings
    }
    targets = set(re.findall(r"\]\(([^)]+)\)", PAGE))
    assert {each for each in targets if each.startswith("#")} <= anchors
    assert {
        each for each in targets if not each.startswith("#") and not (PLACE / each).exists()
    } == set()
    assert {path.name for path in PLACE.iterdir()} - {"README.md"} <= {
        *targets,
        *re.findall(r"docs/kubernetes/(\S+)", PAGE),
    }


# --- Manifests ------------------------------------------------------------------------------------


@pytest.fixture(name="validate", scope="module", params=[OLDEST, "newest"])
def _validate(request: pytest.FixtureRequest) -> Callable[[Manifest], None]:
    """Validate a manifest as a Kubernetes does that knows no other fields; ValueError if wrong."""
    validator = pytest.importorskip("kubernetes_validate", reason=WHY)
    version = validator.latest_version() if request.param == "newest" else request.param

    def validate(manifest: Manifest) -> None:
        try:
            validator.validate(manifest, version, strict=True)
        except (validator.ValidationError, validator.SchemaNotFoundError) as error:
            raise ValueError(repr(error)) from error

    return validate


def manifests() -> list[Manifest]:
    """Give every document of every manifest."""
    yaml = pytest.importorskip("yaml", reason=WHY)
    return [
        document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text("utf-8"))
    ]


def the(kind: str) -> Manifest:
    """Give the one manifest of a kind."""
    (found,) = (each for each in manifests() if each["kind"] == kind)
    return copy.deepcopy(found)


def pods() -> list[Manifest]:
    """Give the specifications of pods."""
    return [
        each["spec"]["template"]["spec"]
        for each in manifests()
        if "template" in each.get("spec", {})
    ]


def test_every_manifest_is_valid(validate: Callable[[Manifest], None]) -> None:
    """The oldest Kubernetes that the page is for takes it, and the newest one."""
    kinds = [each["kind"] for each in manifests()]
    assert {"Namespace", "ServiceAccount", "DaemonSet", "Job"} <= set(kinds)
    for manifest in manifests():
        validate(manifest)


def _without_selector(manifest: Manifest) -> None:
    del manifest["spec"]["selector"]


def _misspelled(manifest: Manifest) -> None:
    manifest["spec"]["template"]["spec"]["hostPid"] = True


def _of_the_wrong_type(manifest: Manifest) -> None:
    manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = "yes"


def _of_no_group(manifest: Manifest) -> None:
    manifest["apiVersion"] = "apps/v0"


@pytest.mark.parametrize(
    "spoil", [_without_selector, _misspelled, _of_the_wrong_type, _of_no_group]
)
def test_a_wrong_manifest_is_not_valid(
    validate: Callable[[Manifest], None], spoil: Callable[[Manifest], None]
) -> None:
    """The validator finds what it is there to find."""
    manifest = the("DaemonSet")
    validate(manifest)
    spoil(manifest)
    with pytest.raises(ValueError, match=r"."):
        validate(manifest)


def test_what_a_pod_mounts_is_there() -> None:
    """No schema tells: each mount has its volume, and a path of the node is the same in the pod."""
    assert pods()
    for pod in pods():
        (container,) = pod["containers"]
        places = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert places.keys() == volumes.keys()
        for name, volume in volumes.items():
            if "hostPath" in volume:
                assert places[name] == volume["hostPath"]["path"]


def test_what_a_manifest_refers_to_is_there() -> None:
    """Labels, accounts, namespaces and roles are those of the other manifests."""
    daemons = the("DaemonSet")["spec"]
    assert daemons["selector"]["matchLabels"] == daemons["template"]["metadata"]["labels"]
    accounts = {
        each["metadata"]["name"] for each in manifests() if each["kind"] == "ServiceAccount"
    }
    assert {pod["serviceAccountName"] for pod in pods()} <= accounts
    binding = the("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == the("ClusterRole")["metadata"]["name"]
    assert {each["name"] for each in binding["subjects"]} <= accounts
    spaces = {each["metadata"].get("namespace") for each in manifests()} - {None}
    assert spaces == {the("Namespace")["metadata"]["name"]}


def test_images_are_placeholders() -> None:
    """No manifest says where an image comes from."""
    assert {pod["containers"][0]["image"] for pod in pods()} == {"mountcr:latest"}


def test_the_script_of_the_job_is_one() -> None:
    """The shell finds no fault in it."""
    container = the("Job")["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["/bin/sh", "-c"]
    (script,) = container["args"]
    subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=True)
