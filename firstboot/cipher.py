"""Which cipher the data disk is encrypted with: AES where the processor has instructions for it, else Adiantum.

Without such instructions AES is slow and hard to keep free of leaks through timing; Adiantum was made for such
processors (Linux' Documentation/filesystems/fscrypt.rst, "Encryption modes"; Crowley and Biggers, Adiantum, 2018).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PROCESSOR = re.compile(r"^processor[ \t]*:", re.MULTILINE)
"""Begins what is said of one processor (arch/x86/kernel/cpu/proc.c, arch/arm64/kernel/cpuinfo.c)."""
_FEATURES = re.compile(r"^(?:flags|Features)[ \t]*:(.*)$", re.MULTILINE)
"""The kernel's names of a processor's features: `flags` on x86, `Features` on Arm (the same sources)."""

_AES = "aes"
"""AES-NI on x86 (arch/x86/include/asm/cpufeatures.h), FEAT_AES on Arm (Documentation/arch/arm64/elf_hwcaps.rst)."""


@dataclass(frozen=True)
class Cipher:
    """A cipher in the words of cryptsetup-luksFormat(8).

    Args:
        specification: for `--cipher`: CIPHER-MODE-IV as dm-crypt takes it (Documentation/admin-guide/device-mapper/
            dm-crypt.rst); Adiantum's is in cryptsetup's release notes 2.0.6.
        key_bits: for `--key-size`. XTS halves it into two keys of AES-256 (cryptsetup-luksFormat(8)); Adiantum derives
            all others from one of 256 bits (the paper; the release notes).
        sector_bytes: for `--sector-size`; larger ones are faster on most disks (cryptsetup-luksFormat(8)). But Adiantum
            scrambles a sector as a whole: of one that a power cut has torn between two of the disk's, nothing is left,
            and btrfs writes its superblock in place (`firstboot/superblock.py`). With 512 bytes, which a disk writes or
            does not, each part of it is the old or the new one. XTS works on 16 bytes at a time, so that this holds for
            any size.
    """

    specification: str
    key_bits: int
    sector_bytes: int


AES_XTS = Cipher("aes-xts-plain64", 512, 4096)
ADIANTUM = Cipher("xchacha12,aes-adiantum-plain64", 256, 512)


def choose_cipher(cpuinfo: str) -> Cipher:
    """Choose by the text of /proc/cpuinfo.

    Every processor must have AES: the kernel encrypts on whichever is free. What cannot be read has none: Adiantum is
    right everywhere, only not the fastest.

    Args:
        cpuinfo: as far as it could be read; anything at all, the empty text too.
    """
    features = [match.split() for match in _FEATURES.findall(cpuinfo)]
    # A processor whose features are missing would go unseen among the others.
    complete = len(features) == len(_PROCESSOR.findall(cpuinfo)) > 0
    return AES_XTS if complete and all(_AES in found for found in features) else ADIANTUM
