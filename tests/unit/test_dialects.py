# SPDX-License-Identifier: Apache-2.0
"""CRIU's options in other dialects say the same, or say what they cannot."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import msgspec
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from hypothesis import given
from hypothesis import strategies as st

from mountcr import paths
from mountcr.criu import rpc_pb2 as rpc
from mountcr.criu.dialects import (
    RPC_NAMES,
    configuration,
    legacy_argv,
    legacy_since,
    rpc_json,
    shell_line,
)
from mountcr.criu.options import CgroupMode, CriuOptions, Kind, to_request
from mountcr.errors import CapabilityError
from mountcr.paths import KPath

if TYPE_CHECKING:
    from google.protobuf.message import Message

DUMP = CriuOptions(
    kind=Kind.DUMP,
    pid=7,
    images=KPath("/images"),
    root=KPath("/root"),
    externals=("mnt[/etc/hosts]:hosts", r"mnt[/my\040data]:data"),
    manage_cgroups=CgroupMode.SOFT,
    file_locks=True,
)
RESTORE = CriuOptions(
    kind=Kind.RESTORE,
    images=KPath("/images"),
    root=KPath("/run/root"),
    externals=(r"mnt[data]:/srv/my\040data",),
    inherit_fds=((1, "pipe:[99]"),),
)


def refused(error: pytest.ExceptionInfo[CapabilityError]) -> str:
    """The message of an error of one line, which must have a hint."""
    assert error.value.exit_status == 6
    assert error.value.hint
    assert "\n" not in error.value.message
    return error.value.message


# --- argv -----------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(1, 255), min_size=1, max_size=8).map(bytes), max_size=5))
def test_a_shell_reads_the_very_words(words: list[bytes]) -> None:
    """Whatever bytes the words are made of, a shell gives them to the program, from one line."""
    line = shell_line(map(paths.encode, words))
    assert "\n" not in line
    assert line.isprintable() or not line.isascii()
    done = subprocess.run(
        ["bash", "-c", f"for word in {line}; do printf '%s\\0' \"$word\"; done"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C"},
    )
    assert done.stdout.split(b"\0")[:-1] == words


def test_plain_words_stay_as_they_are() -> None:
    """What needs no quotes has none, what a POSIX shell can quote is quoted so."""
    words = ["criu", "--external", "mnt[/etc/hosts]:hosts", r"/my\040data", r"/a\012b", r"/\xff"]
    assert shell_line(words) == (
        r"criu --external 'mnt[/etc/hosts]:hosts' '/my data' $'/a\012b' $'/\377'"
    )


# --- legacy ---------------------------------------------------------------------------------------


def test_an_old_criu_gets_its_own_words() -> None:
    """Externals are maps, control groups have no mode, everything else stays."""
    assert " ".join(legacy_argv(DUMP)) == (
        "criu dump --tree 7 --images-dir /images -v4 --log-file dump.log --root /root"
        " --manage-cgroups --file-locks"
        r" --ext-mount-map /etc/hosts:hosts --ext-mount-map /my\040data:data"
    )
    restore = legacy_argv(RESTORE)
    assert restore[-2:] == ["--ext-mount-map", r"data:/srv/my\040data"]
    assert not any(word.startswith(("--external", "--manage-cgroups")) for word in restore)


def test_autodetection_has_its_old_name() -> None:
    """`mnt[]` was `auto`, its letters were options of their own."""
    options = msgspec.structs.replace(DUMP, externals=("mnt[]", "mnt[]:m", "mnt[]:s"))
    words = legacy_argv(options)
    assert "--enable-external-masters" in words
    assert "--enable-external-sharing" in words
    assert words[words.index("--ext-mount-map") + 1] == "auto"


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("externals", ("file[7f:264]",), "--external file[7f:264]"),
        ("externals", ("tty[8800:d]",), "--external tty[8800:d]"),
        ("externals", ("dev[8/1]:root",), "--external dev[8/1]:root"),
        ("externals", ("mnt[/a:b]:x",), "--ext-mount-map of mnt[/a:b]:x"),
        ("externals", ("mnt[/a]:b]:x",), "--ext-mount-map of mnt[/a]:b]:x"),
        ("inherit_fds", ((1, "file[7f:264]"),), "--inherit-fd file[7f:264]"),
        ("inherit_fds", ((1, "tty[8800:d]"),), "--inherit-fd tty[8800:d]"),
        ("manage_cgroups", CgroupMode.FULL, "--manage-cgroups=full"),
        ("manage_cgroups", CgroupMode.NONE, "--manage-cgroups=none"),
    ],
)
def test_what_an_old_criu_has_no_words_for(field: str, value: object, named: str) -> None:
    """It is an error that names the option, never a command line without it."""
    with pytest.raises(CapabilityError) as error:
        legacy_argv(msgspec.structs.replace(DUMP, **{field: value}))
    assert refused(error) == f"{named} cannot be said to a CRIU of 1.3 to 2"


def test_an_old_criu_has_one_engine() -> None:
    """What asks for the older engine is left out where there is no other."""
    asked = msgspec.structs.replace(DUMP, mntns_compat=True)
    assert legacy_argv(asked) == legacy_argv(DUMP)


@pytest.mark.parametrize(
    ("changes", "since"),
    [
        ({}, None),
        ({"inherit_fds": ((1, "pipe:[9]"),)}, ("--inherit-fd", "1.6")),
        ({"enable_fs": ("ext4",)}, ("--enable-fs", "1.6")),
        ({"skip_mnt": (KPath("/a"),), "ghost_limit": 9}, ("--ghost-limit", "1.7")),
    ],
)
def test_the_oldest_criu_that_will_do(
    changes: dict[str, object], since: tuple[str, str] | None
) -> None:
    """Options that came after CRIU 1.3 are told, the youngest of them."""
    assert legacy_since(msgspec.structs.replace(DUMP, **changes)) == since


# --- conf -----------------------------------------------------------------------------------------


def test_a_configuration_file_holds_what_a_runtime_does_not_give() -> None:
    """
    Externals and what the files need; no process, directory, log, root, pipe or cgroup mode.

    Quoted values stand as far to the right as they are long, or CRIU 4.1 does not read them.
    """
    assert configuration(DUMP).splitlines() == [
        "file-locks",
        "external mnt[/etc/hosts]:hosts",
        f'external{" " * 20}"mnt[/my data]:data"',
    ]
    assert configuration(RESTORE).splitlines() == [f'external{" " * 24}"mnt[data]:/srv/my data"']
    assert configuration(DUMP, cgroups=True).splitlines()[0] == "manage-cgroups=soft"


RUNTIME = {"kind", "pid", "images", "work", "root", "leave_running", "log_level", "log_file"}
"""What every runtime gives itself."""

SAMPLES: dict[str, object] = {
    "externals": ("file[7f:264]",),
    "cgroup_roots": (("", KPath("/x")),),
    "ghost_limit": 4096,
    "skip_mnt": (KPath("/a"),),
    "enable_fs": ("ext4", "xfs"),
    "extra": ("--tcp-close",),
}


@pytest.mark.parametrize(
    "field",
    sorted(set(CriuOptions.__struct_fields__) - RUNTIME - {"manage_cgroups", "inherit_fds"}),
)
def test_every_other_option_is_a_line_of_the_file(field: str) -> None:
    """An option that is set is in the file."""
    plain = CriuOptions(kind=Kind.DUMP, images=KPath("/images"))
    options = msgspec.structs.replace(plain, **{field: SAMPLES.get(field, True)})
    assert configuration(plain) == ""
    assert configuration(options) != ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (msgspec.structs.replace(DUMP, externals=("mnt[/a#b]:x",)), "--external mnt[/a#b]:x"),
        (msgspec.structs.replace(RESTORE, externals=(r"mnt[x]:/a\012b",)), r"mnt[x]:/a\012b"),
        (msgspec.structs.replace(RESTORE, inherit_fds=((1, "file[7f:264]"),)), "file[7f:264]"),
    ],
)
def test_what_a_configuration_file_cannot_hold(options: CriuOptions, named: str) -> None:
    """It is an error that names the value."""
    with pytest.raises(CapabilityError) as error:
        configuration(options)
    message = refused(error)
    assert message.startswith("a configuration file of CRIU cannot hold ")
    assert message.endswith(named)


# --- rpc-json -------------------------------------------------------------------------------------

# Names and numbers of the fields in CRIU's own images/rpc.proto.
CRIU_OPTS = {
    1: "images_dir_fd",
    2: "pid",
    3: "leave_running",
    4: "ext_unix_sk",
    5: "tcp_established",
    6: "evasive_devices",
    7: "shell_job",
    8: "file_locks",
    9: "log_level",
    10: "log_file",
    12: "notify_scripts",
    13: "root",
    17: "work_dir_fd",
    18: "link_remap",
    25: "cg_root",
    27: "inherit_fd",
    31: "skip_mnt",
    32: "enable_fs",
    34: "manage_cgroups_mode",
    35: "ghost_limit",
    37: "external",
    50: "orphan_pts_master",
    51: "config_file",
    52: "tcp_close",
    65: "mntns_compat_mode",
}
CGROUP_ROOT = {1: "ctrl", 2: "path"}
INHERIT_FD = {1: "key", 2: "fd"}
CG_MODES = {0: "IGNORE", 1: "CG_NONE", 2: "PROPS", 3: "SOFT", 4: "FULL", 5: "STRICT", 6: "DEFAULT"}
IMAGES_DIR = 68


@pytest.mark.parametrize(
    ("message", "names"),
    [(rpc.Options, CRIU_OPTS), (rpc.CgroupRoot, CGROUP_ROOT), (rpc.InheritFd, INHERIT_FD)],
)
def test_the_names_are_those_of_criu(message: type[Message], names: dict[int, str]) -> None:
    """Every field of our messages is called in JSON what CRIU's file calls its number."""
    ours = {
        field.number: RPC_NAMES.get(field.name, field.name) for field in message.DESCRIPTOR.fields
    }
    assert ours == names


