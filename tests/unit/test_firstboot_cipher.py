"""The cipher for the data disk, chosen by what real processors say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstboot.cipher import ADIANTUM, AES_XTS, Cipher, choose_cipher

_ARM = """\
processor	: {number}
{name}BogoMIPS	: 108.00
Features	: {features}
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: {part}
CPU revision	: 3

"""
_X86 = """\
processor	: {number}
vendor_id	: GenuineIntel
flags		: {features}
vmx flags	: vnmi preemption_timer
bugs		: spectre_v1 spectre_v2
address sizes	: 39 bits physical, 48 bits virtual

"""
_END_OF_ARM = """\
Hardware	: BCM2835
Revision	: a02082
Model		: Raspberry Pi 3 Model B Rev 1.2
"""
# Each list was printed by a real computer. Beside it stands where its owner showed it: an issue of a project on GitHub.
_PI3 = ("0xd03", "fp asimd evtstrm crc32 cpuid")  # Pi 3 Model B 1.2: hrw/arm-socs-table 6; 3B+ 1.3: the same, 29
_PI4 = ("0xd08", "fp asimd evtstrm crc32 cpuid")  # Pi 4 Model B 1.5: fastfetch-cli/fastfetch 1529
# Pi 4 Model B 1.2 with a 32-bit kernel: hrw/arm-socs-table 31
_PI4_32 = ("0xd08", "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32 ")
_PI5 = (  # Pi 5 Model B 1.0: hrw/arm-socs-table 96
    "0xd0b",
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
)
# The core of the Pi 3 in another chip, which has the instructions (Allwinner H5): openmediavault/openmediavault 25
_H5 = ("0xd03", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid")
_E5620 = (  # Xeon of 2010, one of the first with AES-NI: huku-/research 1
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush dts acpi mmx fxsr sse sse2 ss ht "
    "tm pbe syscall nx pdpe1gb rdtscp lm constant_tsc arch_perfmon pebs bts rep_good nopl xtopology nonstop_tsc "
    "aperfmperf pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cx16 xtpr pdcm pcid dca sse4_1 sse4_2 popcnt "
    "aes lahf_lm arat dtherm tpr_shadow vnmi flexpriority ept vpid"
)
_I7_2670QM = (  # with a 32-bit kernel: dthuerck/mapmap_cpu 20
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush dts acpi mmx fxsr sse sse2 ss ht "
    "tm pbe nx rdtscp lm constant_tsc arch_perfmon pebs bts xtopology nonstop_tsc aperfmperf pni pclmulqdq dtes64 "
    "monitor ds_cpl vmx est tm2 ssse3 cx16 xtpr pdcm sse4_1 sse4_2 x2apic popcnt tsc_deadline_timer aes xsave avx "
    "lahf_lm epb ssbd ibrs ibpb stibp tpr_shadow vnmi flexpriority ept vpid xsaveopt dtherm ida arat pln pts md_clear "
    "flush_l1d"
)
_I7_2600 = (  # of 2011, and shows no AES: autotest/virt-test 418
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush dts acpi mmx fxsr sse sse2 ss ht "
    "tm pbe syscall nx rdtscp lm constant_tsc arch_perfmon pebs bts nopl xtopology nonstop_tsc aperfmperf eagerfpu pni "
    "pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cx16 xtpr pdcm pcid sse4_1 sse4_2 x2apic popcnt "
    "tsc_deadline_timer xsave avx lahf_lm ida arat epb xsaveopt pln pts dtherm tpr_shadow vnmi flexpriority ept vpid"
)


def _arm(*cores: tuple[str, str], name: str = "") -> str:
    texts = (_ARM.format(number=n, name=name, part=part, features=has) for n, (part, has) in enumerate(cores))
    return "".join(texts) + _END_OF_ARM


def _x86(*cores: str) -> str:
    return "".join(_X86.format(number=n, features=found) for n, found in enumerate(cores))


_BOTH_ARM, _BOTH_X86 = _arm(*[_PI5] * 2), _x86(*[_E5620] * 2)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        pytest.param(_arm(*[_PI3] * 4), ADIANTUM, id="Raspberry Pi 3"),
        pytest.param(_arm(*[_PI4] * 4), ADIANTUM, id="Raspberry Pi 4"),
        pytest.param(
            _arm(*[_PI4_32] * 4, name="model name\t: ARMv7 Processor rev 3 (v7l)\n"),
            ADIANTUM,
            id="Raspberry Pi 4, 32 bits",
        ),
        pytest.param(_arm(*[_PI5] * 4), AES_XTS, id="Raspberry Pi 5"),
        pytest.param(_arm(*[_H5] * 4), AES_XTS, id="Allwinner H5"),
        pytest.param(_x86(*[_E5620] * 8), AES_XTS, id="Xeon E5620"),
        pytest.param(_x86(*[_I7_2670QM] * 8), AES_XTS, id="Core i7-2670QM, 32 bits"),
        pytest.param(_x86(*[_I7_2600] * 8), ADIANTUM, id="Core i7-2600"),
        pytest.param(_BOTH_ARM.replace("\n", "\r\n"), AES_XTS, id="other line ends"),
        pytest.param(_arm(_PI5, _PI4), ADIANTUM, id="the last core has none"),
        pytest.param(_arm(_PI4, _PI5), ADIANTUM, id="the first core has none"),
        pytest.param(_BOTH_ARM[: _BOTH_ARM.rindex("Features")], ADIANTUM, id="ends before the last core's"),
        pytest.param(_BOTH_ARM.replace("Features", "Merkmale", 1), ADIANTUM, id="a core with none of that name"),
        pytest.param(_BOTH_X86[: _BOTH_X86.rindex(" aes")], ADIANTUM, id="ends within the last core's"),
        pytest.param(_BOTH_ARM.replace("processor", "Processor"), ADIANTUM, id="no processor"),
        pytest.param("", ADIANTUM, id="empty"),
        pytest.param("\0\udcff: aes\n", ADIANTUM, id="junk"),
        pytest.param("processor\t: 0\nmodel name\t: aes\n", ADIANTUM, id="without features"),
        pytest.param("processor\t: 0\nFeatures\t:\n", ADIANTUM, id="no feature"),
        pytest.param("processor\t: 0\nFeatures\n: aes\n", ADIANTUM, id="torn line"),
        pytest.param("processor\t: 0\nflags\t\t: vaes aesni\n", ADIANTUM, id="other words with aes in them"),
        pytest.param("processor\t: 0\nbugs\t\t: aes\nvmx flags\t: aes\nflags\t\t: fpu\n", ADIANTUM, id="other lines"),
    ],
)
def test_cipher(cpuinfo: str, expected: Cipher) -> None:
    assert choose_cipher(cpuinfo) == expected


def test_this_computer_is_judged() -> None:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert choose_cipher(text) == (AES_XTS if " aes " in text else ADIANTUM)
