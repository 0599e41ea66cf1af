# SPDX-License-Identifier: Apache-2.0
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMPTY: _ClassVar[RequestType]
    DUMP: _ClassVar[RequestType]
    RESTORE: _ClassVar[RequestType]
    CHECK: _ClassVar[RequestType]
    PRE_DUMP: _ClassVar[RequestType]
    PAGE_SERVER: _ClassVar[RequestType]
    NOTIFY: _ClassVar[RequestType]
    CPUINFO_DUMP: _ClassVar[RequestType]
    CPUINFO_CHECK: _ClassVar[RequestType]
    FEATURE_CHECK: _ClassVar[RequestType]
    VERSION: _ClassVar[RequestType]

class CgroupMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CG_IGNORE: _ClassVar[CgroupMode]
    CG_NONE: _ClassVar[CgroupMode]
    CG_PROPS: _ClassVar[CgroupMode]
    CG_SOFT: _ClassVar[CgroupMode]
    CG_FULL: _ClassVar[CgroupMode]
    CG_STRICT: _ClassVar[CgroupMode]
    CG_DEFAULT: _ClassVar[CgroupMode]
EMPTY: RequestType
DUMP: RequestType
RESTORE: RequestType
CHECK: RequestType
PRE_DUMP: RequestType
PAGE_SERVER: RequestType
NOTIFY: RequestType
CPUINFO_DUMP: RequestType
CPUINFO_CHECK: RequestType
FEATURE_CHECK: RequestType
VERSION: RequestType
CG_IGNORE: CgroupMode
CG_NONE: CgroupMode
CG_PROPS: CgroupMode
CG_SOFT: CgroupMode
CG_FULL: CgroupMode
CG_STRICT: CgroupMode
CG_DEFAULT: CgroupMode

class CgroupRoot(_message.Message):
    __slots__ = ("controllers", "path")
    CONTROLLERS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    controllers: bytes
    path: bytes
    def __init__(self, controllers: _Optional[bytes] = ..., path: _Optional[bytes] = ...) -> None: ...

class InheritFd(_message.Message):
    __slots__ = ("key", "fd")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    fd: int
    def __init__(self, key: _Optional[bytes] = ..., fd: _Optional[int] = ...) -> None: ...