def test_the_modes_are_those_of_criu() -> None:
    """Every mode that is sent is called what CRIU's file calls its number."""
    ours = {
        value.number: RPC_NAMES.get(value.name, value.name)
        for value in rpc.CgroupMode.DESCRIPTOR.values
    }
    assert ours == CG_MODES


def criu_opts() -> type[Message]:
    """Make the message of CRIU's file, by its own names: as go-criu and pycriu have it."""
    file = descriptor_pb2.FileDescriptorProto(name="criu.proto", syntax="proto2")
    modes = file.enum_type.add(name="criu_cg_mode")
    for number, name in CG_MODES.items():
        modes.value.add(name=name, number=number)
    for ours, name, names in (
        (rpc.CgroupRoot, "cgroup_root", CGROUP_ROOT),
        (rpc.InheritFd, "inherit_fd", INHERIT_FD),
        (rpc.Options, "criu_opts", {**CRIU_OPTS, IMAGES_DIR: "images_dir"}),
    ):
        message = file.message_type.add(name=name)
        proto = descriptor_pb2.DescriptorProto()
        ours.DESCRIPTOR.CopyToProto(proto)
        fields = {field.number: field for field in proto.field}
        for number, field_name in names.items():
            field = message.field.add(name=field_name, number=number, label=1, type=9)
            if number in fields:
                field.label, field.type = fields[number].label, fields[number].type
            if field.label == field.LABEL_REQUIRED:
                field.label = field.LABEL_OPTIONAL
            if field.type == field.TYPE_BYTES:
                field.type = field.TYPE_STRING
            if field.type == field.TYPE_ENUM:
                field.type_name = ".criu_cg_mode"
            if field.type == field.TYPE_MESSAGE:
                field.type_name = ".cgroup_root" if number == 25 else ".inherit_fd"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("criu_opts"))


