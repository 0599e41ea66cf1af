# SPDX-License-Identifier: Apache-2.0
"""CRIU's options: the command line that is printed is the request that is sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcr.criu import rpc_pb2 as rpc
from mountcr.criu.options import (
    CgroupMode,
    CriuOptions,
    Kind,
    config_text,
    external_bytes,
    to_argv,
    to_request,
)
from mountcr.errors import UsageError
from mountcr.paths import KPath, decode

if TYPE_CHECKING:
    from collections.abc import Callable

DUMP = CriuOptions(kind=Kind.DUMP, pid=7, images=KPath("/images"))
RESTORE = CriuOptions(kind=Kind.RESTORE, images=KPath("/images"))

# Option, its value, the words of the command line, the field of the request and its value.
FIELDS: list[tuple[str, object, list[str], str, object]] = [
    ("pid", 8, ["--tree", "8"], "pid", 8),
    ("work", KPath(r"/my\040work"), ["--work-dir", "/my work"], "work_dir_fd", 22),
    ("root", KPath(r"/a\012b"), ["--root", "/a\nb"], "root", b"/a\nb"),
    ("externals", ("file[7f:264]",), ["--external", "file[7f:264]"], "external", [b"file[7f:264]"]),
    ("leave_running", True, ["--leave-running"], "leave_running", True),
    ("shell_job", True, ["--shell-job"], "shell_job", True),
    ("tcp_established", True, ["--tcp-established"], "tcp_established", True),
    ("tcp_close", True, ["--tcp-close"], "tcp_close", True),
    ("file_locks", True, ["--file-locks"], "file_locks", True),
    ("link_remap", True, ["--link-remap"], "link_remap", True),
    ("evasive_devices", True, ["--evasive-devices"], "evasive_devices", True),
    ("ext_unix_sk", True, ["--ext-unix-sk"], "ext_unix_sk", True),
    ("mntns_compat", True, ["--mntns-compat-mode"], "mntns_compat_mode", True),
    ("ghost_limit", 4096, ["--ghost-limit", "4096"], "ghost_limit", 4096),
    ("skip_mnt", (KPath("/a"),), ["--skip-mnt", "/a"], "skip_mnt", [b"/a"]),
    ("enable_fs", ("ext4", "xfs"), ["--enable-fs", "ext4,xfs"], "enable_fs", [b"ext4", b"xfs"]),
    ("log_level", 2, ["-v2"], "log_level", 2),
    ("log_file", "a.log", ["--log-file", "a.log"], "log_file", b"a.log"),
    ("manage_cgroups", CgroupMode.FULL, ["--manage-cgroups=full"], "manage_cgroups_mode", 4),
]
COMPOSED = {"kind", "images", "inherit_fds", "cgroup_roots", "extra"}


def sublist(words: list[str], argv: list[str]) -> bool:
    return any(argv[at : at + len(words)] == words for at in range(len(argv)))


@pytest.mark.parametrize(("option", "value", "words", "field", "sent"), FIELDS)
def test_each_option_is_in_both(
    option: str, value: object, words: list[str], field: str, sent: object
) -> None:
    """An option that is set is in the command line and in the request, and in no other field."""
    plain = to_request(DUMP, 21, 22).options
    options = msgspec.structs.replace(DUMP, **{option: value})
    argv = to_argv(options)
    assert sublist(words, argv)
    assert not sublist(words, to_argv(DUMP))
    request = to_request(options, 21, 22).options
    got = getattr(request, field)
    assert (list(got) if isinstance(sent, list) else got) == sent
    changed = {item.name for item, _ in request.ListFields()} - {
        item.name for item, _ in plain.ListFields()
    }
    assert changed <= {field}
    request.ClearField(field)
    plain.ClearField(field)
    assert request == plain


def test_no_option_is_forgotten() -> None:
    """Each field of the record is tested here."""
    assert {row[0] for row in FIELDS} | COMPOSED == set(CriuOptions.__struct_fields__)


def test_whole_command_lines() -> None:
    """The words of a dump and of a restore, complete."""
    dump = msgspec.structs.replace(DUMP, externals=(r"mnt[/my\040data]:data",), shell_job=True)
    assert to_argv(dump, ("ld.so", "criu")) == [
        "ld.so",
        "criu",
        "dump",
        "--tree",
        "7",
        "--images-dir",
        "/images",
        "-v4",
        "--log-file",
        "dump.log",
        "--manage-cgroups=ignore",
        "--shell-job",
        "--external",
        "mnt[/my data]:data",
    ]
    restore = msgspec.structs.replace(
        RESTORE,
        inherit_fds=((4, "pipe:[99]"),),
        cgroup_roots=(("cpu,cpuacct", KPath("/x")), ("", KPath("/y"))),
        extra=("--tcp-close", "-v2"),
    )
    assert to_argv(restore)[1:] == [
        "restore",
        "--restore-detached",
        "--images-dir",
        "/images",
        "-v4",
        "--log-file",
        "restore.log",
        "--manage-cgroups=ignore",
        "--cgroup-root",
        "cpu,cpuacct:/x",
        "--cgroup-root",
        "/y",
        "--inherit-fd",
        "fd[4]:pipe:[99]",
        "--tcp-close",
        "-v2",
    ]


# --- Both ways say the same, whatever is set ------------------------------------------------------

NAMES = st.text("abz/ ]:\\\t\né", min_size=1, max_size=6)
KPATHS = NAMES.map(
    lambda name: KPath("/" + re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", name))
)
OPTIONS = st.builds(
    CriuOptions,
    kind=st.sampled_from(Kind),
    pid=st.integers(0, 1 << 22),
    images=KPATHS,
    work=st.none() | KPATHS,
    root=st.none() | KPATHS,
    externals=st.lists(st.builds("mnt[{}]:{}".format, KPATHS, KPATHS), max_size=3).map(tuple),
    inherit_fds=st.lists(st.tuples(st.integers(3, 99), KPATHS), max_size=2).map(tuple),
    manage_cgroups=st.sampled_from(CgroupMode),
    cgroup_roots=st.lists(st.tuples(st.sampled_from(["", "cpu"]), KPATHS), max_size=2).map(tuple),
    leave_running=st.booleans(),
    shell_job=st.booleans(),
    tcp_established=st.booleans(),
    file_locks=st.booleans(),
    link_remap=st.booleans(),
    evasive_devices=st.booleans(),
    ext_unix_sk=st.booleans(),
    mntns_compat=st.booleans(),
    ghost_limit=st.none() | st.integers(0, (1 << 32) - 1),
    skip_mnt=st.lists(KPATHS, max_size=2).map(tuple),
    enable_fs=st.lists(st.sampled_from(["ext4", "xfs", "nfs"]), max_size=2).map(tuple),
    log_level=st.integers(0, 4),
    log_file=st.sampled_from(["", "x.log"]),
)

Meaning = dict[str, list[bytes]]
FLAG_WORDS = {
    "leave_running": "leave-running",
    "shell_job": "shell-job",
    "tcp_established": "tcp-established",
    "file_locks": "file-locks",
    "link_remap": "link-remap",
    "evasive_devices": "evasive-devices",
    "ext_unix_sk": "ext-unix-sk",
    "mntns_compat_mode": "mntns-compat-mode",
}


def meaning_of_argv(argv: list[str]) -> Meaning:
    """Read a command line as getopt_long(3) with CRIU's options does."""
    raw = [word.encode("utf-8", "surrogateescape") for word in argv[1:]]
    meaning: Meaning = {"command": [raw.pop(0)]}
    while raw:
        word = raw.pop(0)
        name, equals, value = word.decode().lstrip("-").partition("=")
        if re.fullmatch(r"-v\d", word.decode()):
            name, value = "verbosity", name[1:]
        elif name not in {*FLAG_WORDS.values(), "restore-detached"} and not equals:
            meaning.setdefault(name, []).append(raw.pop(0))
            continue
        meaning.setdefault(name, []).append(value.encode())
    meaning["enable-fs"] = b",".join(meaning.get("enable-fs", [])).split(b",")
    meaning.pop("restore-detached", None)  # RPC knows no other way
    return meaning


