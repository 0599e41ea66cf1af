# SPDX-License-Identifier: Apache-2.0
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NamespaceIds(_message.Message):
    __slots__ = ("vm", "files", "fs", "sighand", "pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time")
    VM_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    FS_FIELD_NUMBER: _ClassVar[int]
    SIGHAND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NET_FIELD_NUMBER: _ClassVar[int]
    IPC_FIELD_NUMBER: _ClassVar[int]
    UTS_FIELD_NUMBER: _ClassVar[int]
    MNT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    CGROUP_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    vm: int
    files: int
    fs: int
    sighand: int
    pid: int
    net: int
    ipc: int
    uts: int
    mnt: int
    user: int
    cgroup: int
    time: int
    def __init__(self, vm: _Optional[int] = ..., files: _Optional[int] = ..., fs: _Optional[int] = ..., sighand: _Optional[int] = ..., pid: _Optional[int] = ..., net: _Optional[int] = ..., ipc: _Optional[int] = ..., uts: _Optional[int] = ..., mnt: _Optional[int] = ..., user: _Optional[int] = ..., cgroup: _Optional[int] = ..., time: _Optional[int] = ...) -> None: ...

class Inventory(_message.Message):
    __slots__ = ("img_version", "fdinfo_per_id", "root_ids", "root_cgroup_set", "dump_uptime")
    IMG_VERSION_FIELD_NUMBER: _ClassVar[int]
    FDINFO_PER_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_IDS_FIELD_NUMBER: _ClassVar[int]
    ROOT_CGROUP_SET_FIELD_NUMBER: _ClassVar[int]
    DUMP_UPTIME_FIELD_NUMBER: _ClassVar[int]
    img_version: int
    fdinfo_per_id: bool
    root_ids: NamespaceIds
    root_cgroup_set: int
    dump_uptime: int
    def __init__(self, img_version: _Optional[int] = ..., fdinfo_per_id: bool = ..., root_ids: _Optional[_Union[NamespaceIds, _Mapping]] = ..., root_cgroup_set: _Optional[int] = ..., dump_uptime: _Optional[int] = ...) -> None: ...

class PstreeEntry(_message.Message):
    __slots__ = ("pid", "ppid", "pgid", "sid", "threads")
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    PGID_FIELD_NUMBER: _ClassVar[int]
    SID_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    ppid: int
    pgid: int
    sid: int
    threads: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pid: _Optional[int] = ..., ppid: _Optional[int] = ..., pgid: _Optional[int] = ..., sid: _Optional[int] = ..., threads: _Optional[_Iterable[int]] = ...) -> None: ...

class MountEntry(_message.Message):
    __slots__ = ("fstype", "mnt_id", "root_dev", "parent_mnt_id", "flags", "root", "mountpoint", "source", "options", "shared_id", "master_id", "with_plugin", "ext_mount", "fsname", "internal_sharing", "deleted", "sb_flags", "ext_key")
    FSTYPE_FIELD_NUMBER: _ClassVar[int]
    MNT_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_DEV_FIELD_NUMBER: _ClassVar[int]
    PARENT_MNT_ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    MOUNTPOINT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SHARED_ID_FIELD_NUMBER: _ClassVar[int]
    MASTER_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_PLUGIN_FIELD_NUMBER: _ClassVar[int]
    EXT_MOUNT_FIELD_NUMBER: _ClassVar[int]
    FSNAME_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_SHARING_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    SB_FLAGS_FIELD_NUMBER: _ClassVar[int]
    EXT_KEY_FIELD_NUMBER: _ClassVar[int]
    fstype: int
    mnt_id: int
    root_dev: int
    parent_mnt_id: int
    flags: int
    root: bytes
    mountpoint: bytes
    source: bytes
    options: bytes
    shared_id: int
    master_id: int
    with_plugin: bool
    ext_mount: bool
    fsname: bytes
    internal_sharing: bool
    deleted: bool
    sb_flags: int
    ext_key: bytes
    def __init__(self, fstype: _Optional[int] = ..., mnt_id: _Optional[int] = ..., root_dev: _Optional[int] = ..., parent_mnt_id: _Optional[int] = ..., flags: _Optional[int] = ..., root: _Optional[bytes] = ..., mountpoint: _Optional[bytes] = ..., source: _Optional[bytes] = ..., options: _Optional[bytes] = ..., shared_id: _Optional[int] = ..., master_id: _Optional[int] = ..., with_plugin: bool = ..., ext_mount: bool = ..., fsname: _Optional[bytes] = ..., internal_sharing: bool = ..., deleted: bool = ..., sb_flags: _Optional[int] = ..., ext_key: _Optional[bytes] = ...) -> None: ...