CRIU = criu_opts()
NAMES = st.text("abz é]:", min_size=1, max_size=6).map(lambda name: paths.encode("/" + name))


@given(
    st.builds(
        CriuOptions,
        kind=st.sampled_from(Kind),
        pid=st.integers(1, 99),
        images=NAMES,
        work=st.none() | NAMES,
        root=st.none() | NAMES,
        externals=st.lists(st.builds("mnt[{}]:{}".format, NAMES, NAMES), max_size=3).map(tuple),
        inherit_fds=st.lists(st.tuples(st.integers(3, 9), NAMES), max_size=2).map(tuple),
        manage_cgroups=st.sampled_from(CgroupMode),
        cgroup_roots=st.lists(st.tuples(st.sampled_from(["", "cpu"]), NAMES), max_size=2).map(
            tuple
        ),
        shell_job=st.booleans(),
        mntns_compat=st.booleans(),
        ghost_limit=st.none() | st.integers(0, (1 << 32) - 1),
        skip_mnt=st.lists(NAMES, max_size=2).map(tuple),
        enable_fs=st.lists(st.sampled_from(["ext4", "xfs"]), max_size=2).map(tuple),
    )
)
def test_json_makes_the_request_that_is_sent(options: CriuOptions) -> None:
    """A client that fills CRIU's message from the JSON sends what mountcr sends, byte by byte."""
    message = json_format.Parse(rpc_json(options), CRIU())
    assert message.images_dir == paths.decode(options.images).decode()  # type: ignore[attr-defined]
    message.ClearField("images_dir")
    message.images_dir_fd = 21  # type: ignore[attr-defined]
    sent = to_request(msgspec.structs.replace(options, work=None), 21).options
    assert message.SerializeToString(deterministic=True) == sent.SerializeToString(
        deterministic=True
    )


def test_json_of_a_dump() -> None:
    """The document as people see it."""
    assert json.loads(rpc_json(DUMP)) == {
        "images_dir": "/images",
        "pid": 7,
        "file_locks": True,
        "log_level": 4,
        "log_file": "dump.log",
        "root": "/root",
        "manage_cgroups_mode": "SOFT",
        "external": ["mnt[/etc/hosts]:hosts", "mnt[/my data]:data"],
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"root": KPath(r"/\xff")}, r"/\xff"),
        ({"images": KPath(r"/\xfe")}, r"/\xfe"),
        ({"externals": (r"mnt[/\xfd]:x",)}, r"mnt[/\xfd]:x"),
        ({"extra": ("--tcp-close",)}, "--tcp-close"),
    ],
)
def test_what_json_cannot_hold(changes: dict[str, object], named: str) -> None:
    """Bytes that are not UTF-8, and words without a field, are named."""
    with pytest.raises(CapabilityError) as error:
        rpc_json(msgspec.structs.replace(DUMP, **changes))
    assert refused(error) == f"JSON for CRIU's RPC cannot hold {named}"