def meaning_of_request(request: rpc.Request, options: CriuOptions) -> Meaning:
    """Say a request in the words of the command line, by what CRIU takes each field for."""
    sent = request.options
    modes = ["ignore", "none", "props", "soft", "full", "strict"]
    meaning: Meaning = {
        "command": [b"dump" if request.type == rpc.DUMP else b"restore"],
        "images-dir": [decode(options.images)] if sent.images_dir_fd == 21 else [],
        "verbosity": [b"%d" % sent.log_level],
        "log-file": [sent.log_file],
        "manage-cgroups": [modes[sent.manage_cgroups_mode].encode()],
        "enable-fs": b",".join(sent.enable_fs).split(b","),
        "external": list(sent.external),
        "skip-mnt": list(sent.skip_mnt),
        "inherit-fd": [b"fd[%d]:%s" % (item.fd, item.key) for item in sent.inherit_fds],
        "cgroup-root": [
            (item.controllers + b":" if item.controllers else b"") + item.path
            for item in sent.cgroup_roots
        ],
    }
    if sent.HasField("pid"):
        meaning["tree"] = [b"%d" % sent.pid]
    if sent.HasField("work_dir_fd") and sent.work_dir_fd == 22:
        meaning["work-dir"] = [decode(options.work or KPath(""))]
    if sent.HasField("root"):
        meaning["root"] = [sent.root]
    if sent.HasField("ghost_limit"):
        meaning["ghost-limit"] = [b"%d" % sent.ghost_limit]
    for field, word in FLAG_WORDS.items():
        if getattr(sent, field):
            meaning[word] = [b""]
    return {name: values for name, values in meaning.items() if values}


@given(options=OPTIONS)
def test_command_line_and_request_mean_the_same(options: CriuOptions) -> None:
    """Whatever is set, what CRIU understands of the words is what it understands of the fields."""
    request = to_request(options, 21, 22)
    assert meaning_of_argv(to_argv(options)) == meaning_of_request(request, options)