class RegularFile(_message.Message):
    __slots__ = ("id", "flags", "pos", "name", "mnt_id", "size", "ext", "mode", "build_id", "checksum", "checksum_config", "checksum_parameter")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    POS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MNT_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    EXT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_CONFIG_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_PARAMETER_FIELD_NUMBER: _ClassVar[int]
    id: int
    flags: int
    pos: int
    name: bytes
    mnt_id: int
    size: int
    ext: bool
    mode: int
    build_id: _containers.RepeatedScalarFieldContainer[int]
    checksum: int
    checksum_config: int
    checksum_parameter: int
    def __init__(self, id: _Optional[int] = ..., flags: _Optional[int] = ..., pos: _Optional[int] = ..., name: _Optional[bytes] = ..., mnt_id: _Optional[int] = ..., size: _Optional[int] = ..., ext: bool = ..., mode: _Optional[int] = ..., build_id: _Optional[_Iterable[int]] = ..., checksum: _Optional[int] = ..., checksum_config: _Optional[int] = ..., checksum_parameter: _Optional[int] = ...) -> None: ...

class Pipe(_message.Message):
    __slots__ = ("id", "pipe_id", "flags")
    ID_FIELD_NUMBER: _ClassVar[int]
    PIPE_ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    id: int
    pipe_id: int
    flags: int
    def __init__(self, id: _Optional[int] = ..., pipe_id: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class FileEntry(_message.Message):
    __slots__ = ("type", "id", "reg", "pipe")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REG_FIELD_NUMBER: _ClassVar[int]
    PIPE_FIELD_NUMBER: _ClassVar[int]
    type: int
    id: int
    reg: RegularFile
    pipe: Pipe
    def __init__(self, type: _Optional[int] = ..., id: _Optional[int] = ..., reg: _Optional[_Union[RegularFile, _Mapping]] = ..., pipe: _Optional[_Union[Pipe, _Mapping]] = ...) -> None: ...

class TaskCore(_message.Message):
    __slots__ = ("command", "cgroup_set")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    CGROUP_SET_FIELD_NUMBER: _ClassVar[int]
    command: bytes
    cgroup_set: int
    def __init__(self, command: _Optional[bytes] = ..., cgroup_set: _Optional[int] = ...) -> None: ...

class ThreadCore(_message.Message):
    __slots__ = ("cgroup_set",)
    CGROUP_SET_FIELD_NUMBER: _ClassVar[int]
    cgroup_set: int
    def __init__(self, cgroup_set: _Optional[int] = ...) -> None: ...

class FileLock(_message.Message):
    __slots__ = ("flag", "type", "pid", "fd")
    FLAG_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    flag: int
    type: int
    pid: int
    fd: int
    def __init__(self, flag: _Optional[int] = ..., type: _Optional[int] = ..., pid: _Optional[int] = ..., fd: _Optional[int] = ...) -> None: ...

class CoreEntry(_message.Message):
    __slots__ = ("task", "thread")
    TASK_FIELD_NUMBER: _ClassVar[int]
    THREAD_FIELD_NUMBER: _ClassVar[int]
    task: TaskCore
    thread: ThreadCore
    def __init__(self, task: _Optional[_Union[TaskCore, _Mapping]] = ..., thread: _Optional[_Union[ThreadCore, _Mapping]] = ...) -> None: ...

class DescriptorEntry(_message.Message):
    __slots__ = ("id", "flags", "type", "fd", "selinux")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    SELINUX_FIELD_NUMBER: _ClassVar[int]
    id: int
    flags: int
    type: int
    fd: int
    selinux: bytes
    def __init__(self, id: _Optional[int] = ..., flags: _Optional[int] = ..., type: _Optional[int] = ..., fd: _Optional[int] = ..., selinux: _Optional[bytes] = ...) -> None: ...

class FsEntry(_message.Message):
    __slots__ = ("cwd_id", "root_id", "umask")
    CWD_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    cwd_id: int
    root_id: int
    umask: int
    def __init__(self, cwd_id: _Optional[int] = ..., root_id: _Optional[int] = ..., umask: _Optional[int] = ...) -> None: ...

class VmaEntry(_message.Message):
    __slots__ = ("start", "end", "pgoff", "shmid", "prot", "flags", "status")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PGOFF_FIELD_NUMBER: _ClassVar[int]
    SHMID_FIELD_NUMBER: _ClassVar[int]
    PROT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    pgoff: int
    shmid: int
    prot: int
    flags: int
    status: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., pgoff: _Optional[int] = ..., shmid: _Optional[int] = ..., prot: _Optional[int] = ..., flags: _Optional[int] = ..., status: _Optional[int] = ...) -> None: ...