class Options(_message.Message):
    __slots__ = ("images_dir_fd", "pid", "leave_running", "ext_unix_sk", "tcp_established", "evasive_devices", "shell_job", "file_locks", "log_level", "log_file", "notify_scripts", "root", "work_dir_fd", "link_remap", "cgroup_roots", "inherit_fds", "skip_mnt", "enable_fs", "manage_cgroups_mode", "ghost_limit", "external", "orphan_pts_master", "config_file", "tcp_close", "mntns_compat_mode")
    IMAGES_DIR_FD_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LEAVE_RUNNING_FIELD_NUMBER: _ClassVar[int]
    EXT_UNIX_SK_FIELD_NUMBER: _ClassVar[int]
    TCP_ESTABLISHED_FIELD_NUMBER: _ClassVar[int]
    EVASIVE_DEVICES_FIELD_NUMBER: _ClassVar[int]
    SHELL_JOB_FIELD_NUMBER: _ClassVar[int]
    FILE_LOCKS_FIELD_NUMBER: _ClassVar[int]
    LOG_LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOG_FILE_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_SCRIPTS_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    WORK_DIR_FD_FIELD_NUMBER: _ClassVar[int]
    LINK_REMAP_FIELD_NUMBER: _ClassVar[int]
    CGROUP_ROOTS_FIELD_NUMBER: _ClassVar[int]
    INHERIT_FDS_FIELD_NUMBER: _ClassVar[int]
    SKIP_MNT_FIELD_NUMBER: _ClassVar[int]
    ENABLE_FS_FIELD_NUMBER: _ClassVar[int]
    MANAGE_CGROUPS_MODE_FIELD_NUMBER: _ClassVar[int]
    GHOST_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    ORPHAN_PTS_MASTER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FILE_FIELD_NUMBER: _ClassVar[int]
    TCP_CLOSE_FIELD_NUMBER: _ClassVar[int]
    MNTNS_COMPAT_MODE_FIELD_NUMBER: _ClassVar[int]
    images_dir_fd: int
    pid: int
    leave_running: bool
    ext_unix_sk: bool
    tcp_established: bool
    evasive_devices: bool
    shell_job: bool
    file_locks: bool
    log_level: int
    log_file: bytes
    notify_scripts: bool
    root: bytes
    work_dir_fd: int
    link_remap: bool
    cgroup_roots: _containers.RepeatedCompositeFieldContainer[CgroupRoot]
    inherit_fds: _containers.RepeatedCompositeFieldContainer[InheritFd]
    skip_mnt: _containers.RepeatedScalarFieldContainer[bytes]
    enable_fs: _containers.RepeatedScalarFieldContainer[bytes]
    manage_cgroups_mode: CgroupMode
    ghost_limit: int
    external: _containers.RepeatedScalarFieldContainer[bytes]
    orphan_pts_master: bool
    config_file: bytes
    tcp_close: bool
    mntns_compat_mode: bool
    def __init__(self, images_dir_fd: _Optional[int] = ..., pid: _Optional[int] = ..., leave_running: bool = ..., ext_unix_sk: bool = ..., tcp_established: bool = ..., evasive_devices: bool = ..., shell_job: bool = ..., file_locks: bool = ..., log_level: _Optional[int] = ..., log_file: _Optional[bytes] = ..., notify_scripts: bool = ..., root: _Optional[bytes] = ..., work_dir_fd: _Optional[int] = ..., link_remap: bool = ..., cgroup_roots: _Optional[_Iterable[_Union[CgroupRoot, _Mapping]]] = ..., inherit_fds: _Optional[_Iterable[_Union[InheritFd, _Mapping]]] = ..., skip_mnt: _Optional[_Iterable[bytes]] = ..., enable_fs: _Optional[_Iterable[bytes]] = ..., manage_cgroups_mode: _Optional[_Union[CgroupMode, str]] = ..., ghost_limit: _Optional[int] = ..., external: _Optional[_Iterable[bytes]] = ..., orphan_pts_master: bool = ..., config_file: _Optional[bytes] = ..., tcp_close: bool = ..., mntns_compat_mode: bool = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("type", "options", "notify_success")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    type: RequestType
    options: Options
    notify_success: bool
    def __init__(self, type: _Optional[_Union[RequestType, str]] = ..., options: _Optional[_Union[Options, _Mapping]] = ..., notify_success: bool = ...) -> None: ...

class RestoreResult(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("script", "pid")
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    script: bytes
    pid: int
    def __init__(self, script: _Optional[bytes] = ..., pid: _Optional[int] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("major_number", "minor_number", "sublevel")
    MAJOR_NUMBER_FIELD_NUMBER: _ClassVar[int]
    MINOR_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SUBLEVEL_FIELD_NUMBER: _ClassVar[int]
    major_number: int
    minor_number: int
    sublevel: int
    def __init__(self, major_number: _Optional[int] = ..., minor_number: _Optional[int] = ..., sublevel: _Optional[int] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("type", "success", "restore", "notify", "cr_errno", "cr_errmsg", "version")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_FIELD_NUMBER: _ClassVar[int]
    CR_ERRNO_FIELD_NUMBER: _ClassVar[int]
    CR_ERRMSG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    type: RequestType
    success: bool
    restore: RestoreResult
    notify: Stage
    cr_errno: int
    cr_errmsg: bytes
    version: Version
    def __init__(self, type: _Optional[_Union[RequestType, str]] = ..., success: bool = ..., restore: _Optional[_Union[RestoreResult, _Mapping]] = ..., notify: _Optional[_Union[Stage, _Mapping]] = ..., cr_errno: _Optional[int] = ..., cr_errmsg: _Optional[bytes] = ..., version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...
