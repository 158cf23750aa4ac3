"""Which cipher the data disk is encrypted with: AES where the processor has instructions for it, else Adiantum.

Without such instructions AES is slow and hard to keep free of leaks through timing; Adiantum was made for such
processors (Linux' Documentation/filesystems/fscrypt.rst, "Encryption modes"; Crowley and Biggers, Adiantum, 2018).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FEATURES = re.compile(r"^(?:flags|Features)[ \t]*:(.*)$", re.MULTILINE)
"""The kernel's names of a processor's features: `flags` on x86, `Features` on Arm (proc_cpuinfo(5))."""

_AES = "aes"
"""AES-NI on x86 (arch/x86/include/asm/cpufeatures.h), FEAT_AES on Arm (Documentation/arch/arm64/elf_hwcaps.rst)."""


@dataclass(frozen=True)
class Cipher:
    """A cipher in cryptsetup(8)'s words.

    Args:
        specification: for `--cipher`.
        key_bits: for `--key-size`.
        sector_bytes: for `--sector-size`. Adiantum works on a whole sector at once, and gains from larger ones.
    """

    specification: str
    key_bits: int
    sector_bytes: int


AES_XTS = Cipher("aes-xts-plain64", 512, 4096)
ADIANTUM = Cipher("xchacha12,aes-adiantum-plain64", 256, 4096)


def choose_cipher(cpuinfo: str) -> Cipher:
    """Choose by the text of /proc/cpuinfo.

    Every processor must have AES: the kernel encrypts on whichever is free. What cannot be read has none: Adiantum is
    right everywhere, only not the fastest.
    """
    features = [set(match.split()) for match in _FEATURES.findall(cpuinfo)]
    return AES_XTS if features and all(_AES in found for found in features) else ADIANTUM
