"""The cipher for the data disk, chosen by what real processors say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstboot.cipher import ADIANTUM, AES_XTS, Cipher, choose_cipher

_ARM = """\
processor	: {number}
BogoMIPS	: 108.00
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
# As these boards print them under 64-bit kernels: Cortex-A53 (Pi 3) and A72 (Pi 4) of Broadcom come without the
# cryptographic extension, the A76 of the Pi 5 with it.
_PI3 = ("0xd03", "fp asimd evtstrm crc32 cpuid")
_PI4 = ("0xd08", "fp asimd evtstrm crc32 cpuid")
_PI5 = (
    "0xd0b",
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
)
# Intel N100, up to what follows `hwp`, and Core 2 Duo E8400, from before AES-NI.
_N100 = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush dts acpi mmx fxsr sse sse2 "
    "ss ht tm pbe syscall nx pdpe1gb rdtscp lm constant_tsc art arch_perfmon pebs bts rep_good nopl xtopology "
    "nonstop_tsc cpuid aperfmperf tsc_known_freq pni pclmulqdq dtes64 monitor ds_cpl vmx est tm2 ssse3 sdbg fma "
    "cx16 xtpr pdcm sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c rdrand lahf_lm abm "
    "3dnowprefetch cpuid_fault epb cat_l2 cdp_l2 ssbd ibrs ibpb stibp ibrs_enhanced tpr_shadow flexpriority ept "
    "vpid ept_ad fsgsbase tsc_adjust bmi1 avx2 smep bmi2 erms invpcid rdt_a rdseed adx smap clflushopt clwb "
    "intel_pt sha_ni xsaveopt xsavec xgetbv1 xsaves split_lock_detect user_shstk avx_vnni dtherm ida arat pln "
    "pts hwp"
)
_E8400 = (
    "fpu vme de pse tsc msr pae mce cx8 apic mtrr pge mca cmov pat pse36 clflush dts acpi mmx fxsr sse sse2 ss "
    "ht tm pbe lm constant_tsc arch_perfmon pebs bts aperfmperf pni dtes64 monitor ds_cpl vmx smx est tm2 ssse3 "
    "cx16 xtpr pdcm sse4_1 xsave lahf_lm tpr_shadow vnmi flexpriority"
)


def _arm(*cores: tuple[str, str]) -> str:
    return "".join(_ARM.format(number=n, part=part, features=found) for n, (part, found) in enumerate(cores))


def _x86(*cores: str) -> str:
    return "".join(_X86.format(number=n, features=found) for n, found in enumerate(cores))


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        pytest.param(_arm(*[_PI3] * 4), ADIANTUM, id="Raspberry Pi 3"),
        pytest.param(_arm(*[_PI4] * 4), ADIANTUM, id="Raspberry Pi 4"),
        pytest.param(_arm(*[_PI5] * 4), AES_XTS, id="Raspberry Pi 5"),
        pytest.param(_x86(*[_N100] * 4), AES_XTS, id="Intel N100"),
        pytest.param(_x86(*[_E8400] * 2), ADIANTUM, id="Core 2 Duo"),
        pytest.param(_arm(_PI5, _PI4), ADIANTUM, id="cores of two kinds"),
        pytest.param("", ADIANTUM, id="empty"),
        pytest.param("processor\t: 0\nmodel name\t: aes\n", ADIANTUM, id="without features"),
        pytest.param("Features\t:\n", ADIANTUM, id="no feature"),
        pytest.param("flags\t\t: vaes aesni\n", ADIANTUM, id="other words with aes in them"),
        pytest.param("bugs\t\t: aes\nvmx flags\t: aes\nflags\t\t: fpu\n", ADIANTUM, id="other lines"),
    ],
)
def test_cipher(cpuinfo: str, expected: Cipher) -> None:
    assert choose_cipher(cpuinfo) == expected


def test_this_computer_is_judged() -> None:
    assert choose_cipher(Path("/proc/cpuinfo").read_text(encoding="utf-8")) in (AES_XTS, ADIANTUM)
