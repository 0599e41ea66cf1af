# SPDX-License-Identifier: Apache-2.0
"""Commands on another kernel: status and files come back, and how a guest ends badly is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from subprocess import CompletedProcess

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.requires("root", "qemu", "busybox"),
]

VMRUN = Path(__file__).with_name("vmrun")


def vmrun(*words: object) -> CompletedProcess[str]:
    """Run `vmrun`; the kernel and the root are prepared by the first of these tests."""
    command = [sys.executable, str(VMRUN), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)


def test_status_console_and_files(tmp_path: Path) -> None:
    """The command's own status, what it printed, and what it left, on that very kernel."""
    line = "uname -r; echo content > out/file; exit 7"
    done = vmrun("6.1", "-o", tmp_path / "out", "--", line)
    assert done.returncode == 7, done
    assert "\n6.1.0-" in done.stdout
    assert (tmp_path / "out/file").read_text() == "content\n"


def test_what_is_on_the_disk_stays(tmp_path: Path) -> None:
    """A second guest finds what the first wrote to /scratch, and nothing else of it."""
    disk = tmp_path / "disk"
    assert (
        vmrun("6.1", "--disk", disk, "--", "echo x > /scratch/kept; touch /run/gone").returncode
        == 0
    )
    assert (
        vmrun("6.1", "--disk", disk, "--", "cat /scratch/kept && test ! -e /run/gone").returncode
        == 0
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sleep 1000", "the guest did not end in 20 s"),
        ("echo c > /proc/sysrq-trigger", "the guest panicked: "),
        ("busybox reboot -f", "the guest was off before its command had ended"),
        ("cat /dev/zero | tail", "the guest ran out of memory: "),
    ],
)
def test_a_guest_that_does_not_finish(line: str, said: str) -> None:
    """Status 125, the last lines of the console, and one line that says what happened."""
    done = vmrun("--limit", 20 if "sleep" in line else 120, "--memory", 512, "6.1", "--", line)
    assert done.returncode == 125, done
    assert f"vmrun: {said}" in done.stderr
    assert done.stderr.startswith("  | ")


def test_a_kernel_that_nobody_has() -> None:
    """Status 126, its name, and which there are."""
    done = vmrun("2.4", "--", "true")
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr.startswith("vmrun: no kernel '2.4'\nhint: there are 5.10, ")
