# SPDX-License-Identifier: Apache-2.0
"""
What runs in a container that moves: a counter, and a witness that nothing of it was lost.

The witness is a program of Perl, which Debian always has, with the libraries that it maps. In each
round it asks its child over a pair of sockets, finds what it wrote into a shared mapping, into the
file below that, and into a file that has no name any more, and a private mapping as it was; only
then it writes the number of the round. What is wrong it writes down and ends.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from moves.machine import BrokenError, wait

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["COMMAND", "HOME", "VOLUME", "Running", "install"]

HOME: Final = "moves"
"""The directory of the container in which all of this lies; `state` in it is what changes."""

VOLUME: Final = "/volume"
"""Where a directory of the host is bound, into which is counted too."""

COMMAND: Final = (f"/{HOME}/busybox", "sh", f"/{HOME}/counter")

_COUNTER: Final = f"""\
cd /{HOME}
/{HOME}/lib/ld --library-path /{HOME}/lib /{HOME}/perl /{HOME}/witness &
exec 3>>state/count
exec 4>>{VOLUME}/count
i=0
while :; do
    i=$((i+1))
    echo $i >&3
    echo $i >&4
    /{HOME}/busybox sleep 0.02
done
"""

# The numbers of system calls are those of x86-64: 9 is mmap, 0 is read.
_WITNESS: Final = r"""
sub broken { open(my $f, ">>", "state/broken"); syswrite($f, "$i: @_\n"); exit 1 }
socketpair($near, $far, 1, 1, 0) or broken("socketpair $!");
if (!fork) {
    close $near;
    while (sysread($far, $x, 100)) { syswrite($far, "heard $x") }
    exit;
}
close $far;
pipe($from, $into);
open($mapped, "+>", "state/mapped") or broken("mapped $!");
syswrite($mapped, "\0" x 4096);
$shared = syscall(9, 0, 4096, 3, 1, fileno($mapped), 0);
open($text, "<", "text") or broken("text $!");
sysread($text, $content, 4096);
$private = syscall(9, 0, 4096, 3, 2, fileno($text), 0);
open($nameless, "+>", "state/nameless") or broken("nameless $!");
syswrite($nameless, pack("Q", 0));
unlink "state/nameless" unless $ENV{"KEEPS_NAMES"};
open($log, ">>", "state/answers");
sub at { unpack("P$_[1]", pack("Q", $_[0])) }
sub back { my $x; sysseek($_[0], 0, 0); sysread($_[0], $x, 8); unpack("Q", $x) }
for ($i = 1; ; $i++) {
    syswrite($near, $i);
    sysread($near, $heard, 100);
    $heard eq "heard $i" or broken("the socket says $heard");
    unpack("Q", at($shared, 8)) == $i - 1 or broken("the shared mapping has another number");
    syswrite($into, pack("Q", $i));
    syscall(0, fileno($from), $shared + 0, 8) == 8 or broken("cannot write there: $!");
    back($mapped) == $i or broken("the mapped file has another number");
    at($private, length $content) eq $content or broken("the private mapping changed");
    back($nameless) == $i - 1 or broken("the nameless file has another number");
    sysseek($nameless, 0, 0);
    syswrite($nameless, pack("Q", $i));
    syswrite($log, "$i\n");
    select(undef, undef, undef, 0.02);
}
"""

_LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x")


def install(directory: Path) -> None:
    """Put the programs into a layer. Raises BrokenError where this machine has them not."""
    busybox, perl = shutil.which("busybox"), shutil.which("perl", path="/usr/bin:/bin")
    if not busybox or not perl or platform.machine() != "x86_64":
        raise BrokenError("a witness needs busybox and perl, on x86-64")
    home = directory / HOME
    for each in (home, home / "lib"):
        each.mkdir(mode=0o755)
    for source, name in ((busybox, "busybox"), (perl, "perl")):
        shutil.copy(source, home / name)
    said = subprocess.run(["ldd", perl], capture_output=True, text=True, check=True).stdout
    for path in _LIBRARY.findall(said):
        name = os.path.basename(path)
        shutil.copy(path, home / "lib" / ("ld" if name.startswith("ld-") else name))
    (home / "counter").write_text(_COUNTER)
    (home / "witness").write_text(_WITNESS)
    (home / "text").write_text("mapped, and never written\n" * 20)


class Running:
    """A container that runs, by a path that leads to its root."""

    def __init__(self, root: Path) -> None:
        self._state = root / HOME / "state"
        self._volume = root / VOLUME.removeprefix("/")

    def reached(self) -> int:
        """Give how far it has counted, 0 where it has not yet."""
        return min(_last(self._state / "count"), _last(self._state / "answers"))

    def goes_on(self, since: int = 0) -> int:
        """Claim that everything goes on from a number, without a gap; give how far it is now."""
        now = max(since, self.reached())
        wait(lambda: self.reached() > now + 2 or self._broken(), f"more than {now}")
        if self._broken():
            raise BrokenError(f"the witness: {(self._state / 'broken').read_text()}")
        for log in (self._state / "count", self._state / "answers", self._volume / "count"):
            lines = log.read_text().split()
            if lines != [str(number + 1) for number in range(len(lines))] or len(lines) < now:
                raise BrokenError(f"{log.name} of {len(lines)} lines has a gap after {now}")
        return self.reached()

    def _broken(self) -> bool:
        return (self._state / "broken").exists()


def _last(log: Path) -> int:
    lines = log.read_text().split() if log.exists() else []
    return int(lines[-1]) if lines else 0