class MmEntry(_message.Message):
    __slots__ = ("exe_file_id", "vmas")
    EXE_FILE_ID_FIELD_NUMBER: _ClassVar[int]
    VMAS_FIELD_NUMBER: _ClassVar[int]
    exe_file_id: int
    vmas: _containers.RepeatedCompositeFieldContainer[VmaEntry]
    def __init__(self, exe_file_id: _Optional[int] = ..., vmas: _Optional[_Iterable[_Union[VmaEntry, _Mapping]]] = ...) -> None: ...

class RemapEntry(_message.Message):
    __slots__ = ("orig_id", "remap_id", "remap_type")
    ORIG_ID_FIELD_NUMBER: _ClassVar[int]
    REMAP_ID_FIELD_NUMBER: _ClassVar[int]
    REMAP_TYPE_FIELD_NUMBER: _ClassVar[int]
    orig_id: int
    remap_id: int
    remap_type: int
    def __init__(self, orig_id: _Optional[int] = ..., remap_id: _Optional[int] = ..., remap_type: _Optional[int] = ...) -> None: ...

class GhostFile(_message.Message):
    __slots__ = ("uid", "gid", "mode", "dev", "ino", "rdev", "chunks", "size")
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    DEV_FIELD_NUMBER: _ClassVar[int]
    INO_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    uid: int
    gid: int
    mode: int
    dev: int
    ino: int
    rdev: int
    chunks: bool
    size: int
    def __init__(self, uid: _Optional[int] = ..., gid: _Optional[int] = ..., mode: _Optional[int] = ..., dev: _Optional[int] = ..., ino: _Optional[int] = ..., rdev: _Optional[int] = ..., chunks: bool = ..., size: _Optional[int] = ...) -> None: ...

