# SPDX-License-Identifier: Apache-2.0
"""A mount graph as a tree, as documents, as pictures and as a page, whatever mounts are called."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import builders
from mountcr import paths
from mountcr.cli import graphviz
from mountcr.errors import CapabilityError
from mountcr.graph import MountGraph, Node
from mountcr.planning.planner import make_plan
from mountcr.render.dot import EDGES, dot
from mountcr.render.graph import document, outline_graph
from mountcr.render.html import LARGEST_PICTURE, html
from mountcr.render.marks import Marks, marks_of
from mountcr.render.picture import svg
from mountcr.render.text import dot_string, markup, printable, shortened
from strategies import tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mountcr.model import Mount

NAMES = ["docker26-overlay2", "kernel-deb-6.12-overlay", "podman-fuse"]
OVERLAY = "kernel-deb-6.12-overlay"

HOSTILE: list[bytes] = [
    b"/<script>alert(1)</script>",
    b"/'\" onload=x y=",
    b'/a"]; x -> y; z [label="',
    b"/\\",
    b"/\\N\\G\\l",
    b"/&lt;b&gt;&#60;",
    b"/]]></svg></style><!--",
    b"/\xff\xfe",
    b"/\x1b[31m\x07",
    b"/a\nb\tc d",
    "/\u202egnp.exe".encode(),
    "/\u2028é".encode(),
    b"/" + b"long" * 60,
]


def recorded(name: str) -> tuple[MountGraph, Marks]:
    """A recorded container, with its marks."""
    facts = builders.facts(builders.recorded(name), builders.recorded(f"{name}.host"))
    graph = MountGraph(facts.namespaces)
    return graph, marks_of(graph, facts, make_plan(facts).externals)


def graph_of(mounts: Iterable[Mount]) -> MountGraph:
    return MountGraph([builders.namespace(tuple(mounts))])


def named(names: Iterable[bytes]) -> tuple[MountGraph, Marks]:
    """A graph with mounts of such names, the names everywhere where a container has a say."""
    spelled = [paths.encode(name) for name in names]
    mounts = [tmpfs(1, 0, paths.ROOT)]
    for number, name in enumerate(spelled, 2):
        mount = tmpfs(number, 1, name, root=name, optional=("shared:7",))
        text = str(name).replace(",", "")
        mounts.append(msgspec.structs.replace(mount, source=name, super_options=f"rw,x={text}"))
    externals = {Node(builders.CONTAINER_NS, each.id): str(each.mountpoint) for each in mounts[1:]}
    return graph_of(mounts), Marks(externals=externals, host=frozenset({7}))


def parsed(text: str) -> ET.Element:
    """Parse a picture of ours; raises ParseError if it is no XML."""
    return ET.fromstring(text)  # noqa: S314  # made here


def chain(length: int) -> MountGraph:
    """Mounts that each lie on the one before: a tree without a fork, in which one is seen."""
    mounts = [tmpfs(1, 0, paths.ROOT)]
    mounts += [tmpfs(each, each - 1, paths.KPath("/mnt")) for each in range(2, length + 1)]
    return graph_of(mounts)


# --- Text -----------------------------------------------------------------------------------------


@given(st.binary(max_size=20))
def test_printable_text_is_the_same_path(raw: bytes) -> None:
    """Nothing in it moves a cursor or turns the writing, and it decodes to the same bytes."""
    text = printable(paths.encode(raw))
    assert text.isprintable()
    assert paths.decode(paths.KPath(text)) == raw


def test_the_middle_of_long_text_is_left_out() -> None:
    """Both ends of a path are kept, at the length asked for."""
    assert shortened("short") == "short"
    assert len(shortened("/begin" + "x" * 100 + "/end")) == 40
    assert shortened("/begin" + "x" * 100 + "/end", 20).endswith("/end")


# --- The tree -------------------------------------------------------------------------------------


def test_an_outline_of_a_graph() -> None:
    """The tree of the mounts, with what is bound, what propagates and what is hidden."""
    graph = graph_of(builders.recorded(OVERLAY))
    lines = outline_graph(graph).plain().splitlines()
    assert lines[0] == "1 mount namespace(s)"
    assert f"mnt:[{builders.CONTAINER_NS}], pid {builders.ROOT_PID}" in lines[1]
    assert len(lines) == len(graph.tree.mounts) + 2
    (hidden,) = (line for line in lines if line.endswith(" hidden"))
    assert "/slave ext4 [/vol/slave] rw,relatime shared:4" in hidden
    below = lines[lines.index(hidden) + 1]
    assert "master:4" in below
    assert below.index("/slave") > hidden.index("/slave")


def test_an_outline_with_what_is_outside() -> None:
    """Externals have their names, groups that reach to the host a word, unlinked roots another."""
    facts = builders.facts(
        """
        10 5 0:50 / / rw - tmpfs t rw
        11 10 8:1 /srv/data /data rw,nosuid shared:3 - ext4 /dev/a rw
        12 10 8:1 /srv/gone//deleted /gone rw master:4 - ext4 /dev/a rw
        13 10 0:51 / /own rw shared:9 - tmpfs t rw
        """,
        """
        1 0 8:1 / / rw shared:3 - ext4 /dev/a rw
        2 1 8:1 /srv/gone /srv/gone rw shared:4 - ext4 /dev/a rw
        """,
    )
    graph = MountGraph(facts.namespaces)
    plan = make_plan(facts)
    lines = outline_graph(graph, marks_of(graph, facts, plan.externals)).plain().splitlines()[2:]
    keys = {str(each.mountpoint): each.key for each in plan.externals}
    assert [line.lstrip("│├└─ ") for line in lines] == [
        "/ tmpfs rw",
        f"/data ext4 [/srv/data] rw,nosuid shared:3 (host) external {keys['/data']}",
        f"/gone ext4 [/srv/gone deleted] rw master:4 (host) external {keys['/gone']}",
        "/own tmpfs rw shared:9",
    ]


def test_the_tree_of_the_host_itself_has_no_groups_elsewhere() -> None:
    """What is in the observer's own namespace is not outside."""
    facts = builders.facts(
        "10 5 0:50 / / rw shared:1 - tmpfs t rw", "10 5 0:50 / / rw shared:1 - tmpfs t rw"
    )
    facts = msgspec.structs.replace(
        facts,
        host=msgspec.structs.replace(facts.host, namespaces={"mnt": builders.CONTAINER_NS}),
    )
    graph = MountGraph(facts.namespaces)
    assert marks_of(graph, facts, ()).host == frozenset()


