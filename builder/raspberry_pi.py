"""The boot partitions of the Raspberry Pi: what its firmware reads (Raspberry Pi documentation, "config.txt").

The first partition says which of two slots is started (autoboot.txt). A slot has all of its own: the firmware's second
half (Pi 4; the Pi 5 has it in its EEPROM), config.txt, device trees, kernel, initramfs and command line.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.packages import PackageLayer
from builder.profile import Content, Profile
from builder.sandbox import Sandbox

KERNEL = "vmlinuz"
"""The kernel's name in a slot."""

INITRAMFS = "initrd"
"""The initramfs' name in a slot."""

COMMAND_LINE = "cmdline.txt"
"""The file with the kernel's command line; the firmware's default name."""

_LONGEST_AUTOBOOT = 512
"""Octets; the firmware reads no more of autoboot.txt."""

_AUTOBOOT = """\
# Which partition the Raspberry Pi starts from: the slot in use, and the one that an update tries once.
[all]
tryboot_a_b=1
boot_partition={slot}
[tryboot]
boot_partition={other}
"""

_CONFIG = f"""\
# Read by the Raspberry Pi's firmware before the kernel starts; an update replaces this file.
arm_64bit=1
# Device trees by their names at kernel.org.
upstream_kernel=1
kernel={KERNEL}
initramfs {INITRAMFS} followkernel
# A serial console on pins 8 and 10 (Pi 4).
enable_uart=1
"""


def fill_first(tree: Path, tools: Sandbox, profile: Profile, packages: PackageLayer, command_line: str) -> None:
    """Fill an empty folder with the files of the first partition."""
    del tools, packages, command_line
    numbers = {partition.content: number for number, partition in profile.numbered()}
    text = autoboot(numbers[Content.BOOT], numbers[Content.SPARE])
    (tree / "autoboot.txt").write_text(text)


def fill_slot(tree: Path, tools: Sandbox, profile: Profile, packages: PackageLayer, command_line: str) -> None:
    """Fill an empty folder with the files of a slot."""
    del tools, profile
    for path in sorted(packages.boot_files.iterdir()):
        shutil.copy(path, tree)
    shutil.copy(packages.kernel, tree / KERNEL)
    shutil.copy(packages.initrd, tree / INITRAMFS)
    (tree / "config.txt").write_text(config())
    # The firmware takes the first line only.
    (tree / COMMAND_LINE).write_text(f"{command_line}\n")


def config() -> str:
    """Write config.txt, which is the same for all boards and both slots."""
    return _CONFIG


def autoboot(slot: int, other: int) -> str:
    """Write autoboot.txt.

    Args:
        slot: number of the partition that is started.
        other: number of the one that `reboot "0 tryboot"` starts, once.
    """
    text = _AUTOBOOT.format(slot=slot, other=other)
    assert len(text) <= _LONGEST_AUTOBOOT
    return text
