# SPDX-License-Identifier: Apache-2.0
"""What is tried on a host, by its name: what it is for, and the note that explains it."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["CRIU_FEATURES", "FEATURES", "PROGRAMS", "Feature"]


class Feature(msgspec.Struct, frozen=True):
    """
    A feature: the hint where it is missing, the id of its note in `kernel-notes/`, if any.

    `needed` is what nothing works without.
    """

    hint: str = ""
    note: str = ""
    needed: bool = False

    @property
    def path(self) -> str:
        """The path of the note in the repository, empty where there is none."""
        return f"kernel-notes/{self.note}.md" if self.note else ""


FEATURES: Final[dict[str, Feature]] = {
    "move_mount": Feature("Linux 5.2; mounts are made at their place without it"),
    "open_tree": Feature("Linux 5.2; without it no FUSE union is mounted"),
    "mount_setattr": Feature(
        "Linux 5.12; attributes are set by remounting without it", "flags-of-a-remount"
    ),
    "openat2": Feature(
        "Linux 5.6; without it CRIU restores mounts with its older engine", "groups-by-move-mount"
    ),
    "statmount": Feature(
        "Linux 6.8; mounts are read back from mountinfo without it", "mount-id-given-out-again"
    ),
    "listmount": Feature("Linux 6.8", "namespace-without-process"),
    "statmount options": Feature("Linux 6.11"),
    "statmount source": Feature("Linux 6.13; no whole mount table is made of statmount without it"),
    "listmount of another namespace": Feature(
        "Linux 6.11; what is mounted in others is read from their mountinfo without it",
        "wrong-root-of-another-namespace",
    ),
    "move_mount set group": Feature(
        "Linux 5.15; without it CRIU restores mounts with its older engine", "groups-by-move-mount"
    ),
    "aufs": Feature("AUFS is in no kernel of kernel.org: --driver overlay", "aufs-branch-path"),
    "fsopen overlay": Feature(
        "Linux 5.2; overlays are mounted by mount(2) without it", "overlay-option-length"
    ),
    "overlay": Feature("load the module overlay, or use --driver vfs", needed=True),
    "overlay layers by descriptor": Feature(
        "Linux 6.15; layers are given by name without it", "descriptor-of-a-layer"
    ),
    "overlay lowerdir+": Feature(
        "Linux 6.7; without it the names of all layers share 4095 bytes", "overlay-option-length"
    ),
    "overlay datadir+": Feature("Linux 6.7", "overlay-option-length"),
    "overlay data-only layers": Feature("Linux 6.5", "data-only-layer"),
    "overlay index": Feature("Linux 4.13", "hard-links-in-the-index"),
    "overlay nfs_export": Feature("Linux 4.16", "handles-of-overlay"),
    "overlay redirect_dir": Feature("Linux 4.10", "redirected-directory"),
    "overlay metacopy": Feature("Linux 4.19", "metadata-only-copy"),
    "overlay xino": Feature("Linux 4.17", "defaults-of-overlay-options"),
    "overlay volatile": Feature("Linux 5.10", "volatile-marker"),
    "overlay userxattr": Feature("Linux 5.11", "attributes-of-user-overlays"),
    "overlay uuid": Feature("Linux 6.6", "options-of-later-kernels"),
    "overlay verity": Feature("Linux 6.6", "options-of-later-kernels"),
    "fuse": Feature(
        "load the module fuse; without it no FUSE union is mounted", "connection-of-a-fuse-server"
    ),
    "map_files": Feature(
        "CONFIG_CHECKPOINT_RESTORE; without it CRIU sees no mapped file", "links-in-map-files"
    ),
    "pidfd_open": Feature("Linux 5.3; without it no FUSE server is watched"),
    "time namespaces": Feature("Linux 5.6, CONFIG_TIME_NS", "time-namespace"),
    "user namespaces": Feature("CONFIG_USER_NS"),
    "cgroup namespaces": Feature("Linux 4.6"),
}
"""
Features of the kernel. The release in a hint is the one of kernel.org that brought it.

The order is that of `mountcr doctor`.
"""

CRIU_FEATURES: Final[dict[str, Feature]] = {
    "move_mount_set_group": Feature(note="groups-by-move-mount"),
    "openat2": Feature(note="groups-by-move-mount"),
    "get_rseq_conf": Feature(
        "tasks of glibc 2.35 and newer cannot be dumped without it", "rseq-configuration"
    ),
    "overlayfs_maps": Feature("Linux 6.8; CRIU run without root needs it", "mapping-inode"),
    "timens": Feature(
        "containers with a time namespace cannot be dumped without it", "time-namespace"
    ),
    "userns": Feature("containers with a user namespace cannot be dumped without it"),
    "cgroupns": Feature("containers with a cgroup namespace cannot be dumped without it"),
    "seccomp_filters": Feature(
        "tasks with a seccomp filter cannot be dumped without it", "seccomp-filters"
    ),
    "aio_remap": Feature("tasks with asynchronous IO cannot be dumped without it", "aio-ring"),
    "clone3_set_tid": Feature("Linux 5.5; CRIU forks until a pid comes without it"),
    "external_net_ns": Feature("a network namespace cannot be given to CRIU without it"),
    "network_lock_nftables": Feature("the network is locked by iptables without it"),
    "mem_dirty_track": Feature("no pre-dumps without it"),
    "pagemap_scan": Feature("Linux 6.7; memory is looked through page by page without it"),
}
"""What CRIU is asked for, `criu check --feature`."""

PROGRAMS: Final[dict[str, Feature]] = {
    "runc": Feature("for containers of runc, --via runtime: tools/provision"),
    "crun": Feature("for containers of crun, --via runtime: tools/provision"),
    "fuse-overlayfs": Feature(
        "for root file systems of fuse-overlayfs: tools/provision", "unlinked-on-fuse-overlayfs"
    ),
    "unionfs": Feature(
        "for root file systems of unionfs-fuse: tools/provision", "marks-of-unionfs-fuse"
    ),
    "busybox": Feature("for mountcr demo: tools/provision"),
}
"""Programs that mountcr starts."""