# --- The document ---------------------------------------------------------------------------------


def test_the_document_of_a_graph() -> None:
    """Mounts, relations and groups name each other by namespace and id."""
    graph = graph_of(builders.recorded(OVERLAY))
    found = json.loads(msgspec.json.encode(document(graph)))
    nodes = {each["node"] for each in found["mounts"]}
    assert found["schema"] == "mountcr/graph/1"
    assert len(nodes) == len(graph.tree.mounts)
    assert {"kind", "from", "to"} == set(found["edges"][0])
    assert {each[end] for each in found["edges"] for end in ("from", "to")} <= nodes
    assert {node for members in found["groups"].values() for node in members} <= nodes
    hidden = [each["mountpoint"] for each in found["mounts"] if each["hidden"]]
    assert hidden == ["/slave"]
    assert {each["external"] for each in found["mounts"]} == {None}


def test_the_document_names_what_is_external() -> None:
    """The name is the one in CRIU's options."""
    graph, marks = recorded("docker26-overlay2")
    found = {str(each.mountpoint): each.external for each in document(graph, marks).mounts}
    assert found["/etc/hosts"] is not None
    assert found["/proc"] is None
    assert Counter(map(bool, found.values()))[True] == len(marks.externals)


# --- Graphviz -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_for_graphviz(name: str) -> None:
    """Every mount is a node, every relation an edge in its colour, the same at each run."""
    graph, marks = recorded(name)
    text = dot(graph, marks)
    assert text == dot(*recorded(name))
    nodes = re.findall(r"^    m(\d+)_(\d+) \[label=", text, re.MULTILINE)
    assert [Node(int(one), int(two)) for one, two in nodes] == [node for node, _ in graph.nodes()]
    edges = Counter(re.findall(r'^  m\d+_\d+ -> m\d+_\d+ \[color="(#\w+)"', text, re.MULTILINE))
    assert edges == Counter(EDGES[edge.kind].color for edge in graph.edges())
    assert text.count('class="mount') == len(nodes)
    assert len(re.findall(r'class="mount \w+ external', text)) == len(marks.externals)


