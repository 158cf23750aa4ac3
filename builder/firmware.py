"""What the Raspberry Pi's firmware does with our boot partitions, as its documentation tells it: which files it reads.

It serves two ends: an emulated machine, which has no such firmware, is started from the very files; and the tests see
that every file is there. Sources: config.txt and autoboot.txt in the Raspberry Pi documentation ("Boot options",
"autoboot.txt"), and the bootloader's release notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

_LONGEST_AUTOBOOT = 512
_DEFAULT_COMMAND_LINE = "cmdline.txt"


class Model(StrEnum):
    """Boards, by the names of their filters in config.txt."""

    PI4 = "pi4"
    PI5 = "pi5"


# With upstream_kernel=1 kernel.org's names come first. Pi 5: boards with the stepping D0 look for their own tree, which
# kernel.org calls bcm2712-d-rpi-5-b and Raspberry Pi bcm2712d0-rpi-5-b.
_DEVICE_TREES = {
    Model.PI4: ("bcm2711-rpi-4-b.dtb", "bcm2711-rpi-400.dtb", "bcm2711-rpi-cm4-io.dtb"),
    Model.PI5: ("bcm2712-rpi-5-b.dtb", "bcm2712-d-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb"),
}
_SECOND_HALF = {Model.PI4: ("start4.elf", "fixup4.dat"), Model.PI5: ()}
"""What the Pi 4 loads from the partition; the Pi 5 has all of it in its EEPROM."""


_KNOWN = frozenset({"arm_64bit", "upstream_kernel", "kernel", "initramfs", "cmdline", "enable_uart", "os_prefix"})
_FILTERS = frozenset({"all", "none", *Model})


class FirmwareError(Exception):
    """The firmware would not start this; the text says why."""


@dataclass(frozen=True)
class Slot:
    """What a slot's config.txt names.

    Args:
        kernel: file name of the kernel.
        initramfs: file name of the initramfs.
        command_line: file name of the kernel's command line.
    """

    kernel: str
    initramfs: str
    command_line: str = _DEFAULT_COMMAND_LINE


def boot_partition(autoboot: str, *, tryboot: bool = False) -> int:
    """Give the number of the partition that autoboot.txt leads to.

    Args:
        tryboot: whether the machine was restarted by `reboot "0 tryboot"`.

    Raises:
        FirmwareError: the file leads nowhere.
    """
    if len(autoboot.encode()) > _LONGEST_AUTOBOOT:
        raise FirmwareError(f"autoboot.txt is longer than {_LONGEST_AUTOBOOT} octets")
    settings = _settings(autoboot, {"all"} | ({"tryboot"} if tryboot else set()))
    number = settings.get("boot_partition", "")
    if not number.isdecimal():
        raise FirmwareError(f"autoboot.txt has the boot_partition {number!r}; expected a number")
    if tryboot and settings.get("tryboot_a_b") != "1":
        raise FirmwareError("without tryboot_a_b=1 the firmware would read tryboot.txt, which is not there")
    return int(number)


def read_slot(config: str, model: Model) -> Slot:
    """Read what config.txt names.

    Raises:
        FirmwareError: with these settings the firmware would start something else, or nothing.
    """
    _check_known(config)
    settings = _settings(config, {"all", model.value})
    wanted = {"arm_64bit": "1", "upstream_kernel": "1"}
    for key, value in wanted.items():
        if settings.get(key) != value:
            raise FirmwareError(f"config.txt has {key}={settings.get(key)}; expected {value}")
    if "os_prefix" in settings:
        raise FirmwareError("config.txt has an os_prefix, which would lead to other files")
    name, _, address = settings.get("initramfs", "").partition(" ")
    if address != "followkernel":
        raise FirmwareError("config.txt has no line `initramfs NAME followkernel`")
    return Slot(settings.get("kernel", ""), name, settings.get("cmdline", _DEFAULT_COMMAND_LINE))


def needed_files(config: str, model: Model) -> tuple[str, ...]:
    """List the files that a board of a model reads from a slot, in the order in which its firmware does.

    Raises:
        FirmwareError: see `read_slot`.
    """
    slot = read_slot(config, model)
    trees = _DEVICE_TREES[model]
    return (*_SECOND_HALF[model], "config.txt", *trees, slot.kernel, slot.initramfs, slot.command_line)


def check_kernel(head: bytes) -> None:
    """Look at a kernel's first octets (Documentation/arch/arm64/booting.rst, "Call the kernel image").

    Raises:
        FirmwareError: it is no bare or gzipped arm64 kernel.
    """
    if head[:2] != b"\x1f\x8b" and head[56:60] != b"ARMd":
        raise FirmwareError("the kernel is neither a bare arm64 image nor gzip")


def check_slot(files: Mapping[str, bytes], model: Model) -> None:
    """See that a board of a model would start from a slot.

    Args:
        files: the slot's files by name.

    Raises:
        FirmwareError: something is missing, or wrong.
    """
    if "config.txt" not in files:
        raise FirmwareError("there is no config.txt: no board takes this partition for one to start from")
    config = files["config.txt"].decode()
    for name in needed_files(config, model):
        if not files.get(name):
            raise FirmwareError(f"{name or 'a kernel'} is missing, or empty")
    slot = read_slot(config, model)
    check_kernel(files[slot.kernel])
    lines = files[slot.command_line].decode().splitlines()
    if len(lines) != 1:
        raise FirmwareError(f"{slot.command_line} has {len(lines)} lines; the firmware takes the first only")


def _settings(text: str, filters: set[str]) -> dict[str, str]:
    """Read `key=value` lines of the sections that apply; a later line wins. Only `initramfs` has no equals sign."""
    settings: dict[str, str] = {}
    for line in _lines(text, filters):
        bare = line.startswith("initramfs ")
        key, separator, value = line.partition(" " if bare else "=")
        if separator and bare == (key.strip() == "initramfs"):
            settings[key.strip()] = value.strip()
    return settings


def _check_known(config: str) -> None:
    """Refuse what could lead a board to files that nobody here looks for, such as `device_tree=` or `[cm4]`."""
    for raw in config.splitlines():
        line = raw.partition("#")[0].strip()
        key = line.replace("=", " ").partition(" ")[0]
        if line.startswith("[") and line.strip("[]") not in _FILTERS:
            raise FirmwareError(f"config.txt has the filter {line}; which files that leads to is not known here")
        if key and not line.startswith("[") and key not in _KNOWN:
            raise FirmwareError(f"config.txt has {key}; which files that leads to is not known here")


def _lines(text: str, filters: set[str]) -> Iterator[str]:
    applies = True
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            applies = line[1:-1] in filters
        elif line and applies:
            yield line