class GhostChunk(_message.Message):
    __slots__ = ("length", "offset")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    length: int
    offset: int
    def __init__(self, length: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class CgroupPermissions(_message.Message):
    __slots__ = ("mode", "uid", "gid")
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    mode: int
    uid: int
    gid: int
    def __init__(self, mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class CgroupProperty(_message.Message):
    __slots__ = ("name", "value", "permissions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    value: bytes
    permissions: CgroupPermissions
    def __init__(self, name: _Optional[bytes] = ..., value: _Optional[bytes] = ..., permissions: _Optional[_Union[CgroupPermissions, _Mapping]] = ...) -> None: ...

class CgroupDirectory(_message.Message):
    __slots__ = ("name", "children", "properties", "permissions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    children: _containers.RepeatedCompositeFieldContainer[CgroupDirectory]
    properties: _containers.RepeatedCompositeFieldContainer[CgroupProperty]
    permissions: CgroupPermissions
    def __init__(self, name: _Optional[bytes] = ..., children: _Optional[_Iterable[_Union[CgroupDirectory, _Mapping]]] = ..., properties: _Optional[_Iterable[_Union[CgroupProperty, _Mapping]]] = ..., permissions: _Optional[_Union[CgroupPermissions, _Mapping]] = ...) -> None: ...

class CgroupController(_message.Message):
    __slots__ = ("names", "directories", "threaded")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    THREADED_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[bytes]
    directories: _containers.RepeatedCompositeFieldContainer[CgroupDirectory]
    threaded: bool
    def __init__(self, names: _Optional[_Iterable[bytes]] = ..., directories: _Optional[_Iterable[_Union[CgroupDirectory, _Mapping]]] = ..., threaded: bool = ...) -> None: ...

class CgroupMember(_message.Message):
    __slots__ = ("name", "path", "namespace_prefix")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    path: bytes
    namespace_prefix: int
    def __init__(self, name: _Optional[bytes] = ..., path: _Optional[bytes] = ..., namespace_prefix: _Optional[int] = ...) -> None: ...

class CgroupSet(_message.Message):
    __slots__ = ("id", "members")
    ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    id: int
    members: _containers.RepeatedCompositeFieldContainer[CgroupMember]
    def __init__(self, id: _Optional[int] = ..., members: _Optional[_Iterable[_Union[CgroupMember, _Mapping]]] = ...) -> None: ...

class CgroupEntry(_message.Message):
    __slots__ = ("sets", "controllers")
    SETS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLERS_FIELD_NUMBER: _ClassVar[int]
    sets: _containers.RepeatedCompositeFieldContainer[CgroupSet]
    controllers: _containers.RepeatedCompositeFieldContainer[CgroupController]
    def __init__(self, sets: _Optional[_Iterable[_Union[CgroupSet, _Mapping]]] = ..., controllers: _Optional[_Iterable[_Union[CgroupController, _Mapping]]] = ...) -> None: ...

class DumpStatistics(_message.Message):
    __slots__ = ("freezing_time", "frozen_time")
    FREEZING_TIME_FIELD_NUMBER: _ClassVar[int]
    FROZEN_TIME_FIELD_NUMBER: _ClassVar[int]
    freezing_time: int
    frozen_time: int
    def __init__(self, freezing_time: _Optional[int] = ..., frozen_time: _Optional[int] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("dump",)
    DUMP_FIELD_NUMBER: _ClassVar[int]
    dump: DumpStatistics
    def __init__(self, dump: _Optional[_Union[DumpStatistics, _Mapping]] = ...) -> None: ...

class ProcessorX86(_message.Message):
    __slots__ = ("vendor", "family", "model", "stepping", "capability_version", "capabilities", "name")
    VENDOR_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STEPPING_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    vendor: int
    family: int
    model: int
    stepping: int
    capability_version: int
    capabilities: _containers.RepeatedScalarFieldContainer[int]
    name: bytes
    def __init__(self, vendor: _Optional[int] = ..., family: _Optional[int] = ..., model: _Optional[int] = ..., stepping: _Optional[int] = ..., capability_version: _Optional[int] = ..., capabilities: _Optional[_Iterable[int]] = ..., name: _Optional[bytes] = ...) -> None: ...

class ProcessorEntry(_message.Message):
    __slots__ = ("x86",)
    X86_FIELD_NUMBER: _ClassVar[int]
    x86: _containers.RepeatedCompositeFieldContainer[ProcessorX86]
    def __init__(self, x86: _Optional[_Iterable[_Union[ProcessorX86, _Mapping]]] = ...) -> None: ...