def test_a_cluster_for_each_namespace() -> None:
    """Mounts of one namespace are drawn together, and edges go between them."""
    table = builders.table("10 5 0:50 / / rw shared:1 - tmpfs t rw")
    other = builders.namespace(table, identity=builders.CONTAINER_NS + 1, pid=200)
    text = dot(MountGraph([builders.namespace(table), other]))
    assert text.count("subgraph cluster_") == 2
    assert f"m{builders.CONTAINER_NS}_10 -> m{builders.CONTAINER_NS + 1}_10" in text


@pytest.mark.requires("dot")
@pytest.mark.parametrize("name", HOSTILE)
def test_graphviz_shows_names_as_they_are(name: bytes) -> None:
    """Whatever a mount is called, Graphviz makes well-formed XML in which it reads so."""
    graph, marks = named([name])
    picture = parsed(graphviz.draw(dot(graph, marks)))
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    shown = shortened(printable(paths.encode(name)), 60)
    assert shown in [text.replace("\u00a0", " ") for text in texts if text]
    assert not list(picture.iter("{http://www.w3.org/2000/svg}script"))
    nodes = [each for each in picture.iter() if "mount" in each.get("class", "").split()]
    assert len(nodes) == 2


def test_graphviz_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That is said in a line, with what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CapabilityError, match="there is no program `dot`") as error:
        graphviz.draw("digraph {}")
    assert error.value.exit_status == 6
    assert "graphviz" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'syntax error in line 1' >&2; exit 1", "dot failed: syntax error in line 1"),
        ("exit 3", "dot failed: status 3"),
        ("true", "dot failed: status 0"),
        ("exec sleep 60", "dot took longer than 1 s"),
    ],
)
def test_graphviz_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, message: str
) -> None:
    """The first line of its complaint is passed on; nothing is waited for longer than asked."""
    program = tmp_path / "dot"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(CapabilityError, match=message) as error:
        graphviz.draw("digraph {}", seconds=1)
    assert error.value.hint


# --- The page -------------------------------------------------------------------------------------

VOID = {"meta", "input", "wbr"}


class Element(NamedTuple):
    """A start tag with its attributes."""

    tag: str
    attributes: dict[str, str | None]


class Page(HTMLParser):
    """What a browser makes of a page; every element must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.rows: list[list[str]] = []
        self.script = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element, and begin a row or a cell."""
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element of SVG that is empty."""
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Claim that it closes what was opened last."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Gather the text of cells and of the script."""
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
        if self._open[-1:] == ["script"]:
            self.script += data

    def tags(self) -> Counter[str]:
        """Count the elements by name."""
        return Counter(each.tag for each in self.elements)


