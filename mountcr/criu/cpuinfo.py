# SPDX-License-Identifier: Apache-2.0
"""
What CRIU says of the processor: the image that `criu cpuinfo dump` writes.

It holds the words of the CPUID instruction, numbered as by Linux. Features are named as
/proc/cpuinfo names them, and only those are that CRIU misses where a processor of another host
lacks them (criu/arch/x86/cpu.c, `x86_ins_capability_mask`).
"""

from __future__ import annotations

from typing import Final

from mountcr.criu import imagefile
from mountcr.hosts.records import CpuReport

__all__ = ["INSTRUCTIONS", "parse_cpuinfo"]

_VENDORS: Final = {1: "GenuineIntel", 2: "AuthenticAMD"}

# compel/arch/x86/src/lib/include/uapi/asm/cpu.h: words are leaves of CPUID, bits are its bits
_WORDS: Final[dict[int, dict[int, str]]] = {
    0: {
        0: "fpu", 4: "tsc", 8: "cx8", 11: "sep", 15: "cmov", 19: "clflush", 23: "mmx",
        24: "fxsr", 25: "sse", 26: "sse2",
    },
    1: {11: "syscall", 22: "mmxext", 27: "rdtscp", 30: "3dnowext", 31: "3dnow"},
    4: {
        0: "pni", 1: "pclmulqdq", 3: "monitor", 9: "ssse3", 13: "cx16", 19: "sse4_1",
        20: "sse4_2", 22: "movbe", 23: "popcnt", 25: "aes", 26: "xsave", 28: "avx", 29: "f16c",
        30: "rdrand",
    },
    6: {
        5: "abm", 6: "sse4a", 7: "misalignsse", 8: "3dnowprefetch", 11: "xop", 16: "fma4",
        21: "tbm",
    },
    9: {
        0: "fsgsbase", 3: "bmi1", 4: "hle", 5: "avx2", 8: "bmi2", 9: "erms", 11: "rtm",
        14: "mpx", 16: "avx512f", 17: "avx512dq", 18: "rdseed", 19: "adx", 23: "clflushopt",
        26: "avx512pf", 27: "avx512er", 28: "avx512cd", 29: "sha_ni", 30: "avx512bw",
        31: "avx512vl",
    },
    10: {0: "xsaveopt", 1: "xsavec", 2: "xgetbv1", 3: "xsaves"},
}  # fmt: skip

INSTRUCTIONS: Final = frozenset(name for word in _WORDS.values() for name in word.values())
"""The features whose absence CRIU notices."""


def parse_cpuinfo(data: bytes, name: str) -> CpuReport:
    """
    Parse the bytes of cpuinfo.img; `name` is for errors. Raises ImageError for a damaged one.

    Empty where it is of another architecture than x86.
    """
    from mountcr.criu import images_pb2 as pb

    for entry in imagefile.parse(data, name).messages(pb.ProcessorEntry):
        for each in entry.x86:
            words = dict(enumerate(each.capabilities))
            features = {
                feature
                for word, bits in _WORDS.items()
                for bit, feature in bits.items()
                if words.get(word, 0) >> bit & 1
            }
            return CpuReport(
                told_by="criu",
                vendor=_VENDORS.get(each.vendor, str(each.vendor)),
                family=each.family,
                model=each.model,
                stepping=each.stepping,
                name=each.name.decode("utf-8", "backslashreplace").strip("\0 "),
                features=tuple(sorted(features)),
            )
    return CpuReport()