@given(options=OPTIONS)
def test_options_are_json(options: CriuOptions) -> None:
    """Options go into a plan and come back."""
    assert msgspec.json.decode(msgspec.json.encode(options), type=CriuOptions) == options


# --- What CRIU compares and what it opens ---------------------------------------------------------


def test_escapes_of_externals() -> None:
    """Of a mountpoint CRIU undoes three escapes; of a path that it opens none may be left."""
    text = r"mnt[/a\040b\012c\134]:/d\040e\012f"
    assert external_bytes(text, Kind.DUMP) == b"mnt[/a b\\012c\\]:/d e\\012f"
    assert external_bytes(text, Kind.RESTORE) == b"mnt[/a b\\012c\\]:/d e\nf"
    assert external_bytes(r"mnt[/\xff]:x", Kind.DUMP) == b"mnt[/\xff]:x"
    assert external_bytes("file[7f:264]", Kind.RESTORE) == b"file[7f:264]"


def test_a_path_that_is_not_utf8_reaches_exec() -> None:
    """A word of the command line is made of the very bytes."""
    options = msgspec.structs.replace(RESTORE, root=KPath(r"/\xff"))
    assert "/\udcff" in to_argv(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": ("--weak-sysctls",)}, "configuration file"),
        ({"log_file": "a/b"}, "not a path"),
    ],
)
def test_what_a_request_cannot_say(change: dict[str, object], message: str) -> None:
    """A caller that forgets the configuration file, or gives a path as a name, is told."""
    with pytest.raises(ValueError, match=message):
        to_request(msgspec.structs.replace(DUMP, **change), 21)


# --- Words behind -- ------------------------------------------------------------------------------


def spaced(name: str, quoted: str) -> str:
    """A line with a quoted value, which CRIU 4.1 only reads when it stands so far to the right."""
    return f"{name}{' ' * len(quoted)}{quoted}"


@pytest.mark.parametrize(
    ("extra", "lines"),
    [
        ((), []),
        (("--weak-sysctls",), ["weak-sysctls"]),
        (("--ghost-limit", "2M", "--tcp-close"), ["ghost-limit 2M", "tcp-close"]),
        (("--ghost-limit=2M",), ["ghost-limit=2M"]),
        (("--action-script", "a b"), [spaced("action-script", '"a b"')]),
        (("--action-script=a b",), [spaced("action-script", '"a b"')]),
        (("--lsm-mount-context", '"x y"'), [spaced("lsm-mount-context", r'"\"x y\""')]),
        (("--external=mnt[a]:b=c",), ["external=mnt[a]:b=c"]),
        (("-jl", "-R"), ["shell-job", "file-locks", "leave-running"]),
        (("-r", "/x", "-J", "net:/proc/1/ns/net"), ["root /x", "join-ns net:/proc/1/ns/net"]),
        (("-ljr/x y",), ["file-locks", "shell-job", spaced("root", '"/x y"')]),
        (("-vvv", "-v2", "-v"), ["verbosity=3", "verbosity=2", "verbosity=1"]),
    ],
)
def test_configuration_lines(extra: tuple[str, ...], lines: list[str]) -> None:
    """Each option is one line, spelled so that CRIU's parser reads the value that was meant."""
    assert config_text(extra).splitlines() == lines


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("word",), "'word' is not an option of CRIU"),
        (("--tcp-close", "--", "x"), "'--' is not an option"),
        (("-",), "'-' is not an option"),
        (("-jx",), "'-jx' is not an option"),
        (("-vx",), "'-vx' is not an option"),
        (("-r",), "'-r' needs a value"),
        (("--images-dir", "/x"), "'--images-dir' cannot be given"),
        (("--tree=1",), "'--tree=1' cannot be given"),
        (("-D", "/x"), "'-D' cannot be given"),
        (("--config", "/x"), "'--config' cannot be given"),
        (("--root", "/a#b"), "configuration files cannot hold '/a#b'"),
        (("--root", "/a\nb"), "cannot hold"),
        (("--root", '/a\\"b'), "cannot hold"),
        (("--root", "/a b\\"), "cannot hold"),
        (("--root=",), "cannot hold ''"),
    ],
)
def test_words_that_are_refused(extra: tuple[str, ...], message: str) -> None:
    """A word that is no option, is mountcr's own, or cannot be spelled, is named."""
    with pytest.raises(UsageError, match=re.escape(message)):
        config_text(extra)


def test_protobuf_is_loaded_late(run_python: Callable[[str], str]) -> None:
    """Importing the options and printing a command line loads no protobuf."""
    code = (
        "import sys; from mountcr.criu import options, images, log, binary, session; "
        "print(options.to_argv(options.CriuOptions(kind=options.Kind.DUMP, images='/x'))[0]); "
        "print([name for name in sys.modules if name.startswith('google')])"
    )
    assert run_python(code) == "criu\n[]\n"


@pytest.fixture
def run_python() -> Callable[[str], str]:
    import subprocess
    import sys

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return done.stdout.decode()

    return run
