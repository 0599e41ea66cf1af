# SPDX-License-Identifier: Apache-2.0
"""The processor, as CRIU and as /proc/cpuinfo tell of it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcr.criu import imagefile
from mountcr.criu import images_pb2 as pb
from mountcr.criu.cpuinfo import INSTRUCTIONS, parse_cpuinfo
from mountcr.errors import ImageError
from mountcr.hosts.records import CpuReport
from mountcr.observation.cpu import read_cpuinfo

# cpuinfo.img that CRIU 4.1.1 wrote on an AMD EPYC, `criu cpuinfo dump`
RECORDED = base64.b64decode("""
    GUNWVBNAQGFiAAAACmAIAhAZGBEgASgCMP/3r7wBMP/3z/4CMAAwgIDEEDCD5Oj/DzAAMPOHgAIwADAAMKuP/I0P
    MA8wxr+BAjAAMIWAiIAFMAQwADAAMAAwEDoIQU1EIEVQWUNA5QFIgBNQgBM=
""")

CPUINFO = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Processor
stepping	: 8
flags		: fpu tsc sse2 avx2 hypervisor xsave

processor	: 1
flags		: fpu
"""

ARM = """\
processor	: 0
Features	: fp asimd evtstrm aes
CPU implementer	: 0x41
"""


def test_what_criu_wrote() -> None:
    """Vendor, numbers and the features that CRIU compares."""
    report = parse_cpuinfo(RECORDED, "cpuinfo.img")
    assert (report.told_by, report.vendor, report.name) == ("criu", "AuthenticAMD", "AMD EPYC")
    assert (report.family, report.model, report.stepping) == (25, 17, 1)
    assert {"avx512f", "avx2", "sha_ni", "xsaves"} <= set(report.features) <= INSTRUCTIONS
    assert not {"mpx", "rtm", "xop"} & set(report.features)


def test_what_proc_says() -> None:
    """Of the first processor, only features that CRIU compares."""
    report = read_cpuinfo(CPUINFO)
    assert report == CpuReport(
        told_by="cpuinfo",
        vendor="GenuineIntel",
        family=6,
        model=143,
        stepping=8,
        name="Intel(R) Xeon(R) Processor",
        features=("avx2", "fpu", "sse2", "tsc", "xsave"),
    )


def test_another_architecture() -> None:
    """All that it names is a feature; an image of it says nothing."""
    assert read_cpuinfo(ARM).features == ("aes", "asimd", "evtstrm", "fp")
    image = imagefile.Image(imagefile.CPUINFO, [imagefile.Entry(pb.ProcessorEntry())])
    assert parse_cpuinfo(image.to_bytes(), "x").told_by == ""


@pytest.mark.parametrize("cut", [0, 4, 11, 60])
def test_an_image_that_was_cut(cut: int) -> None:
    """It is named."""
    with pytest.raises(ImageError, match=r"cpuinfo\.img"):
        parse_cpuinfo(RECORDED[:cut], "cpuinfo.img")


@given(st.lists(st.integers(0, 2**32 - 1), max_size=22))
def test_every_set_of_words(words: list[int]) -> None:
    """One bit more is one feature more, or none that CRIU compares."""

    def features(given_: list[int]) -> set[str]:
        entry = pb.ProcessorX86(
            vendor=1, family=6, model=1, stepping=1, capability_version=2, capabilities=given_
        )
        image = imagefile.Image(
            imagefile.CPUINFO, [imagefile.Entry(pb.ProcessorEntry(x86=[entry]))]
        )
        return set(parse_cpuinfo(image.to_bytes(), "x").features)

    assert features([word & 0xFFFF for word in words]) <= features(words) <= INSTRUCTIONS