def page_of(graph: MountGraph, marks: Marks, drawn: str | None = None) -> tuple[str, Page]:
    text = html(graph, marks, title="Mounts of <it>", drawn=drawn)
    return text, Page(text)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_a_row_for_each_mount(name: str) -> None:
    """The table holds every mount in the order of the tables, externals by name."""
    graph, marks = recorded(name)
    _, page = page_of(graph, marks)
    head, *rows = page.rows
    found = [dict(zip(head, row, strict=True)) for row in rows]
    mounts = [(node, mount) for node, mount in graph.nodes()]
    assert [row["Mountpoint"] for row in found] == [mount.mountpoint for _, mount in mounts]
    assert [row["Id"] for row in found] == [str(mount.id) for _, mount in mounts]
    assert [row["Superblock"] for row in found] == [mount.super_options for _, mount in mounts]
    assert [row["External"] for row in found] == [
        marks.externals.get(node, "") for node, _ in mounts
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_asks_nobody(name: str) -> None:
    """It refers to nothing: no address is in it, and the browser is told to load nothing."""
    text, page = page_of(*recorded(name))
    assert "://" not in text
    assert "url(" not in text
    attributes = {key for each in page.elements for key in each.attributes}
    assert not attributes & {"src", "href", "xlink:href", "srcset", "action"}
    (policy,) = (
        each.attributes["content"] or ""
        for each in page.elements
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")


@pytest.mark.requires("dot")
def test_the_page_with_the_picture_of_graphviz() -> None:
    """Its SVG stands in the page, without the addresses that a file of its own names."""
    graph, marks = recorded("docker26-overlay2")
    text, page = page_of(graph, marks, graphviz.draw(dot(graph, marks)))
    assert "://" not in text
    assert "<?xml" not in text
    assert page.tags()["svg"] == 1
    assert page.tags()["ellipse"] + page.tags()["polygon"] > len(graph.tree.mounts) // 2


def test_the_page_can_be_used() -> None:
    """Light and dark, a table that is plain without the script, buttons and states with it."""
    text, page = page_of(*recorded(OVERLAY))
    assert "prefers-color-scheme: dark" in text
    assert page.tags()["table"] == 1
    assert page.tags()["button"] == 0
    (search,) = (each for each in page.elements if each.attributes.get("class") == "search")
    assert "hidden" in search.attributes
    assert all(each.attributes.get("scope") == "col" for each in page.elements if each.tag == "th")
    for word in ('createElement("button")', "aria-sort", 'addEventListener("input"'):
        assert word in page.script


def test_names_stay_names_in_the_page() -> None:
    """No name of a mount becomes a tag, an attribute or a script; the table shows it whole."""
    graph, marks = named(HOSTILE)
    text, page = page_of(graph, marks)
    harmless, plain = page_of(*named([b"/%d" % number for number in range(len(HOSTILE))]))
    assert page.tags()["script"] == 1
    assert page.script == plain.script
    assert {each.tag for each in page.elements} == {each.tag for each in plain.elements}
    assert {key for each in page.elements for key in each.attributes} == {
        key for each in plain.elements for key in each.attributes
    }
    shown = [row[0] for row in page.rows[2:]]
    assert shown == [printable(paths.encode(name)) for name in HOSTILE]
    assert [paths.decode(paths.KPath(each)) for each in shown] == HOSTILE
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2028]", text)
    assert len(harmless) < len(text)


@given(st.lists(st.binary(min_size=1, max_size=12).map(b"/%s".__mod__), max_size=4, unique=True))
def test_any_name_stays_a_name(names: list[bytes]) -> None:
    """Of any bytes, the page parses, the picture is well-formed XML, and cells decode to them."""
    graph, marks = named(names)
    _, page = page_of(graph, marks)
    assert [paths.decode(paths.KPath(row[0])) for row in page.rows[2:]] == names
    assert parsed(svg(graph, marks)).tag == "svg"
    for name in names:
        assert "\n" not in dot_string(paths.encode(name))
        assert "<" not in markup(paths.encode(name))


def test_a_page_of_very_many_mounts_has_no_picture() -> None:
    """The table is there, and a sentence in place of the picture."""
    mounts = [tmpfs(1, 0, paths.ROOT)]
    mounts += [tmpfs(each, 1, paths.KPath(f"/{each}")) for each in range(2, LARGEST_PICTURE + 2)]
    text, page = page_of(graph_of(mounts), Marks())
    assert page.tags()["svg"] == 0
    assert f"no picture of more than {LARGEST_PICTURE} mounts" in text
    assert len(page.rows) == LARGEST_PICTURE + 2


# --- Deep and large -------------------------------------------------------------------------------

FORMS: dict[str, Callable[[MountGraph], object]] = {
    "tree": lambda graph: outline_graph(graph).plain(),
    "json": lambda graph: msgspec.json.encode(document(graph)),
    "dot": dot,
    "picture": svg,
    "html": lambda graph: html(graph, title="deep"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_chain_of_five_thousand_mounts(form: str) -> None:
    """Depth is no limit."""
    assert FORMS[form](chain(5000))


@pytest.mark.requires("dot")
def test_graphviz_takes_what_is_printed() -> None:
    """The text for Graphviz is what its own parser takes, for every recorded container."""
    for name in builders.recorded_names():
        if name.endswith((".host", ".restored")):
            continue
        graph = graph_of(builders.recorded(name))
        done = subprocess.run(
            ["dot", "-Tcanon"], input=dot(graph).encode(), capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), name
